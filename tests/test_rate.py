"""`--rate`: the bucket by itself, what a session sends under it, and what it wishes for; and `--polite`."""

from __future__ import annotations

from itertools import accumulate
from math import inf

import pytest
from account import shot
from hypothesis import given
from hypothesis import strategies as st
from session_pair import CLIENT, RTT, Pair, Sent, acks, data_shots, parity_shots
from stream_ends import End

from tcsplitter.cap import (
    AHEAD_SECONDS,
    BURST_SECONDS,
    BURST_SHOTS,
    CONNECTION,
    HEADERS,
    SEGMENT,
    SHOT_OVERHEAD,
    Cap,
    wire_bytes,
)
from tcsplitter.congestion import LEAST_SHOTS, Congestion
from tcsplitter.demand import CLIENT_TURNS, MOST_AHEAD, TURN_SECONDS, Demand
from tcsplitter.options import Fec
from tcsplitter.payload import PayloadSize
from tcsplitter.shared import Handling

SIZE = 1_000
RATE = 125_000.0
FULL = wire_bytes(SIZE + SHOT_OVERHEAD, first=True)
FEW = 1e-6
"""Seconds: what rounding may cost."""

rates = st.floats(3.0, 9.0).map(lambda power: 10**power)
sizes = st.sampled_from([100, 1_000, 10_000, 100_000])
pauses = st.lists(st.floats(0, 0.2), min_size=2, max_size=60)


def burst(rate: float, size: int) -> float:
    """Bytes that may go at once."""
    return max(BURST_SHOTS * wire_bytes(size + SHOT_OVERHEAD, first=True), rate * BURST_SECONDS)


def assert_holds(spent: list[tuple[float, int]], rate: float, more: float) -> None:
    """Over every window of time: what was sent is no more than the rate allows in it, and this."""
    totals = [0, *accumulate(cost for _, cost in spent)]
    for first, (since, _) in enumerate(spent):
        for last in range(first, len(spent)):
            assert totals[last + 1] - totals[first] <= rate * (spent[last][0] - since + FEW) + more


# --- the bucket


def test_what_bytes_take_on_the_line() -> None:
    assert wire_bytes(1, first=False) == 1 + HEADERS
    assert wire_bytes(SEGMENT, first=False) == SEGMENT + HEADERS
    assert wire_bytes(SEGMENT + 1, first=False) == SEGMENT + 1 + 2 * HEADERS
    assert wire_bytes(10_000, first=True) == 10_000 + 7 * HEADERS + CONNECTION


@given(rates, sizes, pauses, st.lists(st.booleans(), min_size=60, max_size=60))
def test_bulk_keeps_to_the_cap_over_any_window(rate: float, size: int, times: list[float], eager: list[bool]) -> None:
    """It goes when it comes, or as soon as it may."""
    cap, now = Cap(rate, PayloadSize(size)), 50.0
    spent = []
    for pause, at_once in zip(times, eager, strict=False):
        now = max(now, cap.opens_at) + pause * (not at_once)
        cap.spend(size + SHOT_OVERHEAD, True, now)
        spent.append((now, wire_bytes(size + SHOT_OVERHEAD, first=True)))
    assert_holds(spent, rate, burst(rate, size))


@given(rates, sizes, st.lists(st.tuples(st.booleans(), st.floats(0, 0.02), st.floats(0.01, 1)), min_size=2, max_size=60))
def test_with_sparse_streams_no_more_than_they_may_be_ahead_is_added(
    rate: float, size: int, steps: list[tuple[bool, float, float]]
) -> None:
    cap, now = Cap(rate, PayloadSize(size)), 50.0
    full = wire_bytes(size + SHOT_OVERHEAD, first=True)
    spent = []
    for sparse, pause, share in steps:
        now = max(now + pause, cap.sparse_at if sparse else cap.opens_at)
        shot = int(share * (size + SHOT_OVERHEAD)) if sparse else size + SHOT_OVERHEAD
        cap.spend(shot, True, now)
        spent.append((now, wire_bytes(shot, first=True)))
    assert_holds(spent, rate, burst(rate, size) + max(AHEAD_SECONDS * rate, full))


