"""Many streams through both ends as processes, on the loopback of a network namespace of its own. Needs root and Linux.

    .venv/bin/python benches/streams.py busy    1,000 streams with bulk at once: what they carry, how evenly; an echo beside them
    .venv/bin/python benches/streams.py idle    10,000 streams on which nothing happens: what they cost; an echo beside them
    .venv/bin/python benches/streams.py bulk    an echo beside one stream with bulk

Purpose: to find costs that grow with the number of streams, and streams that starve. Metrics: MB/s of all streams together and
Jain's index of what each got (1: all the same; 1/N: one got all); bytes of resident memory per stream, CPU ms per second while
nothing happens, and how long an echo of a few bytes takes. One MB is 10⁶ bytes.
"""

from __future__ import annotations

import argparse
import mmap
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import quantiles

sys.path.append(str(Path(__file__).resolve().parents[1]))  # as a script it has only its own folder there

from benches.ends import CLIENT_PORT, SERVICE_PORT, Ends, both_ends, cpu_seconds, resident_now
from benches.load import Job, bulk, connect, connect_to, counter, echo, listen_at, running, time_echoes
from benches.namespace import enter_namespace, fail
from benches.rounds import STEP_LIMIT, Measured, run

WARM_UP = 2.0  # seconds of bulk before anything is measured
REST = 5.0  # seconds after which what happened before is over
BATCH = 100  # streams opened at a time
BACKLOG = 4096
STREAMS = {"busy": 1_000, "idle": 10_000, "bulk": 1}
_PIECE = 65_536  # bytes of one write or read of a busy stream
_SPARE = 64  # files for what is no stream
_ECHOES = 100  # that warm a stream up


# --- Load


def open_streams(count: int, accept: Callable[[int], None]) -> list[socket.socket]:
    """The client programs' sides of so many streams; after each BATCH of them `accept` waits until the service has as many."""
    ours: list[socket.socket] = []
    while len(ours) < count:
        ours += [connect_to(CLIENT_PORT) for _ in range(min(BATCH, count - len(ours)))]
        accept(len(ours))
    return ours


def accept_all(service: socket.socket, accepted: list[socket.socket], count: int) -> None:
    """Accept until there are so many."""
    while len(accepted) < count:
        accepted.append(service.accept()[0])


def hold(service: socket.socket, count: int, held: memoryview[int]) -> None:
    """Accept so many, and keep them."""
    kept = []
    while held[0] < count:
        kept.append(service.accept()[0])
        held[0] += 1
    signal.pause()


def wait_for(held: memoryview[int], count: int) -> None:
    """Until so many are held."""
    while held[0] < count:
        time.sleep(0.001)


def counters(count: int) -> memoryview[int]:
    """Numbers that a child process counts up and this one reads."""
    return memoryview(mmap.mmap(-1, 8 * count)).cast("Q")


def pour_all(socks: Sequence[socket.socket]) -> None:
    """Send without end on all of them."""
    source = os.memfd_create("noise")
    os.write(source, os.urandom(_PIECE))
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_WRITE)
        while True:
            for key, _ in selector.select():
                with suppress(BlockingIOError):
                    os.sendfile(key.fd, source, 0, _PIECE)


def drain_all(socks: Sequence[socket.socket], got: memoryview[int]) -> None:
    """Throw away what comes, and count it for each of them."""
    unused = bytearray(_PIECE)
    with selectors.DefaultSelector() as selector:
        for number, sock in enumerate(socks):
            selector.register(sock, selectors.EVENT_READ, (number, sock))
        while True:
            for key, _ in selector.select():
                number, sock = key.data
                count = sock.recv_into(unused, _PIECE, socket.MSG_TRUNC)
                if not count:
                    raise ConnectionError("a stream has ended")
                got[number] += count


def echo_for(sock: socket.socket, secs: float) -> list[float]:
    """Seconds that echoes took, one after the other for so long, two at least."""
    times, ends_at = time_echoes(sock, 2), time.monotonic() + secs
    while time.monotonic() < ends_at:
        times += time_echoes(sock, 1)
    return times


# --- Measurements


