"""What is late on a path: quantiles of delays, the share of late shots, and how many twins and parity that asks for."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import combinations
from math import ceil, prod

import pytest
from account import Tallied, ack, ack_rebuilt, make
from hypothesis import given, settings
from hypothesis import strategies as st

from tcsplitter._core import Quantiles
from tcsplitter.acks import ack_delay
from tcsplitter.lateness import (
    CLEAN_SHARE,
    FAILED_COPIES,
    FAILED_STRIPES,
    FIRST_DOUBT,
    LATE_RTTS,
    LATE_SAMPLES,
    LATE_SLACK,
    LATE_SPREAD,
    MAX_TWINS,
    OUTLIER,
    OVERDUE_RTTS,
    OVERDUE_SLACK,
    OVERDUE_SPREAD,
    QUEUE_RTTS,
    QUEUE_SLACK,
    REFRESH_SAMPLES,
    SHARE_SAMPLES,
    SMALL_SAMPLES,
    SMALL_SHOT,
    USUAL_SAMPLES,
    Lateness,
)
from tcsplitter.recovery import LOST_MEMORY

RTT = 0.1
DELAY = ack_delay(RTT)
BUCKET = 2**0.125 * (1 + 1e-9)  # a quantile is rounded up by no more


# --- quantiles


def naive_quantile(samples: list[float], share: float, fade: int) -> float:
    """The smallest sample that enough of the weight does not exceed."""
    weights: list[tuple[float, float]] = []
    for sample in samples:
        weights.append((sample, 1.0))
        if sum(weight for _, weight in weights) > fade:
            weights = [(each, weight / 2) for each, weight in weights]
    wanted = share * sum(weight for _, weight in weights)
    for sample, weight in sorted(weights):
        wanted -= weight
        if wanted <= 0:
            return sample
    return 0.0


@pytest.mark.parametrize("fade", [2048, 8])
@given(
    samples=st.lists(st.floats(1e-6, 100.0), max_size=30),
    share=st.sampled_from([0.0625, 0.25, 0.5, 0.75, 0.9375]),
)
def test_quantiles_are_those_of_the_samples(fade: int, samples: list[float], share: float) -> None:
    quantiles = Quantiles(fade)
    for sample in samples:
        quantiles.add(sample)
    exact = naive_quantile(samples, share, fade)
    assert exact * (1 - 1e-9) <= quantiles.at(share) <= exact * BUCKET


@pytest.mark.parametrize(("sample", "found"), [(0.0, 2**0.125 * 1e-6), (-1.0, 2**0.125 * 1e-6), (1e9, 2.0**27 * 1e-6)])
def test_delays_out_of_all_reason_are_kept_at_the_ends(sample: float, found: float) -> None:
    quantiles = Quantiles()
    quantiles.add(sample)
    assert quantiles.at(1.0) == pytest.approx(found)


def test_old_delays_fade() -> None:
    quantiles = Quantiles()
    for seconds, count in [(1.0, 2000), (0.01, ceil(4.5 * 2048))]:
        for _ in range(count):
            quantiles.add(seconds)
    assert quantiles.at(0.95) < 0.02


# --- when a shot is late


def sampled(ages: Iterable[float], rtt: float = RTT, size: int = SMALL_SHOT + 1) -> Lateness:
    """What acks of these ages tell."""
    lateness = Lateness(rtt)
    for age in ages:
        lateness.sample(age, size, rtt, ack_delay(rtt))
    return lateness


@given(rtt=st.floats(1e-4, 5.0), ages=st.lists(st.floats(1e-4, 50.0), max_size=LATE_SAMPLES - 1))
def test_until_there_are_enough_acks_the_rtt_tells_what_is_late(rtt: float, ages: list[float]) -> None:
    lateness = sampled(ages, 1.0)
    lateness.begin(rtt)
    assert lateness.late_after == LATE_SPREAD * rtt + LATE_SLACK


@settings(max_examples=60)
@given(st.lists(st.floats(0.05, 5.0), min_size=LATE_SAMPLES, max_size=3 * LATE_SAMPLES))
def test_what_is_late_lies_between_the_rtt_and_the_slowest(ages: list[float]) -> None:
    lateness = sampled(ages)
    known = sorted(ages[: len(ages) // LATE_SAMPLES * LATE_SAMPLES])
    upper = known[ceil(0.75 * len(known)) - 1]
    assert LATE_RTTS * RTT <= lateness.late_after <= max(LATE_RTTS * RTT, min(known[-1], LATE_SPREAD * upper) * BUCKET)
    before = lateness.late_after
    lateness.begin(9.9)  # the RTT alone tells nothing any more
    assert lateness.late_after == before


def test_a_shot_is_late_beyond_the_95th_percentile() -> None:
    assert 0.5 <= sampled([0.5] * LATE_SAMPLES).late_after <= 0.5 * BUCKET


def test_dead_carriers_do_not_say_what_is_late() -> None:
    lateness = sampled([2.0 if i % 5 == 0 else 0.1 for i in range(LATE_SAMPLES)])
    assert lateness.delay.at(0.95) >= 2.0
    assert lateness.late_after <= LATE_SPREAD * 0.1 * BUCKET


# --- when the ack of a small shot is overdue


@given(rtt=st.floats(1e-4, 2.0), few=st.integers(0, SMALL_SAMPLES // 4 - 1), large=st.integers(0, 50))
def test_few_small_shots_say_nothing_about_their_acks(rtt: float, few: int, large: int) -> None:
    lateness = sampled([9.0] * large)
    for _ in range(few):
        lateness.sample(9.0, SMALL_SHOT, rtt, 0.0)
    assert lateness.overdue_after(rtt, 0.01) == OVERDUE_RTTS * rtt + 0.01 + OVERDUE_SLACK


@given(st.lists(st.floats(0.01, 2.0), min_size=SMALL_SAMPLES // 4, max_size=2 * SMALL_SAMPLES))
def test_the_recent_small_shots_say_when_an_ack_is_overdue(ages: list[float]) -> None:
    lateness = sampled(ages, size=SMALL_SHOT)
    limit = (lateness.overdue_after(RTT, DELAY) - OVERDUE_SLACK) / OVERDUE_SPREAD
    recent = ages[-SMALL_SAMPLES:]
    assert 0.75 * len(recent) - 1e-9 <= sum(age <= limit * (1 + 1e-9) for age in recent)
    assert sum(age < limit * (1 - 1e-9) for age in recent) <= 0.75 * len(recent)


# --- the share of late ones


def test_a_new_line_is_in_doubt_until_enough_was_seen_of_it() -> None:
    """In doubt means twins, not parity: what is not needed of those costs little."""
    lateness = Lateness(RTT)
    assert lateness.doubt == FIRST_DOUBT
    assert lateness.is_clean()
    assert not lateness.seems_clean()
    assert lateness.twins() > 1
    assert lateness.parity(10) == 0
    for _ in range(SHARE_SAMPLES):
        assert not lateness.seems_clean()
        lateness.count(False)
    for _ in range(2 * SHARE_SAMPLES):
        lateness.count(False)
    assert lateness.seems_clean()
    assert lateness.twins() == 1


def test_a_late_shot_is_no_reason_to_doubt_more() -> None:
    lateness, other = Lateness(RTT), Lateness(RTT)
    for late in [True, False, True] * 30:
        lateness.count(late)
        other.count(False)
    assert lateness.doubt == other.doubt < FIRST_DOUBT
    assert lateness.share + lateness.doubt < 2 / 3 + FIRST_DOUBT


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_share_comes_to_the_true_one(share: float, seed: int) -> None:
    rng = random.Random(seed)
    lateness = Lateness(RTT)
    seen = []
    for step in range(5000):
        lateness.count(rng.random() < share)
        if step >= 1000:
            seen.append(lateness.share)
    # It keeps wavering like the mean of some 2 * SHARE_SAMPLES shots.
    deviation = (share * (1 - share) / (2 * SHARE_SAMPLES)) ** 0.5
    assert sum(seen) / len(seen) == pytest.approx(share, abs=0.5 * deviation + 0.005)
    assert max(abs(each - share) for each in seen) < 5 * deviation + 0.005


@given(st.lists(st.booleans(), max_size=300))
def test_the_share_is_a_share(late: list[bool]) -> None:
    lateness = Lateness(RTT)
    for each in late:
        before = lateness.share
        lateness.count(each)
        assert 0.0 <= lateness.share <= 1.0
        assert (lateness.share >= before) if each else (lateness.share <= before)


def test_old_shots_fade() -> None:
    lateness = Lateness(RTT)
    for late in [True] * 1000 + [False] * 5 * SHARE_SAMPLES:
        lateness.count(late)
    assert lateness.share < 0.01


# --- which shots count as late


def tell(plan: list[tuple[str, int, float]]) -> list[bool]:
    """What is counted where shots were sent 10 ms apart on a line with an RTT of 100 ms."""
    account = make(10, step=0.01)
    account.lateness = tallied = Tallied()
    account.sample_rtt(RTT, 0.0)
    for what, number, at in plan:
        if what == "ack":
            ack(account, number, number, at, answered=0, delay=at - RTT)
        elif what == "rebuilt":
            ack_rebuilt(account, number, number, at)
        elif what == "forget":
            account.forget_lost(at)
        else:
            account.lose(number, what == "time", at)
    return tallied.told


OVERTAKEN = ("ack", 1, 0.11)
LATE = OUTLIER * (RTT + DELAY) + 0.01


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ([("ack", 0, 0.1), OVERTAKEN], [False, False]),
        ([OVERTAKEN, ("ack", 0, 0.12)], [False, False]),  # overtaken, but not by much
        ([OVERTAKEN, ("ack", 0, LATE)], [False, True]),
        ([("ack", 0, LATE), ("ack", 1, LATE)], [False, False]),  # all late: that is a full line
        ([("death", 0, 0.1)], [True]),
        ([("time", 0, 1.0)], []),  # nobody knows
        ([OVERTAKEN, ("time", 0, 1.0)], [False, True]),
        ([OVERTAKEN, ("time", 0, 1.0), ("ack", 0, 1.5)], [False, True]),
        ([("rebuilt", 0, 0.2)], []),
        ([OVERTAKEN, ("rebuilt", 0, 0.12), ("ack", 0, 0.13)], [False, False]),
        ([OVERTAKEN, ("rebuilt", 0, 0.12), ("ack", 0, LATE)], [False, True]),
        ([("rebuilt", 0, 0.2), ("death", 0, 0.3)], [True]),
        ([("rebuilt", 0, 0.2), ("death", 0, 0.3), ("ack", 0, 0.4)], [True]),
        ([("rebuilt", 0, 0.2), ("forget", 0, 0.3 + LOST_MEMORY)], [True]),
        ([("rebuilt", 0, 0.2), ("death", 0, 0.3), ("forget", 0, 0.3 + LOST_MEMORY)], [True]),
    ],
)
def test_what_counts_as_late(plan: list[tuple[str, int, float]], told: list[bool]) -> None:
    assert tell(plan) == told


def test_what_one_ack_says_together_does_not_overtake_itself() -> None:
    account = make(10, step=0.01)
    account.lateness = tallied = Tallied()
    account.sample_rtt(RTT, 0.0)
    ack(account, 0, 9, 5.0, answered=9, delay=4.8)
    assert tallied.told == [False] * 10


def test_what_is_usual_on_the_path_is_not_late() -> None:
    lateness = sampled([RTT] * USUAL_SAMPLES)
    assert lateness.sample(2 * RTT, SMALL_SHOT, RTT, DELAY)
    lateness = sampled([2 * RTT] * USUAL_SAMPLES)
    assert not lateness.sample(2.5 * RTT, SMALL_SHOT, RTT, DELAY)
    assert lateness.sample(2 * RTT * OUTLIER * BUCKET + 0.001, SMALL_SHOT, RTT, DELAY)


# --- queues

QUEUED = QUEUE_RTTS * RTT + DELAY + QUEUE_SLACK


@settings(max_examples=200)
@given(st.lists(st.lists(st.floats(0.01, 1.0), min_size=REFRESH_SAMPLES, max_size=REFRESH_SAMPLES), max_size=6))
def test_a_queue_makes_all_late(batches: list[list[float]]) -> None:
    lateness = Lateness(RTT)
    for batch in batches:
        before = lateness.queueing
        for age in batch[:-1]:
            lateness.sample(age, SMALL_SHOT, RTT, DELAY)
            assert lateness.queueing == before
        lateness.sample(batch[-1], SMALL_SHOT, RTT, DELAY)
        assert lateness.queueing == (min(batch) > QUEUED)


@pytest.mark.parametrize(("age", "queueing"), [(QUEUED - 1e-6, False), (QUEUED + 1e-6, True)])
def test_queueing_begins_and_ends(age: float, queueing: bool) -> None:
    lateness = sampled([age] * REFRESH_SAMPLES)
    assert lateness.queueing == queueing
    for _ in range(REFRESH_SAMPLES):
        lateness.sample(RTT, SMALL_SHOT, RTT, DELAY)
    assert not lateness.queueing


@pytest.mark.parametrize("flights", [1, 2, 4])
def test_the_round_trips_of_a_large_shot_are_no_queue(flights: int) -> None:
    lateness = Lateness(RTT)
    for age, queueing in ((flights * RTT, False), ((flights + 2) * RTT, True)):
        for _ in range(REFRESH_SAMPLES):
            lateness.sample(age, 100_000, RTT, DELAY, flights)
        assert lateness.queueing == queueing


def test_what_a_queue_makes_late_is_not_counted() -> None:
    lateness = sampled([10 * RTT] * REFRESH_SAMPLES)
    before = lateness.share
    for late in [True] * 50 + [False] * 50:
        lateness.count(late)
        assert lateness.share == before
    for _ in range(REFRESH_SAMPLES):
        lateness.sample(RTT, SMALL_SHOT, RTT, DELAY)
    lateness.count(True)
    assert lateness.share > before


# --- how much repair that is worth


def with_share(share: float) -> Lateness:
    lateness = Lateness(RTT)
    lateness.doubt, lateness.share = 0.0, share
    return lateness


def more_than(most: int, count: int, share: float) -> float:
    """Probability that more than so many of `count` shots are late, each way in which that can happen taken by itself."""
    return sum(
        prod(share if shot in late else 1 - share for shot in range(count))
        for number in range(most + 1, count + 1)
        for late in combinations(range(count), number)
    )


def least(fails: Callable[[int], float], start: int, most: int, limit: float) -> int:
    """The first number from `start` on that fails rarely enough, or the last one possible."""
    return next((number for number in range(start, most) if fails(number) <= limit), most)


@settings(max_examples=40)
@given(share=st.floats(CLEAN_SHARE, 1.0), data=st.integers(1, 5))
def test_so_much_parity_that_stripes_rarely_fail(share: float, data: int) -> None:
    expected = least(lambda parity: more_than(parity, data + parity, share), 0, max(data, 2), FAILED_STRIPES)
    assert with_share(share).parity(data) == expected


@given(share=st.floats(0.0, 1.0), data=st.integers(1, 200))
def test_parity_is_bounded_and_grows_with_the_share(share: float, data: int) -> None:
    parity = with_share(share).parity(data)
    assert 0 <= parity <= max(data, 2)
    assert parity <= with_share(min(1.0, share + 0.05)).parity(data)


@given(share=st.floats(0.0, 1.0))
def test_so_many_twins_that_hardly_ever_all_are_late(share: float) -> None:
    assert with_share(share).twins() == least(lambda twins: share ** (twins + 1), 1, MAX_TWINS, FAILED_COPIES)


def test_a_clean_line_gets_one_twin_and_no_parity() -> None:
    lateness = Lateness(RTT)
    for _ in range(2000):
        lateness.count(lateness.sample(RTT, SMALL_SHOT, RTT, DELAY))
    assert lateness.share < CLEAN_SHARE
    assert lateness.twins() == 1
    assert {lateness.parity(data) for data in range(1, 50)} == {0}


@pytest.mark.parametrize(("share", "some"), [(0.99 * CLEAN_SHARE, False), (0.05, True)])
def test_the_share_below_which_a_line_is_clean(share: float, some: bool) -> None:
    assert (with_share(share).parity(10) > 0) == some


def test_no_parity_where_a_queue_makes_shots_late() -> None:
    lateness = with_share(0.2)
    assert lateness.parity(10) > 0
    for _ in range(REFRESH_SAMPLES):
        lateness.sample(10 * RTT, SMALL_SHOT, RTT, DELAY)
    assert lateness.parity(10) == 0
