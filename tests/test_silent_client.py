"""Connections that swallow what is sent on them while the client has nothing to say, on the simulator's virtual clock."""

from __future__ import annotations

import pytest
from simulator import Connection, Line, Network

from tcsplitter.client_end import ClientConfig
from tcsplitter.modes import MODES
from tcsplitter.options import Fec
from tcsplitter.server_end import ServerConfig
from tcsplitter.shared import Handling
from tcsplitter.streams import Stream

QUESTION = bytes(36)


class Program:
    """One side's program of the one stream: counts what comes, and answers it if it is to."""

    def __init__(self, stream: Stream, answers: bool) -> None:
        self.stream = stream
        self.count = 0
        self._answers = answers
        stream.app = self

    def update(self, now: float) -> None:
        while self.stream.readable:
            for buffer in self.stream.peek(1 << 16):
                self.count += len(buffer)
                if self._answers:
                    self.stream.write(bytes(len(buffer)))
                self.stream.consume(len(buffer), now)


class Echoes(Network):
    """A network with one stream, whose server echoes what comes."""

    def __init__(self, seed: int, line: Line, client: ClientConfig | None = None, server: ServerConfig | None = None) -> None:
        super().__init__(seed, line, client, server)
        self.near = Program(self.client.open_stream(self.now), answers=False)
        self.settle(0)

    def _serve(self, stream: Stream) -> None:
        self.far = Program(stream, answers=True)

    def elapse(self, seconds: float) -> None:
        """Let virtual time pass."""
        until = self.now + seconds
        self.at(until, lambda: None)
        self.run(lambda: self.now >= until, seconds + 1)

    def ask(self) -> float:
        """One echo; the seconds that it took."""
        began, due = self.now, self.near.count + len(QUESTION)
        self.near.stream.write(QUESTION)
        self.settle(0)
        self.run(lambda: self.near.count >= due, 60)
        return self.now - began

    def idle(self, side: int) -> list[Connection]:
        """The connections that an end takes for idle; the last one is taken next."""
        session = (self.client.session, *self.server.sessions.values())[side]
        kind = session.carriers.payload[0]
        return [carrier.io for carrier in session.carriers.idle[kind]]


def swallow(connections: list[Connection]) -> None:
    """What is sent on them from now on never arrives, and nobody is told."""
    for connection in connections:
        for pipe in connection.pipes:
            pipe.frozen = True


def talked(mode: str, burst: int = 64, hedge: bool = True) -> Echoes:
    """A network whose programs have talked, and then were silent for a moment."""
    net = Echoes(7, Line(), ClientConfig(Handling(hedge=hedge), mode=MODES[mode], lassoes=4, burst=burst))
    for _ in range(10):
        net.ask()
        net.elapse(0.1)
    net.elapse(0.3)
    return net


NOTICED = 4.0
"""Seconds: the first ping after two, the verdict that it is lost after one more, and the handshake."""
QUICK = 0.25
"""Seconds that an echo takes on a line whose RTT is 0.04, at most: nobody tries a connection in vain, or waits for a verdict."""
GIVEN_UP = 9.0
"""Seconds: where the pool is fixed nothing is dialled in their place until they are given up, at most six after the handshake."""
modes = pytest.mark.parametrize("mode", list(MODES))


@modes
def test_what_the_server_says_reaches_a_silent_client_whose_connections_swallow_all(mode: str) -> None:
    net = talked(mode)
    swallow(net.idle(0) + net.idle(1))
    net.far.stream.write(QUESTION)
    net.settle(1)
    due = net.near.count + len(QUESTION)
    net.run(lambda: net.near.count >= due, NOTICED)


@modes
@pytest.mark.parametrize(("burst", "seconds"), [(64, NOTICED), (0, GIVEN_UP)], ids=["growing", "fixed"])
def test_a_silent_client_has_replaced_connections_that_swallow_all_before_anyone_speaks(
    mode: str, burst: int, seconds: float
) -> None:
    net = talked(mode, burst)
    dead = net.idle(0) + net.idle(1)
    swallow(dead)
    net.elapse(seconds)
    assert net.idle(0)
    assert not set(net.idle(0)) & set(dead)
    assert net.ask() < QUICK


def swallow_a_ping(net: Echoes) -> None:
    chosen = net.idle(0)[-1]
    swallow([chosen])
    net.run(lambda: chosen.pipes[0].undelivered > 0, 2.0)


@modes
@pytest.mark.parametrize("burst", [64, 0])
def test_where_one_connection_swallowed_a_ping_its_twin_tells_that_all_is_well(mode: str, burst: int) -> None:
    net = talked(mode, burst)
    keys = net.client.session.keys.sealing
    swallow_a_ping(net)
    net.elapse(NOTICED)
    assert net.client.session.keys.sealing is keys
    assert not net.client.session.suspect
    assert net.ask() < QUICK


@modes
def test_a_ping_without_a_twin_that_is_swallowed_makes_the_client_ask(mode: str) -> None:
    net = talked(mode, hedge=False)
    keys = net.client.session.keys.sealing
    swallow_a_ping(net)
    began = net.now
    net.run(lambda: net.client.session.keys.sealing is not keys, NOTICED - 2.0)
    assert net.now - began >= 1.0, "not before it is late"
    assert not net.client.session.suspect
    net.elapse(0.5)
    assert net.ask() < QUICK


# --- every tenth connection


def echoes(seed: int, handling: Handling) -> tuple[Echoes, list[float]]:
    """Twenty echoes after as many that tell what the line is like; the seconds that each of them took."""
    net = Echoes(seed, Line(swallow=0.1), ClientConfig(handling), ServerConfig(handling))
    times = []
    for _ in range(40):
        times.append(net.ask())
        net.elapse(0.2)
    return net, times[20:]


SEEDS = range(8)


@pytest.mark.parametrize("hedge", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_where_the_line_decides_echoes_do_not_wait_for_what_is_swallowed(seed: int, hedge: bool) -> None:
    net, times = echoes(seed, Handling(fec=Fec(auto=True), hedge=hedge))
    assert len(times) == 20
    assert max(times) < 1.0
    ends = [net.client.session, *net.server.sessions.values()]
    assert sum(session.counters.hedges_won for session in ends) > 0, "something was swallowed"


def test_without_repair_they_do() -> None:
    assert max(max(echoes(seed, Handling(hedge=False))[1]) for seed in SEEDS) > 1.0