def jain(shares: Sequence[int]) -> float:
    """How even they are: from 1 over their number to 1 (Jain, Chiu and Hawe, 1984)."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0


def measure_busy(ends: Ends, service: socket.socket, count: int, direction: str, secs: int) -> Measured:
    """Bulk on so many streams, and echoes on another one; whatever breaks ends the program."""
    keys, answers = connect(service, CLIENT_PORT)
    theirs: list[socket.socket] = []
    ours = open_streams(count, partial(accept_all, service, theirs))
    ways = {"up": (ours, theirs, counters(count)), "down": (theirs, ours, counters(count))}
    used = {way: parts for way, parts in ways.items() if direction in (way, "both")}
    jobs: list[Job] = [partial(echo, answers)]
    jobs += [partial(drain_all, receivers, got) for _, receivers, got in used.values()]
    jobs += [partial(pour_all, senders) for senders, _, _ in used.values()]
    figures: dict[str, float] = {}
    with running(jobs):
        time.sleep(WARM_UP)
        started, before = time.monotonic(), {way: list(got) for way, (_, _, got) in used.items()}
        cpu = _both_cpu(ends)
        times = echo_for(keys, secs)
        took = time.monotonic() - started
        carried = {way: [now - then for now, then in zip(used[way][2], before[way], strict=True)] for way in used}
        cpu = _both_cpu(ends) - cpu
        resident = resident_now(ends)
        ends.check()
    for way, shares in carried.items():
        figures |= {
            f"MB/s {way}, all together": sum(shares) / 1e6 / took,
            f"MB/s {way}, stream that got least": min(shares) / 1e6 / took,
            f"MB/s {way}, stream that got most": max(shares) / 1e6 / took,
            f"Jain's index, {way}": jain(shares),
        }
    total = sum(map(sum, carried.values()))
    figures |= {
        "CPU s per GB, both ends": cpu / total * 1e9 if total else 0.0,
        "RSS MB, server end": resident[0],
        "RSS MB, client end": resident[1],
    }
    figures |= _latency(times)
    _close([*ours, *theirs, keys, answers])
    return Measured(figures, {})


def measure_idle(ends: Ends, service: socket.socket, count: int, secs: int, echoes: int) -> Measured:
    """So many streams on which nothing happens; what happens on others beside them, and when they are closed."""
    keys, answers = connect(service, CLIENT_PORT)
    held = counter()
    with running([partial(echo, answers)]):
        time_echoes(keys, _ECHOES)
        before = resident_now(ends)
        with running([partial(hold, service, count, held)]):
            started = time.monotonic()
            ours = open_streams(count, partial(wait_for, held))
            opened = time.monotonic() - started
            time.sleep(REST)
            after = resident_now(ends)
            beside = _others(ends, service, keys, secs, echoes)
            _close(ours)
        time.sleep(REST)
        without = _others(ends, service, keys, secs, echoes)
        ends.check()
    figures = {
        "s to open them": opened,
        "RSS bytes per stream, server end": (after[0] - before[0]) * 1e6 / count,
        "RSS bytes per stream, client end": (after[1] - before[1]) * 1e6 / count,
    }
    for name, value in without.items():
        figures |= {f"{name}, without them": value, f"{name}, beside them": beside[name]}
    _close([keys, answers])
    return Measured(figures, {})


def _others(ends: Ends, service: socket.socket, keys: socket.socket, secs: int, echoes: int) -> dict[str, float]:
    """What the ends need while nothing happens, how long echoes take, and what a stream with bulk both ways carries."""
    server, client = cpu_seconds(ends.server.pid), cpu_seconds(ends.client.pid)
    time.sleep(secs)
    figures = {
        "CPU ms/s, server end": (cpu_seconds(ends.server.pid) - server) * 1e3 / secs,
        "CPU ms/s, client end": (cpu_seconds(ends.client.pid) - client) * 1e3 / secs,
    }
    time_echoes(keys, _ECHOES)
    figures |= _latency(time_echoes(keys, echoes))
    with bulk(service, "both") as flow:
        time.sleep(WARM_UP)
        started, carried, cpu = time.monotonic(), sum(flow.carried), _both_cpu(ends)
        time.sleep(secs)
        carried = sum(flow.carried) - carried
        figures["bulk MB/s"] = carried / 1e6 / (time.monotonic() - started)
        figures["bulk CPU s per GB"] = (_both_cpu(ends) - cpu) / carried * 1e9 if carried else 0.0
    return figures


def _both_cpu(ends: Ends) -> float:
    return cpu_seconds(ends.server.pid) + cpu_seconds(ends.client.pid)


def measure_beside_bulk(ends: Ends, service: socket.socket, direction: str, echoes: int) -> Measured:
    """Echoes alone and beside one stream with bulk."""
    keys, answers = connect(service, CLIENT_PORT)
    with running([partial(echo, answers)]):
        time_echoes(keys, _ECHOES)
        alone = _latency(time_echoes(keys, echoes))
        with bulk(service, direction) as flow:
            time.sleep(WARM_UP)
            started, carried = time.monotonic(), sum(flow.carried)
            beside = _latency(time_echoes(keys, echoes))
            figures = {"bulk MB/s": (sum(flow.carried) - carried) / 1e6 / (time.monotonic() - started)}
        ends.check()
    for name, value in alone.items():
        figures |= {f"{name}, alone": value, f"{name}, beside bulk": beside[name]}
    _close([keys, answers])
    return Measured(figures, {})


def _latency(times: list[float]) -> dict[str, float]:
    cuts = quantiles(times, n=100, method="inclusive")
    figures = {"p50": cuts[49], "p99": cuts[98], "worst": max(times)}
    return {f"echo µs {which}": 1e6 * seconds for which, seconds in figures.items()}


def _close(socks: list[socket.socket]) -> None:
    for sock in socks:
        sock.close()


# --- The program


def main() -> None:
    asked = parse()
    enter_namespace()
    raise_limit(asked.streams * (2 if asked.what == "busy" else 1) + _SPARE)
    limit = 3 * asked.secs + asked.streams // 100 + asked.echoes // 20 + 2 * STEP_LIMIT
    run(asked, [partial(measure, asked)], limit)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures many streams through the tunnel on loopback.")
    parser.add_argument("what", choices=list(STREAMS), help="what is measured; the head of the script has more")
    parser.add_argument("--streams", type=int, metavar="N", help="how many (busy: 1000, idle: 10000)")
    parser.add_argument("--secs", type=int, default=10, metavar="N", help="how long, of busy and idle (10)")
    parser.add_argument("--echoes", type=int, default=1_000, metavar="N", help="of idle and bulk (1000)")
    parser.add_argument("--direction", choices=["both", "up", "down"], default="both", help="of busy and bulk (both)")
    parser.add_argument("--size", default="10000", metavar="BYTES|auto", help="--frags of both ends (10000)")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="with fresh ends each time (1)")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    asked = parser.parse_args()
    if asked.streams is not None and asked.what == "bulk":
        parser.error("--streams goes with busy and idle")
    asked.streams = STREAMS[asked.what] if asked.streams is None else asked.streams
    if min(asked.streams, asked.secs, asked.repeat) < 1 or asked.echoes < 2:
        parser.error("--streams, --secs and --repeat begin at 1, --echoes at 2")
    return asked


def raise_limit(wanted: int) -> None:
    """Let this process and its children have so many files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        if wanted > hard != resource.RLIM_INFINITY:
            fail(f"{wanted} files have to be open and {hard} may be; raise the hard limit (ulimit -Hn)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def measure(asked: argparse.Namespace) -> Measured:
    """One repeat, with ends of its own."""
    with listen_at(SERVICE_PORT, BACKLOG) as service, both_ends(asked.size, 1, "0") as ends:
        if asked.what == "busy":
            return measure_busy(ends, service, asked.streams, asked.direction, asked.secs)
        if asked.what == "idle":
            return measure_idle(ends, service, asked.streams, asked.secs, asked.echoes)
        return measure_beside_bulk(ends, service, asked.direction, asked.echoes)


if __name__ == "__main__":
    main()
