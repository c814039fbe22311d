"""How many idle carriers one direction wishes to find: in start-up, at a rate, when there were too few, and at rest."""

from __future__ import annotations

import pytest
from account import SIZE
from hypothesis import given
from hypothesis import strategies as st
from stream_ends import End

from tcsplitter.congestion import RATE_SECONDS, Congestion
from tcsplitter.demand import (
    CLIENT_TURNS,
    LEAST_AHEAD,
    MAX_OPENING,
    MOST_AHEAD,
    OPENING_BYTES,
    OPENING_RTTS,
    SERVER_TURNS,
    STARTUP_AHEAD,
    TURN_SECONDS,
    Demand,
)
from tcsplitter.payload import PayloadSize

RTT = 0.05


class Rig:
    """A demand, and the line and what waits of which it is told."""

    def __init__(self, client: bool = True, size: int = SIZE) -> None:
        self.line = Congestion(PayloadSize(size))
        self.line.sample_rtt(RTT, 0, 0.0)
        self.streams = End(client).table
        self.sending = self.streams.shared.sending
        self.demand = Demand(client, self.line, self.streams)

    def wish(self, in_flight: int = 0, now: float = 0.0) -> int:
        return self.demand.payloads(in_flight, now)

    def cruise(self, rate: float) -> None:
        """The rate is found."""
        self.line.starting = False
        self.line.rate = rate

    def round(self, starved: bool) -> None:
        """A round passes in which carriers were wanting, or not."""
        if starved:
            self.demand.starved()
        self.line.rounds += 1
        self.wish()


turns = pytest.mark.parametrize(("client", "turns"), [(True, CLIENT_TURNS), (False, SERVER_TURNS)], ids=["client", "server"])


def test_who_has_nothing_to_send_wishes_for_none() -> None:
    rig = Rig()
    assert rig.wish() == 0
    rig.cruise(1e6)
    rig.line.rate = 0.0
    assert rig.wish() == 0


def test_in_start_up_a_multiple_of_what_waits_is_wished_for() -> None:
    rig = Rig()
    rig.sending.unsent = 3 * SIZE
    assert rig.wish() == STARTUP_AHEAD * 3
    assert rig.wish(in_flight=2 * SIZE) == STARTUP_AHEAD * 5


def test_in_start_up_no_more_is_wished_for_than_the_line_may_take() -> None:
    rig = Rig()
    rig.sending.unsent = 10**9
    assert rig.wish() == int(STARTUP_AHEAD * rig.line.window() / SIZE)


def test_in_start_up_what_is_under_way_alone_is_a_reason() -> None:
    rig = Rig()
    assert rig.wish(in_flight=SIZE // 10) == 0
    assert rig.wish(in_flight=5 * SIZE) == STARTUP_AHEAD * 5


def test_a_client_that_opened_streams_wishes_for_a_window_of_each_for_a_while() -> None:
    rig = Rig()
    each = -(-OPENING_BYTES // SIZE)
    rig.streams.opened = 1
    assert rig.wish(now=10.0) == rig.wish(now=10.0 + OPENING_RTTS * RTT) == each
    assert rig.wish(now=10.001 + OPENING_RTTS * RTT) == 0
    rig.streams.opened = 1_000
    assert rig.wish(now=11.0) == MAX_OPENING
    assert rig.wish(now=12.0) == 0


def test_a_server_wishes_for_nothing_when_streams_open() -> None:
    rig = Rig(client=False)
    rig.streams.opened = 3
    assert rig.wish(now=10.0) == 0


@turns
def test_at_a_rate_what_leaves_until_others_are_there_is_wished_for(client: bool, turns: float) -> None:
    rig = Rig(client)
    rig.cruise(1e7)
    rig.sending.unsent = 10**9
    assert rig.wish() == int(LEAST_AHEAD * 1e7 * (turns * RTT + TURN_SECONDS) / SIZE)


def test_a_queue_makes_dials_take_longer_by_no_more_than_an_rtt() -> None:
    rig = Rig()
    rig.cruise(1e8)
    wishes = []
    for queue in (0.0, RTT / 2, RTT, 100 * RTT):
        rig.line.queue = queue
        wishes.append(rig.wish())
    assert wishes[0] < wishes[1] < wishes[2] == wishes[3] <= 2 * wishes[0]


def test_a_rate_of_long_ago_says_nothing() -> None:
    rig = Rig()
    rig.cruise(1e7)
    assert rig.wish(now=RATE_SECONDS - 0.001) > 0
    assert rig.wish(now=RATE_SECONDS) == 0
    rig.sending.unsent = 3 * SIZE
    assert rig.wish(now=RATE_SECONDS) == 3
    rig.sending.unsent = 10**9
    assert rig.wish(now=RATE_SECONDS) == int(rig.line.window() / SIZE)
    assert rig.wish(in_flight=10**9, now=RATE_SECONDS) == 0


def test_larger_payloads_need_fewer_carriers() -> None:
    rig = Rig()
    rig.cruise(1e7)
    wish = rig.wish()
    rig.line.size.bytes *= 4
    assert wish // 4 <= rig.wish() <= wish // 4 + 1


def test_what_is_lost_takes_carriers_besides() -> None:
    rig = Rig()
    rig.sending.lost_chunks = 7
    assert rig.wish() == 7
    rig.cruise(1e7)
    without = rig.wish() - 7
    rig.sending.lost_chunks = 0
    assert rig.wish() == without > 0


def test_want_of_carriers_raises_the_wish_up_to_a_bound_and_it_wears_off() -> None:
    rig = Rig()
    rig.cruise(1e9)
    least = rig.wish()
    seen = [least]
    for _ in range(40):
        rig.round(starved=True)
        seen.append(rig.wish())
    assert seen == sorted(seen)
    assert seen[1] > least
    assert seen[-1] == seen[-2] == pytest.approx(least * MOST_AHEAD / LEAST_AHEAD, rel=0.01)
    falling = []
    for _ in range(1_000):
        rig.round(starved=False)
        falling.append(rig.wish())
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] == least


def test_the_wish_is_raised_once_a_round() -> None:
    rig = Rig()
    rig.cruise(1e9)
    before = rig.wish()
    for _ in range(10):
        rig.demand.starved()
        assert rig.wish() == before
    rig.round(starved=True)
    raised = rig.wish()
    rig.round(starved=False)
    assert before < rig.wish() <= raised


def test_want_of_carriers_in_start_up_raises_nothing() -> None:
    rig = Rig()
    for _ in range(10):
        rig.round(starved=True)
    rig.cruise(1e7)
    assert rig.wish() == int(LEAST_AHEAD * 1e7 * (CLIENT_TURNS * RTT + TURN_SECONDS) / SIZE)


amounts = st.integers(0, 2**40)


@given(st.booleans(), st.integers(100, 2**20), st.floats(0, 1e12), amounts, amounts, st.integers(0, 9_000), st.booleans())
def test_a_wish_is_never_negative_and_grows_with_what_waits(
    client: bool, size: int, rate: float, unsent: int, in_flight: int, lost: int, starting: bool
) -> None:
    rig = Rig(client, size)
    rig.line.rate = rate
    rig.line.starting = starting
    wishes = []
    for more in (0, unsent):
        rig.sending.unsent, rig.sending.lost_chunks = more, lost
        wishes.append(rig.wish(in_flight))
    assert lost <= wishes[0] <= wishes[1]
    line = MOST_AHEAD * rate * (SERVER_TURNS * 2 * RTT + TURN_SECONDS) + STARTUP_AHEAD * rig.line.window()
    assert wishes[1] <= line / size + lost
