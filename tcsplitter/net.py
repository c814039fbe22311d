"""Addresses: look-ups that do not block, listening, accepting."""

import errno
import os
import socket
import threading
from collections.abc import Callable
from functools import partial
from logging import WARNING
from selectors import EVENT_READ
from typing import Any

from tcsplitter._tcp import TcpSocket, accept
from tcsplitter.errors import ConfigError
from tcsplitter.log import LimitedLog
from tcsplitter.options import Address
from tcsplitter.reactor import Reactor
from tcsplitter.watched import Watched

ACCEPT_BATCH = 64  # connections accepted in one wake
ACCEPT_PAUSE = 0.1  # seconds without accepting when descriptors or memory ran out
RESOLVE_PAUSE = 1.0  # seconds between two look-ups of the same name

_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_LACKING = frozenset((errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT))

Target = tuple[socket.AddressFamily, tuple[Any, ...]]  # what socket() and connect() take
Prepare = Callable[[Any, str], None]  # a socket, and the numeric address that it is to connect to, or to listen on
Bind = Callable[[socket.AddressFamily, tuple[Any, ...]], socket.socket]


class Resolver:
    """The targets of one address: at once if it is numeric, by a helper thread if it is a name."""

    def __init__(self, reactor: Reactor, address: Address) -> None:
        self.address = address
        self.targets: list[Target] = []
        """Those of the last look-up that found any."""
        self.error = ""
        """Why the last look-up found none."""
        self._reactor = reactor
        self._waiting: list[Callable[[float], None]] = []
        self._looked_up_at = -RESOLVE_PAUSE
        try:
            self.targets = _look_up(address, socket.AI_NUMERICHOST)
            self._is_name = False
        except (socket.gaierror, UnicodeError):
            self._is_name = True

    def look_up(self, done: Callable[[float], None]) -> None:
        """Look the name up and call back, whatever came of it. One look-up runs at a time and answers all who wait."""
        self._waiting.append(done)
        if len(self._waiting) == 1:
            self._looked_up_at = self._reactor.now
            threading.Thread(target=self._work, name="resolver", daemon=True).start()

    def refresh(self) -> None:
        """A target failed: look the name up again, unless that was done a moment ago."""
        if self._is_name and not self._waiting and self._reactor.now - self._looked_up_at >= RESOLVE_PAUSE:
            self.look_up(_nothing)

    def _work(self) -> None:
        targets: list[Target] = []
        error = ""
        try:
            targets = _look_up(self.address, 0)
        except (OSError, UnicodeError) as exception:
            error = getattr(exception, "strerror", None) or str(exception)
        self._reactor.call(lambda now: self._done(targets, error, now))

    def _done(self, targets: list[Target], error: str, now: float) -> None:
        self.targets = targets or self.targets
        self.error = error
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback(now)


class Listener(Watched):
    """Accepts connections in batches and hands them on, non-blocking and with TCP_NODELAY, while `has_room` says so."""

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        on_accept: Callable[[TcpSocket, str, float], None],
        has_room: Callable[[], bool],
        log: LimitedLog,
    ) -> None:
        super().__init__(reactor, sock.fileno())
        self.port: int = sock.getsockname()[1]
        self._sock = sock
        self._on_accept = on_accept
        self._has_room = has_room
        self._log = log
        self._pause = reactor.timer(self._go_on)
        self.watch(EVENT_READ)

    def on_ready(self, _events: int, now: float) -> None:
        """Accept what waits, up to ACCEPT_BATCH."""
        for _ in range(ACCEPT_BATCH):
            if not self._has_room():
                self._rest("the limit of open files (ulimit -n) leaves no room for more", now)
                return
            try:
                sock, host = accept(self.fd)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._rest(os.strerror(error.errno), now)
                    return
                continue  # the error of a connection that ended before it was accepted (accept(2))
            self._on_accept(sock, host, self.reactor.now)
            if self.closed:
                return

    def close(self) -> None:
        """Accept nothing any more."""
        if not self.closed:
            self.closed = True
            self._pause.cancel()
            self.watch(0)
            self.reactor.close_later(self._sock)

    def _rest(self, reason: str, now: float) -> None:
        self._log.log(WARNING, "accept", f"cannot accept connections for the moment: {reason}", now)
        self.watch(0)
        self._pause.at(now + ACCEPT_PAUSE)

    def _go_on(self, _now: float) -> None:
        self.watch(EVENT_READ)


def listen_on(flag: str, address: Address, backlog: int, prepare: Prepare | None = None) -> list[socket.socket]:
    """Listening sockets on every target of the address, all on one port. ConfigError names the flag and says what to do.

    `prepare` sees to each of them before it listens.
    """
    bind = partial(_listen, backlog=backlog, prepare=prepare)
    return bind_all(flag, address, bind, "ss -ltnp")


def bind_all(flag: str, address: Address, bind: Bind, shows: str) -> list[socket.socket]:
    """What `bind` makes of every target of the address, all on one port. Of a name that stands for several, those that this
    machine lacks are left out: `localhost` is `::1` too where IPv6 is off. ConfigError names the flag and says what to do;
    `shows` is the command that tells who holds an address.
    """
    sockets: list[socket.socket] = []
    lacking: OSError | None = None
    try:
        for family, sockaddr in _look_up(address, 0):
            port = sockets[0].getsockname()[1] if sockets else address.port
            try:
                sockets.append(bind(family, (sockaddr[0], port, *sockaddr[2:])))
            except OSError as error:
                if error.errno not in _LACKING:
                    raise
                lacking = error
        if lacking is not None and not sockets:
            raise lacking
    except (OSError, UnicodeError) as error:
        for sock in sockets:
            sock.close()
        raise ConfigError(f"{flag} {address}: {_why_not_bound(error, shows)}") from error
    return sockets


def _listen(family: socket.AddressFamily, sockaddr: tuple[Any, ...], *, backlog: int, prepare: Prepare | None) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # Linux hands this down to what is accepted
        if prepare is not None:
            prepare(sock, sockaddr[0])
        sock.bind(sockaddr)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def _why_not_bound(error: OSError | UnicodeError, shows: str) -> str:
    """What kept a socket from being bound, and what to do."""
    if isinstance(error, UnicodeError | socket.gaierror):
        return "the name cannot be resolved; give a numeric address or mend the name"
    if error.errno == errno.EADDRINUSE:
        return f"the address is in use; stop the program that holds it (`{shows}` shows it) or choose another port"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address; choose one that `ip address` shows, or 0.0.0.0 for all"
    if error.errno == errno.EACCES:
        return "no permission for this port; choose one above 1023 or grant CAP_NET_BIND_SERVICE"
    return f"cannot listen there: {os.strerror(error.errno or 0)}"


def _look_up(address: Address, flags: int) -> list[Target]:
    """Each once: a hosts file may name one twice."""
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=flags)
    return list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))


def _nothing(_now: float) -> None:
    """Nobody waits for this look-up."""
