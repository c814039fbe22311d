"""The account of shots under way: acks, verdicts, the RTT, and how much may be under way."""

from __future__ import annotations

import heapq
from math import inf

import pytest
from account import SIZE, Tallied, ack, ack_rebuilt, make, shot
from hypothesis import given
from hypothesis import strategies as st

from tcsplitter.errors import RemoteProtocolError
from tcsplitter.lateness import LATE_RTTS, LATE_SAMPLES
from tcsplitter.recovery import (
    CRUISE_GAIN,
    DEFAULT_RTT,
    GIVE_UP_RTTS,
    GIVE_UP_SECONDS,
    INITIAL_BYTES,
    INITIAL_SHOTS,
    LOST_MEMORY,
    LOST_RTTS,
    LOST_SECONDS,
    MAX_BACKOFF,
    MAX_PATIENCE,
    MIN_RTT_SECONDS,
    RATE_SECONDS,
    REGAIN,
    SLACK,
    SMALLEST_SHARE,
    STARTUP_GAIN,
    Recovery,
    SentShot,
)

# --- which shots an ack is news of

spans = st.tuples(st.integers(0, 19), st.integers(0, 6)).map(lambda pair: (pair[0], min(19, sum(pair))))
Ranges = list[tuple[int, int]]
events = st.one_of(
    st.tuples(st.just("ack"), spans),
    st.tuples(st.just("rebuilt"), spans),
    st.tuples(st.just("time"), spans),
    st.tuples(st.just("death"), spans),
)


@given(st.lists(events, max_size=40))
def test_every_shot_is_acknowledged_once_whatever_the_order(plan: list[tuple[str, tuple[int, int]]]) -> None:
    account = Recovery(SIZE)
    account.lateness = tallied = Tallied()
    for number in range(20):
        account.on_sent(shot(number, 0.0, 100 + number, number), more_waits=True)
    out, lost, rebuilt, arrived = set(range(20)), set[int](), set[int](), set[int]()
    settled = set[int]()
    for what, (low, high) in plan:
        span = set(range(low, high + 1))
        if what == "ack":
            assert sorted(ack(account, low, high, 0.1)) == sorted(span & (out | lost))
            arrived |= span & (out | lost)
            out, lost, rebuilt = out - span, lost - span, rebuilt - span
        elif what == "rebuilt":
            assert sorted(ack_rebuilt(account, low, high, 0.1)) == sorted(span & (out | lost) - settled)
            settled |= span & (out | lost)
            out, lost, rebuilt = out - span, lost | (span & out), rebuilt | (span & out)
        else:
            for number in span:
                verdict = account.lose(number, what == "time", 0.1)
                assert (verdict is not None) is (number in out)
            out, lost, rebuilt = out - span, lost | (span & out), rebuilt - span
        assert (set(account.sent), set(account.lost)) == (out, lost)
        assert {number for number, each in account.lost.items() if each.rebuilt} == rebuilt
        assert account.in_flight == sum(100 + number for number in out)
        assert account.chunks_in_flight == sum(out)
    # No shot is counted twice for lateness, and all that were seen to arrive in time are counted.
    assert len(tallied.told) <= 20 - len(out) - len(rebuilt)
    assert not plan or any(what != "ack" for what, _ in plan) or tallied.told == [False] * len(arrived)


def test_several_ranges_of_an_ack() -> None:
    account = make(10)
    arrived, rebuilt = account.on_ack(9, 0.0, [(8, 9), (4, 5), (0, 0)], [(2, 2)], 10, 0.1)
    assert [each.number for each in arrived] == [0, 4, 5, 8, 9]
    assert [each.number for each in rebuilt] == [2]
    assert list(account.sent) == [1, 3, 6, 7]
    assert list(account.lost) == [2]


def test_what_one_ack_lists_as_received_and_as_rebuilt_was_received() -> None:
    account = make(2)
    arrived, rebuilt = account.on_ack(1, 0.0, [(0, 1)], [(0, 1)], 2, 0.1)
    assert ([each.number for each in arrived], rebuilt) == ([0, 1], [])
    assert account.on_ack(1, 0.0, [], [(0, 1)], 2, 0.2) == ([], [])


class Watched(dict[int, SentShot]):
    """Counts how often it is asked for a number."""

    asked = 0

    def __contains__(self, number: object) -> bool:
        self.asked += 1
        return super().__contains__(number)


