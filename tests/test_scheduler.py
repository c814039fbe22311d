"""Whose turn it is: which chunks the next shots carry, cut from real streams."""

from __future__ import annotations

from collections import Counter
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcsplitter._core import ShotWriter
from tcsplitter.chunks import Chunk
from tcsplitter.payload import PayloadSize
from tcsplitter.recovery import MAX_UNACKED_CHUNKS
from tcsplitter.scheduler import MAX_CHUNKS, SPARSE_BYTES, SPARSE_PAYLOADS, Source
from tcsplitter.shared import Handling, Shared
from tcsplitter.streams import Stream
from tcsplitter.table import StreamTable

SIZE = 1_000


class Rig:
    """An end's streams and their scheduler; each shot is one payload."""

    def __init__(self, size: int = SIZE, client: bool = False) -> None:
        self.shared = Shared(Handling(size=size), PayloadSize(size), {}, lambda: None)
        self.table = StreamTable(client, self.shared)
        self.shared.sending.raise_limit(2**40)
        self.scheduler = self.shared.scheduler
        self.shared.rtt = 0.1

    def stream(self, *writes: int) -> Stream:
        """A stream that is open at both ends, and then writes."""
        stream = self.table.accept(2 * len(self.table))
        assert stream is not None
        stream.raise_send_limit(2**40, 0)
        for count in writes:
            stream.write(bytes(count))
        return stream

    def shot(self, bulk: bool = True) -> list[Chunk]:
        writer = ShotWriter()
        writer.begin(0, 0)
        return cast("list[Chunk]", self.scheduler.fill(writer, MAX_UNACKED_CHUNKS, bulk))

    def lose(self, *chunks: Chunk) -> None:
        for chunk in chunks:
            if chunk.source.chunk_lost(chunk):
                self.shared.schedule(chunk.source)


def shape(chunks: list[Chunk]) -> list[tuple[int, int, int]]:
    """Stream, offset and length of each."""
    return [(chunk.source.id, chunk.offset, len(chunk.data)) for chunk in chunks]


# --- sparse before bulk


def test_a_keystroke_goes_before_bulk() -> None:
    rig = Rig()
    rig.stream(10 * SIZE)
    rig.shot()
    typist = rig.stream(36)
    chunks = rig.shot()
    assert chunks[0].source is typist
    assert len(chunks[0].data) == 36
    assert sum(len(chunk.data) for chunk in chunks) == SIZE


def test_a_keystroke_is_not_held_by_the_bound_on_bulk() -> None:
    rig = Rig()
    rig.stream(10 * SIZE)
    typist = rig.stream(36)
    assert shape(rig.shot(bulk=False)) == [(typist.id, 0, 36)]
    assert rig.shot(bulk=False) == []


@pytest.mark.parametrize(("count", "sparse"), [(SIZE - 1, True), (SIZE, False)])
def test_a_stream_with_a_payload_is_bulk(count: int, sparse: bool) -> None:
    rig = Rig()
    stream = rig.stream(count)
    assert stream.queue is (rig.scheduler.sparse if sparse else rig.scheduler.bulk)


@pytest.mark.parametrize(("size", "limit"), [(SIZE, SIZE), (10 * SPARSE_BYTES, SPARSE_BYTES)])
@pytest.mark.parametrize("more", [0, 1])
def test_what_is_unacknowledged_counts(size: int, limit: int, more: int) -> None:
    rig = Rig(size)
    stream = rig.stream(limit - 2)
    (chunk,) = rig.shot()
    rig.shot()
    stream.write(bytes(1 + more))
    assert stream.queue is (rig.scheduler.bulk if more else rig.scheduler.sparse)
    rig.shot()
    stream.chunk_acked(chunk)
    stream.write(b"x")
    assert stream.queue is rig.scheduler.sparse


def test_a_stream_of_which_much_was_lost_is_bulk() -> None:
    rig = Rig()
    rig.stream(2 * SIZE)
    rig.lose(*rig.shot(), *rig.shot())
    assert not rig.scheduler.sparse
    assert rig.shot(bulk=False) == []


# --- sharing


