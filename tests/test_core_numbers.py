"""Sets of numbers (RangeSet), what is still to be acknowledged (AckLog), and the replay window, against naive models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tcsplitter._core import FRESH, MAX_ACK_RANGES, MAX_JUMP, OLD, REPLAY_WINDOW, SEEN, AckLog, RangeSet, ReplayWindow
from tcsplitter.errors import RemoteProtocolError

if TYPE_CHECKING:
    from tcsplitter._core import Ranges

MAX_HELD_RANGES = 4_096


def ranges_of(numbers: set[int]) -> Ranges:
    """The ranges of a set, the highest first."""
    found: Ranges = []
    for number in sorted(numbers, reverse=True):
        if found and found[-1][0] == number + 1:
            found[-1] = (number, found[-1][1])
        else:
            found.append((number, number))
    return found


def numbers_of(ranges: Ranges) -> set[int]:
    return {number for low, high in ranges for number in range(low, high + 1)}


# --- RangeSet

small = st.integers(-20, 60)
spans = st.tuples(small, st.integers(0, 12)).map(lambda pair: (pair[0], sum(pair)))


@given(st.lists(spans, max_size=30))
def test_a_range_set_is_a_set(added: list[tuple[int, int]]) -> None:
    ours = RangeSet()
    model: set[int] = set()
    for low, high in added:
        ours.add(low, high)
        model.update(range(low, high + 1))
        assert ours.ranges() == ranges_of(model)
        assert len(ours) == len(ranges_of(model))
    assert [number for number in range(-25, 90) if number in ours] == sorted(model)


@pytest.mark.parametrize("first", range(1 << 5))
def test_a_range_set_of_five_numbers_in_every_state(first: int) -> None:
    start = {i for i in range(5) if first >> i & 1}
    for low in range(5):
        for high in range(low, 5):
            ours = RangeSet()
            for number in start:
                ours.add(number, number)
            ours.add(low, high)
            assert ours.ranges() == ranges_of(start | set(range(low, high + 1)))


def test_a_range_set_takes_wide_ranges_and_refuses_empty_ones() -> None:
    ours = RangeSet()
    ours.add(0, 2**62 - 1)
    assert 2**61 in ours
    assert -1 not in ours
    assert ours.ranges() == [(0, 2**62 - 1)]
    with pytest.raises(ValueError, match="no range"):
        ours.add(5, 4)


# --- AckLog


class NaiveAckLog:
    """Each number with how often it was listed."""

    def __init__(self) -> None:
        self.listed: dict[int, int] = {}

    def add(self, number: int) -> None:
        self.listed[number] = 0

    def take(self) -> Ranges:
        ranges = ranges_of(set(self.listed))[:MAX_ACK_RANGES]
        for number in numbers_of(ranges):
            self.listed[number] += 1
            if self.listed[number] == 3:
                del self.listed[number]
        return ranges


@given(st.permutations(range(150)), st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(1, 150))
def test_an_ack_log_lists_every_number_three_times(numbers: list[int], batches: list[int], count: int) -> None:
    ours, model = AckLog(), NaiveAckLog()
    waiting = numbers[:count]
    listings: dict[int, int] = {}
    for batch in batches + [count]:
        for number in waiting[:batch]:
            ours.add(number)
            model.add(number)
        del waiting[:batch]
        received, rebuilt = ours.take()
        assert received == model.take()
        assert rebuilt == []
        assert bool(ours) == bool(model.listed)
        for number in numbers_of(received):
            listings[number] = listings.get(number, 0) + 1
    while ours:
        for number in numbers_of(ours.take()[0]):
            listings[number] = listings.get(number, 0) + 1
    assert listings == dict.fromkeys(numbers[:count], 3)
    assert ours.take() == ([], [])


def test_numbers_in_order_are_one_range() -> None:
    ours = AckLog()
    assert not ours
    taken = []
    for number in range(5):
        ours.add(number)
        taken.append(ours.take()[0])
    assert taken == [[(0, 0)], [(0, 1)], [(0, 2)], [(1, 3)], [(2, 4)]]


def test_what_does_not_fit_stays() -> None:
    ours = AckLog()
    for number in range(0, 2 * (MAX_ACK_RANGES + 1), 2):
        ours.add(number)
    newest = [(2 * i, 2 * i) for i in range(MAX_ACK_RANGES, 0, -1)]
    assert [ours.take()[0] for _ in range(3)] == [newest] * 3
    assert [ours.take()[0] for _ in range(3)] == [[(0, 0)]] * 3
    assert not ours


def test_rebuilt_numbers_are_listed_apart_beside_at_least_one_received() -> None:
    ours = AckLog()
    ours.add(7)
    ours.add_rebuilt(5)
    ours.add_rebuilt(4)
    assert [ours.take() for _ in range(3)] == [([(7, 7)], [(4, 5)])] * 3
    assert not ours
    ours.add_rebuilt(2)
    assert ours
    assert ours.take() == ([(7, 7)], [(2, 2)])


@pytest.mark.parametrize("step", [2, -2])
def test_the_oldest_ranges_are_forgotten_beyond_the_bound(step: int) -> None:
    numbers = range(0, 2 * (MAX_HELD_RANGES + 1), 2)
    ours = AckLog()
    for number in numbers if step > 0 else reversed(numbers):
        ours.add(number)
    listed: set[int] = set()
    while ours:
        listed |= numbers_of(ours.take()[0])
    assert listed == set(numbers[1:])


def test_numbers_that_wait_for_their_second_ack_are_bounded_too() -> None:
    ours = AckLog()
    rounds = MAX_HELD_RANGES // MAX_ACK_RANGES + 2
    for i in range(rounds):
        for j in range(MAX_ACK_RANGES):
            ours.add(2 * (i * MAX_ACK_RANGES + j))
        ours.take()
    listed: set[int] = set()
    while ours:
        listed |= numbers_of(ours.take()[0])
    added = rounds * MAX_ACK_RANGES
    assert listed == {2 * i for i in range(added - MAX_HELD_RANGES, added)}


def test_a_number_below_0_is_refused() -> None:
    ours = AckLog()
    for add in (ours.add, ours.add_rebuilt):
        with pytest.raises(ValueError, match="-1"):
            add(-1)
    assert not ours


# --- ReplayWindow


class NaiveWindow:
    """Every number ever marked."""

    def __init__(self) -> None:
        self.marked: set[int] = set()
        self.highest = -1

    def check(self, number: int) -> int:
        if number <= self.highest - REPLAY_WINDOW:
            return OLD
        return SEEN if number in self.marked else FRESH

    def mark(self, number: int) -> None:
        self.marked.add(number)
        self.highest = max(self.highest, number)


near = st.integers(-200, 200)
edge = near.map(lambda n: n - REPLAY_WINDOW)
jump = st.integers(1, 5 * REPLAY_WINDOW) | st.sampled_from([63, 64, 65, REPLAY_WINDOW, REPLAY_WINDOW + 64, MAX_JUMP])


@given(st.lists(near | edge | jump | st.integers(-2 * REPLAY_WINDOW, 0), max_size=60))
@example([REPLAY_WINDOW - 1, REPLAY_WINDOW, -REPLAY_WINDOW, 1 - REPLAY_WINDOW])
@example([64, 63, 1, -1, 62, REPLAY_WINDOW + 64, -REPLAY_WINDOW + 1])
def test_a_window_knows_what_was_marked(steps: list[int]) -> None:
    ours, model = ReplayWindow(), NaiveWindow()
    for step in steps:
        number = max(0, model.highest + step)
        assert ours.check(number) == model.check(number)
        if model.check(number) == FRESH:
            ours.mark(number)
            model.mark(number)
        else:
            with pytest.raises(ValueError, match="marked"):
                ours.mark(number)
        assert ours.highest == model.highest
        for other in (number - 1, number, number + 1, number - REPLAY_WINDOW, number - REPLAY_WINDOW + 1):
            assert other < 0 or ours.check(other) == model.check(other)
    for number in model.marked:
        assert ours.check(number) == model.check(number)


def test_a_window_is_as_wide_as_it_says_wherever_it_stands() -> None:
    for highest in [*range(REPLAY_WINDOW - 2, REPLAY_WINDOW + 130), 3 * REPLAY_WINDOW + 17]:
        ours = ReplayWindow()
        lowest = highest - REPLAY_WINDOW + 1
        if lowest >= 0:
            ours.mark(lowest)
        ours.mark(highest)
        assert ours.check(highest) == SEEN
        if lowest >= 0:
            assert ours.check(lowest) == SEEN
            assert ours.check(lowest + 1) == FRESH
        if lowest > 0:
            assert ours.check(lowest - 1) == OLD


def test_numbers_of_an_earlier_turn_of_the_bitmap_are_gone() -> None:
    ours = ReplayWindow()
    for number in range(2 * REPLAY_WINDOW):
        ours.mark(number)
    ours.mark(4 * REPLAY_WINDOW)
    assert all(ours.check(number) == FRESH for number in range(3 * REPLAY_WINDOW + 1, 4 * REPLAY_WINDOW))


def test_a_jump_is_bounded_and_a_refused_one_changes_nothing() -> None:
    ours = ReplayWindow()
    assert ours.highest == -1
    with pytest.raises(RemoteProtocolError):
        ours.mark(MAX_JUMP)
    ours.mark(MAX_JUMP - 1)
    with pytest.raises(RemoteProtocolError):
        ours.mark(2 * MAX_JUMP)
    assert ours.highest == MAX_JUMP - 1
    ours.mark(2 * MAX_JUMP - 1)
    assert ours.highest == 2 * MAX_JUMP - 1


def test_any_number_of_a_header_can_be_checked() -> None:
    ours = ReplayWindow()
    ours.mark(5)
    assert ours.check(2**64 - 1) == FRESH
    with pytest.raises(RemoteProtocolError):
        ours.mark(2**64 - 1)
    with pytest.raises(OverflowError):
        ours.check(-1)