@given(rates, sizes, pauses)
def test_what_waits_for_the_cap_uses_all_of_it(rate: float, size: int, late: list[float]) -> None:
    """Wakes may be late by as much as the burst makes up for."""
    cap, now = Cap(rate, PayloadSize(size)), 50.0
    full = wire_bytes(size + SHOT_OVERHEAD, first=True)
    cap.spend(size + SHOT_OVERHEAD, True, now)
    sent = 0
    slack = burst(rate, size) / rate - full / rate
    for pause in late:
        at = cap.opens_at + min(pause, slack)
        while at >= cap.opens_at:
            cap.spend(size + SHOT_OVERHEAD, True, at)
            sent += full
    assert sent >= rate * (at - now) * (1 - FEW) - full


@pytest.mark.parametrize("rate", [RATE / 100, RATE, 100 * RATE])
def test_bulk_that_keeps_to_the_cap_holds_up_no_keystroke(rate: float) -> None:
    cap, now = Cap(rate, PayloadSize(SIZE)), 50.0
    for _ in range(100):
        now = max(now, cap.opens_at)
        cap.spend(SIZE + SHOT_OVERHEAD, True, now)
        assert cap.sparse_at <= now * (1 + 1e-12)


def test_sparse_streams_are_ahead_for_a_while_and_then_wait() -> None:
    cap, now = Cap(RATE, PayloadSize(SIZE)), 50.0
    count = 0
    while now >= cap.sparse_at:
        cap.spend(100, True, now)
        count += 1
    allowed = burst(RATE, SIZE) + AHEAD_SECONDS * RATE
    assert allowed - FULL < count * wire_bytes(100, first=True) <= allowed
    assert now < cap.sparse_at < cap.opens_at


def test_without_a_cap_nothing_waits() -> None:
    cap = Cap(0.0, PayloadSize(SIZE))
    for _ in range(1000):
        cap.spend(1_000_000, True, 50.0)
    assert cap.opens_at == cap.sparse_at == -inf
    assert cap.within(0.1) == inf


# --- a session


class Capped:
    """A pair whose ends are capped, with two streams; the line takes what the client's cap allows, and nothing is owed."""

    def __init__(self, fec: Fec | None = None, hedge: bool = False, rate: float = RATE, datagrams: bool = False) -> None:
        handling = Handling(size=SIZE, rate=rate, hedge=hedge, fec=fec or Fec())
        self.pair = Pair(handling, carriers=600, datagrams=datagrams)
        if not datagrams:
            self.pair.open()
            self.pair.open()
            self.bulk, self.keys = self.pair.client.streams
        self.pair.wait(1.0)
        self.pair.settle()
        self.pair.widen(CLIENT)
        self.cap = self.pair.client.recovery.congestion.cap

    def run(self, seconds: float) -> list[Sent]:
        """All that leaves in this time; it arrives half an RTT later, and is read."""
        pair, left = self.pair, list[Sent]()
        until = pair.now + seconds
        while pair.now < until:
            left += pair.wait(0.01)
            left += pair.deliver(*[shot for shot in pair.wire if shot.left_at + RTT / 2 <= pair.now])
            for stream in pair.server.streams:
                stream.consume(stream.readable, pair.now)
        return left

    def fill(self) -> list[Sent]:
        """Bulk that lasts; what leaves at once."""
        self.bulk.write(bytes(min(self.bulk.room, 60 * SIZE)))
        return self.pair.flush()


def spent(shots: list[Sent]) -> list[tuple[float, int]]:
    """When each of the client's shots with payload or parity left, and what it took; a carrier is used once."""
    return [
        (shot.left_at, wire_bytes(len(shot.sealed), first=True))
        for shot in shots
        if shot.side == CLIENT and (shot.payload or shot.is_parity)
    ]


