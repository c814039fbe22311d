"""Forwarding at a beat and past gaps, step by step. Whole streams are in test_retries.py, the beat is in test_core_playout.py."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcsplitter._core import RecvBuffer
from tcsplitter.options import Playout
from tcsplitter.playout import ATTEMPT_SECONDS, Forwarding

SIZE = 10
NOW = 100.0
BEAT = 0.25  # exact in binary, as are its multiples


class Rig:
    """A receiver whose program takes at once what is forwarded."""

    def __init__(self, attempts: int, beat: float = 0.0, size: int = SIZE) -> None:
        self.incoming = RecvBuffer()
        self.forwarding = Forwarding(Playout(beat=beat), size, attempts, NOW)
        self.now = NOW
        self.passed = 0
        self.forwarded: list[tuple[float, int]] = []
        """When, and up to which offset."""

    def take(self, offset: int, length: int, fin: bool = False) -> None:
        self.incoming.insert(offset, bytes(length), fin)
        self.forwarding.arrived(offset, length)
        self.run()

    def run(self) -> None:
        while True:
            self.passed += self.forwarding.run(self.incoming, self.now)
            ready = self.forwarding.ready
            if not ready:
                break
            self.incoming.consume(ready)
            self.forwarding.ready -= ready
            self.forwarded.append((self.now - NOW, self.incoming.read_offset))

    def wait(self, seconds: float) -> None:
        """Wake up as often as it asks for."""
        until = self.now + seconds
        while (at := self.forwarding.deadline()) <= until:
            self.now = max(at, self.now)
            self.run()
        self.now = until


@pytest.mark.parametrize("attempts", [-1, 0, 3, 1_000])
def test_what_comes_in_order_is_forwarded_at_once(attempts: int) -> None:
    rig = Rig(attempts)
    for number in range(3):
        rig.take(number * SIZE, SIZE)
    assert rig.forwarded == [(0, SIZE), (0, 2 * SIZE), (0, 3 * SIZE)]
    assert rig.forwarding.deadline() == inf


@pytest.mark.parametrize(
    ("attempts", "beat", "after"),
    [(0, 0.0, 0.0), (3, 0.0, 3 * ATTEMPT_SECONDS), (0, BEAT, BEAT), (3, BEAT, 4 * BEAT)],
)
def test_a_gap_is_passed_when_the_last_attempt_was_in_vain(attempts: int, beat: float, after: float) -> None:
    rig = Rig(attempts, beat)
    rig.take(0, SIZE)
    rig.wait(1.125 * BEAT)
    began = rig.now - NOW
    rig.take(2 * SIZE, SIZE)
    rig.wait(10)
    at, offset = rig.forwarded[-1]
    assert offset == 3 * SIZE
    assert at == pytest.approx(began + after - (0.125 * BEAT if beat else 0.0))
    assert rig.passed == 1
    assert rig.forwarding.deadline() == inf


@pytest.mark.parametrize(
    ("attempts", "silent", "beats"),
    [(0, 0, 0), (0, 5, 0), (1, 0, 1), (1, 5, 1), (3, 0, 3), (3, 1, 2), (3, 2, 1), (3, 3, 1), (3, 500, 1)],
)
def test_beats_that_found_nothing_before_anyone_knew_why_count_as_attempts(attempts: int, silent: int, beats: int) -> None:
    """All but one, so that a payload after a pause is waited for."""
    rig = Rig(attempts, BEAT)
    rig.take(0, SIZE)
    rig.wait((1 + silent + 0.5) * BEAT)
    rig.take(2 * SIZE, SIZE)
    rig.wait(10 * BEAT)
    first, second = rig.forwarded
    assert first == (BEAT, SIZE)
    assert second == ((1 + silent + 1 + beats) * BEAT, 3 * SIZE)
    assert rig.passed == 1


def test_without_leave_nothing_is_passed() -> None:
    rig = Rig(-1)
    rig.take(SIZE, SIZE, fin=True)
    rig.wait(1_000)
    assert (rig.forwarded, rig.passed) == ([], 0)


def test_nothing_is_missing_while_nothing_is_behind_it() -> None:
    rig = Rig(0)
    rig.take(0, SIZE)
    rig.wait(1_000)
    assert rig.passed == 0


def test_what_comes_in_time_is_not_passed() -> None:
    rig = Rig(3)
    rig.take(SIZE, SIZE)
    rig.wait(2.9 * ATTEMPT_SECONDS)
    rig.take(0, SIZE)
    rig.wait(1)
    assert rig.passed == 0
    assert rig.incoming.read_offset == 2 * SIZE


@pytest.mark.parametrize("beat", [0.0, BEAT])
def test_what_comes_too_late_is_ignored(beat: float) -> None:
    rig = Rig(1, beat)
    rig.take(SIZE, SIZE)
    rig.wait(5)
    assert rig.incoming.read_offset == 2 * SIZE
    rig.take(0, SIZE)
    rig.take(2 * SIZE, SIZE)
    rig.wait(5)
    assert rig.incoming.read_offset == 3 * SIZE
    assert [offset for _, offset in rig.forwarded] == [2 * SIZE, 3 * SIZE]
    assert rig.incoming.held == 0


@pytest.mark.parametrize("beat", [0.0, BEAT])
@pytest.mark.parametrize("fin", [False, True])
def test_a_gap_ends_where_the_stream_is_known_to_go(fin: bool, beat: float) -> None:
    """Though no data is behind it: the other end said so, and has given up what was there."""
    rig = Rig(2, beat)
    rig.take(0, SIZE)
    rig.take(20_000 * SIZE, 0, fin)
    rig.wait(10)
    assert rig.incoming.read_offset == 20_000 * SIZE
    assert rig.incoming.at_end is fin
    assert rig.incoming.held == 0
    assert rig.passed == 19_999
    if not fin:
        rig.take(20_000 * SIZE, SIZE)
        rig.wait(1)
        assert rig.incoming.read_offset == 20_001 * SIZE


def test_payloads_are_counted_by_the_largest_that_came_or_as_large_as_this_end_sends() -> None:
    rig = Rig(0, size=3 * SIZE)
    rig.take(7 * SIZE, 0)
    rig.run()
    assert rig.passed == 3
    rig.take(7 * SIZE, SIZE)
    rig.take(9 * SIZE + 1, SIZE)
    rig.run()
    assert rig.passed == 3 + 2


def test_leave_may_be_given_later() -> None:
    rig = Rig(-1)
    rig.take(SIZE, SIZE)
    rig.wait(1)
    rig.forwarding.attempts = 2
    rig.run()
    rig.wait(2 * ATTEMPT_SECONDS)
    assert rig.passed == 1


def test_what_stood_behind_the_gap_keeps_its_beats_though_the_wake_came_late() -> None:
    rig = Rig(0, BEAT)
    rig.take(0, SIZE)
    rig.wait(1.5 * BEAT)
    for number in (2, 3, 4):
        rig.take(number * SIZE, SIZE)
    rig.now += 1.5 * BEAT  # a beat at which it should have gone on, and the next
    rig.run()
    assert rig.forwarded[-1] == (3 * BEAT, 4 * SIZE)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=60), st.sampled_from([0.0, BEAT]), st.integers(0, 3))
def test_every_byte_is_forwarded_passed_or_missing_at_the_end(plan: list[tuple[int, int]], beat: float, attempts: int) -> None:
    """Payloads come in any order, some again, some never; a model says only what must not happen."""
    rig = Rig(attempts, beat)
    came: set[int] = set()
    for number, wait in plan:
        fresh = number * SIZE >= rig.incoming.read_offset
        rig.take(number * SIZE, SIZE)
        if fresh:
            came.add(number)
        rig.wait(wait * 0.05)
    rig.wait(100)
    assert rig.incoming.read_offset == max(came, default=-1) * SIZE + SIZE
    assert rig.incoming.held == rig.incoming.pieces == rig.forwarding.ready == 0
    assert rig.passed == rig.incoming.read_offset // SIZE - len(came)
    assert rig.forwarding.deadline() == inf
    offsets = [offset for _, offset in rig.forwarded]
    assert offsets == sorted(set(offsets))
