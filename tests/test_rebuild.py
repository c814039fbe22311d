"""Shots that are rebuilt from parity: which, when, and that no parity does harm. What is kept at most: test_rebuild_caps.py."""

from __future__ import annotations

import random
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shots import AEAD, header, seal_hello
from stripes import LATER, NOW, Rig, parity_of, sealed

from tcsplitter._core import HELLO, REPLAY_WINDOW
from tcsplitter.rebuild import KEEP_SECONDS

# --- whatever comes, in whatever order

stripes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4)), min_size=1, max_size=5)


@settings(max_examples=3 * settings().max_examples)
@given(shapes=stripes, order=st.randoms(use_true_random=False), loss=st.sampled_from([0.1, 0.3, 0.6]))
def test_any_so_many_of_a_stripe_are_enough(shapes: list[tuple[int, int]], order: random.Random, loss: float) -> None:
    rig = Rig()
    events: list[tuple[int, list[int], int, int]] = []  # number, and for parity: what it covers, index, count
    missing: dict[int, int] = {}
    number = 0
    for data, parity in shapes:
        numbers = list(range(number, number + data))
        number += data
        lost = {each for each in numbers if order.random() < loss}
        events += [(each, [], 0, 0) for each in numbers if each not in lost]
        came = [index for index in range(parity) if order.random() >= loss]
        events += [(number + index, numbers, index, parity) for index in came]
        number += parity
        missing |= {each: len(lost) <= len(came) for each in lost}
    order.shuffle(events)
    for each, numbers, index, count in events:
        rig.now += 0.01
        if count:
            rig.parity(numbers, index, count, number=each)
        else:
            rig.rebuilder.keeping = True
            if each not in rig.taken:  # one that was rebuilt already is not handed on
                rig.shot(each)
        rig.check()
    for each, possible in missing.items():
        assert (each in rig.taken) == bool(possible)
    assert all(record == sealed(each) for each, record in rig.taken.items())
    assert rig.counters.shots_rebuilt == len(rig.rebuilder.rebuilt)
    rig.wait(KEEP_SECONDS)
    rig.check()
    assert (rig.rebuilder.held, rig.waiting, rig.rebuilder.deadline()) == (0, 0, inf)
    assert rig.counters.stripes_lost == len(
        {tuple(covered) for _, covered, _, _ in events if any(not missing.get(each, True) for each in covered)}
    )


@pytest.mark.parametrize(("data", "parity"), [(1, 1), (1, 255), (255, 1), (128, 128), (10, 3)])
def test_the_extremes_of_shapes(data: int, parity: int) -> None:
    rig = Rig()
    lost = min(data, parity)
    for number in range(lost, data):
        assert rig.shot(number) == []
    blocks = parity_of([sealed(number) for number in range(data)], parity)
    for index in range(parity - lost, parity - 1):
        assert rig.parity(range(data), index, parity, blocks[index]) == []
    assert rig.parity(range(data), parity - 1, parity, blocks[-1]) == list(range(lost))
    assert rig.taken == {number: sealed(number) for number in range(data)}


def test_data_and_parity_may_change_in_mid_session() -> None:
    rig = Rig()
    number = 0
    for data, parity in [(3, 1), (1, 2), (5, 3), (2, 2), (3, 1)]:
        numbers = range(number, number + data)
        for each in numbers[1:]:
            rig.shot(each)
        assert rig.parity(numbers, 0, parity) == [number]
        number += data + parity
    assert rig.counters.stripes_lost == 0


def test_numbers_need_not_be_neighbours() -> None:
    rig = Rig()
    for number in (3, 70_000):
        rig.shot(number)
    assert rig.parity([3, 500, 70_000, 70_005], 0, 2) == []
    assert rig.parity([3, 500, 70_000, 70_005], 1, 2) == [500, 70_005]


# --- what comes twice, too late, or is not needed


def test_a_stripe_that_lacks_nothing_asks_for_nothing() -> None:
    rig = Rig()
    for number in range(3):
        rig.shot(number)
    assert rig.parity(range(3), 0, 2) == []
    assert rig.parity(range(3), 1, 2) == []
    assert (rig.waiting, rig.rebuilder._stripe_bytes, rig.counters.stripes_lost) == (0, 0, 0)


def test_a_stripe_whose_shots_come_after_its_parity_is_over() -> None:
    rig = Rig()
    rig.parity(range(3), 0, 1)
    for number in range(2):
        rig.shot(number)
        rig.check()
    assert 2 in rig.taken, "two shots and one block are enough for three"
    assert (rig.waiting, rig.rebuilder._stripe_bytes) == (0, 0)


def test_a_stripe_of_which_the_rest_comes_before_it_is_rebuilt_is_over() -> None:
    rig = Rig()
    block = memoryview(parity_of([sealed(0), sealed(1)], 1)[0])
    rig.rebuilder.parity(LATER, 0, 1, [0, 1], block, NOW)
    for number in (0, 1):
        rig.taken[number] = sealed(number)
        rig.rebuilder.arrived(number, sealed(number), NOW)
    assert rig.rebuilder.take_ready() == []
    rig.check()
    assert rig.waiting == 0


