"""How many carriers the client dials, and when."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf

import pytest

from tcsplitter.carrier import Carrier, Kind
from tcsplitter.pool import (
    ABANDON_RTTS,
    ABANDON_SECONDS,
    DIAL_BURST,
    DIALS_PER_SECOND,
    FIRST_BACKOFF,
    GROWTH,
    IDLE_JITTER,
    LAST_BACKOFF,
    MAX_DIALING,
    SLOW_RTTS,
    SLOW_SECONDS,
    Pool,
)

NOW = 100.0
RTT = 0.05


class Dice:
    """A source of randomness that always says the same."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value

    def randbytes(self, n: int) -> bytes:
        return bytes(n)


def make(conns: int = 4, burst: int = 1024, dice: float = 0.5) -> Pool:
    return Pool(conns, burst, 25.0, Dice(dice), NOW)


def dial(pool: Pool, count: int = 1, now: float = NOW) -> list[Carrier]:
    carriers = [Carrier(Kind.FLING, now) for _ in range(count)]
    for carrier in carriers:
        pool.dialled(carrier, now)
    return carriers


def settle(pool: Pool, carriers: list[Carrier]) -> None:
    for carrier in carriers:
        pool.connected(carrier)


# --- how many


@pytest.mark.parametrize(
    ("idle", "alive", "want", "due"),
    [
        (0, 0, 0, 4),
        (1, 1, 0, 3),
        (4, 4, 0, 0),
        (5, 5, 0, 0),
        (3, 10, 0, 1),
        (0, 0, 3, 4),
        (0, 0, 10, 10),
        (4, 4, 10, 6),
        (10, 10, 10, 0),
        (0, 0, 16, 16),
        (0, 0, 17, 16),
        (0, 12, 17, 4),
        (0, 16, 17, 0),
        (0, 20, 17, 0),
    ],
)
def test_the_pool_is_filled_up_to_what_is_wanted_and_may_be(idle: int, alive: int, want: int, due: int) -> None:
    assert make().dials_due(idle, alive, want, RTT, NOW) == due


def test_dials_under_way_count_as_idle_and_as_alive() -> None:
    pool = make()
    dial(pool, 3)
    assert pool.dials_due(0, 0, 0, RTT, NOW) == 1
    assert pool.dials_due(0, 0, 100, RTT, NOW) == 13


def test_the_pool_grows_fourfold_in_an_rtt_up_to_its_ceiling() -> None:
    pool = make(burst=600)
    sizes, alive, now = [], 0, NOW
    for _ in range(5):
        for _ in range(40):  # more than MAX_DIALING at once takes several turns
            carriers = dial(pool, pool.dials_due(0, alive, 10_000, RTT, now), now)
            settle(pool, carriers)
            alive += len(carriers)
        sizes.append(alive)
        now += RTT
    assert sizes == [4 * GROWTH, 4 * GROWTH**2, 4 * GROWTH**3, 600, 600]


def test_the_pool_grows_anew_after_it_shrank() -> None:
    pool = make()
    pool.dials_due(0, 500, 1000, RTT, NOW + 1)
    assert pool.dials_due(0, 0, 1000, RTT, NOW + 1 + RTT) == 4 * GROWTH


@pytest.mark.parametrize("want", [0, 5, 1000])
def test_a_fixed_pool_stays_as_it_is(want: int) -> None:
    pool = make(burst=0)
    assert pool.dials_due(0, 0, want, RTT, NOW) == 4
    assert pool.dials_due(1, 1, want, RTT, NOW) == 3
    assert pool.dials_due(4, 4, want, RTT, NOW) == 0


def test_dials_at_once_are_bounded() -> None:
    pool = make(conns=1000)
    assert pool.dials_due(0, 0, 0, RTT, NOW) == MAX_DIALING
    carriers = dial(pool, MAX_DIALING - 1)
    assert pool.dials_due(0, 0, 0, RTT, NOW) == 1
    carriers += dial(pool)
    assert pool.dials_due(0, 0, 0, RTT, NOW) == 0
    settle(pool, carriers[:5])
    assert pool.dials_due(0, 5, 0, RTT, NOW) == 5


def test_dials_in_a_second_are_bounded() -> None:
    pool = make(conns=60_000)

    def dial_all(now: float) -> int:
        total = 0
        while total <= 2 * DIAL_BURST and (due := pool.dials_due(0, 0, 0, RTT, now)):
            settle(pool, dial(pool, due, now))
            total += due
        return total

    assert dial_all(NOW) == DIAL_BURST
    assert dial_all(NOW + 100.5 / DIALS_PER_SECOND) == 100
    assert dial_all(NOW + 100.0) == DIAL_BURST


