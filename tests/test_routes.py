"""Which carrier takes what, in every mode, with and without sync and retry carriers."""

from __future__ import annotations

from math import inf

import pytest
from account import shot
from hypothesis import given
from hypothesis import strategies as st
from owner import Owner

from tcsplitter.carrier import Action, Carrier, CarrierSet, PeerCarriers
from tcsplitter.modes import MODES, Kind, reserve
from tcsplitter.payload import PayloadSize
from tcsplitter.recovery import Recovery
from tcsplitter.routes import SYNC_RTTS, SYNC_SECONDS, YIELD_RTTS, YIELD_SECONDS, Routes

NOW = 100.0
RTT = 0.05
PATIENCE = SYNC_RTTS * RTT + SYNC_SECONDS
MODE = pytest.mark.parametrize("mode", MODES)
CLIENT = pytest.mark.parametrize("client", [True, False], ids=["client", "server"])


class Rig:
    """One end's carriers and the choice among them."""

    def __init__(self, mode: str, client: bool, keep: int = 0) -> None:
        actions: list[Action] = []
        self.mode = MODES[mode]
        self.carriers = CarrierSet(client, 1, self.mode.carries(client), actions)
        self.peer = PeerCarriers()
        self.peer.payload_at = NOW
        self.recovery = Recovery(PayloadSize(10_000))
        self.recovery.sample_rtt(RTT, NOW)
        self.routes = Routes(self.mode, client, keep, self.carriers, self.peer, self.recovery)
        self.numbers = iter(range(1_000))

    def add(self, kind: Kind, confirmed: bool = True) -> Carrier:
        carrier = Carrier(kind, NOW)
        self.carriers.adopt(carrier, Owner(), 25.0, NOW)
        if not confirmed:
            self.carriers.greet(carrier, next(self.numbers))
        return carrier

    def due(self, kind: Kind) -> Carrier:
        """One on which something came."""
        carrier = self.add(kind)
        self.carriers.make_due(carrier, NOW + 0.01)
        return carrier


@MODE
@CLIENT
def test_payload_goes_on_the_kinds_of_the_mode_in_their_order(mode: str, client: bool) -> None:
    rig = Rig(mode, client)
    found = []
    for kind in Kind:
        rig.add(kind)
    while (carrier := rig.routes.payload(True, NOW)) is not None:
        found.append(carrier.kind)
        rig.carriers.used(carrier, True, 3.0, NOW)
    assert tuple(found) == rig.mode.carries(client)


@MODE
@CLIENT
def test_a_half_that_is_due_is_taken_first_if_it_may_carry_payload(mode: str, client: bool) -> None:
    rig = Rig(mode, client)
    due = {kind: rig.due(kind) for kind in (Kind.FLING, Kind.LASSO, Kind.RETRY)}
    idle = rig.add(rig.mode.carries(client)[0])
    carrier = rig.routes.payload(True, NOW)
    assert carrier is not None
    assert carrier is not idle
    assert carrier in due.values()
    assert carrier.kind in rig.mode.carries(client)


def test_in_mode_none_no_half_of_a_connection_answers_payload_with_payload() -> None:
    server = Rig("none", client=False)
    fling = server.due(Kind.FLING)
    assert server.routes.payload(True, NOW) is None
    assert server.routes.control(NOW) is fling, "acks and control frames ride there"
    client = Rig("none", client=True)
    client.due(Kind.LASSO)
    assert client.routes.payload(True, NOW) is None


@given(want=st.integers(0, 6), idle=st.integers(0, 6), due=st.booleans())
def test_incoming_data_wins_on_lassoes(want: int, idle: int, due: bool) -> None:
    """The client takes an idle lasso only beyond what the server wants, and one that brought something always."""
    rig = Rig("lasso", client=True)
    rig.peer.state(0, want, idle, NOW)
    for _ in range(idle):
        rig.add(Kind.LASSO)
    brought = rig.due(Kind.LASSO) if due else None
    carrier = rig.routes.payload(True, NOW)
    if brought is not None:
        assert carrier is brought
    else:
        assert (carrier is not None) == (idle > want)
    assert (rig.routes.control(NOW) is not None) == (idle > 0 or due), "control frames do not wait for that"


def test_a_server_that_sends_nothing_does_not_hold_the_client_back() -> None:
    """What it said last it wants may be long ago, or more than the pool can ever hold."""
    rig = Rig("lasso", client=True)
    rig.peer.state(0, 50, 1, NOW)
    rig.add(Kind.LASSO)
    pause = YIELD_RTTS * RTT + YIELD_SECONDS
    assert rig.routes.payload(True, NOW + 0.9 * pause) is None
    assert rig.routes.yields_until == pytest.approx(NOW + pause)
    assert rig.routes.payload(True, NOW + 1.1 * pause) is not None


@MODE
@CLIENT
def test_bulk_leaves_the_reserve_alone(mode: str, client: bool) -> None:
    rig = Rig(mode, client, keep=2)
    rig.recovery.in_flight = 1
    first = rig.mode.carries(client)[0]
    for count in (1, 2, 3):
        rig.add(first)
        assert (rig.routes.payload(False, NOW) is not None) == (count > 2)
        assert rig.routes.payload(True, NOW) is not None


@MODE
@CLIENT
def test_bulk_takes_the_reserve_in_its_first_round_trip(mode: str, client: bool) -> None:
    rig = Rig(mode, client, keep=2)
    rig.recovery.on_sent(shot(0, NOW))
    rig.add(rig.mode.carries(client)[0])
    assert rig.routes.payload(False, NOW + 1.1 * RTT) is None
    assert rig.routes.payload(False, NOW + 0.9 * RTT) is not None


