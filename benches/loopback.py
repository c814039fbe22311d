"""Both ends as processes of the installed command, on the loopback of a network namespace of its own. Needs root and Linux.

    .venv/bin/python benches/loopback.py --secs 10 --repeat 3

Purpose: to tell a cheaper tunnel from a dearer one, sockets and kernel included. Metric: CPU seconds (user and system) of both
ends per GB carried in both directions together; MB/s says more about the machine. Data is made and thrown away in processes of
their own that copy nothing (sendfile, MSG_TRUNC). --echo measures latency instead, --stopped what a stopped reader costs.

--floor names a program, with its options in quotes, that does the least that one connection per payload takes and prints a line
of JSON with cpu_s_per_GB and conns_per_s. It runs in turns with the tunnel, so that the ratio survives a machine that is busy
elsewhere; how busy it was is printed too. One GB is 10⁹ bytes.
"""

from __future__ import annotations

import argparse
import json
import mmap
import multiprocessing
import os
import platform
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import mean, median, quantiles
from typing import NoReturn

from tcsplitter.keys import KEY_VARIABLE, generate_key

COMMAND = Path(sys.executable).with_name("tcsplitter")
INSIDE = "TCSPLITTER_BENCH_NAMESPACE"  # set in the environment of the run inside the namespace
HOST = "127.0.0.1"
SERVER_PORT, SERVICE_PORT, CLIENT_PORT = 7100, 7101, 7102
WARM_UP = 1.0  # seconds of bulk before anything is measured
STEP_LIMIT = 30  # seconds that a program may take beyond what was asked for
STOP_LIMIT = 5  # seconds from SIGTERM to the exit of an end
BLOCK = 1 << 20  # bytes of one write or read of bulk
ECHO_SIZE, ECHO_BLOCK = 36, 100  # bytes: a keystroke in ssh; echoes in a row on one path
OFFERED = 2_000_000_000  # bytes that a stopped reader is offered
BULK_SECONDS, STOPPED_SECONDS, ALONE_SECONDS = 10, 20, 5
BOTH = "CPU s per GB, both ends"
LISTEN, TIME_WAIT = "0A", "06"  # states in /proc/net/tcp
TICKS = os.sysconf("SC_CLK_TCK")
FORK = multiprocessing.get_context("fork")

Job = Callable[[], None]
Pair = tuple[float, float]


def fail(reason: str) -> NoReturn:
    sys.exit(f"loopback: {reason}")


# --- The processes under test


