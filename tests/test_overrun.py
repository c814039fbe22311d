"""Lines whose queue is too short to be seen: what they drop is noticed, and told from what is lost at any pace."""

from __future__ import annotations

from math import inf

import pytest
from account import SIZE, shot
from dropping import DroppingPath
from queueing import Path

from tcsplitter.overrun import LEAST_SHOTS, MOST_PATIENCE, STUBBORN, Overrun
from tcsplitter.payload import LARGE, SMALL
from tcsplitter.shots import SentShot

MBIT = 125_000.0
RTT, SHOTS = 0.1, 40
RATE = SHOTS * SIZE / RTT
seeds = pytest.mark.parametrize("seed", range(3))


# --- on a line


@seeds
@pytest.mark.parametrize(("rate", "rtt", "room"), [(46, 0.06, 60_000), (46, 0.06, 30_000), (93, 0.04, 100_000)], ids=str)
def test_a_short_queue_is_not_overrun(rate: float, rtt: float, room: int, seed: int) -> None:
    path = DroppingPath(rate * MBIT, rtt, SIZE, room, seed=seed)
    path.run(2)
    since, wire = path.now, path.wire
    path.run(6)
    carried = path.throughput(since) * 6
    assert carried > 0.88 * 6 * rate * MBIT
    assert path.wire - wire < 1.13 * carried


@seeds
@pytest.mark.parametrize("loss", [0.01, 0.03, 0.05])
def test_what_is_lost_at_any_pace_costs_nothing(loss: float, seed: int) -> None:
    path = DroppingPath(20 * MBIT, 0.15, SIZE, 375_000, loss, seed)
    path.run(2)
    since = path.now
    path.run(8)
    assert path.throughput(since) > 0.95 * (1 - loss) * path.rate


@seeds
def test_loss_that_begins_later_costs_a_moment(seed: int) -> None:
    path = DroppingPath(20 * MBIT, 0.1, SIZE, 250_000, 0.0, seed)
    path.run(4)
    path.loss = 0.04
    path.run(6)
    since = path.now
    path.run(6)
    assert path.throughput(since) > 0.9 * (1 - path.loss) * path.rate


def test_a_line_that_gets_faster_is_found_though_it_was_overrun() -> None:
    path = DroppingPath(46 * MBIT, 0.06, SIZE, 40_000)
    path.run(4)
    assert path.congestion.overrun.limit < inf
    path.rate *= 2
    path.run(8)
    since = path.now
    path.run(4)
    assert path.throughput(since) > 0.85 * path.rate


@seeds
@pytest.mark.parametrize(("rate", "rtt", "room"), [(300, 0.08, 500_000), (500, 0.04, 800_000)], ids=str)
def test_payloads_that_have_grown_do_not_overrun_a_short_queue_either(rate: float, rtt: float, room: int, seed: int) -> None:
    path = DroppingPath(rate * MBIT, rtt, SMALL, room, seed=seed, grows=True)
    path.run(2)
    assert path.size == LARGE
    since = path.now
    path.run(4)
    assert path.throughput(since) > 0.87 * path.rate


def test_what_small_payloads_told_is_forgotten_when_they_grow() -> None:
    path = Path(300 * MBIT, 0.08, SMALL, jitter=0.002, fresh=True, grows=True)
    while path.size == SMALL:
        path.congestion.overrun.limit, path.congestion.overrun.patience = 2 * path.rate, 2
        path.run(0.001)
    assert path.congestion.overrun.limit == inf
    assert path.congestion.overrun.patience == 1


# --- by hand


class Hand:
    """Rounds of as many shots as the line is thought to take; so many of each are acknowledged late."""

    def __init__(self, size: int = SIZE) -> None:
        self.overrun = Overrun()
        self.now = 0.0
        self.queue = 0.0
        self.rate = SHOTS * size / RTT
        self._size = size
        self.overrun.begin_round(self.rate, False, RTT, 0.0, 0.0, 0.0)

    def send(self, late: int, shots: int = SHOTS, tries: bool = False) -> bool:
        """One round, and what is said of it."""
        sent = self.begin(shots, tries)
        for each in sent[late:]:
            self.overrun.on_delivered(each, self.now)
        self.overtake()
        found = self.overrun.judge(0.0, self.now)
        for each in sent[:late]:
            self.overrun.on_delivered(each, self.now)
        return found

    def begin(self, shots: int = SHOTS, tries: bool = False) -> list[SentShot]:
        """What is sent in a round, which is over then."""
        self.overrun.begin_round(self.rate, tries, RTT, self.queue, 0.0, self.now)
        sent = [shot(number, self.now, self._size) for number in range(shots)]
        for each in sent:
            self.overrun.on_sent(each)
        self.now += RTT
        self.overrun.on_delivered(shot(1_000, self.now - RTT), self.now)  # acks come meanwhile
        self.overrun.begin_round(self.rate, False, RTT, self.queue, 0.0, self.now)
        return sent

    def overtake(self, after: float = RTT) -> None:
        """A shot arrives that was sent so much later than now."""
        self.now += after
        self.overrun.on_delivered(shot(1_000, self.now), self.now)


