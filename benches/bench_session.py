"""What a client end and a server end cost together, without sockets: they meet in the simulator of the tests, on a virtual clock.

Purpose: to see whether a change made sessions dearer, before sockets and the kernel blur it. Metric: the time of one round, and
what that is in shots or keystrokes per second. Shots are all that were sent, acks included: fewer shots for the same data lower
their rate, so look at the time as well. The simulator, and its programs that check what arrives, are a part of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from simulator import Line, Network, Plan, Program

from benches.results import note_work
from tcsplitter.client_end import ClientConfig
from tcsplitter.server_end import ServerConfig
from tcsplitter.shared import Handling
from tcsplitter.streams import Stream

TRANSFER = 2_000_000  # bytes, in each direction that is used
MANY, OF_EACH = 500, 8_000  # streams, and bytes that each carries in each direction
KEYSTROKES, KEYSTROKE = 500, 64  # how many, and bytes of one
IDLE = 5_000  # streams on which nothing happens
ROUNDS = 5
LIMIT = 600.0  # virtual seconds

QUIET = Line(delay=0.0005)
BAD = Line(delay=0.02, jitter=0.005, late=0.05, dial_late=0.05, freeze=0.005, cut=0.005)

sizes = pytest.mark.parametrize("size", [1_400, 10_000, 65_536], ids=lambda size: f"{size}-byte-payloads")


class Quiet(Network):
    """Streams that nobody opened by a plan stay idle."""

    def open_idle(self, count: int) -> None:
        """So many, which both ends know."""
        for _ in range(count):
            self.client.open_stream(self.now)
        self.settle(0)
        self.run(lambda: sum(len(session.streams) for session in self.server.sessions.values()) == count, LIMIT)

    def _serve(self, stream: Stream) -> None:
        if stream.id in self.by_stream:
            super()._serve(stream)


def network(line: Line, size: int = 10_000) -> Quiet:
    handling = Handling(size=size)
    return Quiet(1, line, ClientConfig(handling), ServerConfig(handling))


def measure(benchmark: BenchmarkFixture, prepare: Callable[[], Quiet], plans: list[Plan], **work: float) -> None:
    """Time from the opening of the streams to their end. Where nothing else is said the work is so many shots."""
    net = network(QUIET)

    def set_up() -> tuple[tuple[Quiet], dict[str, object]]:
        return (prepare(),), {}

    def carry(fresh: Quiet) -> None:
        nonlocal net
        net = fresh
        for plan in plans:
            net.open(replace(plan))
        net.run(lambda: len(net.programs[1]) == len(plans) and all(program.ended for program in programs(net)), LIMIT)

    benchmark.pedantic(carry, setup=set_up, rounds=ROUNDS, warmup_rounds=1)  # type: ignore[no-untyped-call]
    for plan in plans:
        assert [net.programs[side][plan.name].count for side in (1, 0)] == list(plan.sizes)
    counters = net.client.session.counters
    note_work(benchmark.extra_info, **(work or {"shots": counters.shots_sent + counters.shots_received}))


def programs(net: Quiet) -> list[Program]:
    return [*net.programs[0].values(), *net.programs[1].values()]


def bulk(up: int, down: int) -> Plan:
    return Plan(name=0, sizes=(up, down), writes=[TRANSFER])


@sizes
def test_one_way(benchmark: BenchmarkFixture, size: int) -> None:
    """TRANSFER bytes from client to server."""
    measure(benchmark, lambda: network(QUIET, size), [bulk(TRANSFER, 0)])


@sizes
def test_both_ways(benchmark: BenchmarkFixture, size: int) -> None:
    """TRANSFER bytes each way at once."""
    measure(benchmark, lambda: network(QUIET, size), [bulk(TRANSFER, TRANSFER)])


def test_bad_line(benchmark: BenchmarkFixture) -> None:
    """TRANSFER bytes each way on a line where carriers are late, freeze and break."""
    measure(benchmark, lambda: network(BAD), [bulk(TRANSFER, TRANSFER)])


def test_many_streams(benchmark: BenchmarkFixture) -> None:
    """MANY streams at once, each with OF_EACH bytes each way: opened, used and closed."""
    plans = [Plan(name=number, sizes=(OF_EACH, OF_EACH), writes=[OF_EACH]) for number in range(MANY)]
    measure(benchmark, lambda: network(QUIET), plans, streams=MANY)


@pytest.mark.parametrize("others", [0, IDLE], ids=lambda count: f"beside-{count}-idle")
def test_keystrokes(benchmark: BenchmarkFixture, others: int) -> None:
    """KEYSTROKES writes of KEYSTROKE bytes, up to half a second apart."""
    plan = Plan(name=0, sizes=(KEYSTROKES * KEYSTROKE, 0), writes=[KEYSTROKE], chatty=1.0)
    measure(benchmark, lambda: beside(others), [plan], keystrokes=KEYSTROKES)


def beside(others: int) -> Quiet:
    net = network(QUIET)
    net.open_idle(others)
    return net
