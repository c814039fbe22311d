"""Twins: which shots get one, when, and what that may cost."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from account import shot
from hypothesis import given, settings
from hypothesis import strategies as st

from tcsplitter.acks import ack_delay
from tcsplitter.congestion import PACED_RTT
from tcsplitter.hedging import (
    AGAIN_SHARE,
    LARGE_BURST,
    LARGE_PER_LATE,
    LEAST_LARGE_SHARE,
    MOST_LARGE_SHARE,
    SMALL_BURST,
    SMALL_RATE,
    SMALL_SHARE,
    Allowance,
    Hedger,
)
from tcsplitter.lateness import FIRST_DOUBT, OVERDUE_RTTS, OVERDUE_SLACK, SHARE_SAMPLES, SMALL_SHOT
from tcsplitter.options import Fec, Retries
from tcsplitter.payload import PayloadSize
from tcsplitter.recovery import Recovery
from tcsplitter.shared import Handling
from tcsplitter.shots import Copies, SentShot
from tcsplitter.stats import Counters

NOW = 100.0
RTT = 0.1
OVERDUE = OVERDUE_RTTS * RTT + ack_delay(RTT) + OVERDUE_SLACK
AUTO = Fec(auto=True)


class Rig:
    """A hedger and the account of shots that it looks at; carriers are there when a test says so."""

    def __init__(self, handling: Handling | None = None) -> None:
        self.recovery = Recovery(PayloadSize(10_000))
        self.recovery.sample_rtt(RTT, NOW)
        self.recovery.lateness.doubt = 0.0
        self.counters = Counters()
        self.hedger = Hedger(handling or Handling(), self.recovery, self.counters, NOW)
        self.now = NOW
        self.number = 0

    def send(self, size: int = 100, chunks: int = 1, watch: bool = True) -> SentShot:
        """A shot leaves; one of streams that are not busy unless it is not to be watched."""
        sent = shot(self.number, self.now, size, chunks)
        self.number += 1
        self.counters.bytes_sent += size
        self.recovery.on_sent(sent)
        if watch:
            self.hedger.watch(sent)
        elif chunks:
            self.hedger.mind(sent)
        return sent

    def acknowledge(self, sent: SentShot) -> None:
        arrived, _ = self.recovery.on_ack(0, 0.0, [(sent.number, sent.number)], [], self.number, self.now)
        for each in arrived:
            if each.copies is not None:
                each.copies.arrived = True

    def twins(self, spare: bool = False) -> list[int]:
        """Twins of all that is to be twinned now leave; the numbers of what they are twins of."""
        self.hedger.run(self.now, spare=spare)
        found = []
        while (original := self.hedger.next()) is not None:
            twin = self.send(original.size, 0, watch=False)
            twin.copies = original.copies = original.copies or Copies(original)
            twin.copies.shots.append(twin)
            self.hedger.sent()
            found.append(original.number)
        return found

    def at(self, seconds: float) -> list[int]:
        """What is twinned so many seconds after the beginning."""
        self.now = NOW + seconds
        return self.twins()


# --- what twins may cost


@pytest.mark.parametrize(("rate", "burst"), [(SMALL_RATE, SMALL_BURST), (0, LARGE_BURST), (100.0, 1_000.0)])
@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.floats(0.0, 5.0) | st.just(0.0), st.integers(0, 200_000) | st.just(0), st.integers(1, 40_000)), max_size=60
    )
)
def test_what_is_spent_in_any_span_is_bounded(rate: float, burst: float, plan: list[tuple[float, int, int]]) -> None:
    allowance = Allowance(SMALL_SHARE, rate, burst, NOW)
    now, sent, history = NOW, 0, [(NOW, 0, 0)]
    spent = 0
    for pause, more, size in plan:
        now, sent = now + pause, sent + more
        if allowance.spend(size, sent, now):
            spent += size
        history.append((now, sent, spent))
    for at, (since, sent_then, spent_then) in enumerate(history):
        for until, sent_by, spent_by in history[at:]:
            earned = SMALL_SHARE * (sent_by - sent_then) + rate * (until - since)
            assert spent_by - spent_then <= burst + earned + 1e-6


@pytest.mark.parametrize(("rate", "burst"), [(SMALL_RATE, SMALL_BURST), (0, LARGE_BURST)])
def test_the_burst_at_its_cap_and_one_byte_beyond(rate: float, burst: int) -> None:
    assert not Allowance(SMALL_SHARE, rate, burst, NOW).spend(burst + 1, 0, NOW)
    allowance = Allowance(SMALL_SHARE, rate, burst, NOW)
    assert allowance.spend(burst, 0, NOW + 1000.0)
    assert not allowance.spend(1, 0, NOW + 1000.0)
    assert allowance.spend(1_000, int(1_000 / SMALL_SHARE), NOW + 1000.0)
    assert not allowance.spend(1, int(1_000 / SMALL_SHARE), NOW + 1000.0)


def test_a_shot_for_which_the_budget_was_spent_gets_its_twin_later() -> None:
    rig = Rig()
    count = SMALL_BURST // SMALL_SHOT + 5
    for _ in range(count):
        rig.send(SMALL_SHOT)
    found: list[int] = []
    for step in range(1, 20):
        twinned = rig.at(OVERDUE + step * RTT)
        for number in twinned:
            rig.acknowledge(rig.recovery.sent[number])
        found += twinned
    assert sorted(found) == list(range(count))


def test_what_was_refused_costs_nothing() -> None:
    allowance = Allowance(SMALL_SHARE, 0, 1_000, NOW)
    for _ in range(10):
        assert not allowance.spend(1_001, 0, NOW)
    assert allowance.spend(1_000, 0, NOW)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0.0, 0.3), st.integers(50, 20_000), st.booleans()), max_size=60), st.booleans())
def test_twins_cost_no_more_than_they_may_whatever_is_sent(plan: list[tuple[float, int, bool]], auto: bool) -> None:
    """No ack ever comes, except for some that make the others late."""
    rig = Rig(Handling(fec=AUTO if auto else Fec()))
    cost = 0
    for pause, size, arrives in plan:
        sent = rig.send(size, watch=size <= SMALL_SHOT)
        if size <= SMALL_SHOT:
            cost += size * rig.hedger.twins_at_once(size, rig.now)
        rig.now += pause
        if arrives:
            rig.acknowledge(sent)
        before = rig.counters.bytes_sent
        rig.twins()
        cost += rig.counters.bytes_sent - before
    rate = SMALL_RATE * (rig.now - NOW)
    assert cost <= SMALL_BURST + LARGE_BURST + rate + 2 * SMALL_SHARE * rig.counters.bytes_sent
    assert len(rig.hedger) == 0


@pytest.mark.parametrize(
    ("late", "least", "most"),
    [
        (0.0, 0.8 * LEAST_LARGE_SHARE, LEAST_LARGE_SHARE),
        (0.15, 0.8 * 0.15 * LARGE_PER_LATE, 0.15 * LARGE_PER_LATE),
        (1.0, 0.8 * MOST_LARGE_SHARE, MOST_LARGE_SHARE),
    ],
)
def test_on_a_full_line_twins_cost_more_the_more_the_line_makes_late(late: float, least: float, most: float) -> None:
    rig = Rig()
    for number in range(4_000):
        sent = rig.send(5_000, watch=False)
        rig.now += 0.01
        if number % 10:
            rig.acknowledge(sent)
        rig.recovery.lateness.share = late
        rig.twins()
    twins = rig.counters.bytes_sent - 4_000 * 5_000
    assert least * rig.counters.bytes_sent <= twins <= LARGE_BURST + most * rig.counters.bytes_sent


def test_where_the_budget_is_spent_there_are_no_twins() -> None:
    rig = Rig()
    count = SMALL_BURST // SMALL_SHOT
    for _ in range(count + 20):
        rig.send(SMALL_SHOT)
    found = rig.at(OVERDUE)
    assert found == list(range(len(found)))
    assert count <= len(found) < count + 5


# --- small shots


def test_a_small_shot_is_overdue_after_little_more_than_an_rtt() -> None:
    rig = Rig()
    rig.send()
    assert rig.hedger.deadline() == pytest.approx(NOW + OVERDUE)
    assert rig.at(OVERDUE - 1e-4) == []
    assert rig.at(OVERDUE + 1e-6) == [0]


def test_it_is_overdue_again_after_an_rtt_and_then_ever_more_rarely_until_something_of_it_arrives() -> None:
    rig = Rig()
    sent = rig.send()
    assert rig.at(OVERDUE + 1e-6) == [0]
    due = OVERDUE
    for _ in range(4):
        due = rig.now - NOW + max(RTT, AGAIN_SHARE * (rig.now - NOW))
        assert rig.hedger.deadline() == pytest.approx(NOW + due)
        assert rig.at(due - 1e-3) == []
        assert rig.at(due + 1e-4) == [0]
    assert sent.copies is not None
    rig.acknowledge(sent.copies.shots[3])
    assert rig.at(50.0) == []


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_an_overdue_shot_gets_as_many_twins_as_the_line_needs(share: float) -> None:
    rig = Rig()
    rig.send()
    rig.recovery.lateness.share = share
    assert rig.at(OVERDUE + 1e-6) == [0] * rig.recovery.lateness.twins()


def test_what_is_known_about_acks_of_small_shots_counts() -> None:
    rig = Rig()
    for _ in range(100):
        rig.recovery.lateness.sample(0.3, SMALL_SHOT, RTT, 0.0)
    rig.send()
    due = rig.recovery.lateness.overdue_after(RTT, ack_delay(RTT))
    assert due >= 0.3
    assert rig.at(due - 1e-4) == []
    assert rig.at(due + 1e-4) == [0]


@pytest.mark.parametrize("fate", ["arrived", "rebuilt", "lost"])
def test_what_is_no_longer_missing_gets_no_twin(fate: str) -> None:
    rig = Rig()
    sent = rig.send()
    rig.now += 0.05
    if fate == "arrived":
        rig.acknowledge(sent)
    elif fate == "rebuilt":
        rig.recovery.on_ack(0, 0.0, [], [(0, 0)], 1, rig.now)
    else:
        rig.recovery.lose(0, False, rig.now)
    assert rig.at(1.0) == []
    assert rig.hedger.deadline() == inf


def test_a_shot_whose_ack_comes_while_its_twin_waits_for_a_carrier_gets_none() -> None:
    rig = Rig()
    first, second = rig.send(), rig.send()
    rig.now = NOW + OVERDUE + 1e-6
    rig.hedger.run(rig.now, spare=False)
    assert len(rig.hedger) == 2
    assert rig.hedger.next() is first
    rig.acknowledge(first)
    assert rig.hedger.next() is second
    assert len(rig.hedger) == 1
    rig.acknowledge(second)
    assert rig.hedger.next() is None
    assert len(rig.hedger) == 0


def test_shots_are_twinned_in_the_order_in_which_they_are_overdue() -> None:
    rig = Rig()
    for _ in range(3):
        rig.send()
        rig.now += 0.001
    assert rig.at(1.0) == [0, 1, 2]


def test_shots_without_chunks_are_watched_too() -> None:
    """Credit and the like: a stream may wait for it."""
    rig = Rig()
    rig.send(chunks=0)
    assert rig.at(OVERDUE + 1e-6) == [0]


# --- late ones


def late_after(rig: Rig) -> float:
    return rig.recovery.lateness.late_after + 1e-6


@pytest.mark.parametrize("overtaken", [True, False])
def test_a_larger_shot_is_twinned_when_it_is_late_and_was_overtaken(overtaken: bool) -> None:
    rig = Rig()
    rig.send(10_000, watch=False)
    rig.now += 0.01
    other = rig.send(10_000, watch=False)
    if overtaken:
        rig.acknowledge(other)
    assert rig.at(late_after(rig) - 0.01) == []
    assert rig.at(late_after(rig)) == ([0] if overtaken else [])
    assert rig.at(20.0) == ([0] if overtaken else []), "again, as the twin is late too"


def test_where_all_is_late_there_are_no_twins() -> None:
    rig = Rig()
    for _ in range(10):
        rig.send(10_000, watch=False)
    assert rig.at(20.0) == []


def test_what_is_twinned_again_is_the_shot_not_its_twin() -> None:
    rig = Rig()
    rig.send(10_000, watch=False)
    rig.now += 0.01
    rig.acknowledge(rig.send(10_000, watch=False))
    assert rig.at(late_after(rig)) == [0]
    rig.now += 0.01
    rig.acknowledge(rig.send(10_000, watch=False))
    assert rig.at(20.0) == [0]


def test_late_ones_share_their_budget() -> None:
    rig = Rig()
    for _ in range(LARGE_BURST // 10_000 + 5):
        rig.send(10_000, watch=False)
    rig.now += 0.01
    rig.acknowledge(rig.send(10_000, watch=False))
    assert len(rig.at(late_after(rig))) in (LARGE_BURST // 10_000, LARGE_BURST // 10_000 + 1)


def test_a_shot_that_waits_for_a_carrier_waits_once() -> None:
    """There was no carrier for its twin when it was overdue, nor an RTT later, nor when it was late."""
    rig = Rig()
    rig.send()
    rig.now += 0.01
    rig.acknowledge(rig.send(watch=False))
    for due in (OVERDUE, OVERDUE + RTT, OVERDUE + 2 * RTT):
        rig.now = NOW + due + 1e-5
        rig.hedger.run(rig.now, spare=False)
        assert len(rig.hedger) == 1
    assert rig.twins() == [0]


# --- settings


@pytest.mark.parametrize(
    "handling",
    [Handling(hedge=False), Handling(retries=Retries(resend=False)), Handling(hedge=False, fec=AUTO)],
    ids=["off", "without retries", "off with parity"],
)
def test_where_nothing_is_to_be_sent_twice_there_are_no_twins_later(handling: Handling) -> None:
    rig = Rig(handling)
    rig.send()
    rig.send(10_000, watch=False)
    rig.now += 0.01
    rig.acknowledge(rig.send())
    assert rig.hedger.deadline() == inf
    assert [number for seconds in range(1, 20) for number in rig.at(float(seconds))] == []


ON, OFF = Handling(), Handling(hedge=False)


@pytest.mark.parametrize("handling", [ON, OFF])
def test_where_parity_goes_by_the_line_there_are_twins_at_once_on_any(handling: Handling) -> None:
    rig = Rig(replace(handling, fec=AUTO))
    assert rig.hedger.twins_at_once(100, NOW) == rig.recovery.lateness.twins() == 1
    rig.recovery.lateness.share = 0.3
    assert rig.hedger.twins_at_once(100, NOW) == rig.recovery.lateness.twins() > 1


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3])
def test_otherwise_there_are_some_where_the_line_makes_shots_late(share: float) -> None:
    rig = Rig()
    rig.recovery.lateness.share = share
    assert rig.hedger.twins_at_once(100, NOW) == (rig.recovery.lateness.twins() if share else 0)


def test_and_until_it_is_known_that_it_does_not() -> None:
    rig = Rig()
    rig.recovery.lateness.doubt = FIRST_DOUBT
    found = []
    for _ in range(3 * SHARE_SAMPLES):
        found.append(rig.hedger.twins_at_once(10, rig.now))
        rig.recovery.lateness.count(False)
        rig.now += RTT
    assert found[0] == 2
    assert sorted(found, reverse=True) == found
    assert found[-1] == 0


@pytest.mark.parametrize(
    "handling",
    [OFF, replace(ON, fec=Fec(10, 3)), replace(ON, retries=Retries(resend=False))],
    ids=["off", "parity as asked for", "without retries"],
)
def test_where_something_else_was_asked_for_there_are_none_at_once(handling: Handling) -> None:
    rig = Rig(handling)
    rig.recovery.lateness.share = 0.3
    assert rig.hedger.twins_at_once(100, NOW) == 0


def test_a_short_line_is_none_that_makes_shots_late() -> None:
    """What is late there is the machines' doing, and twins are more work for them."""
    rig = Rig()
    rig.recovery.lateness.share = 0.3
    rig.recovery.sample_rtt(PACED_RTT / 2, NOW)
    assert rig.hedger.twins_at_once(100, NOW) == 0


