"""The client end, pure: it dials, shakes hands, keeps the pool filled, and gives its session carriers."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from math import inf

from tcsplitter.carrier import Carrier, Kind, Op
from tcsplitter.errors import RemoteProtocolError
from tcsplitter.handshake import (
    ANSWER_SIZE,
    MODES,
    NO_SESSION,
    STATUS_CONTINUES,
    STATUS_MODE_NOT_SUPPORTED,
    STATUS_NEW,
    STATUS_OTHER_VERSION,
    VERSION,
    Answer,
    Initiator,
    Request,
    SessionKeys,
)
from tcsplitter.noise import NoiseError
from tcsplitter.outbox import Outbox
from tcsplitter.pool import Pool, Random
from tcsplitter.session import RESERVE, STOPPED, Session, SessionConfig
from tcsplitter.streams import Control, Stream

ASK_RTTS, ASK_SECONDS = 2.0, 0.5
"""A handshake unanswered for the larger of these is joined by another one."""
ASK_OFTEN_SECONDS, ASK_MAX_SECONDS = 60.0, 5.0
"""For how long, and to what pause then."""
MAX_ATTEMPTS = 8
LOST_SECONDS = 5.0
"""After so long without an answer the user is told that contact is lost."""
STALL_RTTS, STALL_SECONDS = 3.0, 1.0
"""Who has waited for the larger of these asks whether the session lives."""
SUSPECT_RTTS, SUSPECT_SECONDS = 2.0, 0.25
"""The same after a carrier broke."""
PING_FIRST, PING_LAST = 2.0, 60.0
"""Pause after which a silent session with streams is pinged, doubled each time."""
PATIENCE_SECONDS = 30.0
"""How long streams wait for the first session of all."""
SILENT_SERVER = (
    "no answer to the handshake: the server has another key, is no tcsplitter server, or the line is down; still trying"
)
ONLY_HANDSHAKES = "the server answers handshakes, but nothing else gets through, or is tampered with on its way; still trying"


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """What the client end was told. Times in seconds."""

    size: int = 10_000
    reuse: int = 1
    conns: int = 4
    burst: int = 1024
    idle: float = 25.0
    linger: float = 86_400.0


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
        self._pool = Pool(config.conns, config.burst, config.idle, random, now)
        self._attempts: dict[Carrier, _Attempt] = {}
        self._waiting: dict[Carrier, None] = {}
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
        self._started_at = now
        self.session = self._fresh_session(now)

    def _fresh_session(self, now: float) -> Session:
        config = self._config
        reserve = RESERVE if config.burst or config.conns >= 2 * RESERVE else 0
        session = SessionConfig(True, config.size, config.reuse, config.idle, reserve)
        return Session(session, self._name, self.outbox, self._touched, now)

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
        self.session.enter(now)
        return self.session.streams.open()

    def stop(self, now: float) -> None:
        """End the session; after the next actions the process may exit."""
        self._stopping = True
        self.session.enter(now)
        self.session.close(STOPPED, "the client was stopped")
        for carrier in [*self._attempts, *self._waiting]:
            self._reset(carrier)

    # ------------------------------------------------------------------------------ carrier side

    def carrier_connected(self, carrier: Carrier, dial_seconds: float, now: float) -> None:
        self.session.recovery.dialled(dial_seconds, now)
        carrier.dial_seconds = dial_seconds
        attempt = self._attempts.get(carrier)
        if attempt is not None:
            attempt.connected = True
            self.outbox.actions.append((Op.WRITE, carrier, attempt.initiator.message))
            return
        self._pool.connected(carrier)
        self._failing_since = inf
        if self.session.keys.can_seal:
            self.session.hello(carrier, self._pool.idle_for(), now)
        else:
            self._waiting[carrier] = None

    def carrier_dial_failed(self, carrier: Carrier, reason: str, now: float) -> None:
        carrier.closed = True
        if self._attempts.pop(carrier, None) is None:
            self._pool.failed(carrier, now)
        self._failing_since = min(self._failing_since, now)
        if not self.connected or now - self._failing_since > STALL_SECONDS:
            self._report_trouble(f"cannot reach the server: {reason}; still trying")

    def carrier_received(self, carrier: Carrier, data: bytes, now: float) -> None:
        if carrier.session is not None:
            carrier.session.receive(carrier, data, now)
        elif carrier in self._attempts:
            self._read_answer(carrier, data, now)
        else:
            self._reset(carrier)

    def carrier_eof(self, carrier: Carrier, now: float) -> None:
        if carrier.session is not None:
            carrier.session.carrier_eof(carrier, now)
        else:
            self._reset(carrier)

    def carrier_lost(self, carrier: Carrier, now: float) -> None:
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
        self._pool.revive(now)
        self._ask_at = now

    def _reset(self, carrier: Carrier) -> None:
        """Drop a connection that is not (yet) a carrier of the session."""
        self._attempts.pop(carrier, None)
        self._waiting.pop(carrier, None)
        if not carrier.closed:
            carrier.closed = True
            self.outbox.actions.append((Op.RESET, carrier, b""))

    # -------------------------------------------------------------------------------- handshake

    def _unheard_for(self, now: float) -> float:
        return now - max(self.session.heard_at, self.session.waiting_since)

    def _asks(self, now: float) -> bool:
        """Whether a handshake is wanted: for a session, for fresh keys, or to learn whether the session lives."""
        session, rtt = self.session, self.session.recovery.rtt
        if session.keys.sealing is None or session.keys.sealing.worn(now):
            return True
        heard = max(session.heard_at, self._reasons_from)
        if session.suspect and now - heard >= max(SUSPECT_RTTS * rtt, SUSPECT_SECONDS):
            return True
        return session.has_work and now - max(heard, session.waiting_since) >= max(STALL_RTTS * rtt, STALL_SECONDS)

    def _ask(self, now: float) -> None:
        """Start a handshake, beside others that are unanswered."""
        if len(self._attempts) >= MAX_ATTEMPTS:
            self._reset(next(iter(self._attempts)))
        session, config = self.session, self._config
        previous = session.id or NO_SESSION
        request = Request(VERSION, MODES.index("fling"), config.reuse, config.conns, 0, config.burst, previous)
        carrier = Carrier(Kind.FLING, now)
        self._attempts[carrier] = _Attempt(Initiator(self._psk, self._random.randbytes(32), request), now)
        self.outbox.actions.append((Op.DIAL, carrier, b""))
        pause = max(ASK_RTTS * session.recovery.rtt, ASK_SECONDS)
        if now - self._asking_since > ASK_OFTEN_SECONDS:
            pause = max(pause, min((now - self._asking_since) / 60.0, ASK_MAX_SECONDS))
        self._ask_at = now + pause * (0.9 + 0.2 * self._random.random())

    def _read_answer(self, carrier: Carrier, data: bytes, now: float) -> None:
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
        self.session.suspect = False
        if answer.status == STATUS_OTHER_VERSION or answer.version != VERSION:
            versions = f"version {answer.version} of the protocol, this client version {VERSION}"
            self.failed = f"the server speaks {versions}: install the same tcsplitter on both"
        elif answer.status == STATUS_MODE_NOT_SUPPORTED:
            self.failed = "the server does not support this mode: use another --dup, or a newer server"
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
                self.session = self._fresh_session(now)
            self.session.id = answer.session_id
        elif self._unheard_for(now) >= STALL_SECONDS:
            self.session.distrust_idle(now)
        self._instance = answer.instance
        self.session.keys.install(answer.epoch, keys.sealer(), keys.opener(), now)
        if barren:
            self._report_trouble(ONLY_HANDSHAKES)
        else:
            self._clear_trouble("session established" if answer.status == STATUS_NEW else "contact again")
        self._pool.revive(now)
        for carrier in list(self._waiting):
            del self._waiting[carrier]
            self.session.hello(carrier, self._pool.idle_for(), now)

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
        if self.session.closed:
            self.outbox.note(logging.WARNING, f"the session ended: {self.session.closed}")
            self.session = self._fresh_session(now)
        if self._trouble == ONLY_HANDSHAKES and self.session.counters.shots_received:
            self._clear_trouble("contact again")
        self._give_up_streams(now)
        self._ping(now)
        if not self._asks(now):
            self._asking_since = now
        elif now >= self._ask_at:
            self._ask(now)
            if now - self._asking_since > (LOST_SECONDS if self.connected else STALL_SECONDS):
                self._report_trouble(self._trouble or SILENT_SERVER)
        self.session.flush(now)
        self._dial(now)

    def _give_up_streams(self, now: float) -> None:
        session = self.session
        if not session.streams:
            return
        limit = self._config.linger if session.id else PATIENCE_SECONDS
        if now - max(session.heard_at, session.waiting_since) > limit:
            self.outbox.note(logging.WARNING, f"no contact for {limit:g} s; open streams that are reset: {len(session.streams)}")
            session.close(STOPPED, "no contact")
            self.session = self._fresh_session(now)

    def _ping(self, now: float) -> None:
        """Notice a dead path though only the other end has something to say."""
        session = self.session
        if not session.streams or not session.id:
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
        """Dial what the pool asks for. Without a session that is only the first pool, so that a wrong server is not flooded."""
        session, rtt = self.session, self.session.recovery.rtt
        for carrier in self._pool.too_slow(rtt, now):
            self._pool.failed(carrier, now)
            self._reset(carrier)
        if not session.id and (self._trouble or now - self._started_at > ASK_OFTEN_SECONDS):
            return
        carriers, peer = session.carriers, session.peer
        idle, alive = len(carriers.idle) + len(self._waiting), len(carriers.all) + len(self._waiting)
        want = session.want() if session.id else 0
        # What the other end said long ago it would not say now.
        if (since := now - session.recovery.give_up_after) < peer.said_at:
            idle = min(idle, peer.held + carriers.on_their_way(since) + len(self._waiting))
            want += peer.want
        for _ in range(self._pool.dials_due(idle, alive, want, rtt, now)):
            carrier = Carrier(Kind.FLING, now)
            self._pool.dialled(carrier, now)
            self.outbox.actions.append((Op.DIAL, carrier, b""))

    def deadline(self) -> float:
        """When `flush` must be called again at the latest."""
        if self._touched:
            return -inf
        now, session, rtt = self.session.now, self.session, self.session.recovery.rtt
        by = min(session.deadline(), self._pool.deadline(rtt, now), self._ping_at)
        if self._asks(now):
            return min(by, self._ask_at)
        heard = max(session.heard_at, self._reasons_from)
        if session.suspect:
            by = min(by, heard + max(SUSPECT_RTTS * rtt, SUSPECT_SECONDS))
        if session.has_work:
            by = min(by, max(heard, session.waiting_since) + max(STALL_RTTS * rtt, STALL_SECONDS))
        return by
