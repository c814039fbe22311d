"""Twins: what is late, or likely to be, goes again on another carrier with a number of its own; the copy that comes first counts.

Small shots of streams that are not busy are watched one by one: their ack is due within little more than an RTT. The others are
twinned when they are later than most: at once, and again, while nothing else needs the line; else only if younger ones have
arrived, so that a full line, where all is late, breeds none.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING

from tcsplitter.acks import ack_delay
from tcsplitter.lateness import WORTH_SECONDS

if TYPE_CHECKING:
    from tcsplitter.recovery import Recovery
    from tcsplitter.shared import Handling
    from tcsplitter.shots import SentShot
    from tcsplitter.stats import Counters

AGAIN_SECONDS, AGAIN_SHARE = 0.05, 0.5
"""What is late is looked at again after an RTT, and not before this time and this share of its age have gone by."""
SMALL_SHARE = 0.05
"""Of what is sent, so much may go to twins of small shots."""
LARGE_PER_LATE, LEAST_LARGE_SHARE, MOST_LARGE_SHARE = 0.1, 0.005, 0.03
"""And to those of others while the line is full so much of the share that the line makes late, within these bounds: where few are
late bulk has room for all of them in its window, and twins only take the line from it."""
SMALL_RATE, SMALL_BURST = 8_000, 16_000
"""To those of small shots so many bytes a second besides, and at most so many at once."""
LARGE_BURST = 65_536
"""To those of the others at most so many bytes at once."""
MOST_SPARE = 2
"""Twins of a larger shot at once, where the line needs more than one and nothing else needs the line."""


class Allowance:
    """A budget of bytes: a share of all that is sent, and so many a second."""

    def __init__(self, share: float, rate: float, burst: float, now: float) -> None:
        self.share = share
        """May change: what was sent since bytes were last spent earns the new one."""
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._sent = 0
        self._filled_at = now

    def spend(self, size: int, sent: int, now: float) -> bool:
        """Whether so much may be spent; `sent`: bytes sent so far."""
        earned = self.share * (sent - self._sent) + self._rate * (now - self._filled_at)
        self._left = min(self._burst, self._left + earned)
        self._sent, self._filled_at = sent, now
        if self._left < size:
            return False
        self._left -= size
        return True


class Hedger:
    """What is to be twinned, and when; one direction's."""

    def __init__(self, handling: Handling, recovery: Recovery, counters: Counters, now: float) -> None:
        self._auto = handling.fec.auto
        """Small shots have twins from the start on any line."""
        self._parity = bool(handling.fec.parity)
        """There is parity for small shots too, as much as was asked for."""
        self._on = handling.hedge
        self._resend = handling.retries.resend
        """Where payload is never sent again it has no twin either; control frames have."""
        self._recovery = recovery
        self._counters = counters
        self._small = Allowance(SMALL_SHARE, SMALL_RATE, SMALL_BURST, now)
        self._large = Allowance(LEAST_LARGE_SHARE, 0, LARGE_BURST, now)
        self._watched: list[tuple[float, int, SentShot]] = []
        """By when they are overdue."""
        self._others: deque[SentShot] = deque()
        """In the order in which they were sent."""
        self._lagging: list[tuple[float, int, SentShot]] = []
        """Late ones that were not overtaken, or too dear, with when to look at them again."""
        self._overdue: deque[SentShot] = deque()
        """Those that wait for a carrier for their twin."""
        self._spare = False
        """The line has room for twins."""

    def __len__(self) -> int:
        """Shots that wait for a carrier for their twin."""
        return len(self._overdue)

    def spare(self, shots: int) -> int:
        """Carriers that the twins of so many small shots may need at any time; while there is only doubt, those of one, which an
        idle end keeps for ever."""
        lateness = self._recovery.lateness
        if self._auto or not lateness.is_clean():
            return lateness.twins() * (shots if self.at_once() else int(self._on))
        return lateness.twins() if self.at_once() else 0

    def at_once(self) -> bool:
        """Whether small shots have twins from the start: on a line that may make shots late."""
        if self._parity or not (self._on and self._resend):
            return self._auto
        return self._auto or not (self._recovery.lateness.seems_clean() or self._recovery.congestion.is_short())

    def watch(self, shot: SentShot) -> None:
        """A small shot of streams that are not busy was sent."""
        if self._on and (self._resend or shot.control):
            rtt = self._recovery.congestion.rtt
            self._watch(shot, shot.sent_at + self._recovery.lateness.overdue_after(rtt, ack_delay(rtt, small=True)))

    def _watch(self, shot: SentShot, due_at: float) -> None:
        heappush(self._watched, (due_at, shot.number, shot))

    def mind(self, shot: SentShot) -> None:
        """Any other shot with payload was sent."""
        if self._on and self._resend:
            self._others.append(shot)

    def twins_at_once(self, size: int, now: float) -> int:
        """How many a small shot gets when it is sent."""
        twins = self._recovery.lateness.twins() if self.at_once() else 0
        return twins if twins and self._small.spend(twins * size, self._counters.bytes_sent, now) else 0

    def run(self, now: float, spare: bool) -> None:
        """See which small shots are overdue, and which of the others are late. `spare`: nothing else waits for the line."""
        while self._watched and self._watched[0][0] <= now:
            self._look_at(heappop(self._watched)[2], now)
        spare = spare and self._recovery.is_quiet
        if spare and not self._spare:
            lagging = sorted([shot for _, _, shot in self._lagging], key=_sent_at, reverse=True)
            self._lagging = []
            self._others.extendleft(lagging)
        self._spare = spare
        late_after = self._late_after()
        while self._others and self._others[0].sent_at + late_after <= now:
            self._judge(self._others.popleft(), now)
        while self._lagging and self._lagging[0][0] <= now:
            self._judge(heappop(self._lagging)[2], now)

    def _look_at(self, shot: SentShot, now: float) -> None:
        """An overdue small shot gets as many twins as the line needs, and again later."""
        twins = self._recovery.lateness.twins()
        if self._needs_one(shot) and self._small.spend(twins * shot.size, self._counters.bytes_sent, now):
            self._overdue.extend([shot] * twins)
        if self._lacks(shot):
            self._watch(shot, self._again_at(shot, now))

    def _judge(self, shot: SentShot, now: float) -> None:
        """A late shot gets a twin when it was overtaken, and another when that is late too, as the budget allows; at once while
        nothing else needs the line, overtaken or not unless a queue makes shots late."""
        if not self._needs_one(shot):
            return
        overtaken = self._recovery.was_overtaken(shot)
        if self._spare and (overtaken or not self._recovery.lateness.queueing):
            at = _copied_at(shot) + self._late_after()
            if at <= now:
                self._overdue.extend([shot] * min(self._recovery.lateness.twins(), MOST_SPARE))
                at = now + self._late_after()
            heappush(self._lagging, (at, shot.number, shot))
            return
        at = self._again_at(shot, now)
        if overtaken and self._spend_on_large(shot.size, now):
            self._overdue.append(shot)
            at = max(at, now + self._late_after())
        heappush(self._lagging, (at, shot.number, shot))

    def _spend_on_large(self, size: int, now: float) -> bool:
        """Whether so much may go to a twin while the line is full."""
        self._large.share = min(max(LARGE_PER_LATE * self._recovery.lateness.share, LEAST_LARGE_SHARE), MOST_LARGE_SHARE)
        return self._large.spend(size, self._counters.bytes_sent, now)

    def _again_at(self, shot: SentShot, now: float) -> float:
        """When a late shot is looked at again."""
        return now + max(self._recovery.congestion.rtt, AGAIN_SECONDS, AGAIN_SHARE * (now - shot.sent_at))

    def _late_after(self) -> float:
        """Age at which a shot that is not watched is late enough for a twin."""
        if self._spare:
            return self._recovery.lateness.in_time(self._recovery.congestion.rtt, ack_delay(self._recovery.congestion.rtt))
        return max(self._recovery.lateness.late_after, self._recovery.congestion.rtt + WORTH_SECONDS)

    def deadline(self) -> float:
        """When `run` has something to do; what has arrived meanwhile is forgotten."""
        while self._watched and not self._lacks(self._watched[0][2]):
            heappop(self._watched)
        while self._others and not self._lacks(self._others[0]):
            self._others.popleft()
        while self._lagging and not self._lacks(self._lagging[0][2]):
            heappop(self._lagging)
        by = self._watched[0][0] if self._watched else inf
        if self._others:
            by = min(by, self._others[0].sent_at + self._late_after())
        return min(by, self._lagging[0][0]) if self._lagging else by

    def next(self) -> SentShot | None:
        """The shot that is to be twinned next."""
        while self._overdue and not self._lacks(self._overdue[0]):
            self._overdue.popleft()
        return self._overdue[0] if self._overdue else None

    def sent(self) -> None:
        """The twin of the shot that `next` gave was sent."""
        self._overdue.popleft()

    def _needs_one(self, shot: SentShot) -> bool:
        return self._lacks(shot) and shot not in self._overdue

    def _lacks(self, shot: SentShot) -> bool:
        """Whether nothing is known of the arrival of any copy."""
        return shot.number in self._recovery.sent and not (shot.copies and shot.copies.arrived)


_sent_at = attrgetter("sent_at")


def _copied_at(shot: SentShot) -> float:
    """When the last copy of a shot was sent."""
    return shot.copies.shots[-1].sent_at if shot.copies else shot.sent_at
