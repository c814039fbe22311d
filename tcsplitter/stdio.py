"""The local side of `tcsplitter connect`: stdin and stdout, or whatever stands there, joined to one stream."""

import os
import socket
import stat
from collections.abc import Callable
from functools import partial
from math import inf
from selectors import EVENT_READ, EVENT_WRITE

from tcsplitter.joint import Joined, Stream, joint_of
from tcsplitter.reactor import Reactor
from tcsplitter.watched import Watched

_NOT_WRITTEN = "cannot write to standard output"


class StdioEndpoint(Joined):
    """Two descriptors as one endpoint: pipes, sockets, terminals or files, such as stdin and stdout.

    `on_end(clean)` is called once: when both directions have ended, or with False when one of them broke; if a descriptor was
    at fault, `failure` says so. `close` puts the descriptors back into the blocking mode they were found in. `tick` is as
    Endpoints has it.
    """

    def __init__(
        self, reactor: Reactor, stream: Stream, fd_in: int, fd_out: int, on_end: Callable[[bool], None], tick: float = 0.0
    ) -> None:
        self._joint = joint_of(self, reactor, stream, partial(os.read, fd_in), partial(os.writev, fd_out), tick)
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

    def close(self) -> None:
        """Wait for nothing any more, and leave the descriptors as they were found."""
        if not self.closed:
            self.closed = True
            self._joint.stop()
            self._in.close()
            self._out.close()
            for fd, blocking in self._were_blocking:
                os.set_blocking(fd, blocking)

    def _wait(self) -> None:
        self._in.watch(EVENT_READ if self._joint.reads else 0)
        self._out.watch(EVENT_WRITE if self._joint.stream.readable else 0)

    def _cut_off(self) -> None:
        self._end(clean=False)

    def _cannot_write(self) -> None:
        self._broke(_NOT_WRITTEN, self._joint.error)

    def _done(self) -> None:
        self._end(clean=True)

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
