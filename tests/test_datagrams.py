"""Datagrams put together from their fragments, once each; and what another end that misbehaves can do to that."""

import random

import pytest
from flow_ends import NOW, SIZE, End, Frame, frame, noise, server
from hypothesis import given
from hypothesis import strategies as st

from tcsplitter._core import MAX_DATAGRAM, MAX_VARINT
from tcsplitter.datagrams import MAX_RANGES_OF_FLOW, PARTIAL_SECONDS, Numbers, Partial
from tcsplitter.errors import RemoteProtocolError


@pytest.mark.parametrize("size", [SIZE + 1, 3 * SIZE, MAX_DATAGRAM])
def test_fragments_in_any_order_and_repeated(size: int) -> None:
    client, other = End(True), End(False)
    client.send(client.open(), noise(size))
    frames = [each for shot in client.shots() for each in shot.frames]
    assert len(frames) == -(-size // SIZE)
    dice = random.Random(size)
    for _ in range(5):
        mixed = frames[1:] * 2
        dice.shuffle(mixed)
        other.take(*mixed)
        assert not other.came
        other.take(frames[0], *mixed, frames[0])
        assert other.came.pop(0) == [noise(size)]
        frames = [(*each[:2], each[2] + 1, *each[3:]) for each in frames]
    assert other.balanced()
    assert other.counted == {"datagrams_received": 5}


@given(st.permutations(range(12)), st.lists(st.integers(1, 5), min_size=12, max_size=12))
def test_a_partial_is_whole_when_all_has_come(order: list[int], lengths: list[int]) -> None:
    starts = [sum(lengths[:i]) for i in range(12)]
    whole = noise(sum(lengths))
    partial = Partial(len(whole), NOW)
    empty = partial.weight
    for count, i in enumerate(order, 1):
        piece = whole[starts[i] : starts[i] + lengths[i]]
        assert partial.add(starts[i], piece) == (count == 12)
        assert partial.add(starts[i], memoryview(piece)) == (count == 12), "a repeat changes nothing"
        assert not partial.add(starts[i], b"") or count == 12
        runs = sum(j - 1 not in order[:count] for j in order[:count])
        assert (partial.weight - empty) % runs == 0
        assert partial.weight > empty
    assert partial.data == whole


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(1, 20)), max_size=12))
def test_overlaps_are_found_as_a_naive_map_finds_them(pieces: list[tuple[int, int]]) -> None:
    partial, have = Partial(40, NOW), set[int]()
    for offset, length in pieces:
        span = set(range(offset, offset + length))
        if have & span and not span <= have:
            with pytest.raises(RemoteProtocolError, match="overlap"):
                partial.add(offset, bytes(length))
        else:
            have |= span
            assert partial.add(offset, bytes(length)) == (len(have) == 40)


@given(st.lists(st.integers(0, 60), max_size=80), st.integers(1, 6))
def test_numbers_count_once(numbers: list[int], most: int) -> None:
    ours, seen, ranges = Numbers(), set[int](), 0
    for number in numbers:
        assert number in ours or number not in seen, "what has come is never taken for new"
        ranges += ours.add(number, most)
        seen.add(number)
        assert ranges == len(ours) <= most
        assert max(seen) + 1 not in ours
        if most == 6 and len(seen) <= 3:
            assert [n in ours for n in range(61)] == [n in seen for n in range(61)]
    ours.fold()
    assert len(ours) == bool(seen)
    assert all(n in ours for n in range(max(seen, default=-1) + 1))


def test_a_datagram_that_comes_very_late_is_delivered_once() -> None:
    """Whoever sends 100,000 a second and loses a connection for a second needs all of them remembered."""
    other = server()
    other.take(*(frame(number) for number in range(1, 100_001)))
    assert len(other.came[0]) == 100_000
    other.take(frame(0, b"late"), frame(0, b"late"))
    assert other.came[0][100_000:] == [b"late"]
    assert len(other.flow().numbers) == 1


def test_gaps_that_never_fill_take_little_room() -> None:
    other = server()
    other.take(*(frame(number) for number in range(0, 2 * MAX_RANGES_OF_FLOW, 2)))
    assert len(other.flow().numbers) == MAX_RANGES_OF_FLOW == other.table.ranges
    other.take(frame(1, b"in time"), frame(4 * MAX_RANGES_OF_FLOW), frame(5 * MAX_RANGES_OF_FLOW))
    assert b"in time" in other.came[0]
    assert len(other.flow().numbers) == MAX_RANGES_OF_FLOW // 2 + 1 == other.table.ranges
    other.take(frame(3, b"too late"))
    assert b"too late" not in other.came[0]


# ------------------------------------------------------------------------------- hostile frames


def test_the_client_opens_flows_not_the_server() -> None:
    client = End(True)
    client.open()
    for flow_id in (1, MAX_VARINT):
        with pytest.raises(RemoteProtocolError, match=f"names flow {flow_id}, which this end has not opened"):
            client.take(frame(0, flow=flow_id))


@pytest.mark.parametrize(
    ("second", "what"),
    [
        (frame(0, b"cdef", 8, 3), "overlap"),
        (frame(0, b"abcdef", 8, 0), "overlap"),
        (frame(0, b"abcd", 9, 0), "contradict"),
        (frame(0, b"efgh", 9, 4), "contradict"),
        (frame(0, b"abcx", 8, 0), "contradict"),
        (frame(0, b"abcdefgh"), "overlap"),
        (frame(0, b"abc"), "contradict"),
        (frame(0, b""), "contradict"),
    ],
)
def test_fragments_that_contradict_each_other(second: Frame, what: str) -> None:
    other = server()
    other.take(frame(0, b"abcd", 8, 0))
    with pytest.raises(RemoteProtocolError, match=what):
        other.take(second)


def test_a_part_of_what_came_and_an_empty_fragment_change_nothing() -> None:
    other = server()
    other.take(frame(0, b"", 8, 8), frame(0, b"abcd", 8, 0), frame(0, b"bc", 8, 1), frame(0, b"", 8, 4), frame(0, b"efgh", 8, 4))
    assert other.came[0] == [b"abcdefgh"]
    other.take(frame(0, b"", 8, 8), frame(0, b"zz", 9, 1))
    assert other.counted == {"datagrams_received": 1}
    assert other.balanced()


def test_what_does_not_become_whole_is_given_up_once() -> None:
    other = server()
    other.take(frame(0, b"half", 8, 0), frame(1))
    other.pass_time(PARTIAL_SECONDS - 0.001)
    assert other.counted == {"datagrams_received": 1}
    other.pass_time(0.001)
    other.take(frame(0, b"rest", 8, 4), frame(0, b"half", 8, 0))
    other.pass_time(PARTIAL_SECONDS)
    assert other.counted == {"datagrams_received": 1, "datagrams_lost": 1}
    assert other.came[0] == [b"x"]


def test_numbers_and_stamps_of_any_size() -> None:
    other = server()
    other.take(frame(MAX_VARINT, stamp=MAX_VARINT), frame(0, flow=MAX_VARINT, stamp=0), frame(MAX_VARINT), frame(0, b"zero"))
    assert other.came[0] == [b"x", b"zero"]
