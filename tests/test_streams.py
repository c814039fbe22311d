"""Streams and their table: the state tables in Stream's docstring, windows, and two ends that exchange real frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shots import AEAD
from tcsplitter._core import CREDIT, RESET, STREAM, STREAM_CREDIT, ShotWriter, open_frames
from tcsplitter.errors import RemoteProtocolError
from tcsplitter.flow import SESSION_WINDOW
from tcsplitter.recovery import MAX_UNACKED_CHUNKS
from tcsplitter.streams import BY_PROGRAM, INITIAL_WINDOW, MAX_UNSENT, REFUSED, TOO_MANY, Chunk, Control, Stream
from tcsplitter.table import StreamTable

SIZE = 1_000
HALF = INITIAL_WINDOW // 2
Frame = tuple[Any, ...]


class Shot:
    """What a shot carries: frames for the other end, and what its sender remembers of it."""

    def __init__(self, frames: list[Frame], chunks: list[Chunk], control: list[tuple[Control, Stream | None]]) -> None:
        self.frames = frames
        self.chunks = chunks
        self.control = control


class End:
    """The streams of one end, without a session: shots are made, taken in, acknowledged and lost by hand."""

    def __init__(self, client: bool) -> None:
        self.news: dict[Stream, None] = {}
        self.table = StreamTable(client, SIZE, "test", self.news, lambda: None)

    def shot(self) -> Shot | None:
        """The next shot, if there is anything to send."""
        writer = ShotWriter()
        writer.begin(0)
        control = self.table.write_control(writer)
        chunks = self.table.scheduler.fill(writer, MAX_UNACKED_CHUNKS, True)
        if not control and not chunks:
            return None
        return Shot(open_frames(AEAD, writer.seal(AEAD, 0, 0, 0))[1], chunks, control)

    def shots(self) -> list[Shot]:
        found = []
        while (shot := self.shot()) is not None:
            found.append(shot)
        return found

    def take(self, frame: Frame) -> None:
        """A frame arrived."""
        if frame[0] == CREDIT:
            self.table.raise_limit(frame[1])
        elif frame[0] == STREAM_CREDIT:
            self.table.raise_stream_limit(*frame[1:])
        else:
            stream = self.table.known(frame[1]) or self.table.accept(frame[1])
            if stream is not None:
                (stream.receive if frame[0] == STREAM else stream.receive_reset)(*frame[2:])

    def acked(self, shot: Shot) -> None:
        for chunk in shot.chunks:
            chunk.stream.chunk_acked(chunk)
        for kind, stream in shot.control:
            if kind == Control.RESET and stream is not None:
                stream.reset_acked()

    def lost(self, shot: Shot) -> None:
        for chunk in shot.chunks:
            if chunk.stream.chunk_lost(chunk):
                self.table.schedule(chunk.stream)
        for kind, stream in shot.control:
            self.table.queue_control(kind, stream)

    def balanced(self) -> bool:
        """Nothing is open, held, or waits."""
        table = self.table
        return not (len(table) or table.receiving.held or table.pieces or table.sending.unsent or table.sending.lost_chunks)


# --- the state tables: one end, what it does step by step

DATA = 2_500  # three payloads


class Rig:
    """A server's stream 0, what it has sent, and what that came to on the wire."""

    def __init__(self) -> None:
        self.end = End(client=False)
        stream = self.end.table.accept(0)
        assert stream is not None
        self.stream = stream
        self.under_way: list[Shot] = []
        self.wire: list[str] = []
        self.steps: dict[str, Callable[[], None]] = {
            "write": lambda: self.stream.write(bytes(DATA)),
            "finish": self.stream.finish,
            "reset": self.stream.reset,
            "reset 3": lambda: self.stream.reset(3),
            "send": self.send,
            "ack": self.ack,
            "lose": self.lose,
            "fin comes": lambda: self.end.take((STREAM, 0, 0, b"", True)),
            "data comes": lambda: self.end.take((STREAM, 0, 0, bytes(10), False)),
            "data and fin come": lambda: self.end.take((STREAM, 0, 0, bytes(10), True)),
            "consume": lambda: self.stream.consume(10),
            "reset comes": lambda: self.end.take((RESET, 0, REFUSED, 10)),
        }

    def send(self) -> None:
        for shot in self.end.shots():
            self.under_way.append(shot)
            self.wire += [self.name(frame) for frame in shot.frames]

    def name(self, frame: Frame) -> str:
        if frame[0] == STREAM:
            return f"{frame[2]}+{len(frame[3])}" + " fin" * frame[4]
        assert frame[0] == RESET
        return f"reset {frame[2]} at {frame[3]}"

    def ack(self) -> None:
        self.end.acked(self.under_way.pop())

    def lose(self) -> None:
        self.end.lost(self.under_way.pop())


