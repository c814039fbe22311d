"""A session: one client end joined to one server end. Streams become shots, shots become streams.

Sans-IO: bytes and `now` come in, actions and news go out. Both ends run this class; what only a client does (dialling,
handshakes) and only a server does (newcomers) is in client_end.py and server_end.py. The order of a wake:

    receive(carrier, bytes) · carrier_eof · carrier_lost · carrier_progress      what happened to carriers
    Stream.write · finish · reset · consume                                      what the local programs did
    flush(now)                                                                   timers, verdicts, shots to send
    actions, news, deadline()                                                    what follows from it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from logging import WARNING
from math import inf
from typing import Any

from cryptography.exceptions import InvalidTag

from tcsplitter._core import (
    ACK,
    CLOSE,
    CREDIT,
    FINAL,
    FRESH,
    HELLO,
    PARITY,
    PING,
    RESET,
    SEEN,
    STREAM,
    STREAM_CREDIT,
    ReplayWindow,
    ShotWriter,
    open_frames,
    open_hello,
    seal_hello,
)
from tcsplitter.acks import Acks
from tcsplitter.carrier import Carrier, CarrierSet, Kind, Op, PeerCarriers
from tcsplitter.errors import LocalProtocolError, RemoteProtocolError
from tcsplitter.keyring import Epoch, Keyring
from tcsplitter.outbox import Outbox
from tcsplitter.recovery import Recovery, SentShot
from tcsplitter.repair import Repair
from tcsplitter.stats import Counters
from tcsplitter.streams import Control
from tcsplitter.table import StreamTable

MAX_PIECES = 16_384
"""Separate pieces held in all reassembly buffers of a session."""
MAX_PARTIAL = 32 * 1024 * 1024
"""Bytes of shots that have not arrived whole, in all carriers of a session."""
RESERVE = 2
"""Idle carriers kept for control frames and sparse streams."""
MAX_WANT = 1024
STOPPED, PROTOCOL = 0, 1
"""Codes of CLOSE."""


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How this end takes part in a session."""

    client: bool
    size: int = 10_000
    """Stream bytes that one payload carries."""
    reuse: int = 1
    """Data shots per carrier and half; 0: no limit."""
    idle: float = 25.0
    """Seconds for which a carrier may stay unused."""
    reserve: int = RESERVE