@pytest.mark.parametrize("high", [5_000, 1_000_000])
def test_a_range_far_longer_than_the_account_costs_nothing(high: int) -> None:
    account = make(10)
    account.sent = watched = Watched(account.sent)
    assert ack(account, 0, high, 0.1) == list(range(10))
    assert watched.asked <= 40


@pytest.mark.parametrize(
    ("answered", "ranges", "rebuilt"),
    [(3, [(0, 0)], []), (0, [(3, 3)], []), (0, [(0, 3)], []), (0, [], [(3, 3)]), (0, [(1, 1)], [(2, 4)]), (3, [], [])],
)
def test_an_ack_of_a_shot_that_was_never_sent(answered: int, ranges: Ranges, rebuilt: Ranges) -> None:
    account = make(3)
    with pytest.raises(RemoteProtocolError, match="never sent"):
        account.on_ack(answered, 0.0, ranges, rebuilt, 3, 0.1)
    assert len(account.sent) == 3


# --- the RTT


def test_only_the_shot_that_is_answered_measures_the_rtt() -> None:
    account = make(3)
    ack(account, 0, 1, 0.5, delay=0.4, answered=2)
    assert account.min_rtt == 0.0
    assert account.rtt == DEFAULT_RTT
    ack(account, 2, 2, 0.5, delay=0.4)
    assert account.min_rtt == account.rtt == pytest.approx(0.1)


def test_a_rebuilt_shot_measures_no_rtt() -> None:
    account = make(1)
    account.on_ack(0, 0.0, [], [(0, 0)], 1, 0.5)
    assert account.min_rtt == 0.0


@pytest.mark.parametrize("delay", [0.5, 5.0])
def test_a_delay_longer_than_the_age_gives_no_rtt_below_a_microsecond(delay: float) -> None:
    account = make(1)
    ack(account, 0, 0, 0.5, delay=delay)
    assert account.min_rtt == 1e-6


def test_the_minimum_rtt_is_remembered_for_two_spans() -> None:
    account = make()
    seen = []
    for at, rtt in [(0.0, 0.1), (1.0, 0.05), (14.0, 0.2), (16.0, 0.3), (30.0, 0.25), (32.0, 0.4), (46.0, 0.4), (48.0, 0.5)]:
        account.sample_rtt(rtt, at * MIN_RTT_SECONDS / 15.0)
        seen.append(account.min_rtt)
    assert seen == [0.1, 0.05, 0.05, 0.05, 0.05, 0.25, 0.25, 0.4]


@pytest.mark.parametrize(
    ("rtt", "lost_after", "give_up_after"),
    [(0.01, LOST_SECONDS, GIVE_UP_SECONDS), (0.5, LOST_RTTS * 0.5, GIVE_UP_RTTS * 0.5)],
)
def test_patience_follows_the_rtt(rtt: float, lost_after: float, give_up_after: float) -> None:
    account = make()
    account.sample_rtt(rtt, 0.0)
    assert account.lost_after == lost_after
    assert account.give_up_after == give_up_after


# --- verdicts


def test_shots_are_judged_by_their_age_the_oldest_first() -> None:
    account = make(3, step=0.1)
    assert account.deadline() == LOST_SECONDS
    assert account.overdue(0.999) == []
    assert [each.number for each in account.overdue(1.101)] == [0, 1]
    assert make().deadline() == inf


def test_progress_postpones_the_verdict() -> None:
    account = make(3, step=0.1)
    account.spare(account.sent[0], 1.0)
    assert account.deadline() == pytest.approx(1.1)
    assert [each.number for each in account.overdue(1.99)] == [1, 2]
    assert [each.number for each in account.overdue(2.0)] == [1, 2, 0]
    assert ack(account, 0, 0, 2.0) == [0]
    assert account.min_rtt == 2.0  # its age still counts from sending


def test_a_lost_shot_is_acknowledged_late_and_once() -> None:
    account = make(2)
    assert account.lose(0, True, 1.0) is not None
    assert account.lose(0, True, 1.0) is None
    assert account.in_flight == SIZE
    assert ack(account, 0, 0, 1.5) == [0]
    assert ack(account, 0, 0, 1.6) == []
    assert account.in_flight == SIZE


