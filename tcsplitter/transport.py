"""Carriers as sockets: dialling, accepting, and what the protocol asks of them, without ever blocking.

A write is tried at once; only what the kernel does not take is queued and waited for. Sockets are unregistered at once and
closed at the end of the wake, but for those whose closing sends what was written last.
"""

import os
import socket
from collections import deque
from collections.abc import Mapping
from functools import partial
from math import inf
from selectors import EVENT_READ, EVENT_WRITE
from typing import Protocol

from tcsplitter._tcp import MOST_RECEIVED, ReadBuffer, TcpSocket, start_connect
from tcsplitter.awaiting import Awaiting
from tcsplitter.carrier import CLOSE, DIAL, PROBE, RESET, SHUT, TAIL, WRITE, Action, Carrier, Lent
from tcsplitter.modes import Kind
from tcsplitter.net import Resolver, Target
from tcsplitter.options import Address
from tcsplitter.reactor import Reactor
from tcsplitter.tuning import Tuning
from tcsplitter.watched import Watched

RECV_ROUNDS = 4  # reads of one carrier in one wake
LEAST_AWAITED = 2_048  # bytes that a shot lacks: fewer come in a segment or two
MOST_AWAITED = 12_288  # bytes that are waited for together: far fewer than a window
SEND_LIMIT = 1_048_576  # bytes of one queue that go out in one wake
QUEUE_LIMIT = 67_108_864  # bytes queued on one carrier; twice what a session may have in flight
CAP_CHECK = 262_144  # bytes read from carriers between two looks at the protocol's caps in one wake
PAUSE_CHECK = 0.05  # seconds between looks at carriers that are not read because of a cap
SILENCE = 3.0  # seconds without an answer after which a dial that is given up counts against its target
CLOSE_TIMEOUT = 30_000  # ms in which the other kernel must take the rest of a queue after CLOSE


class End(Protocol):
    """What a carrier's socket reports to the protocol; ClientEnd and ServerEnd."""

    @property
    def reading_paused(self) -> bool: ...
    def carrier_may_read(self, carrier: Carrier) -> bool: ...
    def carrier_received(self, carrier: Carrier, data: Lent, now: float) -> None: ...
    def carrier_eof(self, carrier: Carrier, now: float) -> None: ...
    def carrier_lost(self, carrier: Carrier, now: float) -> None: ...
    def carrier_progress(self, carrier: Carrier, outstanding: int, now: float) -> None: ...


class DiallingEnd(End, Protocol):
    """The same for an end that dials; ClientEnd."""

    def carrier_connected(self, carrier: Carrier, dial_seconds: float, now: float) -> None: ...
    def carrier_dial_failed(self, carrier: Carrier, reason: str, now: float) -> None: ...


class Dialler:
    """Opens carriers, each to the address of its kind."""

    def __init__(
        self, reactor: Reactor, addresses: Mapping[Kind, Address], end: DiallingEnd, tuning: Tuning | None = None
    ) -> None:
        self.end = end
        self.prepare = (tuning or Tuning()).dialled
        """What is done to a carrier's socket before it connects."""
        routes = {address: _Route(reactor, address) for address in set(addresses.values())}
        self._routes = {kind: routes[address] for kind, address in addresses.items()}

    def dial(self, conn: "CarrierSocket", now: float) -> None:
        """Connect it, or report that this failed."""
        self._routes[conn.carrier.kind].dial(conn, now)

    def connected(self, conn: "CarrierSocket", dial_seconds: float, now: float) -> None:
        """Report that it is connected."""
        self._routes[conn.carrier.kind].reached(conn.target, now)
        self.end.carrier_connected(conn.carrier, dial_seconds, now)

    def failed(self, conn: "CarrierSocket", reason: str, now: float) -> None:
        """Report that it could not be connected."""
        route = self._routes[conn.carrier.kind]
        route.failed(conn.target)
        self.end.carrier_dial_failed(conn.carrier, f"{route.address}: {reason}", now)

    def given_up(self, conn: "CarrierSocket", dialled_at: float) -> None:
        """Nobody waits for it any more."""
        self._routes[conn.carrier.kind].unanswered(conn.target, dialled_at)


