"""Parity and twins on bad lines in the simulator: what theory says of them, and that they stay away where they are of no use."""

from __future__ import annotations

from functools import partial
from math import comb
from statistics import median

import pytest
from simulator import Line, Network, Plan

from tcsplitter.client_end import ClientConfig
from tcsplitter.modes import MODES
from tcsplitter.options import Fec, Retries
from tcsplitter.server_end import ServerConfig
from tcsplitter.session import Session
from tcsplitter.shared import Handling

UNFORGIVING = Retries(resend=False, skip=-1)
both_ways = pytest.mark.parametrize("sizes", [(1, 0), (0, 1)], ids=["up", "down"])


def transfer(seed: int, line: Line, handling: Handling, sizes: tuple[int, int], mode: str = "fling") -> tuple[Session, Session]:
    """Send so many bytes each way; the session at the client and at the server when all has arrived."""
    client = ClientConfig(handling=handling, mode=MODES[mode], lassoes=4)
    net = Network(seed, line, client, ServerConfig(handling))
    net.after(0.0, lambda: net.open(Plan(1, sizes, [100_000])))
    net.run(lambda: len(net.by_stream) == 1 and net.done(), seconds=600)
    net.verify()
    return net.client.session, next(iter(net.server.sessions.values()))


# One direction at a time: what the other end used in vain looks idle, so that with both more than the share is dead.
@both_ways
@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize(("share", "fec"), [(0.01, Fec(10, 3)), (0.1, Fec(10, 9))], ids=["10:3", "10:9"])
def test_what_connections_swallow_for_ever_is_rebuilt(share: float, fec: Fec, mode: str, sizes: tuple[int, int]) -> None:
    handling = Handling(size=1_000, retries=UNFORGIVING, fec=fec)
    ends = transfer(5, Line(swallow=share), handling, (300_000 * sizes[0], 300_000 * sizes[1]), mode)
    assert ends[sizes[0]].counters.shots_rebuilt > 0
    for session in ends:
        assert session.counters.payloads_given_up == session.counters.stripes_lost == 0


def too_many_lost(data: int, parity: int, share: float) -> float:
    """Probability that a stripe has lost more shots than it has parity for."""
    count = data + parity
    return 1 - sum(comb(count, lost) * share**lost * (1 - share) ** (count - lost) for lost in range(parity + 1))


@both_ways
def test_the_share_of_stripes_that_fail_is_that_of_theory(sizes: tuple[int, int]) -> None:
    handling = Handling(size=1_000, tock=0.1, retries=Retries(resend=False, skip=50), fec=Fec(10, 3))
    client = ClientConfig(handling=handling)
    net = Network(11, Line(swallow=0.1), client, ServerConfig(handling))
    bytes_sent = 12_000_000
    net.after(0.0, lambda: net.open(Plan(1, (sizes[0] * bytes_sent, sizes[1] * bytes_sent), [100_000])))
    net.run(lambda: len(net.by_stream) == 1 and all(p[1].ended for p in net.programs), seconds=6_000)
    ends = net.client.session, next(iter(net.server.sessions.values()))
    sender, receiver = ends if sizes[0] else reversed(ends)
    stripes = sender.counters.parity_sent / 3
    assert stripes == pytest.approx(bytes_sent / 1_000 / 10, rel=0.03), "hardly a stripe was closed early"
    net.settle(0)
    assert receiver.counters.stripes_lost / stripes == pytest.approx(too_many_lost(10, 3, 0.1), abs=0.01)


AUTO = Fec(auto=True)


def test_on_a_clean_line_there_is_no_parity_where_it_is_left_to_the_line() -> None:
    for session in transfer(3, Line(delay=0.02), Handling(fec=AUTO), (3_000_000, 3_000_000)):
        assert session.counters.parity_sent == 0


def test_a_line_that_is_full_has_hardly_any_either() -> None:
    line = Line(delay=0.02, late=0.03, rate=2_500_000.0)
    for session in transfer(3, line, Handling(fec=AUTO), (10_000_000, 10_000_000)):
        assert session.counters.parity_sent < 0.02 * session.counters.shots_sent


def test_what_is_sent_now_and_then_has_parity_on_a_line_that_makes_it_late() -> None:
    handling = Handling(fec=AUTO)
    net = Network(3, Line(delay=0.02, late=0.05), ClientConfig(handling=handling), ServerConfig(handling))
    net.after(0.0, lambda: net.open(Plan(1, (2_000_000, 0), [20_000], chatty=1.0)))
    net.run(lambda: len(net.by_stream) == 1 and net.done(), seconds=600)
    net.verify()
    counters = net.client.session.counters
    assert counters.parity_sent > 50
    server = next(iter(net.server.sessions.values()))
    assert server.counters.shots_rebuilt > 5


@pytest.mark.parametrize("fec", [Fec(), Fec(4, 4)])
def test_repair_does_not_hide_lateness(fec: Fec) -> None:
    """The share of late shots that senders find is that of the line within a factor of two, with parity and without. Taken from
    two runs, while they go on: it is that of some 200 shots, none of them late at first, and all in the end."""
    shares = []
    handling = Handling(size=1_000, fec=fec)

    def is_done(net: Network) -> bool:
        if net.client.session.counters.bytes_sent > 1_000_000:
            shares.append(net.client.session.recovery.lateness.share)
        return len(net.by_stream) == 1 and net.done()

    for seed in range(4, 6):
        net = Network(seed, Line(delay=0.02, late=0.1), ClientConfig(handling=handling), ServerConfig(handling))
        net.after(0.0, partial(net.open, Plan(1, (2_000_000, 0), [100_000])))
        net.run(partial(is_done, net), seconds=600)
    assert 0.05 < median(shares) < 0.2
