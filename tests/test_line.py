"""The line between two namespaces: does it do what its settings say, and does it leave nothing behind."""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import groupby, pairwise
from pathlib import Path
from statistics import median

import pytest
from stalls import Stalls

from benches import line as line_module
from benches.line import (
    CLIENT_ADDRESS,
    PRESETS,
    SERVER_ADDRESS,
    Kind,
    Line,
    LineError,
    LineSettings,
    Side,
    Way,
    choose_kind,
    netem_works,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root")
KINDS: list[Kind] = ["emulator", "netem"] if netem_works() else ["emulator"]
LIMIT = 10.0
HEADERS = 28  # of IPv4 and UDP
ADDRESSES: dict[Side, str] = {"client": CLIENT_ADDRESS, "server": SERVER_ADDRESS}


# --- Datagrams with a number and the time, and TCP connections, across the line


Arrival = tuple[int, float, float]
"""Number, seconds under way, when."""


@contextmanager
def udp_sockets(line: Line, sender: Side = "client") -> Iterator[tuple[socket.socket, socket.socket]]:
    receiver: Side = "server" if sender == "client" else "client"
    with line.inside(sender):
        sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with line.inside(receiver):
        receiving = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sending, receiving:
        receiving.setsockopt(socket.SOL_SOCKET, 33, 8_000_000)  # SO_RCVBUFFORCE
        receiving.bind((ADDRESSES[receiver], 0))
        sending.connect(receiving.getsockname())
        yield sending, receiving


def take_arrivals(receiving: socket.socket, until: float, arrivals: list[Arrival]) -> None:
    """Whatever comes until then."""
    while select.select([receiving], [], [], max(0.0, until - time.monotonic()))[0]:
        data = receiving.recv(2048)
        now = time.monotonic()
        number, sent = struct.unpack_from("!Id", data)
        arrivals.append((number, now - sent, now))


def cross(
    line: Line, count: int, *, size: int = 100, gap: float = 0.0, wait: float = 0.2, sender: Side = "client"
) -> list[Arrival]:
    """Send datagrams, which are IP packets of that size, and return those that arrive until `wait` after the last."""
    arrivals: list[Arrival] = []
    with udp_sockets(line, sender) as (sending, receiving):
        start = time.monotonic()
        for number in range(count):
            take_arrivals(receiving, start + number * gap, arrivals)
            sending.send(struct.pack("!Id", number, time.monotonic()).ljust(size - HEADERS, b"x"))
        take_arrivals(receiving, time.monotonic() + wait, arrivals)
    return arrivals


def connect(line: Line) -> tuple[socket.socket, socket.socket]:
    """A TCP connection: the client's socket and the server's."""
    with line.inside("server"):
        listener = socket.create_server((SERVER_ADDRESS, 0))
    with listener, line.inside("client"):
        ours = socket.create_connection(listener.getsockname(), timeout=LIMIT)
        theirs, _ = listener.accept()
        theirs.settimeout(LIMIT)
    return ours, theirs


def push(source: socket.socket, sink: socket.socket) -> Iterator[int]:
    """Send all the time, and tell each time how much has arrived; TimeoutError when nothing more does."""
    source.setblocking(False)
    sink.settimeout(0.2)
    got = 0
    while True:
        if select.select([], [source], [], 0)[1]:
            source.send(bytes(1000))
        got += len(sink.recv(1 << 20))
        yield got


both_kinds = pytest.mark.parametrize("kind", KINDS)


# --- The line does what its settings say


@needs_root
@pytest.mark.netns
@pytest.mark.alone
@both_kinds
def test_each_way_has_its_delay(kind: Kind) -> None:
    with Line(LineSettings(Way(delay_ms=30), Way(delay_ms=12)), kind) as line:
        for sender, delay in (("client", 0.030), ("server", 0.012)):
            with Stalls() as stalls:
                arrivals = cross(line, 60, gap=0.005, sender="client" if sender == "client" else "server")
            assert [number for number, _, _ in arrivals] == list(range(60))
            delays = [each for _, each, _ in arrivals]
            assert min(delays) >= delay
            assert median(delays) < delay + 0.001 + stalls.added
        ours, theirs = connect(line)
        with ours, theirs, Stalls() as stalls:
            times = []
            for _ in range(5):
                start = time.monotonic()
                ours.sendall(b"ping")
                theirs.sendall(theirs.recv(4))
                assert ours.recv(4) == b"ping"
                times.append(time.monotonic() - start)
        assert min(times) >= 0.042
        assert median(times) < 0.045 + stalls.added


@needs_root
@pytest.mark.netns
@pytest.mark.alone
@both_kinds
def test_jitter_that_may_reorder_is_uniform_within_its_bounds(kind: Kind) -> None:
    with Line(LineSettings(Way(delay_ms=20, jitter_ms=10, reorder=True)), kind) as line, Stalls() as stalls:
        arrivals = cross(line, 500, gap=0.0005)
    delays = sorted(delay for _, delay, _ in arrivals)
    assert len(delays) == 500
    assert 0.010 <= delays[0] < 0.012 + stalls.added
    assert 0.028 < delays[-20] < 0.031 + stalls.added
    assert 0.0175 < median(delays) < 0.0225 + stalls.added
    assert any(a > b for (a, _, _), (b, _, _) in pairwise(arrivals))


@needs_root
@pytest.mark.netns
@pytest.mark.alone
def test_jitter_that_keeps_the_order_lets_none_overtake() -> None:
    longest = []
    with Line(LineSettings(Way(delay_ms=20, jitter_ms=10))) as line:
        sparse = cross(line, 30, gap=0.021)
        for _ in range(3):
            with Stalls() as stalls:
                dense = cross(line, 500, gap=0.0005)
            assert [number for number, _, _ in dense] == list(range(500))
            assert all(delay >= 0.010 for _, delay, _ in dense)
            longest.append(max(delay for _, delay, _ in dense) - stalls.added)
    assert min(longest) < 0.032  # what else runs on the machine may delay any of them
    assert max(delay for _, delay, _ in sparse) - min(delay for _, delay, _ in sparse) > 0.010


@needs_root
@pytest.mark.netns
@both_kinds
def test_the_share_that_is_lost(kind: Kind) -> None:
    count, share = 5000, 0.05
    with Line(LineSettings(Way(loss_percent=share * 100)), kind) as line:
        got = len(cross(line, count))
        counters = line.counters()
    deviation = (count * share * (1 - share)) ** 0.5
    assert abs(count - got - count * share) < 4 * deviation
    assert sum(counters.up.dropped.values()) == count - got
    assert not sum(counters.down.dropped.values())


@needs_root
@pytest.mark.netns
def test_the_seed_decides_what_is_lost() -> None:
    def arrived(seed: int, way: Way) -> list[int]:
        with Line(LineSettings(way, seed=seed), "emulator") as line:
            return [number for number, _, _ in cross(line, 500, wait=0.05)]

    plain, shaken = Way(loss_percent=20), Way(loss_percent=20, delay_ms=1, jitter_ms=1)
    assert arrived(1, plain) == arrived(1, plain) == arrived(1, shaken)
    assert arrived(1, plain) != arrived(2, plain)


@needs_root
@pytest.mark.netns
@both_kinds
def test_loss_in_bursts_has_its_share_and_length(kind: Kind) -> None:
    count = 20_000
    with Line(LineSettings(Way(bursts=(2, 20, 100))), kind) as line:
        arrived = {number for number, _, _ in cross(line, count)}
    runs = [len(list(run)) for lost, run in groupby(number not in arrived for number in range(count)) if lost]
    assert (count - len(arrived)) / count == pytest.approx(2 / 22, rel=0.25)
    assert sum(runs) / len(runs) == pytest.approx(5, rel=0.2)


@needs_root
@pytest.mark.netns
@pytest.mark.alone
@both_kinds
def test_the_rate_is_that_of_ip_packets(kind: Kind) -> None:
    with Line(LineSettings(Way(delay_ms=5, rate_mbit=8, queue_bytes=1_000_000)), kind) as line:
        arrivals = cross(line, 300, size=1000, wait=0.5)
    assert len(arrivals) == 300
    took = arrivals[-1][2] - arrivals[0][2]
    assert took == pytest.approx(299 * 1000 / 1e6, rel=0.03)


@needs_root
@pytest.mark.netns
@pytest.mark.alone
def test_the_queue_holds_its_bytes_and_drops_what_comes_then() -> None:
    with Line(LineSettings(Way(rate_mbit=4, queue_bytes=20_000)), "emulator") as line:
        with Stalls() as stalls:
            arrivals = cross(line, 200, size=1000)
        counters = line.counters()
    # A packet leaves every 2 ms, and makes room for another one while they are sent.
    numbers = [number for number, _, _ in arrivals]
    assert numbers[:19] == list(range(19))
    assert 20 <= len(numbers) < 40
    assert counters.up.dropped["queue"] == 200 - len(numbers)
    assert 0.036 < max(delay for _, delay, _ in arrivals) < 0.044 + stalls.added


@needs_root
@pytest.mark.netns
def test_a_policer_is_for_each_flow() -> None:
    way = Way(flow_rate_mbit=0.08, flow_burst_bytes=20_000)  # 10 packets per second
    with Line(LineSettings(way), "emulator") as line:
        first = cross(line, 100, size=1000)
        second = cross(line, 100, size=1000)
        assert line.counters().up.dropped["policed"] == 200 - len(first) - len(second)
    for arrivals in first, second:
        assert [number for number, _, _ in arrivals][:20] == list(range(20))
        assert len(arrivals) < 25


@needs_root
@pytest.mark.netns
def test_a_policer_lets_its_rate_pass_later() -> None:
    with Line(LineSettings(Way(flow_rate_mbit=0.8, flow_burst_bytes=2_000)), "emulator") as line:
        start = time.monotonic()
        arrivals = cross(line, 100, size=1000, gap=0.005)
        took = time.monotonic() - start
    assert len(arrivals) == pytest.approx(2 + 0.5 * 100, abs=3 + (took - 0.7) * 100)


@needs_root
@pytest.mark.netns
@pytest.mark.parametrize("sender", [0, 1], ids=["up", "down"])
def test_a_flow_freezes_after_its_bytes_and_others_do_not(sender: int) -> None:
    with Line(LineSettings(flow_limit_bytes=100_000), "emulator") as line:
        for frozen in (1, 2):
            pair = connect(line)
            source, sink = pair[sender], pair[1 - sender]
            with source, sink:
                got = [0]
                with pytest.raises(TimeoutError):
                    got.extend(push(source, sink))
            assert 80_000 < got[-1] < 100_000
            counters = line.counters()
            assert counters.limited_flows == frozen
            assert counters.tcp_flows == frozen


@needs_root
@pytest.mark.netns
def test_a_flow_is_reset_at_both_ends() -> None:
    with Line(LineSettings(Way(delay_ms=5), Way(delay_ms=5), flow_limit_bytes=100_000, flow_end="reset"), "emulator") as line:
        ours, theirs = connect(line)
        with ours, theirs:
            for source, sink in ((ours, theirs), (theirs, ours)):
                with pytest.raises((ConnectionResetError, BrokenPipeError)):
                    list(push(source, sink))


@needs_root
@pytest.mark.netns
def test_nothing_passes_during_an_outage() -> None:
    with Line(LineSettings(outages=((0.0, 0.3),)), "emulator") as line:
        line.restart_outages()
        start = time.monotonic()
        arrivals = cross(line, 100, gap=0.005)
        dropped = line.counters().up.dropped["outage"]
    assert arrivals
    assert len(arrivals) + dropped == 100
    assert all(start + 0.29 < when for _, _, when in arrivals)
    assert [number for number, _, _ in arrivals] == list(range(dropped, 100))


@needs_root
@pytest.mark.netns
def test_flows_and_bytes_are_counted() -> None:
    with Line(LineSettings(), "emulator") as line:
        cross(line, 50, size=700, wait=0.05)
        for _ in range(3):
            for sock in connect(line):
                sock.close()
        counters = line.counters()
    assert counters.tcp_flows == 3
    assert counters.udp_flows == 1
    assert counters.up.packets >= 50 + 3 * 2
    assert 50 * 700 < counters.up.bytes < 50 * 700 + 3 * 6 * 60
    assert counters.up.late_us["p50"] <= counters.up.late_us["p99"] <= counters.up.late_us["max"]


@needs_root
@pytest.mark.netns
@pytest.mark.alone
def test_it_is_punctual_and_cheap_with_bulk() -> None:
    # What else the machine does may delay any packet: the best of three tells what the emulator can do.
    late_us, cpu_seconds = (min(figures) for figures in zip(*(bulk_for_a_second() for _ in range(3)), strict=True))
    assert late_us < 2_000
    assert cpu_seconds < 0.6


def bulk_for_a_second() -> tuple[float, float]:
    """How late packets left at the 99th percentile but for the machine's stalls, and what the emulator took."""
    way = Way(delay_ms=10, rate_mbit=100)
    with Line(LineSettings(way, way), "emulator") as line, Stalls() as stalls:
        ours, theirs = connect(line)
        with ours, theirs:
            ends_at = time.monotonic() + 1

            def pour() -> None:
                while time.monotonic() < ends_at:
                    ours.sendall(bytes(100_000))
                ours.shutdown(socket.SHUT_WR)

            thread = threading.Thread(target=pour)
            thread.start()
            got = 0
            while data := theirs.recv(1 << 20):
                got += len(data)
            thread.join()
        counters = line.counters()
    assert got * 8 > 50e6
    return counters.up.late_us["p99"] - 1e6 * stalls.added, counters.cpu_seconds


@needs_root
@pytest.mark.netns
def test_programs_inside_see_their_side_alone() -> None:
    with Line(LineSettings()) as line:
        for side, address in ADDRESSES.items():
            process = line.popen(side, ["ip", "-br", "address"], stdout=subprocess.PIPE)
            out, _ = process.communicate(timeout=LIMIT)
            assert address in out.decode()
            assert "::" not in out.decode()
        with line.inside("client"), closing(socket.socket()) as sock:
            sock.bind((CLIENT_ADDRESS, 0))


# --- It leaves nothing behind


@needs_root
@pytest.mark.netns
def test_all_that_was_started_ends_with_the_block() -> None:
    descriptors = os.listdir("/proc/self/fd")
    home = os.readlink("/proc/thread-self/ns/net")
    with suppress(KeyboardInterrupt), Line(LineSettings()) as line:
        process = line.popen("server", ["sh", "-c", "sleep 60 & wait"], stdout=subprocess.PIPE)
        there = os.readlink(f"/proc/{process.pid}/ns/net")
        assert there != home
        raise KeyboardInterrupt
    assert process.returncode == -signal.SIGKILL
    assert os.listdir("/proc/self/fd") == descriptors
    assert os.readlink("/proc/thread-self/ns/net") == home
    assert there not in namespaces()


def namespaces() -> set[str]:
    """Those that any process is in."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(os.readlink(path))
        except OSError:  # it has ended meanwhile
            continue
    return found


@needs_root
@pytest.mark.netns
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_however_the_process_ends(number: int) -> None:
    code = """if True:
        import signal, subprocess
        from benches.line import Line, LineSettings
        signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what runs in the background ignore it
        with Line(LineSettings()) as line:
            child = line.popen("client", ["sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE)
            child.stdout.readline()
            print(child.pid, line._emulator.pid, flush=True)
            signal.pause()
    """
    root = Path(__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=root, start_new_session=True
    ) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        watched = [os.pidfd_open(pid) for pid in pids]
        os.killpg(process.pid, number)
        process.wait(LIMIT)
        try:
            for descriptor in watched:
                assert select.select([descriptor], [], [], LIMIT)[0], "it is still there"
        finally:
            for descriptor in watched:
                os.close(descriptor)


@needs_root
@pytest.mark.netns
def test_an_emulator_that_is_gone_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with Line(LineSettings(), "emulator") as line:
        assert line._emulator is not None
        line._emulator.kill()
        line._emulator.wait()
        with pytest.raises(LineError, match="has ended"):
            line.counters()
    assert not capfd.readouterr().err


# --- netem


@needs_root
@pytest.mark.netns
def test_the_way_round_netem_with_a_tc_that_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "told"
    tc = tmp_path / "tc"
    tc.write_text(f'#!/bin/sh\necho "$@" >>{told}\necho \'[{{"kind": "netem", "root": true, "drops": 3}}]\'\n')
    tc.chmod(tc.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    netem_works.cache_clear()
    try:
        with Line(PRESETS["wan"]) as line:
            assert line.kind == "netem"
            before = line.counters()
            assert len(cross(line, 20, size=500)) == 20
            for sock in connect(line):
                sock.close()
            after = line.counters()
    finally:
        netem_works.cache_clear()
    assert after.tcp_flows - before.tcp_flows == 1
    # Address resolution is counted as well, once or twice.
    assert 20 * 500 <= after.up.bytes - before.up.bytes < 20 * 500 + 12 * 60
    assert after.up.dropped == {"netem": 3}
    commands = told.read_text()
    assert commands.count("netem limit 200000 delay 20ms") == 2
    assert commands.count("tbf rate 50000000bit") == 2


def test_netem_is_refused_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(line_module, "netem_works", lambda: False)
    assert choose_kind(PRESETS["wan"]) == "emulator"
    with pytest.raises(LineError, match="kernel has no netem"):
        choose_kind(PRESETS["wan"], "netem")
    monkeypatch.setattr(line_module, "netem_works", lambda: True)
    assert choose_kind(PRESETS["wan"]) == "netem"
    assert choose_kind(PRESETS["wan"], "emulator") == "emulator"
    assert choose_kind(PRESETS["frozen"]) == "emulator"
    with pytest.raises(LineError, match="cannot do this line"):
        choose_kind(PRESETS["frozen"], "netem")


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LineError, match="needs root"), Line(PRESETS["wan"]):
        pass