class Ends:
    """A server end and a client end."""

    def __init__(self, size: int, reuse: int, fec: str) -> None:
        self._environment = os.environ | {KEY_VARIABLE: generate_key(secrets.token_bytes(32))}
        self._said = os.memfd_create("said")
        self._all: list[subprocess.Popen[bytes]] = []
        self._server = ["server", "--lFling", f"{HOST}:{SERVER_PORT}", "--forward", f"{HOST}:{SERVICE_PORT}"]
        self._client = ["client", "--rFling", f"{HOST}:{SERVER_PORT}", "--listen", f"{HOST}:{CLIENT_PORT}", "--reuse", str(reuse)]
        self._shape = ["--frags", str(size), "--fec", fec]

    def start(self) -> None:
        self.server = self._start(self._server, SERVER_PORT)
        self.client = self._start(self._client, CLIENT_PORT)

    def check(self) -> None:
        """Leave if one of them did, and show what they said."""
        if any(end.poll() is not None for end in self._all):
            said = os.pread(self._said, BLOCK, 0).decode(errors="replace")
            fail(f"an end has ended; they said:\n{said}")

    def stop(self) -> None:
        """SIGTERM to both, and whoever does not heed it is killed."""
        for end in self._all:
            end.terminate()
        for end in self._all:
            try:
                end.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                end.kill()
                end.wait()
        os.close(self._said)

    def _start(self, arguments: list[str], port: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([COMMAND, *arguments, *self._shape], env=self._environment, stderr=self._said)
        self._all.append(process)
        while not count_sockets(rf"{port:04X} \S+", LISTEN):
            self.check()
            time.sleep(0.05)
        return process


@contextmanager
def both_ends(size: int, reuse: int, fec: str) -> Iterator[Ends]:
    """The ends from their start until the end of the block."""
    ends = Ends(size, reuse, fec)
    try:
        ends.start()
        yield ends
    finally:
        ends.stop()


def cpu_seconds(pid: int) -> float:
    """User and system, of a process and the children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def memory(pid: int, name: str) -> float:
    """MB: VmRSS, or VmHWM, its peak."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024 / 1e6


def busy_seconds() -> float:
    """CPU seconds that the machine has not been idle, all processors together."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / TICKS


def count_sockets(ports: str, state: str) -> int:
    """The namespace's sockets in a state; `ports` is a pattern that matches `LOCAL ADDRESS:REMOTE`, ports in hexadecimal."""
    return len(re.findall(rf":{ports} {state} ", Path("/proc/net/tcp").read_text()))


def accepted() -> int:
    """Connections that the namespace has accepted so far."""
    names, values = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Tcp:"))
    return int(values[names.index("PassiveOpens")])


# --- Programs at both sides


def pour(sock: socket.socket, limit: int, taken: memoryview[int]) -> None:
    """Send `limit` bytes, and count them."""
    source = os.memfd_create("noise")
    os.write(source, os.urandom(BLOCK))
    while taken[0] < limit:
        taken[0] += os.sendfile(sock.fileno(), source, 0, min(BLOCK, limit - taken[0]))


def drain(sock: socket.socket, got: memoryview[int]) -> None:
    """Throw away what comes, and count it."""
    unused = bytearray(BLOCK)
    while count := sock.recv_into(unused, BLOCK, socket.MSG_TRUNC):
        got[0] += count
    raise ConnectionError("the stream has ended")


def echo(sock: socket.socket) -> None:
    """Give back what comes."""
    while data := sock.recv(BLOCK):
        sock.sendall(data)
    raise ConnectionError("the stream has ended")


def counter() -> memoryview[int]:
    """A number that a child process counts up and this one reads."""
    return memoryview(mmap.mmap(-1, 8)).cast("Q")


def do(job: Job) -> None:
    """What a child process does; Ctrl-C is for its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job()


@contextmanager
def running(jobs: list[Job]) -> Iterator[list[int]]:
    """A process for each, until the end of the block; their ids. Leaves if one of them failed."""
    processes = [FORK.Process(target=do, args=(job,), daemon=True) for job in jobs]
    try:
        for process in processes:
            process.start()
        yield [process.pid or 0 for process in processes]
        if any(process.exitcode for process in processes):
            fail("a stream broke")
    finally:
        for process in processes:
            process.kill()
            process.join()


def connect(service: socket.socket, port: int) -> tuple[socket.socket, socket.socket]:
    """A connection to the service by way of `port`: the client program's side and the service's."""
    ours = socket.create_connection((HOST, port))
    theirs, _ = service.accept()
    for sock in (ours, theirs):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


@dataclass
class Bulk:
    """A stream with bulk: what arrived at the service (up) and at the client program (down), in bytes."""

    up: memoryview[int]
    down: memoryview[int]
    pids: list[int]

    @property
    def carried(self) -> Pair:
        return self.up[0], self.down[0]


@contextmanager
def bulk(service: socket.socket, direction: str) -> Iterator[Bulk]:
    """Bulk on a stream of its own until the end of the block."""
    up, down = counter(), counter()
    ours, theirs = connect(service, CLIENT_PORT)
    jobs: list[Job] = []
    if direction != "down":
        jobs += [partial(drain, theirs, up), partial(pour, ours, sys.maxsize, counter())]
    if direction != "up":
        jobs += [partial(drain, ours, down), partial(pour, theirs, sys.maxsize, counter())]
    with ours, theirs, running(jobs) as pids:
        yield Bulk(up, down, pids)


# --- Measurements


@dataclass
class Measured:
    """Figures by name, and what each second was like."""

    figures: dict[str, float]
    seconds: dict[str, list[float]]


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
    """Echoes one after the other, in turns without and with the tunnel."""
    direct, tunnelled = connect(service, SERVICE_PORT), connect(service, CLIENT_PORT)
    times: tuple[list[float], list[float]] = [], []
    with running([partial(echo, direct[1]), partial(echo, tunnelled[1])]):
        for first in range(-ECHO_BLOCK, count, ECHO_BLOCK):
            for (ours, _), kept in zip((direct, tunnelled), times, strict=True):
                took = time_echoes(ours, min(ECHO_BLOCK, count - first))
                if first >= 0:  # the block before warms up
                    kept.extend(took)
    for sock in direct + tunnelled:
        sock.close()
    figures: dict[str, float] = {}
    for name, percent in (("p50", 50), ("p99", 99)):
        without, through = (quantiles(kept, n=100)[percent - 1] * 1e6 for kept in times)
        figures |= {f"µs direct, {name}": without, f"µs tunnel, {name}": through, f"µs more, {name}": through - without}
    return Measured(figures, {})


def time_echoes(sock: socket.socket, count: int) -> list[float]:
    """Seconds that each of `count` echoes took."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        sock.sendall(bytes(ECHO_SIZE))
        missing = ECHO_SIZE
        while missing:
            missing -= len(sock.recv(missing)) or fail("the stream has ended")
        times.append(time.perf_counter() - start)
    return times


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


def resident_now(ends: Ends) -> Pair:
    return memory(ends.server.pid, "VmRSS"), memory(ends.client.pid, "VmRSS")


def run_floor(command: str) -> dict[str, float]:
    """The figures that the program prints."""
    try:
        done = subprocess.run(shlex.split(command), stdout=subprocess.PIPE, timeout=STEP_LIMIT, check=True)
        printed = json.loads(done.stdout)
        return {BOTH: float(printed["cpu_s_per_GB"]), "connections per second": float(printed["conns_per_s"])}
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        fail(f"--floor: {error!r}")


# --- The program


def main() -> None:
    asked = parse()
    if os.geteuid() != 0:
        fail("needs root: it makes a network namespace of its own")
    if INSIDE not in os.environ:
        os.environ[INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    signal.signal(signal.SIGTERM, lambda *_: fail("stopped"))
    signal.signal(signal.SIGALRM, lambda *_: fail("took too long"))
    machine = describe_machine()
    print(machine)
    rounds, floors = run(asked)
    report = compare(asked.fec, rounds) if len(asked.fec) > 1 else summarize(rounds, floors)
    if asked.json:
        told = {"machine": machine, "asked": vars(asked), "rounds": [asdict(each) for each in rounds], "medians": report}
        Path(asked.json).write_text(json.dumps(told, indent=1) + "\n")


def summarize(rounds: list[Measured], floors: list[dict[str, float]]) -> dict[str, float]:
    """Show all figures and their medians; with floors the ratio to those before and after each round too. Returns the medians."""
    if floors:
        for number, measured in enumerate(rounds):
            floor = {name: mean(each[name] for each in floors[number : number + 2]) for name in floors[0]}
            measured.figures |= {f"floor, {name}": value for name, value in floor.items()}
            measured.figures["ratio of CPU s per GB to the floor's"] = measured.figures[BOTH] / floor[BOTH]
    medians = {name: median(measured.figures[name] for measured in rounds) for name in rounds[0].figures}
    show(rounds, medians)
    return medians


def compare(settings: list[str], rounds: list[Measured]) -> dict[str, float]:
    """Show the rounds of each setting of --fec, which were taken in turn, and how the others compare with the first one:
    the medians of the ratios, which are returned."""
    by_setting = {setting: rounds[at :: len(settings)] for at, setting in enumerate(settings)}
    for setting, its_rounds in by_setting.items():
        print(f"--fec {setting}")
        summarize(its_rounds, [])
    ratios = {}
    for setting in settings[1:]:
        for name in rounds[0].figures:
            pairs = zip(by_setting[settings[0]], by_setting[setting], strict=True)
            shares = [other.figures[name] / first.figures[name] for first, other in pairs if first.figures[name]]
            if shares:
                ratios[f"{name}, {setting} to {settings[0]}"] = median(shares)
    for name, ratio in ratios.items():
        print(f"{name:60}{ratio:10.3f}")
    return ratios


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures the tunnel on loopback: bulk, or one of --echo and --stopped.")
    parser.add_argument("--secs", type=int, metavar="N", help="how long (10; with --stopped 20)")
    parser.add_argument("--size", type=int, default=10_000, metavar="BYTES", help="--frags of both ends (10000)")
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


def describe_machine() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    model = found[1] if found else platform.machine()
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{platform.node()}: {os.cpu_count()} × {model}, {system}, load {os.getloadavg()[0]:.1f}"


def run(asked: argparse.Namespace) -> tuple[list[Measured], list[dict[str, float]]]:
    """What was measured in each repeat, and the floor before each and after the last."""
    rounds, floors = [], []
    for _ in range(asked.repeat):
        if asked.floor:
            floors.append(run_floor(asked.floor))
        for fec in asked.fec:
            signal.alarm(asked.secs + (asked.echo or 0) // 100 + 2 * STEP_LIMIT)
            rounds.append(measure(asked, fec))
            signal.alarm(0)
    if asked.floor:
        floors.append(run_floor(asked.floor))
    return rounds, floors


def measure(asked: argparse.Namespace, fec: str) -> Measured:
    """One repeat, with ends of its own."""
    with socket.create_server((HOST, SERVICE_PORT)) as service, both_ends(asked.size, asked.reuse, fec) as ends:
        if asked.echo is not None:
            return measure_echo(service, asked.echo)
        if asked.stopped:
            return measure_stopped(ends, service, asked.direction, asked.secs)
        return measure_bulk(ends, service, asked.direction, asked.secs)


def show(rounds: list[Measured], medians: dict[str, float]) -> None:
    print(f"{'':38}" + "".join(f"{number:>10}" for number in range(1, len(rounds) + 1)) + f"{'median':>10}")
    for name, middle in medians.items():
        row = [*(measured.figures[name] for measured in rounds), middle]
        print(f"{name:38}" + "".join(f"{value:10.2f}" if value < 1_000 else f"{value:10.0f}" for value in row))
    for number, measured in enumerate(rounds, 1):
        for name, values in measured.seconds.items():
            print(f"{name}, each second of {number}: " + " ".join(f"{value:.0f}" for value in values))


if __name__ == "__main__":
    main()
