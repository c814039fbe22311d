"""Streams: the state tables in Stream's docstring, final sizes, and windows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from stream_ends import NOW, End, Frame, Shot, data, reset_at

from tcsplitter._core import CREDIT, RESET, STREAM, STREAM_CREDIT
from tcsplitter.credit import (
    FAST_GROWTH,
    GAP_GROWTH,
    GROWTH_RTTS,
    GROWTH_SECONDS,
    INITIAL_WINDOW,
    MAX_WINDOW,
    SESSION_SHARE,
    SESSION_WINDOW,
    WHOLE_WINDOW,
    WINDOW_SHARE,
)
from tcsplitter.errors import RemoteProtocolError
from tcsplitter.shared import MAX_UNSENT
from tcsplitter.streams import BY_PROGRAM, REFUSED, Stream

DATA = 2_500  # three payloads
HALF, QUARTER = INITIAL_WINDOW // 2, INITIAL_WINDOW // 4


# --- the state tables: one end, what it does step by step


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
            "consume": lambda: self.stream.consume(10, NOW),
            "reset comes": lambda: self.end.take((RESET, 0, REFUSED, 10)),
        }

    def send(self) -> None:
        for shot in self.end.shots():
            self.under_way.append(shot)
            self.wire += [self.name(frame) for frame in shot.frames]

    def name(self, frame: Frame) -> str:
        if frame[0] == STREAM:
            return f"{frame[2]}+{len(frame[3])}{' fin' if frame[4] else ''}"
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
        assert rig.end.shared.receiving.held == 0
        assert rig.end.shared.sending.unsent == 0


def test_data_after_a_reset_of_this_end_is_dropped_as_it_comes() -> None:
    rig = Rig()
    rig.stream.reset()
    rig.end.news.clear()
    rig.stream.receive(100, bytes(50), False)
    assert (rig.stream.readable, rig.end.shared.receiving.held, rig.end.table.pieces) == (0, 0, 0)
    assert rig.end.news == {}


def test_pieces_that_wait_for_a_gap_to_be_filled_are_counted() -> None:
    rig = Rig()
    counts = []
    for offset in (10, 30, 20, 0):
        rig.stream.receive(offset, bytes(10), False)
        counts.append(rig.end.table.pieces)
    assert counts == [1, 2, 1, 0]
    rig.stream.receive(90, bytes(10), False)
    rig.stream.reset()
    assert rig.end.table.pieces == 0


def test_the_local_side_is_told_of_room_only_if_there_was_none() -> None:
    end = End(client=True)
    stream = end.table.open()
    assert stream is not None
    end.take((STREAM_CREDIT, stream.id, 10 * MAX_UNSENT, 0))
    for filled in (False, True):
        stream.write(bytes(stream.room if filled else 1_000))
        assert (stream.room == 0) is filled
        end.news.clear()
        end.shots()
        assert (stream in end.news) is filled


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
    stream.consume(stream.readable, NOW)
    assert end.shared.receiving.held == 0


# --- the credit of a stream


class Reader:
    """A server's stream that receives, and the credit that it granted last."""

    def __init__(self, rtt: float = 0.0) -> None:
        self.end = End(client=False)
        self.end.shared.rtt = rtt
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
        (INITIAL_WINDOW, 0, []),
        (QUARTER, QUARTER - 1, []),
        (INITIAL_WINDOW, QUARTER - 1, []),
        (QUARTER, QUARTER, [INITIAL_WINDOW + QUARTER]),
        (INITIAL_WINDOW, QUARTER, [INITIAL_WINDOW + QUARTER]),
        (INITIAL_WINDOW, INITIAL_WINDOW, [2 * INITIAL_WINDOW]),
    ],
)
def test_credit_is_granted_when_a_quarter_of_a_window_was_consumed(received: int, consumed: int, granted: list[int]) -> None:
    reader = Reader()
    reader.receive(received)
    reader.stream.consume(consumed, NOW + 2 * GROWTH_SECONDS)
    assert reader.granted() == granted


def drain(reader: Reader, *times: float) -> list[int]:
    """At each of these times the sender uses its credit up and the reader takes all; the windows granted."""
    windows = []
    for at in times:
        reader.receive(reader.stream.credit_limit - reader.stream.incoming.highest)
        reader.end.shared.now = at
        reader.stream.consume(reader.stream.readable, at)
        windows.append(reader.stream.credit_limit - reader.stream.incoming.highest)
        assert reader.granted() == [reader.stream.credit_limit]
    return windows


