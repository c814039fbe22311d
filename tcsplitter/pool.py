"""The client's pools of carriers: how many to dial, and when. Pure: they are told what happened and say how many."""

from __future__ import annotations

from math import inf
from typing import Protocol

from tcsplitter.carrier import Carrier

MAX_DIALING = 224
"""Dials under way at once, of all pools together: fewer than a server keeps of those that have not said hello
(newcomers.MAX_PER_ADDRESS)."""
DIALS_PER_SECOND, DIAL_BURST = 50_000, 512
"""The same of dials that begin: more than two cores can. An end that is held back by it wakes for each dial, which costs half as
much again as what the dials do."""
GROWTH = 8
"""The pool may grow by this factor in an RTT."""
SLOW_RTTS, SLOW_SECONDS = 3.0, 0.25
"""A dial that takes longer than the larger of these is raced by another."""
MANY_SLOW = MAX_DIALING // 4
"""So many slow dials, of which none was overtaken by one that was answered, are raced by no more than one at a time."""
RACED = 2
"""Slow dials may raise the number of sockets to so many times the ceiling."""
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


class DialBudget:
    """What all pools of an end may dial together: a bound on dials under way, and a token bucket for new ones."""

    def __init__(self, now: float, pools: int = 1) -> None:
        self.share = MAX_DIALING if pools == 1 else MAX_DIALING // 2
        """Dials of one pool that may be under way, so that an address that does not answer leaves some to the others."""
        self.dialing = 0
        """Dials under way."""
        self._tokens = float(DIAL_BURST)
        self._filled_at = now

    def left(self, now: float) -> int:
        """Dials that may begin now."""
        self._tokens = min(float(DIAL_BURST), self._tokens + (now - self._filled_at) * DIALS_PER_SECOND)
        self._filled_at = now
        return min(int(self._tokens), MAX_DIALING - self.dialing)

    def began(self, dials: int) -> None:
        """So many dials began."""
        self.dialing += dials
        self._tokens -= dials


