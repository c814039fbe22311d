"""How fast to send: the rate of a line, its queue, the bound and the pace, on a model of a line and by hand."""

from __future__ import annotations

from itertools import pairwise
from math import inf, log2

import pytest
from account import SIZE, ack, make, shot
from dropping import DroppingPath
from hypothesis import given
from hypothesis import strategies as st
from queueing import Path

from tcsplitter.congestion import (
    DEFAULT_RTT,
    ENOUGH_SHOTS,
    FIRST_RATE,
    FULL_SAMPLES,
    LEAST_INITIAL,
    LEAST_SHOTS,
    MIN_RATE_WINDOW,
    MIN_RTT_SECONDS,
    MOST_INITIAL,
    PACED_RTT,
    RATE_SECONDS,
    REGAIN,
    SLACK,
    SMALLEST_SHARE,
    Congestion,
)
from tcsplitter.payload import LARGE, SMALL, PayloadSize
from tcsplitter.recovery import Recovery

MBIT = 125_000.0

LINES = [
    (rate * MBIT, rtt, size)
    for rate, rtt, size in [
        (1, 0.001, 1_300),
        (1, 0.05, 1_300),
        (1, 0.3, 10_000),
        (8, 0.02, 10_000),
        (8, 0.3, 1_300),
        (10, 0.005, 65_536),
        (50, 0.001, 10_000),
        (50, 0.03, 10_000),
        (50, 0.15, 65_536),
        (100, 0.01, 10_000),
        (200, 0.08, 65_536),
        (400, 0.003, 10_000),
        (1_000, 0.001, 65_536),
        (1_000, 0.02, 65_536),
        (1_000, 0.1, 65_536),
        (1_000, 0.3, 262_144),
    ]
]
lines = pytest.mark.parametrize(("rate", "rtt", "size"), LINES, ids=str)


def span(path: Path, rounds: float) -> float:
    """So many RTTs, rounds or shots, whichever take longest."""
    return rounds * max(path.rtt, 0.005, path.size / path.rate)


def started(rate: float, rtt: float, size: int, jitter: float = 0.0, seed: int = 1, fresh: bool = False) -> Path:
    """A line whose rate is found, and on which what was sent to find it has been worked off."""
    path = Path(rate, rtt, size, jitter, seed, fresh)
    path.run(4 * MOST_INITIAL / rate + span(path, 60))
    return path


# --- a steady line


@lines
def test_the_rate_of_a_steady_line_is_found_and_used(rate: float, rtt: float, size: int) -> None:
    path = started(rate, rtt, size)
    since = path.now
    path.run(span(path, 40))
    assert path.congestion.rate == pytest.approx(rate, rel=0.1)
    assert path.throughput(since) > 0.9 * rate


@pytest.mark.parametrize(("rate", "rtt", "size"), [line for line in LINES if line[1] > PACED_RTT and line[2] <= 65_536], ids=str)
def test_payloads_that_take_several_round_trips_find_the_rate_as_well(rate: float, rtt: float, size: int) -> None:
    path = started(rate, rtt, size, fresh=True)
    since = path.now
    path.run(span(path, 40))
    assert path.congestion.rate == pytest.approx(rate, rel=0.15)
    assert path.throughput(since) > 0.85 * rate


@given(st.floats(0, 3), st.floats(-3, -0.6), st.sampled_from([1_300, 10_000, 65_536]), st.integers(0, 99))
def test_whatever_the_line_its_rate_is_found_and_used(power: float, rtt: float, size: int, seed: int) -> None:
    rate = 10**power * MBIT
    size = max(size, int(rate * 10**rtt / 200))  # fewer shots, for time's sake
    path = started(rate, 10**rtt, size, 0.02, seed)
    since = path.now
    path.run(span(path, 30))
    assert path.congestion.rate == pytest.approx(rate, rel=0.15)
    assert path.throughput(since) > 0.85 * rate


@pytest.mark.parametrize(("rate", "rtt", "size"), [line for line in LINES if line[1] > PACED_RTT], ids=str)
def test_the_queue_stays_short(rate: float, rtt: float, size: int) -> None:
    """Half an RTT, what two shots take, or what timers and rounds are too coarse for."""
    path = started(rate, rtt, size)
    since = path.now
    path.run(span(path, 40))
    assert path.queue(since) < max(0.6 * rtt, 2 * size / rate, 0.003)


