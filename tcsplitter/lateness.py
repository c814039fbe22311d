"""What is late on this path: how long acks usually take, how many shots take much longer, and how much repair that is worth.

Delays are judged by quantiles and by the minimum RTT, never by a smoothed RTT and its variance: on a line that loses packets most
shots arrive within the RTT and some after several, with little in between.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from math import comb

from tcsplitter._core import Quantiles

LATE_RTTS, LATE_QUANTILE, LATE_SPREAD, LATE_SAMPLES = 1.25, 0.96, 2.0, 32
"""A shot is late after so many RTTs at least, when it is later than this share, or so many times the path's p75 even if more of
the carriers are dead; the limit is taken anew after so many acks."""
FIRST_LATE_RTTS, LATE_SLACK = 2.0, 0.05
"""Until there are enough acks to tell: after so many RTTs, and the slack in seconds."""
OUTLIER = 1.5
"""A shot counts as one of those that the line makes late if its ack took so many times what is usual, and if the ack of a younger
one had come before."""
WORTH_SECONDS = 0.01
"""What is late by less is not worth repairing: it is the machines' doing rather than the line's."""
SHARE_SAMPLES, FIRST_DOUBT = 200, 0.04
"""Of how many shots the share of late ones is taken, older ones fading; and how much more it may be before anything was measured,
with a quarter of that weight."""
USUAL_SAMPLES, REFRESH_SAMPLES = 128, 16
"""Of how many acks the median is usual; how many acks go by until that is taken anew."""
OVERDUE_RTTS, OVERDUE_SPREAD, OVERDUE_SLACK = 1.1, 1.03, 0.002
"""The ack of a small shot is overdue after so many RTTs, the delay that an ack may have, and the slack in seconds; where their
delays are known: after so many times their upper quartile, and the slack."""
SMALL_SHOT, SMALL_SAMPLES = 1_200, 32
"""Bytes of a small shot; of how many of them delays are kept."""
QUEUE_RTTS, QUEUE_SLACK = 1.25, 0.005
"""When the quickest of REFRESH_SAMPLES acks took so many RTTs, besides the delay of an ack, the slack and further round trips of
large shots, then a queue makes shots late, not the line: it says nothing of the line, and repair would only make it longer."""
CLEAN_SHARE = 0.002
"""A line with a smaller share of late shots needs no parity."""
FAILED_STRIPES = 0.005
"""Share of stripes that may be left with more late shots than parity."""
FAILED_COPIES = 0.001
"""Share of small shots of which all copies may be late."""
MAX_TWINS = 3


class Lateness:
    """The account of delays of one direction, kept by the sender of its shots. Times in seconds."""

    def __init__(self, rtt: float) -> None:
        self.delay = Quantiles()
        """From sending a shot to its ack."""
        self.late_after = FIRST_LATE_RTTS * rtt + LATE_SLACK
        """Age at which a shot is late: beyond what most take, dead carriers aside, and what an undisturbed ack needs."""
        self.share = 0.0
        """Of the shots, those that the line makes late, or never delivers."""
        self.doubt = FIRST_DOUBT
        """How much more they may be: less the more shots were counted."""
        self.queueing = False
        """A queue makes all of them late."""
        self._recent = Quantiles(USUAL_SAMPLES)
        self._small: deque[float] = deque()
        """Of small shots, in the order in which their acks came."""
        self._small_sorted: list[float] = []
        self._usual = 0.0
        self._quickest = 0.0
        self._seen = 0
        self._weight = SHARE_SAMPLES // 4

    def begin(self, rtt: float) -> None:
        """What the RTT is, while there are too few acks to tell more."""
        if self._seen < LATE_SAMPLES:
            self.late_after = FIRST_LATE_RTTS * rtt + LATE_SLACK

    def sample(self, age: float, size: int, rtt: float, ack_delay: float, flights: int = 1) -> bool:
        """The ack of a shot came at this age, where the other end may hold acks back for `ack_delay`: whether that is unusual.
        `flights`: round trips that so many bytes take without any queue.
        """
        if size <= SMALL_SHOT:
            self._add_small(age)
        usual = max(rtt + ack_delay, self._usual)
        unusual = age > max(OUTLIER * usual, usual + WORTH_SECONDS)
        self.delay.add(age)
        self._recent.add(age)
        waited = age - (flights - 1) * rtt
        self._quickest = min(self._quickest, waited) if self._seen % REFRESH_SAMPLES else waited
        self._seen += 1
        if self._seen % REFRESH_SAMPLES == 0:
            self._usual = self._recent.at(0.5)
            self.queueing = self._quickest > QUEUE_RTTS * rtt + ack_delay + QUEUE_SLACK
        if self._seen % LATE_SAMPLES == 0:
            self.late_after = max(LATE_RTTS * rtt, min(self.delay.at(LATE_QUANTILE), LATE_SPREAD * self.delay.at(0.75)))
        return unusual

    def _add_small(self, age: float) -> None:
        if len(self._small) == SMALL_SAMPLES:
            del self._small_sorted[bisect_left(self._small_sorted, self._small.popleft())]
        self._small.append(age)
        insort(self._small_sorted, age)

    def in_time(self, rtt: float, ack_delay: float) -> float:
        """Age up to which the ack of a shot is not late, as most go."""
        return LATE_RTTS * max(rtt + ack_delay, self._usual) + WORTH_SECONDS

    def overdue_after(self, rtt: float, ack_delay: float) -> float:
        """Age at which the ack of a small shot is overdue."""
        if len(self._small) < SMALL_SAMPLES // 4:
            return OVERDUE_RTTS * rtt + ack_delay + OVERDUE_SLACK
        usual = self._small_sorted[3 * len(self._small) // 4]
        return max(OVERDUE_SPREAD * usual + OVERDUE_SLACK, WORTH_SECONDS)

    def count(self, late: bool) -> None:
        """A shot was late, was rebuilt because it was, or will never come; or it was in time."""
        if not self.queueing:
            self._weight = min(self._weight + 1, SHARE_SAMPLES)
            self.share += (late - self.share) / self._weight
            self.doubt -= self.doubt / self._weight

    def twins(self) -> int:
        """Copies that a small shot needs besides itself, so that hardly ever all are late; one at least."""
        twins, share = 1, self.share + self.doubt
        while twins < MAX_TWINS and share ** (twins + 1) > FAILED_COPIES:
            twins += 1
        return twins

    def seems_clean(self) -> bool:
        """Hardly any shot is late, and enough were counted to say so."""
        return self.share + self.doubt < CLEAN_SHARE

    def is_clean(self) -> bool:
        """Hardly any shot is late."""
        return self.share < CLEAN_SHARE

    def needs_parity(self) -> bool:
        """The line makes shots late, not a queue."""
        return not (self.is_clean() or self.queueing)

    def parity(self, data: int) -> int:
        """Parity shots that a stripe of so many data shots needs, so that few have more late ones; at most as many, or two."""
        if not self.needs_parity():
            return 0
        parity, most = 0, max(data, 2)
        while parity < most and _more_than(parity, data + parity, self.share) > FAILED_STRIPES:
            parity += 1
        return parity


def _more_than(most: int, count: int, share: float) -> float:
    """Probability that of `count` shots more than `most` are late (binomial)."""
    return 1.0 - sum(comb(count, late) * share**late * (1 - share) ** (count - late) for late in range(most + 1))