def test_twins_at_once_are_all_or_none() -> None:
    rig = Rig(Handling(fec=AUTO))
    rig.recovery.lateness.share = 0.3
    count = rig.recovery.lateness.twins()
    found = [rig.hedger.twins_at_once(SMALL_SHOT, NOW) for _ in range(100)]
    assert set(found) == {0, count}
    assert sum(found) == SMALL_BURST // (count * SMALL_SHOT) * count
    assert rig.hedger.twins_at_once(SMALL_SHOT, NOW + 1.0) == count


# --- while nothing else needs the line


def spare_twins(rig: Rig, age: float, spare: bool = True) -> list[int]:
    """What is twinned when a shot that left first is so old; the numbers of what the twins are of."""
    rig.now = NOW + age
    rig.hedger.run(rig.now, spare=spare)
    found = []
    while (original := rig.hedger.next()) is not None:
        rig.hedger.sent()
        found.append(original.number)
    return found


def in_time(rig: Rig) -> float:
    return rig.recovery.lateness.in_time(RTT, ack_delay(RTT))


@pytest.mark.parametrize("spare", [True, False])
def test_while_the_line_has_room_what_is_late_gets_twins_though_nothing_overtook_it(spare: bool) -> None:
    rig = Rig()
    rig.send(10_000, watch=False)
    assert spare_twins(rig, in_time(rig) - 0.001, spare) == []
    assert spare_twins(rig, in_time(rig) + 0.001, spare) == ([0] if spare else [])
    later = [number for step in range(1, 20) for number in spare_twins(rig, in_time(rig) + step * RTT, spare)]
    assert set(later) == ({0} if spare else set())


