"""How many carriers the client dials, and when."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tcsplitter.carrier import Carrier
from tcsplitter.modes import Kind
from tcsplitter.pool import (
    ABANDON_RTTS,
    ABANDON_SECONDS,
    DIAL_BURST,
    DIALS_PER_SECOND,
    FIRST_BACKOFF,
    GROWTH,
    IDLE_JITTER,
    LAST_BACKOFF,
    MANY_SLOW,
    MAX_DIALING,
    RACED,
    SLOW_RTTS,
    SLOW_SECONDS,
    DialBudget,
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


def make(conns: int = 4, burst: int = 1024, dice: float = 0.5, budget: DialBudget | None = None, ramp: float = 0.0) -> Pool:
    return Pool(conns, burst, 25.0, budget or DialBudget(NOW), Dice(dice), NOW, ramp)


def dial(pool: Pool, count: int = 1, now: float = NOW) -> list[Carrier]:
    carriers = [Carrier(Kind.FLING, now) for _ in range(count)]
    pool.dialled(carriers, now)
    return carriers


def test_an_address_that_does_not_answer_leaves_dials_to_the_other_pools() -> None:
    """Slow dials are raced, many of them by one at a time, and one pool never has more than half of all that may be under way."""
    budget = DialBudget(NOW, pools=2)
    silent, other = make(conns=16, budget=budget), make(conns=16, budget=budget)
    now = NOW
    while now < NOW + ABANDON_SECONDS - 0.1:
        due = silent.dials_due(0, 0, 100, RTT, now)
        slow = len([began for began in silent._dialing.values() if began <= now - SLOW_SECONDS])
        if slow >= MANY_SLOW:
            assert due <= 1
        dial(silent, due, now)
        now += 0.05
    assert MANY_SLOW < budget.dialing <= MAX_DIALING // 2
    assert other.dials_due(0, 0, 100, RTT, now) == 100


def test_slow_dials_that_others_have_overtaken_hold_nothing_back() -> None:
    pool = make(conns=64, burst=1_000)
    slow = dial(pool, 2 * MANY_SLOW, NOW)
    later = NOW + SLOW_SECONDS
    assert pool.dials_due(0, 0, 100, RTT, later) == 1
    quick = dial(pool, 1, later)
    settle(pool, quick)
    assert pool.dials_due(1, 1, 100, RTT, later + SLOW_SECONDS) > MANY_SLOW
    settle(pool, slow)


@pytest.mark.parametrize(("rtt", "of_use"), [(RTT, False), (1.0, True)])
def test_a_dial_that_was_lost_and_came_again_is_known_by_those_that_overtook_it(rtt: float, of_use: bool) -> None:
    pool = make()
    (lost,), later = dial(pool), NOW + 2 * SLOW_SECONDS
    (quick,) = dial(pool, 1, later)
    assert pool.connected(quick, RTT, later + RTT)
    assert pool.connected(lost, rtt, later + RTT) is of_use


def test_a_dial_that_took_long_is_of_use_if_none_overtook_it() -> None:
    pool = make()
    (slow,) = dial(pool)
    assert pool.connected(slow, RTT, NOW + 2 * SLOW_SECONDS)


def settle(pool: Pool, carriers: list[Carrier]) -> None:
    for carrier in carriers:
        pool.connected(carrier, RTT, NOW)


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
        (0, 0, 4 * GROWTH, 4 * GROWTH),
        (0, 0, 100, 4 * GROWTH),
        (0, 3 * GROWTH, 100, GROWTH),
        (0, 4 * GROWTH, 100, 0),
        (0, 5 * GROWTH, 100, 0),
    ],
)
def test_the_pool_is_filled_up_to_what_is_wanted_and_may_be(idle: int, alive: int, want: int, due: int) -> None:
    assert make().dials_due(idle, alive, want, RTT, NOW) == due


def test_dials_under_way_count_as_idle_and_as_alive() -> None:
    pool = make()
    dial(pool, 3)
    assert pool.dials_due(0, 0, 0, RTT, NOW) == 1
    assert pool.dials_due(0, 0, 100, RTT, NOW) == 4 * GROWTH - 3


def test_the_pool_grows_by_its_factor_in_an_rtt_up_to_its_ceiling() -> None:
    pool = make(burst=600)
    sizes, alive, now = [], 0, NOW
    for _ in range(4):
        for _ in range(40):  # more than MAX_DIALING at once takes several turns
            carriers = dial(pool, pool.dials_due(0, alive, 10_000, RTT, now), now)
            settle(pool, carriers)
            alive += len(carriers)
        sizes.append(alive)
        now += RTT
    assert sizes == [4 * GROWTH, 4 * GROWTH**2, 600, 600]


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
    assert pool.dials_due(0, 5, 0, RTT, NOW + 5 / DIALS_PER_SECOND) == 5


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
    assert pool.dials_due(1, 1, 0, RTT, later + 1) == 49


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
    pool = Pool(4, 0, 25.0, DialBudget(NOW), random.Random(1), NOW)
    assert len({pool.idle_for() for _ in range(10)}) == 10


# --- what happens to a pool


class Life:
    """A pool that dials all that it may, and what becomes of its carriers; nothing is slow unless a test says so."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.now = NOW
        self.dialing: dict[Carrier, float] = {}
        self.idle: list[Carrier] = []
        self.busy: list[Carrier] = []
        self.ever_slow = False

    @property
    def alive(self) -> int:
        return len(self.idle) + len(self.busy)

    @property
    def young(self) -> int:
        """Dials that are not slow yet."""
        return sum(self.now - began < max(SLOW_RTTS * RTT, SLOW_SECONDS) for began in self.dialing.values())

    def dial(self, want: int) -> int:
        due = self.pool.dials_due(len(self.idle), self.alive, want, RTT, self.now)
        self.dialing |= dict.fromkeys(dial(self.pool, due, self.now), self.now)
        return due

    def connect(self, index: int) -> None:
        if self.dialing:
            carrier = self._under_way(index)
            self.pool.connected(carrier, RTT, self.now)
            self.idle.append(carrier)

    def fail(self, index: int) -> None:
        if self.dialing:
            self.pool.failed(self._under_way(index), self.now)

    def use(self, index: int) -> None:
        if self.idle:
            self.busy.append(self.idle.pop(index % len(self.idle)))

    def end(self, index: int) -> None:
        if self.busy:
            del self.busy[index % len(self.busy)]

    def give_up(self, _index: int) -> None:
        for carrier in self.pool.too_slow(RTT, self.now):
            del self.dialing[carrier]
            self.pool.failed(carrier, self.now)

    def wait(self, index: int) -> None:
        self.now += (0.001, RTT, 2 * SLOW_SECONDS, LAST_BACKOFF, ABANDON_SECONDS)[index % 5]

    def _under_way(self, index: int) -> Carrier:
        carrier = list(self.dialing)[index % len(self.dialing)]
        del self.dialing[carrier]
        return carrier


