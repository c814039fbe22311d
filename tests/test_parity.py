"""Stripes of what this end sends: when they are complete, what their parity covers, and what becomes of parity that waits."""

from __future__ import annotations

import random
from itertools import pairwise
from math import inf

import pytest
from account import shot
from hypothesis import given
from hypothesis import strategies as st

from tcsplitter._core import MAX_SEALED, Fec, ShotWriter
from tcsplitter.carrier import Carrier
from tcsplitter.modes import Kind
from tcsplitter.options import Fec as Setting
from tcsplitter.options import Retries
from tcsplitter.parity import AUTO_DATA, DROP_RTTS, DROP_SECONDS, MAX_SHOT, SHORTEST_WAIT, SIZE_JUMP, Parity, Stripe, Stripes
from tcsplitter.payload import PayloadSize
from tcsplitter.recovery import Recovery
from tcsplitter.shared import Handling

NOW = 100.0
RTT = 0.1
DELAY = 0.01
AUTO = Setting(auto=True)


class Rig:
    """Stripes of an end whose shots are given by hand."""

    def __init__(self, setting: Setting, tock: float = 0.0, share: float = 0.1, resend: bool = True) -> None:
        self.recovery = Recovery(PayloadSize(10_000))
        self.recovery.sample_rtt(RTT, NOW)
        self.recovery.lateness.share = share
        self.stripes = Stripes(Handling(fec=setting, tock=tock, retries=Retries(resend=resend)), self.recovery)
        self.now = NOW
        self.number = 0
        self.sealed: dict[int, bytes] = {}
        self.on: dict[int, Carrier] = {}

    def send(self, size: int = 100, on: Carrier | None = None, others: float = inf, urgent: bool = False) -> Carrier:
        """A data shot leaves."""
        carrier = on or Carrier(Kind.FLING, 0.0)
        sealed = self.sealed[self.number] = random.Random(self.number).randbytes(size)
        sent = shot(self.number, self.now, size)
        sent.carrier = carrier
        self.recovery.on_sent(sent)
        self.on[self.number] = carrier
        self.stripes.add(sent, sealed, others, urgent, self.now)
        self.number += 1
        return carrier

    def taken(self) -> list[Parity]:
        """All parity that waits, sent at once."""
        found = []
        while (parity := self.stripes.next(self.now)) is not None:
            found.append(parity)
            self.stripes.sent(Carrier(Kind.FLING, 0.0))
        return found

    def closed(self) -> list[list[int]]:
        """The numbers of the stripes that were closed, of which parity waits."""
        return [stripe.numbers for stripe in dict.fromkeys(parity.stripe for parity in self.taken())]


def fixed(data: int, parity: int, tock: float = 0.0) -> Rig:
    return Rig(Setting(data, parity), tock)


# --- what a stripe covers

sizes = st.sampled_from([1, 40, 100, 399, 401, 2000])
sends = st.tuples(st.sampled_from(["new", "new", "new", "again"]), sizes, st.sampled_from([inf, 0, 1, 2, 5]))
steps = st.one_of(sends, sends, sends, st.sampled_from(["time", "close"]))


@given(data=st.integers(1, 6), parity=st.integers(1, 3), plan=st.lists(steps, max_size=40))
def test_whatever_is_sent_is_covered_once_and_comes_back(
    data: int, parity: int, plan: list[tuple[str, int, float] | str]
) -> None:
    rig = fixed(data, parity, tock=0.05)
    found = []
    for step in plan:
        if step == "close":
            rig.stripes.close(rig.now)
        elif isinstance(step, str):
            rig.now += 0.03
            rig.stripes.run(rig.now, DELAY)
        else:
            what, size, others = step
            rig.send(size, rig.on[rig.number - 1] if what == "again" and rig.number else None, others)
        found += rig.taken()
    rig.stripes.close(rig.now)
    found += rig.taken()
    stripes = list(dict.fromkeys(each.stripe for each in found))
    numbers = [number for stripe in stripes for number in stripe.numbers]
    assert numbers == list(range(rig.number))
    for stripe in stripes:
        blocks = [each for each in found if each.stripe is stripe]
        assert [(each.index, each.count) for each in blocks] == [(index, parity) for index in range(parity)]
        assert 1 <= len(stripe.numbers) <= data
        used = [rig.on[number] for number in stripe.numbers]
        assert len(set(used)) == len(used), "no two shots of a stripe share a carrier"
        assert stripe.carriers >= set(used)
        shots = [rig.sealed[number] for number in stripe.numbers]
        assert all(len(later) <= SIZE_JUMP * max(map(len, shots[: at + 1])) for at, later in enumerate(shots[1:]))
        lost = set(range(min(parity, len(shots))))
        kept = {at: each for at, each in enumerate(shots) if at not in lost}
        code = Fec(len(shots), parity)
        assert code.rebuild(kept, {each.index: each.block for each in blocks}) == {at: shots[at] for at in lost}


# --- when a stripe is complete


