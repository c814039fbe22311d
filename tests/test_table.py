"""The table of streams, and the streams of two ends that exchange real frames."""

from __future__ import annotations

import random

import pytest
from stream_ends import End, Frame, Pair, data, read, reset_at

from tcsplitter import credit
from tcsplitter._core import RESET, STREAM, STREAM_CREDIT
from tcsplitter.errors import RemoteProtocolError
from tcsplitter.streams import BY_PROGRAM, TOO_MANY

DATA = 2_500  # three payloads


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
        (True, (STREAM_CREDIT, 2, 1, 0)),
        (False, (STREAM, 1, 0, b"x", False)),
        (False, (STREAM_CREDIT, 1, 1, 0)),
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
    for frame in (data(0, 10), data(500, 10, True), reset_at(77), (STREAM_CREDIT, 0, 2**30, 0)):
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


def test_what_was_never_sent_does_not_use_up_the_credit_of_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credit, "SESSION_WINDOW", 50_000)
    monkeypatch.setattr(credit, "FIRST_WINDOWS", 0)
    pair = Pair()
    client, _ = pair.open()
    client.write(bytes(DATA))
    client.reset()
    other, at_server = pair.open()
    other.write(bytes(other.room))
    pair.settle()
    assert at_server.readable == pair.ends[0].shared.sending.total == 50_000


class Programs:
    """What the local programs of two streams wrote and read at both ends, and which streams they reset."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        opened = [pair.ends[0].table.open().id for _ in range(2)]
        self.written = {(side, stream_id): b"" for side in (0, 1) for stream_id in opened}
        self.received = dict.fromkeys(self.written, b"")
        self.reset: set[int] = set()

    def act(self, what: str, side: int, stream_id: int, count: int) -> None:
        stream = self.pair.ends[side].table.get(stream_id)
        if stream is None:
            return
        if what == "write":
            count = min(count, stream.room)
            piece = bytes((len(self.written[side, stream_id]) + n) % 251 for n in range(count))
            self.written[side, stream_id] += piece
            stream.write(piece)
        elif what == "read":
            self.received[side, stream_id] += read(stream)
        elif what == "finish":
            stream.finish()
        else:
            self.reset.add(stream_id)
            stream.reset()

    def end(self) -> None:
        """All of them read on, and send nothing more."""
        for _ in range(5):
            self.pair.settle()
            for side, stream_id in self.written:
                self.act("read", side, stream_id, 0)
                self.act("finish", side, stream_id, 0)


STEPS = ("write", "write", "finish", "reset", "read", "read", "read", "send", "send", "deliver", "deliver", "lose")


@pytest.mark.parametrize("seed", range(400))
def test_whatever_happens_streams_arrive_whole_and_nothing_is_left(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credit, "SESSION_WINDOW", 12_000)
    monkeypatch.setattr(credit, "FIRST_WINDOWS", seed % 2)
    rng = random.Random(seed)
    pair = Pair()
    programs = Programs(pair)
    for _ in range(rng.randrange(60)):
        step = rng.choice(STEPS)
        if step == "send":
            pair.send()
        elif step not in ("deliver", "lose"):
            programs.act(step, rng.randrange(2), 2 * rng.randrange(2), rng.randrange(1, 3_000))
        elif pair.under_way:
            index = rng.randrange(len(pair.under_way))
            (pair.deliver if step == "deliver" else pair.lose)(index)
    programs.end()
    assert all(end.balanced() for end in pair.ends)
    for side, stream_id in programs.written:
        if stream_id not in programs.reset:
            assert programs.received[1 - side, stream_id] == programs.written[side, stream_id]
