"""The local side: sockets of client programs and of the service, and stdin and stdout, each joined to one stream.

An endpoint keeps no data. It reads no more than the stream has room for, and what the local program does not take stays in the
stream. `update` recomputes from the stream's state what is to be done and what is to be waited for.
"""

import os
import socket
import stat
from collections.abc import Callable
from functools import partial
from logging import WARNING
from math import inf
from selectors import EVENT_READ, EVENT_WRITE
from socket import SocketType
from typing import Any, Protocol

from tcsplitter.log import LimitedLog
from tcsplitter.net import Resolver, Target, abort, start_connect
from tcsplitter.options import Address
from tcsplitter.reactor import Reactor, Source, Timer, Watched
from tcsplitter.streams import REFUSED
from tcsplitter.tuning import unpaced, widen

READ_SIZE = 1_048_576  # bytes of one read from a local program; without a tick there is one in a wake
WRITE_LIMIT = 1_048_576  # bytes written to a local program in one go
_NOT_WRITTEN = "cannot write to standard output"
CHECK_EVERY = 0.5  # seconds between looks at sockets that wait for nothing and would not notice a reset


Recv = Callable[[int], bytes]
"""Reads up to so many bytes; none at the end."""
Send = Callable[[list[bytes | memoryview]], int]
"""Writes as much as is taken, and says how much."""


class Stream(Protocol):
    """What an endpoint needs of a stream; streams.Stream."""

    app: Any
    reset_code: int | None

    @property
    def room(self) -> int: ...
    @property
    def readable(self) -> int: ...
    @property
    def at_end(self) -> bool: ...
    def write(self, data: bytes) -> None: ...
    def finish(self) -> None: ...
    def reset(self, code: int = ...) -> None: ...
    def peek(self, limit: int) -> list[bytes | memoryview]: ...
    def consume(self, count: int, now: float) -> None: ...


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
        widen(sock, READ_SIZE)  # by itself it may stay at the first 64 KB for good
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


class Joint:
    """A stream and how to read from and write to the local program at its end."""

    __slots__ = ("_recv", "_send", "eof", "error", "stream")

    def __init__(self, stream: Stream, recv: Recv, send: Send) -> None:
        self.stream = stream
        self.eof = False
        """The local program sends nothing more."""
        self.error: OSError | None = None
        """Why it can be read from, or written to, no more."""
        self._recv = recv
        self._send = send

    @property
    def reads(self) -> bool:
        """Whether there is room for more of what the local program sends."""
        return not self.eof and self.stream.room > 0

    def read(self, _now: float) -> bool:
        """Take what the local program sends, as far as there is room; False if it cannot be read from any more."""
        if not self.reads:
            return True
        try:
            self._take()
        except BlockingIOError:
            return True
        except OSError as error:
            self.error = error
            return False
        return True

    def stop(self) -> None:
        """Nothing is to be read any more."""

    def write(self, now: float) -> bool:
        """Give the local program what is readable, as far as it takes it; False if it cannot be written to any more."""
        budget = WRITE_LIMIT
        while budget > 0 and self.stream.readable:
            try:
                sent = self._send(self.stream.peek(budget))
            except BlockingIOError:
                return True
            except OSError as error:
                self.error = error
                return False
            self.stream.consume(sent, now)
            budget -= sent
        return True

    def _take(self) -> None:
        data = self._recv(min(self.stream.room, READ_SIZE))
        if data:
            self.stream.write(data)
        else:
            self.eof = True
            self.stream.finish()