@pytest.mark.parametrize(
    ("plan", "wire", "gone"),
    [
        # open
        ("send", [], False),
        ("write send", ["0+1000", "1000+1000", "2000+500"], False),
        ("write send lose send", ["0+1000", "1000+1000", "2000+500", "2000+500"], False),
        # open → finishing
        ("finish send", ["0+0 fin"], False),
        ("write finish send", ["0+1000", "1000+1000", "2000+500 fin"], False),
        ("write send finish send", ["0+1000", "1000+1000", "2000+500", "2500+0 fin"], False),
        ("finish finish send finish send", ["0+0 fin"], False),
        ("finish send lose send", ["0+0 fin", "0+0 fin"], False),
        # finishing → done: when every chunk is acked
        ("finish send ack", ["0+0 fin"], False),
        ("fin_comes finish send", ["0+0 fin"], False),
        ("fin_comes finish send ack", ["0+0 fin"], True),
        ("finish send ack fin_comes", ["0+0 fin"], True),
        ("fin_comes write finish send ack ack", ["0+1000", "1000+1000", "2000+500 fin"], False),
        ("fin_comes write finish send ack ack ack", ["0+1000", "1000+1000", "2000+500 fin"], True),
        ("fin_comes finish send lose send ack", ["0+0 fin", "0+0 fin"], True),
        # open or finishing → reset
        ("reset send", ["reset 0 at 0"], False),
        ("write reset send", ["reset 0 at 0"], False),
        ("write send reset send", ["0+1000", "1000+1000", "2000+500", "reset 0 at 2500"], False),
        ("finish reset send", ["reset 0 at 0"], False),
        ("write send reset lose send", ["0+1000", "1000+1000", "2000+500", "reset 0 at 2500"], False),
        ("write send lose reset send", ["0+1000", "1000+1000", "2000+500", "reset 0 at 2500"], False),
        # reset → done: when it is acked, and the other direction ended
        ("reset send ack", ["reset 0 at 0"], False),
        ("reset send lose send ack", ["reset 0 at 0", "reset 0 at 0"], False),
        ("fin_comes reset send ack", ["reset 0 at 0"], True),
        ("reset send ack fin_comes", ["reset 0 at 0"], True),
        ("reset send ack data_comes", ["reset 0 at 0"], False),
        ("reset send ack data_and_fin_come", ["reset 0 at 0"], True),
        ("reset send ack reset_comes", ["reset 0 at 0"], True),
        ("reset send reset_comes", ["reset 0 at 0"], False),
        # receiving: open → done, when all was consumed or RESET came
        ("finish send ack data_and_fin_come", ["0+0 fin"], False),
        ("finish send ack data_and_fin_come consume", ["0+0 fin"], True),
        ("finish send ack reset_comes", ["0+0 fin"], True),
        ("reset_comes send", ["reset 1 at 0"], False),
        ("reset_comes send ack", ["reset 1 at 0"], True),
        ("finish send reset_comes send", ["0+0 fin", "reset 1 at 0"], False),
        ("finish send reset_comes send ack", ["0+0 fin", "reset 1 at 0"], True),
        # steps that do nothing any more
        ("reset reset_3 send reset_3 send", ["reset 0 at 0"], False),
        ("reset_3 reset finish send", ["reset 3 at 0"], False),
        ("reset_comes reset_comes send reset_comes finish reset send", ["reset 1 at 0"], False),
        ("reset reset_comes send", ["reset 0 at 0"], False),
        ("fin_comes finish send ack reset finish send", ["0+0 fin"], True),
        ("fin_comes finish send ack reset_comes data_comes send", ["0+0 fin"], True),
    ],
)
def test_the_states_of_a_stream(plan: str, wire: list[str], gone: bool) -> None:
    rig = Rig()
    for step in plan.split():
        rig.steps[step.replace("_", " ")]()
    assert rig.wire == wire
    assert (rig.end.table.get(0) is None) is gone
    assert rig.stream.done is gone
    if gone:
        assert rig.end.balanced()