def test_a_stripe_is_complete_when_it_is_full() -> None:
    rig = fixed(3, 1)
    for count in (1, 2):
        rig.send()
        assert (rig.stripes.gathered, len(rig.stripes)) == (count, 0)
    rig.send()
    assert (rig.stripes.gathered, len(rig.stripes)) == (0, 1)
    assert rig.closed() == [[0, 1, 2]]


def test_where_the_line_decides_a_full_stripe_has_so_many_shots() -> None:
    rig = Rig(AUTO)
    for _ in range(AUTO_DATA - 1):
        rig.send()
    assert not rig.stripes
    rig.send()
    assert rig.closed() == [list(range(AUTO_DATA))]


@pytest.mark.parametrize(("size", "closes"), [(SIZE_JUMP * 100, False), (SIZE_JUMP * 100 + 1, True), (1, False)])
def test_a_jump_in_size_begins_another_stripe(size: int, closes: bool) -> None:
    rig = fixed(10, 1)
    rig.send(50)
    rig.send(100)
    rig.send(size)
    assert rig.closed() == ([[0, 1]] if closes else [])
    assert rig.stripes.gathered == (1 if closes else 3)


def test_a_carrier_that_is_used_again_begins_another_stripe() -> None:
    rig = fixed(10, 1)
    first = rig.send()
    rig.send()
    rig.send(on=first)
    assert rig.closed() == [[0, 1]]
    rig.send(on=first)
    assert rig.closed() == [[2]]


@pytest.mark.parametrize(("others", "closes"), [(0, True), (2, True), (3, False), (inf, False)])
def test_a_stripe_that_would_leave_no_carriers_for_its_parity_is_complete(others: float, closes: bool) -> None:
    rig = fixed(10, 2)
    rig.send(others=others)
    assert rig.closed() == ([[0]] if closes else [])


@pytest.mark.parametrize(
    ("tock", "delay", "wait"), [(0.0, DELAY, DELAY), (0.0, 0.0, SHORTEST_WAIT), (0.05, DELAY, 0.05), (0.002, DELAY, 0.002)]
)
def test_a_stripe_waits_no_longer_than_a_tock_or_the_delay_of_an_ack(tock: float, delay: float, wait: float) -> None:
    rig = fixed(10, 1, tock)
    assert rig.stripes.deadline(delay) == inf
    rig.stripes.run(rig.now, delay)
    rig.send()
    rig.now += wait / 2
    rig.send()
    assert rig.stripes.deadline(delay) == NOW + wait
    rig.now = NOW + wait - 1e-4
    rig.stripes.run(rig.now, delay)
    assert rig.stripes.gathered == 2
    rig.now = NOW + wait
    rig.stripes.run(rig.now, delay)
    assert rig.stripes.deadline(delay) == inf
    assert rig.closed() == [[0, 1]]


def test_no_stripe_is_closed_before_it_was_begun() -> None:
    rig = fixed(2, 1)
    rig.stripes.close(NOW)
    assert rig.taken() == []


# --- how much parity


@pytest.mark.parametrize(("data", "parity"), [(1, 1), (10, 3), (5, 5), (2, 10), (251, 5)])
def test_a_setting_gives_every_stripe_its_parity(data: int, parity: int) -> None:
    rig = fixed(data, parity)
    for _ in range(data):
        rig.send(5)
    rig.send(5)
    rig.stripes.close(rig.now)
    assert len(rig.taken()) == 2 * parity


@pytest.mark.parametrize("share", [0.0, 0.001])
def test_a_clean_line_gets_none(share: float) -> None:
    rig = Rig(AUTO, share=share)
    for _ in range(2 * AUTO_DATA):
        rig.send()
    rig.stripes.close(rig.now)
    assert not rig.stripes
    assert rig.taken() == []


def test_where_the_line_decides_parity_is_what_lateness_says() -> None:
    rig = Rig(AUTO, share=0.2)
    for count in (1, 3, 7):
        for _ in range(count):
            rig.send()
        rig.stripes.close(rig.now)
        assert len(rig.taken()) == rig.recovery.lateness.parity(count)
    rig.recovery.lateness.queueing = True
    rig.send()
    rig.stripes.close(rig.now)
    assert rig.taken() == []


def test_shots_too_long_for_parity_are_not_covered() -> None:
    rig = fixed(2, 1)
    rig.send(MAX_SHOT + 1)
    assert rig.stripes.gathered == 0
    rig.send(MAX_SHOT)
    rig.send(MAX_SHOT + 1)
    rig.send(MAX_SHOT)
    (parity,) = rig.taken()
    assert parity.stripe.numbers == [1, 3]


def test_the_longest_shots_of_the_largest_stripes_have_parity_that_can_be_sent() -> None:
    writer = ShotWriter()
    writer.begin(0, 0)
    numbers = [2**60 + 2**50 * number for number in range(255)]  # as long as numbers can be on the wire
    block = Fec(1, 1).encode([bytes(MAX_SHOT)])[0]
    writer.parity(0, 255, 1, numbers, block)
    assert writer.size < MAX_SEALED


# --- parity that waits