class _TickingJoint(Joint):
    """A Joint that reads no more than once in a tick, but then all that there is, as far as there is room.

    The next reading counts from when the last one was due: wakes that come late do not add up. A reading that found nothing is
    none: the next one is that of what comes first.
    """

    __slots__ = ("_due", "_tick", "_timer")

    def __init__(self, stream: Stream, recv: Recv, send: Send, tick: float, timer: Timer) -> None:
        super().__init__(stream, recv, send)
        self._tick = tick
        self._timer = timer
        self._due = -inf

    @property
    def reads(self) -> bool:
        """Whether there is room, and the time has come."""
        return self._timer.when == inf and super().reads

    def read(self, now: float) -> bool:
        """As Joint has it, until nothing more is there or there is no room, if the time has come."""
        due, self._due = self._due, -inf
        taken = False
        try:
            while self.reads:
                self._take()
                taken = True
        except BlockingIOError:
            pass
        except OSError as error:
            self.error = error
            return False
        if taken and not self.eof:
            self._due = (due if now - due <= self._tick else now) + self._tick
            self._timer.at(self._due)
        return True

    def stop(self) -> None:
        """Nothing is to be read any more: the next reading is called off."""
        self._timer.cancel()


def _joint(source: Source, reactor: Reactor, stream: Stream, recv: Recv, send: Send, tick: float) -> Joint:
    """A Joint for `source`, which is told when the time of the next reading has come."""
    if not tick:
        return Joint(stream, recv, send)
    return _TickingJoint(stream, recv, send, tick, reactor.timer(partial(source.on_ready, EVENT_READ)))


class TcpEndpoint(Watched):
    """A connected local socket, joined to a stream."""

    __slots__ = ("_endpoints", "_joint", "_shut", "_sock")

    def __init__(self, endpoints: Endpoints, sock: SocketType, stream: Stream) -> None:
        super().__init__(endpoints.reactor, sock.fileno())
        self._endpoints = endpoints
        self._sock = sock
        self._joint = _joint(self, endpoints.reactor, stream, sock.recv, sock.sendmsg, endpoints.tick)
        self._shut = False
        unpaced(sock)
        endpoints.open.add(self)

    def on_ready(self, events: int, now: float) -> None:
        """Serve the socket."""
        if events & EVENT_READ and not self._joint.read(now):
            self._broke()
        if events & EVENT_WRITE or not (self.events & EVENT_READ and self._joint.reads):  # else nothing changes
            self.update(now)

    def update(self, now: float) -> None:
        """Do what the stream's state asks for."""
        if self.closed:
            return
        stream = self._joint.stream
        if stream.reset_code is not None:
            self.abort()
            return
        if not self._joint.write(now):
            self._broke()
        if stream.at_end and not (self._shut or self.closed):
            self._shut_down()
        if self.closed:
            return
        if self._joint.eof and self._shut:
            self._close()
            return
        self.watch((EVENT_READ if self._joint.reads else 0) | (EVENT_WRITE if stream.readable else 0))
        self._endpoints.set_blind(self, not self.events)

    def check(self) -> None:
        """Look whether the connection broke while nothing was waited for."""
        if self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._broke()

    def abort(self) -> None:
        """Reset the local connection."""
        abort(self._sock)
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
        self._sock: SocketType | None = None
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
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
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
                sock, done = start_connect(self._targets.pop())
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

    def _join(self, sock: SocketType, now: float) -> None:
        self._sock = None
        self._leave()
        self._dialler.endpoints.join(sock, self._stream, now)

    def _drop_socket(self) -> None:
        if self._sock is not None:
            self.leave(self._sock)
            self._sock = None

    def _leave(self) -> None:
        self.closed = True
        self._dialler.endpoints.open.discard(self)