@pytest.mark.parametrize("how", ["data comes", "data and fin come"])
def test_what_was_not_delivered_is_dropped_by_a_reset(how: str) -> None:
    for reset in ("reset", "reset comes"):
        rig = Rig()
        rig.steps["write"]()
        rig.steps[how]()
        rig.steps[reset]()
        assert rig.stream.readable == 0
        assert rig.stream.room == 0
        assert rig.end.table.receiving.held == 0
        assert rig.end.table.sending.unsent == 0


def test_data_after_a_reset_of_this_end_is_dropped_as_it_comes() -> None:
    rig = Rig()
    rig.stream.reset()
    rig.end.news.clear()
    rig.stream.receive(100, bytes(50), False)
    assert (rig.stream.readable, rig.end.table.receiving.held, rig.end.table.pieces) == (0, 0, 0)
    assert rig.end.news == {}


def test_the_local_side_is_told_of_what_it_has_to_look_at() -> None:
    rig = Rig()
    news = rig.end.news

    def told(act: Callable[[], object]) -> bool:
        news.clear()
        act()
        return rig.stream in news

    assert told(lambda: rig.stream.receive(0, b"abc", False))
    assert not told(lambda: rig.stream.receive(10, b"abc", False))
    assert not told(lambda: rig.stream.receive(0, b"abc", False))
    assert told(lambda: rig.stream.receive(3, bytes(7), False))
    assert not told(lambda: rig.stream.receive(13, b"", True))
    assert told(lambda: rig.stream.receive_reset(REFUSED, 13))
    assert rig.stream.reset_code == REFUSED


# --- the first shot of a stream


def test_a_stream_is_opened_by_an_empty_frame_or_by_its_data() -> None:
    client = End(client=True)
    first, second = client.table.open(), client.table.open()
    second.write(b"hi")
    (shot,) = client.shots()
    assert shot.frames == [(STREAM, first.id, 0, b"", False), (STREAM, second.id, 0, b"hi", False)]


def test_a_stream_that_is_reset_before_it_is_opened_sends_a_reset_alone() -> None:
    client = End(client=True)
    stream = client.table.open()
    stream.write(b"hi")
    stream.reset()
    (shot,) = client.shots()
    assert shot.frames == [(RESET, stream.id, BY_PROGRAM, 0)]


# --- final sizes


def data(offset: int, length: int, fin: bool = False) -> Frame:
    return (STREAM, 0, offset, bytes(length), fin)


def reset_at(final_size: int) -> Frame:
    return (RESET, 0, BY_PROGRAM, final_size)