@pytest.mark.parametrize(
    ("rtt", "pause", "factor"),
    [
        (0.1, 0.199, FAST_GROWTH),
        (0.1, GROWTH_RTTS * 0.1 + 0.001, 1),
        (0.001, 0.009, FAST_GROWTH),
        (0.001, GROWTH_SECONDS + 0.001, 1),
    ],
)
def test_a_window_grows_while_it_is_consumed_in_less_than_two_rtts(rtt: float, pause: float, factor: int) -> None:
    windows = drain(Reader(rtt), *(NOW + turn * pause for turn in range(1, 6)))
    assert windows == [min(INITIAL_WINDOW * factor**turn, WHOLE_WINDOW) for turn in range(1, 6)]


def test_a_window_that_is_used_up_behind_a_gap_grows_at_once() -> None:
    reader = Reader()
    limits = [INITIAL_WINDOW]
    while limits[-1] < MAX_WINDOW:
        reader.stream.receive(limits[-1] - 1_000, bytes(1_000), False)
        assert reader.granted() == [reader.stream.credit_limit]
        limits.append(reader.stream.credit_limit)
    assert limits == [min(INITIAL_WINDOW * GAP_GROWTH**turn, MAX_WINDOW) for turn in range(6)]
    reader.stream.receive(MAX_WINDOW - 1_000, bytes(1_000), False)
    assert reader.granted() == []


def test_where_the_rtt_is_next_to_nothing_a_gap_makes_it_no_larger_than_a_quick_reader() -> None:
    reader = Reader()
    reader.end.shared.short = True
    while (limit := reader.stream.credit_limit) < WHOLE_WINDOW:
        reader.stream.receive(limit - 1_000, bytes(1_000), False)
        assert reader.stream.credit_limit > limit
    reader.stream.receive(limit - 1_000, bytes(1_000), False)
    assert reader.stream.credit_limit == limit == WHOLE_WINDOW


def test_the_credit_of_the_session_grows_with_the_largest_window() -> None:
    """It is told with that: behind a gap nothing more may come that could be consumed."""
    reader = Reader()
    stream, receiving = reader.stream, reader.end.shared.receiving
    told = []
    window = INITIAL_WINDOW
    while window < MAX_WINDOW:
        stream.receive(stream.credit_limit - 1_000, bytes(1_000), False)
        told += [frame[1] for shot in reader.end.shots() for frame in shot.frames if frame[0] == CREDIT]
        window = stream.credit_limit
        assert receiving.limit > (1 - 1 / WINDOW_SHARE) * max(SESSION_WINDOW, SESSION_SHARE * window)
    assert told[-1] == receiving.limit


def test_a_window_does_not_grow_behind_a_gap_while_the_reader_has_something_to_take() -> None:
    reader = Reader(1.0)
    reader.receive(1)
    reader.stream.receive(INITIAL_WINDOW - 1_000, bytes(1_000), False)
    assert reader.granted() == []
    reader.stream.consume(1, NOW)
    assert reader.granted() == [1 + INITIAL_WINDOW * GAP_GROWTH]


@pytest.mark.parametrize("steps", [1, 64])
def test_a_reader_that_stopped_gets_no_more_than_it_took(steps: int) -> None:
    reader = Reader(1.0)
    drain(reader, NOW, NOW + 0.1, NOW + 0.2)
    window = reader.stream.credit_limit - reader.stream.incoming.highest
    reader.receive(window)
    share = min(window, reader.end.shared.receiving.free // 2) // 4
    for _ in range(steps):
        reader.stream.consume((share - 1) // steps, NOW + 0.3)
    assert reader.granted() == []
    with pytest.raises(RemoteProtocolError, match=f"of stream 0 with a credit of {reader.stream.credit_limit}"):
        reader.receive(1)


def test_who_sends_nothing_more_is_granted_nothing_more() -> None:
    reader = Reader()
    reader.stream.receive(0, bytes(INITIAL_WINDOW), True)
    reader.stream.consume(HALF, NOW)
    reader.stream.consume(HALF, NOW)
    assert reader.granted() == []
    assert reader.stream.at_end


@pytest.mark.parametrize(("limit", "more"), [(INITIAL_WINDOW - 1, 0), (INITIAL_WINDOW, 0), (INITIAL_WINDOW + 7, 7)])
def test_a_sender_goes_on_when_it_is_granted_more(limit: int, more: int) -> None:
    end = End(client=True)
    stream = end.table.open()
    stream.write(bytes(INITIAL_WINDOW + 10))
    assert sum(len(chunk.data) for shot in end.shots() for chunk in shot.chunks) == INITIAL_WINDOW
    end.news.clear()
    end.take((STREAM_CREDIT, 0, limit, 0))
    assert sum(len(chunk.data) for shot in end.shots() for chunk in shot.chunks) == more
    assert (stream in end.news) is (more > 0)


def test_all_streams_go_on_when_the_session_is_granted_more() -> None:
    end = End(client=True)
    streams = [end.table.open() for _ in range(2)]
    end.shared.sending.total = SESSION_WINDOW
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
    stream.raise_send_limit(stream_credit, 0)
    end.shared.sending.total = SESSION_WINDOW - session_left
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
