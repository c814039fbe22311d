"""Both ends as processes of the installed command, on the loopback of a network namespace of its own. Needs root and Linux.

    .venv/bin/python benches/loopback.py --secs 10 --repeat 3

Purpose: to tell a cheaper tunnel from a dearer one, sockets and kernel included. Metric: CPU seconds (user and system) of both
ends per GB carried in both directions together; MB/s says more about the machine. Data is made and thrown away in processes of
their own that copy nothing (sendfile, MSG_TRUNC). --echo measures latency instead, beside that of two bare relays in a chain;
--stopped what a stopped reader costs.

--floor names a program, with its options in quotes, that does the least that one connection per payload takes and prints a line
of JSON with cpu_s_per_GB and conns_per_s. It runs in turns with the tunnel, so that the ratio survives a machine that is busy
elsewhere; how busy it was is printed too. One GB is 10⁹ bytes.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import quantiles

sys.path.append(str(Path(__file__).resolve().parents[1]))  # as a script it has only its own folder there

from benches.ends import (
    CLIENT_PORT,
    RELAY_PORTS,
    SERVER_PORT,
    SERVICE_PORT,
    TIME_WAIT,
    Ends,
    Pair,
    accepted,
    both_ends,
    busy_seconds,
    count_sockets,
    cpu_seconds,
    memory,
    resident_now,
)
from benches.load import ECHO_SIZE, Bulk, bulk, connect, counter, echo, listen_at, pour, relay, running, time_echoes
from benches.namespace import enter_namespace, fail
from benches.rounds import BOTH, STEP_LIMIT, Measured, run

WARM_UP = 1.0  # seconds of bulk before anything is measured
ECHO_BLOCK = 100  # echoes in a row on one path
OFFERED = 2_000_000_000  # bytes that a stopped reader is offered
BULK_SECONDS, STOPPED_SECONDS, ALONE_SECONDS = 10, 20, 5


# --- Measurements


@dataclass
class Reading:
    """Everything that only grows, at one moment."""

    at: float
    carried: Pair
    cpu: Pair  # of the server end and the client end
    accepted: int
    elsewhere: float  # CPU seconds of all that does not belong to the benchmark


def read(ends: Ends, flow: Bulk) -> Reading:
    cpu = cpu_seconds(ends.server.pid), cpu_seconds(ends.client.pid)
    own = sum(cpu) + sum(map(cpu_seconds, [os.getpid(), *flow.pids]))
    return Reading(time.monotonic(), flow.carried, cpu, accepted(), busy_seconds() - own)


def each_second(count: int) -> Iterator[None]:
    """Comes round at the end of each of the next `count` seconds."""
    start = time.monotonic()
    for second in range(1, count + 1):
        time.sleep(max(0.0, start + second - time.monotonic()))
        yield


def rates(before: Reading, after: Reading) -> tuple[float, float, float, float]:
    """MB/s up and down, connections per second, cores busy elsewhere."""
    took = after.at - before.at
    up, down = ((b - a) / 1e6 / took for a, b in zip(before.carried, after.carried, strict=True))
    return up, down, (after.accepted - before.accepted) / took, (after.elsewhere - before.elsewhere) / took


def measure_bulk(ends: Ends, service: socket.socket, direction: str, secs: int) -> Measured:
    server_port = f"{SERVER_PORT:04X}"
    waiting_at_client = waiting_at_server = 0
    with bulk(service, direction) as flow:
        time.sleep(WARM_UP)
        readings = [read(ends, flow)]
        for _ in each_second(secs):
            readings.append(read(ends, flow))
            waiting_at_client = max(waiting_at_client, count_sockets(rf"\S+ \S+:{server_port}", TIME_WAIT))
            waiting_at_server = max(waiting_at_server, count_sockets(rf"{server_port} \S+", TIME_WAIT))
        ends.check()
    first, last = readings[0], readings[-1]
    gigabytes = (sum(last.carried) - sum(first.carried)) / 1e9
    if not gigabytes:
        fail("nothing was carried")
    server, client = ((b - a) / gigabytes for a, b in zip(first.cpu, last.cpu, strict=True))
    up, down, connections, elsewhere = rates(first, last)
    by_second = [rates(a, b) for a, b in pairwise(readings)]
    return Measured(
        {
            "MB/s up": up,
            "MB/s down": down,
            "CPU s per GB, server end": server,
            "CPU s per GB, client end": client,
            BOTH: server + client,
            "connections per second": connections,
            "peak RSS MB, server end": memory(ends.server.pid, "VmHWM"),
            "peak RSS MB, client end": memory(ends.client.pid, "VmHWM"),
            "most in TIME_WAIT, server end": waiting_at_server,
            "most in TIME_WAIT, client end": waiting_at_client,
            "cores busy elsewhere": elsewhere,
        },
        {"MB/s up": [each[0] for each in by_second], "MB/s down": [each[1] for each in by_second]},
    )


def measure_echo(service: socket.socket, count: int) -> Measured:
    """Echoes one after the other, in turns directly, by way of two bare relays, and through the tunnel."""
    times: tuple[list[float], list[float], list[float]] = [], [], []
    with (
        listen_at(RELAY_PORTS[0]) as first_hop,
        listen_at(RELAY_PORTS[1]) as second_hop,
        running([partial(relay, first_hop, RELAY_PORTS[1]), partial(relay, second_hop, SERVICE_PORT)]),
    ):
        paths = [connect(service, port) for port in (SERVICE_PORT, RELAY_PORTS[0], CLIENT_PORT)]
        with running([partial(echo, theirs) for _, theirs in paths]):
            for first in range(-ECHO_BLOCK, count, ECHO_BLOCK):
                for (ours, _), kept in zip(paths, times, strict=True):
                    took = time_echoes(ours, min(ECHO_BLOCK, count - first))
                    if first >= 0:  # the block before warms up
                        kept.extend(took)
    for path in paths:
        for sock in path:
            sock.close()
    figures: dict[str, float] = {}
    for name, percent in (("p50", 50), ("p99", 99)):
        direct, relayed, tunnelled = (quantiles(kept, n=100)[percent - 1] * 1e6 for kept in times)
        figures |= {
            f"µs direct, {name}": direct,
            f"µs relays, {name}": relayed,
            f"µs tunnel, {name}": tunnelled,
            f"µs more than directly, {name}": tunnelled - direct,
            f"µs more than the relays, {name}": tunnelled - relayed,
        }
    return Measured(figures, {})


def measure_stopped(ends: Ends, service: socket.socket, direction: str, secs: int) -> Measured:
    """Bulk alone, and beside a stream whose reader has stopped; OFFERED bytes are offered to that in each direction."""
    taken = counter(), counter()
    resident: list[Pair] = []
    with bulk(service, direction) as flow:
        time.sleep(WARM_UP)
        alone = [read(ends, flow)]
        time.sleep(ALONE_SECONDS)
        alone.append(read(ends, flow))
        before = resident_now(ends)
        ours, theirs = connect(service, CLIENT_PORT)
        ways = {"up": partial(pour, ours, OFFERED, taken[0]), "down": partial(pour, theirs, OFFERED, taken[1])}
        with ours, theirs, running([job for way, job in ways.items() if direction in (way, "both")]):
            together = [read(ends, flow)]
            for _ in each_second(secs):
                resident.append(resident_now(ends))
            together.append(read(ends, flow))
        ends.check()
    server, client = ([pair[end] for pair in resident] for end in (0, 1))
    return Measured(
        {
            "MB/s up, alone": rates(*alone)[0],
            "MB/s up, together": rates(*together)[0],
            "MB/s down, alone": rates(*alone)[1],
            "MB/s down, together": rates(*together)[1],
            "cores busy elsewhere, alone": rates(*alone)[3],
            "cores busy elsewhere, together": rates(*together)[3],
            "MB of the offer taken, up": taken[0][0] / 1e6,
            "MB of the offer taken, down": taken[1][0] / 1e6,
            "RSS MB before, server end": before[0],
            "RSS MB at most, server end": max(server),
            "RSS MB before, client end": before[1],
            "RSS MB at most, client end": max(client),
        },
        {"RSS MB, server end": server, "RSS MB, client end": client},
    )


# --- The program


def main() -> None:
    asked = parse()
    enter_namespace()
    measures = [partial(measure, asked, fec) for fec in asked.fec]
    limit = asked.secs + (asked.echo or 0) // 100 + 2 * STEP_LIMIT
    run(asked, measures, limit, asked.floor, asked.fec)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures the tunnel on loopback: bulk, or one of --echo and --stopped.")
    parser.add_argument("--secs", type=int, metavar="N", help="how long (10; with --stopped 20)")
    parser.add_argument("--size", default="10000", metavar="BYTES|auto", help="--frags of both ends (10000)")
    parser.add_argument("--direction", choices=["both", "up", "down"], help="of the bulk; up is to the server end (both)")
    parser.add_argument("--reuse", type=int, default=1, metavar="N", help="of the client end (1)")
    parser.add_argument(
        "--fec",
        nargs="+",
        default=["0"],
        metavar="D:P",
        help="of both ends (0); several are measured in turn, and compared",
    )
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="with fresh ends each time (1)")
    parser.add_argument("--floor", metavar="PROGRAM", help="run this before each repeat and after the last, and print the ratio")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--echo", type=int, metavar="N", help=f"N echoes of {ECHO_SIZE} bytes, directly and through the tunnel")
    other.add_argument("--stopped", action="store_true", help="offer 2 GB to a stopped reader, beside a stream with bulk")
    asked = parser.parse_args()
    if asked.echo is not None and (asked.secs or asked.direction):
        parser.error("--echo takes neither --secs nor --direction")
    if asked.floor and len(asked.fec) > 1:
        parser.error("--floor goes with one --fec")
    if asked.floor and (asked.stopped or asked.echo is not None):
        parser.error("--floor goes with bulk alone")
    asked.secs = asked.secs or (STOPPED_SECONDS if asked.stopped else BULK_SECONDS)
    asked.direction = asked.direction or "both"
    if min(asked.secs, asked.repeat) < 1 or (asked.echo is not None and asked.echo < 2):
        parser.error("--secs and --repeat begin at 1, --echo at 2")
    return asked


def measure(asked: argparse.Namespace, fec: str) -> Measured:
    """One repeat, with ends of its own."""
    with listen_at(SERVICE_PORT) as service, both_ends(asked.size, asked.reuse, fec) as ends:
        if asked.echo is not None:
            return measure_echo(service, asked.echo)
        if asked.stopped:
            return measure_stopped(ends, service, asked.direction, asked.secs)
        return measure_bulk(ends, service, asked.direction, asked.secs)


if __name__ == "__main__":
    main()
