"""A reader that stops must stop its sender, cost little memory at both ends, and not slow down its neighbours."""

from __future__ import annotations

import logging
import select
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import pytest
from tunnel import LIMIT, MEGABYTE, Service, Tunnel, connect, exchange, prepare, receive, receive_exactly, traffic

pytestmark = pytest.mark.alone

FIGURES = logging.getLogger("figures")  # pytest --log-cli-level=INFO shows them
MOST_MEMORY = 100 * MEGABYTE
OFFERED = 2000 * MEGABYTE
TAKEN_AT_MOST = 63 * MEGABYTE  # two socket buffers at each of three hops, and the stream's own window
STANDSTILL = 1.0  # seconds without progress
PIECE = bytes(262_144)

# What the service does with a connection whose first byte is this.
_STOP, _GULP, _FLOOD, _TAKE, _GIVE, _SIP = b"0", b"1", b"F", b"T", b"G", b"S"


@pytest.fixture(autouse=True)
def show_figures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, FIGURES.name)


def offer(sock: socket.socket, amount: int = OFFERED) -> int:
    """Send until nothing was taken for STANDSTILL seconds; how many bytes were taken."""
    sock.setblocking(False)
    taken = 0
    while taken < amount and select.select([], [sock], [], STANDSTILL)[1]:
        with suppress(BlockingIOError):
            taken += sock.send(PIECE)
    prepare(sock)
    return taken


def gulp(sock: socket.socket) -> None:
    """Read so much and so fast that the windows open wide."""
    left = 60 * MEGABYTE
    while left:
        left -= len(sock.recv(min(left, len(PIECE))))


class Programs:
    """The service behind the tunnel."""

    def __init__(self) -> None:
        self.flooded: list[int] = []
        """Bytes that were taken from each flood until it stood still."""
        self.go_on = threading.Event()

    def serve(self, sock: socket.socket) -> None:
        order, go_on = receive_exactly(sock, 1), self.go_on
        if order == _STOP:
            go_on.wait(LIMIT)
        elif order == _GULP:
            gulp(sock)
            go_on.wait(LIMIT)
        elif order == _FLOOD:
            with suppress(ConnectionError):  # a program that left
                self.flooded.append(offer(sock))
            go_on.wait(LIMIT)
        elif order == _TAKE:
            sock.sendall(str(receive(sock).size).encode())
        elif order == _GIVE:
            exchange(sock, int(receive_exactly(sock, 4)) * MEGABYTE, 1)
        elif order == _SIP:
            sip(sock, 3 * MEGABYTE)


def sip(sock: socket.socket, amount: int, rate: float = MEGABYTE) -> None:
    """Read `amount` bytes at `rate`."""
    began, done = time.monotonic(), 0
    pause = threading.Event()
    while done < amount:
        done += len(receive_exactly(sock, 50_000))
        pause.wait(max(0.0, began + done / rate - time.monotonic()))


def start(address: str, order: bytes) -> socket.socket:
    sock = connect(address)
    sock.sendall(order)
    return sock


