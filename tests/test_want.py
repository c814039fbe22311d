"""How many idle carriers an end wishes to find, and what is covered by parity where the line decides."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_pair import CLIENT, RTT, SERVER, Pair, Sent, data_shots, parity_shots
from simulator import Line, Network, Plan

from tcsplitter.carrier import Carrier
from tcsplitter.client_end import ClientConfig
from tcsplitter.config import SessionConfig
from tcsplitter.demand import MAX_WANT, OPENING_RTTS
from tcsplitter.dialling import OFFERS_FOR, Dialling
from tcsplitter.lateness import CLEAN_SHARE, MAX_TWINS, SMALL_SHOT
from tcsplitter.modes import RESERVE, Kind
from tcsplitter.options import Fec
from tcsplitter.outbox import Outbox
from tcsplitter.server_end import ServerConfig
from tcsplitter.session import Session
from tcsplitter.shared import Handling

NOW = 100.0
SIZE = 4_000
AUTO = Fec(auto=True)


def want_at_rest(handling: Handling, share: float, reserve: int = RESERVE, most: int = MAX_WANT) -> int:
    """What an end wants that has nothing to send, on a line that makes this share of its shots late."""
    session = Session(SessionConfig(True, handling=handling, reserve=reserve, most=most), "test", Outbox(), {}, NOW)
    session.recovery.sample_rtt(0.1, NOW)
    session.recovery.lateness.doubt, session.recovery.lateness.share = 0.0, share
    return session.want()


# --- what the client dials


@pytest.mark.parametrize(("rtt", "payloads", "waits"), [(0.001, 3, True), (0.001, 0, False), (0.001, 1, False), (RTT, 3, False)])
def test_where_the_rtt_is_nothing_what_the_server_wants_waits_for_the_wake_after_payload(
    rtt: float, payloads: int, waits: bool
) -> None:
    pair = Pair(Handling(size=SIZE, hedge=False))
    client, wanted = pair.client, 2 * OFFERS_FOR
    client.recovery.sample_rtt(rtt, NOW)
    dialling = Dialling(client.config.mode, {Kind.FLING: (0, 1024)}, 25.0, 0.0, random.Random(1), NOW)
    now = NOW + 1.0  # the first round of growth is over
    client.enter(now)
    for _ in range(payloads):
        client.streams.open().write(bytes(SIZE))
    client.flush(now)
    client.peer.state(2**20, wanted, 0, now)
    assert (len(dialling.due(client, (), now)) < wanted) is waits
    if waits:
        client.enter(now + 0.0001)
        assert len(dialling.due(client, (), now + 0.0001)) >= wanted


# --- at rest

settings = st.builds(Handling, fec=st.sampled_from([Fec(), Fec(10, 3), Fec(4, 4), AUTO]), hedge=st.booleans())
shares = st.floats(0.0, 1.0)


@given(settings, st.tuples(shares, shares), st.integers(0, 4), st.integers(0, 20))
def test_a_worse_line_takes_no_fewer_and_none_takes_more_than_the_pool_can_have(
    handling: Handling, two: tuple[float, float], reserve: int, most: int
) -> None:
    better, worse = sorted(two)
    wants = [want_at_rest(handling, share, reserve, most) for share in (better, worse)]
    assert wants[0] <= wants[1] <= most
    least = want_at_rest(Handling(hedge=False), better, reserve, most)
    assert least == min(reserve, most)
    assert wants[0] >= least


@pytest.mark.parametrize(
    ("fec", "hedge", "clean", "late"),
    [
        (Fec(), False, RESERVE, RESERVE),
        (Fec(), True, RESERVE, RESERVE + 2 * RESERVE),
        (Fec(10, 3), False, RESERVE + 3, RESERVE + 3),
        (Fec(10, 3), True, RESERVE + 3, RESERVE + 3 + 2),
        (AUTO, False, RESERVE + RESERVE, RESERVE + 2 * RESERVE),
        (AUTO, True, RESERVE + RESERVE, RESERVE + 2 * RESERVE),
    ],
)
def test_carriers_are_kept_for_what_repair_sends(fec: Fec, hedge: bool, clean: int, late: int) -> None:
    """With one shot in twenty late a small one needs two twins: at once, or with parity when it is late. With `auto` any line has
    one."""
    handling = Handling(fec=fec, hedge=hedge)
    assert want_at_rest(handling, 0.0) == clean
    assert want_at_rest(handling, 0.99 * CLEAN_SHARE) == clean
    assert want_at_rest(handling, 0.05) == late


@pytest.mark.parametrize(
    ("fec", "spare"), [(Fec(), MAX_TWINS * RESERVE), (Fec(2, 1), 1 + MAX_TWINS), (AUTO, MAX_TWINS * RESERVE)]
)
def test_however_bad_the_line_is_the_twins_have_an_end(fec: Fec, spare: int) -> None:
    assert want_at_rest(Handling(fec=fec), 1.0) == RESERVE + spare


def test_an_idle_end_keeps_no_more_for_a_line_that_it_does_not_know_than_the_twins_of_one_shot() -> None:
    """It may be in doubt for ever."""
    session = Session(SessionConfig(True, handling=Handling(size=SIZE)), "test", Outbox(), {}, NOW)
    session.recovery.sample_rtt(0.1, NOW)
    assert session.want() == RESERVE + 2


# --- on a line


def chat(line: Line, handling: Handling, **config: int) -> tuple[Network, list[Session], int]:
    """Both ends have said something now and then; the network, both sessions, and how many carriers there were at most."""
    net = Network(6, line, ClientConfig(handling, **config), ServerConfig(handling))  # type: ignore[arg-type]
    net.after(0.0, lambda: net.open(Plan(1, (30_000, 30_000), [100], chatty=1.0)))
    alive = [0]

    def done() -> bool:
        alive.append(len(net.client.session.carriers.all))
        return len(net.by_stream) == 1 and net.done()

    net.run(done, seconds=300)
    net.verify()
    return net, [net.client.session, next(iter(net.server.sessions.values()))], max(alive)


@pytest.mark.parametrize(
    ("handling", "clean"),
    [(Handling(), RESERVE), (Handling(fec=AUTO), 2 * RESERVE), (Handling(fec=Fec(4, 2), hedge=False), RESERVE + 2)],
    ids=["hedged", "auto", "4:2"],
)
def test_both_ends_find_out_how_many_the_line_takes(handling: Handling, clean: int) -> None:
    _, ends, _ = chat(Line(), handling)
    assert [session.want() for session in ends] == [clean, clean]
    _, ends, _ = chat(Line(late=0.15), handling)
    for session in ends:
        assert session.want() == clean if handling.fec.parity else session.want() > clean


def test_what_both_ends_want_is_dialled() -> None:
    net, ends, _ = chat(Line(late=0.15), Handling(fec=AUTO))
    net.open(Plan(2, (36, 36), [36]))
    net.run(lambda: len(ends[0].carriers.idle[Kind.FLING]) >= sum(session.want() for session in ends) > 8, 3)


@pytest.mark.parametrize(("conns", "at_most"), [(2, 0), (3, 0), (4, 3), (6, 5)])
def test_an_end_of_a_fixed_pool_wants_no_more_than_there_can_be(conns: int, at_most: int) -> None:
    _, (_, server), alive = chat(Line(late=0.15), Handling(fec=AUTO), conns=conns, burst=0)
    assert server.recovery.lateness.share > CLEAN_SHARE
    assert server.want() == at_most
    assert alive == conns


# --- what waits


def test_parity_that_waits_for_a_carrier_is_wanted_one() -> None:
    wanted = {}
    for fec in (Fec(), Fec(3, 1)):
        pair = Pair(Handling(size=SIZE, fec=fec, hedge=False), carriers=5)
        pair.open()
        at_rest = pair.client.want()
        (stream,) = pair.client.streams
        stream.write(bytes(3 * SIZE))
        assert [len(data_shots(pair.wait(RTT / 3))), len(parity_shots(pair.wire))] == [3, 0]
        wanted[fec.used] = pair.client.want() - at_rest
        pair.connect(Carrier(Kind.FLING, pair.now))
        assert len(parity_shots(pair.flush())) == fec.used
    assert wanted[True] == wanted[False] + 1


def test_twins_that_wait_for_carriers_are_wanted_ones() -> None:
    pair = Pair(Handling(size=SIZE), carriers=2)
    pair.open()
    pair.wait(OPENING_RTTS * RTT + 0.001)
    (stream,) = pair.client.streams
    stream.write(b"hello")
    assert len(data_shots(pair.flush())) == 1
    pair.client.recovery.lateness.share = 0.05
    assert pair.client.want() == 0
    assert pair.wait(2 * RTT) == []
    assert pair.client.want() == 2
    for _ in range(2):
        pair.connect(Carrier(Kind.FLING, pair.now))
    assert len(data_shots(pair.flush())) == 2
    assert pair.client.want() == 0


# --- what is covered


both_ways = pytest.mark.parametrize("side", [CLIENT, SERVER], ids=["up", "down"])


class FullLine:
    """A pair in which payloads of a bulk stream have waited for the line from the first on, and another stream that says nothing.

    From now on the line makes one shot in twenty late.
    """

    def __init__(self, fec: Fec, side: int) -> None:
        self.side = side
        self.pair = Pair(Handling(size=SIZE, fec=fec, hedge=False), carriers=200)
        self.pair.open()
        self.pair.open()
        self.session = self.pair.sessions[side]
        self.bulk, self.other = self.session.streams
        self.session.recovery.congestion.rate = 20_000.0
        for _ in range(3):
            self.session.recovery.congestion.on_full()
        self.bulk.write(bytes(15 * SIZE))
        self.pair.wait(RTT / 3)
        assert self.waits
        self.session.recovery.lateness.share = 0.05

    @property
    def waits(self) -> bool:
        """Payloads of the bulk stream wait for the line."""
        return bool(self.session.shared.scheduler.bulk)

    def say(self, size: int) -> list[Sent]:
        """The other stream says something; what leaves."""
        self.other.write(bytes(size))
        return self.pair.flush()

    def drain(self) -> list[Sent]:
        """What is under way arrives, again and again, until nothing waits; what leaves meanwhile."""
        sent = []
        while self.waits:
            sent += self.pair.deliver(*self.pair.wire)
            sent += self.pair.wait(RTT / 2)
        return [shot for shot in sent if shot.side == self.side]


@both_ways
def test_where_the_line_decides_bulk_that_fills_it_has_no_parity(side: int) -> None:
    line = FullLine(AUTO, side)
    sent = line.drain()
    assert len(data_shots(sent)) > 5
    assert parity_shots(sent) == []


@both_ways
def test_parity_that_is_asked_for_goes_with_bulk_too(side: int) -> None:
    assert parity_shots(FullLine(Fec(3, 1), side).drain())


@both_ways
@pytest.mark.parametrize(("size", "copies"), [(100, 3), (SMALL_SHOT + 100, 1), (SIZE - 1, 1), (SIZE, 0)])
def test_on_a_full_line_small_shots_are_sent_more_than_once_and_whole_payloads_wait(size: int, copies: int, side: int) -> None:
    line = FullLine(AUTO, side)
    sent = line.say(size)
    sent += line.pair.wait(RTT / 3)
    assert len(data_shots(sent)) == copies
    assert parity_shots(sent) == []
    assert line.waits


@both_ways
@pytest.mark.parametrize("size", [SMALL_SHOT + 100, SIZE])
def test_what_is_sent_now_and_then_has_parity_once_the_line_has_had_room_for_an_rtt(size: int, side: int) -> None:
    line = FullLine(AUTO, side)
    line.drain()
    assert parity_shots(line.say(size)) == []
    line.pair.settle()
    line.pair.wait(RTT)
    shot, *others = line.say(size)
    assert shot.payload
    parity = parity_shots(others)
    assert [each.covers for each in parity] == [[shot.number]] * len(parity)
    assert parity


@both_ways
def test_the_last_shots_of_bulk_have_parity(side: int) -> None:
    line = FullLine(AUTO, side)
    line.drain()
    line.pair.settle()
    line.pair.wait(RTT)
    line.bulk.write(bytes(2 * SIZE))
    sent = line.pair.flush()
    assert not line.waits
    assert len(data_shots(sent)) == 2
    assert parity_shots(sent)


def burst(side: int, carriers: int, payloads: int) -> tuple[Pair, list[Sent]]:
    """A stream that was silent writes so much at once; what leaves before an ack can come."""
    pair = Pair(Handling(size=SIZE, fec=AUTO, hedge=False), carriers=carriers)
    pair.open()
    session = pair.sessions[side]
    session.recovery.lateness.share = 0.05
    stream = next(iter(session.streams))
    stream.raise_send_limit(payloads * SIZE, 0)
    stream.write(bytes(payloads * SIZE))
    return pair, pair.wait(RTT / 4)


@both_ways
def test_the_first_shots_of_what_fills_the_line_have_none(side: int) -> None:
    pair, sent = burst(side, carriers=300, payloads=250)
    assert pair.sessions[side].shared.scheduler.bulk
    assert len(data_shots(sent)) > 10
    assert parity_shots(sent) == []


@both_ways
def test_what_takes_the_last_carrier_with_its_last_byte_does_not_wait(side: int) -> None:
    pair, sent = burst(side, carriers=12, payloads=10)  # two carriers were used before
    assert len(data_shots(sent)) == 10
    assert pair.sessions[side].carriers.count_idle() == 0
    assert not pair.sessions[side].shared.scheduler
