"""How fast to send: what the line carries, how long its queue is, and what may be under way.

The line is a rate and a minimum RTT, as in BBR (Cardwell et al., ACM Queue 14(5), 2016). Besides, the queue is measured: every
connection that is dialled tells of an RTT, so there are enough of them for the smallest one of each round to show what stands
in the queue, however much single packets jitter. Pacing yields to that in proportion.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

from tcsplitter.cap import Cap
from tcsplitter.overrun import Overrun

if TYPE_CHECKING:
    from tcsplitter.payload import PayloadSize
    from tcsplitter.shots import SentShot

DEFAULT_RTT = 0.2
"""Seconds; taken for the RTT until one was measured."""
MIN_RTT_SECONDS = 15.0
"""The minimum RTT is that of the current span of so many seconds and of the one before."""
FIRST_RATE = 1_600_000
"""Bytes per second that a line is taken for before its rate is known: to take a slow one for a fast one costs seconds, the other
way round costs an RTT."""
LEAST_INITIAL, MOST_INITIAL, FIRST_LIMIT, LEAST_SHOTS = 64_000, 256_000, 512_000, 4
"""What may then be under way at the least and at the most, in bytes, and what it may grow to; and at least so many shots, unless
the line is full."""
STARTUP_WINDOW, CRUISE_GAIN, CONTEST_GAIN = 2.0, 1.5, 2.0
"""What may be under way, as multiples of what fills the line: while its rate is looked for, once it is known, and where others
keep the queue full."""
STARTUP_GAIN, PROBE_GAIN, LEAST_GAIN = 2.89, 1.25, 0.5
"""How much faster than its rate the line is tried, for a round; how much slower a queue makes the pace."""
HEADROOM = 0.97
"""How much of what the line took when it was overrun is used but for tries."""
DRAIN_RTTS = 2.5
"""RTTs in which a queue that is too long is to be worked off."""
PROBE_ROUNDS, TRIED_ROUNDS = 8, 2
"""Rounds from one try to the next, and to the next after one that found a higher rate."""
FOUND, FOUND_AGAIN = 1.1, 3
"""A try has found a higher rate if it is so many times the one before; after so many such in a row the search begins anew."""
SLACK = 0.002
"""Seconds added to the minimum RTT in the bound: wake-ups and clock steps."""
PACED_RTT, SHORT_GAIN = 0.002, 2.0
"""On lines with no larger RTT the bound alone does: what takes time there are processors, not the line, and their pace is finer
than timers are."""
BURST_SHARE, BURST_SECONDS = 0.125, 0.002
"""What was not sent for want of a wake-up may be made up for, as far as that is no longer ago than this share of the RTT, or this
time."""
LONGEST_PAUSE = 1.0
"""Seconds, or an RTT if that is more, for which the pace may hold back at the most: a rate can be learnt from very little."""
ROUND_SECONDS = 0.005
"""Rounds are RTTs, but not shorter."""
QUEUE_SHARE, QUEUE_SECONDS = 0.1, 0.002
"""The larger of this share of the RTT and this time, and the time that a shot takes, may stand in the queue."""
JITTER_SECONDS, JITTER_NEWS = 0.0005, 0.125
"""How far at least one sample may raise the jitter, and the weight of each."""
QUEUE_JITTER, JITTER_WINDOW = 1.5, 2.0
"""Where RTTs jitter the smallest of a round is longer by so many times that without any queue, and acks take so much longer."""
FULL_SHARE, FULL_SECONDS, FULL_JITTER, FULL_SAMPLES = 0.5, 0.005, 3.0, 8
"""The search for the rate ends when so many samples in a row are longer than the minimum RTT by the largest of these: a share of
it, seconds, a multiple of the jitter."""
FIRST_SAMPLES = 3
"""After so many of them, or one of a dial, no more is tried than what is known: a single ack may have been lost."""
ENOUGH_SHOTS = 6
"""A rate is known once so many payloads were delivered while one shot was under way, or as much as may be under way if that is
less."""
FLAT_ROUNDS, GROWTH = 3, 1.25
"""Or when the rate has not grown by this factor in so many rounds."""
STUBBORN, STUBBORN_RTTS, CONTEST_ROUNDS = 2.0, 4.0, 64
"""A queue that stays though this end has held back so many times what stood in it, and so many RTTs besides, is that of others:
for so many rounds it does not yield."""
STILL_ROUNDS, STILL_SHARE, LESS, TRUST_ROUNDS = 5, 0.2, 0.8, 64
"""A queue that has not changed by more than this share of it for so many rounds is tried with LEAST_GAIN. If no more than this
share of what arrived before arrives then, and it stands as it did, it is none: the line has become longer. Else it is tried again
after so many rounds, as each try costs a part of one."""
NEWS, RELAX = 0.25, 1.02
"""Where a queue stands, what is delivered in a round is the rate of the line: the weight of the newest of those averages. They
bound the rate, and this factor loosens the bound in each round without a queue."""
SLOW_RATE, LONGEST_WAIT = 32_000, 10.0
"""Bytes per second that a line is taken to carry at least until a whole payload has shown its rate, and the most seconds that
anything on it is waited for."""
RATE_SECONDS = 5.0
"""A rate that was measured longer ago says nothing of what is needed now."""
MIN_RATE_WINDOW, RATE_ROUNDS = 1.0, 10
"""Seconds over which the largest delivery rate counts, or RTTs if that is more."""
SMALLEST_SHARE, REGAIN = 0.05, 1.05
"""How far the bound is halved where the line is full, and what each ack gives back."""


class Congestion:
    """The line as one direction of a session finds it. Times in seconds, rates in bytes per second."""

    def __init__(self, size: PayloadSize, cap: float = 0.0, polite: bool = False) -> None:
        """`size`: that of payloads, which it tells what the line takes; `cap`: bytes per second that may be sent at most, 0 for
        any; `polite`: always yield."""
        self.size = size
        self.cap = Cap(cap, size)
        self.overrun = Overrun()
        """What bounds the rate where the queue is too short to be seen."""
        self.polite = polite
        self.rate = 0.0
        """Delivery rate: the largest of the recent samples; 0 while unknown."""
        self.min_rtt = 0.0
        """0 while unknown."""
        self.rtt = DEFAULT_RTT
        """The minimum RTT, or a guess."""
        self.queue = 0.0
        """How long the queue was at the least in the last round."""
        self.jitter = 0.0
        """By how much one connection takes longer or shorter to dial than the one before; what is far out counts little."""
        self.rounds = 0
        """How many there were."""
        self.opens_at = -inf
        """When the pace allows the next shot."""
        self.began_at = -inf
        """When a shot was sent while none was under way."""
        self._gain = STARTUP_GAIN
        self._pace = inf
        """Bytes per second; none before a rate is known."""
        self.starting = True
        """The rate is being looked for."""
        self._is_first = True
        """Nothing is known that speaks against what may be tried at first."""
        self._proved = 0
        """Bytes that arrived of that while at least half of it was used: it grows by them (as slow start, RFC 5681)."""
        self._min_rtt_before = self._min_rtt_now = inf
        """That of the span before and of the current one."""
        self._min_rtt_since = -inf
        self._round_at = 0.0
        self._round_rtt = inf
        self._round_rate = 0.0
        self._flat_rounds = 0
        self._last_rtt = 0.0
        self._long_samples = 0
        self._probe_in = 0
        self._untried = False
        """Payloads have grown, and no try has made a queue since: it is not known what the line carries in such."""
        self._found = 0
        """How many tries in a row have found a higher rate."""
        self._yielded = 0.0
        """What was not sent since the queue is too long, in seconds of the line's time."""
        self._longest = 0.0
        """The longest queue since then."""
        self._rate_before = 0.0
        """The rate before that."""
        self._contest = 0
        """Rounds for which this end goes on not to yield."""
        self._still = 0
        """Rounds for which a queue that is too long has not changed."""
        self._trusted = 0
        """Rounds for which any queue is taken for one."""
        self._stood = 0.0
        """How long it was at first."""
        self._stood_since = -inf
        self._stood_delivered = 0
        """When that was, and what was delivered by then."""
        self._arrived = 0.0
        """Bytes per second that arrived from then on, until it was tried."""
        self._share = 1.0
        self._under_way = 0
        self._delivered = 0
        self._delivered_at = 0.0
        self._first_sent_at = 0.0
        self._limited_until = -1
        self._most_delivered = 0
        """Bytes of the largest sample of the rate."""
        self._rates: deque[tuple[float, float]] = deque()
        self._ceiling = inf
        """What the rate is at most, by what was delivered while a queue stood."""
        self._round_began = 0.0
        self._round_delivered = 0
        self._marks: deque[tuple[float, int]] = deque([(0.0, 0)])
        """When the last rounds began, as many as a payload takes round trips, and what was delivered by then."""

    # ----------------------------------------------------------------------------- what was seen

    def sample_rtt(self, seconds: float, size: int, now: float) -> None:
        """It took so long until an answer to so many bytes came."""
        seconds = max(seconds, 1e-6)
        if now > self._min_rtt_since + MIN_RTT_SECONDS:
            self._min_rtt_before, self._min_rtt_now = self._min_rtt_now, inf
            self._min_rtt_since = now
        self._min_rtt_now = min(self._min_rtt_now, seconds)
        self.rtt = self.min_rtt = min(self._min_rtt_before, self._min_rtt_now)
        if self.size.flights_of(size) > 1:  # in part it waited for acks, not in the queue
            return
        if self.rate:
            seconds -= size / self.rate
        self._round_rtt = min(self._round_rtt, seconds)
        if not size:
            step = min(abs(seconds - self._last_rtt), 2 * self.jitter + JITTER_SECONDS)
            self.jitter += JITTER_NEWS * (step - self.jitter)
            self._last_rtt = seconds
        if self.starting:
            self._count_long(seconds - self.rtt, not size)

    def _count_long(self, queue: float, dialled: bool) -> None:
        """In start-up: leave it when the queue has grown long, if what the rate was taken of is enough to tell. `dialled`: the
        sample is that of a dial, which is not long for a lost segment."""
        long = queue > max(FULL_SHARE * self.rtt, FULL_SECONDS, FULL_JITTER * self.jitter)
        self._long_samples = self._long_samples + 1 if long else 0
        self._is_first &= not long or not dialled and self._long_samples < FIRST_SAMPLES
        if self._long_samples >= FULL_SAMPLES and self._most_delivered >= min(ENOUGH_SHOTS * self.size.bytes, self.window()):
            self._end_startup()

    def on_sent(self, shot: SentShot, under_way: int) -> None:
        """A shot goes; `under_way`: bytes that were before it."""
        now = shot.sent_at
        if not under_way:
            self._delivered_at = self._first_sent_at = self.began_at = now
        self._under_way = under_way
        shot.delivered = self._delivered
        shot.delivered_at = self._delivered_at
        shot.first_sent_at = self._first_sent_at
        shot.limited = self._delivered <= self._limited_until
        if 2 * shot.size > self.size.bytes:
            self.overrun.on_sent(shot)
        if self.rate and not self.is_short():
            free_at = max(self.opens_at, now - max(BURST_SHARE * self.rtt, BURST_SECONDS)) + shot.size / self._pace
            self.opens_at = min(free_at, now + max(self.rtt, LONGEST_PAUSE))

    def on_limited(self, under_way: int) -> None:
        """Not the line, but the program or want of carriers is what limits what is sent now."""
        self._limited_until = self._delivered + under_way

    def on_delivered(self, shot: SentShot, now: float) -> None:
        """Its ack came. The rate is that since the last delivery before it was sent, or of what was sent since then if that took
        longer (draft-cheng-iccrg-delivery-rate-estimation)."""
        self._share = min(1.0, self._share * REGAIN)
        self._delivered += shot.size
        if self._is_first and self._first_bytes() < 2 * self._under_way:
            self._proved += shot.size
        interval = max(now - shot.delivered_at, shot.sent_at - shot.first_sent_at, self.flight())
        self._delivered_at = now
        self._first_sent_at = max(self._first_sent_at, shot.sent_at)
        rate = (self._delivered - shot.delivered) / interval
        if rate >= self.rate or not shot.limited:
            self._most_delivered = max(self._most_delivered, self._delivered - shot.delivered)
            self._keep_rate(rate, now)
        if shot.round >= 0:
            self.overrun.on_delivered(shot, now)
        if now >= self._round_at:
            self._end_round(shot.limited, now)
        if self.overrun.has_news() and self._round_rtt < inf:
            self._heed_overrun(now)
        self._set_pace(now)

    def on_full(self) -> None:
        """Shots are lost since the line is full."""
        self._share = max(SMALLEST_SHARE, self._share / 2)

    # ------------------------------------------------------------------------- what follows of it

    def window(self) -> float:
        """Bytes that may be under way."""
        if not self.rate:
            bound = self._first_bytes()
        else:
            if self.is_short():
                return self._share * (SHORT_GAIN * self.rate * (self.rtt + SLACK) + 2 * self.size.bytes)
            gain = STARTUP_WINDOW if self.starting else CONTEST_GAIN if self._contest else CRUISE_GAIN
            held_up = min(self.queue, self.rtt) if self._contest else 0.0
            bound = gain * self.rate * (self.flight() + held_up + JITTER_WINDOW * self.jitter + SLACK) + 2 * self.size.bytes
            if self._is_first:
                bound = max(bound, self._first_bytes())
        return max(self.size.bytes, self._share * max(LEAST_SHOTS * self.size.bytes, bound))

    def _first_bytes(self) -> float:
        """What may be tried while nothing speaks against it."""
        first = min(max(LEAST_INITIAL, FIRST_RATE * self.rtt), MOST_INITIAL)
        return min(first + self._proved, FIRST_LIMIT)

    def rate_at(self, now: float) -> float:
        """The delivery rate; 0 when nothing was delivered of late."""
        return self.rate if now - self._delivered_at < RATE_SECONDS else 0.0

    def flight(self) -> float:
        """Seconds from sending a payload to its ack, without any queue."""
        return self.size.flights * self.rtt

    def takes(self, size: int) -> float:
        """Seconds from one end of the line to the other for so many bytes, but for the RTT, as far as its rate is known."""
        rate = self.rate if self._most_delivered >= self.size.bytes else max(self.rate, SLOW_RATE)
        return min(size / rate, LONGEST_WAIT)

    def takes_least(self) -> float:
        """The same for as many shots as may be under way on any line."""
        return self.takes(LEAST_SHOTS * self.size.bytes)

    def is_short(self) -> bool:
        """The line has so small an RTT that it is not paced."""
        return self.rtt <= PACED_RTT

    def _set_pace(self, now: float) -> None:
        """Follow rate and gain, with what is to be waited for at the old pace, too."""
        pace = self._gain * self.rate
        if self._gain <= 1.0:
            pace = min(pace, HEADROOM * self.overrun.limit)
        if self._is_first:
            pace = max(pace, self._first_bytes() / self.rtt)
        if self.opens_at > now:
            self.opens_at = now + min((self.opens_at - now) * self._pace / pace, max(self.rtt, LONGEST_PAUSE))
        self._pace = pace

    # ------------------------------------------------------------------------------------ rounds

    def _keep_rate(self, rate: float, now: float) -> None:
        rates = self._rates
        while rates and rates[-1][1] <= rate:
            rates.pop()
        rates.append((now, rate))
        oldest = now - max(RATE_ROUNDS * self.rtt, MIN_RATE_WINDOW)
        while rates[0][0] < oldest:
            rates.popleft()
        self.rate = min(rates[0][1], self._ceiling, self.overrun.limit)

    def _heed_overrun(self, now: float) -> None:
        """Go by what the line took if more was sent."""
        if self.overrun.judge(self._round_rtt - self.rtt, now):
            self.rate = self._round_rate = min(self.rate, self.overrun.limit)
            self._untried &= PROBE_GAIN * self.rate < self.overrun.limit
            if self.starting:
                self._end_startup()

    def _end_round(self, limited: bool, now: float) -> None:
        if self._round_rtt < inf:
            self.queue = max(0.0, self._round_rtt - self.rtt)
        self._round_rtt = inf
        self._round_at = now + max(self.rtt + min(self.queue, self.rtt), ROUND_SECONDS)
        self.rounds += 1
        if self.starting:
            self._look_for_end(limited)
        if not (self.starting or self.is_short()):
            shot = self.size.bytes / self.rate if self.rate else 0.0
            excess = self.queue - max(QUEUE_SHARE * self.rtt, QUEUE_SECONDS, shot, QUEUE_JITTER * self.jitter)
            self._bound_rate(excess > 0, now)
            if self._is_longer(excess, now):
                self._take_longer(now)
                excess = 0.0
            self._choose_gain(excess, now)
        self._choose_size(now)
        self._round_began, self._round_delivered = now, self._delivered
        if not self.is_short():
            self.overrun.begin_round(self.rate, self._gain > 1.0, self.rtt, self.queue, self.jitter, now)
        self._marks.append((now, self._delivered))
        while len(self._marks) > self.size.flights:
            self._marks.popleft()

    def _choose_size(self, now: float) -> None:
        """Let payloads follow. If they grow it was their size that held the search back, and it ends, or the line would overflow.
        The rate is bounded, as for a while more is delivered than the line carries: what is half there counts later."""
        arrived = (self._delivered - self._round_delivered) / max(now - self._round_began, self.rtt)
        flights = self.size.flights
        grown = self.size.follow(self.rate, arrived, self.rtt)
        if self.size.flights != flights:
            self.overrun.forget(now)
        if grown:
            self._ceiling = min(self._ceiling, PROBE_GAIN * self.rate)
            self._untried = True
            if self.starting:
                self._end_startup()

    def _bound_rate(self, stands: bool, now: float) -> None:
        began, delivered = self._marks[0]
        average = (self._delivered - delivered) / max(now - began, self.flight())
        if not stands or self._contest:
            self._ceiling = max(RELAX * self._ceiling, average)
        elif self._limited_until < self._round_delivered:
            self._ceiling = min(self._ceiling, self.rate)
            self._ceiling += NEWS * (average - self._ceiling)

    def _look_for_end(self, limited: bool) -> None:
        """Leave start-up when the rate has not grown for a while."""
        if self.rate > GROWTH * self._round_rate:
            self._flat_rounds = 0
            self._round_rate = self.rate
        elif not limited:
            self._flat_rounds += 1
        if self._flat_rounds >= FLAT_ROUNDS:
            self._end_startup()

    def _end_startup(self) -> None:
        self.starting = self._is_first = False
        self._round_rate = self._rate_before = self.rate
        self._probe_in = TRIED_ROUNDS
        self._gain = LEAST_GAIN

    def _choose_gain(self, excess: float, now: float) -> None:
        """How fast the next round goes: faster now and then, slower where a queue stands for too long."""
        self._notice_others(excess, now)
        self._probe_in -= 1
        found = self.rate > FOUND * self._round_rate
        tried = self._gain > 1.0
        if excess > 0 and not self._contest:
            doubted = self._still >= STILL_ROUNDS
            self._gain = LEAST_GAIN if doubted else max(LEAST_GAIN, 1.0 - excess / (DRAIN_RTTS * self.rtt))
            self._found = 0
            self._untried &= not tried  # else it is the queue that the search has left
        elif self._untried and self._probe_in <= 0:
            self._gain = PROBE_GAIN
        elif found or self._probe_in <= 0:
            # The longer payloads take the more do samples scatter, and the later is it known what a try has found.
            self._gain = 1.0 + (PROBE_GAIN - 1.0) / self.size.flights
            self._probe_in = PROBE_ROUNDS * self.overrun.patience
            self._round_rate = self.rate
            self._found = self._found + 1 if found else 0
            if self._found >= FOUND_AGAIN:
                self._search(now)
        else:
            self._gain = 1.0

    def _notice_others(self, excess: float, now: float) -> None:
        """See whether it is for others that a queue stands, as yielding does not end it; then take back what that has cost."""
        self._contest = max(0, self._contest - 1)
        if excess <= 0:
            self._yielded = self._longest = 0.0
            self._rate_before = self.rate
            return
        self._yielded += max(0.0, 1.0 - self._gain) * (now - self._round_began)
        self._longest = max(self._longest, self.queue, self._under_way / self.rate - self.flight())
        stays = self._yielded > STUBBORN * self._longest + STUBBORN_RTTS * self.rtt
        if stays and not (self.polite or self._still):
            self._contest, self._yielded = CONTEST_ROUNDS, 0.0
            self._regain_rate(now)

    def _is_longer(self, excess: float, now: float) -> bool:
        """See whether it is not a queue that stands, but the line that has become longer: then it stays as it is though less is
        sent, and less arrives. A polite end takes all for the queue of others."""
        self._trusted = max(0, self._trusted - 1)
        changed = abs(self.queue - self._stood) > max(QUEUE_SECONDS, QUEUE_JITTER * self.jitter, STILL_SHARE * self._stood)
        longer = False
        if excess > 0 and not (changed or self._trusted or self._contest or self.polite):
            self._still += 1
            if self._still == STILL_ROUNDS:
                self._arrived = (self._delivered - self._stood_delivered) / (now - self._stood_since)
            # Half of the rate lets a queue go by half a round in each; the round behind those shows it.
            if self._still < STILL_ROUNDS + 2 + int(self.queue / self.rtt):
                return False
            longer = (self._delivered - self._round_delivered) / (now - self._round_began) <= LESS * self._arrived
        if self._still >= STILL_ROUNDS and not longer:
            self._trusted = TRUST_ROUNDS
        self._still, self._stood = 0, self.queue
        self._stood_since, self._stood_delivered = now, self._delivered
        return longer

    def _take_longer(self, now: float) -> None:
        """Go by the RTT as it is now."""
        self.rtt = self.min_rtt = self._min_rtt_before = self._min_rtt_now = self.rtt + self.queue
        self._min_rtt_since = now
        self.queue = 0.0
        self._regain_rate(now)

    def _regain_rate(self, now: float) -> None:
        """Take back what yielding has cost, as it was in vain."""
        self._ceiling = inf
        self._keep_rate(self._rate_before, now)

    def _search(self, now: float) -> None:
        """The line carries far more than was known: look for its rate as at the start."""
        self.starting = True
        self._gain = STARTUP_GAIN
        self._found = self._flat_rounds = self._long_samples = 0
        self._ceiling = inf
        self.overrun.search(now)