@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=6),
    shots=st.integers(1, 40),
    keystrokes=st.lists(st.integers(1, 400), max_size=10),
)
def test_bulk_streams_share_within_one_payload(sizes: list[int], shots: int, keystrokes: list[int]) -> None:
    rig = Rig()
    bulk = [rig.stream(size * 100 * SIZE) for size in sizes]
    typist = rig.stream()
    sent: Counter[Source] = Counter()
    for turn in range(shots):
        rig.shared.now += 1.0
        if turn < len(keystrokes):
            typist.write(bytes(keystrokes[turn]))
        chunks = rig.shot()
        assert sum(len(chunk.data) for chunk in chunks) == SIZE
        for chunk in chunks:
            sent[chunk.source] += len(chunk.data)
    counts = [sent[stream] for stream in bulk]
    # A turn that a keystroke cut short is made up for in the next round, so that one may be ahead by that much more.
    assert max(counts) - min(counts) <= (2 * SIZE - 1 if keystrokes else SIZE)


def test_streams_that_are_read_ahead_by_a_payload_do_not_go_before_those_that_are_ahead_by_more() -> None:
    rig = Rig()
    far_ahead, others = rig.stream(50 * SIZE), [rig.stream(SIZE) for _ in range(5)]
    sent: Counter[Source] = Counter()
    for _ in range(60):
        (chunk,) = rig.shot()
        sent[chunk.source] += 1
        chunk.source.chunk_acked(chunk)
        if chunk.source is not far_ahead:
            cast("Stream", chunk.source).write(bytes(SIZE))
    assert {sent[stream] for stream in (far_ahead, *others)} == {10}


