"""Whether what is sent overruns the line: a queue that is too short to be seen drops what is too much.

A lost segment makes its shot late: others overtake it. So each round has its share of late shots. Lines lose at random too,
but at any pace: what counts is how many more are late than is usual. The segments that must have been lost for that tell what
the line took.
"""

from __future__ import annotations

from collections import deque
from math import inf, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tcsplitter.shots import SentShot

SEGMENT = 1_448
"""Bytes that are lost together."""
IN_TIME, SLACK, JITTER = 0.5, 0.01, 2.0
"""A shot is in time if none that was sent later by more than this share of an RTT, seconds besides, and so many times the jitter
was acknowledged before it: one that has lost a segment takes an RTT longer, while a machine that pauses, or a queue, holds up all
alike."""
LONG_QUEUE, LONG_SECONDS = 0.25, 0.005
"""A queue longer than this share of an RTT and these seconds is seen: what it drops is left to what measures it."""
LEAST_SHOTS, LEAST_SHARE = 8, 0.8
"""Rounds with fewer shots tell nothing, unless all were in time; where less than this share of the rate was sent, it was not this
end that overran it."""
DEVIATIONS, STRAYS = 2.5, 2.0
"""A round has lost more than is usual if so many standard deviations, and so many shots besides, are more late."""
FADES, LEAST_KNOWN = 0.95, 64
"""The weight that rounds keep in what is usual with each that follows, and from how many shots on it is known."""
STUBBORN, STUBBORN_SHARE = 3, 0.7
"""Where the share of late shots is still so many times the first one after so many reductions in a row, the loss is not of this
end's making: it is usual from then on."""
EASE = 1.002
"""What each round that lost no more than usual adds to the limit."""
MOST_PATIENCE = 8
"""A try that lost is followed by the next after twice as many rounds, up to so many times as many."""


class Round:
    """What was sent in one round."""

    __slots__ = ("began", "bytes", "ended", "in_time", "rate", "shots", "tries")

    def __init__(self, rate: float, tries: bool, now: float) -> None:
        self.began = now
        self.ended = inf
        self.rate = rate
        """What the rate was taken for."""
        self.tries = tries
        """More than that was sent, to see whether the line carries it."""
        self.shots = 0
        self.bytes = 0
        self.in_time = 0
        """How many of the shots were acknowledged in time."""