class StdioEndpoint:
    """Two descriptors as one endpoint: pipes, sockets, terminals or files, such as stdin and stdout.

    `on_end(clean)` is called once: when both directions have ended, or with False when one of them broke; if a descriptor was
    at fault, `failure` says so. `close` puts the descriptors back into the blocking mode they were found in. `tick` is as
    Endpoints has it.
    """

    def __init__(
        self, reactor: Reactor, stream: Stream, fd_in: int, fd_out: int, on_end: Callable[[bool], None], tick: float = 0.0
    ) -> None:
        self._joint = _joint(self, reactor, stream, partial(os.read, fd_in), partial(os.writev, fd_out), tick)
        self._on_end = on_end
        self._were_blocking = [(fd, os.get_blocking(fd)) for fd in (fd_in, fd_out)]
        self._in = _Half(reactor, fd_in, self)
        self._out = _Half(reactor, fd_out, self)
        self._shut = False
        self.closed = False
        self.failure = ""
        for fd in (fd_in, fd_out):
            os.set_blocking(fd, False)
        stream.app = self

    def on_ready(self, events: int, now: float) -> None:
        """Serve the descriptors."""
        if events & EVENT_READ and not self._joint.read(now):
            self._broke("cannot read standard input", self._joint.error)
        self.update(now)

    def update(self, now: float) -> None:
        """Do what the stream's state asks for."""
        if self.closed:
            return
        stream = self._joint.stream
        if stream.reset_code is not None:
            self._end(clean=False)
            return
        if not self._joint.write(now):
            self._broke(_NOT_WRITTEN, self._joint.error)
        if stream.at_end and not (self._shut or self.closed):
            self._shut_down()
        if self.closed:
            return
        if self._joint.eof and self._shut:
            self._end(clean=True)
            return
        self._in.watch(EVENT_READ if self._joint.reads else 0)
        self._out.watch(EVENT_WRITE if stream.readable else 0)

    def close(self) -> None:
        """Wait for nothing any more, and leave the descriptors as they were found."""
        if not self.closed:
            self.closed = True
            self._joint.stop()
            self._in.close()
            self._out.close()
            for fd, blocking in self._were_blocking:
                os.set_blocking(fd, blocking)

    def _shut_down(self) -> None:
        self._shut = True
        self._out.watch(0)
        if stat.S_ISSOCK(os.fstat(self._out.fd).st_mode):
            with socket.socket(fileno=os.dup(self._out.fd)) as sock:
                try:
                    sock.shutdown(socket.SHUT_WR)
                except OSError as error:
                    self._broke(_NOT_WRITTEN, error)
            return
        # The number stays taken, so that nothing else is opened under it and written to as stdout.
        self._restore(self._out.fd)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._out.fd)
        os.close(null)
        os.set_blocking(self._in.fd, False)  # a terminal is one open file for both, so it was put back too

    def _restore(self, fd: int) -> None:
        for saved, blocking in self._were_blocking:
            if saved == fd:
                os.set_blocking(fd, blocking)

    def _broke(self, what: str, error: OSError | None) -> None:
        self.failure = f"{what}: {error.strerror if error else ''}"
        self._joint.stream.reset()
        self._end(clean=False)

    def _end(self, clean: bool) -> None:
        self.close()
        self._on_end(clean)


class _Half(Watched):
    """One descriptor of a StdioEndpoint. Files, which a selector refuses, are always ready: a timer stands in."""

    __slots__ = ("_endpoint", "_timer")

    def __init__(self, reactor: Reactor, fd: int, endpoint: StdioEndpoint) -> None:
        super().__init__(reactor, fd)
        self._endpoint = endpoint
        self._timer = None if _can_wait(reactor, fd) else reactor.timer(self._always_ready)

    def watch(self, events: int) -> None:
        if self._timer is None:
            super().watch(events)
        else:
            self.events = events
            self._timer.at(self.reactor.now if events else inf)

    def on_ready(self, events: int, now: float) -> None:
        self._endpoint.on_ready(events, now)

    def close(self) -> None:
        self.closed = True
        self.watch(0)

    def _always_ready(self, now: float) -> None:
        self.on_ready(self.events, now)


def _can_wait(reactor: Reactor, fd: int) -> bool:
    try:
        reactor.register(fd, EVENT_READ, None)
    except PermissionError:
        return False
    reactor.unregister(fd)
    return True