class _Route:
    """The way to one address: the target of its name that is dialled, which changes when that one fails."""

    def __init__(self, reactor: Reactor, address: Address) -> None:
        self.address = address
        self._reactor = reactor
        self._resolver = Resolver(reactor, address)
        self._turn = 0
        self._reached_at = -inf
        self._resolver.refresh()

    def dial(self, conn: "CarrierSocket", now: float) -> None:
        """Connect it to the target, once there is one."""
        if self._resolver.targets:
            self._connect(conn, now)
        else:
            self._resolver.look_up(partial(self._connect, conn))

    def reached(self, target: Target | None, now: float) -> None:
        """The target took a connection."""
        if target == self._current():
            self._reached_at = now

    def failed(self, target: Target | None) -> None:
        """The target did not: the next one is dialled from here on, and the name is looked up again."""
        if target == self._current():
            self._turn += 1
            self._reached_at = -inf
        self._resolver.refresh()

    def unanswered(self, target: Target | None, dialled_at: float) -> None:
        """A dial was given up. It counts against its target if that was silent to all, and not just for a moment."""
        if self._reached_at < dialled_at <= self._reactor.now - SILENCE:
            self.failed(target)

    def _current(self) -> Target | None:
        targets = self._resolver.targets
        return targets[self._turn % len(targets)] if targets else None

    def _connect(self, conn: "CarrierSocket", now: float) -> None:
        target = self._current()
        if conn.closed:
            return
        if target is None:
            conn.dial_failed(self._resolver.error, now)
        else:
            conn.connect(target, now)


class Carriers:
    """All carriers of one end as sockets: executes what the protocol asks for.

    An end with a dialler is the client end; it closes last, so it may reset what needs no TIME_WAIT.
    """

    def __init__(self, reactor: Reactor, end: End, dialler: Dialler | None = None) -> None:
        self.reactor = reactor
        self.read_clock = reactor.read_clock
        self.end = end
        self.dialler = dialler
        self.open: set[CarrierSocket] = set()
        """Every carrier that is dialled, connected, or still sending what was queued at CLOSE."""
        self.read_buffer = ReadBuffer()
        """What comes is lent to the end from here."""
        self._reading_paused = False
        self._read_since_check = 0
        self._paused: set[CarrierSocket] = set()
        self._pause_timer = reactor.timer(self._resume)
        self.awaiting = Awaiting(reactor)
        """Carriers that are read when more of a shot is there."""

    def accepted(self, sock: TcpSocket, carrier: Carrier, now: float) -> None:
        """Serve a connection that was accepted; it must not block. What a client end says first comes with the connection."""
        conn = CarrierSocket(self, carrier)
        conn.attach(sock)
        conn.on_ready(EVENT_READ, now)

    def execute(self, actions: list[Action], now: float) -> None:
        """Do what the protocol asked for, in its order."""
        last = len(actions) - 1
        for index, (op, carrier, data) in enumerate(actions):
            conn: CarrierSocket | None = carrier.io
            if op is DIAL:
                CarrierSocket(self, carrier).dial(now)
            elif conn is None:
                continue  # lost in this very wake; the protocol was told
            elif op is WRITE or op is TAIL:
                conn.write(data, index < last and _shares_segment(actions[index + 1], carrier), now)
            elif op is CLOSE:
                conn.close()
            elif op is SHUT:
                conn.shut(now)
            elif op is RESET:
                conn.reset()
            elif op is PROBE:
                self.end.carrier_progress(carrier, conn.outstanding(), now)
            else:
                conn.discard()

    def pause(self, conn: "CarrierSocket") -> None:
        """A cap is exceeded: look at it again when the protocol may have room."""
        self._paused.add(conn)
        if len(self._paused) == 1:
            self._pause_timer.at(self.reactor.now + PAUSE_CHECK)

    def read_no_more(self, conn: "CarrierSocket") -> None:
        """It is not to be read when there is room again."""
        self._paused.discard(conn)

    def settle(self, now: float) -> None:
        """End of a wake: look at the protocol's caps; read again what was paused, if there is room."""
        self._reading_paused = self.end.reading_paused
        self._read_since_check = 0
        if self._paused and not self._reading_paused:
            self._resume(now)

    def forget(self, conn: "CarrierSocket") -> None:
        """It is closed."""
        self.open.discard(conn)
        self._paused.discard(conn)

    def close_all(self) -> None:
        """Close every carrier there is, whatever is queued; the protocol hears nothing of it."""
        for conn in list(self.open):
            conn.drop()

    def may_read(self, carrier: Carrier) -> bool:
        """Whether the protocol's caps leave room for what this carrier brings."""
        return not self._reading_paused or self.end.carrier_may_read(carrier)

    def count_read(self, size: int) -> None:
        """The protocol was given `size` bytes."""
        self._read_since_check += size
        if self._read_since_check >= CAP_CHECK:
            self._reading_paused = self.end.reading_paused
            self._read_since_check = 0

    def _resume(self, now: float) -> None:
        for conn in [conn for conn in self._paused if self.may_read(conn.carrier)]:
            self._paused.discard(conn)
            conn.watch(conn.events | EVENT_READ)
        self._pause_timer.at(now + PAUSE_CHECK if self._paused else inf)


