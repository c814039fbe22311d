"""A session: one client end joined to one server end. Streams become shots, shots become streams.

Sans-IO: bytes and `now` come in, actions and news go out. Both ends run this class; what only a client does (dialling,
handshakes) and only a server does (newcomers) is in client_end.py and server_end.py. The order of a wake:

    receive(carrier, bytes) · carrier_eof · carrier_lost · carrier_progress      what happened to carriers
    Stream.write · finish · reset · consume                                      what the local programs did
    flush(now)                                                                   timers, verdicts; sending.py: shots to send
    actions, news, deadline()                                                    what follows from it
"""

from __future__ import annotations

from logging import WARNING
from math import inf

from tcsplitter.acks import Acks
from tcsplitter.carrier import CLOSE, RESET, Carrier, CarrierSet, Lent, PeerCarriers
from tcsplitter.config import SessionConfig
from tcsplitter.errors import RemoteProtocolError
from tcsplitter.flows import FlowTable
from tcsplitter.keyring import Keyring
from tcsplitter.modes import RETRY, SYNC
from tcsplitter.outbox import Outbox
from tcsplitter.payload import PayloadSize
from tcsplitter.receiving import Receiver, Record, greeting_of
from tcsplitter.recovery import Recovery
from tcsplitter.repair import Repair
from tcsplitter.routes import Routes
from tcsplitter.sending import Sender
from tcsplitter.shared import Shared
from tcsplitter.table import StreamTable