@pytest.mark.parametrize(("by_time", "wrong", "patience"), [(True, 1, 1.5), (False, 0, 1.0)])
def test_a_verdict_by_time_that_proves_wrong_raises_patience(by_time: bool, wrong: int, patience: float) -> None:
    account = make(1)
    account.dialled(0.01, 0.5)  # so the line is not full
    account.lose(0, by_time, 1.0)
    ack(account, 0, 0, 1.5)
    assert account.wrong_verdicts == wrong
    assert account.lost_after == pytest.approx(patience * LOST_SECONDS)


def lose_and_deliver(account: Recovery, count: int, now: float) -> None:
    for number in range(count):
        account.on_sent(shot(number, now), more_waits=True)
        account.lose(number, True, now + 1.0)
        ack(account, number, number, now + 2.0, delay=2.0 - 0.01)


def test_patience_has_a_ceiling_and_wears_off() -> None:
    account = make()
    lose_and_deliver(account, 10, 0.0)
    assert account.lost_after == pytest.approx(MAX_PATIENCE * LOST_SECONDS, rel=0.01)
    assert account.give_up_after > account.lost_after
    before = account.lost_after
    for number in range(100, 3_000):
        account.on_sent(shot(number, 5.0), more_waits=True)
        ack(account, number, number, 5.005, answered=0)
        assert account.lost_after <= before
        before = account.lost_after
    assert account.lost_after == LOST_SECONDS


def test_a_lost_shot_is_forgotten_in_time() -> None:
    account = make(2)
    account.lose(0, True, 1.0)
    account.lose(1, False, 2.0)
    account.forget_lost(1.0 + LOST_MEMORY - 0.001)
    assert list(account.lost) == [0, 1]
    account.forget_lost(1.0 + LOST_MEMORY)
    assert list(account.lost) == [1]
    assert ack(account, 0, 1, 12.0) == [1]


def acknowledge_many(account: Recovery, age: float, rtt: float = 0.1) -> None:
    """So many acks after `age` that lateness is judged by them."""
    account.sample_rtt(rtt, 0.0)
    for number in range(LATE_SAMPLES):
        account.on_sent(shot(number, 0.0), more_waits=True)
        ack(account, number, number, age, delay=age - rtt)


def test_late_shots_have_an_account_of_their_own() -> None:
    account = make()
    acknowledge_many(account, 0.1)
    account.on_sent(shot(100, 1.0), more_waits=True)
    account.on_sent(shot(101, 1.1), more_waits=True)
    account.note_late(1.0 + 0.1 * (LATE_RTTS - 0.05))
    assert (account.in_flight, account.late_bytes) == (2 * SIZE, 0)
    for _ in range(2):
        account.note_late(1.0 + 0.1 * (LATE_RTTS + 0.05))
        assert (account.in_flight, account.late_bytes) == (SIZE, SIZE)
    ack(account, 100, 101, 1.2)
    assert (account.in_flight, account.late_bytes) == (0, 0)


@pytest.mark.parametrize("fate", ["arrived", "lost", "rebuilt"])
def test_what_has_left_the_account_is_not_late(fate: str) -> None:
    account = make(3)
    if fate == "lost":
        account.lose(1, True, 0.1)
    else:
        (ack if fate == "arrived" else ack_rebuilt)(account, 1, 1, 0.1)
    account.note_late(100.0)
    assert (account.in_flight, account.late_bytes) == (0, 2 * SIZE)


def test_a_late_shot_that_was_rebuilt_or_lost_leaves_no_bytes_behind() -> None:
    account = make(2)
    account.note_late(100.0)
    ack_rebuilt(account, 0, 0, 100.0)
    account.lose(1, True, 100.0)
    assert (account.in_flight, account.late_bytes, account.chunks_in_flight) == (0, 0, 0)
    ack(account, 0, 1, 100.1)
    assert (account.in_flight, account.late_bytes, account.chunks_in_flight) == (0, 0, 0)


def test_a_shot_is_overtaken_when_a_younger_one_arrived() -> None:
    account = make(4, step=0.1)
    ack(account, 0, 0, 0.5)
    ack(account, 2, 2, 0.5)
    assert account.was_overtaken(account.sent[1])
    assert not account.was_overtaken(account.sent[3])
    ack_rebuilt(account, 3, 3, 0.5)
    account.on_sent(shot(4, 0.25), more_waits=True)
    assert not account.was_overtaken(account.sent[4])


# --- shots that were rebuilt from parity


