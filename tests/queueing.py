"""A line whose queue has no end, and an end that sends on it as pace and bound allow."""

from __future__ import annotations

from functools import partial
from math import inf

from account import shot
from paced_end import PacedEnd


class Path(PacedEnd):
    """A line with an endless queue.

    Whenever a shot leaves a connection is dialled, behind it in the queue. Shots and dials take an RTT besides, more or less by
    up to `jitter` of it, and what others put into the queue. Where connections are `fresh` a shot takes what slow start does.
    """

    def __init__(
        self, rate: float, rtt: float, size: int, jitter: float = 0.0, seed: int = 1, fresh: bool = False, grows: bool = False
    ) -> None:
        super().__init__(rate, rtt, size, seed, fresh, grows)
        self.offered = inf
        """Bytes per second that the program has to send."""
        self.carriers = inf
        """Shots that may be under way."""
        self.foreign = 0.0
        """Seconds that others' packets stand in the queue."""
        self.queues: list[tuple[float, float]] = []
        """When a shot left, and the time that its packets had to wait for those before."""
        self._jitter = jitter
        self._since = 0.0
        self._sent_since = 0

    def offer(self, rate: float) -> None:
        """From now on the program writes so many bytes per second."""
        self.offered, self._since, self._sent_since = rate, self.now, 0

    def _wakes(self) -> list[float]:
        times = [self.congestion.opens_at] if self._waits_for_pace else []
        if self.offered < inf:
            times.append(max(self.now + 1e-6, self._since + (self._sent_since + 1) * self.size / self.offered))
        return times

    def run_rtts(self, count: float) -> None:
        self.run(count * self.rtt)

    def _send(self) -> None:
        while self.account.may_send(self.now):
            due = (self.now - self._since) * self.offered if self.offered < inf else inf
            if (self._sent_since + 1) * self.size > due * (1 + 1e-9) or len(self.account.sent) >= self.carriers:
                self.congestion.on_limited(self.account.under_way())
                return
            number = self._sent
            self._sent += 1
            self._sent_since += 1
            self.account.on_sent(shot(number, self.now, self.size))
            self._free = max(self._free, self.now)
            self.queues.append((self.now, self._free - self.now))
            self._free += self.size / self.rate
            flights = self.congestion.size.flights
            self._after(self._travel() + (flights - 1) * self.rtt, partial(self._acknowledged, number))
            self._dialled_after(self._travel())

    def _travel(self) -> float:
        dice = self._jitter * (2 * self._random.random() - 1)
        return self._free - self.now + self.rtt * (1 + dice) + self.foreign

    # ------------------------------------------------------------------------- what is looked at

    def queue(self, since: float) -> float:
        """Seconds that the median shot had to wait in the queue, of those that left since then."""
        waits = sorted(wait for at, wait in self.queues if at >= since)
        return waits[len(waits) // 2] if waits else 0.0