def begun(usual: int = 0, size: int = SIZE) -> Hand:
    """Some rounds have told what is usual."""
    hand = Hand(size)
    for _ in range(5):
        assert not hand.send(usual)
    return hand


@pytest.mark.parametrize("usual", [0, 2, 12, 30])
def test_what_is_usual_is_no_overrun(usual: int) -> None:
    hand = begun(usual)
    for _ in range(20):
        assert not hand.send(usual)
    assert hand.overrun.limit == inf


@pytest.mark.parametrize("usual", [0, 2, 12])
def test_much_more_than_usual_bounds_the_rate_by_what_must_have_passed(usual: int) -> None:
    hand = begun(usual)
    assert hand.send(usual + 20)
    segments = SIZE / 1_448
    passed = ((SHOTS - usual - 20) / (SHOTS - usual)) ** (1 / segments)
    assert hand.overrun.limit == pytest.approx(passed * RATE, rel=0.01)


def test_nothing_is_judged_before_anything_is_usual() -> None:
    hand = Hand()
    assert not hand.send(SHOTS)
    assert hand.overrun.limit == inf


def test_few_shots_tell_nothing() -> None:
    hand = begun()
    assert not hand.send(LEAST_SHOTS - 1, shots=LEAST_SHOTS - 1)


def test_who_sends_less_than_the_line_takes_does_not_overrun_it() -> None:
    hand = begun()
    assert not hand.send(SHOTS // 2, shots=SHOTS // 2)
    assert hand.overrun.limit == inf


def test_a_queue_that_is_seen_is_left_to_others() -> None:
    hand = begun()
    hand.queue = RTT
    assert not hand.send(SHOTS)
    assert hand.overrun.limit == inf


def test_a_queue_that_grows_within_a_round_is_waited_for() -> None:
    hand = begun()
    overrun = hand.overrun
    hand.begin()
    hand.overtake()
    assert not overrun.judge(RTT, hand.now)
    overrun.begin_round(RATE, False, RTT, RTT, 0.0, hand.now)
    assert not overrun.judge(0.0, hand.now)
    assert overrun.limit == inf


@pytest.mark.parametrize(("behind", "overruns"), [(0.4, False), (1.0, True)])
def test_what_those_overtake_that_left_half_an_rtt_later_has_lost_something(behind: float, overruns: bool) -> None:
    """However late all of them are: where a machine pauses all wait."""
    hand = begun()
    sent = hand.begin()
    for each in sent[::2]:
        hand.overrun.on_delivered(each, hand.now)
    hand.overrun.on_delivered(shot(1_000, sent[0].sent_at + behind * RTT), hand.now)
    for each in sent[1::2]:
        hand.overrun.on_delivered(each, hand.now)
    hand.overtake()
    assert hand.overrun.judge(0.0, hand.now) is overruns


def test_nothing_is_judged_before_what_was_sent_later_arrives() -> None:
    hand = begun()
    sent = hand.begin()
    hand.overrun.on_delivered(sent[-1], hand.now)
    assert not hand.overrun.has_news()
    assert not hand.overrun.judge(0.0, hand.now)
    hand.overtake()
    assert hand.overrun.has_news()
    assert hand.overrun.judge(0.0, hand.now)


def test_a_line_that_fell_silent_was_not_overrun() -> None:
    """What was lost meanwhile comes later than what is sent afterwards."""
    hand = begun()
    hand.begin()
    hand.overtake(5.0)
    assert hand.overrun.has_news()
    assert not hand.overrun.judge(0.0, hand.now)
    assert hand.send(SHOTS)


def test_what_was_under_way_when_a_search_began_tells_nothing() -> None:
    """What the search sends delays it."""
    hand = begun()
    hand.begin()
    hand.overrun.search(hand.now)
    hand.overtake()
    assert not hand.overrun.judge(0.0, hand.now)
    hand.begin()
    hand.overtake()
    assert hand.overrun.judge(0.0, hand.now)


def test_rounds_in_which_nothing_was_sent_are_forgotten() -> None:
    hand = begun()
    for _ in range(20):
        hand.begin(0)
    assert hand.send(SHOTS)


def test_what_was_sent_before_a_reduction_does_not_count_again() -> None:
    hand = begun()
    began = hand.now
    for _ in range(3):
        hand.begin()
    hand.overrun.on_delivered(shot(1_000, began + 2 * RTT), hand.now)
    assert hand.overrun.judge(0.0, hand.now)
    limit = hand.overrun.limit
    hand.overtake()
    assert hand.overrun.has_news()
    assert not hand.overrun.judge(0.0, hand.now)
    assert not hand.overrun.has_news()
    assert hand.overrun.limit == limit


def test_loss_that_stays_though_less_is_sent_becomes_usual_and_gives_the_rate_back() -> None:
    hand = begun()
    for number in range(STUBBORN):
        assert hand.send(25)
        assert (hand.overrun.limit == inf) == (number == STUBBORN - 1)
    for _ in range(5):
        assert not hand.send(25)


def test_loss_that_ends_when_less_is_sent_keeps_the_limit() -> None:
    hand = begun()
    hand.send(25)
    limit = hand.overrun.limit
    for _ in range(5):
        hand.send(0, shots=SHOTS // 2)
    assert limit <= hand.overrun.limit < 1.05 * limit


def test_a_try_that_lost_makes_the_next_wait_until_one_has_not() -> None:
    hand = begun()
    patience = []
    for _ in range(6):
        hand.send(25, tries=True)
        patience.append(hand.overrun.patience)
    assert patience == [2, 4, 8, 8, 8, 8]
    assert patience[-1] == MOST_PATIENCE
    hand.send(0, tries=True)
    assert hand.overrun.patience == 1


# --- after loss that has passed


@pytest.mark.parametrize("shots", [8, 11, 14])
@pytest.mark.parametrize("seed", range(8))
def test_a_burst_of_loss_is_forgotten_where_a_round_trip_holds_few_payloads(shots: int, seed: int) -> None:
    path = DroppingPath(shots * SIZE / 0.03, 0.03, SIZE, 8 * SIZE, seed=seed)
    path.run(2.5)
    path.loss = 0.2
    path.run(0.3)
    path.loss = 0.0
    path.run(20)
    since = path.now
    path.run(5)
    assert path.throughput(since) > 0.85 * path.rate


@pytest.mark.parametrize("size", [1, 100, 500, 1_448, 10_000])
def test_no_round_lowers_the_limit_below_what_arrived_in_time(size: int) -> None:
    """A payload is a segment at the least, however small it is."""
    hand = begun(size=size)
    assert hand.send(33)
    sent = hand.rate
    assert (SHOTS - 33) / SHOTS * sent * 0.99 < hand.overrun.limit < sent


def test_rounds_of_few_payloads_raise_the_limit_if_all_are_in_time() -> None:
    hand = begun()
    assert hand.send(33)
    low = hand.overrun.limit
    few = LEAST_SHOTS - 1
    hand.send(1, shots=few)
    assert hand.overrun.limit == low
    for _ in range(500):
        assert not hand.send(0, shots=few)
    assert hand.overrun.limit > 2 * low
    hand.overrun.limit = 1.0
    hand.send(0, shots=few)
    assert hand.overrun.limit >= few / SHOTS * hand.rate


def test_what_was_under_way_when_payloads_changed_is_not_judged() -> None:
    hand = begun()
    hand.overrun.begin_round(hand.rate, False, RTT, 0.0, 0.0, hand.now)
    for number in range(SHOTS):
        hand.overrun.on_sent(shot(number, hand.now))
    hand.now += RTT
    hand.overrun.forget(hand.now)
    hand.overrun.begin_round(hand.rate, False, RTT, 0.0, 0.0, hand.now)
    assert not hand.overrun.judge(0.0, hand.now + 4 * RTT)
    assert hand.overrun.limit == inf
    hand.now += 4 * RTT
    assert not hand.send(SHOTS)  # what is usual is to be learnt anew
    assert hand.overrun.limit == inf