def test_what_waits_goes_in_order_and_names_its_carriers() -> None:
    rig = fixed(2, 2)
    used = [rig.send() for _ in range(4)]
    went: list[tuple[int, list[int]]] = []
    for left in (4, 3, 2, 1):
        assert len(rig.stripes) == left
        parity = rig.stripes.next(rig.now)
        assert parity is not None
        assert parity is rig.stripes.next(rig.now), "it is not sent before it is said to be"
        went.append((parity.index, parity.stripe.numbers))
        carrier = Carrier(Kind.FLING, 0.0)
        assert carrier not in parity.stripe.carriers
        rig.stripes.sent(carrier)
        assert carrier in parity.stripe.carriers
        assert parity.stripe.carriers >= set(used[parity.stripe.numbers[0] : parity.stripe.numbers[-1] + 1])
    assert went == [(0, [0, 1]), (1, [0, 1]), (0, [2, 3]), (1, [2, 3])]
    assert rig.stripes.next(rig.now) is None
    assert not rig.stripes


@pytest.mark.parametrize(("urgent", "all_urgent"), [((True, True), True), ((True, False), False), ((False, True), False)])
def test_parity_is_urgent_if_all_of_its_stripe_was(urgent: tuple[bool, bool], all_urgent: bool) -> None:
    rig = fixed(2, 1)
    for each in urgent:
        rig.send(urgent=each)
    (parity,) = rig.taken()
    assert parity.stripe.urgent == all_urgent


def test_a_stripe_that_was_acknowledged_needs_no_parity() -> None:
    rig = fixed(2, 2)
    for _ in range(6):
        rig.send()
    rig.recovery.on_ack(1, 0.0, [(0, 1)], [], 6, NOW + 0.05)
    rig.recovery.on_ack(2, 0.0, [(2, 2)], [], 6, NOW + 0.05)
    rig.recovery.on_ack(4, 0.0, [(4, 4)], [(5, 5)], 6, NOW + 0.05)
    assert [each.stripe.numbers for each in rig.taken()] == [[2, 3]] * 2


def test_shots_that_were_lost_go_again_and_need_no_parity() -> None:
    rig = fixed(2, 1)
    for number in range(2):
        rig.send()
        rig.recovery.lose(number, False, NOW)
    assert rig.taken() == []


@pytest.mark.parametrize("resend", [True, False])
@pytest.mark.parametrize("rtt", [0.01, 1.0])
def test_parity_that_found_no_carrier_for_long_is_dropped(rtt: float, resend: bool) -> None:
    """Where nothing is sent again it is worth something for longer."""
    rig = Rig(Setting(1, 2), resend=resend)
    rig.recovery.congestion.rtt = rtt
    limit = max(DROP_RTTS * rtt, DROP_SECONDS) if resend else rig.recovery.give_up_after()
    rig.send()
    rig.now += limit / 2
    rig.send()
    rig.now = NOW + 0.99 * limit
    parity = rig.stripes.next(rig.now)
    assert parity is not None
    assert parity.stripe.numbers == [0]
    rig.now = NOW + 1.01 * limit
    assert [each.stripe.numbers for each in rig.taken()] == [[1]] * 2


@given(st.lists(st.tuples(st.floats(0.0, 0.05), st.integers(1, 400)), max_size=60))
def test_what_waits_is_bounded_though_nothing_can_go(plan: list[tuple[float, int]]) -> None:
    rig = fixed(2, 2)
    sent_at = []
    for pause, size in plan:
        rig.now += pause
        rig.send(size)
        sent_at.append(rig.now)
        rig.stripes.next(rig.now)
    limit = max(DROP_RTTS * RTT, DROP_SECONDS)
    assert len(rig.stripes) <= 2 * sum(at >= rig.now - limit - 1e-9 for at in sent_at)


def test_what_was_sent_is_not_kept_by_what_waits() -> None:
    """A stripe keeps its shots only until its parity is made."""
    rig = fixed(2, 1)
    for _ in range(2):
        rig.send()
    (parity,) = rig.taken()
    assert parity.stripe.sealed == []


@pytest.mark.parametrize(
    ("setting", "used", "auto"), [(Setting(), False, False), (Setting(3, 1), True, False), (AUTO, True, True)]
)
def test_what_a_setting_means(setting: Setting, used: bool, auto: bool) -> None:
    stripes = Stripes(Handling(fec=setting), Recovery(PayloadSize(10_000)))
    assert (stripes.used, stripes.auto) == (used, auto)


def test_stripes_of_many_shapes() -> None:
    """As few shots as came are covered as they are, without padding by others."""
    rig = fixed(4, 2)
    shapes = [1, 4, 2, 3, 4, 1]
    for count in shapes:
        for _ in range(count):
            rig.send()
        rig.stripes.close(rig.now)
    found = list(dict.fromkeys(each.stripe for each in rig.taken()))
    assert all(isinstance(each, Stripe) for each in found)
    assert [len(each.numbers) for each in found] == shapes
    assert all(one.numbers[-1] + 1 == other.numbers[0] for one, other in pairwise(found))