@pytest.mark.parametrize(
    ("before", "last"),
    [
        (data(0, 10, True), data(10, 1)),
        (data(0, 10, True), data(0, 5, True)),
        (data(0, 10, True), data(10, 5, True)),
        (data(20, 10), data(0, 10, True)),
        (data(0, 10), reset_at(9)),
        (data(20, 10), reset_at(29)),
        (data(0, 10, True), reset_at(9)),
        (data(0, 10, True), reset_at(11)),
        (data(5, 5, True), reset_at(11)),
        (reset_at(10), data(10, 1)),
        (reset_at(10), data(0, 5, True)),
        (reset_at(10), reset_at(11)),
        (reset_at(10), reset_at(9)),
    ],
)
def test_a_contradicting_final_size_is_a_protocol_error(before: Frame, last: Frame) -> None:
    end = End(client=False)
    end.take(before)
    with pytest.raises(RemoteProtocolError):
        end.take(last)


@pytest.mark.parametrize(
    "frames",
    [
        [data(0, 10), reset_at(10)],
        [data(0, 10), reset_at(25)],
        [data(0, 10, True), reset_at(10)],
        [data(0, 10, True), data(0, 10, True), data(4, 6, True), data(2, 3)],
        [reset_at(25), data(0, 10), data(15, 10, True), reset_at(25)],
        [data(20, 5), reset_at(25), data(0, 20)],
    ],
)
def test_a_final_size_that_agrees_counts_every_byte_once(frames: list[Frame]) -> None:
    end = End(client=False)
    for frame in frames:
        end.take(frame)
    stream = end.table.get(0)
    assert stream is not None
    stream.consume(stream.readable)
    assert end.table.receiving.held == 0


# --- the credit of a stream


class Reader:
    """A server's stream that receives, and the credit that it granted last."""

    def __init__(self) -> None:
        self.end = End(client=False)
        stream = self.end.table.accept(0)
        assert stream is not None
        self.stream = stream

    def receive(self, count: int) -> None:
        self.stream.receive(self.stream.incoming.highest, bytes(count), False)

    def granted(self) -> list[int]:
        """What it grants now."""
        return [frame[2] for shot in self.end.shots() for frame in shot.frames if frame[0] == STREAM_CREDIT]