@MODE
@CLIENT
@pytest.mark.parametrize("under_way", [0, 1])
def test_repair_takes_the_reserve_only_if_it_is_urgent(mode: str, client: bool, under_way: int) -> None:
    """Unlike payload it leaves the reserve alone while nothing is under way too."""
    rig = Rig(mode, client, keep=2)
    rig.recovery.in_flight = under_way
    for count in (1, 2, 3):
        rig.add(rig.mode.carries(client)[0])
        assert (rig.routes.repair(False, NOW, ()) is not None) == (count > 2)
        assert rig.routes.repair(True, NOW, ()) is not None


@MODE
@CLIENT
@given(
    keep=st.integers(0, 3),
    urgent=st.booleans(),
    has_due=st.booleans(),
    added=st.lists(st.tuples(st.sampled_from(Kind), st.booleans()), max_size=8),
    excluded=st.integers(0, 2**9 - 1),
)
def test_repair_goes_on_what_may_carry_payload_and_never_on_what_its_stripe_uses(
    mode: str, client: bool, keep: int, urgent: bool, has_due: bool, added: list[tuple[Kind, bool]], excluded: int
) -> None:
    rig = Rig(mode, client, keep)
    allowed = rig.mode.carries(client)
    due = [rig.due(allowed[0])] if has_due else []
    idle = [rig.add(kind, confirmed) for kind, confirmed in added]
    without = {carrier for place, carrier in enumerate(due + idle) if excluded >> place & 1}
    spare = [carrier for carrier in idle if carrier.kind in allowed]
    beyond = spare if urgent or len(spare) > keep else []
    free = [carrier for carrier in due if carrier not in without] or [carrier for carrier in beyond if carrier not in without]
    carrier = rig.routes.repair(urgent, NOW, without)
    assert carrier in free if free else carrier is None


def test_urgent_repair_rather_goes_where_no_hello_may_be_stuck() -> None:
    rig = Rig("fling", client=True)
    known, unknown = rig.add(Kind.FLING), rig.add(Kind.FLING, confirmed=False)
    assert rig.routes.repair(False, NOW, ()) is unknown, "the newest"
    assert rig.routes.repair(True, NOW, ()) is known
    assert rig.routes.repair(True, NOW, {known}) is unknown
    assert rig.routes.repair(True, NOW, {known, unknown}) is None


@pytest.mark.parametrize("urgent", [True, False])
def test_repair_too_leaves_the_lassoes_that_the_server_wants(urgent: bool) -> None:
    rig = Rig("lasso", client=True)
    rig.peer.state(0, 2, 3, NOW)
    for count in (1, 2, 3):
        rig.add(Kind.LASSO)
        assert (rig.routes.repair(urgent, NOW, ()) is not None) == (count > 2)


def test_what_was_lost_has_retry_carriers() -> None:
    rig = Rig("fling", client=True)
    rig.add(Kind.FLING)
    assert rig.routes.lost() is None
    retry = rig.add(Kind.RETRY)
    assert rig.routes.lost() is retry
    assert rig.routes.payload(True, NOW) is not retry


class TestSync:
    """Control frames go on a sync carrier that the other end is known to have, while it answers."""

    def test_one_whose_hello_may_not_have_arrived_is_not_used(self) -> None:
        rig = Rig("fling", client=True)
        sync, fling = rig.add(Kind.SYNC, confirmed=False), rig.add(Kind.FLING)
        assert rig.routes.control(NOW) is fling
        rig.carriers.confirm([(sync.hello, sync.hello)])
        assert rig.routes.control(NOW) is sync

    def test_one_that_owes_an_answer_for_too_long_is_passed_over_until_it_gives_it(self) -> None:
        rig = Rig("fling", client=False)
        first, second, fling = rig.add(Kind.SYNC), rig.add(Kind.SYNC), rig.add(Kind.FLING)
        first.asked_at = NOW
        assert rig.routes.control(NOW + 0.9 * PATIENCE) is first
        assert rig.routes.control(NOW + PATIENCE) is second
        second.asked_at = NOW
        assert rig.routes.control(NOW + PATIENCE) is fling
        first.asked_at = inf
        assert rig.routes.control(NOW + PATIENCE) is first

    def test_its_silence_is_noticed_once_and_on_time(self) -> None:
        rig = Rig("fling", client=False)
        sync = rig.add(Kind.SYNC)
        assert rig.routes.deadline() == inf
        sync.asked_at = NOW
        assert rig.routes.deadline() == NOW + PATIENCE
        assert rig.routes.fell_silent(NOW + 0.9 * PATIENCE) == []
        assert rig.routes.fell_silent(NOW + PATIENCE) == [sync]
        assert rig.routes.fell_silent(NOW + PATIENCE) == []
        assert rig.routes.deadline() == inf
        sync.asked_at = NOW + 1.0
        assert rig.routes.fell_silent(NOW + 1.0) == []
        assert rig.routes.fell_silent(NOW + 1.0 + PATIENCE) == [sync]


@pytest.mark.parametrize(("pool", "burst", "kept"), [(4, 0, 2), (3, 0, 0), (1, 0, 0), (1, 64, 2)])
def test_small_fixed_pools_have_no_reserve(pool: int, burst: int, kept: int) -> None:
    assert reserve(pool, burst) == kept