@pytest.mark.parametrize("seed", range(3))
@lines
def test_jitter_costs_little(rate: float, rtt: float, size: int, seed: int) -> None:
    if rate * rtt > 600 * size and seed:
        pytest.skip("many shots take long, and differ little")
    path = started(rate, rtt, size, 1 / 6, seed)
    since = path.now
    path.run(span(path, 40))
    assert path.throughput(since) > 0.85 * rate
    assert path.queue(since) < max(rtt, 3 * size / rate, 0.01)


# --- start-up


@lines
def test_the_search_for_the_rate_ends(rate: float, rtt: float, size: int) -> None:
    path = Path(rate, rtt, size)
    assert path.congestion.starting
    path.run(span(path, 15))
    assert not path.congestion.starting
    path.run(4 * MOST_INITIAL / rate)
    assert path.congestion.rate > 0.8 * rate


@pytest.mark.parametrize(("rate", "rtt", "size"), [line for line in LINES if line[0] * line[1] > 2 * MOST_INITIAL], ids=str)
def test_start_up_takes_few_rtts(rate: float, rtt: float, size: int) -> None:
    """It grows by a factor each RTT, so how many are needed depends on how much the line takes."""
    path = Path(rate, rtt, size)
    path.run_rtts(3 + 2 * log2(rate * rtt / MOST_INITIAL))
    since = path.now
    path.run_rtts(3)
    assert path.throughput(since) > 0.8 * rate


@pytest.mark.parametrize(("rate", "rtt", "since"), [(200, 0.12, 1.5), (300, 0.08, 1.0)])
def test_a_line_is_tried_at_once_when_payloads_have_grown(rate: float, rtt: float, since: float) -> None:
    """What the search with small ones leaves in the queue is no sign that the line takes no more of large ones."""
    path = Path(rate * MBIT, rtt, SMALL, jitter=0.002, fresh=True, grows=True)
    path.run(since)
    assert path.size == LARGE
    path.run(1.0)
    assert path.throughput(since) > 0.96 * path.rate


def test_start_up_goes_on_while_the_rate_grows() -> None:
    account = make()
    account.sample_rtt(0.1, 0.0)
    now, number = 0.0, 0
    windows = []
    for growth in range(6):
        first = number
        for _ in range(2**growth):
            account.on_sent(shot(number, now))
            number += 1
        now += 0.1
        ack(account, first, number - 1, now)
        assert account.congestion.starting
        windows.append(account.congestion.window())
    assert account.congestion.rate == pytest.approx(2**5 * SIZE / 0.1)
    assert windows == sorted(windows)
    assert windows[-1] > 2**5 * SIZE


def test_a_queue_ends_the_search_on_a_slow_line_when_all_that_may_be_under_way_has_arrived() -> None:
    """There would never be as much as tells the rate of other lines."""
    account = make(LEAST_SHOTS)
    account.dialled(0.1, 0.0)
    ack(account, 0, LEAST_SHOTS - 1, 2.0)
    for number in range(FULL_SAMPLES - 1):  # the ack was a long sample too
        assert account.congestion.starting
        account.dialled(1.0, 2.0 + 0.1 * number)
    assert not account.congestion.starting


@pytest.mark.parametrize("delivered", [2, ENOUGH_SHOTS - 1, ENOUGH_SHOTS])
def test_a_queue_ends_the_search_only_when_enough_has_arrived_to_tell_a_rate(delivered: int) -> None:
    """The first shots leave all at once when the first carriers are there, and the dials after them wait behind them."""
    account = make(ENOUGH_SHOTS)
    account.dialled(0.04, 0.0)
    ack(account, 0, delivered - 1, 0.06)
    for number in range(2 * FULL_SAMPLES):
        account.dialled(0.07, 0.07 + 0.001 * number)
    assert account.congestion.starting == (delivered < ENOUGH_SHOTS)


def test_others_that_keep_the_queue_full_end_the_search() -> None:
    path = Path(10 * MBIT, 0.02, 1_300)
    path.run_rtts(1)
    path.foreign = 0.04
    path.run_rtts(15)
    assert not path.congestion.starting


@pytest.mark.parametrize(("foreign", "offered"), [(0.03, 0.1), (0.1, 0.1)])
def test_others_that_fill_the_queue_from_the_start_leave_a_rate(foreign: float, offered: float) -> None:
    """Even if there was no round without a queue, of which the rate could be taken back, and the program says little."""
    path = Path(10 * MBIT, 0.02, 10_000)
    path.run_rtts(2)
    path.foreign = foreign
    while path.congestion.starting:
        path.run_rtts(1)
    path.offer(offered * path.rate)
    for _ in range(500):
        path.run_rtts(1)
        assert path.congestion.rate > 0.0


