"""A line that drops segments: those that its queue has no room for, and some at random."""

from __future__ import annotations

from functools import partial

from account import shot
from paced_end import PacedEnd

SEGMENT, SYN = 1_448, 60
REPEATED_AT_ONCE, REPEAT_RTTS, TIMER = 0.6, 1.3, 0.2
"""How many of the lost segments come again after so many RTTs, as later ones of the shot were acknowledged; the others wait for a
timer, which is an RTT and these seconds, and doubled each time."""
WAKE = 0.001
"""By up to how much a shot leaves later than it might."""


class DroppingPath(PacedEnd):
    """An end at a line that drops."""

    def __init__(
        self, rate: float, rtt: float, size: int, room: float, loss: float = 0.0, seed: int = 1, grows: bool = False
    ) -> None:
        """`room`: bytes that the queue takes; `loss`: the probability that a segment is lost anyway."""
        super().__init__(rate, rtt, size, seed, True, grows)
        self.room = room
        self.loss = loss
        self.wire = 0
        """Bytes of all segments that were sent."""

    def _wakes(self) -> list[float]:
        return [self.congestion.opens_at + self._random.random() * WAKE] if self._waits_for_pace else []

    def _send(self) -> None:
        while self.account.may_send(self.now):
            number = self._sent
            self._sent += 1
            self.account.on_sent(shot(number, self.now, self.size))
            missing = [-(-self.size // SEGMENT)]
            for _ in range(missing[0]):
                self._segment(number, missing, 0)
            if self._passes(SYN):
                self._dialled_after(self._free - self.now + self.rtt)

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
            self._after((self.congestion.size.flights - 1) * self.rtt, partial(self._acknowledged, number))
