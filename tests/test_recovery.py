"""The account of shots under way: acks, verdicts, the RTT, and how much may be under way."""

from __future__ import annotations

from math import inf
from sys import getrefcount
from time import process_time

import pytest
from account import SIZE, Tallied, ack, ack_rebuilt, make, shot
from hypothesis import given
from hypothesis import strategies as st

from tcsplitter.acks import ack_delay
from tcsplitter.congestion import DEFAULT_RTT, LEAST_SHOTS, SLOW_RATE
from tcsplitter.errors import RemoteProtocolError
from tcsplitter.lateness import LATE_RTTS, LATE_SAMPLES
from tcsplitter.payload import PayloadSize
from tcsplitter.recovery import (
    GIVE_UP_RTTS,
    GIVE_UP_SECONDS,
    LATE_WINDOWS,
    LOST_MEMORY,
    LOST_RTTS,
    LOST_SECONDS,
    MAX_BACKOFF,
    MAX_PATIENCE,
    Recovery,
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
    account = Recovery(PayloadSize(SIZE))
    account.lateness = tallied = Tallied()
    for number in range(20):
        account.on_sent(shot(number, 0.0, 100 + number, number))
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


def test_a_range_far_longer_than_the_account_costs_nothing() -> None:
    seconds = []
    for _ in range(3):
        account = make(10)
        began = process_time()
        assert ack(account, 0, 20_000_000, 0.1) == list(range(10))
        seconds.append(process_time() - began)
    assert min(seconds) < 0.05  # to look at each of the numbers takes many times that


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


@pytest.mark.parametrize(
    ("rtt", "lost_after", "give_up_after"),
    [(0.01, LOST_SECONDS, GIVE_UP_SECONDS), (0.5, LOST_RTTS * 0.5, GIVE_UP_RTTS * 0.5)],
)
def test_patience_follows_the_rtt(rtt: float, lost_after: float, give_up_after: float) -> None:
    account = make()
    account.sample_rtt(rtt, 0.0)
    assert account.lost_after() == lost_after
    assert account.give_up_after() == give_up_after


@pytest.mark.parametrize(("shots", "lost_after", "give_up_after"), [(1, LOST_SECONDS, GIVE_UP_SECONDS), (7, 2.1875, 4.375)])
def test_before_a_payload_has_arrived_the_line_may_be_slow(shots: int, lost_after: float, give_up_after: float) -> None:
    account = make(shots)
    assert SLOW_RATE == 32_000
    assert account.lost_after() == lost_after
    assert account.give_up_after() == give_up_after


def slow_line(shots: int) -> Recovery:
    """It carries 5,000 bytes per second, as two payloads have shown, and so many more are under way."""
    account = make(2)
    for number in range(2):
        ack(account, number, number, 2.0 * (number + 1))
    assert account.congestion.rate == SIZE / 2.0
    for number in range(shots):
        account.on_sent(shot(10 + number, 4.0))
    return account


@pytest.mark.parametrize(("shots", "lost_after", "give_up_after"), [(0, 1, 3), (1, 2, 4), (3, 6, 12), (9, 10, 20)])
def test_patience_lasts_for_what_the_line_still_has_to_carry(shots: int, lost_after: float, give_up_after: float) -> None:
    account = slow_line(shots)
    account.congestion.rtt = 0.1
    assert (account.lost_after(), account.give_up_after()) == (lost_after, give_up_after)


def test_nothing_is_late_in_the_time_of_a_few_payloads() -> None:
    account = slow_line(3)
    account.note_late(4.0 + LEAST_SHOTS * 2.0)
    assert account.late_bytes == 0
    account.note_late(4.1 + LEAST_SHOTS * 2.0)
    assert account.late_bytes == 3 * SIZE


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
    assert account.lost_after() == pytest.approx(patience * LOST_SECONDS)


def lose_and_deliver(account: Recovery, count: int, now: float) -> None:
    for number in range(count):
        account.on_sent(shot(number, now))
        account.lose(number, True, now + 1.0)
        ack(account, number, number, now + 2.0, delay=2.0 - 0.01)


def test_patience_has_a_ceiling_and_wears_off() -> None:
    account = make()
    lose_and_deliver(account, 10, 0.0)
    assert account.lost_after() == pytest.approx(MAX_PATIENCE * LOST_SECONDS, rel=0.01)
    assert account.give_up_after() > account.lost_after()
    before = account.lost_after()
    for number in range(100, 3_000):
        account.on_sent(shot(number, 5.0))
        ack(account, number, number, 5.005, answered=0)
        assert account.lost_after() <= before
        before = account.lost_after()
    assert account.lost_after() == LOST_SECONDS


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
        account.on_sent(shot(number, 0.0))
        ack(account, number, number, age, delay=age - rtt)


def test_late_shots_have_an_account_of_their_own() -> None:
    account = make()
    acknowledge_many(account, 0.1)
    account.congestion.rate = 1e7
    account.on_sent(shot(100, 1.0))
    account.on_sent(shot(101, 1.1))
    in_time = account.lateness.in_time(0.1, ack_delay(0.1))
    assert in_time >= 0.1 * LATE_RTTS
    account.note_late(1.0 + in_time - 0.001)
    assert (account.in_flight, account.late_bytes) == (2 * SIZE, 0)
    for _ in range(2):
        account.note_late(1.0 + in_time + 0.001)
        assert (account.in_flight, account.late_bytes) == (SIZE, SIZE)
    ack(account, 100, 101, 1.2)
    assert (account.in_flight, account.late_bytes) == (0, 0)


def test_what_has_arrived_is_let_go_of_before_it_could_be_late() -> None:
    account = make()
    sent = shot(0, 0.0)
    before = getrefcount(sent)
    account.on_sent(sent)
    ack(account, 0, 0, 0.1)
    account.note_late(0.1)
    assert getrefcount(sent) == before


def test_late_shots_stop_the_sender_when_there_are_too_many() -> None:
    account = make()
    most = int(LATE_WINDOWS * account.congestion.window())
    for number, size in enumerate([most - 1, 1]):
        assert account.has_room()
        account.on_sent(shot(number, 0.0, size))
        account.note_late(100.0)
        assert account.in_flight == 0
    assert account.late_bytes == account.under_way() == most
    assert not account.has_room()


def test_pace_and_room_have_to_allow_what_is_sent() -> None:
    account = make()
    account.congestion.opens_at = 1.0
    assert account.has_room()
    assert [account.may_send(at) for at in (0.999, 1.0, 100.0)] == [False, True, True]


def test_a_line_is_quiet_that_could_take_as_much_again() -> None:
    account = make()
    half = int(account.congestion.window()) // 2
    account.on_sent(shot(0, 0.0, half - 1))
    assert account.is_quiet
    account.note_late(100.0)
    account.on_sent(shot(1, 100.0, 1))
    assert not account.is_quiet


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
    account.on_sent(shot(4, 0.25))
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
    assert account.lost_after() == LOST_SECONDS


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


def shares(account: Recovery) -> float:
    """Of what may be under way before a rate is known, what is left."""
    untouched = make(0)
    untouched.sample_rtt(account.rtt, 0.0)
    return account.congestion.window() / untouched.congestion.window()


def test_a_loss_by_time_halves_the_bound_once_in_a_while() -> None:
    account = make(6)
    account.sample_rtt(0.1, 0.0)
    seen = []
    for number, at in enumerate([1.0, 1.1, 2.999, 3.0, 5.0, 7.0]):
        account.lose(number, True, at)
        seen.append((shares(account), account.lost_after(), account.give_up_after()))
    assert seen == [(0.5, 2, 6), (0.5, 2, 6), (0.5, 2, 6), (0.25, 4, 12), (0.25, 4, 12), (0.125, 8, 24)]


def test_timers_back_off_so_far_and_come_back() -> None:
    account = make(30, size=100)
    for number in range(10):
        account.lose(number, True, 100.0 * number)
    assert account.lost_after() == MAX_BACKOFF
    seen = []
    for number in range(10, 15):
        ack(account, number, number, 1000.0, answered=0)  # so it tells no RTT
        seen.append(account.give_up_after() / GIVE_UP_SECONDS)
    assert seen == [8, 4, 2, 1, 1]


@pytest.mark.parametrize(("took", "at", "full"), [(0.01, 0.5, False), (0.49, 0.5, False), (0.51, 0.9, True), (0.01, -0.1, True)])
def test_a_line_on_which_a_dial_was_quick_is_not_full(took: float, at: float, full: bool) -> None:
    account = make(1)
    account.sample_rtt(0.01, 0.0)
    account.dialled(took, at)
    account.lose(0, True, 1.0)
    assert account.lost_after() == (2.0 if full else 1.0)
    assert shares(account) == (0.5 if full else 1.0)


def test_a_loss_by_death_does_not_halve_the_bound() -> None:
    account = make(1)
    account.lose(0, False, 1.0)
    assert shares(account) == 1.0
