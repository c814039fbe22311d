"""A session: one client end joined to one server end. Streams become shots, shots become streams.

Sans-IO: bytes and `now` come in, actions and news go out. Both ends run this class; what only a client does (dialling,
handshakes) and only a server does (newcomers) is in client_end.py and server_end.py. The order of a wake:

    receive(carrier, bytes) · carrier_eof · carrier_lost · carrier_progress      what happened to carriers
    Stream.write · finish · reset · consume                                      what the local programs did
    flush(now)                                                                   timers, verdicts; sending.py: shots to send
    actions, news, deadline()                                                    what follows from it
"""

from __future__ import annotations

from collections.abc import Callable
from logging import WARNING
from math import inf
from typing import Any

from cryptography.exceptions import InvalidTag

from tcsplitter._core import (
    ACK,
    CLOSE,
    CREDIT,
    DATAGRAM,
    FINAL,
    FRESH,
    HELLO,
    PARITY,
    PING,
    RESET,
    SEEN,
    SKIP,
    STREAM,
    STREAM_CREDIT,
    ReplayWindow,
    open_frames,
    open_hello,
)
from tcsplitter.acks import Acks
from tcsplitter.carrier import Carrier, CarrierSet, Op, PeerCarriers
from tcsplitter.chunks import Control
from tcsplitter.errors import RemoteProtocolError
from tcsplitter.flows import FlowTable
from tcsplitter.keyring import Epoch, Keyring
from tcsplitter.modes import Kind
from tcsplitter.outbox import Outbox
from tcsplitter.recovery import Recovery
from tcsplitter.repair import Repair
from tcsplitter.routes import Routes
from tcsplitter.sending import Sender, SessionConfig
from tcsplitter.shared import Shared
from tcsplitter.table import StreamTable

