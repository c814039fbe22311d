"""An end on a virtual clock that sends whatever pace and bound allow; what the line does to that is for others to say."""

from __future__ import annotations

import heapq
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from math import inf

from account import ack

from tcsplitter.congestion import Congestion
from tcsplitter.payload import PayloadSize
from tcsplitter.recovery import Recovery

MOST_SMALL = 2_000_000.0
"""Bytes that may leave in an RTT in payloads that have not grown."""


class PacedEnd(ABC):
    """Each shot goes on a connection of its own."""

    def __init__(self, rate: float, rtt: float, size: int, seed: int, fresh: bool, grows: bool) -> None:
        """`rate`: bytes per second that the line carries; `size`: bytes of a payload; `fresh`: as PayloadSize has it; `grows`:
        payloads become larger where many are under way."""
        self.rate = rate
        self.rtt = rtt
        self.size = size
        self.now = 0.0
        self.arrived: list[tuple[float, int]] = [(0.0, 0)]
        """When shots were acknowledged, and bytes up to then."""
        self.account = Recovery(PayloadSize(size, MOST_SMALL if grows else inf, fresh))
        self.account.dialled(rtt, 0.0)
        self._random = random.Random(seed)
        self._free = 0.0
        self._sent = 0
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._serial = 0

    @property
    def congestion(self) -> Congestion:
        return self.account.congestion

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.size = self.congestion.size.bytes
            self._send()
            times = [until, *self._wakes()]
            if self._events:
                times.append(self._events[0][0])
            self.now = max(self.now, min(times))
            self.account.note_late(self.now)
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()

    def throughput(self, since: float) -> float:
        """Bytes per second that were acknowledged since then."""
        before = max(total for at, total in self.arrived if at <= since)
        return (self.arrived[-1][1] - before) / (self.now - since)

    @property
    def _waits_for_pace(self) -> bool:
        return self.account.has_room() and self.congestion.opens_at > self.now

    @abstractmethod
    def _send(self) -> None:
        """Send what may go now."""

    @abstractmethod
    def _wakes(self) -> list[float]:
        """When there may be more to send though nothing happened."""

    def _acknowledged(self, number: int) -> None:
        ack(self.account, number, number, self.now)
        self.arrived.append((self.now, self.arrived[-1][1] + self.size))

    def _dialled_after(self, seconds: float) -> None:
        self._after(seconds, lambda: self.account.dialled(seconds, self.now))

    def _after(self, seconds: float, act: Callable[[], object]) -> None:
        self._serial += 1
        heapq.heappush(self._events, (self.now + seconds, self._serial, act))
