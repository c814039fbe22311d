"""What shots carry of streams and about them: chunks of their data, and control frames."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tcsplitter._core import ShotWriter
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
