"""The server end, pure: it tells handshakes and hellos from garbage, and keeps the sessions of all its clients."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from tcsplitter._core import ShotReader
from tcsplitter.carrier import Carrier, Lent, Op
from tcsplitter.config import SessionConfig
from tcsplitter.demand import MAX_WANT
from tcsplitter.errors import RemoteProtocolError
from tcsplitter.handshake import (
    ID_SIZE,
    NO_SESSION,
    REQUEST_SIZE,
    STATUS_CONTINUES,
    STATUS_MODE_NOT_SUPPORTED,
    STATUS_NEW,
    STATUS_NO_ROOM,
    STATUS_OTHER_PROTOCOL,
    STATUS_OTHER_VERSION,
    VERSION,
    Answer,
    Gate,
    Request,
    SessionKeys,
)
from tcsplitter.modes import MODES, PROTOCOLS, Kind, Mode, reserve
from tcsplitter.newcomers import Newcomer, Newcomers
from tcsplitter.noise import NoiseError
from tcsplitter.outbox import Outbox
from tcsplitter.pace import Beats
from tcsplitter.pool import Random
from tcsplitter.receiving import Record
from tcsplitter.session import STOPPED, Session
from tcsplitter.shared import Handling
from tcsplitter.stats import counted_line

MAX_SESSIONS = 4_096
MAX_HELD = 512 * 1024 * 1024
"""Bytes of all sessions that wait for local programs or are only half there; beyond it no carriers are read of sessions that have
more than an equal share of them."""
PROVISIONAL_SECONDS = 10.0
MAX_PROVISIONAL = 8
"""Sessions of one key that no sealed shot has confirmed."""
LINGER_WITHOUT_STREAMS = 120.0
QUIET_SECONDS = 75.0
"""For so long a client that has streams and nothing to say may be silent: between its pings lies a minute at most."""
SWEEP_SECONDS = 5.0
"""How often sessions are looked through for those without contact."""


_MODES = {mode.number: mode for mode in MODES.values()}


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What the server end was told. Times in seconds."""

    handling: Handling = field(default_factory=Handling)
    mode: Mode | None = None
    """The only mode that is served; None: whatever clients ask for."""
    protocol: str = "tcp"
    idle: float = 25.0
    linger: float = 86_400.0


@dataclass(slots=True)
class _Provisional:
    """A session that was granted and not used yet."""

    session: Session
    expires_at: float