@pytest.mark.parametrize("age", [0.3, 3.0, 100.0])
@pytest.mark.parametrize("size", [100, 10_000, 65_536])
def test_a_program_that_says_little_does_not_end_the_search(size: int, age: float) -> None:
    account = Recovery(PayloadSize(size))
    account.dialled(0.1, 0.0)
    for number in range(100):
        now = number * (age + 1.0)
        account.congestion.on_limited(account.under_way())
        account.on_sent(shot(number, now, 36))
        ack(account, number, number, now + 0.1)
    assert account.congestion.starting


# --- a line that changes


@pytest.mark.parametrize("factor", [0.5, 2.0])
@lines
def test_a_line_that_gets_slower_or_faster_is_followed(rate: float, rtt: float, size: int, factor: float) -> None:
    path = started(rate, rtt, size)
    path.rate *= factor
    path.run(span(path, 60) + MIN_RATE_WINDOW)
    since = path.now
    path.run(span(path, 20))
    assert path.congestion.rate == pytest.approx(path.rate, rel=0.2)
    assert path.throughput(since) > 0.85 * path.rate
    assert path.queue(since) < max(rtt, 3 * size / path.rate, 0.01)


LONGER = [(5, 0.05, 1_300), (20, 0.3, 10_000), (50, 0.1, 10_000), (100, 0.04, 10_000), (300, 0.08, 65_536)]
longer = pytest.mark.parametrize(("rate", "rtt", "size"), [(rate * MBIT, rtt, size) for rate, rtt, size in LONGER], ids=str)


@pytest.mark.parametrize("factor", [1.13, 1.2, 1.5, 2.5])
@longer
def test_a_line_that_becomes_longer_carries_as_much(rate: float, rtt: float, size: int, factor: float) -> None:
    """What it takes longer is no queue: holding back would not shorten it."""
    path = started(rate, rtt, size, 0.02)
    path.rtt *= factor
    path.run_rtts(20)
    since = path.now
    path.run_rtts(40)
    assert path.throughput(since) > 0.9 * rate
    assert path.queue(since) < max(0.6 * path.rtt, 3 * size / rate)


@given(st.floats(0.5, 2.5), st.floats(-1.7, -0.6), st.floats(1, 4), st.floats(0, 0.1), st.integers(0, 99))
def test_whatever_becomes_of_a_line_its_rate_is_used(power: float, rtt: float, factor: float, jitter: float, seed: int) -> None:
    rate = 10**power * MBIT
    path = started(rate, 10**rtt, int(rate * 10**rtt / 20), jitter, seed)
    path.rtt *= factor
    path.run_rtts(30)
    since = path.now
    path.run_rtts(30)
    assert path.throughput(since) > 0.8 * rate


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("factor", [0.7, 0.35])
@longer
def test_a_slower_line_is_not_taken_for_a_longer_one(rate: float, rtt: float, size: int, factor: float, seed: int) -> None:
    """What stands in its queue is ours, however long it takes to see that."""
    path = Path(rate, rtt, size, 0.02, seed)
    path.run(0.2 * MIN_RTT_SECONDS)
    path.rate *= factor
    while path.now < 0.4 * MIN_RTT_SECONDS:
        path.run_rtts(1)
        assert path.congestion.min_rtt < 1.05 * rtt + 2 * size / path.rate


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("factor", [0.5, 0.25, 0.1])
def test_nor_is_one_whose_queue_is_full_by_then(factor: float, seed: int) -> None:
    """It stands as it did, since what arrives is what the line carries, however much too much is sent."""
    rtt = 0.05
    path = DroppingPath(5 * MBIT, rtt, 1_300, 5 * MBIT * rtt, seed=seed)
    path.run(0.4 * MIN_RTT_SECONDS)
    path.rate *= factor
    while path.now < MIN_RTT_SECONDS:
        path.run(rtt)
        assert path.congestion.min_rtt < 1.05 * rtt + 2 * 1_300 / path.rate


