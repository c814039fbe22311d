"""Ends that have streams and no session: shots are made, taken in, acknowledged and lost as a test says."""

from __future__ import annotations

from typing import Any, cast

from shots import AEAD

from tcsplitter._core import CREDIT, RESET, STREAM, STREAM_CREDIT, ShotWriter, open_frames
from tcsplitter.chunks import Chunk, Control
from tcsplitter.payload import PayloadSize
from tcsplitter.recovery import MAX_UNACKED_CHUNKS
from tcsplitter.shared import Handling, Shared
from tcsplitter.streams import BY_PROGRAM, Stream
from tcsplitter.table import ControlFrame, StreamTable

SIZE = 1_000
NOW = 100.0
Frame = tuple[Any, ...]


class Shot:
    """What a shot carries: frames for the other end, and what its sender remembers of it."""

    def __init__(self, frames: list[Frame], chunks: list[Chunk], control: list[ControlFrame]) -> None:
        self.frames = frames
        self.chunks = chunks
        self.control = control


class End:
    """The streams of one end, without a session: shots are made, taken in, acknowledged and lost by hand."""

    def __init__(self, client: bool, handling: Handling | None = None) -> None:
        self.news: dict[Any, None] = {}
        handling = handling or Handling(size=SIZE)
        self.shared = Shared(handling, PayloadSize(handling.size), self.news, lambda: None)
        self.shared.now = NOW
        self.table = StreamTable(client, self.shared)

    def shot(self) -> Shot | None:
        """The next shot, if there is anything to send."""
        writer = ShotWriter()
        writer.begin(0, 0)
        control = self.table.write_control(writer)
        chunks = cast("list[Chunk]", self.shared.scheduler.fill(writer, MAX_UNACKED_CHUNKS, True))
        if not control and not chunks:
            return None
        return Shot(open_frames(AEAD, writer.seal(AEAD, 0, 0, 0))[2], chunks, control)

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
            chunk.source.chunk_acked(chunk)
        for kind, subject in shot.control:
            if kind == Control.RESET and isinstance(subject, Stream):
                subject.reset_acked()

    def lost(self, shot: Shot) -> None:
        for chunk in shot.chunks:
            if chunk.source.chunk_lost(chunk):
                self.shared.schedule(chunk.source)
        for kind, subject in shot.control:
            self.table.queue_control(kind, subject)

    def balanced(self) -> bool:
        """Nothing is open, held, or waits."""
        table, sending = self.table, self.shared.sending
        return not (len(table) or self.shared.receiving.held or table.pieces or sending.unsent or sending.lost_chunks)


class Pair:
    """A client and a server; what is under way arrives when a test says so."""

    def __init__(self, handling: Handling | None = None) -> None:
        self.ends = [End(client=True, handling=handling), End(client=False, handling=handling)]
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
        stream.consume(len(piece), NOW)
        found += piece
    return found


def data(offset: int, length: int, fin: bool = False) -> Frame:
    return (STREAM, 0, offset, bytes(length), fin)


def reset_at(final_size: int) -> Frame:
    return (RESET, 0, BY_PROGRAM, final_size)
