"""The client's pool of flings: how many to dial, and when. Pure: it is told what happened and says how many."""

from __future__ import annotations

from math import inf
from typing import Protocol

from tcsplitter.carrier import Carrier

MAX_DIALING = 128
"""Dials under way at once."""
DIALS_PER_SECOND, DIAL_BURST = 10_000, 512
GROWTH = 4
"""The pool may grow by this factor in an RTT."""
SLOW_RTTS, SLOW_SECONDS = 3.0, 0.25
"""A dial that takes longer than the larger of these is raced by another."""
ABANDON_RTTS, ABANDON_SECONDS = 30.0, 10.0
"""A dial that takes longer than the larger of these is given up."""
FIRST_BACKOFF, LAST_BACKOFF = 0.1, 5.0
"""Seconds until the next dial after one that failed; doubled for each that follows."""
IDLE_JITTER = 0.2
"""An idle carrier lives for the set time, more or less by up to this share."""


class Random(Protocol):
    """What is asked of a source of randomness: random.Random, seeded or of the system."""

    def random(self) -> float: ...
    def randbytes(self, n: int, /) -> bytes: ...


class Pool:
    """Flings under way, and the budget for more."""

    def __init__(self, conns: int, burst: int, idle: float, random: Random, now: float) -> None:
        self._conns = conns
        self._burst = burst
        self._idle = idle
        self._random = random
        self._dialing: dict[Carrier, float] = {}
        self._failures = 0
        self._failed_at = -inf
        self._not_before = now
        self._tokens = float(DIAL_BURST)
        self._filled_at = now
        self._round_at = now
        self._round_size = conns

    def idle_for(self) -> float:
        """Seconds for which the next carrier may stay idle."""
        return self._idle * (1 + IDLE_JITTER * (2 * self._random.random() - 1))

    def dials_due(self, idle: int, alive: int, want: int, rtt: float, now: float) -> int:
        """How many carriers to dial now.

        `idle`: carriers that nobody uses; `alive`: all that are open; `want`: idle ones that both ends wish for, together.
        """
        if now < self._not_before:
            return 0
        if self._failures:
            return 0 if self._young(rtt, now) else 1
        target = max(self._conns, min(want, self._burst))
        missing = target - idle - self._young(rtt, now)
        if missing <= 0:
            return 0
        return max(0, min(missing, self._headroom(alive, rtt, now), MAX_DIALING - len(self._dialing), self._budget(now)))

    def _young(self, rtt: float, now: float) -> int:
        """Dials under way that are not slow yet. Dials are kept in the order in which they began."""
        slow = now - max(SLOW_RTTS * rtt, SLOW_SECONDS)
        old = 0
        for began in self._dialing.values():
            if began > slow:
                break
            old += 1
        return len(self._dialing) - old

    def _headroom(self, alive: int, rtt: float, now: float) -> int:
        total = alive + len(self._dialing)
        if now >= self._round_at + rtt:
            self._round_at = now
            self._round_size = max(self._conns, total)
        limit = GROWTH * self._round_size
        return min(limit, self._burst) - total if self._burst else limit - total

    def _budget(self, now: float) -> int:
        self._tokens = min(float(DIAL_BURST), self._tokens + (now - self._filled_at) * DIALS_PER_SECOND)
        self._filled_at = now
        return int(self._tokens)

    def dialled(self, carrier: Carrier, now: float) -> None:
        """A dial began."""
        self._dialing[carrier] = now
        self._tokens -= 1

    def connected(self, carrier: Carrier) -> None:
        """A dial succeeded."""
        self._dialing.pop(carrier, None)
        self._failures = 0
        self._not_before = -inf

    def failed(self, carrier: Carrier, now: float) -> None:
        """A dial failed, or was given up: wait before the next one, longer each time. Those of one moment count as one."""
        self._dialing.pop(carrier, None)
        if now == self._failed_at:
            return
        self._failed_at = now
        backoff = min(FIRST_BACKOFF * 2**self._failures, LAST_BACKOFF)
        self._failures = min(self._failures + 1, 16)
        self._not_before = now + backoff * (0.75 + 0.5 * self._random.random())

    def revive(self, now: float) -> None:
        """There is contact again: forget the failures."""
        self._failures = 0
        self._not_before = now

    def too_slow(self, rtt: float, now: float) -> list[Carrier]:
        """Dials to be given up."""
        limit = now - max(ABANDON_RTTS * rtt, ABANDON_SECONDS)
        return [carrier for carrier, began in self._dialing.items() if began <= limit]

    def deadline(self, rtt: float, now: float) -> float:
        """When `dials_due` or `too_slow` may say something new though nothing happened."""
        slow, abandon = max(SLOW_RTTS * rtt, SLOW_SECONDS), max(ABANDON_RTTS * rtt, ABANDON_SECONDS)
        times = [t for began in self._dialing.values() for t in (began + slow, began + abandon)]
        times += [self._not_before, self._round_at + rtt]
        return min((t for t in times if t > now), default=inf)
