"""Carriers and their halves: the table in Carrier's docstring for both roles, and which carrier is used next."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from owner import Owner
from shots import AEAD, seal

from tcsplitter._core import FINAL, HEADER_SIZE, ShotReader, ShotWriter
from tcsplitter.carrier import Action, Carrier, CarrierSet, Op, PeerCarriers
from tcsplitter.chunks import Control
from tcsplitter.config import SessionConfig
from tcsplitter.errors import RemoteProtocolError
from tcsplitter.modes import Kind
from tcsplitter.outbox import Outbox
from tcsplitter.session import Session

NOW = 100.0
IDLE = 25.0
GIVE_UP = 3.0
ACK_DELAY = 0.01
CLIENT, SERVER = True, False
BOTH_ROLES = pytest.mark.parametrize("client", [CLIENT, SERVER])


class Rig:
    """A set of carriers, all adopted at NOW, and what it asks of the I/O side."""

    def __init__(self, client: bool, count: int = 1, reuse: int = 1) -> None:
        self._actions: list[Action] = []
        self.set = CarrierSet(client, reuse, (Kind.FLING,), self._actions)
        self.carriers = [self.adopt() for _ in range(count)]

    def adopt(self) -> Carrier:
        carrier = Carrier(Kind.FLING, NOW)
        self.set.adopt(carrier, Owner(), IDLE, NOW)
        return carrier

    def use(self, carrier: Carrier, final: bool = True, now: float = NOW) -> None:
        self.set.used(carrier, final, GIVE_UP, now)

    def finish(self, carrier: Carrier, now: float = NOW) -> None:
        self.set.finished(carrier, ACK_DELAY, GIVE_UP, now)

    def ops(self) -> list[Op]:
        """What it asked for since the last call."""
        found = [op for op, _, data in self._actions if data == b""]
        self._actions.clear()
        return found

    def state(self, carrier: Carrier) -> str:
        if carrier.closed:
            assert carrier not in self.set.all
            assert carrier not in self.set.idle[Kind.FLING]
            return "closed"
        assert carrier in self.set.all
        if carrier in self.set.idle[Kind.FLING]:
            return "idle"
        return "due" if carrier.ack_by < inf else "waits"


# --- the table, row by row


@BOTH_ROLES
def test_no_final_of_either(client: bool) -> None:
    rig = Rig(client)
    (carrier,) = rig.carriers
    assert rig.state(carrier) == "idle"
    assert carrier.expires_at == NOW + IDLE
    rig.set.make_due(carrier, NOW + 1)
    assert rig.state(carrier) == "due"
    assert rig.set.next_due() is carrier
    rig.use(carrier, final=False, now=NOW + 1)
    assert rig.state(carrier) == "idle"
    assert rig.set.next_due() is None
    assert rig.ops() == []


@pytest.mark.parametrize(("client", "ops"), [(CLIENT, []), (SERVER, [Op.SHUT])])
def test_final_was_sent(client: bool, ops: list[Op]) -> None:
    rig = Rig(client)
    (carrier,) = rig.carriers
    rig.use(carrier, now=NOW + 5)
    assert rig.state(carrier) == "waits"
    assert carrier.expires_at == NOW + 5 + GIVE_UP
    assert rig.ops() == ops
    rig.set.make_due(carrier, NOW + 6)
    assert rig.state(carrier) == "waits"


@pytest.mark.parametrize(("client", "by"), [(CLIENT, NOW + ACK_DELAY), (SERVER, NOW)])
def test_final_was_read(client: bool, by: float) -> None:
    rig = Rig(client)
    (carrier,) = rig.carriers
    rig.finish(carrier)
    assert rig.state(carrier) == "due"
    assert carrier.ack_by == by
    assert carrier.expires_at == NOW + GIVE_UP
    assert rig.ops() == []


def test_a_data_shot_that_was_final_is_answered_by_its_own_deadline() -> None:
    rig = Rig(SERVER)
    (carrier,) = rig.carriers
    rig.set.make_due(carrier, NOW + ACK_DELAY)
    rig.finish(carrier)
    assert carrier.ack_by == NOW + ACK_DELAY


@pytest.mark.parametrize(
    ("client", "final_first", "eof", "state", "ops"),
    [
        (SERVER, "sent", False, "closed", [Op.SHUT, Op.CLOSE]),
        (SERVER, "read", False, "closed", [Op.CLOSE]),
        (SERVER, "read", True, "closed", [Op.CLOSE]),
        (CLIENT, "sent", False, "waits", []),
        (CLIENT, "read", False, "waits", []),
        (CLIENT, "read", True, "closed", [Op.CLOSE]),
    ],
)
def test_final_was_sent_and_read(client: bool, final_first: str, eof: bool, state: str, ops: list[Op]) -> None:
    rig = Rig(client)
    (carrier,) = rig.carriers
    if final_first == "sent":
        rig.use(carrier)
        rig.finish(carrier)
    else:
        rig.finish(carrier)
        carrier.eof = eof
        rig.use(carrier)
    assert rig.state(carrier) == state
    assert rig.ops() == ops
    assert rig.set.next_due() is None


def final_shot(number: int) -> bytes:
    return seal(bytes(4), FINAL, 0, number)


def data_shot(number: int) -> bytes:
    writer = ShotWriter()
    writer.begin(0, 0)
    writer.ping()
    return writer.seal(AEAD, 0, 0, number)


def carrier_of(client: bool, reuse: int = 1) -> tuple[Session, Carrier, Outbox]:
    """A session that knows its keys, and its one carrier."""
    outbox = Outbox()
    session = Session(SessionConfig(client, reuse=reuse, reserve=0), "test", outbox, {}, NOW)
    session.id = b"12345678"
    session.keys.install(0, AEAD, AEAD, NOW)
    carrier = Carrier(Kind.FLING, NOW)
    if client:
        session.hello(carrier, IDLE, NOW)
    else:
        session.carriers.adopt(carrier, session, IDLE, NOW)
    session.flush(NOW)
    outbox.take_actions()
    return session, carrier, outbox


def ops_of(session: Session, outbox: Outbox, now: float) -> list[Op]:
    session.flush(now)
    return [op for op, _, _ in outbox.take_actions()]


def test_a_client_closes_after_eof() -> None:
    session, carrier, outbox = carrier_of(CLIENT)
    session.receive(carrier, final_shot(0), NOW)
    assert ops_of(session, outbox, NOW + 0.1) == [Op.WRITE]
    session.carrier_eof(carrier, NOW + 0.2)
    assert ops_of(session, outbox, NOW + 0.2) == [Op.CLOSE]


def test_a_client_that_read_eof_first_finishes_its_half() -> None:
    session, carrier, outbox = carrier_of(CLIENT)
    session.receive(carrier, final_shot(0), NOW)
    session.carrier_eof(carrier, NOW)
    assert ops_of(session, outbox, NOW + 0.1) == [Op.WRITE, Op.CLOSE]


def test_a_server_that_owes_no_ack_closes() -> None:
    session, carrier, outbox = carrier_of(SERVER)
    session.receive(carrier, final_shot(0), NOW)
    assert ops_of(session, outbox, NOW) == [Op.CLOSE]


@BOTH_ROLES
def test_eof_before_final_is_a_death(client: bool) -> None:
    session, carrier, outbox = carrier_of(client)
    session.carrier_eof(carrier, NOW)
    assert ops_of(session, outbox, NOW) == [Op.RESET]
    assert session.suspect


@BOTH_ROLES
def test_nothing_may_follow_a_final_shot(client: bool) -> None:
    session, carrier, outbox = carrier_of(client)
    session.receive(carrier, final_shot(0) + final_shot(1), NOW)
    assert ops_of(session, outbox, NOW) == [Op.RESET]


# --- which one is used


def test_of_idle_ones_the_newest_is_taken() -> None:
    rig = Rig(CLIENT, 3)
    taken = []
    while (carrier := rig.set.take(0)) is not None:
        taken.append(carrier)
        rig.use(carrier)
    assert taken == rig.carriers[::-1]


@pytest.mark.parametrize("reuse", [0, 3])
def test_with_reuse_each_is_taken_in_turn(reuse: int) -> None:
    rig = Rig(CLIENT, 3, reuse)
    taken = []
    for _ in range(6):
        carrier = rig.set.take(0)
        assert carrier is not None
        taken.append(carrier)
        rig.use(carrier, final=False)
    assert taken == rig.carriers * 2


def test_due_ones_are_taken_first_in_the_order_of_their_deadlines() -> None:
    rig = Rig(SERVER, 4)
    for carrier, by in zip(rig.carriers[:3], (1.0, 2.0, 3.0), strict=True):
        rig.set.make_due(carrier, NOW + by)
    rig.set.make_due(rig.carriers[0], NOW)
    rig.set.drop(rig.carriers[1], Op.RESET)
    taken = []
    while (next_one := rig.set.take(0)) is not None:
        taken.append(next_one)
        rig.use(next_one)
    assert taken == [rig.carriers[0], rig.carriers[2], rig.carriers[3]]


@pytest.mark.parametrize(
    ("idle", "due", "reserve", "takes"), [(2, 0, 2, 0), (3, 0, 2, 1), (2, 1, 2, 1), (1, 3, 2, 3), (3, 2, 0, 5)]
)
def test_the_reserve_is_kept_of_idle_ones(idle: int, due: int, reserve: int, takes: int) -> None:
    rig = Rig(CLIENT, idle + due)
    for carrier in rig.carriers[:due]:
        rig.set.make_due(carrier, NOW)
    count = 0
    while (taken := rig.set.take(reserve)) is not None:
        rig.use(taken)
        count += 1
    assert count == takes


def test_one_with_a_backlog_is_passed_over() -> None:
    rig = Rig(CLIENT, 3)
    first, second, third = rig.carriers
    rig.set.make_due(first, NOW)
    first.backlog = third.backlog = 1
    assert rig.set.take(0) is second
    second.backlog = 1
    assert rig.set.take(0) is None
    first.backlog = 0
    assert rig.set.take(0) is first


UNSENT, UNKNOWN, CONFIRMED = range(3)
"""A hello that leaves with the first shot; one that is under way, or never arrives; one that the other end has."""


@given(
    st.lists(st.tuples(st.sampled_from([UNSENT, UNKNOWN, CONFIRMED]), st.booleans(), st.booleans()), max_size=6),
    st.sampled_from([0, 1, 3]),
    st.booleans(),
)
def test_an_idle_one_is_none_of_those_without_and_rather_a_sure_one(
    plan: list[tuple[int, bool, bool]], reuse: int, sure: bool
) -> None:
    rig = Rig(CLIENT, len(plan), reuse)
    usable, unsent, confirmed, without = [], [], [], []
    for number, (carrier, (hello, busy, excluded)) in enumerate(zip(rig.carriers, plan, strict=True)):
        rig.set.greet(carrier, number)
        carrier.greeting = b"hello" if hello == UNSENT else b""
        carrier.backlog = int(busy)
        rig.set.confirm([(number, number)] if hello == CONFIRMED else [])
        without += [carrier] if excluded else []
        usable += [] if busy or excluded else [carrier]
        unsent += [carrier] if hello == UNSENT and carrier in usable else []
        confirmed += [carrier] if hello == CONFIRMED and carrier in usable else []
    first = -1 if reuse == 1 else 0
    groups = [confirmed, unsent, usable[:1]] if sure else [usable]
    allowed = next(([group[first]] for group in groups if group), [])
    taken = rig.set.take_idle(Kind.FLING, sure, without)
    assert taken in allowed if allowed else taken is None
    assert rig.set.take(0, sure, without) is taken


@pytest.mark.parametrize(
    ("without", "taken"), [("", "due"), ("idle", "due"), ("due", "next"), ("due next", "idle"), ("due next idle", "")]
)
def test_one_that_is_due_is_passed_over_if_it_is_excluded(without: str, taken: str) -> None:
    rig = Rig(SERVER, 3)
    found: dict[str, Carrier | None] = {"idle": rig.carriers[0], "due": rig.carriers[1], "next": rig.carriers[2], "": None}
    rig.set.make_due(rig.carriers[1], NOW)
    rig.set.make_due(rig.carriers[2], NOW)
    assert rig.set.take(0, without=[carrier for name in without.split() if (carrier := found[name])]) is found[taken]


@pytest.mark.parametrize(("reuse", "left"), [(0, -1), (1, 1), (3, 3)])
def test_how_often_a_half_may_be_used(reuse: int, left: int) -> None:
    assert Rig(CLIENT, 1, reuse).carriers[0].tx_left == left


@BOTH_ROLES
@pytest.mark.parametrize(("reuse", "finals"), [(0, [0, 0, 0, 0]), (1, [1]), (3, [0, 0, 1])])
def test_the_last_data_shot_of_a_half_is_final(client: bool, reuse: int, finals: list[int]) -> None:
    session, _, outbox = carrier_of(client, reuse)
    reader, found = ShotReader(), []
    for number in range(4):
        stream = session.streams.open() if client else session.streams.accept(2 * number)
        assert stream is not None
        stream.write(b"x")
        session.flush(NOW)
        sent = b"".join(data for op, _, data in outbox.take_actions() if op is Op.WRITE)
        found += [record[0] & FINAL for record in reader.feed(sent)]
    assert found == finals


@pytest.mark.parametrize(("reuse", "rtt", "shots"), [(0, 0.001, 1), (3, 0.001, 1), (0, 0.1, 3), (1, 0.001, 5), (1, 0.1, 5)])
def test_halves_that_are_used_again_carry_no_more_acks_than_needed(reuse: int, rtt: float, shots: int) -> None:
    session, first, outbox = carrier_of(SERVER, reuse)
    session.recovery.sample_rtt(rtt, NOW)
    carriers = [first]
    for _ in range(4):
        carriers.append(Carrier(Kind.FLING, NOW))
        session.carriers.adopt(carriers[-1], session, IDLE, NOW)
    for number, carrier in enumerate(carriers):
        session.receive(carrier, data_shot(number), NOW)
    assert ops_of(session, outbox, NOW + 0.1).count(Op.WRITE) == shots
    if reuse != 1:
        assert set(session.carriers.idle[Kind.FLING]) == set(carriers)
        assert session.carriers.next_due() is None


# --- out of use


@BOTH_ROLES
def test_a_suspended_carrier_is_not_taken_until_it_is_resumed(client: bool) -> None:
    rig = Rig(client, reuse=0)
    (carrier,) = rig.carriers
    rig.use(carrier, final=False)
    rig.set.suspend(carrier)
    assert rig.set.take(0) is None
    rig.set.resume(carrier)
    rig.set.resume(carrier)
    assert rig.set.take(0) is carrier
    assert len(rig.set.idle[Kind.FLING]) == 1


@pytest.mark.parametrize("state", ["due", "waits", "closed"])
def test_only_an_open_half_is_resumed(state: str) -> None:
    rig = Rig(CLIENT)
    (carrier,) = rig.carriers
    if state == "due":
        rig.set.make_due(carrier, NOW)
    elif state == "waits":
        rig.use(carrier)
    else:
        rig.set.drop(carrier, Op.RESET)
    rig.set.resume(carrier)
    assert rig.state(carrier) == state


@pytest.mark.parametrize("op", [Op.CLOSE, Op.RESET])
def test_a_carrier_is_dropped_once(op: Op) -> None:
    rig = Rig(SERVER)
    (carrier,) = rig.carriers
    rig.set.make_due(carrier, NOW)
    rig.set.drop(carrier, op)
    rig.set.drop(carrier, Op.RESET)
    assert rig.ops() == [op]
    assert rig.state(carrier) == "closed"
    assert rig.set.next_due() is None


# --- what the other end knows of


def greeting_rig(count: int) -> Rig:
    """Carriers with the hellos 0, 10, 20 and so on, dialled a second apart."""
    rig = Rig(CLIENT, count)
    for i, carrier in enumerate(rig.carriers):
        carrier.used_at = NOW + i
        rig.set.greet(carrier, 10 * i)
    return rig


@pytest.mark.parametrize(
    ("ranges", "left"),
    [
        ([], 5),
        ([(1, 9)], 5),
        ([(0, 0)], 4),
        ([(20, 40)], 2),
        ([(0, 2**40)], 0),
        ([(31, 2**40), (10, 29)], 2),
        ([(40, 40), (0, 0), (0, 0)], 3),
    ],
)
def test_carriers_are_on_their_way_until_their_hello_is_confirmed(ranges: list[tuple[int, int]], left: int) -> None:
    rig = greeting_rig(5)
    rig.set.confirm(ranges)
    assert rig.set.on_their_way(Kind.FLING, NOW - 1, NOW - 1) == left
    assert len(rig.set.idle[Kind.FLING]) == 5


def test_carriers_are_not_on_their_way_for_ever() -> None:
    rig = greeting_rig(3)
    assert [rig.set.on_their_way(Kind.FLING, NOW + age, NOW + age) for age in (-1, 0, 0.5, 1, 2)] == [3, 2, 2, 1, 0]


@pytest.mark.parametrize(("confirmed", "left"), [([], 3), ([(15, 15)], 3), ([(25, 25)], 2), ([(35, 35), (5, 5)], 1)])
def test_what_nothing_has_overtaken_is_on_its_way_for_longer(confirmed: list[tuple[int, int]], left: int) -> None:
    """Hellos 0 to 40 were sent at 0 to 4 s, and it is asked when the last is young and the first two are old."""
    rig = greeting_rig(5)
    rig.set.confirm(confirmed)
    assert rig.set.on_their_way(Kind.FLING, NOW + 1, NOW + 3) == left


def test_carriers_that_are_no_longer_idle_are_not_on_their_way() -> None:
    rig = greeting_rig(6)
    rig.use(rig.carriers[1])
    rig.set.drop(rig.carriers[2], Op.RESET)
    rig.set.make_due(rig.carriers[3], NOW + 9)
    rig.set.suspend(rig.carriers[4])
    assert rig.set.on_their_way(Kind.FLING, NOW - 1, NOW - 1) == 2


def test_the_highest_shot_says_what_the_other_end_has() -> None:
    peer = PeerCarriers()
    said = []
    for number, want in [(0, 7), (5, 8), (3, 9), (5, 10), (6, 11)]:
        peer.state(number, want, 2 * want, NOW + number)
        said.append((peer.want, peer.held, peer.said_at - NOW))
    assert said == [(7, 14, 0), (8, 16, 5), (8, 16, 5), (8, 16, 5), (11, 22, 6)]


# --- time


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 20)), max_size=20))
def test_expired_are_those_whose_time_is_up(plan: list[tuple[int, int]]) -> None:
    rig = Rig(CLIENT, 6)
    times = dict.fromkeys(rig.carriers, NOW + IDLE)
    now = NOW
    for index, seconds in plan:
        rig.set.expire(rig.carriers[index], now + seconds)
        times[rig.carriers[index]] = now + seconds
        assert rig.set.check_at <= min(times.values())
        now += 1
        expired = [carrier for carrier, at in times.items() if at <= now]
        assert rig.set.expired(now) == expired
        for carrier in expired:
            rig.set.expire(carrier, now + IDLE)
            times[carrier] = now + IDLE
        assert rig.set.check_at == min(times.values())


def test_no_carriers_no_deadline() -> None:
    rig = Rig(CLIENT)
    rig.set.drop(rig.carriers[0], Op.CLOSE)
    assert rig.set.expired(NOW) == []
    assert rig.set.check_at == inf


# --- carriers that may be dead


def test_a_carrier_on_which_a_shot_comes_slowly_is_not_given_up() -> None:
    session, carrier, outbox = carrier_of(CLIENT)
    session.streams.queue_control(Control.PING)
    assert ops_of(session, outbox, NOW) == [Op.WRITE]  # its half is used up: now it waits for the other one
    shot = seal(bytes(4) + b"\x01" * 100, FINAL)
    for i in range(100):
        session.receive(carrier, shot[i : i + 1], NOW + i)
        assert Op.RESET not in ops_of(session, outbox, NOW + i)
    session.receive(carrier, shot[100:], NOW + 100)
    assert session.counters.shots_received == 1
    assert carrier.rx_final


def test_a_carrier_on_which_nothing_more_comes_is_given_up() -> None:
    session, carrier, outbox = carrier_of(CLIENT)
    session.streams.queue_control(Control.PING)
    ops_of(session, outbox, NOW)
    session.receive(carrier, seal(bytes(100))[:50], NOW + 1)
    assert Op.RESET not in ops_of(session, outbox, NOW + 0.9 + GIVE_UP)
    assert Op.RESET in ops_of(session, outbox, NOW + 1 + GIVE_UP)


@pytest.mark.parametrize("heard", [False, True])
def test_distrusted_carriers_are_used_again_once_they_were_heard_of(heard: bool) -> None:
    session, carrier, outbox = carrier_of(CLIENT, reuse=0)
    session.distrust_idle(NOW + 10)  # the first thing in its wake
    session.streams.queue_control(Control.PING)
    assert ops_of(session, outbox, NOW + 9.9 + GIVE_UP) == []
    if heard:
        session.receive(carrier, seal(bytes(4) + b"\x01"), NOW + 9.9 + GIVE_UP)
    assert ops_of(session, outbox, NOW + 10 + GIVE_UP) == ([Op.WRITE] if heard else [Op.RESET])


# --- what is half there


def test_shots_that_are_half_there_are_counted() -> None:
    rig = Rig(SERVER, 2)
    first, second = rig.carriers
    shot = seal(bytes(100))
    assert rig.set.feed(first, shot[:50]) == []
    assert rig.set.feed(second, shot[:20]) == []
    assert rig.set.partial == 70
    assert [record[3] for record in rig.set.feed(first, shot[50:])] == [shot]
    assert rig.set.partial == 20
    rig.set.drop(second, Op.RESET)
    assert rig.set.partial == 0


def test_what_came_with_the_hello_is_counted() -> None:
    rig = Rig(SERVER)
    carrier = Carrier(Kind.FLING, NOW)
    carrier.reader.feed(seal(bytes(100))[:60])
    rig.set.adopt(carrier, Owner(), IDLE, NOW)
    assert rig.set.partial == 60


def test_what_cannot_be_a_shot_leaves_nothing_half_there() -> None:
    rig = Rig(SERVER)
    (carrier,) = rig.carriers
    rig.set.feed(carrier, b"\xff" * (HEADER_SIZE - 1))
    assert rig.set.partial == HEADER_SIZE - 1
    with pytest.raises(RemoteProtocolError):
        rig.set.feed(carrier, b"\xff" * 100)
    rig.set.drop(carrier, Op.RESET)
    assert rig.set.partial == 0
    assert rig.ops() == [Op.RESET]
