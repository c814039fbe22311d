"""The event loop: sockets that are ready, timers that are due, and the only clock.

A wake is: wait; read the clock; serve sockets that are ready; serve timers that are due; the before_sleep hook; close
what was handed to `close_later`. A key that the selector returned may be stale: an earlier callback of the same wake
may have closed its object, and the kernel may have given the number to a new socket. Hence every registered object
carries a live `closed` flag that is looked at first, and descriptors are unregistered before they are closed. Mostly
they are closed after everything else of a wake, which need not wait for that. For a socket that is about to be closed
`forget` is enough: closing it takes it out of epoll(7) too.
"""

import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from heapq import heapify, heappop, heappush
from math import ceil, inf
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector, SelectorKey
from types import FrameType
from typing import Any, Protocol

JUMP = 5.0  # seconds: waking that much later than asked for means that the machine or the process slept
_MAX_SLEEP = JUMP  # seconds; a reactor that nothing wakes could not tell how long it slept
_DEAD_TIMERS = 64  # dead heap entries that are not worth a clean-up
_LAST_STRETCH = 0.01  # seconds; more than rounding and timer slack, a thousandth of the wait, may add to the wait before it
_MOST_OF_SELECT = 1024  # select() takes no descriptor from this number on
_ASKED = (0, select.EPOLLIN, select.EPOLLOUT, select.EPOLLIN | select.EPOLLOUT)  # by EVENT_READ and EVENT_WRITE
_key = SelectorKey._make  # from a tuple, which takes 60 % of the time of its constructor
_BOTH = EVENT_READ | EVENT_WRITE
_TOLD = {select.EPOLLIN: EVENT_READ, select.EPOLLOUT: EVENT_WRITE}  # by what epoll says; all else is both, as on an error


class Source(Protocol):
    """What can be registered: a live flag and a callback."""

    @property
    def closed(self) -> bool:
        """True once no event may reach it any more."""

    def on_ready(self, events: int, now: float) -> None:
        """The descriptor is ready for `events` (EVENT_READ | EVENT_WRITE; both on an error)."""


class Closable(Protocol):
    """What `close_later` takes."""

    def close(self) -> None: ...


class Asking(Protocol):
    """What waits for something else than the selector was asked for; Watched."""

    def ask(self) -> None: ...


class Timer:
    """Calls back once, never early, after `at` was called; as often as that is repeated. Made by Reactor.timer."""

    __slots__ = ("_callback", "_generation", "_reactor", "when")

    def __init__(self, reactor: "Reactor", callback: Callable[[float], None]) -> None:
        self._reactor = reactor
        self._callback = callback
        self._generation = 0
        self.when = inf
        """When it is due; infinity while it is not armed."""

    def at(self, when: float) -> None:
        """Arm it for `when`, or move it there; infinity disarms it."""
        if when != self.when:
            self._generation = self._reactor._arm(self, when)
            self.when = when

    def cancel(self) -> None:
        """Disarm it."""
        self.at(inf)


boot_time = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
"""Seconds since boot, sleep of the machine included."""


