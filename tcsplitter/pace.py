"""Pace set by the user: how long a payload waits for more (`--tock`), and the timers of those that wait for a beat."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from math import inf
from typing import Protocol

DEAD_BEATS = 64
"""Timers that were moved or stopped are swept out when there are so many more of them than of others."""


class Gated(Protocol):
    """What holds data back until its gate is opened: a stream or a flow."""

    @property
    def gated(self) -> int: ...
    def open_gate(self, count: int) -> int: ...


class _Held:
    """Bytes of one write that wait behind the gate of their source."""

    __slots__ = ("count", "opens_at", "source")

    def __init__(self, source: Gated, count: int) -> None:
        self.source = source
        self.count = count
        self.opens_at = inf


class Tock:
    """Holds back what does not fill a payload, each byte for at most `wait` seconds from the wake in which it came.

    The streams and flows of a session fill a payload together, in the order in which they wrote. With `wait` 0 nothing is held
    back and nothing here is called.
    """

    __slots__ = ("_bytes", "_fresh", "_held", "_size", "wait")

    def __init__(self, wait: float, size: int) -> None:
        self.wait = wait
        self._size = size
        self._held: deque[_Held] = deque()
        self._fresh: list[_Held] = []
        """What came in this wake."""
        self._bytes = 0

    def wrote(self, source: Gated, count: int) -> None:
        """So many bytes more wait behind the gate of `source`; `run` follows in this wake. Full payloads go at once."""
        self._fresh.append(_Held(source, count))
        self._held.append(self._fresh[-1])
        self._bytes += count
        if self._bytes >= self._size:
            self._let_go(self._bytes // self._size * self._size)

    def run(self, now: float) -> None:
        """Note when what is new came. When the time of anything is up all that waits may go."""
        for held in self._fresh:
            held.opens_at = now + self.wait
        self._fresh.clear()
        if now >= self.deadline():
            self._let_go(self._bytes)

    def deadline(self) -> float:
        """When `run` has to be called, after it was called for all that came."""
        return self._held[0].opens_at if self._held else inf

    def release(self, source: Gated) -> None:
        """What waits behind this gate waits no more: nothing will follow it, or it was dropped."""
        others = deque(held for held in self._held if held.source is not source)
        if len(others) < len(self._held):
            self._held = others
            self._bytes -= source.open_gate(source.gated)

    def _let_go(self, count: int) -> None:
        """So many bytes go, or fewer where the next ones cannot be divided there."""
        while count > 0 and (opened := self._held[0].source.open_gate(min(self._held[0].count, count))):
            held = self._held[0]
            count -= opened
            self._bytes -= opened
            held.count -= opened
            if not held.count:
                self._held.popleft()


class Beating(Protocol):
    """What is to be looked at, at some time."""

    beat_at: float

    def on_beat(self, now: float) -> None: ...


class Beats:
    """Timers of many, one each: of the streams and flows of a session, or of the sessions of a server."""

    __slots__ = ("_armed", "_heap", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Beating]] = []
        self._serial = 0
        self._armed = 0

    def at(self, member: Beating, when: float) -> None:
        """Call its `on_beat` at this time, instead of at the one that was set before; infinity: never."""
        if when == member.beat_at:
            return
        self._armed += (when < inf) - (member.beat_at < inf)
        member.beat_at = when
        if when < inf:
            self._serial += 1
            heappush(self._heap, (when, self._serial, member))
        if len(self._heap) > 2 * self._armed + DEAD_BEATS:
            self._drop_dead()

    def run(self, now: float) -> None:
        """Call those whose time has come."""
        for member in self._due(now):
            member.on_beat(now)

    def _due(self, now: float) -> Iterator[Beating]:
        while self._heap and self._heap[0][0] <= now:
            when, _, member = heappop(self._heap)
            if member.beat_at == when:
                member.beat_at = inf
                self._armed -= 1
                yield member

    def _drop_dead(self) -> None:
        alive = {member: (when, serial, member) for when, serial, member in self._heap if member.beat_at == when}
        self._heap = list(alive.values())
        heapify(self._heap)

    def deadline(self) -> float:
        """When `run` has to be called next."""
        while self._heap and self._heap[0][2].beat_at != self._heap[0][0]:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else inf
