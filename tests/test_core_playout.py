"""The beat at which payloads go on to the program (Playout), against naive models."""

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcsplitter._core import Playout

MAX_WAITING_PAYLOADS = 65_536


def naive_playout(pushes: list[tuple[float, int]], end: float, beat: float, merge: int, catch_up: bool) -> tuple[list[int], int]:
    """Bytes forwarded by each beat up to `end`, and how many beats found nothing before the last push."""
    forwarded, skipped, behind = [], 0, False
    waiting = list(pushes)
    time = pushes[0][0] + beat
    while time <= end:
        here = [length for at, length in waiting if at <= time]
        count = len(here) if catch_up and behind else max(merge, 1)
        forwarded.append(sum(here[:count]))
        del waiting[: min(count, len(here))]
        behind = not here
        skipped += behind
        time += beat
    return forwarded, skipped


@given(
    st.lists(st.tuples(st.sampled_from([0, 0, 0, 1, 2, 3, 8]), st.integers(1, 9)), min_size=1, max_size=30),
    st.sampled_from([0.25, 0.5, 1.0, 1.5]),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
)
def test_the_beat_goes_on_as_the_naive_one_does(
    gaps: list[tuple[int, int]], beat: float, merge: int, catch_up: bool, lazy: bool
) -> None:
    pushes, now = [], 100.0
    for gap, length in gaps:
        now += gap / 4  # exact in binary, as are the beats
        pushes.append((now, length))
    end = now + 20
    expected, skipped = naive_playout(pushes, end, beat, merge, catch_up)
    ours = Playout(beat, merge, catch_up, 0)
    released = []
    waiting = list(pushes)
    for i in range(len(expected)):
        time = pushes[0][0] + (i + 1) * beat
        while waiting and waiting[0][0] <= time:
            at, length = waiting.pop(0)
            ours.push(length, at)
        if not lazy or i == len(expected) - 1:
            released.append(ours.release(time))
            assert ours.deadline() == (time + beat if ours.waiting else inf)
    assert released == ([sum(expected)] if lazy else expected)
    assert ours.skipped == skipped
    assert ours.waiting == sum(length for _, length in pushes) - sum(expected)


class NaivePlayout:
    """Which payloads are pushed, from a set of all ends that are expected; a Playout of its own does the rest."""

    def __init__(self, playout: Playout) -> None:
        self.playout = playout
        self.ends: set[int] = set()
        self.pushed = 0

    def expect(self, end: int) -> None:
        self.ends.add(end)

    def advance(self, offset: int, now: float) -> None:
        for end in sorted(self.ends):
            if self.pushed < end <= offset:
                self.playout.push(end - self.pushed, now)
                self.pushed = end

    def pass_by(self, offset: int) -> None:
        self.pushed = max(self.pushed, offset)


kinds_of_steps = st.sampled_from(["expect", "expect", "advance", "pass by"])


@given(
    st.lists(st.tuples(kinds_of_steps, st.integers(-6, 12), st.integers(0, 4)), max_size=60),
    st.sampled_from([0.0, 0.5]),
    st.integers(0, 3),
    st.booleans(),
)
def test_payloads_end_where_they_were_expected_to(
    steps: list[tuple[str, int, int]], beat: float, merge: int, catch_up: bool
) -> None:
    ours, model, now = Playout(beat, merge, catch_up, 0), NaivePlayout(Playout(beat, merge, catch_up, 0)), 100.0
    for step, beyond, gap in steps:
        offset = model.pushed + beyond
        now += gap / 4
        if step == "expect":
            ours.expect(offset)
            model.expect(offset)
        elif step == "advance":
            ours.advance(offset, now)
            model.advance(offset, now)
        else:
            ours.pass_by(offset)
            model.pass_by(offset)
        assert (ours.waiting, ours.deadline()) == (model.playout.waiting, model.playout.deadline())
        assert ours.release(now) == model.playout.release(now)
        assert ours.skipped == model.playout.skipped


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.data())
def test_payloads_in_any_order_are_released_one_by_one(sizes: list[int], data: st.DataObject) -> None:
    """Repeats included. Those that are never there are skipped, and may come too late."""
    ours = Playout(1.0, 0, False, 0)
    starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    there: set[int] = set()
    expected: list[int] = []
    following = 0
    for i in data.draw(st.lists(st.sampled_from(range(len(sizes))) | st.none(), max_size=30)):
        if i is not None:
            there.add(i)
            ours.expect(starts[i + 1])
        elif there and max(there) > following:
            following = min(n for n in there if n > following)
            ours.pass_by(starts[following])
        while following in there:
            expected.append(sizes[following])
            following += 1
        ours.advance(starts[following], 0.0)
    assert ours.waiting == sum(expected)
    assert [ours.release(1.0 + i) for i in range(len(expected))] == expected