def test_a_queue_of_our_own_is_not_tried_again_and_again() -> None:
    """It goes when less is sent and stands again after that; each try costs a part of a round."""
    path = started(50 * MBIT, 0.1, SIZE)
    sent = [1.0]
    for _ in range(60):
        path.foreign = 0.0 if sent[-1] < 0.7 else 0.15 * path.rtt
        before = len(path.queues)
        path.run_rtts(1)
        sent.append((len(path.queues) - before) * path.size / (path.rate * path.rtt))
    assert sum(now < 0.7 <= before for before, now in pairwise(sent)) == 1


@longer
def test_a_polite_end_takes_a_longer_line_for_the_queue_of_others(rate: float, rtt: float, size: int) -> None:
    path = Path(rate, rtt, size)
    path.congestion.polite = True
    path.run(0.2 * MIN_RTT_SECONDS)
    path.foreign = 0.3 * rtt
    path.run(0.3 * MIN_RTT_SECONDS)
    assert path.congestion.min_rtt < 1.05 * rtt + 2 * size / rate


LONG = [line for line in LINES if line[0] * line[1] > 8 * line[2]]
"""Those that many shots fill."""


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5])
@pytest.mark.parametrize(("rate", "rtt", "size"), LONG, ids=str)
def test_a_program_that_sends_little_does_not_lower_the_rate(rate: float, rtt: float, size: int, share: float) -> None:
    path = started(rate, rtt, size)
    before = path.congestion.rate
    path.offer(share * rate)
    path.run(span(path, 40) + MIN_RATE_WINDOW)
    assert path.congestion.rate >= 0.95 * before


@pytest.mark.parametrize("share", [0.2, 0.5])
@pytest.mark.parametrize(("rate", "rtt", "size"), LONG, ids=str)
def test_want_of_carriers_does_not_lower_the_rate(rate: float, rtt: float, size: int, share: float) -> None:
    path = started(rate, rtt, size)
    before = path.congestion.rate
    path.carriers = max(2, int(share * rate * rtt / size))
    path.run(span(path, 40) + MIN_RATE_WINDOW)
    assert path.congestion.rate >= 0.95 * before


# --- the bound


@pytest.mark.parametrize("size", [100, 10_000, 100_000])
def test_before_a_rate_is_known_a_fixed_amount_may_be_under_way(size: int) -> None:
    account = Recovery(PayloadSize(size))
    bound = max(MOST_INITIAL, LEAST_SHOTS * size)
    assert account.congestion.window() == bound
    account.on_sent(shot(0, 0.0, bound - 1))
    assert account.has_room()
    assert account.may_send(0.0)
    account.on_sent(shot(1, 0.0, 1))
    assert not account.has_room()
    assert not account.may_send(100.0)


@pytest.mark.parametrize(
    ("rtt", "initial"), [(0.001, LEAST_INITIAL), (0.1, 0.1 * FIRST_RATE), (0.15, 0.15 * FIRST_RATE), (0.5, MOST_INITIAL)]
)
def test_once_the_rtt_is_known_it_is_what_a_common_line_takes_in_one(rtt: float, initial: float) -> None:
    account = make(1)
    account.dialled(rtt, 0.0)
    assert account.congestion.window() == initial


def test_an_ack_that_was_lost_once_does_not_end_what_is_tried_at_first() -> None:
    account = make(4)
    account.dialled(0.1, 0.0)
    ack(account, 0, 0, 0.1)
    ack(account, 1, 1, 0.4)
    assert account.congestion.window() == 0.1 * FIRST_RATE
    ack(account, 2, 3, 0.4, answered=3)
    ack(account, 3, 3, 0.4)
    account.dialled(0.4, 0.4)
    assert account.congestion.window() < 0.1 * FIRST_RATE