@pytest.mark.parametrize("fec", [Fec(), Fec(4, 2)], ids=str)
@pytest.mark.parametrize("rate", [RATE / 4, RATE])
def test_a_session_sends_as_much_as_the_cap_allows_and_no_more(rate: float, fec: Fec) -> None:
    capped = Capped(fec, rate=rate)
    shots = capped.fill()
    for _ in range(4):
        shots += capped.run(0.25)
        shots += capped.fill()
    assert_holds(spent(shots), rate, burst(rate, SIZE))
    assert sum(cost for _, cost in spent(shots)) > 0.95 * rate
    assert bool(parity_shots(shots)) == fec.used


def test_datagrams_keep_to_the_cap_and_what_waits_too_long_is_dropped() -> None:
    capped = Capped(datagrams=True)
    flow = capped.pair.client.flows.open()
    assert flow is not None
    shots = []
    for _ in range(100):
        for _ in range(10):
            flow.send(bytes(SIZE // 2), capped.pair.now)
        shots += capped.run(0.01)
    assert_holds(spent(shots), RATE, burst(RATE, SIZE) + AHEAD_SECONDS * RATE)
    assert sum(cost for _, cost in spent(shots)) > 0.95 * RATE
    assert capped.pair.client.counters.datagrams_dropped > 500


def test_an_end_wakes_when_the_cap_allows_more() -> None:
    capped = Capped()
    assert len(data_shots(capped.fill())) == BURST_SHOTS
    pair, cap = capped.pair, capped.cap
    assert pair.now < cap.opens_at == pair.client.deadline()
    (shot,) = data_shots(pair.wait(cap.opens_at - pair.now))
    assert shot.left_at == pair.now
    assert pair.now < cap.opens_at == pair.client.deadline()


def test_a_keystroke_beside_bulk_goes_at_once_and_many_wait() -> None:
    capped = Capped()
    capped.fill()
    capped.keys.write(b"x")
    assert len(data_shots(capped.pair.flush())) == 1
    shots = 0
    while capped.pair.now >= capped.cap.sparse_at:
        capped.keys.write(b"x")
        shots += len(data_shots(capped.pair.flush()))
    assert shots * wire_bytes(1 + SHOT_OVERHEAD, first=True) < AHEAD_SECONDS * RATE + FULL
    capped.keys.write(b"x")
    assert data_shots(capped.pair.flush()) == []
    assert capped.pair.client.deadline() == capped.cap.sparse_at
    (shot,) = data_shots(capped.pair.wait(capped.cap.sparse_at - capped.pair.now))
    assert shot.left_at == capped.pair.now


def test_control_frames_and_acks_are_not_held() -> None:
    capped = Capped(rate=RATE / 1000)
    capped.fill()
    assert capped.cap.sparse_at < capped.pair.now + 20 < capped.cap.opens_at + 20
    pair = capped.pair
    pair.client.streams.open()
    theirs = next(iter(pair.server.streams))
    theirs.write(b"hello")
    pair.flush()
    pair.deliver(*[shot for shot in pair.wire if shot.side != CLIENT])
    assert acks([shot for shot in pair.wait(0.1) if shot.side == CLIENT])
    capped.keys.reset()
    (shot,) = [shot for shot in pair.flush() if shot.side == CLIENT]
    assert not shot.payload


def test_what_was_lost_and_twins_wait_for_the_cap() -> None:
    capped = Capped(hedge=True)
    pair = capped.pair
    capped.keys.write(b"x")
    assert len(data_shots(pair.flush())) == 1
    capped.cap.spend(int(RATE / 2), True, pair.now)
    opens_at = capped.cap.opens_at
    assert data_shots(pair.wait(0.9 * (opens_at - pair.now))) == []
    (twin,) = data_shots(pair.wait(opens_at - pair.now + 0.005))
    assert twin.left_at == opens_at
    pair.lose(*data_shots(pair.wire))
    capped.cap.spend(int(RATE), True, pair.now)
    sparse_at = capped.cap.sparse_at
    for carrier in {each.carrier for each in pair.client.recovery.sent.values()}:
        assert data_shots(pair.kill(carrier, CLIENT)) == []
    (again, *_) = data_shots(pair.wait(capped.cap.opens_at - pair.now))
    assert again.left_at >= sparse_at


def test_parity_of_a_keystroke_waits_for_the_cap() -> None:
    capped = Capped(Fec(1, 2))
    pair = capped.pair
    capped.cap.spend(int(0.05 * RATE), True, pair.now)
    assert capped.cap.sparse_at < pair.now < capped.cap.opens_at
    capped.keys.write(b"x")
    shots = pair.flush()
    assert (len(data_shots(shots)), parity_shots(shots)) == (1, [])
    opens_at = capped.cap.opens_at
    parity = parity_shots(pair.wait(RTT))
    assert len(parity) == 2
    assert opens_at == parity[0].left_at < parity[1].left_at


def test_a_connection_of_its_own_is_paid_for_once() -> None:
    pair = Pair(Handling(size=SIZE, rate=RATE, hedge=False), carriers=1, reuse=0)
    stream, _ = pair.open()
    pair.widen(CLIENT)
    pair.wait(1.0)
    cap = pair.client.recovery.congestion.cap
    before = cap._paid_at
    stream.write(bytes(100))
    (shot,) = data_shots(pair.flush())
    earned = max(before, pair.now - burst(RATE, SIZE) / RATE)
    assert cap._paid_at == pytest.approx(earned + wire_bytes(len(shot.sealed), first=False) / RATE)


# --- what else follows of it


@given(st.floats(1e4, 1e8), st.floats(0.01, 0.5), st.integers(0, 10**8), st.booleans())
def test_no_more_carriers_are_wished_for_than_the_cap_can_use(rate: float, rtt: float, unsent: int, starting: bool) -> None:
    wishes = {}
    for cap in (0.0, rate):
        line = Congestion(PayloadSize(SIZE), cap)
        line.sample_rtt(rtt, 0, 0.0)
        line.rate, line.starting = 1e9, starting
        streams = End(client=True).table
        streams.shared.sending.unsent = unsent
        wishes[cap] = Demand(True, line, streams).payloads(0, 0.0)
    most = (burst(rate, SIZE) + rate * MOST_AHEAD * (CLIENT_TURNS * rtt + TURN_SECONDS)) / SIZE
    assert wishes[rate] == pytest.approx(min(wishes[0.0], int(most)), abs=1)  # for rounding


def test_the_cap_is_not_taken_for_the_line() -> None:
    """What is held back by the cap alone says nothing of how much the line carries."""
    capped = Capped()
    before = capped.pair.client.recovery.congestion.rate
    shots = 0
    for _ in range(12):
        shots += len(data_shots(capped.fill()))
        shots += len(data_shots(capped.run(0.25)))
    assert shots > 100
    assert capped.pair.client.recovery.congestion.rate == before


# --- politeness


@pytest.mark.parametrize("polite", [False, True])
def test_who_is_polite_goes_on_yielding_to_others(polite: bool) -> None:
    """Others fill the queue for good: who contends takes back what was held back, who is polite does not."""
    line = Congestion(PayloadSize(SIZE), polite=polite)
    line.sample_rtt(RTT, 0, 0.0)
    line.rate, line.starting = 1e6, False
    contests = 0
    for number in range(400):
        now = number * RTT
        line.sample_rtt(2 * RTT, 0, now)
        sent = shot(number, now - 2 * RTT)
        line.on_sent(sent, SIZE)
        line.on_delivered(sent, now)
        contests += bool(line._contest)
    assert bool(contests) != polite
    assert line.window() >= LEAST_SHOTS * SIZE