@pytest.mark.parametrize("size", [36, SIZE // 2])
def test_bulk_does_not_starve_beside_many_questions_and_answers(size: int) -> None:
    rig = Rig()
    flood, busy = [rig.stream() for _ in range(20)], rig.stream(100 * SIZE)
    sent: Counter[bool] = Counter()
    for _ in range(1_000):
        next(stream for stream in flood if not stream.unsent).write(bytes(size))
        for chunk in rig.shot(bulk=False):  # what the others have under way fills the line
            sent[chunk.source is busy] += len(chunk.data)
            chunk.source.chunk_acked(chunk)
    turns = sent[False] / (SPARSE_PAYLOADS * SIZE)
    assert turns - 1 <= sent[True] / SIZE <= turns + 1


def test_a_turn_that_is_cut_short_gives_no_more_in_the_long_run() -> None:
    rig = Rig()
    cut_short, other = rig.stream(200 * SIZE), rig.stream(200 * SIZE)
    typist = rig.stream()
    sent: Counter[Source] = Counter()
    previous: object = other
    for _ in range(100):
        rig.shared.now += 1.0
        if rig.scheduler.bulk[0] is cut_short is not previous:
            typist.write(bytes(SIZE // 2))
        previous = rig.scheduler.bulk[0]
        for chunk in rig.shot():
            sent[chunk.source] += len(chunk.data)
    assert abs(sent[cut_short] - sent[other]) < 2 * SIZE


def test_small_pieces_of_several_streams_share_a_shot() -> None:
    rig = Rig()
    streams = [rig.stream() for _ in range(5)]
    for stream in streams:
        stream.write(b"x" * 100)
    assert shape(rig.shot()) == [(stream.id, 0, 100) for stream in streams]
    assert rig.shot() == []


def test_a_stream_waits_in_one_queue_once() -> None:
    rig = Rig()
    stream = rig.stream(10, 10)
    stream.finish()
    assert list(rig.scheduler.sparse) == [stream]
    assert shape(rig.shot()) == [(stream.id, 0, 20)]
    assert rig.shot() == []
    assert stream.queue is None


@pytest.mark.parametrize("count", [MAX_CHUNKS, MAX_CHUNKS + 1])
def test_a_shot_has_room_for_so_many_chunks(count: int) -> None:
    rig = Rig(10 * MAX_CHUNKS, client=True)
    for _ in range(count):
        rig.table.open().write(b"x")
    assert [len(rig.shot()) for _ in range(3)] == [min(count, MAX_CHUNKS), count - MAX_CHUNKS, 0]


def test_empty_chunks_do_not_make_the_payload_smaller() -> None:
    rig = Rig(10, client=True)
    opened = [rig.table.open() for _ in range(3)]
    rig.table.open().write(bytes(25))
    assert [sorted(size for _, _, size in shape(rig.shot())) for _ in range(3)] == [[0, 0, 0, 10], [10], [5]]
    assert not any(stream.unsent for stream in opened)


# --- lost chunks


def test_a_lost_chunk_goes_first_and_keeps_its_borders() -> None:
    rig = Rig()
    stream = rig.stream(300)
    (lost,) = rig.shot()
    rig.lose(lost)
    stream.write(bytes(5 * SIZE))
    rig.stream(5 * SIZE)
    again = rig.shot()
    assert again[0] is lost
    assert shape(again) == [(stream.id, 0, 300), (stream.id, 300, SIZE - 300)]


def test_a_lost_chunk_goes_before_what_waits_already() -> None:
    rig = Rig()
    rig.stream(300)
    (lost,) = rig.shot()
    rig.stream(10)
    rig.stream(10)
    rig.lose(lost)
    assert rig.shot()[0] is lost


def test_lost_chunks_go_in_the_order_of_their_offsets() -> None:
    rig = Rig()
    rig.stream(6 * SIZE)
    chunks = [chunk for _ in range(6) for chunk in rig.shot()]
    rig.lose(*[chunks[number] for number in (4, 1, 3)])
    assert [rig.shot() for _ in range(3)] == [[chunks[1]], [chunks[3]], [chunks[4]]]


def test_a_lost_payload_is_not_cut_to_fit() -> None:
    rig = Rig()
    rig.stream(2 * SIZE)
    (lost,) = rig.shot()
    rig.shot()
    typist = rig.stream(36)
    rig.lose(lost)
    assert shape(rig.shot()) == [(typist.id, 0, 36)]
    assert rig.shot() == [lost]
    assert rig.shot() == []


def test_a_lost_chunk_that_is_acknowledged_after_all_is_not_sent() -> None:
    rig = Rig()
    stream = rig.stream(300)
    (lost,) = rig.shot()
    rig.lose(lost)
    stream.chunk_acked(lost)
    assert rig.shot() == []
    assert rig.shared.sending.lost_chunks == 0


plans = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 3), st.integers(1, 3 * SIZE)),
        st.tuples(st.just("shot"), st.booleans(), st.just(0)),
        st.tuples(st.just("lose"), st.integers(0, 50), st.just(0)),
        st.tuples(st.just("wait"), st.integers(0, 20), st.just(0)),
    ),
    max_size=60,
)


@given(plans)
def test_everything_is_sent_in_payloads_and_lost_chunks_again(plan: list[tuple[str, int, int]]) -> None:
    rig = Rig()
    streams = [rig.stream() for _ in range(4)]
    written: Counter[Source] = Counter()
    sent: list[Chunk] = []
    missing: list[Chunk] = []

    def take(bulk: bool) -> bool:
        chunks = rig.shot(bulk)
        assert sum(len(chunk.data) for chunk in chunks) <= SIZE
        for chunk in chunks:
            if chunk in missing:
                missing.remove(chunk)
            else:
                sent.append(chunk)
        return bool(chunks)

    for what, first, second in plan:
        if what == "write":
            streams[first].write(bytes(second))
            written[streams[first]] += second
        elif what == "shot":
            take(bool(first))
        elif what == "lose" and first < len(sent) and sent[first] not in missing:
            missing.append(sent[first])
            rig.lose(sent[first])
        elif what == "wait":
            rig.shared.now += first / 50
    while take(True):
        pass
    assert missing == []
    for stream in streams:
        chunks = [chunk for chunk in sent if chunk.source is stream]
        assert [chunk.offset for chunk in chunks] == [sum(len(c.data) for c in chunks[:n]) for n in range(len(chunks))]
        assert sum(len(chunk.data) for chunk in chunks) == written[stream]
        assert stream.queue is None
