"""How large payloads are: what fits a round trip, growing and shrinking, and who asked for a size of their own."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulator import Line, Network, Plan

from tcsplitter.client_end import ClientConfig
from tcsplitter.config import DIAL_SHARE, SessionConfig
from tcsplitter.modes import MODES
from tcsplitter.options import Address, ClientOptions, Fec, Playout, Retries
from tcsplitter.payload import FIRST_FLIGHT, GROW_FROM, LARGE, REUSED, REUSED_RATE, SEGMENT, SHRINK_BELOW, SMALL, PayloadSize
from tcsplitter.pool import MAX_DIALING
from tcsplitter.program import handling_of
from tcsplitter.server_end import ServerConfig
from tcsplitter.shared import MAX_UNSENT, MOST_UNSENT, Handling, Shared

MOST = 1_000_000.0
RTT = 0.125
MBIT = 125_000.0
SHOT_OVERHEAD = 200
"""Bytes that a hello, a shot's header and its frames have at the most, but for long acks."""

KEYS = {"": bytes(32)}
amounts = st.floats(0, 4 * MOST)


def fed(size: PayloadSize, rounds: list[tuple[float, float]], fresh: bool = True) -> list[int]:
    """What it was after each round of so much capacity and use in an RTT, or where connections are used again in a second."""
    seen = []
    for capacity, used in rounds:
        before = size.bytes
        span = RTT if fresh else 1.0
        assert size.follow(capacity / span, used / span, RTT) == (fresh and size.bytes > before)
        assert size.flights == size.flights_of(size.bytes)
        seen.append(size.bytes)
    return seen


def changes(seen: list[int]) -> int:
    return sum(a != b for a, b in zip([SMALL, *seen], seen, strict=False))


# --- round trips


@given(st.integers(0, 2**24))
def test_a_fresh_connection_doubles_what_it_sends_in_each_round_trip(size: int) -> None:
    flights = PayloadSize(size).flights
    assert size + SEGMENT <= FIRST_FLIGHT * (2**flights - 1)
    assert flights == 1 or size + SEGMENT > FIRST_FLIGHT * (2 ** (flights - 1) - 1)


def test_payloads_fill_the_round_trips_they_take() -> None:
    assert PayloadSize(SMALL + SHOT_OVERHEAD).flights == 1
    assert PayloadSize(LARGE + SHOT_OVERHEAD).flights == 2
    assert PayloadSize(42_000).flights == 3


@pytest.mark.parametrize(("size", "segment", "flights"), [(SMALL, 1_208, 1), (LARGE, 1_360, 2)])
def test_payloads_fit_beside_a_hello_where_segments_are_short(size: int, segment: int, flights: int) -> None:
    assert size + SHOT_OVERHEAD <= (10 * (2**flights - 1) - 1) * segment


@given(st.integers(0, 2**24))
def test_a_connection_that_is_used_again_takes_one(size: int) -> None:
    assert PayloadSize(size, fresh=False).flights == 1


# --- growing and shrinking


@given(st.lists(st.tuples(st.floats(0, MOST), amounts), max_size=60))
def test_on_a_line_that_takes_few_payloads_they_never_grow(rounds: list[tuple[float, float]]) -> None:
    assert changes(fed(PayloadSize(SMALL, MOST), rounds)) == 0


@given(st.lists(st.tuples(amounts, amounts), max_size=60))
def test_a_size_that_was_set_never_changes(rounds: list[tuple[float, float]]) -> None:
    assert changes(fed(PayloadSize(SMALL), rounds)) == 0


@given(st.floats(MOST, 4 * MOST, exclude_min=True), st.floats(0, 4 * MOST), st.lists(st.floats(0.7, 1.3), max_size=200))
def test_use_that_wavers_changes_the_size_once_at_the_most(capacity: float, used: float, noise: list[float]) -> None:
    assert changes(fed(PayloadSize(SMALL, MOST), [(capacity, used * each) for each in noise])) <= 1


def test_a_line_that_takes_more_makes_them_grow_and_one_round_without_use_leaves_them() -> None:
    size = PayloadSize(SMALL, MOST)
    assert fed(size, [(MOST + 1, MOST)] * 10)[-1] == LARGE
    assert fed(size, [(MOST + 1, 0.0), (MOST + 1, MOST)])[-1] == LARGE


def test_without_use_they_shrink_and_grow_again_with_it() -> None:
    size = PayloadSize(SMALL, MOST)
    for _ in range(2):
        assert fed(size, [(MOST + 1, MOST)] * 10)[-1] == LARGE
        assert fed(size, [(MOST + 1, 0.9 * SHRINK_BELOW * MOST)] * 30)[-1] == SMALL


def test_a_rate_of_before_alone_makes_none_grow() -> None:
    assert changes(fed(PayloadSize(SMALL, MOST), [(4 * MOST, 0.9 * GROW_FROM * MOST)] * 100)) == 0


def test_where_connections_are_used_again_they_grow_on_a_fast_line_and_bound_no_rate_by_that() -> None:
    size = PayloadSize(SMALL, REUSED_RATE, fresh=False)
    assert fed(size, [(0.9 * REUSED_RATE, 0.9 * REUSED_RATE)] * 100, fresh=False)[-1] == SMALL
    assert fed(size, [(1.1 * REUSED_RATE, 1.1 * REUSED_RATE)] * 10, fresh=False)[-1] == REUSED
    assert size.flights == 1
    assert fed(size, [(1.1 * REUSED_RATE, 0.0)] * 30, fresh=False)[-1] == SMALL