@pytest.mark.parametrize("how", ["forget", "time"])
def test_a_stripe_that_was_let_go_before_it_was_rebuilt_is_lost(how: str) -> None:
    rig = Rig()
    rig.taken[0] = sealed(0)
    rig.rebuilder.arrived(0, sealed(0), NOW)
    rig.rebuilder.parity(LATER, 0, 1, [0, 1], memoryview(parity_of([sealed(0), sealed(1)], 1)[0]), NOW)
    if how == "forget":
        rig.rebuilder.forget()
    else:
        rig.wait(KEEP_SECONDS)
    assert rig.rebuilder.take_ready() == []
    assert (rig.waiting, rig.counters.stripes_lost) == (0, 1)


def test_repeated_parity_counts_once() -> None:
    rig = Rig()
    for _ in range(5):
        assert rig.parity(range(3), 0, 3) == []
        rig.check()
    held = rig.rebuilder.held
    assert rig.parity(range(3), 0, 3) == []
    assert rig.rebuilder.held == held
    assert rig.parity(range(3), 1, 3) == []
    assert rig.shot(1) == [0, 2]


def test_parity_of_a_stripe_that_is_over_opens_it_no_more() -> None:
    rig = Rig()
    rig.shot(0)
    assert rig.parity(range(2), 0, 3) == [1]
    for index in (0, 1, 2):
        assert rig.parity(range(2), index, 3) == []
    assert (rig.waiting, rig.counters.shots_rebuilt, rig.counters.stripes_lost) == (0, 1, 0)


def test_what_came_and_was_forgotten_needs_no_rebuilding() -> None:
    rig = Rig()
    rig.taken = {0: sealed(0), 1: sealed(1)}  # they came when nothing was kept
    assert rig.parity(range(4), 0, 3) == []
    assert rig.parity(range(4), 1, 3) == []
    assert rig.shot(3) == []
    assert rig.parity(range(4), 2, 3) == [2]
    assert rig.counters.shots_rebuilt == 1


def test_what_is_too_old_to_be_taken_in_is_not_rebuilt() -> None:
    rig = Rig(lowest=2)
    rig.shot(3)
    assert rig.parity(range(4), 0, 3) == []
    assert rig.parity(range(4), 1, 3) == []
    assert rig.parity(range(4), 2, 3) == [2]


def test_a_shot_may_be_in_parity_though_it_was_not_kept() -> None:
    """Whoever does not expect parity keeps nothing; the first parity that comes changes that."""
    rig = Rig()
    assert not rig.rebuilder.keeping
    rig.parity(range(3), 0, 1)
    assert rig.rebuilder.keeping


# --- parity that contradicts itself, or what came


@pytest.mark.parametrize(
    ("numbers", "count", "block"),
    [
        ([0, 1, 3], 2, bytes(70)),
        ([0, 1], 2, bytes(70)),
        ([0, 1, 2], 3, bytes(70)),
        ([0, 1, 2], 2, bytes(71)),
        ([0, 1, 2], 2, bytes(69)),
        ([0, 1, 2], 2, b""),
    ],
)
@pytest.mark.parametrize("index", [0, 1])
def test_contradictions_give_a_stripe_up(numbers: list[int], count: int, block: bytes, index: int) -> None:
    rig = Rig()
    assert rig.parity(range(3), 0, 2, bytes(70)) == []
    assert rig.parity(numbers, index, count, block) == []
    assert (rig.waiting, rig.rebuilder.held, rig.counters.stripes_lost) == (0, 0, 1)
    rig.check()
    assert rig.parity(range(3), 1, 2, bytes(70)) == []
    assert rig.waiting == 0, "it stays given up"


def test_two_blocks_under_one_index_contradict_each_other() -> None:
    rig = Rig()
    assert rig.parity(range(2), 0, 2, bytes(80)) == []
    assert rig.parity(range(2), 0, 2, bytes(79) + b"x") == []
    assert (rig.waiting, rig.counters.stripes_lost) == (0, 1)


def test_a_poisoned_block_gives_nothing_that_opens() -> None:
    for at in range(60):
        rig = Rig()
        block = bytearray(parity_of([sealed(0), sealed(1)], 1)[0])
        block[at] ^= 0x41
        rig.shot(0)
        rig.parity(range(2), 0, 1, bytes(block))
        assert list(rig.taken) == [0]
        assert rig.counters.shots_rebuilt == 0
        assert rig.waiting == 0
        rig.check()


@pytest.mark.parametrize("length", [0, 2, 3, 30])
def test_a_block_too_short_for_the_shots_that_came(length: int) -> None:
    rig = Rig()
    rig.shot(0)
    assert rig.parity(range(2), 0, 1, bytes(length)) == []
    assert (rig.waiting, rig.counters.stripes_lost, list(rig.taken)) == (0, 1, [0])


