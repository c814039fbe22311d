"""What shots carry of streams and about them: chunks of their data, and control frames."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tcsplitter._core import ShotWriter
    from tcsplitter.credit import SendWindow
    from tcsplitter.scheduler import Source


class Control(IntEnum):
    """Control frames that are written anew, from the state of that moment, whenever they are sent or sent again."""

    RESET = 0
    STREAM_CREDIT = 1
    CREDIT = 2
    PING = 3
    SKIP = 4
    ASK = 5


class Chunk:
    """A piece of a stream as it was cut for a payload; it is resent as it is. One without data opens a stream, ends it, or says
    how far it goes."""

    __slots__ = ("acked", "data", "fin", "offset", "source")

    def __init__(self, source: Source, offset: int, data: bytes | memoryview, fin: bool) -> None:
        self.source = source
        self.offset = offset
        self.data = data
        self.fin = fin
        self.acked = False

    @property
    def size(self) -> int:
        """Bytes of payload."""
        return len(self.data)

    @property
    def end(self) -> int:
        """Offset behind its last byte."""
        return self.offset + len(self.data)

    def write(self, writer: ShotWriter) -> None:
        """Add it to a shot's body."""
        writer.stream(self.source.id, self.offset, self.data, self.fin)


def _end(chunk: Chunk) -> int:
    return chunk.end


class LostChunks:
    """The chunks of a stream that wait to be sent again, counted in the window of all streams."""

    __slots__ = ("_sending", "waiting")

    def __init__(self, sending: SendWindow) -> None:
        self._sending = sending
        self.waiting: list[Chunk] = []
        """By where they end."""

    def add(self, chunk: Chunk) -> None:
        """It is to be sent again."""
        insort(self.waiting, chunk, key=_end)
        self._sending.lost_chunks += 1

    def take_first(self) -> Chunk:
        """The first one goes."""
        self._sending.lost_chunks -= 1
        return self.waiting.pop(0)

    def remove(self, chunk: Chunk) -> None:
        """It arrived after all, if it was to be sent again."""
        waiting = self.waiting
        at = bisect_left(waiting, chunk.end, key=_end)
        while at < len(waiting) and waiting[at].end == chunk.end:
            if waiting[at] is chunk:
                del waiting[at]
                self._sending.lost_chunks -= 1
                return
            at += 1

    def take_below(self, offset: int) -> list[Chunk]:
        """Those that end at this offset or before are needed no more."""
        count = bisect_right(self.waiting, offset, key=_end)
        passed, self.waiting[:count] = self.waiting[:count], []
        self._sending.lost_chunks -= count
        return passed

    def clear(self) -> None:
        """None is needed any more."""
        self._sending.lost_chunks -= len(self.waiting)
        self.waiting.clear()
