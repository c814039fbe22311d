"""The client end, pure: it dials, shakes hands, keeps the pool filled, and gives its session carriers."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from math import inf

from tcsplitter.carrier import Carrier, Lent, Op
from tcsplitter.chunks import Control
from tcsplitter.config import SessionConfig
from tcsplitter.dialling import Dialling
from tcsplitter.errors import RemoteProtocolError
from tcsplitter.flows import Flow
from tcsplitter.handshake import (
    ANSWER_SIZE,
    NO_SESSION,
    STATUS_CONTINUES,
    STATUS_MODE_NOT_SUPPORTED,
    STATUS_NEW,
    STATUS_OTHER_PROTOCOL,
    STATUS_OTHER_VERSION,
    VERSION,
    Answer,
    Initiator,
    Request,
    SessionKeys,
)
from tcsplitter.modes import MODES, PROTOCOLS, Kind, Mode, reserve
from tcsplitter.noise import NoiseError
from tcsplitter.outbox import Outbox
from tcsplitter.pool import Random
from tcsplitter.session import STALL_SECONDS, STOPPED, Session
from tcsplitter.shared import Handling
from tcsplitter.stats import counted_line
from tcsplitter.streams import Stream

ASK_RTTS, ASK_SECONDS = 2.0, 0.5
"""A handshake unanswered for the larger of these is joined by another one."""
ASK_OFTEN_SECONDS, ASK_MAX_SECONDS = 60.0, 5.0
"""For how long, and to what pause then."""
MAX_ATTEMPTS = 8
LOST_SECONDS = 5.0
"""After so long without an answer the user is told that contact is lost."""
PING_FIRST, PING_LAST = 2.0, 60.0
"""Pause after which a silent session with streams is pinged, doubled each time."""
PATIENCE_SECONDS = 30.0
"""How long streams wait for the first session of all."""
SYNCS, RETRIES = 2, 2
"""Carriers kept open for control frames and for what is sent again, where they have an address."""
SILENT_SERVER = (
    "no answer to the handshake: the server has another key, is no tcsplitter server, or the line is down; still trying"
)
ONLY_HANDSHAKES = "the server answers handshakes, but nothing else gets through, or is tampered with on its way; still trying"


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """What the client end was told. Times in seconds."""

    handling: Handling = field(default_factory=Handling)
    mode: Mode = MODES["fling"]
    reuse: int = 1
    conns: int = 4
    lassoes: int = 0
    burst: int = 1024
    sync: bool = False
    """Sync carriers have an address of their own; handshakes go there first."""
    retry: bool = False
    """So have retry carriers."""
    protocol: str = "tcp"
    after: float = 0.0
    """Over which time the first pool is dialled."""
    idle: float = 25.0
    linger: float = 86_400.0

    @property
    def pools(self) -> dict[Kind, tuple[int, int]]:
        """The kinds of carriers to be kept dialled: how many, and the ceiling to which each pool may grow."""
        sizes = {Kind.FLING: self.conns, Kind.LASSO: self.lassoes}
        pools = {kind: (sizes[kind], self.burst) for kind in self.mode.pools}
        if self.sync:
            pools[Kind.SYNC] = SYNCS, 0
        if self.retry:
            pools[Kind.RETRY] = RETRIES, self.burst
        return pools


class _Attempt:
    """One handshake on a carrier of its own."""

    __slots__ = ("began", "connected", "initiator", "received")

    def __init__(self, initiator: Initiator, now: float) -> None:
        self.initiator = initiator
        self.began = now
        self.connected = False
        self.received = b""


class ClientEnd:
    """A session, the pool that feeds it, and the handshakes that make and renew it."""

    def __init__(self, config: ClientConfig, name: str, psk: bytes, random: Random, now: float) -> None:
        self.failed: str | None = None
        """Why this end can never work with that server."""
        self._config = config
        self._name = name
        self._psk = psk
        self._random = random
        self.outbox = Outbox()
        """What the I/O side has to do and to look at, and what the user should know."""
        self._touched: dict[Session, None] = {}
        self._dialling = Dialling(config.mode, config.pools, config.idle, config.after, random, now)
        self._attempts: dict[Carrier, _Attempt] = {}
        self._waiting: dict[Carrier, None] = {}
        """Connected before there was a session."""
        self._asked_sync = False
        """The last handshake went to the sync address."""
        self._asking_since = now
        self._ask_at = now
        self._reasons_from = now
        self._ping_at = inf
        self._ping_gap = PING_FIRST
        self._pinged_at = now
        self._instance = b""
        """The server's, as the last answer gave it."""
        self._trouble = ""
        self._announced = False
        """The user was told that there is a session."""
        self._failing_since = inf
        """Since when every dial has failed."""
        self._stopping = False
        self._patience = min(config.linger, PATIENCE_SECONDS)
        """Streams are not given up sooner, whatever else."""
        self._started_at = now
        self.session = self._fresh_session(now)

    def _fresh_session(self, now: float) -> Session:
        config = self._config
        size = config.pools[config.mode.up[0]][0]
        session = SessionConfig(
            client=True,
            mode=config.mode,
            handling=config.handling,
            reuse=config.reuse,
            idle=config.idle,
            reserve=reserve(size, config.burst),
            fixed=not config.burst,
            datagrams=config.protocol == "udp",
        )
        return Session(session, self._name, self.outbox, self._touched, now)

    def _renew_session(self, now: float) -> None:
        """The session has ended; another one takes its place. What was asked for the old one is no answer for that."""
        for carrier in list(self._attempts):
            self._reset(carrier)
        self.outbox.note(logging.DEBUG, counted_line("", self.session.counters.as_dict()))
        self.session = self._fresh_session(now)

    # ------------------------------------------------------------------------------- local side

    @property
    def connected(self) -> bool:
        """A session is established."""
        return bool(self.session.id)

    @property
    def idle(self) -> bool:
        """No streams are open."""
        return not self.session.streams

    @property
    def reading_paused(self) -> bool:
        """A cap is exceeded: only carriers that `carrier_may_read` names are read."""
        return self.session.over_cap

    def carrier_may_read(self, carrier: Carrier) -> bool:
        return carrier.reader.pending > 0 or not self.session.over_cap

    def open_stream(self, now: float) -> Stream:
        """A local program connected."""
        self._leave_ended_session(now)
        self.session.enter(now)
        return self.session.streams.open()

    def open_flow(self, now: float) -> Flow | None:
        """A local program sent its first datagram; None where there are too many flows."""
        self._leave_ended_session(now)
        self.session.enter(now)
        return self.session.flows.open()

    def counted(self) -> list[tuple[str, dict[str, int]]]:
        """The session's counters."""
        return [("", self.session.counters.as_dict())]

    def stop(self, now: float) -> None:
        """End the session; after the next actions the process may exit."""
        self._stopping = True
        self.session.enter(now)
        self.session.close(STOPPED, "the client was stopped")
        for carrier in [*self._attempts, *self._waiting]:
            self._reset(carrier)

    # ------------------------------------------------------------------------------ carrier side

    # Sockets of carriers that were given up in this wake are closed at its end: until then they may report something.

    def carrier_connected(self, carrier: Carrier, dial_seconds: float, now: float) -> None:
        self._leave_ended_session(now)
        if carrier.closed:
            return
        attempt = self._attempts.get(carrier)
        if attempt is None:
            self._failing_since = inf
            if not self._dialling.connected(carrier, self.session.recovery.rtt, now):
                self._reset(carrier)
                return
        self.session.recovery.dialled(dial_seconds, now)
        carrier.dial_seconds = dial_seconds
        if attempt is not None:
            attempt.connected = True
            self.outbox.actions.append((Op.WRITE, carrier, attempt.initiator.message))
        elif self.session.keys.can_seal():
            self.session.hello(carrier, self._dialling.idle_for(carrier), now)
        else:
            self._waiting[carrier] = None

    def carrier_dial_failed(self, carrier: Carrier, reason: str, now: float) -> None:
        """`reason`: the address that was dialled, and why in vain."""
        if carrier.closed:
            return
        carrier.closed = True
        if self._attempts.pop(carrier, None) is None:
            self._dialling.failed(carrier, now)
        if carrier.kind is not Kind.FLING:
            meanwhile = "still trying" if carrier.kind is Kind.LASSO else "the tunnel works without them"
            what = f"no {carrier.kind.name.lower()} connections to {reason}; {meanwhile}"
            self.outbox.note(logging.WARNING, what, carrier.kind.name)
            return
        self._failing_since = min(self._failing_since, now)
        if not self.connected or now - self._failing_since > STALL_SECONDS:
            self._report_trouble(f"cannot reach the server at {reason}; still trying")

    def carrier_received(self, carrier: Carrier, data: Lent, now: float) -> None:
        if carrier.closed:
            return
        died = self.session.counters.carriers_died
        if carrier.session is not None:
            carrier.session.receive(carrier, data, now)
            if carrier.closed and self.session.counters.carriers_died > died:  # what came does not open
                self._dialling.broke(carrier, self.session, now)
        elif carrier in self._attempts:
            self._read_answer(carrier, data, now)
        else:
            self.carrier_lost(carrier, now)

    def carrier_eof(self, carrier: Carrier, now: float) -> None:
        if carrier.closed:
            return
        died = self.session.counters.carriers_died
        if carrier.session is None:
            self.carrier_lost(carrier, now)
        else:
            carrier.session.carrier_eof(carrier, now)
            if self.session.counters.carriers_died > died:
                self._dialling.broke(carrier, self.session, now)

    def carrier_lost(self, carrier: Carrier, now: float) -> None:
        if carrier.closed:
            return
        if carrier not in self._attempts:
            self._dialling.broke(carrier, self.session, now)
        if carrier.session is not None:
            carrier.session.carrier_lost(carrier, now)
        else:
            self._reset(carrier)

    def carrier_progress(self, carrier: Carrier, outstanding: int, now: float) -> None:
        if carrier.session is not None:
            carrier.session.carrier_progress(carrier, outstanding, now)

    def clock_jumped(self, now: float) -> None:
        """The machine slept: connections are likely dead, and the next dial is the test."""
        self.session.drop_idle()
        self._dialling.revive(now)
        self._ask_at = now

    def _reset(self, carrier: Carrier) -> None:
        """Drop a connection that is not (yet) a carrier of the session."""
        self._attempts.pop(carrier, None)
        self._waiting.pop(carrier, None)
        if not carrier.closed:
            carrier.closed = True
            self.outbox.actions.append((Op.RESET, carrier, b""))

    # -------------------------------------------------------------------------------- handshake

    def _ask(self, now: float) -> None:
        """Start a handshake, beside others that are unanswered."""
        if len(self._attempts) >= MAX_ATTEMPTS:
            self._reset(next(iter(self._attempts)))
        session, config = self.session, self._config
        previous = session.id or NO_SESSION
        request = Request(
            VERSION,
            config.mode.number,
            config.reuse,
            config.conns,
            config.lassoes,
            config.burst,
            previous,
            PROTOCOLS.index(config.protocol),
            config.handling.retries.skip + 1,
            config.handling.fec.used,
        )
        self._asked_sync = config.sync and not self._asked_sync
        carrier = Carrier(Kind.SYNC if self._asked_sync else Kind.FLING, now)
        self._attempts[carrier] = _Attempt(Initiator(self._psk, self._random.randbytes(32), request), now)
        self.outbox.actions.append((Op.DIAL, carrier, b""))
        pause = max(ASK_RTTS * session.recovery.rtt, ASK_SECONDS)
        if now - self._asking_since > ASK_OFTEN_SECONDS:
            pause = max(pause, min((now - self._asking_since) / 60.0, ASK_MAX_SECONDS))
        self._ask_at = now + pause * (0.9 + 0.2 * self._random.random())

    def _read_answer(self, carrier: Carrier, data: Lent, now: float) -> None:
        attempt = self._attempts[carrier]
        attempt.received += data
        if len(attempt.received) < ANSWER_SIZE:
            return
        try:
            answer, keys = attempt.initiator.read_answer(attempt.received)
        except (NoiseError, RemoteProtocolError):
            self._reset(carrier)
            self._report_trouble("what answers there does not have this key, or is no tcsplitter server; still trying")
            return
        for other in list(self._attempts):
            self._reset(other)
        self._take_answer(answer, keys, now)

    def _take_answer(self, answer: Answer, keys: SessionKeys, now: float) -> None:
        self._reasons_from = now
        if answer.status == STATUS_OTHER_VERSION or answer.version != VERSION:
            versions = f"version {answer.version} of the protocol, this client version {VERSION}"
            self.failed = f"the server speaks {versions}: install the same tcsplitter on both"
        elif answer.status == STATUS_MODE_NOT_SUPPORTED:
            self.failed = f"the server does not serve --dup {self._config.mode.name}: give both ends the same"
        elif answer.status == STATUS_OTHER_PROTOCOL:
            self.failed = f"the server does not serve --protocol {self._config.protocol}: give both ends the same"
        elif answer.status in (STATUS_NEW, STATUS_CONTINUES):
            self._begin_epoch(answer, keys, now)
        else:
            self._report_trouble("the server has no room for another session; still trying")

    def _begin_epoch(self, answer: Answer, keys: SessionKeys, now: float) -> None:
        barren = self.connected and self.session.has_work and not self.session.counters.shots_received
        if answer.status == STATUS_NEW:
            unused = not self.session.counters.shots_received and answer.instance == self._instance
            if unused:
                self.session.begin_again(now)
            elif self.session.id:
                lost = len(self.session.streams)
                self.outbox.note(logging.WARNING, f"the server was restarted; open streams that are reset: {lost}")
                self.session.close(STOPPED, "the server does not know this session")
                self._renew_session(now)
            self.session.id = answer.session_id
        elif self.session.unheard_for(now) >= STALL_SECONDS or (
            self.session.suspect and now - self.session.heard_at >= STALL_SECONDS
        ):
            self.session.distrust_idle(now)
        self.session.trust(now)
        self._instance = answer.instance
        self.session.set_peer_skip(answer.skip)
        self.session.expect_parity(answer.parity)
        self.session.keys.install(answer.epoch, keys.sealer(), keys.opener(), now)
        if barren:
            self._report_trouble(ONLY_HANDSHAKES)
        else:
            self._clear_trouble("session established" if answer.status == STATUS_NEW else "contact again")
        self._dialling.revive(now)
        for carrier in list(self._waiting):
            del self._waiting[carrier]
            self.session.hello(carrier, self._dialling.idle_for(carrier), now)

    def _clear_trouble(self, text: str) -> None:
        """Say that all is well, if it was not, or was not known to be."""
        if self._trouble or not self._announced:
            self.outbox.note(logging.INFO, text)
        self._trouble = ""
        self._announced = True

    def _report_trouble(self, text: str) -> None:
        """Say once what is wrong, and again only if it changes."""
        if text != self._trouble:
            self._trouble = text
            self.outbox.note(logging.WARNING, text)

    # ------------------------------------------------------------------------------------ wakes

    def flush(self, now: float) -> None:
        """Serve what is due, then let the session send."""
        self._touched.clear()
        if self._stopping or self.failed:
            return
        self._leave_ended_session(now)
        self.session.flush(now)

    def _leave_ended_session(self, now: float) -> None:
        """What begins in the wake in which a session ended would be in a session that nobody serves."""
        if self.session.closed and not self._stopping:
            self.outbox.note(logging.WARNING, f"the session ended: {self.session.closed}")
            self._renew_session(now)

    def tend(self, now: float) -> None:
        """See to the session and its pools, once all that `flush` gave to be sent was sent: nothing of that may wait for this."""
        if self._stopping or self.failed:
            return
        if self._trouble == ONLY_HANDSHAKES and self.session.counters.shots_received:
            self._clear_trouble("contact again")
        self._ping(now)
        if self.session.unheard_for(now) > self._patience:
            self._give_up_streams(now)
        if now < self.session.asks_from(self._reasons_from, now):
            self._asking_since = now
        elif now >= self._ask_at:
            self._ask(now)
            if now - self._asking_since > (LOST_SECONDS if self.connected else STALL_SECONDS):
                self._report_trouble(self._trouble or SILENT_SERVER)
        self._dial(now)

    def _give_up_streams(self, now: float) -> None:
        session = self.session
        limit = self._config.linger if session.id else PATIENCE_SECONDS
        if session.streams and session.unheard_for(now) > limit:
            self.outbox.note(logging.WARNING, f"no contact for {limit:g} s; open streams that are reset: {len(session.streams)}")
            session.close(STOPPED, "no contact")
            self._renew_session(now)

    def _ping(self, now: float) -> None:
        """Notice a dead path though only the other end has something to say."""
        session = self.session
        if not session.in_use or not session.id:
            self._ping_at = inf
            return
        if session.data_at > self._pinged_at:
            self._ping_gap = PING_FIRST
        self._ping_at = max(session.heard_at, self._pinged_at) + self._ping_gap
        if now >= self._ping_at:
            self._pinged_at = now
            self._ping_gap = min(2 * self._ping_gap, PING_LAST)
            self._ping_at = now + self._ping_gap
            if not session.has_work:
                session.streams.queue_control(Control.PING)

    def _dial(self, now: float) -> None:
        """Dial what the pools ask for. Without a session that is only the first pools, so that a wrong server is not flooded."""
        for carrier in self._dialling.too_slow(self.session.recovery.rtt, now):
            self._reset(carrier)
        if not self.session.id and (self._trouble or now - self._started_at > ASK_OFTEN_SECONDS):
            self._dialling.put_off()
            return
        self.outbox.actions += [(Op.DIAL, carrier, b"") for carrier in self._dialling.due(self.session, self._waiting, now)]

    def deadline(self) -> float:
        """When `flush` must be called again at the latest."""
        if self._touched:
            return -inf
        if self._stopping or self.failed:
            return inf
        session, now = self.session, self.session.now
        by = min(session.deadline(), self._dialling.deadline(session.recovery.rtt, now), self._ping_at)
        asks_from = session.asks_from(self._reasons_from, now)
        return min(by, asks_from if now < asks_from else self._ask_at)