@pytest.mark.parametrize("why", ["queue", "full"])
def test_a_line_that_is_full_has_no_room_for_twins(why: str) -> None:
    rig = Rig()
    rig.send(10_000, watch=False)
    if why == "queue":
        rig.recovery.lateness.queueing = True
    else:
        rig.recovery.on_sent(shot(1_000, NOW, int(rig.recovery.congestion.window())))
    assert spare_twins(rig, in_time(rig) + 0.001) == []


@pytest.mark.parametrize("overtaken", [True, False])
def test_behind_a_queue_only_what_was_overtaken_gets_twins(overtaken: bool) -> None:
    """Whatever that costs: nothing else needs the line."""
    rig = Rig()
    first, second = [rig.send(LARGE_BURST + 1, watch=False) for _ in range(2)]
    rig.recovery.lateness.queueing = True
    rig.now += RTT
    rig.acknowledge(second if overtaken else first)
    twins = {number for step in range(1, 10) for number in spare_twins(rig, in_time(rig) + step * RTT)}
    assert twins == ({first.number} if overtaken else set())


def test_what_arrived_meanwhile_gets_no_twin_while_there_is_room() -> None:
    rig = Rig()
    sent = rig.send(10_000, watch=False)
    rig.now += RTT
    rig.acknowledge(sent)
    assert [number for step in range(1, 10) for number in spare_twins(rig, in_time(rig) + step * RTT)] == []
    assert rig.hedger.deadline() == inf


def test_what_lagged_behind_a_full_line_is_looked_at_when_there_is_room() -> None:
    rig = Rig()
    rig.send(10_000, watch=False)
    late = late_after(rig) + RTT
    assert spare_twins(rig, late, spare=False) == []
    assert spare_twins(rig, late + 0.001) == [0]


def test_room_that_comes_and_goes_breeds_no_twins() -> None:
    """A stream whose window is used up has room again and again, a little each time."""
    rig = Rig()
    rig.send(10_000, watch=False)
    late = in_time(rig) + 0.001
    rig.now = NOW + late
    assert rig.twins(spare=True) == [0]
    found = []
    for step in range(1, 11):
        rig.now += late / 11
        found += rig.twins(spare=step % 2 == 0)
    assert found == []
    rig.now = NOW + 2 * late
    assert rig.twins(spare=True) == [0]
