"""The local side: sockets of client programs and of the service, each joined to one stream."""

import os
import socket
import struct
from functools import partial
from logging import WARNING
from math import inf
from selectors import EVENT_READ, EVENT_WRITE
from socket import IPPROTO_TCP, SO_LINGER, SOL_SOCKET, SocketType

from tcsplitter._tcp import TcpSocket, receive, start_connect
from tcsplitter.joint import Joined, Stream, joint_of
from tcsplitter.log import LimitedLog
from tcsplitter.net import Resolver, Target
from tcsplitter.options import Address
from tcsplitter.reactor import Reactor
from tcsplitter.streams import REFUSED
from tcsplitter.tuning import unpaced, widen
from tcsplitter.watched import Watched

KEPT_SIZE = 524_288  # bytes that the kernel keeps for the next read; both half and twice as much take more CPU time
CHECK_EVERY = 0.5  # seconds between looks at sockets that wait for nothing and would not notice a reset

_NON_BLOCKING = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def as_local(sock: TcpSocket) -> SocketType:
    """The same connection as Python has it, which writes many buffers at once."""
    return SocketType(sock.family, _NON_BLOCKING, IPPROTO_TCP, sock.detach())


class Endpoints:
    """All local sockets of one end. Those that wait for nothing are looked at now and then, so that a reset is noticed.

    `tick`: seconds from one reading of a socket to the next; 0: it is read whenever it is readable.
    """

    def __init__(self, reactor: Reactor, tick: float = 0.0) -> None:
        self.reactor = reactor
        self.tick = tick
        self.open: set[TcpEndpoint | _Connecting] = set()
        self._blind: set[TcpEndpoint] = set()
        self._check = reactor.timer(self._look)

    def join(self, sock: SocketType, stream: Stream, now: float) -> None:
        """Join a connected, non-blocking socket to a stream."""
        widen(sock, KEPT_SIZE)  # by itself it may stay at the first 64 KB for good
        stream.app = endpoint = TcpEndpoint(self, sock, stream)
        endpoint.update(now)

    def set_blind(self, endpoint: "TcpEndpoint", blind: bool) -> None:
        """Whether it waits for nothing, and has to be looked at."""
        if not blind:
            self._blind.discard(endpoint)
        elif endpoint not in self._blind:
            self._blind.add(endpoint)
            if self._check.when == inf:
                self._check.at(self.reactor.now + CHECK_EVERY)

    def reset_all(self) -> None:
        """Reset every local connection there is."""
        for endpoint in list(self.open):
            endpoint.abort()

    def _look(self, now: float) -> None:
        for endpoint in list(self._blind):
            endpoint.check()
        if self._blind:
            self._check.at(now + CHECK_EVERY)


class TcpEndpoint(Joined, Watched):
    """A connected local socket, joined to a stream."""

    __slots__ = ("_endpoints", "_joint", "_shut", "_sock")

    def __init__(self, endpoints: Endpoints, sock: SocketType, stream: Stream) -> None:
        super().__init__(endpoints.reactor, sock.fileno())
        self._endpoints = endpoints
        self._sock = sock
        self._joint = joint_of(self, endpoints.reactor, stream, partial(receive, self.fd), sock.sendmsg, endpoints.tick)
        self._shut = False
        endpoints.open.add(self)

    def on_ready(self, events: int, now: float) -> None:
        """Serve the socket."""
        if events & EVENT_READ and not self._joint.read(now):
            self._broke()
        if events & EVENT_WRITE or not (self.events & EVENT_READ and self._joint.reads):  # else nothing changes
            self.update(now)

    def check(self) -> None:
        """Look whether the connection broke while nothing was waited for."""
        if self._sock.getsockopt(SOL_SOCKET, socket.SO_ERROR):
            self._broke()

    def abort(self) -> None:
        """Reset the local connection."""
        self._sock.setsockopt(SOL_SOCKET, SO_LINGER, _RESET_ON_CLOSE)
        self._close()

    def _wait(self) -> None:
        self.watch((EVENT_READ if self._joint.reads else 0) | (EVENT_WRITE if self._joint.stream.readable else 0))
        self._endpoints.set_blind(self, not self.events)

    def _cut_off(self) -> None:
        self.abort()

    def _cannot_write(self) -> None:
        self._broke()

    def _done(self) -> None:
        self._close()

    def _shut_down(self) -> None:
        self._shut = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._broke()

    def _broke(self) -> None:
        self._close()
        self._joint.stream.reset()

    def _close(self) -> None:
        self.closed = True
        self._joint.stop()
        self._endpoints.set_blind(self, False)
        self._endpoints.open.discard(self)
        self.leave(self._sock)