MAX_PARTIAL = 32 * 1024 * 1024
"""Bytes of shots that have not arrived whole, in all carriers of a session."""
MAX_SYNCS = 16
"""Sync carriers of a session: clients dial two, and what is done for each in every wake must not be asked for thousands."""
STOPPED, PROTOCOL = 0, 1
"""Codes of CLOSE."""
STALL_RTTS, STALL_SECONDS = 3.0, 1.0
"""A client that has waited for the larger of these asks whether the session lives."""
SUSPECT_RTTS, SUSPECT_SECONDS = 2.0, 0.25
"""The same after a carrier broke."""


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
        self.now = now
        size = PayloadSize(config.handling.size, config.most_small, fresh=config.reuse == 1)
        self.shared = Shared(config.handling, size, outbox.news, self._touch, now)
        self.counters = self.shared.counters
        self.streams = StreamTable(config.client, self.shared)
        self.flows = FlowTable(config.client, self.shared)
        self.carriers = CarrierSet(config.client, config.reuse, config.mode.carries(config.client), outbox.actions)
        self.recovery = Recovery(size, config.handling.rate, config.handling.polite)
        self.peer = PeerCarriers()
        self.keys = Keyring(config.client)
        self._datagrams = config.datagrams
        acks = Acks(now)
        self._routes = Routes(config.mode, config.client, config.reserve, self.carriers, self.peer, self.recovery)
        self._sender = Sender(config, self.carriers, self._routes, self.recovery, acks, self.keys, self.streams, outbox)
        self._repair = Repair(self.recovery, self.carriers, self.streams, outbox)
        self._receiver = Receiver(
            config, self.carriers, self.peer, self.recovery, acks, self.keys, self.streams, self.flows, self._sender,
            self._repair, self._on_close,
        )  # fmt: skip
        self.closed: str | None = None
        """Why the session ended."""
        self.waiting_since = now
        """Since when something is under way or waits to be sent."""
        self.beat_at = inf
        """Server: when the end is to flush it next."""
        self._at_rest = True
        """Nothing was under way or waited when `flush` ended."""
        self.epochs_made = 0
        """Server: how many handshakes were answered for this session."""
        self._trusted_at = now
        """When the other end was last known to live, but for what it said in shots."""
        self.now = now
        self.enter(now)

    def enter(self, now: float) -> None:
        """Something is about to happen, at this time."""
        self.now = self.shared.now = now
        self.shared.rtt = self.recovery.congestion.rtt
        self.shared.short = self.recovery.congestion.is_short()

    def _touch(self) -> None:
        self.touched[self] = None

    def on_beat(self, _now: float) -> None:
        """Server: the time that `beat_at` gave has come."""
        self._touch()

    @property
    def heard_at(self) -> float:
        """When a shot was last opened."""
        return self._receiver.heard_at

    @property
    def data_at(self) -> float:
        """When stream data came last."""
        return self._receiver.data_at

    @property
    def suspect(self) -> bool:
        """Something happened that a restart of the other end would explain."""
        return self._receiver.suspect

    def unheard_for(self, now: float) -> float:
        """Seconds for which an answer to something has been waited for."""
        return now - max(self._receiver.heard_at, self.waiting_since)

    def asks_from(self, since: float, now: float) -> float:
        """Client: when a handshake is wanted, at the latest: for a session, for fresh keys, or to learn whether this one lives.
        `since`: when a handshake last said so."""
        sealing = self.keys.sealing
        if sealing is None or sealing.worn(now):
            return -inf
        heard, rtt, by = max(self._receiver.heard_at, since), self.recovery.congestion.rtt, inf
        if self._receiver.suspect:
            by = heard + max(SUSPECT_RTTS * rtt, SUSPECT_SECONDS)
        if self._sender.has_work:
            by = min(by, max(heard, self.waiting_since) + max(STALL_RTTS * rtt, STALL_SECONDS))
        return by

    def trust(self, now: float) -> None:
        """The other end is known to live."""
        self._receiver.suspect = False
        self._trusted_at = now

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
        self._sender.hello(carrier, self.id)

    def _adopt(self, carrier: Carrier, idle_for: float) -> None:
        self.carriers.adopt(carrier, self, idle_for, self.now)
        self.counters.carriers += 1
        counted = self.counters.of(carrier.kind)
        counted.dialled += 1
        if carrier.kind is RETRY and self.shared.scheduler.lost is None:
            self.shared.scheduler.lost = {}

    def greet(self) -> None:
        """Client: let the hellos go of carriers that were connected since `flush`, unless something waits that may take them
        along."""
        if not self.shared.scheduler:
            self._sender.greet()

    def welcome(self, carrier: Carrier, record: Record, now: float) -> bool:
        """Server: check the hello of a connection that names this session; adopt the carrier if it is genuine."""
        self.enter(now)
        self._touch()
        try:
            body = self._receiver.hello(record)
        except RemoteProtocolError as error:
            self.fail(str(error))
            return False
        if body is None:
            return False
        kind, connect_us = greeting_of(body)
        if kind is SYNC and self.carriers.alive[SYNC] >= MAX_SYNCS:
            return False
        carrier.kind, carrier.hello = kind, record[2]
        if connect_us:
            self.recovery.dialled(connect_us * 1e-6, now)
        self._adopt(carrier, 2 * self.config.idle)
        try:
            self._receiver.greeted(carrier, record, body)
        except RemoteProtocolError as error:
            self.fail(str(error))
        return True

    def receive(self, carrier: Carrier, data: Lent, now: float) -> None:
        """Take what was read from a carrier."""
        if carrier.closed:
            return
        self.enter(now)
        try:
            records = self.carriers.feed(carrier, data)
        except RemoteProtocolError:
            self._refuse(carrier)
        else:
            if carrier.reader.pending:  # a large shot on a slow line: it is alive
                self.carriers.expire(carrier, now + self.recovery.give_up_after())
            self._open(carrier, records)

    def receive_records(self, carrier: Carrier, records: list[Record], now: float) -> None:
        """Open the shots that arrived whole on a carrier, and act on them."""
        self.enter(now)
        self._open(carrier, records)

    def _open(self, carrier: Carrier, records: list[Record]) -> None:
        self.touched[self] = None
        for record in records:
            if carrier.closed or self.closed:
                return
            try:
                if not self._receiver.shot(carrier, record):
                    self._refuse(carrier)
            except RemoteProtocolError as error:
                self.fail(str(error))

    def carrier_eof(self, carrier: Carrier, now: float) -> None:
        """The other end sent FIN. On a carrier that it finished, or that this end retired, that is its orderly end."""
        self.enter(now)
        self._touch()
        carrier.eof = True
        if not carrier.rx_final and (not carrier.tx_final or self._repair.outstanding(carrier)):
            self.carrier_lost(carrier, now)
        elif carrier.tx_final:
            self.carriers.drop(carrier, CLOSE)

    def carrier_lost(self, carrier: Carrier, now: float) -> None:
        """The connection broke: what was sent on it and not acknowledged goes elsewhere."""
        self.enter(now)
        self._touch()
        if not carrier.closed:
            self._receiver.suspect = True
            self._repair.kill(carrier, now)

    def give_up(self, carrier: Carrier, now: float) -> None:
        """Nothing comes through it any more."""
        self.enter(now)
        self._touch()
        counted = self.counters.of(carrier.kind)
        counted.timed_out += 1
        self._repair.kill(carrier, now)

    def carrier_progress(self, carrier: Carrier, outstanding: int, now: float) -> None:
        """The answer to a PROBE: so many bytes wait in the send queue."""
        self.enter(now)
        lost_from = self._repair.progress(carrier, outstanding, now)
        self._receiver.suspect |= lost_from > max(self.heard_at, self._trusted_at)

    def drop_idle(self) -> None:
        """Reset all idle carriers: the machine slept, and they are likely dead."""
        for idle in self.carriers.idle.values():
            for carrier in list(idle):
                self.carriers.drop(carrier, RESET)

    def distrust_idle(self, now: float) -> None:
        """Send nothing on what is idle until something comes on it: the path may have changed, or a large shot be under way."""
        for idle in self.carriers.idle.values():
            for carrier in list(idle):
                self.carriers.suspend(carrier)
                self.carriers.expire(carrier, now + self.recovery.give_up_after())

    def _refuse(self, carrier: Carrier) -> None:
        """What came on a carrier is not from the other end, or damaged."""
        self.counters.shots_refused += 1
        self.outbox.note(WARNING, f"session of {self.name}: a connection brought what does not open; it is reset", "shot refused")
        self._repair.kill(carrier, self.now)

    # ------------------------------------------------------------------------------------ memory

    @property
    def held(self) -> int:
        """Bytes received and not consumed by local programs, partial shots and what parity may need included."""
        return self.shared.receiving.held + self.carriers.partial + self._receiver.rebuilder.held

    def forget_kept(self) -> None:
        """There is no room: let go of what only parity may need."""
        self._receiver.rebuilder.forget()

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

    def expect_parity(self, may_come: bool) -> None:
        """The other end said in its handshake whether it may send parity."""
        self._receiver.rebuilder.keeping |= may_come

    def flush(self, now: float) -> None:
        """Serve the timers, then send what may be sent."""
        self.enter(now)
        if self._at_rest:  # what has come up since the last flush came up now
            self.waiting_since = now
        self._rebuild()
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
        if self._datagrams and now >= self.flows.deadline():
            self.flows.run(now)
        if now >= self._receiver.rebuilder.deadline():
            self._receiver.rebuilder.run(now)
        if self.keys.can_seal() and not self.closed:
            self._sender.flush()
        self._sender.greet()
        self._at_rest = not self.has_work

    def deadline(self) -> float:
        """When `flush` must be called again at the latest."""
        by = min(self.carriers.check_at, self.keys.check_at, self.recovery.deadline())
        by = min(by, self.shared.beats.deadline(), self._receiver.rebuilder.deadline())
        if self._datagrams:
            by = min(by, self.flows.deadline())
        return min(by, self._sender.deadline()) if self.keys.can_seal() else by

    def _rebuild(self) -> None:
        for number, sealed in self._receiver.rebuilder.take_ready():
            if self.closed:
                return
            try:
                self._receiver.rebuilt(number, sealed)
            except RemoteProtocolError as error:
                self.fail(str(error))

    def _check_carriers(self) -> None:
        """Retire what was idle for too long, give up what does not answer."""
        self.recovery.forget_lost(self.now)
        for carrier in self.carriers.expired(self.now):
            counted = self.counters.of(carrier.kind)
            retires_at = carrier.used_at + carrier.idle_for
            if carrier.rx_final or self.carriers.is_silent(carrier) or self._repair.outstanding(carrier):
                counted.timed_out += 1
                self._sender.given_up(carrier)
                self._repair.kill(carrier, self.now)
            elif self.now < retires_at:
                self.carriers.expire(carrier, retires_at)
            elif self.config.client and self.keys.can_seal():
                counted.replaced += 1
                self._sender.retire(carrier)
            else:
                counted.replaced += 1
                self.carriers.drop(carrier, CLOSE)

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

    def _on_close(self, code: int, reason: str) -> None:
        self._end(reason or f"the other end closed the session with code {code}")

    def _end(self, reason: str) -> None:
        self.closed = reason
        self.streams.abandon()
        self.flows.abandon()
        for carrier in list(self.carriers.all):
            self.carriers.drop(carrier, CLOSE)
