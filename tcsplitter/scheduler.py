"""Whose turn it is: streams share the shots of a session, and a bulk stream never delays a keystroke."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tcsplitter._core import ShotWriter
    from tcsplitter.streams import Chunk, Stream

MAX_CHUNKS = 2_048
"""Chunks in one shot; with control frames they stay below the limit of a body."""
SPARSE_BYTES = 10_000
"""A stream with more than that, or than a payload where that is less, unsent and unacknowledged is bulk."""


class Scheduler:
    """Two queues of streams that have something to send.

    *Sparse* streams, which have no more than a payload unsent and unacknowledged, go first and are not held by the bound on what
    is under way. The others, *bulk*, take turns of one payload each: deficit round robin (Shreedhar and Varghese, 1996) with a
    surplus carried over, the two queues as in FQ-CoDel (RFC 8290).
    """

    def __init__(self, size: int) -> None:
        self.sparse: deque[Stream] = deque()
        self.bulk: deque[Stream] = deque()
        self.now = 0.0
        self.rtt = 0.0
        """Of the session; it keeps both up to date."""
        self._size = size
        self._sparse_bytes = min(size, SPARSE_BYTES)

    def __bool__(self) -> bool:
        """Whether any stream waits for its turn."""
        return bool(self.sparse or self.bulk)

    def schedule(self, stream: Stream) -> None:
        """Let a stream wait for its turn, if it does not already and has something to send."""
        if stream.queue is not None or not stream.wants_to_send:
            return
        stream.queue = self.sparse if stream.unacknowledged + stream.unsent <= self._sparse_bytes else self.bulk
        if stream.lost_chunk_waits:
            stream.queue.appendleft(stream)
        else:
            stream.queue.append(stream)

    def fill(self, writer: ShotWriter, most: int, may_send_bulk: bool) -> list[Chunk]:
        """Write one payload of chunks, at most so many, to a shot's body."""
        budget = self._size
        chunks: list[Chunk] = []
        while budget > 0 and len(chunks) < min(most, MAX_CHUNKS) and (self.sparse or (self.bulk and may_send_bulk)):
            stream = (self.sparse or self.bulk)[0]
            chunk = stream.cut(budget)
            if chunk is None:
                if chunks and stream.lost_chunk_waits:
                    break
                self._remove(stream)
                continue
            writer.stream(stream.id, chunk.offset, chunk.data, chunk.fin)
            chunks.append(chunk)
            budget -= max(len(chunk.data), 1)
            self._charge(stream, len(chunk.data))
        return chunks

    def _charge(self, stream: Stream, count: int) -> None:
        stream.deficit -= count
        if stream.deficit <= 0:
            stream.deficit += self._size
            self._remove(stream)
            stream.queue = self.bulk
            self.bulk.append(stream)

    def _remove(self, stream: Stream) -> None:
        stream.queue.popleft()
        stream.queue = None
