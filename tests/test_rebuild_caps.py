"""What is kept for parity, for how long, and every cap on that, at the cap and one beyond it."""

from __future__ import annotations

from math import inf

import pytest
from stripes import LATER, NOW, Rig, sealed

from tcsplitter import rebuild
from tcsplitter.rebuild import (
    KEEP_SECONDS,
    MAX_DONE,
    MAX_KEPT,
    MAX_KEPT_BYTES,
    MAX_REBUILT,
    MAX_STRIPE_BYTES,
    MAX_STRIPES,
    QUIET_BYTES,
    SWEEP_SECONDS,
)

# --- time


def test_what_is_kept_is_let_go_in_time() -> None:
    rig = Rig()
    assert rig.rebuilder.deadline() == inf
    rig.shot(0)
    assert rig.rebuilder.deadline() == NOW + KEEP_SECONDS + SWEEP_SECONDS
    rig.wait(1.0)
    rig.parity([5, 6], 0, 1)
    rig.wait(KEEP_SECONDS - 1.0 - 1e-3)
    assert rig.rebuilder._kept_bytes == len(sealed(0))
    rig.wait(1e-3)
    assert (rig.rebuilder._kept_bytes, rig.waiting) == (0, 1)
    assert rig.rebuilder.deadline() == NOW + 1.0 + KEEP_SECONDS
    rig.wait(1.0)
    assert (rig.rebuilder.held, rig.waiting, rig.counters.stripes_lost) == (0, 0, 1)
    rig.shot(5)
    assert rig.parity([5, 6], 0, 1) == [], "it was given up"


def test_shots_of_a_stripe_stay_as_long_as_it_waits() -> None:
    rig = Rig()
    rig.shot(0)
    rig.wait(KEEP_SECONDS - 1.0)
    rig.parity(range(3), 0, 2)
    rig.wait(2.0)
    assert rig.rebuilder._kept_bytes == 0
    assert rig.parity(range(3), 1, 2) == [1, 2]


def test_more_parity_does_not_make_a_stripe_wait_longer() -> None:
    rig = Rig()
    for index in range(2):
        rig.parity(range(4), index, 3)
        rig.wait(KEEP_SECONDS / 2)
    assert rig.waiting == 0


def test_where_there_is_no_room_all_is_let_go() -> None:
    rig = Rig()
    rig.parity([5, 6], 0, 1)
    rig.shot(0)
    rig.rebuilder.forget()
    rig.check()
    assert (rig.rebuilder.held, rig.waiting, rig.rebuilder.deadline()) == (0, 0, inf)
    rig.shot(7)
    assert rig.parity([7, 8], 0, 1) == [8]


# --- caps, at each and one beyond it


def test_shots_that_are_kept() -> None:
    rig = Rig()
    record = sealed(0)
    for number in range(MAX_KEPT):
        rig.rebuilder.arrived(number, record, NOW)
    assert rig.rebuilder.held == MAX_KEPT * len(record)
    rig.rebuilder.arrived(MAX_KEPT, record, NOW)
    assert rig.rebuilder.held == MAX_KEPT * len(record)
    assert next(iter(rig.rebuilder._kept)) == 1
    rig.check()


@pytest.mark.parametrize(("parity_comes", "most"), [(True, MAX_KEPT_BYTES), (False, QUIET_BYTES)])
def test_bytes_that_are_kept(parity_comes: bool, most: int) -> None:
    rig = Rig()
    rig.shot(10)
    rig.parity([10], 0, 1)
    rig.now += 0 if parity_comes else KEEP_SECONDS
    half = bytes(most // 2)
    for number in (0, 1):
        rig.rebuilder.arrived(number, half, rig.now)
    assert rig.rebuilder.held == most
    rig.rebuilder.arrived(2, b"x", rig.now)
    assert list(rig.rebuilder._kept) == [1, 2]
    rig.check()


def test_shots_of_stripes_that_are_over_are_kept_no_longer() -> None:
    rig = Rig()
    for number in range(6):
        rig.shot(number)
    rig.parity([0, 1, 2], 0, 1)
    assert list(rig.rebuilder._kept) == [3, 4, 5]
    rig.parity([4, 5, 6], 0, 1)
    assert 6 in rig.taken
    assert list(rig.rebuilder._kept) == [3]
    rig.check()


def test_stripes_that_wait() -> None:
    rig = Rig()
    for number in range(MAX_STRIPES):
        rig.parity([2 * number, 2 * number + 1], 0, 2, bytes(10))
    assert (rig.waiting, rig.counters.stripes_lost) == (MAX_STRIPES, 0)
    rig.parity([LATER - 2, LATER - 1], 0, 2, bytes(10))
    assert (rig.waiting, rig.counters.stripes_lost) == (MAX_STRIPES, 1)
    assert next(iter(rig.rebuilder._stripes)) == 2, "the oldest was given up"
    rig.check()


def test_bytes_of_stripes_that_wait() -> None:
    rig = Rig()
    half = bytes(MAX_STRIPE_BYTES // 2)
    rig.parity([0, 1], 0, 2, half)
    rig.parity([2, 3], 0, 2, half)
    assert (rig.waiting, rig.rebuilder.held) == (2, MAX_STRIPE_BYTES)
    rig.parity([4, 5], 0, 2, b"x")
    assert (rig.waiting, rig.rebuilder.held, rig.counters.stripes_lost) == (2, MAX_STRIPE_BYTES // 2 + 1, 1)
    rig.parity([8, 9], 0, 2, bytes(MAX_STRIPE_BYTES + 1))
    assert (rig.waiting, rig.rebuilder.held, rig.counters.stripes_lost) == (0, 0, 4)
    rig.check()


def test_bytes_of_a_stripe_that_waits_while_its_shots_come(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 60 + sum(len(sealed(number)) for number in range(4))
    monkeypatch.setattr(rebuild, "MAX_STRIPE_BYTES", most)
    rig = Rig()
    rig.parity(range(20), 0, 1, bytes(60))
    for number in range(4):
        assert rig.shot(number) == []
    assert (rig.waiting, rig.rebuilder._stripe_bytes) == (1, most)
    assert rig.shot(4) == []
    assert (rig.waiting, rig.rebuilder._stripe_bytes, rig.counters.stripes_lost) == (0, 0, 1)
    rig.check()


def test_stripes_that_are_over_and_remembered() -> None:
    rig = Rig()
    for number in range(MAX_DONE + 1):
        rig.taken[number] = b""
        if number == MAX_DONE:
            assert (len(rig.rebuilder._done), 0 in rig.rebuilder._done) == (MAX_DONE, True)
        rig.parity([number], 0, 1, bytes(10))
    assert (len(rig.rebuilder._done), 0 in rig.rebuilder._done, 1 in rig.rebuilder._done) == (MAX_DONE, False, True)


def test_rebuilt_shots_that_are_remembered() -> None:
    rig = Rig()
    for number in range(MAX_REBUILT):
        rig.rebuilder.took_in(number)
    assert (len(rig.rebuilder.rebuilt), 0 in rig.rebuilder.rebuilt) == (MAX_REBUILT, True)
    rig.rebuilder.took_in(MAX_REBUILT)
    assert (len(rig.rebuilder.rebuilt), 0 in rig.rebuilder.rebuilt, 1 in rig.rebuilder.rebuilt) == (MAX_REBUILT, False, True)
    assert rig.counters.shots_rebuilt == MAX_REBUILT + 1
