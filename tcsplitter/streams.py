"""A stream: one tunnelled TCP connection, between the local program's socket and the shots of the session."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from tcsplitter._core import MAX_VARINT, RecvBuffer, SendBuffer
from tcsplitter.chunks import Chunk, Control, LostChunks
from tcsplitter.credit import GROWTH_RTTS, GROWTH_SECONDS, INITIAL_WINDOW, PACED_SECONDS, StreamWindow
from tcsplitter.errors import RemoteProtocolError
from tcsplitter.playout import Forwarding

if TYPE_CHECKING:
    from tcsplitter.shared import Shared

MANY_UNSENT = 4 * 1024 * 1024
"""While all streams together hold more than that unsent, each is read ahead by a payload: what is left of the session's window is
for streams that have little to say, however many have much."""

MAX_WHOLE = INITIAL_WINDOW // 2
"""Larger payloads cannot be kept whole: the other end may grant no more before half a window was consumed."""

BY_PROGRAM, REFUSED, TOO_MANY, GIVEN_UP = range(4)
"""Codes of RESET."""


class Host(Protocol):
    """What a stream asks of the session that it belongs to; StreamTable."""

    shared: Shared
    large: dict[Stream, None]

    def queue_control(self, kind: Control, stream: Stream) -> None: ...
    def count_received(self, fresh: int, pieces: int) -> None: ...
    def return_credit(self, count: int) -> None: ...
    def forget_if_done(self, stream: Stream) -> None: ...


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
        "_fin_cut", "_finishing", "_forwarding", "_gate", "_host", "_lost", "_opened", "_passed",
        "_pending_chunks", "_read", "_reset_acked", "_reset_came", "_send_limit", "_sent",
        "_shared", "_stopped", "_unsent", "_whole", "_window", "app", "beat_at", "deficit", "id", "incoming", "queue",
        "reset_code", "sent_reset", "unacknowledged",
    )  # fmt: skip

    def __init__(self, host: Host, stream_id: int, opened: bool) -> None:
        self.id = stream_id
        self.app: Any = None
        """The local side's endpoint; nothing here looks at it."""
        self.reset_code: int | None = None
        """Why the local program is cut off: the code of the RESET that came, or GIVEN_UP where this end gave its data up."""
        self.sent_reset: int | None = None
        """Code of the RESET that this end sent or will send."""
        self.incoming = RecvBuffer()
        self.queue: Any = None
        """The scheduler's list that this stream waits in."""
        self.deficit = 0
        self.unacknowledged = 0
        """Bytes that were sent, or taken for lost, and not acknowledged."""
        self.beat_at = inf
        """When `on_beat` is called; kept by Beats."""
        self._host = host
        self._shared = host.shared
        self._gate = 0 if host.shared.tock.wait else MAX_VARINT
        """Offset up to which `--tock` lets bytes go."""
        self._passed = 0
        """Offset below which the other end needs nothing more."""
        self._forwarding: Forwarding | None = None
        """Where what is in order is not forwarded at once."""
        handling = host.shared.handling
        may_lose = not handling.retries.resend or handling.retries.skip >= 0
        self._whole = handling.size if may_lose and handling.size <= MAX_WHOLE else 0
        """Where payloads may be lost they are not cut further by windows and company: their size, 0 elsewhere."""
        self._stopped = False
        """There was no room when this was asked last, so nothing is read from the local program."""
        self._unsent = SendBuffer()
        self._lost = LostChunks(host.shared.sending)
        self._pending_chunks = 0
        self._opened = opened
        self._finishing = False
        self._fin_cut = False
        self._reset_acked = False
        self._reset_came = False
        self._send_limit = INITIAL_WINDOW
        self._read = 0
        """What the other end's program had read when it was raised last."""
        self._window = StreamWindow(host.shared.receiving)
        self._sent = 0
        """Bytes sent when the stream was reset."""
        self.set_attempts()

    # ------------------------------------------------------------------ the local side: sending

    @property
    def room(self) -> int:
        """Bytes that may be read from the local program now: what the windows and the read-ahead leave.

        Where too little is left of the session's window for it (SendWindow.share), this stream is told when there is more.
        """
        return 0 if self._finishing or self.sent_reset is not None else self._find_room()

    def _find_room(self) -> int:
        size, sending = self._shared.size.bytes, self._shared.sending
        unsent = len(self._unsent)
        used = self._unsent.offset + unsent
        ahead = (size if sending.unsent > MANY_UNSENT else self._shared.most_unsent()) - unsent
        share = sending.share(used - self._read, size)
        if share < max(1, self._whole):
            sending.held[self] = None
            share = 0
        room = max(0, min(ahead, self._send_limit - used, share))
        if self._whole:
            room = room // self._whole * self._whole
        self._stopped = not room
        return room

    def write(self, data: bytes | memoryview) -> None:
        """Send data that was read from the local program."""
        self._unsent.write(data)
        self._shared.sending.unsent += len(data)
        if self._gate != MAX_VARINT:
            self._shared.tock.wrote(self, len(data))
            if not self.room:  # more would have to come before the other end grants more
                self._shared.tock.release(self)
        self._shared.schedule(self)

    def finish(self) -> None:
        """The local program will send nothing more (half-close)."""
        if not self._finishing and self.sent_reset is None:
            self._finishing = True
            self._shared.tock.release(self)
            self._shared.schedule(self)

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
        """Bytes in order that may be forwarded now."""
        return self.incoming.readable if self._forwarding is None else self._forwarding.ready

    def peek(self, limit: int) -> list[bytes | memoryview]:
        """Buffers of what is readable, at most `limit` bytes."""
        return self.incoming.peek(min(limit, self.readable))

    @property
    def at_end(self) -> bool:
        """The other side finished, and all it sent was consumed."""
        return self.incoming.at_end

    def consume(self, count: int, now: float) -> None:
        """The local program took `count` bytes: grant as many more when a share of the window has come together."""
        self.incoming.consume(count)
        if self._forwarding is not None:
            self._forwarding.ready -= count
            if not self.incoming.readable:
                self._forward(now)
        self._read_on(now)

    def _read_on(self, now: float) -> None:
        """What is in order was consumed or passed over up to the read offset."""
        incoming = self.incoming
        self._give_back(incoming.read_offset)
        if incoming.final_size >= 0:
            if incoming.at_end:
                self._host.forget_if_done(self)
            return
        if not incoming.readable and self._window.grow_behind_gap(incoming.read_offset, self._shared.short, now):
            self._granted()
        else:
            self.grant(now)

    def grant(self, now: float) -> None:
        """Grant more if the local program has taken enough for that."""
        incoming = self.incoming
        if incoming.final_size < 0 and self._window.consumed(incoming.read_offset, self._soon, now):
            self._granted()

    def _granted(self) -> None:
        """The window was moved on, and may have grown."""
        self._host.queue_control(Control.STREAM_CREDIT, self)
        if self._window.large:
            self._host.large[self] = None
            self._host.return_credit(0)  # that of the session may have grown with it

    @property
    def _soon(self) -> float:
        """Seconds in which a reader that keeps up takes its share of a window."""
        return max(GROWTH_RTTS * self._shared.rtt, GROWTH_SECONDS) if self._forwarding is None else PACED_SECONDS

    def set_attempts(self) -> None:
        """The other end said how often a missing payload is to be waited for."""
        setting, attempts = self._shared.handling.playout, self._shared.peer_skip
        if self._forwarding is not None:
            self._forwarding.attempts = attempts
        elif (setting.beat or attempts >= 0) and self.sent_reset is None:
            self._forwarding = Forwarding(setting, self._shared.handling.size, attempts, self._shared.now)
            self._window.begin(self._shared.now)
            self._forward(self._shared.now)

    def on_beat(self, now: float) -> None:
        """The time that `beat_at` gave has come."""
        self._forward(now)

    def _forward(self, now: float) -> None:
        """Release what may be forwarded now, where forwarding is not at once."""
        forwarding = self._forwarding
        if forwarding is None:
            return
        before, pieces = forwarding.ready, self.incoming.pieces
        passed = forwarding.run(self.incoming, now)
        if passed:
            self._host.count_received(0, self.incoming.pieces - pieces)
            self._shared.counters.payloads_skipped += passed
            self._host.queue_control(Control.SKIP, self)
            self._read_on(now)
        if forwarding.ready > before or self.incoming.at_end:
            self._shared.tell(self)
        # What is armed already may prove too early: moving it each time would leave many timers behind.
        if (at := forwarding.deadline()) < self.beat_at:
            self._shared.beats.at(self, at)

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
        if self._reset_came or self.incoming.at_end:
            return True
        return self.sent_reset is not None and self.incoming.final_size >= 0

    @property
    def credit_limit(self) -> int:
        """Offset up to which the other end may send."""
        return self._window.limit

    @property
    def wants_to_send(self) -> bool:
        """Whether `cut` has something to give, as far as this stream's own window goes."""
        if self._lost.waiting or not self._opened:
            return True
        if self.sent_reset is not None or self._fin_cut:
            return False
        if len(self._unsent):
            return self._unsent.offset < min(self._send_limit, self._gate)
        return self._finishing

    @property
    def unsent(self) -> int:
        """Bytes that were never sent."""
        return len(self._unsent)

    @property
    def gated(self) -> int:
        """Bytes that `--tock` holds back."""
        return max(0, self._unsent.offset + len(self._unsent) - self._gate)

    def open_gate(self, count: int) -> int:
        """Let so many of them go."""
        count = min(count, self.gated)
        self._gate += count
        self._shared.schedule(self)
        return count

    @property
    def needs_room(self) -> bool:
        """The next chunk is one that is not cut anew, or as a whole: it may need a payload of its own."""
        return bool(self._lost.waiting or self._whole)

    @property
    def has_lost(self) -> bool:
        """A chunk waits to be sent again."""
        return bool(self._lost.waiting)

    def cut(self, limit: int) -> Chunk | None:
        """The next chunk of at most `limit` bytes: a lost one first; None if windows or want of data forbid any."""
        if self._lost.waiting:
            return self.cut_lost(limit) or (None if self._lost.waiting else self._cut_new(limit))
        return self._cut_new(limit)

    def cut_lost(self, limit: int) -> Chunk | None:
        """The next chunk that has to be sent again, if it has at most `limit` bytes or could not have fewer."""
        waiting = self._lost.waiting
        if not waiting or len(waiting[0].data) > limit != self._shared.size.bytes:
            return None
        chunk = self._lost.take_first()
        self._shared.counters.payloads_resent += chunk.size > 0
        return chunk

    def _cut_new(self, limit: int) -> Chunk | None:
        if self.sent_reset is not None or self._fin_cut:
            return None
        unsent, sending = self._unsent, self._shared.sending
        offset = unsent.offset
        most = min(self._send_limit - offset, self._gate - offset, sending.left())
        if not sending.left():
            sending.held[self] = None
        if self._whole and limit < min(self._whole, most, len(unsent)):
            return None
        if most > limit:
            most = limit
        data = unsent.take(most if most > 0 else 0)
        sending.took(len(data))
        if self._stopped and len(unsent) < self._shared.few_unsent():
            self._shared.tell(self)
        fin = self._finishing and not len(unsent)
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
            if self._lost.waiting:
                self._lost.remove(chunk)
            self._pending_chunks -= 1
            self.unacknowledged -= len(chunk.data)
            if self._fin_cut and not self._pending_chunks:
                self._host.forget_if_done(self)

    def chunk_lost(self, chunk: Chunk) -> bool:
        """Whether something has to be sent again. What holds no data is control and always is."""
        if chunk.acked or self.sent_reset is not None:
            return False
        retries = self._shared.handling.retries
        if chunk.size and not (retries.resend and chunk.end > self._passed):
            self._shared.counters.payloads_given_up += 1
            if not retries.resend and retries.skip < 0:
                self.reset(GIVEN_UP)
                self.reset_code = GIVEN_UP
                self._shared.tell(self)
            else:
                self._give_up(chunk)
        else:
            self._lost.add(chunk)
        return self.has_lost

    def _give_up(self, chunk: Chunk) -> None:
        """The data is not sent again. If the other end may not know how far the stream goes, a chunk without data says so."""
        if chunk.fin or chunk.end > self._passed:
            self._pending_chunks += 1
            self._lost.add(Chunk(self, chunk.end, b"", chunk.fin))
        self.chunk_acked(chunk)

    def passed_by(self, offset: int) -> None:
        """The other end needs nothing below this offset. Raises RemoteProtocolError for one that was not reached yet."""
        if offset > self._unsent.offset:
            raise RemoteProtocolError(f"passes by byte {offset} of stream {self.id}, which was not sent yet")
        self._passed = max(self._passed, offset)
        for chunk in self._lost.take_below(offset):
            self._shared.counters.payloads_given_up += chunk.size > 0
            self._give_up(chunk)

    def reset_acked(self) -> None:
        self._reset_acked = True
        self._host.forget_if_done(self)

    @property
    def final_size(self) -> int:
        """Bytes of this stream sent so far, for RESET."""
        return self._unsent.offset if self.sent_reset is None else self._sent

    def raise_send_limit(self, limit: int, read: int) -> bool:
        """Whether the credit that came is news: a smaller one is an older one. Raises RemoteProtocolError if more was read than
        was sent."""
        if read > self._unsent.offset:
            raise RemoteProtocolError(f"read {read} bytes of stream {self.id}, of which {self._unsent.offset} were sent")
        if limit <= self._send_limit:
            return False
        self._send_limit = limit
        self._read = max(self._read, read)
        return True

    def receive(self, offset: int, data: bytes | memoryview, fin: bool) -> None:
        """Take a piece in. Raises RemoteProtocolError for data beyond the credit or against the final size."""
        end = offset + len(data)
        if end > self._window.limit:
            raise RemoteProtocolError(f"sent byte {end} of stream {self.id} with a credit of {self._window.limit}")
        before = self.incoming.highest
        pieces = self.incoming.pieces
        self._window.expect(before, self._shared.now)
        fresh = self.incoming.insert(offset, data, fin)
        waiting = self.incoming.pieces
        if waiting:
            self._window.note_gap(self.incoming.highest)
        self._host.count_received(self.incoming.highest - before, waiting - pieces)
        if self.sent_reset is not None:
            self._drop_incoming(self.incoming.highest)
            self._host.forget_if_done(self)
            return
        if self._forwarding is not None:
            self._forwarding.arrived(offset, len(data))
            self._forward(self._shared.now)
        elif fresh or self.incoming.at_end:
            self._shared.tell(self)
        drained = not (fresh or self.incoming.readable or self.incoming.at_end)
        if drained and self._window.grow_behind_gap(self.incoming.read_offset, self._shared.short, self._shared.now):
            self._granted()
        if self.incoming.at_end:
            self._host.forget_if_done(self)

    def receive_reset(self, code: int, final_size: int) -> None:
        """The other end reset the stream. Raises RemoteProtocolError if the final size contradicts what came before."""
        incoming = self.incoming
        if final_size > self.credit_limit:
            raise RemoteProtocolError(f"reset stream {self.id} after {final_size} bytes with a credit of {self.credit_limit}")
        if final_size < incoming.highest or incoming.final_size not in (-1, final_size):
            raise RemoteProtocolError(f"reset stream {self.id} with a final size that contradicts its data")
        if self._reset_came:
            return
        self._host.count_received(final_size - incoming.highest, -incoming.pieces)
        incoming.insert(final_size, b"", True)
        self._host.count_received(0, incoming.pieces)
        self._drop_incoming(final_size)
        self._reset_came = True
        self.reset_code = code if self.reset_code is None else self.reset_code
        if self.sent_reset is None and not self._sending_done:
            self.sent_reset = code
            self._drop_outgoing()
            self._host.queue_control(Control.RESET, self)
        self._shared.tell(self)
        self._host.forget_if_done(self)

    def abandon(self, code: int) -> None:
        """The session ended: nothing more is sent or received."""
        self._drop_outgoing()
        self._drop_incoming(self.incoming.highest)
        self.reset_code = code
        self.sent_reset = code

    def _drop_outgoing(self) -> None:
        self._sent = self._unsent.offset
        dropped = self._unsent.clear()
        self._shared.sending.unsent -= dropped
        if dropped:
            self._shared.let_go()
        self._shared.tock.release(self)
        self._lost.clear()
        self._opened = True

    def _drop_incoming(self, end: int) -> None:
        """Throw away what came and was not consumed; all bytes below `end` count as consumed."""
        self._host.count_received(0, -self.incoming.pieces)
        self.incoming.clear()
        if self._forwarding is not None:
            self._forwarding.ready = 0
            self._shared.beats.at(self, inf)
        self._give_back(end)

    def _give_back(self, offset: int) -> None:
        """Return to the session's credit all bytes below `offset`."""
        count = self._window.returned(offset)
        if count:
            self._host.return_credit(count)