def test_bytes_beyond_the_last_end_wait_for_theirs() -> None:
    ours = Playout(0, 0, False, 0)
    ours.expect(10)
    ours.advance(25, 1.0)
    assert ours.release(1.0) == 10
    ours.expect(25)
    ours.advance(25, 2.0)
    assert (ours.waiting, ours.deadline()) == (15, 2.0)


def test_the_count_of_expected_ends_is_bounded() -> None:
    ours = Playout(1.0, 0, False, 0)
    last = 2 * MAX_WAITING_PAYLOADS + 20
    for end in range(2, last + 1, 2):
        ours.expect(end)
    ours.expect(1)  # finds no room
    ours.advance(last - 1, 0.0)
    assert ours.waiting == 2 * (MAX_WAITING_PAYLOADS - 1)
    ours.advance(last, 0.0)
    assert ours.waiting == last
    assert [ours.release(1.0), ours.release(2.0)] == [2, 2]
    assert ours.release(MAX_WAITING_PAYLOADS - 1.0) == 2 * (MAX_WAITING_PAYLOADS - 3)
    assert ours.release(float(MAX_WAITING_PAYLOADS)) == 22


def test_repeated_ends_take_no_room() -> None:
    ours = Playout(1.0, 0, False, 0)
    for end in [10, 20] * (MAX_WAITING_PAYLOADS // 2 + 1) + [15]:
        ours.expect(end)
    ours.advance(15, 0.0)
    assert [ours.release(1.0), ours.release(2.0), ours.waiting] == [10, 5, 0]


@given(st.integers(0, 60), st.integers(0, 5), st.integers(0, 60), st.sampled_from([0.25, 0.5, 0.75, 1.5]))
def test_beats_keep_to_the_grid_of_the_first(after: int, count: int, released: int, beat: float) -> None:
    ours, now = Playout(beat, 0, False, 0), 100.0 + after / 8
    ours.push(5, 100.0)
    ours.release(100.0 + released / 8)
    expected = 100.0 + beat
    while expected < now:
        expected += beat
    assert ours.beat(now, count) == expected + count * beat


def test_beats_do_not_drift() -> None:
    ours = Playout(0.1, 0, False, 0)
    ours.push(5, 100.0)
    for number in (3, 4, 1_000, 123_456, 10**9):
        time = 100.0 + number * 0.1
        assert ours.beat(time - 0.05, 0) == ours.beat(time, 0) == ours.beat(time - 0.25, 2) == time
        assert ours.beat(time + 0.05, 0) == 100.0 + (number + 1) * 0.1


def test_where_no_beat_runs_they_are_counted_from_now() -> None:
    assert Playout(0, 0, False, 0).beat(7.25, 3) == 7.25
    ours = Playout(0.5, 0, False, 10.0)
    assert (ours.beat(9.25, 3), ours.beat(10.25, 3)) == (10.75, 11.75)
    ours.push(5, 9.5)
    assert ours.beat(9.75, 0) == 9.75
    ours.push(5, 10.25)
    assert ours.beat(10.25, 1) == 11.25


def test_without_a_beat_everything_goes_at_once() -> None:
    ours = Playout(0, 3, True, 0)
    assert ours.deadline() == inf
    ours.push(10, 5.0)
    ours.push(20, 6.0)
    assert (ours.waiting, ours.deadline()) == (30, 5.0)
    assert ours.release(6.0) == 30
    assert (ours.waiting, ours.deadline(), ours.release(7.0), ours.skipped) == (0, inf, 0, 0)


def test_the_first_payload_starts_the_clock() -> None:
    ours = Playout(1.0, 0, False, 0)
    assert ours.release(50.0) == 0
    ours.push(10, 100.25)
    assert (ours.release(100.25), ours.deadline()) == (0, 101.25)
    assert ours.release(101.0) == 0
    assert ours.release(101.25) == 10
    assert (ours.deadline(), ours.skipped) == (inf, 0)


def test_until_free_until_everything_goes_at_once() -> None:
    ours = Playout(1.0, 0, False, 10.0)
    ours.push(1, 9.0)
    ours.push(2, 9.5)
    assert (ours.deadline(), ours.release(9.5)) == (9.0, 3)
    ours.push(3, 9.75)
    ours.push(4, 10.5)
    ours.push(5, 10.5)
    assert (ours.waiting, ours.deadline()) == (12, 9.75)
    assert (ours.release(10.5), ours.deadline()) == (3, 11.5)
    assert (ours.release(11.5), ours.release(12.5)) == (4, 5)


def test_a_skipped_beat_is_made_up_only_on_request() -> None:
    for catch_up, expected in ((False, [1, 0, 2, 4, 8, 16, 32]), (True, [1, 0, 14, 16, 32, 0, 0])):
        ours = Playout(1.0, 0, catch_up, 0)
        ours.push(1, 0.0)
        released = [ours.release(1.0), ours.release(2.0)]
        for length in (2, 4, 8):
            ours.push(length, 2.5)
        released.append(ours.release(3.0))
        for length in (16, 32):
            ours.push(length, 3.5)
        assert released + [ours.release(beat) for beat in (4.0, 5.0, 6.0, 7.0)] == expected


def test_merged_payloads_do_not_wait_for_each_other() -> None:
    ours = Playout(1.0, 3, False, 0)
    for length in (1, 2, 4, 8):
        ours.push(length, 0.0)
    assert (ours.release(1.0), ours.release(2.0)) == (7, 8)


def test_long_silences_are_counted_not_walked() -> None:
    ours = Playout(1e-6, 0, False, 0)
    ours.push(1, 0.0)
    assert ours.release(1.0) == 1
    ours.push(1, 1e9)
    assert ours.skipped > 9e14
    assert ours.release(1e9 + 1) == 1


def test_the_count_of_waiting_payloads_is_bounded() -> None:
    ours = Playout(1.0, 0, False, 0)
    for _ in range(MAX_WAITING_PAYLOADS + 2):
        ours.push(1, 0.0)
    assert ours.waiting == MAX_WAITING_PAYLOADS + 2
    assert ours.release(MAX_WAITING_PAYLOADS - 1.0) == MAX_WAITING_PAYLOADS - 1
    assert ours.release(float(MAX_WAITING_PAYLOADS)) == 3
    assert ours.waiting == 0


def test_an_empty_payload_is_none() -> None:
    ours = Playout(1.0, 0, False, 0)
    ours.push(0, 0.0)
    assert (ours.deadline(), ours.release(5.0), ours.skipped) == (inf, 0, 0)
    with pytest.raises(ValueError, match="payload"):
        ours.push(-1, 0.0)


@pytest.mark.parametrize(("beat", "merge"), [(-1.0, 0), (inf, 0), (nan, 0), (1e-7, 0), (1.0, -1)])
def test_impossible_beats_are_refused(beat: float, merge: int) -> None:
    with pytest.raises(ValueError, match="beat"):
        Playout(beat, merge, False, 0)