def check_memory(tunnel: Tunnel) -> None:
    for end in (tunnel.client, tunnel.server):
        assert end.memory < MOST_MEMORY, tunnel.usage()


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize(
    ("count", "fast_at_first"),
    [(3, True), (20, False), *[pytest.param(*case, marks=pytest.mark.slow) for case in [(1, False), (1, True), (100, False)]]],
)
def test_stopped_readers_stop_their_senders_and_nobody_else(way: str, count: int, fast_at_first: bool) -> None:
    programs = Programs()
    taken: list[int] = []

    def use() -> None:
        if way == "up":
            with start(tunnel.address, _GULP if fast_at_first else _STOP) as program:
                taken.append(offer(program))
                programs.go_on.wait(LIMIT)
        else:
            with start(tunnel.address, _FLOOD) as program:
                if fast_at_first:
                    gulp(program)
                programs.go_on.wait(LIMIT)

    with Service(programs.serve) as service, Tunnel(service.address) as tunnel:
        users = [threading.Thread(target=use) for _ in range(count)]
        for user in users:
            user.start()
        sent = taken if way == "up" else programs.flooded
        peak = 0
        pause = threading.Event()
        while len(sent) < count:
            peak = max(peak, tunnel.client.memory, tunnel.server.memory)
            pause.wait(0.05)
        megabytes = sorted(size // MEGABYTE for size in sent)
        FIGURES.info("%d streams %s: %s MB taken; peak %d MB", count, way, megabytes, peak // MEGABYTE)
        for measure in (upload, download):
            rate = measure(tunnel.address, 2)
            FIGURES.info("beside them %s %.1f MB/s", measure.__name__, rate / MEGABYTE)
            assert rate > 3 * MEGABYTE
        programs.go_on.set()
        for user in users:
            user.join()
        assert max(sent) < TAKEN_AT_MOST + 60 * MEGABYTE * fast_at_first
        assert peak < MOST_MEMORY


def upload(address: str, megabytes: int) -> float:
    """Bytes per second."""
    began = time.monotonic()
    with start(address, _TAKE) as sock:
        for _ in range(megabytes):
            sock.sendall(bytes(MEGABYTE))
        sock.shutdown(socket.SHUT_WR)
        assert int(sock.recv(100)) == megabytes * MEGABYTE
    return megabytes * MEGABYTE / (time.monotonic() - began)


def download(address: str, megabytes: int) -> float:
    """The same in the other direction."""
    size = megabytes * MEGABYTE
    began = time.monotonic()
    with start(address, _GIVE) as sock:
        sock.sendall(b"%4d" % megabytes)
        sock.shutdown(socket.SHUT_WR)
        assert receive(sock) == traffic(size, 1)
    return size / (time.monotonic() - began)


def rates_of(measure: Callable[[str, int], float], megabytes: int, rounds: int) -> Iterator[tuple[float, float]]:
    """Rates through an idle tunnel, and beside streams that stand still, both after the same rest."""
    programs = Programs()
    with Service(programs.serve) as service, Tunnel(service.address) as tunnel:
        measure(tunnel.address, megabytes)  # the pool has grown, caches are warm
        for _ in range(rounds):
            threading.Event().wait(STANDSTILL)
            alone = measure(tunnel.address, megabytes)
            try:
                with start(tunnel.address, _STOP) as stopped_up, start(tunnel.address, _FLOOD) as _:
                    offer(stopped_up)  # the flood of the other one stands still by then, too
                    beside = measure(tunnel.address, megabytes)
                    check_memory(tunnel)
                    yield alone, beside
            finally:
                programs.go_on.set()
                programs.go_on = threading.Event()


@pytest.mark.parametrize("measure", [upload, download])
def test_neighbours_of_a_stopped_stream_go_on(measure: Callable[[str, int], float]) -> None:
    """That they keep their rate takes longer to show on a machine that has other work: one good pair is enough here."""
    assert any(beside > 0.9 * alone for alone, beside in rates_of(measure, 20, rounds=12))


@pytest.mark.slow
@pytest.mark.parametrize("measure", [upload, download])
def test_neighbours_of_a_stopped_stream_keep_their_rate(measure: Callable[[str, int], float]) -> None:
    alone, beside = zip(*rates_of(measure, 60, rounds=15), strict=True)
    FIGURES.info("%s: alone %s MB/s, beside stopped streams %s MB/s", measure.__name__, in_megabytes(alone), in_megabytes(beside))
    assert statistics.median(each / before for before, each in zip(alone, beside, strict=True)) >= 0.9


def in_megabytes(rates: Sequence[float]) -> str:
    return f"{max(rates) / MEGABYTE:.0f} (median {statistics.median(rates) / MEGABYTE:.0f})"


@pytest.mark.parametrize("way", ["up", pytest.param("down", marks=pytest.mark.slow)])
def test_a_slow_reader_costs_no_memory(way: str) -> None:
    programs = Programs()
    with Service(programs.serve) as service, Tunnel(service.address) as tunnel:
        peak = 0
        if way == "down":
            with start(tunnel.address, _FLOOD) as program:
                sip(program, 3 * MEGABYTE)
                peak = max(tunnel.client.memory, tunnel.server.memory)
            programs.go_on.set()
        else:
            with start(tunnel.address, _SIP) as program:
                ends_at = time.monotonic() + 3
                program.setblocking(False)
                sent = 0
                while time.monotonic() < ends_at:
                    select.select([], [program], [], 0.1)
                    with suppress(BlockingIOError, ConnectionResetError):
                        sent += program.send(PIECE)
                peak = max(tunnel.client.memory, tunnel.server.memory)
                assert sent < TAKEN_AT_MOST
        FIGURES.info("a slow reader, %s: %s", way, tunnel.usage())
        assert peak < MOST_MEMORY
