"""All streams of a session and what they share: ids, turns, windows, and the control frames that wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tcsplitter._core import RangeSet
from tcsplitter.chunks import Control
from tcsplitter.errors import RemoteProtocolError
from tcsplitter.streams import BY_PROGRAM, TOO_MANY, Stream

if TYPE_CHECKING:
    from tcsplitter._core import ShotWriter
    from tcsplitter.shared import Shared

MAX_STREAMS = 16_384
"""Open streams of a session."""
MAX_CONTROL = 256
"""Control frames in one shot."""
ControlFrame = tuple[Control, "Stream | int | None"]
"""A kind, and what it is about: a stream, for ASK the number of a shot, or nothing."""


class StreamTable:
    """The open streams, and the ids of those that are closed. It is the `streams.Host` of each."""

    def __init__(self, client: bool, shared: Shared) -> None:
        self.shared = shared
        self.pieces = 0
        """Separate pieces held in all reassembly buffers."""
        self.opened = 0
        """Streams there have been."""
        self.large: dict[Stream, None] = {}
        """Those whose receiving windows have grown."""
        self._client = client
        self._open: dict[int, Stream] = {}
        self._next_id = 0
        self._closed = RangeSet()
        self._control: dict[ControlFrame, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._open.values())

    def get(self, stream_id: int) -> Stream | None:
        return self._open.get(stream_id)

    # ---------------------------------------------------------------------- opening and closing

    def open(self) -> Stream:
        """Client: a new stream."""
        stream = self._open[self._next_id] = Stream(self, self._next_id, opened=False)
        self._next_id += 2
        self.opened += 1
        self._count_streams()
        self.shared.schedule(stream)
        return stream

    def known(self, stream_id: int) -> Stream | None:
        """The stream if it is open. Raises RemoteProtocolError for one of this end's that it has not opened yet."""
        stream = self._open.get(stream_id)
        if stream is None and self._opened_here(stream_id) and stream_id >= self._next_id:
            raise RemoteProtocolError(f"names stream {stream_id}, which this end has not opened")
        return stream

    def accept(self, stream_id: int) -> Stream | None:
        """Server: a stream that the client opens; None if it is closed already.

        One too many is reset. Raises RemoteProtocolError for those that a client may not open, or opens regardless.
        """
        if self._opened_here(stream_id) or stream_id in self._closed:
            return None
        if self._client:
            raise RemoteProtocolError("opened a stream, which only a client may")
        full = len(self._open) >= MAX_STREAMS
        if len(self._open) >= 2 * MAX_STREAMS:
            raise RemoteProtocolError(f"opens streams although {MAX_STREAMS} were refused")
        if len(self._closed) > 2 * MAX_STREAMS:
            raise RemoteProtocolError("skips stream ids without end")
        stream = self._open[stream_id] = Stream(self, stream_id, opened=True)
        self._count_streams()
        if full:
            stream.reset(TOO_MANY)
        else:
            self.opened += 1
            self.shared.tell(stream)
        return stream

    def forget_if_done(self, stream: Stream) -> None:
        """Close a stream whose two directions have ended."""
        if stream.done and self._open.pop(stream.id, None) is not None:
            if not self._opened_here(stream.id):
                self._closed.add(stream.id, stream.id | 1)
            self.shared.sending.held.pop(stream, None)
            self.large.pop(stream, None)
            self._count_streams()
            self.shared.tell(stream)

    def _count_streams(self) -> None:
        """There are more open streams than before, or fewer: so is the window of all of them."""
        self.shared.sending.streams = self.shared.receiving.streams = len(self._open)
        self.return_credit(0)

    def abandon(self) -> None:
        """The session ended."""
        for stream in list(self._open.values()):
            stream.abandon(BY_PROGRAM)
            self.shared.tell(stream)
        self._open.clear()
        self.large.clear()
        self._control.clear()

    def _opened_here(self, stream_id: int) -> bool:
        return (stream_id & 1 == 0) == self._client

    def set_peer_skip(self, attempts: int) -> None:
        """The other end said how many attempts are made for data that does not come; -1: no end of them."""
        self.shared.peer_skip = attempts
        for stream in self._open.values():
            stream.set_attempts()

    # ---------------------------------------------------------------------------- control frames

    def queue_control(self, kind: Control, subject: Stream | int | None = None) -> None:
        """Have a control frame sent soon."""
        self.shared.touch()
        self._control[(kind, subject)] = None

    def has_control(self) -> bool:
        """Control frames wait."""
        return bool(self._control)

    def write_control(self, writer: ShotWriter) -> list[ControlFrame]:
        """Write the control frames that wait to a shot's body, as things stand now."""
        control = list(self._control)[:MAX_CONTROL]
        for item in control:
            del self._control[item]
            kind, subject = item
            if isinstance(subject, Stream):
                _write_of_stream(writer, kind, subject)
            elif subject is not None:
                writer.ask(subject)
            elif kind == Control.CREDIT:
                writer.credit(self.shared.receiving.limit)
            else:
                writer.ping()
        return control

    # ----------------------------------------------------------------------------------- windows

    def raise_limit(self, total: int) -> None:
        """The other end grants more bytes of all streams together."""
        if self.shared.sending.raise_limit(total):
            self.shared.let_go()

    def raise_stream_limit(self, stream_id: int, limit: int, read: int) -> None:
        """The other end grants more bytes of one stream, of which its program has read so many."""
        stream = self.known(stream_id)
        if stream is not None and stream.raise_send_limit(limit, read):
            self.shared.schedule(stream)
            self.shared.tell(stream)

    def pass_by(self, stream_id: int, offset: int) -> None:
        """The other end needs no more of a stream below this offset."""
        stream = self.known(stream_id)
        if stream is not None:
            stream.passed_by(offset)

    def count_received(self, fresh: int, pieces: int) -> None:
        """Account for new bytes and pieces of a stream. Raises RemoteProtocolError beyond the session's credit."""
        self.pieces += pieces
        receiving = self.shared.receiving
        receiving.count(fresh)
        if fresh and receiving.has_shrunk():
            self.return_credit(0)
            for stream in self.large:
                stream.grant(self.shared.now)

    def return_credit(self, count: int) -> None:
        """The local program consumed bytes."""
        self.shared.touch()
        if self.shared.receiving.give_back(count):
            self.queue_control(Control.CREDIT)


def _write_of_stream(writer: ShotWriter, kind: Control, stream: Stream) -> None:
    if kind == Control.RESET:
        writer.reset(stream.id, stream.sent_reset or BY_PROGRAM, stream.final_size)
    elif kind == Control.STREAM_CREDIT:
        writer.stream_credit(stream.id, stream.credit_limit, stream.incoming.read_offset)
    else:
        writer.skip(stream.id, stream.incoming.read_offset)
