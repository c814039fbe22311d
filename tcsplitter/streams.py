"""A stream: one tunnelled TCP connection, between the local program's socket and the shots of the session."""

from __future__ import annotations

from bisect import insort
from enum import IntEnum
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from tcsplitter._core import RecvBuffer, SendBuffer
from tcsplitter.errors import RemoteProtocolError

if TYPE_CHECKING:
    from tcsplitter.flow import SendWindow

INITIAL_WINDOW = 65_536
"""Bytes of a stream that may be sent before the other end grants more."""
MAX_WINDOW = 16 * 1024 * 1024
"""Ceiling of what one stream may have granted and unread, bytes."""
GROWTH_RTTS, GROWTH_SECONDS = 2.0, 0.01
"""A window whose half is consumed in less than the larger of these is too small."""
FAST_GROWTH, GAP_GROWTH = 2, 4
"""Factors by which it grows."""
MAX_UNSENT = 262_144
"""Bytes read from the local program ahead of sending, or two payloads where those are larger."""

BY_PROGRAM, REFUSED, TOO_MANY, GIVEN_UP = range(4)
"""Codes of RESET."""


class Control(IntEnum):
    """Control frames that are written anew, from the state of that moment, whenever they are sent or sent again."""

    RESET = 0
    STREAM_CREDIT = 1
    CREDIT = 2
    PING = 3


class Chunk:
    """A piece of a stream as it was cut for a payload; it is resent as it is."""

    __slots__ = ("acked", "data", "fin", "offset", "stream")

    def __init__(self, stream: Stream, offset: int, data: bytes, fin: bool) -> None:
        self.stream = stream
        self.offset = offset
        self.data = data
        self.fin = fin
        self.acked = False


class Host(Protocol):
    """What a stream asks of the session that it belongs to; StreamTable."""

    name: str
    size: int
    sending: SendWindow

    @property
    def now(self) -> float: ...
    @property
    def rtt(self) -> float: ...
    def schedule(self, stream: Stream) -> None: ...
    def queue_control(self, kind: Control, stream: Stream) -> None: ...
    def tell(self, stream: Stream) -> None: ...
    def count_received(self, fresh: int, pieces: int) -> None: ...
    def return_credit(self, count: int) -> None: ...
    def forget_if_done(self, stream: Stream) -> None: ...


def _offset(chunk: Chunk) -> int:
    return chunk.offset