@pytest.mark.parametrize(
    ("received", "consumed", "granted"),
    [
        (INITIAL_WINDOW, INITIAL_WINDOW, [3 * INITIAL_WINDOW]),  # held, and all taken: the window doubles
        (INITIAL_WINDOW, INITIAL_WINDOW - 1, [2 * INITIAL_WINDOW - 1]),  # held, but the reader is behind
        (INITIAL_WINDOW, HALF, [INITIAL_WINDOW + HALF]),
        (INITIAL_WINDOW, HALF - 1, []),
        (INITIAL_WINDOW, 0, []),
        (INITIAL_WINDOW - INITIAL_WINDOW // 4, INITIAL_WINDOW - INITIAL_WINDOW // 4, [2 * INITIAL_WINDOW - INITIAL_WINDOW // 4]),
        (HALF, HALF, [INITIAL_WINDOW + HALF]),  # the sender was not held
        (HALF - 1, HALF - 1, []),
    ],
)
def test_credit_grows_for_a_reader_that_drains_and_a_sender_that_was_held(received: int, consumed: int, granted: list[int]) -> None:
    reader = Reader()
    reader.receive(received)
    reader.stream.consume(consumed)
    assert reader.granted() == granted


def test_a_reader_that_stopped_gets_no_more() -> None:
    reader = Reader()
    reader.receive(INITIAL_WINDOW)
    for _ in range(10):
        reader.stream.consume(0)
    assert reader.granted() == []
    with pytest.raises(RemoteProtocolError, match=f"byte {INITIAL_WINDOW + 1} of stream 0 with a credit of {INITIAL_WINDOW}"):
        reader.receive(1)


def test_a_reader_that_keeps_up_gets_ever_more() -> None:
    reader = Reader()
    windows = []
    for _ in range(4):
        reader.receive(reader.stream.credit_limit - reader.stream.incoming.highest)
        reader.stream.consume(reader.stream.readable)
        windows.append(reader.stream.credit_limit - reader.stream.incoming.highest)
        assert reader.granted() == [reader.stream.credit_limit]
    assert windows == [INITIAL_WINDOW * 2**n for n in range(1, 5)]


def test_who_sends_nothing_more_is_granted_nothing_more() -> None:
    reader = Reader()
    reader.stream.receive(0, bytes(INITIAL_WINDOW), True)
    reader.stream.consume(INITIAL_WINDOW)
    assert reader.granted() == []
    assert reader.stream.at_end


@pytest.mark.parametrize(("limit", "more"), [(INITIAL_WINDOW - 1, 0), (INITIAL_WINDOW, 0), (INITIAL_WINDOW + 7, 7)])
def test_a_sender_goes_on_when_it_is_granted_more(limit: int, more: int) -> None:
    end = End(client=True)
    stream = end.table.open()
    stream.write(bytes(INITIAL_WINDOW + 10))
    assert sum(len(chunk.data) for shot in end.shots() for chunk in shot.chunks) == INITIAL_WINDOW
    end.news.clear()
    end.take((STREAM_CREDIT, 0, limit))
    assert sum(len(chunk.data) for shot in end.shots() for chunk in shot.chunks) == more
    assert (stream in end.news) is (more > 0)


def test_all_streams_go_on_when_the_session_is_granted_more() -> None:
    end = End(client=True)
    streams = [end.table.open() for _ in range(2)]
    end.table.sending.total = SESSION_WINDOW
    for stream in streams:
        stream.write(bytes(10))
    assert [len(chunk.data) for shot in end.shots() for chunk in shot.chunks] == [0, 0]
    end.news.clear()
    end.take((CREDIT, SESSION_WINDOW + 15))
    assert [len(chunk.data) for shot in end.shots() for chunk in shot.chunks] == [10, 5]
    assert list(end.news) == streams


# --- room


@pytest.mark.parametrize(
    ("stream_credit", "session_left", "unsent", "room"),
    [
        (INITIAL_WINDOW, SESSION_WINDOW, 0, INITIAL_WINDOW),
        (INITIAL_WINDOW, SESSION_WINDOW, 1_000, INITIAL_WINDOW - 1_000),
        (INITIAL_WINDOW, SESSION_WINDOW, INITIAL_WINDOW, 0),
        (2**40, SESSION_WINDOW, 0, MAX_UNSENT),
        (2**40, SESSION_WINDOW, MAX_UNSENT - 1, 1),
        (2**40, 5_000, 0, 5_000),
        (2**40, 5_000, 4_000, 1_000),
        (2**40, 0, 0, 0),
    ],
)
def test_room_is_what_windows_and_read_ahead_leave(stream_credit: int, session_left: int, unsent: int, room: int) -> None:
    end = End(client=True)
    stream = end.table.open()
    stream.raise_send_limit(stream_credit)
    end.table.sending.total = SESSION_WINDOW - session_left
    stream.write(bytes(unsent))
    assert stream.room == room


def test_what_was_sent_takes_no_room_of_the_read_ahead() -> None:
    end = End(client=True)
    stream = end.table.open()
    stream.write(bytes(10_000))
    end.shots()
    assert stream.room == INITIAL_WINDOW - 10_000
    assert stream.unsent == 0


@pytest.mark.parametrize("act", [Stream.finish, Stream.reset, lambda stream: stream.abandon(BY_PROGRAM)])
def test_a_stream_that_sends_nothing_more_has_no_room(act: Callable[[Stream], None]) -> None:
    stream = End(client=True).table.open()
    assert stream.room > 0
    act(stream)
    assert stream.room == 0


# --- the table


def test_a_client_opens_streams_of_even_ids() -> None:
    table = End(client=True).table
    assert [table.open().id for _ in range(3)] == [0, 2, 4]
    assert (len(table), table.opened) == (3, 3)


def test_a_server_accepts_the_ids_of_a_client_in_any_order() -> None:
    end = End(client=False)
    for stream_id in (4, 0, 2, 4):
        end.take((STREAM, stream_id, 0, b"x", False))
    assert sorted(stream.id for stream in end.table) == [0, 2, 4]
    assert [stream.id for stream in end.news] == [4, 0, 2]


@pytest.mark.parametrize(
    ("client", "frame"),
    [
        (True, (STREAM, 1, 0, b"x", False)),  # only a client opens streams
        (True, (RESET, 1, 0, 0)),
        (True, (STREAM, 2, 0, b"x", False)),  # stream 0 alone was opened
        (True, (RESET, 2, 0, 0)),
        (True, (STREAM_CREDIT, 2, 1)),
        (False, (STREAM, 1, 0, b"x", False)),
        (False, (STREAM_CREDIT, 1, 1)),
    ],
)
def test_frames_that_name_a_stream_which_cannot_be(client: bool, frame: Frame) -> None:
    end = End(client)
    if client:
        end.table.open()
    with pytest.raises(RemoteProtocolError, match="stream"):
        end.take(frame)


@pytest.mark.parametrize("client", [True, False])
def test_a_closed_stream_is_forgotten_for_ever(client: bool) -> None:
    end = End(client)
    stream = end.table.open() if client else end.table.accept(0)
    assert stream is not None
    stream.finish()
    (shot,) = end.shots()
    end.take(data(0, 0, True))
    end.news.clear()
    end.acked(shot)
    assert list(end.news) == [stream]
    for frame in (data(0, 10), data(500, 10, True), reset_at(77), (STREAM_CREDIT, 0, 2**30)):
        end.take(frame)
    assert end.balanced()
    assert end.shots() == []


def test_one_stream_too_many_is_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcsplitter.table.MAX_STREAMS", 2)
    end = End(client=False)
    for stream_id in (0, 2, 4):
        end.take((STREAM, stream_id, 0, b"x", False))
    assert [frame for shot in end.shots() for frame in shot.frames] == [(RESET, 4, TOO_MANY, 0)]
    assert [stream.id for stream in end.news] == [0, 2]
    assert end.table.opened == 2


def test_when_the_session_ends_every_stream_does() -> None:
    end = End(client=True)
    streams = [end.table.open() for _ in range(3)]
    streams[0].write(bytes(DATA))
    streams[1].reset()
    end.news.clear()
    end.table.abandon()
    assert [stream.reset_code for stream in end.news] == [BY_PROGRAM] * 3
    assert end.balanced()
    assert end.shots() == []


# --- two ends


class Pair:
    """A client and a server; what is under way arrives when a test says so."""

    def __init__(self) -> None:
        self.ends = [End(client=True), End(client=False)]
        self.under_way: list[tuple[int, Shot]] = []

    def send(self) -> None:
        for side in (0, 1):
            self.under_way += [(side, shot) for shot in self.ends[side].shots()]

    def deliver(self, index: int) -> None:
        """One of the shots under way arrives, and so does its ack."""
        side, shot = self.under_way.pop(index)
        for frame in shot.frames:
            self.ends[1 - side].take(frame)
        self.ends[side].acked(shot)

    def lose(self, index: int) -> None:
        """Its sender takes a shot for lost; it may arrive all the same."""
        side, shot = self.under_way[index]
        self.ends[side].lost(shot)

    def settle(self) -> None:
        self.send()
        while self.under_way:
            self.deliver(0)
            self.send()

    def open(self) -> tuple[Stream, Stream]:
        stream = self.ends[0].table.open()
        self.settle()
        return stream, self.at(1, stream.id)

    def at(self, side: int, stream_id: int) -> Stream:
        stream = self.ends[side].table.get(stream_id)
        assert stream is not None
        return stream


def read(stream: Stream) -> bytes:
    """All that is readable."""
    found = b""
    while stream.readable:
        piece = b"".join(stream.peek(1 << 20))
        stream.consume(len(piece))
        found += piece
    return found


@pytest.mark.parametrize("first", [0, 1])
def test_half_close_leaves_the_other_direction_open(first: int) -> None:
    pair = Pair()
    streams = pair.open()
    finishing, other = streams[first], streams[1 - first]
    finishing.write(b"the last words")
    finishing.finish()
    pair.settle()
    assert not other.at_end
    assert read(other) == b"the last words"
    assert other.at_end
    other.write(bytes(DATA))
    pair.settle()
    assert len(read(finishing)) == DATA
    assert not finishing.at_end
    other.finish()
    pair.settle()
    assert finishing.at_end
    assert all(end.balanced() for end in pair.ends)


@pytest.mark.parametrize("first", [0, 1])
def test_a_reset_ends_both_directions_at_both_ends(first: int) -> None:
    pair = Pair()
    streams = pair.open()
    for stream in streams:
        stream.write(bytes(DATA))
    streams[first].reset(3)
    pair.settle()
    assert streams[1 - first].reset_code == 3
    assert all(end.balanced() for end in pair.ends)


def test_resets_that_cross_each_other() -> None:
    pair = Pair()
    streams = pair.open()
    for stream, code in zip(streams, (1, 3), strict=True):
        stream.write(bytes(DATA))
        stream.reset(code)
    pair.settle()
    assert [stream.reset_code for stream in streams] == [3, 1]
    assert [stream.sent_reset for stream in streams] == [1, 3]
    assert all(end.balanced() for end in pair.ends)


def test_data_that_comes_after_its_reset_is_counted_once() -> None:
    pair = Pair()
    client, _ = pair.open()
    client.write(bytes(DATA))
    pair.send()
    client.reset()
    pair.send()
    pair.deliver(len(pair.under_way) - 1)
    pair.settle()
    assert all(end.balanced() for end in pair.ends)


actions = st.one_of(
    st.tuples(st.just("open"), st.just(0), st.just(0), st.just(0)),
    st.tuples(st.just("write"), st.integers(0, 1), st.integers(0, 2), st.integers(1, 5_000)),
    st.tuples(st.sampled_from(["finish", "reset", "read", "read"]), st.integers(0, 1), st.integers(0, 2), st.just(0)),
    st.tuples(st.sampled_from(["send", "deliver", "deliver", "lose"]), st.integers(0, 10), st.just(0), st.just(0)),
)


@given(st.lists(actions, max_size=80))
def test_whatever_happens_streams_arrive_whole_and_nothing_is_left(plan: list[tuple[str, int, int, int]]) -> None:
    pair = Pair()
    written: dict[tuple[int, int], bytes] = {}
    received: dict[tuple[int, int], bytes] = {}
    everything: set[int] = set()
    reset: set[int] = set()

    def act(what: str, side: int, stream: Stream, count: int) -> None:
        key = (side, stream.id)
        if what == "write" and stream.room:
            piece = bytes([len(written.get(key, b"")) % 251]) * min(count, stream.room)
            written[key] = written.get(key, b"") + piece
            stream.write(piece)
        elif what == "finish":
            stream.finish()
        elif what == "reset":
            reset.add(stream.id)
            stream.reset()
        elif what == "read":
            received[key] = received.get(key, b"") + read(stream)

    for what, first, stream_id, count in [*plan, ("send", 0, 0, 0)]:
        if what == "open" and len(everything) < 3:
            everything.add(pair.ends[0].table.open().id)
        elif what == "send":
            pair.send()
        elif what in ("deliver", "lose") and first < len(pair.under_way):
            getattr(pair, what)(first)
        elif what in ("write", "finish", "reset", "read"):
            stream = pair.ends[first].table.get(2 * stream_id)
            if stream is not None:
                act(what, first, stream, count)
    for _ in range(10):
        pair.settle()
        for side in (0, 1):
            for stream in list(pair.ends[side].table):
                act("read", side, stream, 0)
                stream.finish()
    assert all(end.balanced() for end in pair.ends)
    for side in (0, 1):
        for stream_id in everything - reset:
            assert received.get((1 - side, stream_id), b"") == written.get((side, stream_id), b"")