impostors = {
    "another number": sealed(7),
    "no shot": b"nothing of the kind",
    "two shots": sealed(1) + sealed(2),
    "nothing": b"",
    "half a shot": sealed(1)[:-1],
    "a hello": seal_hello(AEAD, 0, 1, 0, 0),
    "a shot that says it is longer": header(0, 0, 500, 1) + bytes(400),
    "unknown flags": header(0x80, 0, 30, 1) + bytes(30),
    "the flag of a hello": header(HELLO, 0, 30, 1) + bytes(30),
}


@pytest.mark.parametrize("name", impostors)
def test_what_is_rebuilt_is_the_one_shot_that_was_named(name: str) -> None:
    rig = Rig()
    rig.shot(0)
    (block,) = parity_of([sealed(0), impostors[name]], 1)
    assert rig.parity(range(2), 0, 1, block) == []
    assert (rig.waiting, rig.counters.stripes_lost, list(rig.taken)) == (0, 1, [0])


def test_one_impostor_spoils_its_stripe_and_no_other() -> None:
    rig = Rig()
    blocks = parity_of([sealed(0), sealed(9), sealed(2)], 2)
    rig.shot(2)
    rig.parity(range(3), 0, 2, blocks[0])
    assert rig.parity(range(3), 1, 2, blocks[1]) == []
    rig.shot(5)
    assert rig.parity([5, 6], 0, 1) == [6]


@pytest.mark.parametrize(
    ("numbers", "number", "possible"),
    [
        ([10, 11], 12, True),
        ([10, 11], 11, False),
        ([10, 11], 10, False),
        ([10, 12], 11, False),
        ([10, 2**61], 12, False),
        ([0, REPLAY_WINDOW - 2], REPLAY_WINDOW - 1, True),
        ([0, REPLAY_WINDOW - 1], REPLAY_WINDOW, False),
        ([1, REPLAY_WINDOW - 1], REPLAY_WINDOW, True),
        ([0, 1], 2**62 - 1, False),
    ],
)
def test_numbers_that_parity_may_cover(numbers: list[int], number: int, possible: bool) -> None:
    rig = Rig()
    assert rig.parity(numbers, 0, 1, number=number) == []
    assert rig.waiting == possible
    assert rig.counters.stripes_lost == (not possible)
    rig.check()


@pytest.mark.parametrize("other", [[2, 3], [0, 2], [1, 5], [2], [0, 1, 2, 3, 4]])
def test_a_stripe_that_overlaps_one_that_waits_is_lost(other: list[int]) -> None:
    rig = Rig()
    rig.parity([1, 2, 3], 0, 2)
    assert rig.parity(other, 1, 2) == []
    rig.check()
    overlaps_only = other[0] != 1
    assert rig.counters.stripes_lost == 1
    assert rig.waiting == overlaps_only
    if overlaps_only:
        rig.shot(1)
        assert rig.parity([1, 2, 3], 1, 2) == [2, 3]


def test_a_stripe_may_cover_shots_of_one_that_is_over() -> None:
    rig = Rig()
    rig.shot(0)
    assert rig.parity([0, 1], 0, 1) == [1]
    rig.shot(2)
    assert rig.parity([1, 2, 3], 0, 1) == []
    assert rig.parity([2, 3], 0, 1) == []  # overlaps the one that waits
    assert rig.waiting == 1


blocks = st.binary(max_size=60) | st.sampled_from([parity_of([sealed(0), sealed(1), sealed(2)], 2)[i] for i in (0, 1)])
hostile = st.one_of(
    st.tuples(
        st.just("parity"),
        st.lists(st.integers(0, 12), min_size=1, max_size=5, unique=True).map(sorted),
        st.integers(1, 4),
        st.integers(0, 3),
        blocks,
        st.integers(0, 20),
    ),
    st.tuples(st.just("shot"), st.integers(0, 12)),
    st.tuples(st.just("time"), st.floats(0.0, KEEP_SECONDS)),
    st.tuples(st.just("forget")),
)


@settings(max_examples=4 * settings().max_examples)
@given(st.lists(hostile, max_size=40))
def test_no_parity_whatever_does_harm(plan: list[tuple]) -> None:  # type: ignore[type-arg]
    rig = Rig()
    for step in plan:
        if step[0] == "parity":
            _, numbers, count, index, block, number = step
            rig.parity(numbers, index % count, count, block, number)
        elif step[0] == "shot":
            if step[1] not in rig.taken:
                rig.shot(step[1])
        elif step[0] == "time":
            rig.wait(step[1])
            assert rig.rebuilder.deadline() > rig.now
        else:
            rig.rebuilder.forget()
            assert rig.rebuilder.held == 0
        rig.check()
    rig.wait(KEEP_SECONDS)
    assert (rig.rebuilder.held, rig.waiting, rig.rebuilder.deadline()) == (0, 0, inf)
