"""Bytes of a stream on their way out (SendBuffer), in (RecvBuffer), and to the program (Playout), against naive models."""

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcsplitter._core import Playout, RecvBuffer, SendBuffer
from tcsplitter.errors import RemoteProtocolError

STREAM = bytes(i * i % 251 for i in range(40_000))
MAX_WAITING_PAYLOADS = 65_536

# --- SendBuffer


@given(st.lists(st.binary(max_size=40) | st.integers(0, 60) | st.sampled_from([b"x" * 3_000, b"y" * 5_000]), max_size=60))
def test_a_send_buffer_is_a_queue_of_bytes(steps: list[bytes | int]) -> None:
    ours, model, offset = SendBuffer(), b"", 0
    for step in steps:
        if isinstance(step, bytes):
            ours.write(step)
            model += step
        else:
            taken = ours.take(step * step)
            assert type(taken) is bytes
            assert taken == model[: step * step]
            model = model[len(taken) :]
            offset += len(taken)
        assert (len(ours), ours.offset) == (len(model), offset)
    assert ours.clear() == len(model)
    assert (len(ours), ours.offset, ours.take(1), ours.clear()) == (0, offset + len(model), b"", 0)


def test_what_was_written_is_taken_without_a_copy() -> None:
    ours = SendBuffer()
    for payload in (b"a" * 10_000, b"b" * 10_000):
        ours.write(payload)
    assert ours.take(10_000) is not None
    payload = b"c" * 20_000
    ours.write(payload)
    ours.take(10_000)
    assert ours.take(30_000) is payload


