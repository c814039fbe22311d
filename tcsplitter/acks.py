"""The receiver's side of acknowledgement: what to acknowledge, and by when (PROTOCOL.md section 5; RFC 9000 section 13.2)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from tcsplitter._core import AckLog

if TYPE_CHECKING:
    from tcsplitter._core import ShotWriter

ACK_RTT_SHARE, MAX_ACK_DELAY = 8, 0.025
"""An ack waits for company for an eighth of the RTT, and no longer than that many seconds."""
SHORTEST_DELAY = 0.001
"""Seconds; timers are no finer, so a shorter delay is none."""


def ack_delay(min_rtt: float, small: bool = False) -> float:
    """Seconds for which an ack may wait. `small`: what came is, so it may be a question whose answer takes the ack along."""
    delay = min_rtt / ACK_RTT_SHARE
    if delay < SHORTEST_DELAY:
        return SHORTEST_DELAY if small else 0.0
    return min(delay, MAX_ACK_DELAY)


class Acks:
    """Numbers that arrived and were not reported often enough, and when the next report is due."""

    def __init__(self, now: float) -> None:
        self.due_at = inf
        """When an ack has to go alone if nothing took it along."""
        self.for_payload = False
        """Payload came since a sync carrier was last asked for an answer."""
        self._log = AckLog()
        self._answered = 0
        self._answered_at = now

    def add(self, number: int) -> None:
        """A shot of this number arrived."""
        self._log.add(number)

    def elicited(self, number: int, delay: float, now: float) -> None:
        """The shot asks for an ack, which may wait for `delay`."""
        self._answered, self._answered_at = number, now
        self._due_in(delay, now)

    def add_rebuilt(self, number: int, delay: float, now: float) -> None:
        """A shot was rebuilt from parity; the ack that says so may wait for `delay`."""
        self._log.add_rebuilt(number)
        self._due_in(delay, now)

    def _due_in(self, delay: float, now: float) -> None:
        due_at = now + (delay if delay > SHORTEST_DELAY else SHORTEST_DELAY)
        if due_at < self.due_at:
            self.due_at = due_at

    @property
    def any(self) -> bool:
        """Whether there are numbers that were not reported often enough."""
        return bool(self._log)

    def write(self, writer: ShotWriter, now: float, settles: bool = True) -> None:
        """Add an ACK frame to a body, if there is anything to report; unless it `settles`, an ack has to go elsewhere too."""
        if self._log:
            ranges, rebuilt = self._log.take()
            writer.ack(self._answered, int((now - self._answered_at) * 1e6), ranges, rebuilt)
        if settles:
            self.due_at = inf