class Reactor:
    """One thread's event loop.

    `before_sleep(now)` runs at the end of every wake, and returns when it is to run again at the latest. `on_jump(now)` runs
    first in a wake that came more than JUMP seconds later than asked for. `fine`: waits honour fractions of a millisecond, for a
    system call more in some wakes.
    """

    def __init__(self, clock: Callable[[], float] = boot_time, fine: bool = False) -> None:
        self.clock = clock
        self.now = self._woke_at = clock()
        """The clock reading of this wake, or that of `read_clock` in it."""
        self.before_sleep: Callable[[float], float] = _never
        self.wake_by = inf
        """When the next wake is due at the latest: what `before_sleep` returned last. No timer, as each wake moves it."""
        self.on_jump: Callable[[float], None] = _nothing
        self.stopped = False
        self._selector = _FinePoller() if fine else _Poller()
        self.register = self._selector.register
        self.modify = self._selector.modify
        self.forget = self._selector.forget
        """Report nothing of a descriptor any more; it is to be closed before the next wait, which takes it out of epoll(7)."""
        self.changed: list[Asking] = []
        """Those that wait for something else than the selector was asked for."""
        self._timers: list[tuple[float, int, Timer]] = []
        self._generation = 0
        self._dead = 0
        self._closing: list[Closable] = []
        self.close_later: Callable[[Closable], None] = self._closing.append
        """Close it at the end of this wake. Its descriptor must be unregistered, or forgotten, already."""
        self._calls: deque[Callable[[float], None]] = deque()
        self._waker = _Waker(self)

    def unregister(self, fd: int) -> None:
        """Forget `fd`. Events of it that this wake still holds are dropped only if its object says `closed`."""
        self._selector.unregister(fd)

    def timer(self, callback: Callable[[float], None]) -> Timer:
        """A timer that is not armed yet."""
        return Timer(self, callback)

    def call(self, callback: Callable[[float], None]) -> None:
        """Call back in the next wake, and wake at once. May be called from any thread."""
        self._calls.append(callback)
        self._waker.wake()

    def catch_signals(self, signals: Sequence[signal.Signals], callback: Callable[[float], None]) -> None:
        """Call back for each of the signals that arrives, until `close`. Main thread only."""
        self._waker.catch(signals, callback)

    def run(self) -> None:
        """Serve until `stop` is called."""
        while not self.stopped:
            self.wake()

    def stop(self) -> None:
        """Let `run` return at the end of this wake. To be called in the reactor's thread (see `call`)."""
        self.stopped = True

    def wake(self) -> None:
        """Wait for events or timers, and serve them."""
        if self.changed:
            self._ask()
        wait = self._time_to_sleep()
        ready = self._selector.select(wait)
        asked = self._woke_at + wait
        self.now = self._woke_at = now = self.clock()
        if now - asked > JUMP:
            self.on_jump(now)
        for key, events in ready:
            source: Source = key.data
            if not source.closed:
                source.on_ready(events, self.now)
        if self._timers and self._timers[0][0] <= self.now:
            self._fire(self.now)
        self.wake_by = self.before_sleep(self.now)
        if self._closing:
            self._close_all()

    def read_clock(self) -> float:
        """Let the time go on within a wake, as what a socket gave by now may have come since the wake began. Returns it."""
        self.now = now = self.clock()
        return now

    def close(self) -> None:
        """Release the selector and the signals. What is registered stays open: it belongs to others."""
        self._close_all()
        self._waker.close()
        self._selector.close()

    def _time_to_sleep(self) -> float:
        if self.stopped:
            return 0.0
        by = self.wake_by
        if self._timers and self._timers[0][0] < by:
            by = self._timers[0][0]
        if by == inf:
            return _MAX_SLEEP
        wait = by - self.clock()
        return 0.0 if wait < 0.0 else wait if wait < _MAX_SLEEP else _MAX_SLEEP

    def _arm(self, timer: Timer, when: float) -> int:
        if timer.when != inf:
            self._dead += 1
            if self._dead > _DEAD_TIMERS and self._dead > len(self._timers) // 2:
                self._drop_dead(timer)
        if when == inf:
            return 0
        self._generation += 1
        heappush(self._timers, (when, self._generation, timer))
        return self._generation

    def _drop_dead(self, moved: Timer) -> None:
        self._timers = [entry for entry in self._timers if entry[1] == entry[2]._generation and entry[2] is not moved]
        heapify(self._timers)
        self._dead = 0

    def _fire(self, now: float) -> None:
        newest = self._generation  # what callbacks arm from here on waits for the next wake
        while self._timers and self._timers[0][0] <= now and self._timers[0][1] <= newest:
            _, generation, timer = heappop(self._timers)
            if generation != timer._generation:
                self._dead -= 1
                continue
            timer._generation = 0
            timer.when = inf
            timer._callback(now)

    def _ask(self) -> None:
        for watched in self.changed:
            watched.ask()
        self.changed.clear()

    def _close_all(self) -> None:
        for closable in self._closing:
            closable.close()
        self._closing.clear()

    def _run_calls(self, now: float) -> None:
        for _ in range(len(self._calls)):
            self._calls.popleft()(now)