class Session:
    """The state shared with one other end, over however many carriers."""

    def __init__(self, config: SessionConfig, name: str, outbox: Outbox, touched: dict[Session, None], now: float) -> None:
        self.config = config
        self.name = name
        """The key's name, for logs."""
        self.id = b""
        self.outbox = outbox
        self.touched = touched
        """Sessions that need a flush; an end's."""
        self.carriers = CarrierSet(config.client, config.reuse, outbox.actions)
        self.recovery = Recovery(config.size)
        self.counters = Counters()
        self.streams = StreamTable(config.client, config.size, name, outbox.news, self._touch)
        self._repair = Repair(self.recovery, self.carriers, self.streams, self.counters, outbox)
        self.closed: str | None = None
        """Why the session ended."""
        self.suspect = False
        """Something happened that a restart of the other end would explain."""
        self.heard_at = now
        """When a shot was last opened."""
        self.data_at = now
        """When stream data came last."""
        self.waiting_since = now
        """Since when something is under way or waits to be sent."""
        self.peer = PeerCarriers()
        self.keys = Keyring(config.client)
        self.epochs_made = 0
        """Server: how many handshakes were answered for this session."""
        self.now = now
        self._next_number = 0
        self._replay = ReplayWindow()
        self._acks = Acks(now)
        self._writer = ShotWriter()
        self._greeters: list[Carrier] = []
        """Carriers whose hello waits for the end of the wake, so that it can leave in one segment with a shot."""
        self._handlers: dict[int, Callable[..., None]] = {
            PING: self._on_ping,
            ACK: self._on_ack,
            CREDIT: self.streams.raise_limit,
            STREAM_CREDIT: self.streams.raise_stream_limit,
            RESET: self._on_reset,
            CLOSE: self._on_close,
            STREAM: self._on_stream,
        }

    def enter(self, now: float) -> None:
        """Something is about to happen, at this time."""
        self.now = self.streams.scheduler.now = now
        self.streams.scheduler.rtt = self.recovery.rtt

    def _touch(self) -> None:
        self.touched[self] = None

    def begin_again(self, now: float) -> None:
        """Client: the same server has dropped the session before anything reached it, so all can be sent again in another one."""
        for carrier in list(self.carriers.all):
            self._repair.kill(carrier, now)
        self.keys.clear()

    # -------------------------------------------------------------------------------- carriers

    def hello(self, carrier: Carrier, idle_for: float, now: float) -> None:
        """Client: greet the server on a fresh connection, which is then idle. Needs keys."""
        self.enter(now)
        epoch = self._sealing_epoch()
        number = self._take_number(epoch)
        self.carriers.adopt(carrier, self, idle_for, now)
        self.carriers.greet(carrier, number)
        self.counters.carriers += 1
        hello = seal_hello(epoch.seal, epoch.number, number, int(carrier.kind), int(carrier.dial_seconds * 1e6))
        carrier.greeting = self.id + hello
        self._greeters.append(carrier)

    def welcome(self, carrier: Carrier, record: tuple[int, int, int, bytes], now: float) -> bool:
        """Server: check the hello of a connection that names this session; adopt the carrier if it is genuine."""
        self.enter(now)
        _flags, epoch_number, number, sealed = record
        epoch = self.keys.get(epoch_number)
        if epoch is None or self._replay.check(number) != FRESH:
            return False
        try:
            kind, rtt_us = open_hello(epoch.open, sealed)
            carrier.kind = Kind(kind)
        except (InvalidTag, RemoteProtocolError):
            return False
        try:
            self._opened(epoch, number, len(sealed))
        except RemoteProtocolError as error:
            self.fail(str(error))
            return False
        self._acks.add(number)
        if rtt_us:
            self.recovery.dialled(rtt_us * 1e-6, now)
        self.carriers.adopt(carrier, self, 2 * self.config.idle, now)
        self.counters.carriers += 1
        return True

    def receive(self, carrier: Carrier, data: bytes, now: float) -> None:
        """Take what was read from a carrier."""
        self.enter(now)
        try:
            records = self.carriers.feed(carrier, data)
        except RemoteProtocolError:
            self._refuse(carrier)
        else:
            if carrier.reader.pending:  # a large shot on a slow line: it is alive
                self.carriers.expire(carrier, now + self.recovery.give_up_after)
            self.receive_records(carrier, records, now)

    def receive_records(self, carrier: Carrier, records: list[tuple[int, int, int, bytes]], now: float) -> None:
        """Open the shots that arrived whole on a carrier, and act on them."""
        self.enter(now)
        self._touch()
        for record in records:
            if carrier.closed or self.closed:
                return
            try:
                if not self._receive_shot(carrier, *record):
                    self._refuse(carrier)
            except RemoteProtocolError as error:
                self.fail(str(error))

    def _receive_shot(self, carrier: Carrier, flags: int, epoch_number: int, number: int, sealed: bytes) -> bool:
        """Act on one shot; False if the carrier cannot be trusted any more."""
        epoch = self.keys.get(epoch_number)
        verdict = self._replay.check(number)
        if epoch is None or carrier.rx_final or verdict == SEEN:
            return False
        if verdict == FRESH:
            try:
                want, held, frames = open_frames(epoch.open, sealed)
            except InvalidTag:
                return False
            if flags & (HELLO | PARITY):
                raise RemoteProtocolError("sent a hello or parity where none is allowed")
            self._opened(epoch, number, len(sealed))
            self.peer.state(number, want, held, self.now)
            self._act_on(carrier, number, frames)
        else:
            self.counters.shots_dropped += 1
        if flags & FINAL and not carrier.closed:
            self.carriers.finished(carrier, self._ack_delay(), self.recovery.give_up_after, self.now)
        return True

    def _opened(self, epoch: Epoch, number: int, size: int) -> None:
        """A record was genuine: from here on it is the other end that speaks."""
        self._replay.mark(number)
        self.keys.opened(epoch, size, self.now)
        self.counters.shots_received += 1
        self.counters.bytes_received += size
        self.heard_at = self.now
        self.suspect = False

    def _act_on(self, carrier: Carrier, number: int, frames: list[tuple[Any, ...]]) -> None:
        if self.streams.pieces + len(frames) > MAX_PIECES and not all(map(self._fills_a_gap, frames)):
            self.counters.shots_dropped += 1
            return
        self._acks.add(number)
        elicits = False
        for frame in frames:
            elicits |= frame[0] != ACK
            self._handlers[frame[0]](*frame[1:])
        if elicits:
            delay = self._ack_delay()
            self._acks.elicited(number, delay, self.now)
            carrier.owes_ack = True
            self.carriers.make_due(carrier, self.now + delay)

    def _fills_a_gap(self, frame: tuple[Any, ...]) -> bool:
        """Whether a frame may be taken in though the limit of pieces is reached."""
        if frame[0] != STREAM:
            return True
        stream = self.streams.get(frame[1])
        return stream is not None and bool(frame[2] <= stream.incoming.read_offset + stream.incoming.readable)

    def _ack_delay(self) -> float:
        return self._acks.delay(self.recovery.min_rtt)

    def carrier_eof(self, carrier: Carrier, now: float) -> None:
        """The other end sent FIN. On a carrier that it finished, or that this end retired, that is its orderly end."""
        self.enter(now)
        self._touch()
        carrier.eof = True
        if not carrier.rx_final and (not carrier.tx_final or self._repair.outstanding(carrier)):
            self.carrier_lost(carrier, now)
        elif carrier.tx_final:
            self.carriers.drop(carrier, Op.CLOSE)

    def carrier_lost(self, carrier: Carrier, now: float) -> None:
        """The connection broke: what was sent on it and not acknowledged goes elsewhere."""
        self.enter(now)
        self._touch()
        if not carrier.closed:
            self.suspect = True
            self._repair.kill(carrier, now)

    def carrier_progress(self, carrier: Carrier, outstanding: int, now: float) -> None:
        """The answer to a PROBE: so many bytes wait in the send queue."""
        self.enter(now)
        self._repair.progress(carrier, outstanding, now)

    def drop_idle(self) -> None:
        """Reset all idle carriers: the machine slept, and they are likely dead."""
        for carrier in list(self.carriers.idle):
            self.carriers.drop(carrier, Op.RESET)

    def distrust_idle(self, now: float) -> None:
        """Send nothing on what is idle until something comes on it: the path may have changed, or a large shot be under way."""
        for carrier in list(self.carriers.idle):
            self.carriers.suspend(carrier)
            self.carriers.expire(carrier, now + self.recovery.give_up_after)

    def _refuse(self, carrier: Carrier) -> None:
        """What came on a carrier is not from the other end, or damaged."""
        self.counters.shots_refused += 1
        self.outbox.note(WARNING, f"session of {self.name}: a connection brought what does not open; it is reset", "shot refused")
        self._repair.kill(carrier, self.now)

    # ---------------------------------------------------------------------------------- frames

    def _on_ping(self) -> None:
        """A ping asks for nothing but the ack."""

    def _on_ack(self, answered: int, delay_us: int, ranges: list[tuple[int, int]], rebuilt: list[tuple[int, int]]) -> None:
        self.carriers.confirm(ranges)
        for shot in self.recovery.on_ack(answered, delay_us * 1e-6, ranges, rebuilt, self._next_number, self.now):
            self.carriers.resume(shot.carrier)
            for chunk in shot.chunks:
                chunk.stream.chunk_acked(chunk)
            for kind, stream in shot.control:
                if kind == Control.RESET and stream is not None:
                    stream.reset_acked()

    def _on_reset(self, stream_id: int, code: int, final_size: int) -> None:
        stream = self.streams.known(stream_id) or self.streams.accept(stream_id)
        if stream is not None:
            stream.receive_reset(code, final_size)

    def _on_stream(self, stream_id: int, offset: int, data: bytes | memoryview, fin: bool) -> None:
        self.data_at = self.now
        stream = self.streams.known(stream_id) or self.streams.accept(stream_id)
        if stream is not None:
            stream.receive(offset, data, fin)

    def _on_close(self, code: int, reason: str) -> None:
        self._end(reason or f"the other end closed the session with code {code}")

    # ------------------------------------------------------------------------------------ memory

    @property
    def held(self) -> int:
        """Bytes received and not consumed by local programs, partial shots included."""
        return self.streams.receiving.held + self.carriers.partial

    @property
    def over_cap(self) -> bool:
        """Too many shots are only half there: no further ones are begun."""
        return self.carriers.partial > MAX_PARTIAL

    # --------------------------------------------------------------------------------- sending

    @property
    def has_work(self) -> bool:
        """Something is under way or waits to be sent."""
        return bool(self.recovery.sent or self.streams.has_control or self.streams.scheduler)

    def want(self) -> int:
        """Idle carriers that this end wishes to find: what leaves while one is dialled, and what waits now."""
        leaving = 1.25 * self.recovery.rate_at(self.now) * 1.5 * self.recovery.rtt
        waiting = min(self.streams.sending.unsent, max(0.0, self.recovery.window() - self.recovery.in_flight))
        payloads = int((leaving + waiting) / self.config.size) + self.streams.sending.lost_chunks
        return min(MAX_WANT, self.config.reserve + payloads + bool(self.streams.scheduler.bulk))

    def flush(self, now: float) -> None:
        """Serve the timers, then send what may be sent."""
        self.enter(now)
        if now >= self.carriers.check_at:
            self._check_carriers()
        if now >= self.keys.check_at:
            self.keys.forget_old(now)
        if now >= self.recovery.deadline():
            self._repair.judge(now)
        self.recovery.note_late(now)
        if not self.has_work:
            self.waiting_since = now
        if self.keys.can_seal and not self.closed:
            self._send_waiting()
            self._finish_due()
            self._send_late_ack()
        self._send_greetings()

    def deadline(self) -> float:
        """When `flush` must be called again at the latest."""
        by = min(self.carriers.check_at, self.keys.check_at, self.recovery.deadline())
        if not self.keys.can_seal:
            return by
        due = self.carriers.next_due()
        return min(by, due.ack_by if due else inf, self._acks.due_at if self.carriers.idle else inf)

    def _check_carriers(self) -> None:
        """Retire what was idle for too long, give up what does not answer."""
        self.recovery.forget_lost(self.now)
        for carrier in self.carriers.expired(self.now):
            retires_at = carrier.used_at + carrier.idle_for
            if carrier.rx_final or self.carriers.is_silent(carrier) or self._repair.outstanding(carrier):
                self._repair.kill(carrier, self.now)
            elif self.now < retires_at:
                self.carriers.expire(carrier, retires_at)
            elif self.config.client and self.keys.can_seal:
                self.counters.retired += 1
                self._begin_body()
                self._seal_on(carrier, final=True)
            else:
                self.carriers.drop(carrier, Op.CLOSE)

    def _send_waiting(self) -> None:
        while True:
            sparse = self.streams.scheduler.sparse and self.recovery.chunks_left > 0
            urgent = self.streams.has_control or bool(sparse)
            if not urgent and not (self.streams.scheduler.bulk and self.recovery.may_send()):
                return
            # Bulk that has nothing under way would have no way to say what it wants.
            carrier = self.carriers.take(self.config.reserve if not urgent and self.recovery.in_flight else 0)
            if carrier is None:
                return
            self._send_data(carrier)

    def _send_data(self, carrier: Carrier) -> None:
        """Build one shot of control frames, sparse streams and bulk, in that order, and send it."""
        self._begin_body()
        control = self.streams.write_control(self._writer)
        chunks = self.streams.scheduler.fill(self._writer, self.recovery.chunks_left, self.recovery.may_send())
        if not control and not chunks:
            return
        self._acks.write(self._writer, self.now)
        final = carrier.tx_left == 1 or carrier.rx_final
        carrier.tx_left -= 1
        if len(carrier.sent) >= 64:
            carrier.sent = [n for n in carrier.sent if self.recovery.knows(n)]
        carrier.sent.append(self._next_number)
        shot = SentShot(self._next_number, self.now, self._writer.size, carrier, chunks, control)
        carrier.outstanding += shot.size
        self.recovery.on_sent(shot, more_waits=bool(self.streams.scheduler.bulk))
        self._seal_on(carrier, final)
        if not final:
            self.carriers.expire(carrier, self.now + self.recovery.give_up_after)
        for chunk in chunks:
            if chunk.stream.unsent < self.config.size:
                self.streams.tell(chunk.stream)

    def _begin_body(self) -> None:
        self._writer.begin(self.want(), len(self.carriers.idle))

    def _seal_on(self, carrier: Carrier, final: bool) -> None:
        """Seal the body that was built and send it on this end's half, which it completes if `final`."""
        epoch = self._sealing_epoch()
        data = self._writer.seal(epoch.seal, FINAL if final else 0, epoch.number, self._take_number(epoch))
        epoch.volume += len(data)
        self.counters.shots_sent += 1
        self._write(carrier, data)
        self.carriers.used(carrier, final, self.recovery.give_up_after, self.now)

    def _sealing_epoch(self) -> Epoch:
        if self.keys.sealing is None:
            raise LocalProtocolError("a session seals nothing before it has keys")
        return self.keys.sealing

    def _take_number(self, epoch: Epoch) -> int:
        epoch.sealed += 1
        self._next_number += 1
        return self._next_number - 1

    def _send_greetings(self) -> None:
        for carrier in self._greeters:
            if carrier.greeting and not carrier.closed:
                self._write(carrier, b"")
        self._greeters.clear()

    def _write(self, carrier: Carrier, data: bytes) -> None:
        if carrier.greeting:
            data = carrier.greeting + data
            carrier.greeting = b""
        self.counters.bytes_sent += len(data)
        self.outbox.actions.append((Op.WRITE, carrier, data))

    def _finish_due(self) -> None:
        """Use the halves whose time has come: with an ack, or, where the server owes none, by closing."""
        while (carrier := self.carriers.next_due()) is not None and carrier.ack_by <= self.now:
            if self.config.client or carrier.owes_ack:
                self._send_ack_on(carrier)
            else:
                self.carriers.drop(carrier, Op.CLOSE)

    def _send_late_ack(self) -> None:
        """An ack whose carrier's half was used up goes alone when nothing took it along."""
        if self.now >= self._acks.due_at and (carrier := self.carriers.take(0)) is not None:
            self._send_ack_on(carrier)

    def _send_ack_on(self, carrier: Carrier) -> None:
        self._begin_body()
        self._acks.write(self._writer, self.now)
        self._seal_on(carrier, final=self.config.reuse == 1 or carrier.rx_final)

    # ------------------------------------------------------------------------------------- end

    def fail(self, what: str) -> None:
        """The other end broke the protocol: say so and end the session."""
        self.close(PROTOCOL, what)
        self.closed = f"protocol error of the other end: {what}"

    def close(self, code: int, reason: str) -> None:
        """End the session; tell the other end if there is a carrier to do it on."""
        if self.closed:
            return
        if self.keys.can_seal and (carrier := self.carriers.take(0)) is not None:
            self._writer.begin(0, 0)
            self._writer.close(code, reason)
            self._seal_on(carrier, final=True)
        self._end(reason)

    def _end(self, reason: str) -> None:
        self.closed = reason
        self.streams.abandon()
        for carrier in list(self.carriers.all):
            self.carriers.drop(carrier, Op.CLOSE)