class Pool:
    """Carriers of one kind: those that are being dialled, and how many more are due.

    It keeps `conns` idle ones, the first of them spread over `ramp` seconds, and more as both ends want them, up to `burst`
    in all; with `burst` 0 there are no more than `conns`, in use or not. Dials that are slow do not count, as others race them.
    """

    def __init__(
        self, conns: int, burst: int, idle: float, budget: DialBudget, random: Random, now: float, ramp: float = 0.0
    ) -> None:
        self._conns = conns
        self._burst = burst
        self._idle = idle
        self._budget = budget
        self._random = random
        self._ramp = ramp
        self._began_at = now
        self._dialing: dict[Carrier, float] = {}
        self._answered_from = -inf
        """When the youngest dial that was answered began: those before it were lost on their way, the target is there."""
        self._failures = 0
        self.failed_at = -inf
        """When a dial, or a connection, last failed."""
        self.cut_off = False
        """Connections were cut off, so that a dial succeeds is no sign of contact; until `revive`."""
        self._not_before = now
        self._round_at = now
        self._round_size = conns
        self._held_back = False
        """More are missing than growth allows in this round."""
        self._short = False
        """More are missing than were to be dialled when that was asked last."""
        self._again = False
        """A dial has succeeded since: more may be due."""

    def idle_for(self) -> float:
        """Seconds for which the next carrier may stay idle."""
        return self._idle * (1 + IDLE_JITTER * (2 * self._random.random() - 1))

    def dials_due(self, idle: int, alive: int, want: int, rtt: float, now: float) -> int:
        """How many carriers to dial now.

        `idle`: carriers that nobody uses; `alive`: all that are open; `want`: idle ones that both ends wish for, together.
        """
        self._held_back = self._short = self._again = False
        missing = max(self._floor(now), min(want, self._burst)) - idle
        if missing <= 0 or now < self._not_before:
            return 0
        young = self._young(rtt, now)
        missing -= young
        if missing <= 0:
            return 0
        all_missing = missing
        if self._failures or (len(self._dialing) - young >= MANY_SLOW and self._silent() - young >= MANY_SLOW):
            missing = 0 if young else 1
        ceiling, total = self._burst or self._conns, alive + young
        possible = min(missing, ceiling - total, RACED * ceiling - alive - len(self._dialing), self._budget.left(now))
        possible = min(possible, self._budget.share - len(self._dialing))
        grown = self._grown(total, rtt, now) - total
        self._held_back = grown < possible
        due = max(0, min(possible, grown))
        self._short = due < all_missing
        return due

    def put_off(self) -> None:
        """Nothing is to be dialled for now, whatever is missing."""
        self._short = self._again = False

    def _young(self, rtt: float, now: float) -> int:
        """Dials under way that are not slow yet. Dials are kept in the order in which they began."""
        slow = now - max(SLOW_RTTS * rtt, SLOW_SECONDS)
        old = 0
        for began in self._dialing.values():
            if began > slow:
                break
            old += 1
        return len(self._dialing) - old

    def _silent(self) -> int:
        """Dials under way that began after all that were answered."""
        count = 0
        for began in reversed(self._dialing.values()):
            if began <= self._answered_from:
                break
            count += 1
        return count

    def _floor(self, now: float) -> int:
        """Idle carriers to be kept whether anyone wants them or not."""
        if now >= self._began_at + self._ramp:
            return self._conns
        count = 1 + int(self._conns * (now - self._began_at) / self._ramp)
        # Rounding must not leave it below what `_step` was the time of: nothing would ask again.
        return min(self._conns, count + (now >= self._step(count)))

    def _grown(self, total: int, rtt: float, now: float) -> int:
        """To how many the pool may grow in this round."""
        if now >= self._round_at + rtt:
            self._round_at = now
            self._round_size = max(self._conns, total)
        return GROWTH * self._round_size

    def dialled(self, carriers: list[Carrier], now: float) -> None:
        """Dials of these began."""
        self._dialing.update(dict.fromkeys(carriers, now))
        self._budget.began(len(carriers))

    def connected(self, carrier: Carrier, rtt: float, now: float) -> bool:
        """A dial succeeded: whether the connection is of use. If it took long while a younger one did not, its SYN was lost and
        came again; then the kernels take the second until it did for the RTT, and what is lost comes again that much later;
        another was dialled in its place long ago."""
        self._again = self._short
        if not self.cut_off:
            self._failures = 0
            self._not_before = -inf
        began = self._ended(carrier)
        if began is None:
            return True
        if began >= self._answered_from:
            self._answered_from = began
            return True
        return now - began <= max(SLOW_RTTS * rtt, SLOW_SECONDS)

    def _ended(self, carrier: Carrier) -> float | None:
        """It is not dialled any more: when that began, if it was."""
        began = self._dialing.pop(carrier, None)
        self._budget.dialing -= began is not None
        return began

    def failed(self, carrier: Carrier, now: float, cut_off: bool = False) -> None:
        """A dial failed, or was given up: wait before the next one, longer each time. Those of one moment count as one.

        `cut_off`: it succeeded, but the connection was broken off with nothing heard.
        """
        self._ended(carrier)
        self.cut_off |= cut_off
        if now == self.failed_at:
            return
        self.failed_at = now
        backoff = min(FIRST_BACKOFF * 2**self._failures, LAST_BACKOFF)
        self._failures = min(self._failures + 1, 16)
        self._not_before = now + backoff * (0.75 + 0.5 * self._random.random())

    def revive(self, now: float) -> None:
        """There is contact again: forget the failures."""
        self.cut_off = False
        self._failures = 0
        self._not_before = now

    def too_slow(self, rtt: float, now: float) -> list[Carrier]:
        """Dials to be given up."""
        limit = now - max(ABANDON_RTTS * rtt, ABANDON_SECONDS)
        slow: list[Carrier] = []
        for carrier, began in self._dialing.items():
            if began > limit:
                break
            slow.append(carrier)
        return slow

    def deadline(self, rtt: float, now: float) -> float:
        """When `dials_due` or `too_slow` may say something new though nothing more happens."""
        if self._again:
            return -inf
        by = step if (step := self._next_step(now)) > now else inf
        if now < self._not_before < by:
            by = self._not_before
        if self._held_back and now < self._round_at + rtt < by:
            by = self._round_at + rtt
        if not self._dialing:
            return by
        # In the order in which they began: the first one that has a time before it has the first such time.
        for after in (max(SLOW_RTTS * rtt, SLOW_SECONDS), max(ABANDON_RTTS * rtt, ABANDON_SECONDS)):
            for began in self._dialing.values():
                if began + after > now:
                    by = min(by, began + after)
                    break
        return by

    def _next_step(self, now: float) -> float:
        """When the ramp allows one more."""
        return inf if now >= self._began_at + self._ramp else self._step(self._floor(now))

    def _step(self, count: int) -> float:
        """When the ramp allows more than so many."""
        return self._began_at + count * self._ramp / self._conns