class _Poller(BaseSelector):
    """selectors.EpollSelector, made for descriptors that are numbers, come and go, and mostly go by being closed."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._keys: dict[int, SelectorKey] = {}
        self.forget: Callable[[int], None] = self._keys.__delitem__
        """Report nothing of it any more; to be closed before the next `select`."""

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        self._epoll.register(fileobj, _ASKED[events])
        key = self._keys[fileobj] = _key((fileobj, fileobj, events, data))
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        self._epoll.modify(fileobj, _ASKED[events])
        key = self._keys[fileobj] = _key((fileobj, fileobj, events, data))
        return key

    def unregister(self, fileobj: Any) -> SelectorKey:
        self._epoll.unregister(fileobj)
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        # epoll_wait(2) takes whole milliseconds: those that are too short would end before the time.
        wait = -1.0 if timeout is None else ceil(timeout * 1e3) * 1e-3 if timeout > 0 else 0.0
        key_of, told = self._keys.get, _TOLD.get
        found = self._epoll.poll(wait, max(len(self._keys), 1))
        return [(key, told(event, _BOTH) & key.events) for fd, event in found if (key := key_of(fd)) is not None]

    def close(self) -> None:
        self._epoll.close()

    def get_map(self) -> Mapping[Any, SelectorKey]:
        return self._keys

    def fileno(self) -> int:
        return self._epoll.fileno()


class _FinePoller(_Poller):
    """Does not round up to whole milliseconds: its own descriptor is waited for with select(2)."""

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        if timeout is None or timeout <= 0 or self.fileno() >= _MOST_OF_SELECT:
            return super().select(timeout)
        if timeout > _LAST_STRETCH:
            due = time.monotonic() + timeout
            ready = super().select(timeout - _LAST_STRETCH)
            if ready:
                return ready
            timeout = max(due - time.monotonic(), 0.0)
        return super().select(0) if select.select((self.fileno(),), (), (), timeout)[0] else []


class _Waker:
    """A socket pair that ends the wait of the reactor: for calls from other threads, and for signals."""

    closed = False

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._inner, self._outer = socket.socketpair()
        self._inner.setblocking(False)
        self._outer.setblocking(False)
        self._on_signal: dict[int, Callable[[float], None]] = {}
        self._handlers: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}
        reactor.register(self._inner.fileno(), EVENT_READ, self)

    def wake(self) -> None:
        with suppress(OSError):  # it is full, so the reactor wakes anyway; or it is closed
            self._outer.send(b"\0")

    def catch(self, signals: Sequence[signal.Signals], callback: Callable[[float], None]) -> None:
        signal.set_wakeup_fd(self._outer.fileno(), warn_on_full_buffer=False)
        for number in signals:
            self._on_signal[number] = callback
            self._handlers[number] = signal.signal(number, _leave_to_wakeup_fd)

    def on_ready(self, _events: int, now: float) -> None:
        try:
            woken_by = self._inner.recv(4096)
        except BlockingIOError:
            return
        self._reactor._run_calls(now)
        for number in woken_by:
            if number in self._on_signal:
                self._on_signal[number](now)

    def close(self) -> None:
        if self._handlers:
            signal.set_wakeup_fd(-1)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
        self._reactor.unregister(self._inner.fileno())
        self._inner.close()
        self._outer.close()


def _nothing(_now: float) -> None:
    """The hook that nobody set."""


def _never(_now: float) -> float:
    """The same for `before_sleep`."""
    return inf


def _leave_to_wakeup_fd(_number: int, _frame: FrameType | None) -> None:
    """Python writes the number of a signal to the wake-up descriptor only if a handler is installed."""