def test_a_rebuilt_shot_is_kept_for_its_own_arrival() -> None:
    account = make(2)
    assert ack_rebuilt(account, 0, 0, 0.5) == [0]
    assert (list(account.sent), account.lost[0].rebuilt, account.knows(0)) == ([1], True, True)
    assert account.in_flight == SIZE
    assert ack_rebuilt(account, 0, 0, 0.6) == []
    assert ack(account, 0, 0, 0.7) == [0]
    assert not account.knows(0)
    assert ack(account, 0, 0, 0.8) == []


def test_a_rebuilt_shot_is_no_wrong_verdict_and_is_not_judged() -> None:
    account = make(1)
    account.sample_rtt(0.01, 0.0)
    ack_rebuilt(account, 0, 0, 0.5)
    assert account.deadline() == inf
    assert account.overdue(100.0) == []
    ack(account, 0, 0, 5.0)
    assert account.wrong_verdicts == 0
    assert account.lost_after == LOST_SECONDS


def test_that_a_shot_which_was_taken_for_lost_was_rebuilt_is_news_once() -> None:
    account = make(1)
    account.lose(0, True, 1.0)
    assert ack_rebuilt(account, 0, 0, 1.1) == [0]
    assert ack_rebuilt(account, 0, 0, 1.1) == []
    assert not account.lost[0].rebuilt
    assert ack(account, 0, 0, 1.2) == [0]
    assert account.wrong_verdicts == 1


def test_a_rebuilt_shot_is_forgotten_in_time() -> None:
    account = make(2)
    ack_rebuilt(account, 0, 0, 1.0)
    account.forget_lost(1.0 + LOST_MEMORY - 0.001)
    assert account.knows(0)
    account.forget_lost(1.0 + LOST_MEMORY)
    assert not account.knows(0)


# --- how much may be under way


@pytest.mark.parametrize("size", [100, 10_000, 100_000])
def test_before_a_rate_is_known_a_fixed_amount_may_be_under_way(size: int) -> None:
    account = Recovery(size)
    bound = max(INITIAL_BYTES, INITIAL_SHOTS * size)
    assert account.window() == bound
    account.on_sent(shot(0, 0.0, bound - 1), more_waits=True)
    assert account.may_send()
    account.on_sent(shot(1, 0.0, 1), more_waits=True)
    assert not account.may_send()


def shares(account: Recovery) -> float:
    return account.window() / INITIAL_BYTES


def test_a_loss_by_time_halves_the_bound_once_in_a_while() -> None:
    account = make(6)
    account.sample_rtt(0.01, 0.0)
    seen = []
    for number, at in enumerate([1.0, 1.1, 2.999, 3.0, 5.0, 7.0]):
        account.lose(number, True, at)
        seen.append((shares(account), account.lost_after, account.give_up_after))
    assert seen == [(0.5, 2, 6), (0.5, 2, 6), (0.5, 2, 6), (0.25, 4, 12), (0.25, 4, 12), (0.125, 8, 24)]


def test_timers_back_off_so_far_and_come_back() -> None:
    account = make(30)
    for number in range(10):
        account.lose(number, True, 100.0 * number)
    assert account.lost_after == MAX_BACKOFF
    seen = []
    for number in range(10, 15):
        ack(account, number, number, 1000.0, answered=0)  # so it tells no RTT
        seen.append(account.give_up_after / GIVE_UP_SECONDS)
    assert seen == [8, 4, 2, 1, 1]


@pytest.mark.parametrize(("took", "at", "full"), [(0.01, 0.5, False), (0.49, 0.5, False), (0.51, 0.9, True), (0.01, -0.1, True)])
def test_a_line_on_which_a_dial_was_quick_is_not_full(took: float, at: float, full: bool) -> None:
    account = make(1)
    account.sample_rtt(0.01, 0.0)
    account.dialled(took, at)
    account.lose(0, True, 1.0)
    assert account.lost_after == (2.0 if full else 1.0)
    assert shares(account) == (0.5 if full else 1.0)


def test_one_shot_always_may_go() -> None:
    account = Recovery(INITIAL_BYTES)
    for number in range(20):
        account.on_sent(shot(number, 0.0, INITIAL_BYTES), more_waits=True)
        account.lose(number, True, 100.0 * number)
    assert account.window() == INITIAL_BYTES


def test_the_share_has_a_floor() -> None:
    account = Recovery(10)
    for number in range(20):
        account.on_sent(shot(number, 0.0, 10), more_waits=True)
        account.lose(number, True, 100.0 * number)
    assert shares(account) == pytest.approx(SMALLEST_SHARE)


