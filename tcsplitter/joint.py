"""Between a stream and the local program at its end: what is read and written when a descriptor is ready, and what follows.

`update` recomputes from the stream's state what is to be done and what is to be waited for. Nothing here keeps data:
no more is read than the stream has room for, and what the local program does not take stays in the stream.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from math import inf
from selectors import EVENT_READ
from typing import Any, Protocol

from tcsplitter.reactor import Reactor, Source, Timer

READ_SIZE = 1_048_576  # bytes of one read from a local program; without a tick there is one in a wake
WRITE_LIMIT = 1_048_576  # bytes written to a local program in one go


Recv = Callable[[int], bytes | memoryview]
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
    def write(self, data: bytes | memoryview) -> None: ...
    def finish(self) -> None: ...
    def reset(self, code: int = ...) -> None: ...
    def peek(self, limit: int) -> list[bytes | memoryview]: ...
    def consume(self, count: int, now: float) -> None: ...


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


class Joined(ABC):
    """What is joined to a stream by a Joint: what the stream's state asks of it, and in which order."""

    __slots__ = ()
    closed: bool
    _joint: Joint
    _shut: bool
    """The local program was told that nothing more comes."""

    def update(self, now: float) -> None:
        """Do what the stream's state asks for."""
        if self.closed:
            return
        stream = self._joint.stream
        if stream.reset_code is not None:
            self._cut_off()
            return
        if not self._joint.write(now):
            self._cannot_write()
        if stream.at_end and not (self._shut or self.closed):
            self._shut_down()
        if self.closed:
            return
        if self._joint.eof and self._shut:
            self._done()
        else:
            self._wait()

    @abstractmethod
    def _cut_off(self) -> None:
        """The stream was reset."""

    @abstractmethod
    def _cannot_write(self) -> None:
        """The local program takes nothing more: close, and reset the stream."""

    @abstractmethod
    def _shut_down(self) -> None:
        """Tell the local program that nothing more comes."""

    @abstractmethod
    def _done(self) -> None:
        """Both directions have ended in order."""

    @abstractmethod
    def _wait(self) -> None:
        """Wait for what can go on."""


def joint_of(source: Source, reactor: Reactor, stream: Stream, recv: Recv, send: Send, tick: float) -> Joint:
    """A Joint for `source`, which is told when the time of the next reading has come."""
    if not tick:
        return Joint(stream, recv, send)
    return _TickingJoint(stream, recv, send, tick, reactor.timer(partial(source.on_ready, EVENT_READ)))
