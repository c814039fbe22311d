"""Bytes of a stream on their way out (SendBuffer) and in (RecvBuffer), against naive models."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcsplitter._core import RecvBuffer, SendBuffer
from tcsplitter.errors import RemoteProtocolError

STREAM = bytes(i * i % 251 for i in range(40_000))

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


def test_much_of_what_was_written_at_once_is_taken_as_views_of_it() -> None:
    ours = SendBuffer()
    payload, following = STREAM[:25_000], STREAM[25_000:]
    ours.write(payload)
    ours.write(following)
    one, two, across, small = ours.take(10_000), ours.take(10_000), ours.take(10_000), ours.take(100)
    assert isinstance(one, memoryview)
    assert isinstance(two, memoryview)
    assert one.obj is two.obj is payload
    assert (type(across), type(small)) == (bytes, bytes)
    assert b"".join((one, two, across, small, ours.take(40_000))) == STREAM


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

    def skip(self) -> int:
        count = max(0, self.has.find(1, self.read) - self.read)
        self.read += count
        return count

    def next_gap(self) -> int:
        return self.has.index(0, self.read)

    def pieces(self) -> int:
        return bytes(self.has[self.next_gap() :]).count(b"\0\1")

    def held(self) -> int:
        return self.has.count(1, self.read)


@st.composite
def inserts(draw: st.DrawFn) -> tuple[int, int, bool]:
    return draw(st.integers(0, 120)), draw(st.integers(0, 30)), draw(st.booleans())


@given(st.lists(inserts() | st.integers(0, 40) | st.sampled_from(["clear", "skip"]), max_size=60), st.data())
def test_pieces_in_any_order_become_the_stream(steps: list[tuple[int, int, bool] | int | str], data: st.DataObject) -> None:
    ours, model, highest = RecvBuffer(), NaiveRecvBuffer(), 0
    for step in steps:
        if step == "skip":
            assert ours.skip() == model.skip()
        elif isinstance(step, str):
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


@given(st.sets(st.integers(0, 30)), st.integers(31, 33), st.data())
def test_a_stream_with_gaps_is_read_to_its_end(present: set[int], size: int, data: st.DataObject) -> None:
    ours, read, skipped = RecvBuffer(), b"", 0
    for i in data.draw(st.permutations(sorted(present))):
        ours.insert(i, STREAM[i : i + 1], False)
    ours.insert(size, b"", True)
    for _ in range(len(present) + 1):
        read += b"".join(ours.peek())
        if ours.readable:
            assert ours.skip() == 0
        ours.consume(ours.readable)
        skipped += ours.skip()
    assert read == bytes(STREAM[i] for i in sorted(present))
    assert skipped == size - len(present)
    assert (ours.at_end, ours.read_offset, ours.highest, ours.held, ours.skip()) == (True, size, size, 0, 0)


def test_a_gap_of_unknown_length_is_not_skipped() -> None:
    ours = RecvBuffer()
    assert ours.skip() == 0
    ours.insert(5, b"abc", False)
    assert (ours.skip(), b"".join(ours.peek())) == (5, b"abc")
    ours.consume(3)
    assert (ours.skip(), ours.read_offset, ours.at_end) == (0, 8, False)


def test_what_comes_of_skipped_bytes_is_not_kept() -> None:
    ours = RecvBuffer()
    ours.insert(5, b"fgh", False)
    ours.skip()
    assert ours.insert(2, STREAM[2:5], False) == 0
    assert ours.insert(2, b"cdefghij", False) == 2
    assert (b"".join(ours.peek()), ours.held, ours.read_offset) == (b"fghij", 5, 5)
    with pytest.raises(RemoteProtocolError):
        ours.insert(4, b"e", True)


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