@pytest.mark.parametrize(("used", "grows"), [(0.45, 0), (1.0, 1)])
def test_what_is_tried_at_first_grows_by_what_arrives_where_it_is_used(used: float, grows: int) -> None:
    count = int(used * MOST_INITIAL / SIZE)
    account = make(count + 1)
    account.dialled(0.5, 0.0)
    for number in range(4 * count // 5):  # with more the rate allows as much
        ack(account, number, number, 0.5)
        assert account.congestion.window() == MOST_INITIAL + grows * (number + 1) * SIZE


def test_a_full_line_halves_the_bound_down_to_a_floor() -> None:
    congestion = Congestion(PayloadSize(10))
    windows = [congestion.window()]
    for _ in range(20):
        congestion.on_full()
        windows.append(congestion.window())
    assert [after / before for before, after in pairwise(windows)][:4] == [0.5] * 4
    assert windows[-1] == windows[-2] == pytest.approx(SMALLEST_SHARE * MOST_INITIAL)


def test_one_shot_always_may_go() -> None:
    congestion = Congestion(PayloadSize(MOST_INITIAL))
    for _ in range(20):
        congestion.on_full()
    assert congestion.window() == MOST_INITIAL


def test_each_ack_regains_a_little_up_to_the_whole() -> None:
    account = make(100)
    congestion = account.congestion
    congestion.rate = 1e7
    whole = congestion.window()
    for _ in range(4):
        congestion.on_full()
    seen = [congestion.window()]
    for number in range(80):
        ack(account, number, number, 1.0, answered=0, delay=1.0 - 0.2)
        congestion.rate = 1e7
        seen.append(congestion.window())
    assert seen[1] / seen[0] == pytest.approx(REGAIN)
    assert seen == sorted(seen)
    assert seen[-1] == seen[-2] > 0.9 * whole


@lines
def test_the_bound_fills_the_line_and_falls_after_the_search(rate: float, rtt: float, size: int) -> None:
    path = started(rate, rtt, size)
    full = path.congestion.rate * (path.congestion.rtt + SLACK)
    assert full <= path.congestion.window() <= max(LEAST_SHOTS * size, 4 * full + 3 * size)


# --- samples


def test_the_rtt_is_a_guess_until_one_is_measured() -> None:
    congestion = Congestion(PayloadSize(SIZE))
    assert (congestion.rtt, congestion.min_rtt) == (DEFAULT_RTT, 0.0)
    congestion.sample_rtt(0.1, 0, 0.0)
    assert congestion.rtt == congestion.min_rtt == 0.1


def test_the_minimum_rtt_is_remembered_for_two_spans() -> None:
    congestion = Congestion(PayloadSize(SIZE))
    seen = []
    for at, rtt in [(0.0, 0.1), (1.0, 0.05), (14.0, 0.2), (16.0, 0.3), (30.0, 0.25), (32.0, 0.4), (46.0, 0.4), (48.0, 0.5)]:
        congestion.sample_rtt(rtt, 0, at * MIN_RTT_SECONDS / 15.0)
        seen.append(congestion.min_rtt)
    assert seen == [0.1, 0.05, 0.05, 0.05, 0.05, 0.25, 0.25, 0.4]


def test_a_rate_is_forgotten_when_nothing_was_delivered_for_long() -> None:
    path = started(10 * MBIT, 0.02, SIZE)
    delivered = path.arrived[-1][0]
    assert path.congestion.rate_at(delivered + RATE_SECONDS - 0.001) == path.congestion.rate
    assert path.congestion.rate_at(delivered + RATE_SECONDS + 0.001) == 0.0


def test_an_ack_of_several_shots_at_once_does_not_look_like_a_fast_line() -> None:
    account = make()
    account.sample_rtt(0.05, 0.0)
    for number, at in enumerate([0.0, 0.5, 0.9]):
        account.on_sent(shot(number, at))
    ack(account, 0, 2, 1.0, delay=0.05)
    assert account.congestion.rate == pytest.approx(3 * SIZE / 1.0)


@given(st.floats(0, 1e9), st.integers(0, 2**24))
def test_no_sample_of_the_rtt_is_below_a_microsecond(seconds: float, size: int) -> None:
    congestion = Congestion(PayloadSize(SIZE))
    congestion.sample_rtt(seconds, size, 0.0)
    congestion.sample_rtt(-seconds, size, 0.0)
    assert congestion.min_rtt == 1e-6
    assert congestion.queue >= 0.0


# --- the pace


def test_what_is_sent_is_spread_over_the_rtt() -> None:
    path = started(100 * MBIT, 0.05, SIZE)
    since = path.now
    path.run_rtts(10)
    left = [at for at, _ in path.queues if at >= since]
    gaps = sorted(after - before for before, after in pairwise(left))
    assert gaps[-1] < 5 * SIZE / path.rate
    assert gaps[len(gaps) // 2] > 0.5 * SIZE / path.rate


def test_on_short_lines_the_bound_alone_does() -> None:
    path = started(100 * MBIT, PACED_RTT / 2, SIZE)
    path.congestion.opens_at = -inf
    path.run_rtts(10)
    assert path.congestion.opens_at == -inf