class Overrun:
    """The account of late shots by the round in which they were sent. Times in seconds, rates in bytes per second."""

    def __init__(self) -> None:
        self.limit = inf
        """What the line took when it was overrun, or has carried since."""
        self.patience = 1
        """So many times as many rounds are to go by until more is tried."""
        self._rounds: deque[Round] = deque()
        """Those that are not judged; the last one is still going on."""
        self._judged = 0
        """How many there were before."""
        self._margin = 0.0
        """By how much later what overtakes a shot was sent, if that has lost a segment."""
        self._newest = -inf
        """When the youngest of the acknowledged shots was sent."""
        self._judge_from = inf
        """When that was sent later than this the first of the rounds can be judged."""
        self._long_queue = inf
        """How long a queue is that is seen without this."""
        self._usual_shots = 0.0
        self._usual_late = 0.0
        self._counts_from = -inf
        """What was sent before that tells nothing: there was a long queue, or it is known already."""
        self._heard_at = inf
        """When the last ack came."""
        self._silence = inf
        """Seconds without any ack after which the line was silent, so that what was under way tells nothing."""
        self._reductions = 0
        self._limit_before = inf
        """The limit before the first reduction in a row."""
        self._share_before = 0.0
        """The share of late shots that led to it."""

    def begin_round(self, rate: float, tries: bool, rtt: float, queue: float, jitter: float, now: float) -> None:
        """What is sent from now on belongs to another round. `queue`: how long that was in the last one."""
        self._margin = IN_TIME * rtt + JITTER * jitter + SLACK
        self._silence = rtt + self._margin
        self._long_queue = LONG_QUEUE * rtt + LONG_SECONDS
        if queue > self._long_queue:
            self._counts_from = now
        if self._rounds:
            latest: Round = self._rounds[-1]
            latest.ended = now
        self._rounds.append(Round(rate, tries, now))
        self._look_at_first()

    def _look_at_first(self) -> None:
        """See which round is to be judged next: the first one in which something was sent."""
        first: Round = self._rounds[0]
        while not first.shots and first.ended < inf:
            self._rounds.popleft()
            self._judged += 1
            first = self._rounds[0]
        self._judge_from = first.ended + self._margin

    def on_sent(self, shot: SentShot) -> None:
        """A full shot goes."""
        if self._rounds:
            latest = self._rounds[-1]
            shot.round = self._judged + len(self._rounds) - 1
            latest.shots += 1
            latest.bytes += shot.size

    def on_delivered(self, shot: SentShot, now: float) -> None:
        """Its ack came."""
        if now > self._heard_at + self._silence:
            self._counts_from = now
        self._heard_at = now
        if shot.round >= self._judged and self._newest - shot.sent_at <= self._margin:
            sent_in = self._rounds[shot.round - self._judged]
            sent_in.in_time += 1
        self._newest = max(self._newest, shot.sent_at)

    def has_news(self) -> bool:
        """Whether `judge` has something to say."""
        return self._newest >= self._judge_from

    def forget(self, now: float) -> None:
        """Payloads are sent in another way from now on: what became of those before tells nothing of it."""
        self.limit = inf
        self.patience = 1
        self._reductions = 0
        self._usual_shots = self._usual_late = 0.0
        self._counts_from = now

    def search(self, now: float) -> None:
        """The rate is looked for anew: what is under way comes late for what is sent from now on."""
        self.limit = inf
        self._counts_from = now

    def judge(self, queue: float, now: float) -> bool:
        """Judge the rounds whose time has come: whether one has overrun the line. `queue`: how long it was in this one by now."""
        overrun = False
        while self._newest >= self._judge_from and queue <= self._long_queue:  # else perhaps only lost ones have told of it yet
            done = self._rounds.popleft()
            self._judged += 1
            self._look_at_first()
            if done.began >= self._counts_from:
                if done.shots >= LEAST_SHOTS:
                    overrun |= self._judge(done, now)
                elif done.in_time == done.shots:
                    self._raise(done)
        return overrun

    def _judge(self, done: Round, now: float) -> bool:
        late = done.shots - done.in_time
        usual = (self._usual_late + 0.5) / (self._usual_shots + 1.0)
        spread = sqrt(done.shots * usual * (1.0 - usual) * (1.0 + done.shots / (self._usual_shots + 1.0)))
        sent = done.bytes / (done.ended - done.began)
        is_usual = late <= done.shots * usual + DEVIATIONS * spread + STRAYS
        if is_usual or self._usual_shots < LEAST_KNOWN or sent < LEAST_SHARE * done.rate:
            self._note_usual(done, late)
            return False
        self._reduce(done, late / done.shots, usual, sent, now)
        return True

    def _note_usual(self, done: Round, late: int) -> None:
        """The line has carried what was sent, but for what it always loses."""
        self._usual_shots = FADES * self._usual_shots + done.shots
        self._usual_late = FADES * self._usual_late + late
        self._raise(done)
        if not done.tries:
            self._reductions = 0

    def _raise(self, done: Round) -> None:
        """The line has carried a round. Where a round has few shots this alone raises the limit."""
        self.limit = max(self.limit, done.bytes / (done.ended - done.began))
        if done.tries:
            self.patience = 1
        else:
            self.limit *= EASE

    def _reduce(self, done: Round, share: float, usual: float, sent: float, now: float) -> None:
        """The line has dropped some of what was sent: the limit is the rest."""
        if done.tries:
            self.patience = min(2 * self.patience, MOST_PATIENCE)
        else:
            self._reductions += 1
            if self._reductions == 1:
                self._limit_before, self._share_before = self.limit, share
        in_time = max(1.0 - share, 0.5 / done.shots) / (1.0 - usual)
        segments = max(1.0, done.bytes / done.shots / SEGMENT)
        self.limit = min(self.limit, sent * in_time ** (1.0 / segments))
        self._counts_from = now
        if self._reductions >= STUBBORN and share > STUBBORN_SHARE * self._share_before:
            self.limit, self._reductions = self._limit_before, 0
            self._usual_shots, self._usual_late = float(done.shots), share * done.shots