# --- slow ones


@pytest.mark.parametrize(("rtt", "slow"), [(0.01, SLOW_SECONDS), (0.2, SLOW_RTTS * 0.2)])
def test_a_slow_dial_is_raced(rtt: float, slow: float) -> None:
    pool = make(conns=1)
    dial(pool)
    assert pool.deadline(rtt, NOW + 0.2001) == pytest.approx(NOW + slow)
    assert pool.dials_due(0, 0, 0, rtt, NOW + slow - 0.001) == 0
    assert pool.dials_due(0, 0, 0, rtt, NOW + slow + 0.001) == 1
    dial(pool, 1, NOW + slow)
    assert pool.dials_due(0, 0, 0, rtt, NOW + slow + 0.001) == 0


@pytest.mark.parametrize(("rtt", "limit"), [(0.01, ABANDON_SECONDS), (0.5, ABANDON_RTTS * 0.5)])
def test_a_very_slow_dial_is_given_up(rtt: float, limit: float) -> None:
    pool = make()
    first = dial(pool)
    second = dial(pool, 1, NOW + 1)
    assert pool.too_slow(rtt, NOW + limit - 0.001) == []
    assert pool.deadline(rtt, NOW + limit - 0.001) == pytest.approx(NOW + limit)
    assert pool.too_slow(rtt, NOW + limit) == first
    assert pool.too_slow(rtt, NOW + limit + 1) == first + second
    settle(pool, first)
    assert pool.too_slow(rtt, NOW + limit + 1) == second


def test_a_quiet_pool_needs_no_wake() -> None:
    pool = make()
    settle(pool, dial(pool))
    assert pool.deadline(RTT, NOW + 1) == inf


# --- failures


def fail(pool: Pool, now: float) -> None:
    pool.failed(dial(pool, 1, now)[0], now)


def pause(pool: Pool, now: float) -> float:
    """How long the pool waits after what happened at `now`."""
    until = pool.deadline(0.0, now)
    assert pool.dials_due(0, 0, 0, 0.0, until - 0.001) == 0
    assert pool.dials_due(0, 0, 0, 0.0, until) > 0
    return until - now


@pytest.mark.parametrize(("dice", "factor"), [(0.0, 0.75), (0.5, 1.0), (0.999999, 1.25)])
def test_the_pause_after_failures_doubles_up_to_a_cap(dice: float, factor: float) -> None:
    pool, now, pauses = make(dice=dice), NOW, []
    for _ in range(20):
        fail(pool, now)
        pauses.append(pause(pool, now))
        now += pauses[-1]
    assert pauses == pytest.approx([min(FIRST_BACKOFF * 2**n, LAST_BACKOFF) * factor for n in range(20)], rel=1e-4)


def test_after_a_failure_one_dial_tries_the_line() -> None:
    pool = make(conns=50)
    fail(pool, NOW)
    later = NOW + 1
    assert pool.dials_due(0, 0, 1000, RTT, later) == 1
    probe = dial(pool, 1, later)
    assert pool.dials_due(0, 0, 1000, RTT, later) == 0
    assert pool.dials_due(0, 0, 1000, RTT, later + SLOW_SECONDS + 0.001) == 1
    settle(pool, probe)
    assert pool.dials_due(1, 1, 0, RTT, later) == 49


def connect(pool: Pool) -> None:
    settle(pool, dial(pool, 1, NOW))


def revive(pool: Pool) -> None:
    pool.revive(NOW)


@pytest.mark.parametrize("contact", [connect, revive])
def test_contact_makes_the_next_pause_short_again(contact: Callable[[Pool], None]) -> None:
    pool = make()
    for _ in range(5):
        fail(pool, NOW)
    contact(pool)
    fail(pool, NOW + 60)
    assert pause(pool, NOW + 60) == pytest.approx(FIRST_BACKOFF)


def test_a_revived_pool_dials_all_at_once() -> None:
    pool = make()
    for _ in range(5):
        fail(pool, NOW)
    assert pool.dials_due(0, 0, 0, RTT, NOW) == 0
    pool.revive(NOW)
    assert pool.dials_due(0, 0, 0, RTT, NOW) == 4


def test_an_idle_carrier_lives_for_about_the_set_time() -> None:
    assert make(dice=0.0).idle_for() == pytest.approx(25.0 * (1 - IDLE_JITTER))
    assert make(dice=0.999999).idle_for() == pytest.approx(25.0 * (1 + IDLE_JITTER), rel=1e-4)
    pool = Pool(4, 0, 25.0, random.Random(1), NOW)
    assert len({pool.idle_for() for _ in range(10)}) == 10