class Stream:
    """Both directions of one stream.

    | sending                          | goes on to                                   |
    |----------------------------------|----------------------------------------------|
    | open                             | finishing, by finish(); reset                |
    | finishing: fin waits or is sent  | done, when every chunk is acked; reset       |
    | reset: RESET waits or is sent    | done, when it is acked                       |

    | receiving                        | goes on to                                   |
    |----------------------------------|----------------------------------------------|
    | open                             | done, when all was consumed or RESET came    |

    When both are done the session forgets the stream.
    """

    __slots__ = (
        "_fin_cut", "_finishing", "_granted_at", "_host", "_limit", "_opened", "_pending_chunks", "_resend", "_reset_acked",
        "_returned", "_send_limit", "_sender_held", "_sent", "_unsent", "_window", "app", "deficit", "id", "incoming", "queue",
        "reset_code", "sent_reset", "unacknowledged",
    )  # fmt: skip

    def __init__(self, host: Host, stream_id: int, opened: bool) -> None:
        self.id = stream_id
        self.app: Any = None
        """The local side's endpoint; nothing here looks at it."""
        self.reset_code: int | None = None
        """Code of the RESET that came from the other end."""
        self.sent_reset: int | None = None
        """Code of the RESET that this end sent or will send."""
        self.incoming = RecvBuffer()
        self.queue: Any = None
        """The scheduler's list that this stream waits in."""
        self.deficit = 0
        self.unacknowledged = 0
        """Bytes that were sent, or taken for lost, and not acknowledged."""
        self._host = host
        self._unsent = SendBuffer()
        self._resend: list[Chunk] = []
        self._pending_chunks = 0
        self._opened = opened
        self._finishing = False
        self._fin_cut = False
        self._reset_acked = False
        self._send_limit = INITIAL_WINDOW
        self._window = INITIAL_WINDOW
        self._limit = INITIAL_WINDOW
        self._sent = 0
        """Bytes sent when the stream was reset."""
        self._granted_at = -inf
        self._sender_held = False
        """The sender has used its credit up while a gap keeps the reader waiting."""
        self._returned = 0

    # ------------------------------------------------------------------ the local side: sending

    @property
    def session_name(self) -> str:
        """The name of the key that the session was made with, for logs."""
        return self._host.name

    @property
    def room(self) -> int:
        """Bytes that may be read from the local program now: what the windows and the read-ahead leave."""
        if self._finishing or self.sent_reset is not None:
            return 0
        unsent = len(self._unsent)
        ahead = max(MAX_UNSENT, 2 * self._host.size) - unsent
        window = self._send_limit - self._unsent.offset - unsent
        return max(0, min(ahead, window, self._host.sending.room))

    def write(self, data: bytes) -> None:
        """Send data that was read from the local program."""
        self._unsent.write(data)
        self._host.sending.unsent += len(data)
        self._host.schedule(self)

    def finish(self) -> None:
        """The local program will send nothing more (half-close)."""
        if not self._finishing and self.sent_reset is None:
            self._finishing = True
            self._host.schedule(self)

    def reset(self, code: int = BY_PROGRAM) -> None:
        """End both directions at once; what was not delivered is dropped."""
        if self.sent_reset is not None or self.done:
            return
        self.sent_reset = code
        self._drop_outgoing()
        self._drop_incoming(self.incoming.highest)
        self._host.queue_control(Control.RESET, self)
        self._host.forget_if_done(self)

    # ---------------------------------------------------------------- the local side: receiving

    @property
    def readable(self) -> int:
        """Bytes in order that wait to be forwarded."""
        return self.incoming.readable

    def peek(self, limit: int) -> list[bytes | memoryview]:
        """Buffers of what is readable, about `limit` bytes."""
        return self.incoming.peek(limit)

    @property
    def at_end(self) -> bool:
        """The other side finished, and all it sent was consumed."""
        return self.incoming.at_end

    def consume(self, count: int, now: float) -> None:
        """The local program took `count` bytes: grant as many more when half a window has come together.

        The window grows when it holds the sender and the reader keeps up: when half of it took less than two RTTs, or when the
        sender has used it up behind a gap, which lasts for many RTTs, and the reader has taken all that came before the gap.
        """
        incoming = self.incoming
        incoming.consume(count)
        self._give_back(incoming.read_offset)
        if incoming.final_size >= 0:
            if incoming.at_end:
                self._host.forget_if_done(self)
            return
        if self._sender_held and not incoming.readable:
            self._grant(GAP_GROWTH, now)
        elif incoming.read_offset + self._window - self._limit >= self._window // 2:
            fast = now - self._granted_at < max(GROWTH_RTTS * self._host.rtt, GROWTH_SECONDS)
            self._grant(FAST_GROWTH if fast else 1, now)

    def _grant(self, growth: int, now: float) -> None:
        """Let the other end send a window beyond what was consumed."""
        self._window = min(growth * self._window, MAX_WINDOW)
        self._sender_held = False
        self._granted_at = now
        self._limit = self.incoming.read_offset + self._window
        self._host.queue_control(Control.STREAM_CREDIT, self)

    # ------------------------------------------------------------------------ the session's side

    @property
    def done(self) -> bool:
        """Nothing is left to send or to receive."""
        return self._sending_done and self._receiving_done

    @property
    def _sending_done(self) -> bool:
        if self.sent_reset is not None:
            return self._reset_acked
        return self._fin_cut and not self._pending_chunks

    @property
    def _receiving_done(self) -> bool:
        if self.reset_code is not None or self.incoming.at_end:
            return True
        return self.sent_reset is not None and self.incoming.final_size >= 0

    @property
    def credit_limit(self) -> int:
        """Offset up to which the other end may send."""
        return self._limit

    @property
    def wants_to_send(self) -> bool:
        """Whether `cut` has something to give, as far as this stream's own window goes."""
        if self._resend or not self._opened:
            return True
        if self.sent_reset is not None or self._fin_cut:
            return False
        if len(self._unsent):
            return self._unsent.offset < self._send_limit
        return self._finishing

    @property
    def unsent(self) -> int:
        """Bytes that were never sent."""
        return len(self._unsent)

    @property
    def lost_chunk_waits(self) -> bool:
        """A chunk has to be sent again that may need a payload of its own."""
        return bool(self._resend)

    def cut(self, limit: int) -> Chunk | None:
        """The next chunk of at most `limit` bytes: a lost one first; None if windows or want of data forbid any."""
        while self._resend:
            chunk = self._resend[0]
            if len(chunk.data) > limit != self._host.size and not chunk.acked:
                return None
            del self._resend[0]
            self._host.sending.lost_chunks -= 1
            if not chunk.acked:
                return chunk
        if self.sent_reset is not None or self._fin_cut:
            return None
        offset = self._unsent.offset
        data = self._unsent.take(max(0, min(limit, self._send_limit - offset, self._host.sending.left)))
        self._host.sending.took(len(data))
        fin = self._finishing and not len(self._unsent)
        if not data and not fin and self._opened:
            return None
        self._opened = True
        self._fin_cut = fin
        self._pending_chunks += 1
        self.unacknowledged += len(data)
        return Chunk(self, offset, data, fin)

    def chunk_acked(self, chunk: Chunk) -> None:
        if not chunk.acked:
            chunk.acked = True
            self._pending_chunks -= 1
            self.unacknowledged -= len(chunk.data)
            if self._fin_cut and not self._pending_chunks:
                self._host.forget_if_done(self)

    def chunk_lost(self, chunk: Chunk) -> bool:
        """Whether the chunk has to be sent again."""
        if chunk.acked or self.sent_reset is not None:
            return False
        insort(self._resend, chunk, key=_offset)
        self._host.sending.lost_chunks += 1
        return True

    def reset_acked(self) -> None:
        self._reset_acked = True
        self._host.forget_if_done(self)

    @property
    def final_size(self) -> int:
        """Bytes of this stream sent so far, for RESET."""
        return self._unsent.offset if self.sent_reset is None else self._sent

    def raise_send_limit(self, limit: int) -> bool:
        """Whether the credit that came is news: a smaller one is an older one."""
        if limit <= self._send_limit:
            return False
        self._send_limit = limit
        return True

    def receive(self, offset: int, data: bytes | memoryview, fin: bool) -> None:
        """Take a piece in. Raises RemoteProtocolError for data beyond the credit or against the final size."""
        end = offset + len(data)
        if end > self._limit:
            raise RemoteProtocolError(f"sent byte {end} of stream {self.id} with a credit of {self._limit}")
        before = self.incoming.highest
        pieces = self.incoming.pieces
        fresh = self.incoming.insert(offset, data, fin)
        self._sender_held |= self.incoming.pieces > 0 and self.incoming.highest + len(data) > self._limit
        self._host.count_received(self.incoming.highest - before, self.incoming.pieces - pieces)
        if self.sent_reset is not None:
            self._drop_incoming(self.incoming.highest)
            self._host.forget_if_done(self)
        elif fresh or self.incoming.at_end:
            self._host.tell(self)
        elif self._sender_held and not self.incoming.readable and self._window < MAX_WINDOW:
            self._grant(GAP_GROWTH, self._host.now)
        if self.incoming.at_end:
            self._host.forget_if_done(self)

    def receive_reset(self, code: int, final_size: int) -> None:
        """The other end reset the stream. Raises RemoteProtocolError if the final size contradicts what came before."""
        incoming = self.incoming
        if final_size > self._limit:
            raise RemoteProtocolError(f"reset stream {self.id} after {final_size} bytes with a credit of {self._limit}")
        if final_size < incoming.highest or incoming.final_size not in (-1, final_size):
            raise RemoteProtocolError(f"reset stream {self.id} with a final size that contradicts its data")
        if self.reset_code is not None:
            return
        self._host.count_received(final_size - incoming.highest, -incoming.pieces)
        incoming.insert(final_size, b"", True)
        self._host.count_received(0, incoming.pieces)
        self._drop_incoming(final_size)
        self.reset_code = code
        if self.sent_reset is None and not self._sending_done:
            self.sent_reset = code
            self._drop_outgoing()
            self._host.queue_control(Control.RESET, self)
        self._host.tell(self)
        self._host.forget_if_done(self)

    def abandon(self, code: int) -> None:
        """The session ended: nothing more is sent or received."""
        self._drop_outgoing()
        self._drop_incoming(self.incoming.highest)
        self.reset_code = code
        self.sent_reset = code

    def _drop_outgoing(self) -> None:
        self._sent = self._unsent.offset
        self._host.sending.unsent -= self._unsent.clear()
        self._host.sending.lost_chunks -= len(self._resend)
        self._resend.clear()
        self._opened = True

    def _drop_incoming(self, end: int) -> None:
        """Throw away what came and was not consumed; all bytes below `end` count as consumed."""
        self._host.count_received(0, -self.incoming.pieces)
        self.incoming.clear()
        self._give_back(end)

    def _give_back(self, offset: int) -> None:
        """Return to the session's credit all bytes below `offset`."""
        if offset > self._returned:
            self._host.return_credit(offset - self._returned)
            self._returned = offset