class ServerEnd:
    """All sessions of a server, and the connections that are not yet part of one."""

    def __init__(self, config: ServerConfig, keys: Mapping[str, bytes], random: Random, now: float) -> None:
        self.sessions: dict[bytes, Session] = {}
        self._config = config
        self._random = random
        self._instance = random.randbytes(ID_SIZE)
        self._gate = Gate(keys, now)
        self.outbox = Outbox()
        """What the I/O side has to do and to look at, and what the user should know."""
        self._touched: dict[Session, None] = {}
        self._newcomers = Newcomers(random, self.outbox.actions)
        self._provisional: list[_Provisional] = []
        self._timers = Beats()
        self._held: dict[Session, int] = {}
        """Bytes held, of the sessions that hold any."""
        self._total_held = 0
        self._over_cap: dict[Session, None] = {}
        self._sweep_at = now + SWEEP_SECONDS

    # ------------------------------------------------------------------------------- local side

    @property
    def idle(self) -> bool:
        """No streams are open."""
        return not any(session.streams for session in self.sessions.values())

    @property
    def reading_paused(self) -> bool:
        """A cap is exceeded: only carriers that `carrier_may_read` names are read."""
        return self._total_held > MAX_HELD or bool(self._over_cap)

    def carrier_may_read(self, carrier: Carrier) -> bool:
        session = carrier.session
        if session is None or carrier.reader.pending:
            return True
        return not session.over_cap and (self._total_held <= MAX_HELD or session.held * len(self._held) <= MAX_HELD)

    def _account(self, session: Session) -> None:
        """Keep the sum of what all sessions hold, so that no wake has to look at those that nothing happened to."""
        if self._total_held > MAX_HELD:
            session.forget_kept()
        held = 0 if session.closed else session.held
        if held or self._held:
            self._total_held += held - self._held.pop(session, 0)
            if held:
                self._held[session] = held
        if session.over_cap and not session.closed:
            self._over_cap[session] = None
        elif self._over_cap:
            self._over_cap.pop(session, None)

    def counted(self) -> list[tuple[str, dict[str, int]]]:
        """The counters of each session that had carriers, with the name of its key."""
        used = [session for session in self.sessions.values() if session.counters.carriers]
        return [(session.name, session.counters.as_dict()) for session in used]

    def stop(self, now: float) -> None:
        """End all sessions; after the next actions the process may exit."""
        for session in self.sessions.values():
            session.enter(now)
            session.close(STOPPED, "the server was stopped")

    # ------------------------------------------------------------------------------ carrier side

    def accepted(self, host: str, now: float) -> Carrier:
        """A connection came in from `host`."""
        return self._newcomers.accept(host, now)

    def carrier_received(self, carrier: Carrier, data: Lent, now: float) -> None:
        if carrier.session is not None:
            carrier.session.receive(carrier, data, now)
        elif not (carrier is self._newcomers.latest and self._greets(carrier, data, now)):
            self._read_newcomer(carrier, data, now)

    def _greets(self, carrier: Carrier, data: Lent, now: float) -> bool:
        """Whether a hello, whole and genuine, is what came with a connection. `_read_newcomer` sees to all that is not."""
        session = self.sessions.get(bytes(data[:ID_SIZE]))
        if session is None:
            return False
        carrier.reader = ShotReader(expect_hello=True)
        try:
            records = carrier.reader.feed(data, ID_SIZE)
        except RemoteProtocolError:
            return False
        return bool(records) and self._welcome(carrier, session, records, self._newcomers.latest_host, now)

    def _welcome(self, carrier: Carrier, session: Session, records: list[Record], host: str, now: float) -> bool:
        """Make a connection a carrier of the session that it names, if its first record proves that it may be one."""
        if self.sessions.get(session.id) is not session or session.closed or not session.welcome(carrier, records[0], now):
            return False
        self._newcomers.remove(carrier)
        if self._provisional:
            self._confirm(session, host)
        if len(records) > 1:
            session.receive_records(carrier, records[1:], now)
        return True

    def _read_newcomer(self, carrier: Carrier, data: Lent, now: float) -> None:
        newcomer = self._newcomers.get(carrier)
        if newcomer is None or newcomer.discarding or newcomer.answered:
            return
        if newcomer.session is None:
            newcomer.received += data
            if len(newcomer.received) < ID_SIZE:
                return
            newcomer.session = self.sessions.get(newcomer.received[:ID_SIZE])
            if newcomer.session is None:
                if len(newcomer.received) >= REQUEST_SIZE:
                    self._read_request(carrier, newcomer, now)
                return
            carrier.reader = ShotReader(expect_hello=True)
            data, newcomer.received = newcomer.received, b""
            self._read_hello(carrier, newcomer, newcomer.session, data, ID_SIZE, now)
        else:
            self._read_hello(carrier, newcomer, newcomer.session, data, 0, now)

    def carrier_eof(self, carrier: Carrier, now: float) -> None:
        if carrier.session is not None:
            carrier.session.carrier_eof(carrier, now)
            return
        newcomer = self._newcomers.get(carrier)
        if newcomer is not None and newcomer.answered:
            self._newcomers.close(carrier)
        elif newcomer is not None and not newcomer.discarding:
            self._newcomers.discard(carrier)

    def carrier_lost(self, carrier: Carrier, now: float) -> None:
        if carrier.session is not None:
            carrier.session.carrier_lost(carrier, now)
        else:
            self._newcomers.remove(carrier)
            carrier.closed = True
            self.outbox.actions.append((Op.RESET, carrier, b""))

    def carrier_progress(self, carrier: Carrier, outstanding: int, now: float) -> None:
        if carrier.session is not None:
            carrier.session.carrier_progress(carrier, outstanding, now)

    def clock_jumped(self, now: float) -> None:
        """The machine slept: idle connections are likely dead."""
        for session in self.sessions.values():
            session.enter(now)
            session.drop_idle()

    # -------------------------------------------------------------------------------- newcomers

    def _refuse(self, carrier: Carrier, newcomer: Newcomer, why: str) -> None:
        """Say nothing to it, and something to the user."""
        self.outbox.note(logging.WARNING, f"refused a connection from {newcomer.host}: {why}", "refused")
        self._newcomers.discard(carrier)

    def _read_hello(self, carrier: Carrier, newcomer: Newcomer, session: Session, data: Lent, skip: int, now: float) -> None:
        """A newcomer named a session, in the bytes to be skipped: it becomes a carrier of it if its hello is genuine."""
        try:
            records = carrier.reader.feed(data, skip)
        except RemoteProtocolError as error:
            self._refuse(carrier, newcomer, f"its hello is {error}")
            return
        if not records:
            if not self._newcomers.may_keep(newcomer, carrier.reader.pending):
                self._refuse(carrier, newcomer, "too many others, like it, have said half a hello")
        elif not self._welcome(carrier, session, records, newcomer.host, now):
            self._refuse(carrier, newcomer, "its hello is old, or not genuine")

    def _read_request(self, carrier: Carrier, newcomer: Newcomer, now: float) -> None:
        """A newcomer sent as much as a handshake has: answer it if it proves a key, say nothing otherwise."""
        try:
            responder = self._gate.respond(newcomer.received, now)
            answer, session = self._decide(responder.request, responder.key_name, now)
            message, keys = responder.answer(answer, self._random.randbytes(32))
        except (NoiseError, RemoteProtocolError) as error:
            self._refuse(carrier, newcomer, str(error))
            return
        if session is not None:
            self._grant(session, answer, keys, now)
        newcomer.answered = True
        newcomer.received = b""
        self.outbox.actions.append((Op.WRITE, carrier, message))
        self.outbox.actions.append((Op.SHUT, carrier, b""))

    def _decide(self, request: Request, key_name: str, now: float) -> tuple[Answer, Session | None]:
        """What to answer, and the session that it is about."""
        if request.version != VERSION:
            return self._refusal(STATUS_OTHER_VERSION), None
        mode = _MODES.get(request.mode)
        if mode is None or self._config.mode not in (None, mode):
            asked = mode.name if mode else f"number {request.mode}"
            return self._decline(STATUS_MODE_NOT_SUPPORTED, f"client {key_name}: it asks for --dup {asked}"), None
        if request.protocol != PROTOCOLS.index(self._config.protocol):
            return self._decline(STATUS_OTHER_PROTOCOL, f"client {key_name}: it wants another --protocol"), None
        handling = self._config.handling
        granted = handling.retries.skip + 1, handling.fec.used
        session = self.sessions.get(request.previous)
        if session is not None and session.name == key_name and not session.closed:
            return Answer(VERSION, STATUS_CONTINUES, session.epochs_made % 256, session.id, self._instance, *granted), session
        if len(self.sessions) >= MAX_SESSIONS:
            return self._refusal(STATUS_NO_ROOM), None
        session = self._fresh_session(request, mode, key_name, now)
        return Answer(VERSION, STATUS_NEW, 0, session.id, self._instance, *granted), session

    def _decline(self, status: int, why: str) -> Answer:
        """Refuse somebody who has a key."""
        self.outbox.note(logging.WARNING, f"refused {why}", "declined")
        return self._refusal(status)

    def _refusal(self, status: int) -> Answer:
        return Answer(VERSION, status, 0, NO_SESSION, self._instance)

    def _fresh_session(self, request: Request, mode: Mode, key_name: str, now: float) -> Session:
        size = request.conns if mode.down[0] is Kind.FLING else request.lassoes
        # Of a fixed pool one carrier at least is left to a client that yields to what the server wants.
        most = MAX_WANT if request.burst else max(0, size - 1)
        config = SessionConfig(
            client=False,
            mode=mode,
            handling=self._config.handling,
            reuse=request.reuse,
            idle=self._config.idle,
            reserve=reserve(size, request.burst),
            fixed=not request.burst,
            most=most,
            datagrams=self._config.protocol == "udp",
        )
        session = Session(config, key_name, self.outbox, self._touched, now)
        session.set_peer_skip(request.skip)
        session.expect_parity(request.parity)
        while session.id in self.sessions or session.id in (b"", NO_SESSION):
            session.id = self._random.randbytes(ID_SIZE)
        return session

    def _grant(self, session: Session, answer: Answer, keys: SessionKeys, now: float) -> None:
        """Give a session the keys of this handshake; a new one is provisional until a sealed shot uses them."""
        session.keys.install(answer.epoch, keys.sealer(), keys.opener(), now)
        session.epochs_made += 1
        if answer.status == STATUS_NEW:
            self.sessions[session.id] = session
            self._provisional.append(_Provisional(session, now + PROVISIONAL_SECONDS))
            same_key = [p for p in self._provisional if p.session.name == session.name]
            for provisional in same_key[:-MAX_PROVISIONAL]:
                self._withdraw(provisional)

    def _confirm(self, session: Session, host: str) -> None:
        """A sealed shot proves that the session is wanted."""
        left = [provisional for provisional in self._provisional if provisional.session is not session]
        if len(left) < len(self._provisional):
            self._provisional = left
            self.outbox.note(logging.INFO, f"session of {session.name} from {host} established")

    def _withdraw(self, provisional: _Provisional) -> None:
        """Nobody used the session."""
        self._provisional.remove(provisional)
        self.sessions.pop(provisional.session.id, None)

    # ------------------------------------------------------------------------------------ wakes

    def flush(self, now: float) -> None:
        """Serve what is due, then let the sessions send that have reason to."""
        if now >= self._newcomers.deadline():
            self._close_overdue(now)
        while self._provisional and self._provisional[0].expires_at <= now:
            self._withdraw(self._provisional[0])
        if now >= self._sweep_at:
            self._sweep(now)
        if now >= self._timers.deadline():
            self._timers.run(now)
        touched = list(self._touched)
        self._touched.clear()
        for session in touched:
            session.flush(now)
            self._account(session)
            if session.closed:
                self._forget(session)
            else:
                self._timers.at(session, session.deadline())

    def _close_overdue(self, now: float) -> None:
        """Close the newcomers whose time is up; who did not even get an answer is worth a word."""
        for newcomer in self._newcomers.close_overdue(now):
            if not (newcomer.discarding or newcomer.answered):
                why = "it proved no key in time" if newcomer.received or newcomer.session else "it said nothing"
                self.outbox.note(logging.WARNING, f"closed a connection from {newcomer.host}: {why}", "silent")

    def _forget(self, session: Session) -> None:
        if self.sessions.pop(session.id, None) is not None:
            self.outbox.note(logging.INFO, f"session of {session.name} ended: {session.closed}")
            self.outbox.note(logging.DEBUG, counted_line(session.name, session.counters.as_dict()))
        self._timers.at(session, inf)

    def _sweep(self, now: float) -> None:
        """End the sessions whose client was not heard of for too long."""
        self._sweep_at = now + SWEEP_SECONDS
        for session in list(self.sessions.values()):
            if now - session.heard_at > (QUIET_SECONDS + self._config.linger if session.streams else LINGER_WITHOUT_STREAMS):
                session.close(STOPPED, "no contact")
                self._account(session)
                self._forget(session)

    def deadline(self) -> float:
        """When `flush` must be called again at the latest."""
        if self._touched:
            return -inf
        by = min(self._newcomers.deadline(), self._timers.deadline())
        if self._provisional:
            by = min(by, self._provisional[0].expires_at)
        return min(by, self._sweep_at) if self.sessions else by
