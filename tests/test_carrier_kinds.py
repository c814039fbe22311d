"""Which of the carriers of several kinds is used next: for payload by the mode, for answers whatever has to be used first."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tcsplitter.carrier import Action, Carrier, CarrierSet, Op
from tcsplitter.config import SessionConfig
from tcsplitter.modes import MODES, Kind
from tcsplitter.outbox import Outbox
from tcsplitter.session import Session

NOW = 100.0
IDLE = 25.0
GIVE_UP = 3.0
ORDERS = sorted({kinds for mode in MODES.values() for kinds in (mode.up, mode.down)})
"""Kinds that may carry payload, in the order in which they are taken."""


class Model:
    """A set of carriers, and what should be in it: its promises written down in the plainest way."""

    def __init__(self, payload: tuple[Kind, ...], reuse: int, client: bool) -> None:
        self.payload = payload
        self.reuse = reuse
        self.now = NOW
        self._actions: list[Action] = []
        self.set = CarrierSet(client, reuse, payload, self._actions)
        self.session = Session(SessionConfig(client), "test", Outbox(), {}, NOW)
        self.open: list[Carrier] = []
        self.idle: list[Carrier] = []
        """The newest last."""
        self.due: list[Carrier] = []
        """In the order of their deadlines."""

    # what a session does

    def adopt(self, number: int) -> None:
        carrier = Carrier(Kind(number % len(Kind)), self.now)
        self.set.adopt(carrier, self.session, IDLE, self.now)
        self.open.append(carrier)
        self.idle.append(carrier)

    def owe(self, number: int) -> None:
        """A data shot came on one; its answer waits longer than all that wait already, or as long."""
        carrier = self._pick(self.open, number)
        if carrier is not None:
            self.now += number % 2
            self.set.make_due(carrier, self.now)
            if not carrier.tx_final and carrier not in self.due:
                self.due.append(carrier)
                self._idle_no_more(carrier)

    def answer(self, number: int) -> None:
        """What has to be used first is used."""
        carrier = self.set.next_due()
        if carrier is not None:
            self._use(carrier, bool(number % 2))

    def send(self, number: int) -> None:
        carrier = self.set.take(number)
        if carrier is not None:
            self._use(carrier, self.reuse == 1)

    def send_again(self, number: int) -> None:
        carrier = self.set.take_idle(Kind(number % len(Kind)))
        if carrier is not None:
            self._use(carrier, self.reuse == 1)

    def _use(self, carrier: Carrier, final: bool) -> None:
        self.set.used(carrier, final, GIVE_UP, self.now)
        self._idle_no_more(carrier)
        if carrier in self.due:
            self.due.remove(carrier)
        if not final:
            self.idle.append(carrier)

    def drop(self, number: int) -> None:
        carrier = self._pick(self.open, number)
        if carrier is not None:
            self.set.drop(carrier, Op.RESET)
            self.open.remove(carrier)
            self._idle_no_more(carrier)
            if carrier in self.due:
                self.due.remove(carrier)

    def suspend(self, number: int) -> None:
        carrier = self._pick(self.idle, number)
        if carrier is not None:
            self.set.suspend(carrier)
            self.idle.remove(carrier)

    def resume(self, number: int) -> None:
        carrier = self._pick(self.open, number)
        if carrier is not None:
            self.set.resume(carrier)
            if not carrier.tx_final and carrier not in self.due and carrier not in self.idle:
                self.idle.append(carrier)

    def block(self, number: int) -> None:
        """The kernel takes no more on one, or takes more again."""
        carrier = self._pick(self.open, number)
        if carrier is not None:
            carrier.backlog ^= 1

    def _pick(self, carriers: list[Carrier], number: int) -> Carrier | None:
        return carriers[number % len(carriers)] if carriers else None

    def _idle_no_more(self, carrier: Carrier) -> None:
        if carrier in self.idle:
            self.idle.remove(carrier)

    # what is promised

    def idle_of(self, kind: Kind) -> list[Carrier]:
        return [carrier for carrier in self.idle if carrier.kind is kind]

    def first_idle(self, kind: Kind) -> Carrier | None:
        """The newest that can be written to; with reuse the one that was not used for longest."""
        usable = [carrier for carrier in self.idle_of(kind) if not carrier.backlog]
        return None if not usable else usable[-1 if self.reuse == 1 else 0]

    def for_payload(self, reserve: int) -> Carrier | None:
        due = [carrier for carrier in self.due if carrier.kind in self.payload and not carrier.backlog]
        if due:
            return due[0]
        if sum(len(self.idle_of(kind)) for kind in self.payload) <= reserve:
            return None
        return next((found for kind in self.payload if (found := self.first_idle(kind)) is not None), None)

    def first_due(self) -> Carrier | None:
        """Of those that have to be used at the same time one that can take payload along."""
        if not self.due:
            return None
        first = min(carrier.ack_by for carrier in self.due)
        return min((c for c in self.due if c.ack_by == first), key=lambda carrier: carrier.kind not in self.payload)

    def check(self) -> None:
        assert list(self.set.all) == self.open
        for kind in Kind:
            assert self.set.alive[kind] == sum(carrier.kind is kind for carrier in self.open)
            assert list(self.set.idle[kind]) == self.idle_of(kind)
            assert self.set.take_idle(kind) is self.first_idle(kind)
        assert self.set.count_idle() == sum(carrier.kind in self.payload for carrier in self.idle)
        assert self.set.next_due() is self.first_due()
        for reserve in (0, 1, 2, 5):
            assert self.set.take(reserve) is self.for_payload(reserve)


STEPS: list[Callable[[Model, int], None]] = [
    Model.adopt, Model.owe, Model.answer, Model.send, Model.send_again, Model.drop, Model.suspend, Model.resume, Model.block,
]  # fmt: skip


@example(MODES["both"].up, 0, False, 2, [(Model.owe, 0), (Model.owe, 1), (Model.block, 0)])
@given(
    payload=st.sampled_from(ORDERS),
    reuse=st.sampled_from([0, 1, 3]),
    client=st.booleans(),
    count=st.integers(0, 12),
    plan=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 20)), max_size=60),
)
def test_every_choice_is_the_promised_one(
    payload: tuple[Kind, ...], reuse: int, client: bool, count: int, plan: list[tuple[Callable[[Model, int], None], int]]
) -> None:
    model = Model(payload, reuse, client)
    for number in range(count):
        model.adopt(number)
    for step, number in plan:
        step(model, number)
        model.check()


# --- by example


class Rig:
    """Idle carriers of the kinds that a test names, in that order; flings carry payload, then lassoes."""

    def __init__(self, *kinds: Kind, payload: tuple[Kind, ...] = (Kind.FLING, Kind.LASSO), reuse: int = 1) -> None:
        self.set = CarrierSet(True, reuse, payload, [])
        session = Session(SessionConfig(True), "test", Outbox(), {}, NOW)
        self.carriers = [Carrier(kind, NOW) for kind in kinds]
        for carrier in self.carriers:
            self.set.adopt(carrier, session, IDLE, NOW)

    def taken(self, reserve: int = 0) -> list[Kind]:
        """The kinds of all that are taken for payload, one after the other."""
        found = []
        while (carrier := self.set.take(reserve)) is not None:
            self.set.used(carrier, True, GIVE_UP, NOW)
            found.append(carrier.kind)
        return found


F, L, S, R = Kind.FLING, Kind.LASSO, Kind.SYNC, Kind.RETRY


@pytest.mark.parametrize(("payload", "taken"), [((F,), [F, F]), ((L,), [L, L]), ((F, L), [F, F, L, L]), ((L, F), [L, L, F, F])])
def test_payload_goes_on_the_kinds_of_the_mode_in_their_order(payload: tuple[Kind, ...], taken: list[Kind]) -> None:
    assert Rig(F, L, S, R, R, L, F, S, payload=payload).taken() == taken


@pytest.mark.parametrize(("reserve", "count"), [(0, 3), (1, 2), (2, 1), (3, 0)])
def test_the_reserve_is_of_all_kinds_that_carry_payload_together(reserve: int, count: int) -> None:
    rig = Rig(F, L, L, S, R)
    assert len(rig.taken(reserve)) == count
    assert len(rig.set.idle[S]) == len(rig.set.idle[R]) == 1


def test_what_carries_no_payload_has_to_answer_all_the_same() -> None:
    rig = Rig(F, L, payload=(F,))
    fling, lasso = rig.carriers
    rig.set.make_due(lasso, NOW + 1)
    rig.set.make_due(fling, NOW + 2)
    assert rig.set.next_due() is lasso
    assert rig.set.take(0) is fling
    rig.set.used(fling, True, GIVE_UP, NOW)
    assert rig.set.take(0) is None
    assert rig.set.next_due() is lasso
    rig.set.used(lasso, True, GIVE_UP, NOW)
    assert rig.set.next_due() is None


@pytest.mark.parametrize(("kind", "reuse", "left"), [(F, 1, 1), (F, 0, -1), (L, 3, 3), (R, 3, 3), (S, 1, -1), (S, 3, -1)])
def test_sync_carriers_are_not_bound_by_reuse(kind: Kind, reuse: int, left: int) -> None:
    assert Rig(kind, reuse=reuse).carriers[0].tx_left == left


def test_those_on_their_way_are_told_apart_by_kind() -> None:
    rig = Rig(F, F, L, S)
    for number, carrier in enumerate(rig.carriers):
        rig.set.greet(carrier, number)
    assert [rig.set.on_their_way(kind, -inf, -inf) for kind in Kind] == [2, 1, 1, 0]
    rig.set.confirm([(1, 2)])
    assert [rig.set.on_their_way(kind, -inf, -inf) for kind in Kind] == [1, 0, 1, 0]