def test_a_loss_by_death_does_not_halve_the_bound() -> None:
    account = make(1)
    account.lose(0, False, 1.0)
    assert shares(account) == 1.0


def test_each_ack_regains_a_little_up_to_the_whole() -> None:
    account = make(100)
    account.lose(99, True, 1.0)
    account.rate = 1e6
    whole = 2 * account.window() - 2 * SIZE
    seen = []
    for number in range(30):
        ack(account, number, number, 1.0, answered=0, delay=1.0 - 0.2)
        account.rate = 1e6
        seen.append(account.window())
    assert seen[1] / seen[0] == pytest.approx(REGAIN)
    assert seen == sorted(seen)
    assert seen[-1] == seen[-2] > 0.9 * whole


# --- the delivery rate


def drive(rate: float, rtt: float, size: int, seconds: float) -> tuple[Recovery, float]:
    """A line with an endless queue that is sent whatever the account allows; the account, and the time when that ended."""
    account = Recovery(size)
    arrivals: list[tuple[float, int]] = []
    now, free, number = 0.0, 0.0, 0
    while now < seconds:
        while account.may_send():
            account.on_sent(shot(number, now, size), more_waits=True)
            free = max(free, now) + size / rate
            heapq.heappush(arrivals, (free + rtt, number))
            number += 1
        now, arrived = heapq.heappop(arrivals)
        ack(account, arrived, arrived, now)
    return account, now


lines = pytest.mark.parametrize(
    ("rate", "rtt", "size"),
    [
        (1e6, 0.05, 10_000),
        (1e6, 0.3, 10_000),
        (2.5e6, 0.15, 1_400),
        (1e5, 0.02, 10_000),
        (6e6, 0.005, 65_536),
        (2e7, 0.001, 10_000),
    ],
)


@lines
def test_the_rate_of_a_steady_line_is_found(rate: float, rtt: float, size: int) -> None:
    account, now = drive(rate, rtt, size, 3.0 + 20 * rtt)
    assert account.rate == pytest.approx(rate, rel=0.2)
    assert account.rate_at(now) == account.rate
    assert account.rate_at(now + RATE_SECONDS + 0.001) == 0.0


@lines
def test_start_up_ends_and_the_bound_falls(rate: float, rtt: float, size: int) -> None:
    account, _ = drive(rate, rtt, size, 3.0 + 20 * rtt)
    model = account.rate * (account.rtt + SLACK)
    assert account.window() == pytest.approx(max(CRUISE_GAIN * model + 2 * size, INITIAL_SHOTS * size))


def test_start_up_goes_on_while_the_rate_grows() -> None:
    account = Recovery(SIZE)
    account.sample_rtt(0.1, 0.0)
    now, number = 0.0, 0
    for growth in range(6):
        first = number
        for _ in range(2**growth):
            account.on_sent(shot(number, now), more_waits=True)
            number += 1
        now += 0.1
        ack(account, first, number - 1, now)
        model = account.rate * (account.rtt + SLACK)
        assert account.window() == pytest.approx(max(STARTUP_GAIN * model + 2 * SIZE, INITIAL_SHOTS * SIZE))
    assert account.rate == pytest.approx(2**5 * SIZE / 0.1)


def test_an_ack_of_several_shots_at_once_does_not_look_like_a_fast_line() -> None:
    account = make()
    account.sample_rtt(0.05, 0.0)
    for number, at in enumerate([0.0, 0.5, 0.9]):
        account.on_sent(shot(number, at), more_waits=True)
    ack(account, 0, 2, 1.0, delay=0.05)
    assert account.rate == pytest.approx(3 * SIZE / 1.0)


def test_a_program_that_sends_little_does_not_lower_the_rate() -> None:
    account, now = drive(1e6, 0.05, SIZE, 3.0)
    before = account.rate
    for extra in range(20):
        number, now = 10**6 + extra, now + 0.1
        account.on_sent(shot(number, now), more_waits=False)
        ack(account, number, number, now + 0.05)
    assert account.rate == before


def test_a_line_that_got_slower_is_noticed() -> None:
    account, now = drive(1e6, 0.05, SIZE, 3.0)
    for number in list(account.sent):
        account.lose(number, False, now)
    for extra in range(30):
        number, now = 10**6 + extra, now + 0.1
        account.on_sent(shot(number, now), more_waits=True)
        ack(account, number, number, now + 0.1, delay=0.05)
    assert account.rate == pytest.approx(SIZE / 0.1, rel=0.2)