MAX_PIECES = 16_384
"""Separate pieces held in all reassembly buffers of a session."""
MAX_PARTIAL = 32 * 1024 * 1024
"""Bytes of shots that have not arrived whole, in all carriers of a session."""
MAX_SYNCS = 16
"""Sync carriers of a session: clients dial two, and what is done for each in every wake must not be asked for thousands."""
STOPPED, PROTOCOL = 0, 1
"""Codes of CLOSE."""


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
        self.shared = Shared(config.handling, outbox.news, self._touch)
        self.counters = self.shared.counters
        self.streams = StreamTable(config.client, self.shared)
        self.flows = FlowTable(config.client, self.shared)
        self.carriers = CarrierSet(config.client, config.reuse, config.mode.carries(config.client), outbox.actions)
        self.recovery = Recovery(config.handling.size)
        self.peer = PeerCarriers()
        self.keys = Keyring(config.client)
        self._acks = Acks(now)
        self._routes = Routes(config.mode, config.client, config.reserve, self.carriers, self.peer, self.recovery)
        self._sender = Sender(config, self.carriers, self._routes, self.recovery, self._acks, self.keys, self.streams, outbox)
        self._repair = Repair(self.recovery, self.carriers, self.streams, outbox)
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
        self._at_rest = True
        """Nothing was under way or waited when `flush` ended."""
        self.epochs_made = 0
        """Server: how many handshakes were answered for this session."""
        self.now = now
        self._replay = ReplayWindow()
        self._payload_came = False
        """The shot that is being acted on holds payload."""
        self._handlers: dict[int, Callable[..., None]] = {
            PING: self._on_ping,
            ACK: self._on_ack,
            CREDIT: self.streams.raise_limit,
            STREAM_CREDIT: self.streams.raise_stream_limit,
            RESET: self._on_reset,
            CLOSE: self._on_close,
            SKIP: self.streams.pass_by,
            STREAM: self._on_foreign if config.datagrams else self._on_stream,
            DATAGRAM: self._on_datagram if config.datagrams else self._on_foreign,
        }
        self.enter(now)

    def enter(self, now: float) -> None:
        """Something is about to happen, at this time."""
        self.now = self.shared.now = now
        self.shared.rtt = self.recovery.rtt

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
        self._adopt(carrier, idle_for)
        self.carriers.greet(carrier, self._sender.hello(carrier, self.id))

    def _adopt(self, carrier: Carrier, idle_for: float) -> None:
        self.carriers.adopt(carrier, self, idle_for, self.now)
        self.counters.carriers += 1
        self.counters.kinds[carrier.kind].dialled += 1
        if carrier.kind is Kind.RETRY and self.shared.scheduler.lost is None:
            self.shared.scheduler.lost = {}

    def welcome(self, carrier: Carrier, record: tuple[int, int, int, bytes], now: float) -> bool:
        """Server: check the hello of a connection that names this session; adopt the carrier if it is genuine."""
        self.enter(now)
        self._touch()
        _flags, epoch_number, number, sealed = record
        epoch = self.keys.get(epoch_number)
        if epoch is None or self._replay.check(number) != FRESH:
            return False
        try:
            kind, rtt_us = open_hello(epoch.open, sealed)
            carrier.kind = Kind(kind)
        except (InvalidTag, RemoteProtocolError):
            return False
        if carrier.kind is Kind.SYNC and self.carriers.alive[Kind.SYNC] >= MAX_SYNCS:
            return False
        try:
            self._opened(epoch, number, len(sealed))
        except RemoteProtocolError as error:
            self.fail(str(error))
            return False
        self._acks.add(number)
        if rtt_us:
            self.recovery.dialled(rtt_us * 1e-6, now)
        self._adopt(carrier, 2 * self.config.idle)
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
        elicits = self._payload_came = False
        for frame in frames:
            elicits |= frame[0] != ACK
            self._handlers[frame[0]](*frame[1:])
        if self._payload_came:
            self._note_payload(carrier)
        if elicits:
            delay = self._ack_delay()
            self._acks.elicited(number, delay, self.now)
            carrier.owes_ack = True
            if carrier.kind is not Kind.SYNC:
                # No payload could keep an ack company on a half that may carry none.
                self.carriers.make_due(carrier, self.now + delay if carrier.kind in self.carriers.payload else self.now)

    def _note_payload(self, carrier: Carrier) -> None:
        """A carrier brought payload."""
        self._acks.for_payload = True
        self.peer.payload_at = self.now
        if not carrier.brought:
            carrier.brought = True
            counted = self.counters.kinds[carrier.kind]
            counted.received_on += 1
            counted.both_ways += carrier.carried

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

    def give_up(self, carrier: Carrier, now: float) -> None:
        """Nothing comes through it any more."""
        self.enter(now)
        self._touch()
        self.counters.kinds[carrier.kind].timed_out += 1
        self._repair.kill(carrier, now)

    def carrier_progress(self, carrier: Carrier, outstanding: int, now: float) -> None:
        """The answer to a PROBE: so many bytes wait in the send queue."""
        self.enter(now)
        self._repair.progress(carrier, outstanding, now)

    def drop_idle(self) -> None:
        """Reset all idle carriers: the machine slept, and they are likely dead."""
        for idle in self.carriers.idle.values():
            for carrier in list(idle):
                self.carriers.drop(carrier, Op.RESET)

    def distrust_idle(self, now: float) -> None:
        """Send nothing on what is idle until something comes on it: the path may have changed, or a large shot be under way."""
        for idle in self.carriers.idle.values():
            for carrier in list(idle):
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
        for shot in self.recovery.on_ack(answered, delay_us * 1e-6, ranges, rebuilt, self._sender.next_number, self.now):
            self.carriers.resume(shot.carrier)
            if shot.carrier.kind is Kind.SYNC:
                shot.carrier.asked_at = self.now if self._repair.outstanding(shot.carrier) else inf
            for chunk in shot.chunks:
                chunk.source.chunk_acked(chunk)
            for kind, stream in shot.control:
                if kind == Control.RESET and stream is not None:
                    stream.reset_acked()

    def _on_reset(self, stream_id: int, code: int, final_size: int) -> None:
        stream = self.streams.known(stream_id) or self.streams.accept(stream_id)
        if stream is not None:
            stream.receive_reset(code, final_size)

    def _on_stream(self, stream_id: int, offset: int, data: bytes | memoryview, fin: bool) -> None:
        self.data_at = self.now
        self._payload_came |= len(data) > 0
        stream = self.streams.known(stream_id) or self.streams.accept(stream_id)
        if stream is not None:
            stream.receive(offset, data, fin)

    def _on_datagram(
        self, flow_id: int, number: int, stamp: int, deadline: int, size: int, offset: int, data: bytes | memoryview
    ) -> None:
        self.data_at = self.now
        self._payload_came = True
        self.flows.receive(flow_id, number, stamp, deadline, size, offset, data)

    def _on_foreign(self, *_frame: Any) -> None:
        raise RemoteProtocolError("sent datagrams where streams were agreed on, or the other way round")

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

    # ----------------------------------------------------------------------------------- a wake

    @property
    def has_work(self) -> bool:
        """Something is under way or waits to be sent."""
        return self._sender.has_work

    @property
    def in_use(self) -> bool:
        """Streams or flows are open."""
        return bool(self.streams or self.flows)

    def want(self) -> int:
        """Idle carriers that this end wishes to find."""
        return self._sender.want()

    def set_peer_skip(self, skip: int) -> None:
        """The other end said in its handshake how lost stream data is to be treated (PROTOCOL.md section 2)."""
        self.streams.set_peer_skip(skip - 1)

    def begin_flush(self, now: float) -> None:
        """To be called before anyone asks since when something has waited: what came up since the last flush came up now."""
        self.enter(now)
        if self._at_rest:
            self.waiting_since = now
            self._at_rest = not self.has_work

    def flush(self, now: float) -> None:
        """Serve the timers, then send what may be sent."""
        self.begin_flush(now)
        if now >= self.carriers.check_at:
            self._check_carriers()
        if now >= self.keys.check_at:
            self.keys.forget_old(now)
        if now >= self.recovery.deadline():
            self._repair.judge(now)
        for carrier in self._routes.fell_silent(now):
            self._repair.repeat_control(carrier)
        if now >= self.shared.beats.deadline():
            self.shared.beats.run(now)
        if now >= self.flows.deadline():
            self.flows.run(now)
        self.recovery.note_late(now)
        if self.keys.can_seal and not self.closed:
            self._sender.flush()
        self._sender.greet()
        self._at_rest = not self.has_work

    def deadline(self) -> float:
        """When `flush` must be called again at the latest."""
        by = min(self.carriers.check_at, self.keys.check_at, self.recovery.deadline())
        by = min(by, self.shared.beats.deadline(), self.flows.deadline())
        return min(by, self._sender.deadline()) if self.keys.can_seal else by

    def _check_carriers(self) -> None:
        """Retire what was idle for too long, give up what does not answer."""
        self.recovery.forget_lost(self.now)
        for carrier in self.carriers.expired(self.now):
            counted = self.counters.kinds[carrier.kind]
            retires_at = carrier.used_at + carrier.idle_for
            if carrier.rx_final or self.carriers.is_silent(carrier) or self._repair.outstanding(carrier):
                counted.timed_out += 1
                self._repair.kill(carrier, self.now)
            elif self.now < retires_at:
                self.carriers.expire(carrier, retires_at)
            elif self.config.client and self.keys.can_seal:
                counted.replaced += 1
                self._sender.retire(carrier)
            else:
                counted.replaced += 1
                self.carriers.drop(carrier, Op.CLOSE)

    # ------------------------------------------------------------------------------------- end

    def fail(self, what: str) -> None:
        """The other end broke the protocol: say so and end the session."""
        self.close(PROTOCOL, what)
        self.closed = f"protocol error of the other end: {what}"

    def close(self, code: int, reason: str) -> None:
        """End the session; tell the other end if there is a carrier to do it on."""
        if not self.closed:
            self._sender.close(code, reason)
            self._end(reason)

    def _end(self, reason: str) -> None:
        self.closed = reason
        self.streams.abandon()
        self.flows.abandon()
        for carrier in list(self.carriers.all):
            self.carriers.drop(carrier, Op.CLOSE)
