"""A line that drops segments: those that its queue has no room for, and some at random."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from functools import partial

from account import ack, shot

from tcsplitter.congestion import Congestion
from tcsplitter.payload import PayloadSize
from tcsplitter.recovery import Recovery

SEGMENT, SYN = 1_448, 60
REPEATED_AT_ONCE, REPEAT_RTTS, TIMER = 0.6, 1.3, 0.2
"""How many of the lost segments come again after so many RTTs, as later ones of the shot were acknowledged; the others wait for a
timer, which is an RTT and these seconds, and doubled each time."""
WAKE = 0.001
"""By up to how much a shot leaves later than it might."""


class DroppingPath:
    """An end that sends whatever pace and bound allow, each shot on a connection of its own."""

    def __init__(self, rate: float, rtt: float, size: int, room: float, loss: float = 0.0, seed: int = 1) -> None:
        """`rate`: bytes per second; `room`: bytes that the queue takes; `loss`: the probability that a segment is lost anyway."""
        self.rate = rate
        self.rtt = rtt
        self.size = size
        self.room = room
        self.loss = loss
        self.now = 0.0
        self.wire = 0
        """Bytes of all segments that were sent."""
        self.arrived: list[tuple[float, int]] = [(0.0, 0)]
        """When shots were acknowledged, and bytes up to then."""
        self.account = Recovery(PayloadSize(size))
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
            self._send()
            times = [until]
            if self._events:
                times.append(self._events[0][0])
            if self.account.has_room() and self.congestion.opens_at > self.now:
                times.append(self.congestion.opens_at + self._random.random() * WAKE)
            self.now = max(self.now, min(times))
            self.account.note_late(self.now)
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()

    def goodput(self, since: float) -> float:
        """Bytes per second that were acknowledged since then."""
        return (self.arrived[-1][1] - self._total(since)) / (self.now - since)

    def _total(self, at: float) -> int:
        return max(total for when, total in self.arrived if when <= at)

    def _send(self) -> None:
        while self.account.may_send(self.now):
            number = self._sent
            self._sent += 1
            self.account.on_sent(shot(number, self.now, self.size))
            missing = [-(-self.size // SEGMENT)]
            for _ in range(missing[0]):
                self._segment(number, missing, 0)
            if self._passes(SYN):
                took = self._free - self.now + self.rtt
                self._after(took, lambda took=took: self.account.dialled(took, self.now))  # type: ignore[misc]

    def _passes(self, size: int) -> bool:
        self._free = max(self._free, self.now)
        if (self._free - self.now) * self.rate + size > self.room:
            return False
        self._free += size / self.rate
        return self._random.random() >= self.loss

    def _segment(self, number: int, missing: list[int], tries: int) -> None:
        self.wire += SEGMENT
        if self._passes(SEGMENT):
            ack_delay = self._random.random() * min(self.rtt / 8, 0.025)
            self._after(self._free - self.now + self.rtt + ack_delay, partial(self._arrive, number, missing))
        else:
            at_once = not tries and self._random.random() < REPEATED_AT_ONCE
            wait = REPEAT_RTTS * self.rtt if at_once else (TIMER + self.rtt) * 2 ** max(0, tries - 1)
            self._after(wait, partial(self._segment, number, missing, tries + 1))

    def _arrive(self, number: int, missing: list[int]) -> None:
        missing[0] -= 1
        if not missing[0]:
            ack(self.account, number, number, self.now)
            self.arrived.append((self.now, self.arrived[-1][1] + self.size))

    def _after(self, seconds: float, act: Callable[[], object]) -> None:
        self._serial += 1
        heapq.heappush(self._events, (self.now + seconds, self._serial, act))