def test_all_that_share_a_size_see_it_change() -> None:
    size = PayloadSize(SMALL, MOST)
    shared = Shared(Handling(), size, {}, lambda: None)
    assert (shared.most_unsent(), shared.few_unsent()) == (MAX_UNSENT, SMALL)
    fed(size, [(MOST + 1, MOST)] * 10)
    assert MAX_UNSENT < shared.most_unsent() <= MOST_UNSENT
    assert 2 * LARGE < shared.few_unsent() < shared.most_unsent()


@pytest.mark.parametrize("size", [SMALL, LARGE, REUSED])
def test_on_short_lines_twice_as_much_is_read_ahead(size: int) -> None:
    shared = Shared(Handling(), PayloadSize(size), {}, lambda: None)
    before, few_before = shared.most_unsent(), shared.few_unsent()
    shared.short = True
    assert shared.most_unsent() == 2 * before
    assert few_before <= shared.few_unsent() <= max(size, 2 * few_before)


# --- who set what

GROWING = Handling(grows=True)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_they_may_grow_before_dials_run_out(mode: Any) -> None:
    most = SessionConfig(client=True, mode=mode, handling=GROWING).most_small
    assert most / SMALL <= DIAL_SHARE * MAX_DIALING / len(mode.pools) < most / SMALL + 1


@pytest.mark.parametrize(
    "setting",
    [
        {"handling": Handling()},
        {"handling": Handling(grows=True, tock=0.01)},
        {"handling": Handling(grows=True, playout=Playout(beat=0.04))},
        {"handling": Handling(grows=True, fec=Fec(10, 3))},
        {"handling": Handling(grows=True, retries=Retries(resend=False, skip=3))},
        {"handling": GROWING, "fixed": True},
        {"handling": GROWING, "datagrams": True},
        {"handling": GROWING, "reuse": 2},
        {"handling": GROWING, "reuse": 0, "fixed": True},
        {"handling": Handling(), "reuse": 0},
    ],
    ids=str,
)
def test_what_counts_payloads_keeps_them_as_they_are(setting: dict[str, Any]) -> None:
    assert SessionConfig(client=True, **setting).most_small == inf


def test_where_connections_are_used_without_limit_the_rate_decides() -> None:
    assert SessionConfig(client=True, handling=GROWING, reuse=0).most_small == REUSED_RATE


@pytest.mark.parametrize(
    ("given_size", "mtu", "size", "grows"), [(None, 0, SMALL, True), (SMALL, 0, SMALL, False), (2_000, 0, 2_000, False)]
)
def test_a_size_that_the_user_gave_is_kept(given_size: int | None, mtu: int, size: int, grows: bool) -> None:
    address = Address("127.0.0.1", 1)
    handling = handling_of(ClientOptions(r_fling=address, keys=KEYS, size=given_size, mtu=mtu), address)
    assert (handling.size, handling.grows) == (size, grows)


def test_a_packet_size_that_the_user_gave_is_filled() -> None:
    address = Address("127.0.0.1", 1)
    handling = handling_of(ClientOptions(r_fling=address, keys=KEYS, mtu=1_400), address)
    assert handling.size < SMALL
    assert not handling.grows


# --- two ends


class Transfer:
    """One stream over a simulated line: as much as 18 RTTs take, in one direction."""

    def __init__(self, side: int, mbit: float, rtt: float, grows: bool) -> None:
        handling = Handling(grows=grows)
        self.net = Network(
            1, Line(delay=rtt / 2, rate=mbit * MBIT), ClientConfig(handling=handling), ServerConfig(handling=handling)
        )
        total = int(18 * mbit * MBIT * rtt)
        self.net.open(Plan(1, (0, total) if side else (total, 0), [100_000]))
        self._receiver = self.net.programs[1 - side]
        self._until(total // 2)
        began, before = self.net.now, self.count
        self._until(total)
        self.share = (self.count - before) / (self.net.now - began) / (mbit * MBIT)
        """Of the line, in the second half."""
        session = next(iter(self.net.server.sessions.values())) if side else self.net.client.session
        self.size = session.shared.size.bytes

    @property
    def count(self) -> int:
        return max((program.count for program in self._receiver.values()), default=0)

    def _until(self, count: int) -> None:
        self.net.run(lambda: self.count >= count, 60)


sides = pytest.mark.parametrize("side", [0, 1], ids=["up", "down"])


@sides
def test_a_long_fast_line_is_filled_though_dials_are_bounded(side: int) -> None:
    fixed, grown = (Transfer(side, 300, 0.08, grows) for grows in (False, True))
    assert (fixed.size, grown.size) == (SMALL, LARGE)
    assert fixed.share < 0.78
    assert grown.share > 0.85
    assert grown.net.dials < fixed.net.dials / 2


@sides
@pytest.mark.parametrize(("mbit", "rtt"), [(100, 0.04), (20, 0.3), (400, 0.001)])
def test_on_a_smaller_line_nothing_at_all_changes(side: int, mbit: float, rtt: float) -> None:
    fixed, free = (Transfer(side, mbit, rtt, grows) for grows in (False, True))
    assert free.size == SMALL
    assert (free.net.now, free.net.steps, free.net.dials) == (fixed.net.now, fixed.net.steps, fixed.net.dials)
    assert free.share > 0.8 or rtt < 0.01