class TcpDialler:
    """Connects streams to the service; what cannot be reached is refused to the client program at once."""

    def __init__(self, endpoints: Endpoints, address: Address, log: LimitedLog) -> None:
        self.endpoints = endpoints
        self.address = address
        self._log = log
        self._resolver = Resolver(endpoints.reactor, address)
        self._resolver.refresh()

    def open(self, stream: Stream, now: float) -> None:
        """Connect to the service for `stream`. Data that comes before that stays in the stream."""
        stream.app = connecting = _Connecting(self, stream)
        if self._resolver.targets:
            connecting.start(self._resolver.targets, self._resolver.error, now)
        else:
            self._resolver.look_up(lambda later: connecting.start(self._resolver.targets, self._resolver.error, later))

    def failed(self, reason: str, now: float) -> None:
        """No target took the connection."""
        self._log.log(WARNING, "forward", f"cannot reach --forward {self.address}: {reason}", now)
        self._resolver.refresh()


class _Connecting(Watched):
    """A stream whose target has not answered yet. Targets are tried one after the other."""

    __slots__ = ("_dialler", "_reason", "_sock", "_stream", "_targets")

    def __init__(self, dialler: TcpDialler, stream: Stream) -> None:
        super().__init__(dialler.endpoints.reactor, -1)
        self._dialler = dialler
        self._stream = stream
        self._sock: TcpSocket | None = None
        self._targets: list[Target] = []
        self._reason = ""
        dialler.endpoints.open.add(self)

    def start(self, targets: list[Target], error: str, now: float) -> None:
        """Try the targets; `error` says why there are none."""
        if not self.closed:
            self._targets = targets[::-1]
            self._reason = error
            self._try_next(now)

    def on_ready(self, _events: int, now: float) -> None:
        """The connection is made, or it failed."""
        assert self._sock is not None, "only a socket becomes ready"
        sock = self._sock
        code = sock.error()
        if code:
            self._reason = os.strerror(code)
            self._drop_socket()
            self._try_next(now)
            return
        self.watch(0)
        self._join(sock, now)

    def update(self, _now: float) -> None:
        """Give up if the other side reset the stream."""
        if self._stream.reset_code is not None and not self.closed:
            self.abort()

    def abort(self) -> None:
        """Give up."""
        self._drop_socket()
        self._leave()

    def _try_next(self, now: float) -> None:
        while self._targets:
            try:
                sock, done = start_connect(self._targets.pop(), unpaced)
            except OSError as error:
                self._reason = os.strerror(error.errno or 0)
                continue
            if done:
                self._join(sock, now)
                return
            self._sock = sock
            self.fd = sock.fileno()
            self.watch(EVENT_WRITE)
            return
        self._leave()
        self._dialler.failed(self._reason, now)
        self._stream.reset(REFUSED)

    def _join(self, sock: TcpSocket, now: float) -> None:
        self._sock = None
        self._leave()
        self._dialler.endpoints.join(as_local(sock), self._stream, now)

    def _drop_socket(self) -> None:
        if self._sock is not None:
            self.leave(self._sock)
            self._sock = None

    def _leave(self) -> None:
        self.closed = True
        self._dialler.endpoints.open.discard(self)