class CarrierSocket(Watched):
    """One carrier's socket. Its write queue is as long as `Carrier.backlog` says."""

    __slots__ = (
        "_awaited", "_closing", "_corked", "_dialled_at", "_discarding", "_queue", "_shut", "_sock", "carrier", "carriers",
        "connected", "target",
    )  # fmt: skip

    def __init__(self, carriers: Carriers, carrier: Carrier) -> None:
        Watched.__init__(self, carriers.reactor, -1)
        self.carriers = carriers
        self.carrier = carrier
        self.connected = False
        self.target: Target | None = None
        """What it was dialled to."""
        self._queue: deque[bytes | memoryview] | None = None
        """What the kernel did not take at once, where there was any."""
        self._shut = False
        self._corked = False
        """The kernel keeps what was written until something follows."""
        self._closing = False
        self._discarding = False
        self._awaited = 1
        """Bytes that are to come before it is read again."""
        self._dialled_at = 0.0
        carrier.io = self
        carriers.open.add(self)

    def attach(self, sock: TcpSocket) -> None:
        """Take a connected socket."""
        self._sock = sock
        self.fd = sock.fd
        self.connected = True
        self.watch(EVENT_READ)

    def dial(self, now: float) -> None:
        """Connect to where the dialler says."""
        dialler = self.carriers.dialler
        assert dialler is not None, "only a client end dials"
        self._dialled_at = now
        dialler.dial(self, now)

    def connect(self, target: Target, now: float) -> None:
        """Start to connect."""
        dialler = self.carriers.dialler
        assert dialler is not None
        self.target = target
        try:
            self._sock, done = start_connect(target, dialler.prepare)
        except OSError as error:
            self.dial_failed(_reason(error.errno), now)
            return
        self.fd = self._sock.fd
        if done:
            self._is_connected(now)
        else:
            self.watch(EVENT_READ | EVENT_WRITE)  # it is readable as well if it failed

    def dial_failed(self, reason: str, now: float) -> None:
        """Report it; the dialler may choose another target for the next one."""
        dialler = self.carriers.dialler
        assert dialler is not None
        self.drop()
        dialler.failed(self, reason, now)

    def write(self, data: bytes, more: bool, now: float) -> None:
        """Send `data`, or queue what the kernel does not take. `more`: something follows at once."""
        if self._queue or not self.connected:
            self._enqueue(data, now)
            return
        self._corked = more
        try:
            sent = self._sock.send(data, more)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lost(now)
            return
        if sent < len(data):
            self._enqueue(memoryview(data)[sent:], now)

    def shut(self, now: float) -> None:
        """Shut down the write side once the queue is empty."""
        self._shut = True
        if not self._queue and self.connected:
            self._shut_down(now)

    def close(self) -> None:
        """Close once the queue is empty."""
        if self._queue and self.connected:
            self._closing = True
            self.carriers.read_no_more(self)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, CLOSE_TIMEOUT)
            self.watch(EVENT_WRITE)
            return
        if self.carriers.dialler is not None and self.connected and not self._corked and self._all_arrived():
            self._sock.abort()
        self.drop()

    def _all_arrived(self) -> bool:
        """Whether the other kernel has all that was written; it need not be asked where the other end has said so."""
        return self.carrier.delivered or not self._sock.unacknowledged()

    def reset(self) -> None:
        """Reset the connection, or stop dialling."""
        if self.connected:
            self._sock.abort()
        elif self.carriers.dialler is not None:
            self.carriers.dialler.given_up(self, self._dialled_at)
        self.drop()

    def discard(self) -> None:
        """Read and throw away from now on."""
        self._discarding = True

    def outstanding(self) -> int:
        """Bytes written and not acknowledged by the other kernel."""
        return self.carrier.backlog + (self._sock.unacknowledged() if self.connected else 0)

    def on_ready(self, events: int, now: float) -> None:
        """Serve the socket."""
        if not self.connected:
            self._finish_connect(events & EVENT_READ != 0, now)
            return
        if events & EVENT_WRITE:
            self._write_queue(now)
        if events & EVENT_READ and not (self.closed or self._closing):
            if self._discarding:
                self._throw_away()
            elif self.carriers.may_read(self.carrier):
                self._read(now)
            else:
                self.watch(self.events & ~EVENT_READ)
                self.carriers.pause(self)

    def _finish_connect(self, may_have_failed: bool, now: float) -> None:
        if may_have_failed and (code := self._sock.error()):
            self.dial_failed(_reason(code), now)
        else:
            self._is_connected(now)

    def _is_connected(self, now: float) -> None:
        self.connected = True
        self.watch(EVENT_READ | EVENT_WRITE if self._queue else EVENT_READ)
        dialler = self.carriers.dialler
        assert dialler is not None
        dialler.connected(self, self.carriers.reactor.clock() - self._dialled_at, now)
        if self._shut and not self._queue:
            self._shut_down(now)

    def _read(self, now: float) -> None:
        end = self.carriers.end
        carrier = self.carrier
        for _ in range(RECV_ROUNDS):
            try:
                data = self._sock.recv(self.carriers.read_buffer)
            except BlockingIOError:
                break
            except OSError:
                self._lost(now)
                return
            now = self.carriers.read_clock()
            if not data:
                end.carrier_eof(carrier, now)
                if not carrier.closed:
                    self.rest(self.events & ~EVENT_READ)
                return
            end.carrier_received(carrier, data, now)
            self.carriers.count_read(len(data))
            # The server's FIN came with its FINAL shot: reading on at once saves a wake.
            if carrier.closed or (len(data) < MOST_RECEIVED and not (carrier.rx_final and self.carriers.dialler)):
                break
        self._await(carrier)

    def _await(self, carrier: Carrier) -> None:
        """A shot is read when what it lacks is there, not for each segment of it."""
        missing = carrier.reader.missing
        awaited = 1 if missing < LEAST_AWAITED else min(missing, MOST_AWAITED)
        if awaited != self._awaited and not carrier.closed:
            self._awaited = awaited
            self._sock.wait_for(awaited)
            self.carriers.awaiting.note(self, awaited > 1)

    def _throw_away(self) -> None:
        try:
            if not self._sock.recv(self.carriers.read_buffer):
                self.watch(self.events & ~EVENT_READ)
        except BlockingIOError:
            return
        except OSError:
            self.drop()

    def _enqueue(self, data: bytes | memoryview, now: float) -> None:
        carrier = self.carrier
        if self._queue is None:
            self._queue = deque()
        self._queue.append(data)
        carrier.backlog += len(data)
        if carrier.backlog > QUEUE_LIMIT:
            self._lost(now)
        elif self.connected:
            self.watch(self.events | EVENT_WRITE)

    def _write_queue(self, now: float) -> None:
        queue = self._queue
        ends = self._shut or self._closing
        budget = SEND_LIMIT
        while queue and budget > 0:
            head = queue[0]
            try:
                sent = self._sock.send(head, ends or len(queue) > 1)
            except BlockingIOError:
                return
            except OSError:
                self._lost(now)
                return
            budget -= sent
            self.carrier.backlog -= sent
            if sent < len(head):
                queue[0] = memoryview(head)[sent:]
                return
            queue.popleft()
        if queue:
            return
        self.watch(self.events & ~EVENT_WRITE)
        self._corked = ends
        if self._closing:
            self.close()
        elif self._shut:
            self._shut_down(now)

    def _shut_down(self, now: float) -> None:
        self._corked = False
        try:
            self._sock.shutdown()
        except OSError:
            self._lost(now)

    def _lost(self, now: float) -> None:
        silent = self._closing or self._discarding
        self.drop()
        if not silent:
            self.carriers.end.carrier_lost(self.carrier, now)

    def drop(self) -> None:
        """Close it now, without what is queued."""
        self.closed = True
        self._queue = None
        self.carrier.backlog = 0
        self.carrier.io = None
        self.carriers.forget(self)
        if self._awaited > 1:
            self.carriers.awaiting.note(self, False)
        if self.fd >= 0:
            if self._corked:  # what was written last goes when it is closed
                self.part()
                self._sock.close()
            else:
                self.leave(self._sock)


def _shares_segment(following: Action, carrier: Carrier) -> bool:
    """Whether what follows what is written to this carrier goes with it at once."""
    op, other, _ = following
    return other is carrier and op is not PROBE and op is not TAIL


def _reason(code: int | None) -> str:
    return os.strerror(code or 0)