steps = st.sampled_from([Life.connect, Life.connect, Life.fail, Life.use, Life.use, Life.end, Life.give_up, Life.wait])
lives = st.lists(st.tuples(steps, st.integers(0, 100), st.integers(0, 50)), max_size=80)


@given(st.integers(1, 20), lives)
def test_a_fixed_pool_never_has_more_than_its_size(conns: int, plan: list[tuple[Callable[[Life, int], None], int, int]]) -> None:
    """Only those that were given up as slow, and connect in spite of that, come on top."""
    life = Life(make(conns, burst=0))
    assert life.dial(1000) == conns
    for step, index, want in plan:
        was_slow = len(life.dialing) > life.young
        step(life, index)
        if life.dial(want):
            assert life.alive + life.young <= conns
        life.ever_slow |= was_slow or len(life.dialing) > life.young
        assert life.alive + len(life.dialing) <= (RACED if life.ever_slow else 1) * conns


@given(st.integers(1, 8), st.integers(0, 40), lives)
def test_a_pool_that_may_grow_keeps_to_its_ceiling(
    conns: int, more: int, plan: list[tuple[Callable[[Life, int], None], int, int]]
) -> None:
    life = Life(make(conns, burst=conns + more))
    for step, index, want in plan:
        if life.dial(want):
            assert life.alive + life.young <= conns + more
        assert life.alive + len(life.dialing) <= RACED * (conns + more)
        step(life, index)


def test_a_fixed_pool_waits_until_one_of_its_carriers_ends() -> None:
    life = Life(make(burst=0))
    life.dial(0)
    for _ in range(4):
        life.connect(0)
        life.use(0)
    assert life.dial(1000) == 0
    life.end(0)
    assert life.dial(1000) == 1


def test_a_full_pool_tries_no_line() -> None:
    """A slow dial that is given up after another one took its place leaves nothing to be dialled."""
    life = Life(make(2, burst=0))
    life.dial(0)
    life.connect(0)
    life.now += 2 * SLOW_SECONDS
    life.dial(0)
    life.connect(1)
    life.now += ABANDON_SECONDS
    life.give_up(0)
    life.now += 2 * LAST_BACKOFF
    assert (life.alive, len(life.dialing)) == (2, 0)
    assert life.dial(1000) == 0


# --- the ramp


