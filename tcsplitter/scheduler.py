"""Whose turn it is: streams and flows share the shots of a session, and bulk never delays a keystroke."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tcsplitter._core import ShotWriter
    from tcsplitter.payload import PayloadSize

MAX_CHUNKS = 384
"""Chunks in one shot; with control frames they stay below the limit of a body."""
SPARSE_BYTES = 10_000
"""A stream with so much, or with a payload where that is less, unsent and unacknowledged is bulk."""
SPARSE_PAYLOADS = 8
"""After so many payloads of sparse streams that went before bulk which waits, bulk has a turn, whatever is under way."""


class Portion(Protocol):
    """What was cut of a source for a payload: chunks.Chunk, datagrams.Piece."""

    acked: bool

    @property
    def source(self) -> Any: ...
    @property
    def size(self) -> int: ...
    def write(self, writer: ShotWriter) -> None: ...


class Source(Protocol):
    """What has something to send: streams.Stream, flows.Flow."""

    id: int
    queue: Any
    deficit: int
    unacknowledged: int

    @property
    def unsent(self) -> int: ...
    @property
    def wants_to_send(self) -> bool: ...
    @property
    def needs_room(self) -> bool: ...
    @property
    def has_lost(self) -> bool: ...
    def cut(self, limit: int) -> Portion | None: ...
    def cut_lost(self, limit: int) -> Portion | None: ...
    def chunk_acked(self, chunk: Any, /) -> None: ...
    def chunk_lost(self, chunk: Any, /) -> bool: ...


class Scheduler:
    """Two queues of streams (and flows) that have something to send.

    *Sparse* streams, which have less than a payload unsent and unacknowledged, go first and are not held by the bound on what is
    under way; a busy one that is read ahead by a payload is not among them. The others, *bulk*, take turns of one payload each:
    deficit round robin (Shreedhar and Varghese, 1996) with a surplus carried over, the two queues as in FQ-CoDel (RFC 8290).
    However many sparse streams there are, bulk does not starve.
    """

    def __init__(self, size: PayloadSize) -> None:
        self.sparse: deque[Source] = deque()
        self.bulk: deque[Source] = deque()
        self.lost: dict[Source, None] | None = None
        """Those that may have something to send again; kept from when there are carriers for that alone."""
        self._size = size
        self._passed = 0
        """Bytes of sparse streams that went before bulk since that had its last turn."""
        self._sparse_bytes = min(size.bytes, SPARSE_BYTES)

    def __bool__(self) -> bool:
        """Whether any stream waits for its turn."""
        return bool(self.sparse or self.bulk)

    def is_sparse(self, stream: Source) -> bool:
        """Whether it has less than a payload unsent and unacknowledged."""
        return stream.unacknowledged + stream.unsent < self._sparse_bytes

    def schedule(self, stream: Source) -> None:
        """Let a stream wait for its turn, if it does not already and has something to send."""
        if self.lost is not None and stream.has_lost:
            self.lost[stream] = None
        if stream.queue is not None or not stream.wants_to_send:
            return
        stream.queue = self.sparse if self.is_sparse(stream) else self.bulk
        if stream.has_lost:
            stream.queue.appendleft(stream)
        else:
            stream.queue.append(stream)

    def fill(self, writer: ShotWriter, most: int, may_send_bulk: bool) -> list[Portion]:
        """Write one payload of chunks, at most so many, to a shot's body."""
        budget = self._size.bytes
        most = min(most, MAX_CHUNKS)
        chunks: list[Portion] = []
        while budget > 0 and len(chunks) < most and (self.sparse or (self.bulk and may_send_bulk)):
            stream = (self.bulk if not self.sparse or self._bulk_is_due() else self.sparse)[0]
            chunk = stream.cut(budget)
            if chunk is None:
                if chunks and stream.needs_room:
                    break
                self._remove(stream)
                continue
            chunk.write(writer)
            chunks.append(chunk)
            size = chunk.size
            budget -= size
            self._charge(stream, size)
        return chunks

    def fill_lost(self, writer: ShotWriter, most: int) -> list[Portion]:
        """Write one payload of what has to be sent again, at most so many chunks, to a shot's body."""
        budget = self._size.bytes
        chunks: list[Portion] = []
        while budget > 0 and len(chunks) < min(most, MAX_CHUNKS) and self.lost:
            stream = next(iter(self.lost))
            chunk = stream.cut_lost(budget)
            if chunk is not None:
                chunk.write(writer)
                chunks.append(chunk)
                budget -= chunk.size
            elif chunks and stream.has_lost:
                break
            else:
                del self.lost[stream]
        return chunks

    def _bulk_is_due(self) -> bool:
        """Whether sparse streams have passed bulk for long enough."""
        return bool(self.bulk) and self._passed >= SPARSE_PAYLOADS * self._size.bytes

    def _charge(self, stream: Source, count: int) -> None:
        self._passed = self._passed + count if stream.queue is self.sparse and self.bulk else 0
        stream.deficit -= count
        turn_is_over, waits = stream.deficit <= 0, stream.wants_to_send
        if turn_is_over:
            stream.deficit += self._size.bytes
        if turn_is_over or not waits:
            self._remove(stream)
            if waits:
                stream.queue = self.bulk
                self.bulk.append(stream)

    def _remove(self, stream: Source) -> None:
        stream.queue.popleft()
        stream.queue = None