def test_many_small_writes_and_takes() -> None:
    ours = SendBuffer()
    for start in range(0, 30_000, 3):
        ours.write(STREAM[start : start + 3])
    assert b"".join(ours.take(7) for _ in range(30_000 // 7 + 1)) == STREAM[:30_000]


def test_nothing_is_taken_for_a_limit_of_0_or_less() -> None:
    ours = SendBuffer()
    ours.write(b"abc")
    assert (ours.take(0), ours.take(-5), len(ours)) == (b"", b"", 3)


# --- RecvBuffer


class NaiveRecvBuffer:
    """One flag for each byte."""

    def __init__(self) -> None:
        self.has = bytearray(1_000)
        self.read = 0

    def insert(self, offset: int, length: int) -> None:
        for i in range(max(offset, self.next_gap()), offset + length):
            self.has[i] = 1

    def next_gap(self) -> int:
        return self.has.index(0, self.read)

    def pieces(self) -> int:
        return bytes(self.has[self.next_gap() :]).count(b"\0\1")

    def held(self) -> int:
        return self.has.count(1, self.read)


@st.composite
def inserts(draw: st.DrawFn) -> tuple[int, int, bool]:
    return draw(st.integers(0, 120)), draw(st.integers(0, 30)), draw(st.booleans())


@given(st.lists(inserts() | st.integers(0, 40) | st.none(), max_size=60), st.data())
def test_pieces_in_any_order_become_the_stream(steps: list[tuple[int, int, bool] | int | None], data: st.DataObject) -> None:
    ours, model, highest = RecvBuffer(), NaiveRecvBuffer(), 0
    for step in steps:
        if step is None:
            assert ours.clear() == model.held()
            model.read = model.next_gap()
            model.has[model.read :] = bytes(1_000 - model.read)
        elif isinstance(step, int):
            count = min(step, ours.readable)
            ours.consume(count)
            model.read += count
        else:
            offset, length, as_view = step
            before = ours.readable
            whole = memoryview(STREAM[offset : offset + 60])
            piece = whole[:length] if as_view else bytes(whole[:length])
            grown = ours.insert(offset, piece, False)
            model.insert(offset, length)
            highest = max(highest, offset + length)
            assert ours.readable == before + grown
        readable = model.next_gap() - model.read
        assert (ours.readable, ours.read_offset, ours.highest) == (readable, model.read, highest)
        assert (ours.held, ours.pieces) == (model.held(), model.pieces())
        limit = data.draw(st.integers(1, 200))
        assert b"".join(ours.peek(limit)) == STREAM[model.read : model.read + min(readable, limit)]
    missing = ours.insert(ours.read_offset, STREAM[ours.read_offset : 200], True)
    assert ours.readable >= missing
    assert (ours.pieces, ours.final_size, ours.at_end) == (0, 200, False)
    assert b"".join(ours.peek()) == STREAM[ours.read_offset : 200]
    ours.consume(ours.readable)
    assert (ours.at_end, ours.held, ours.peek()) == (True, 0, [])


@given(st.permutations(range(40)), st.integers(1, 3))
def test_pieces_of_equal_size_in_any_order(order: list[int], overlap: int) -> None:
    size = 1_500
    ours = RecvBuffer()
    for i in order:
        start = max(0, i * size - overlap)
        ours.insert(start, STREAM[start : (i + 1) * size][: size * 2] if i < 26 else b"", False)
    assert b"".join(ours.peek()) == STREAM[: 26 * size]
    assert ours.pieces == 0


@pytest.mark.parametrize("step", [1, -1])
def test_single_bytes_do_not_cost_a_buffer_each(step: int) -> None:
    ours = RecvBuffer()
    for i in range(1, 20_000)[::step]:
        ours.insert(i, STREAM[i : i + 1], False)
    assert (ours.pieces, ours.held) == (1, 19_999)
    assert ours.insert(0, STREAM[:1], False) == 20_000
    buffers = ours.peek()
    assert b"".join(buffers) == STREAM[:20_000]
    assert len(buffers) <= 2 * 20_000 // 4_096 + 1


def test_single_bytes_with_gaps_are_joined_as_the_gaps_are_filled() -> None:
    ours = RecvBuffer()
    for i in range(1, 20_000, 2):
        ours.insert(i, STREAM[i : i + 1], False)
    assert ours.pieces == 10_000
    for i in range(2, 20_000, 2):
        ours.insert(i, STREAM[i : i + 1], False)
    assert ours.pieces == 1
    ours.insert(0, STREAM[:1], False)
    buffers = ours.peek()
    assert b"".join(buffers) == STREAM[:20_000]
    assert len(buffers) <= 2 * 20_000 // 4_096 + 1


def test_what_was_peeked_does_not_change() -> None:
    ours = RecvBuffer()
    ours.insert(0, b"ab", False)
    ours.insert(2, b"cd", False)
    peeked = ours.peek()
    ours.insert(4, b"ef", False)
    ours.consume(3)
    ours.insert(6, b"gh", False)
    assert b"".join(peeked) == b"abcd"
    assert b"".join(ours.peek()) == b"defgh"


def test_a_payload_passes_without_a_copy() -> None:
    body = STREAM[:10_000]
    ours = RecvBuffer()
    ours.insert(0, body, False)
    assert ours.peek()[0] is body
    view = memoryview(body)[100:]
    ours.insert(10_000, view, False)
    assert ours.peek()[1] is view


def test_no_view_keeps_a_body_alive_that_is_more_than_twice_its_size() -> None:
    body = STREAM[:10_000]
    ours = RecvBuffer()
    ours.insert(0, memoryview(body)[:5_000], False)
    ours.insert(5_000, memoryview(body)[:4_999], False)
    ours.insert(9_000, memoryview(body)[:5_500], False)  # 999 bytes of it are there already
    buffers = ours.peek()
    assert [type(buffer) for buffer in buffers] == [memoryview, bytes, bytes]
    assert [len(buffer) for buffer in buffers] == [5_000, 4_999, 4_501]


def test_a_view_that_may_change_is_copied() -> None:
    data = bytearray(b"a" * 10_000)
    ours = RecvBuffer()
    ours.insert(0, memoryview(data), False)
    ours.insert(10_000, memoryview(data)[::-1], False)
    ours.insert(20_000, memoryview(data).cast("H"), False)
    data[:] = b"b" * 10_000
    assert b"".join(ours.peek()) == b"a" * 30_000


def test_peek_is_bounded() -> None:
    ours = RecvBuffer()
    for i in range(100):
        ours.insert(i * 5_000, bytes(5_000), False)
    assert len(ours.peek()) == 64
    assert [len(buffer) for buffer in ours.peek(12_000)] == [5_000, 5_000, 2_000]
    assert [len(buffer) for buffer in ours.peek(1)] == [1]
    assert ours.peek(0) == []
    ours.consume(498_000)
    assert [len(buffer) for buffer in ours.peek()] == [2_000]


@pytest.mark.parametrize("data", [bytearray(b"abc"), "abc", None])
def test_other_types_are_refused(data: object) -> None:
    with pytest.raises(TypeError):
        RecvBuffer().insert(0, data, False)  # type: ignore[arg-type]


def test_more_than_readable_cannot_be_consumed() -> None:
    ours = RecvBuffer()
    ours.insert(0, b"abc", False)
    ours.insert(4, b"e", False)
    for count in (4, -1):
        with pytest.raises(ValueError, match="readable"):
            ours.consume(count)
    assert ours.readable == 3
    with pytest.raises(ValueError, match="offset"):
        ours.insert(-1, b"abc", False)


def test_the_final_size_stands() -> None:
    ours = RecvBuffer()
    assert ours.final_size == -1
    ours.insert(5, b"fgh", False)
    with pytest.raises(RemoteProtocolError):
        ours.insert(0, b"abc", True)  # ends before what was seen
    assert ours.final_size == -1
    ours.insert(8, b"", True)
    assert ours.final_size == 8
    ours.insert(3, b"defgh", True)
    for offset, data, fin in ((8, b"i", False), (7, b"hi", True), (0, b"abc", True), (9, b"", False), (7, b"", True)):
        with pytest.raises(RemoteProtocolError):
            ours.insert(offset, data, fin)
    assert ours.insert(0, b"abc", False) == 8
    assert not ours.at_end
    ours.consume(8)
    assert ours.at_end


def test_an_empty_stream_is_at_its_end() -> None:
    ours = RecvBuffer()
    assert not ours.at_end
    assert ours.insert(0, b"", True) == 0
    assert (ours.at_end, ours.final_size, ours.pieces) == (True, 0, 0)


# --- Playout


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