@given(st.integers(1, 200), st.floats(0.001, 30.0), st.floats(0.0, 1e8))
@example(27, 0.05, 37_961_522.3)
def test_the_first_pool_is_spread_evenly_over_the_ramp(conns: int, ramp: float, began: float) -> None:
    """Woken up only when it asks for it."""
    pool = Pool(conns, 1024, 25.0, DialBudget(began), Dice(0.5), began, ramp)
    now, times = began, list[float]()
    while now < began + ramp + 1:
        due = pool.dials_due(len(times), len(times), 0, RTT, now)
        settle(pool, dial(pool, due, now))
        times += [now - began] * due
        now = pool.deadline(RTT, now)
    assert len(times) == conns
    assert times == pytest.approx([number * ramp / conns for number in range(conns)], abs=1e-6)


def test_what_is_wanted_does_not_wait_for_the_ramp() -> None:
    pool = make(conns=10, ramp=5.0)
    assert pool.dials_due(0, 0, 0, RTT, NOW) == 1
    assert pool.dials_due(0, 0, 7, RTT, NOW) == 7


def test_after_the_ramp_the_pool_is_kept_full() -> None:
    pool = make(conns=10, ramp=5.0)
    assert pool.dials_due(0, 0, 0, RTT, NOW + 2.6) == 6
    assert pool.dials_due(0, 0, 0, RTT, NOW + 5.0) == 10
    assert pool.deadline(RTT, NOW + 6.0) == inf


# --- the budget of several pools


@given(st.lists(st.tuples(st.integers(0, 1), steps, st.integers(0, 100), st.integers(0, 1000)), max_size=60))
def test_pools_share_a_budget(plan: list[tuple[int, Callable[[Life, int], None], int, int]]) -> None:
    budget = DialBudget(NOW)
    both = [Life(make(100, 1024, budget=budget)) for _ in range(2)]
    begun = 0
    for which, step, index, want in plan:
        life = both[which]
        begun += life.dial(want)
        step(life, index)
        both[1 - which].now = life.now
        under_way = sum(len(each.dialing) for each in both)
        assert budget.dialing == under_way <= MAX_DIALING
        assert begun <= DIAL_BURST + (life.now - NOW) * DIALS_PER_SECOND
        assert budget.left(life.now) <= MAX_DIALING - under_way


def test_what_one_pool_dials_another_cannot() -> None:
    budget = DialBudget(NOW)
    one, other = Life(make(100, budget=budget)), Life(make(1_000, burst=0, budget=budget))
    assert (one.dial(0), other.dial(0)) == (100, MAX_DIALING - 100)
    one.connect(0)
    one.fail(0)
    one.now = other.now = now = NOW + 0.1
    assert other.dial(0) == 2
    for _ in range(20):
        for life in (one, other):
            life.dial(1000)
            while life.dialing:
                life.connect(0)
            life.idle.clear()
    assert budget.left(now) == 0
    assert budget.left(now + 7.5 / DIALS_PER_SECOND) == 7


def test_dials_that_end_within_the_call_make_room_for_those_that_are_still_missing() -> None:
    """Nothing else happens then that would let the pool be asked again."""
    pool = make(conns=MAX_DIALING + 76)
    now = NOW
    assert pool.dials_due(0, 0, 0, RTT, now) == MAX_DIALING
    carriers = dial(pool, MAX_DIALING)
    assert pool.deadline(RTT, now) > now
    for carrier in carriers:
        pool.connected(carrier, RTT, NOW)
    assert pool.deadline(RTT, now) == -inf
    assert pool.dials_due(MAX_DIALING, MAX_DIALING, 0, RTT, now) == 76
    assert pool.deadline(RTT, now) > now
    for carrier in dial(pool, 76):
        pool.connected(carrier, RTT, NOW)
    assert pool.deadline(RTT, now) > now


def test_a_dial_after_a_failure_that_ends_within_the_call_lets_the_others_begin() -> None:
    pool = make(conns=50)
    (failed,) = dial(pool)
    pool.failed(failed, NOW)
    now = NOW + 2 * FIRST_BACKOFF
    assert pool.dials_due(0, 0, 0, RTT, now) == 1
    (carrier,) = dial(pool, now=now)
    pool.connected(carrier, RTT, NOW)
    assert pool.deadline(RTT, now) == -inf
    assert pool.dials_due(1, 1, 0, RTT, now) > 1


def test_a_pool_that_is_put_off_asks_for_nothing_though_a_dial_ends() -> None:
    pool = make(conns=MAX_DIALING + 76)
    assert pool.dials_due(0, 0, 0, RTT, NOW) == MAX_DIALING
    carriers = dial(pool, MAX_DIALING)
    pool.connected(carriers[0], RTT, NOW)
    pool.put_off()
    pool.connected(carriers[1], RTT, NOW)
    assert pool.deadline(RTT, NOW) > NOW
