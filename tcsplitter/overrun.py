"""Whether what is sent overruns the line: a queue that is too short to be seen drops what is too much.

A lost segment makes its shot late, so each round has its share of late shots. Lines lose at random too, but at any pace: what
counts is how many more are late than is usual. The segments that must have been lost for that tell what the line took.
"""

from __future__ import annotations

from collections import deque
from math import inf, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tcsplitter.shots import SentShot

SEGMENT = 1_448
"""Bytes that are lost together."""
IN_TIME, SLACK, JITTER = 1.25, 0.01, 2.0
"""A shot is in time within so many times what the quickest of a round takes, seconds besides, and so many times the jitter."""
LONG_QUEUE = 0.25
"""A queue that takes a larger share of what a shot takes makes it late by itself, and is seen without this."""
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
        self.judge_at = inf
        """When `judge` has something to say."""
        self._rounds: deque[Round] = deque()
        """Those that are not judged; the last one is still going on."""
        self._judged = 0
        """How many there were before."""
        self._in_time = inf
        """Up to which age an ack is in time."""
        self._quickest = inf
        self._usual_shots = 0.0
        self._usual_late = 0.0
        self._queued_at = -inf
        """When a long queue was reported last: what was sent before may be late for that alone."""
        self._reduced_at = -inf
        """What was sent before that tells nothing of the limit."""
        self._reductions = 0
        self._limit_before = inf
        """The limit before the first reduction in a row."""
        self._share_before = 0.0
        """The share of late shots that led to it."""

    def begin_round(self, rate: float, tries: bool, flight: float, queue: float, jitter: float, now: float) -> None:
        """What is sent from now on belongs to another round. `flight`: seconds that a shot takes without any queue; `queue`:
        how long that was in the last one."""
        quickest = flight if self._quickest == inf else max(flight, self._quickest)
        self._quickest = inf
        self._in_time = IN_TIME * quickest + JITTER * jitter + SLACK
        if queue > LONG_QUEUE * flight:
            self._queued_at = now
        if self._rounds:
            latest: Round = self._rounds[-1]
            latest.ended = now
        self._rounds.append(Round(rate, tries, now))
        first: Round = self._rounds[0]
        self.judge_at = first.ended + self._in_time

    def on_sent(self, shot: SentShot) -> None:
        """A full shot goes."""
        if self._rounds:
            latest = self._rounds[-1]
            shot.round = self._judged + len(self._rounds) - 1
            latest.shots += 1
            latest.bytes += shot.size

    def on_delivered(self, shot: SentShot, now: float) -> None:
        """Its ack came."""
        age = now - shot.sent_at
        self._quickest = min(self._quickest, age)
        if shot.round >= self._judged and age <= self._in_time:
            sent_in = self._rounds[shot.round - self._judged]
            sent_in.in_time += 1

    def forget(self, now: float) -> None:
        """Payloads are sent in another way from now on: what became of those before tells nothing of it."""
        self.limit = inf
        self.patience = 1
        self._reductions = 0
        self._usual_shots = self._usual_late = 0.0
        self._reduced_at = now

    def judge(self, queue_share: float, now: float) -> bool:
        """Judge the rounds whose time has come: whether one has overrun the line. `queue_share`: that of this round by now."""
        overrun = False
        while now >= self.judge_at:
            # Where no ack has come for as long as that, the line was silent, and shots are late for that.
            timely = now < self.judge_at + self._in_time
            if timely and queue_share > LONG_QUEUE:
                break  # perhaps only lost ones have told of it yet
            done = self._rounds.popleft()
            self._judged += 1
            self.judge_at = self._rounds[0].ended + self._in_time
            if timely and done.began >= max(self._queued_at, self._reduced_at):
                if done.shots >= LEAST_SHOTS:
                    overrun |= self._judge(done, now)
                elif done.shots and done.in_time == done.shots:
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
        self._reduced_at = now
        if self._reductions >= STUBBORN and share > STUBBORN_SHARE * self._share_before:
            self.limit, self._reductions = self._limit_before, 0
            self._usual_shots, self._usual_late = float(done.shots), share * done.shots
