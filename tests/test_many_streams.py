"""Many streams through both ends as processes: all that are busy get on alike, and those that are idle cost next to nothing."""

from __future__ import annotations

import logging
import os
import resource
import selectors
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tunnel import LIMIT, MEGABYTE, End, Process, Tunnel, connect, receive_exactly

pytestmark = pytest.mark.alone

FIGURES = logging.getLogger("figures")  # pytest --log-cli-level=INFO shows them
PIECE = 65_536
PERIOD = 251  # of what is sent; a prime, so that no buffer's size is a multiple of it
PATTERN = bytes(range(PERIOD)) * (2 * PIECE // PERIOD + 2)
LEAST_SHARE = 0.6  # of what a stream gets on average, when half of everything has come back
LONGEST_ECHO = 0.08  # seconds, the median beside busy streams
MOST_MEMORY = 4_000  # bytes of an end for each idle stream
WARM = 500  # streams, opened before memory is looked at
MOST_STOPPED = 250_000  # bytes of an end for each stream whose program reads nothing: two windows, and its share of an idle end
IDLE_SECONDS, IDLE_CPU = 2.0, 0.05
BATCH = 100

# An echo service in a process of its own, so that both sides of all streams need not be open in one.
ECHO = """
import resource, selectors, socket
resource.setrlimit(resource.RLIMIT_NOFILE, 2 * resource.getrlimit(resource.RLIMIT_NOFILE)[1:])
selector = selectors.DefaultSelector()
listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
selector.register(listener, selectors.EVENT_READ)
print("listening on", listener.getsockname()[1], flush=True)
while True:
    for key, events in selector.select():
        sock, waiting = key.fileobj, key.data
        if sock is listener:
            sock = listener.accept()[0]
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(sock, selectors.EVENT_READ, bytearray())
            continue
        try:
            if events & selectors.EVENT_READ:
                data = sock.recv(65536)
                waiting += data
                if not data:
                    selector.unregister(sock)
                    sock.close()
                    continue
            del waiting[: sock.send(waiting)]
        except BlockingIOError:
            pass
        except OSError:
            selector.unregister(sock)
            sock.close()
            continue
        selector.modify(sock, selectors.EVENT_WRITE if waiting else selectors.EVENT_READ, waiting)
"""


@pytest.fixture(autouse=True)
def show_figures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, FIGURES.name)


@pytest.fixture
def tunnel() -> Iterator[Tunnel]:
    """To a service that gives back what it gets."""
    with Process("the service", [sys.executable, "-c", ECHO]) as service:
        port = service.wait_for(r"listening on (\d+)")[1]
        with Tunnel(f"127.0.0.1:{port}", limit=300) as tunnel:
            yield tunnel


@contextmanager
def programs(tunnel: Tunnel, count: int) -> Iterator[list[socket.socket]]:
    """So many of them, each of which has had an answer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/proc/self/fd")) + count + 64
    assert hard == resource.RLIM_INFINITY or hard >= needed, f"raise the hard limit of open files (ulimit -Hn) to {needed}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    with ExitStack() as stack:
        socks: list[socket.socket] = []
        for first in range(0, count, BATCH):
            socks += [stack.enter_context(connect(tunnel.address)) for _ in range(min(BATCH, count - first))]
            greet(socks[first:])
        yield socks


def greet(socks: list[socket.socket]) -> None:
    """Each says a byte and gets it back."""
    for sock in socks:
        sock.sendall(b"x")
    for sock in socks:
        assert receive_exactly(sock, 1) == b"x"


def time_echo(sock: socket.socket) -> float:
    started = time.perf_counter()
    greet([sock])
    return time.perf_counter() - started


class Load:
    """Programs that send `size` bytes each, as fast as they can, and check what comes back."""

    def __init__(self, socks: list[socket.socket], size: int) -> None:
        self.socks = socks
        self.size = size
        self.sent = [0] * len(socks)
        self.received = [0] * len(socks)
        self.total = 0
        """Bytes that came back."""
        self.half: list[int] = []
        """What each had got back when half of everything had come."""
        self._selector = selectors.DefaultSelector()
        for number, sock in enumerate(socks):
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, number)

    def run(self, keys: socket.socket) -> list[float]:
        """Until all have everything back; how long echoes of one more stream took meanwhile."""
        everything = self.size * len(self.socks)
        times: list[float] = []
        asked_at = 0.0
        self._selector.register(keys, selectors.EVENT_READ, -1)
        with self._selector:
            while self.total < everything:
                if not asked_at:
                    keys.sendall(b"x")
                    asked_at = time.perf_counter()
                ready = self._selector.select(LIMIT)
                assert ready, f"after {self.total} of {everything} bytes nothing happens any more"
                for key, events in ready:
                    if key.data >= 0:
                        self._serve(key.data, events)
                    else:
                        assert keys.recv(2) == b"x"
                        times.append(time.perf_counter() - asked_at)
                        asked_at = 0.0
                if not self.half and self.total >= everything / 2:
                    self.half = self.received[:]
        return times

    def _serve(self, number: int, events: int) -> None:
        if events & selectors.EVENT_READ:
            data = self.socks[number].recv(PIECE)
            offset = self.received[number] % PERIOD
            assert data, "a stream ended early"
            assert data == PATTERN[offset : offset + len(data)]
            self.received[number] += len(data)
            self.total += len(data)
        if events & selectors.EVENT_WRITE:
            offset, left = self.sent[number] % PERIOD, self.size - self.sent[number]
            self.sent[number] += self.socks[number].send(PATTERN[offset : offset + min(left, PIECE)])
            if self.sent[number] == self.size:
                self._selector.modify(self.socks[number], selectors.EVENT_READ, number)


@pytest.mark.parametrize(("count", "size"), [(800, 120_000), pytest.param(1_000, 400_000, marks=pytest.mark.slow)])
def test_busy_streams_get_on_alike_and_an_echo_gets_past_them(tunnel: Tunnel, count: int, size: int) -> None:
    with connect(tunnel.address) as keys, programs(tunnel, count) as socks:
        greet([keys])
        load = Load(socks, size)
        started = time.monotonic()
        times = load.run(keys)
        rate = count * size / MEGABYTE / (time.monotonic() - started)
    average = sum(load.half) / count
    echo = statistics.median(times)
    FIGURES.info("%d busy streams: %.0f MB/s each way, at half time the last one had %.0f %% of the average, median of %d echoes"
                 " %.1f ms; %s", count, rate, 100 * min(load.half) / average, len(times), 1e3 * echo, tunnel.usage())  # fmt: skip
    assert min(load.half) > LEAST_SHARE * average
    assert echo < LONGEST_ECHO


def cpu_seconds(end: End) -> float:
    fields = Path(f"/proc/{end.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_idle_streams_cost_little_memory_and_no_time(tunnel: Tunnel, count: int) -> None:
    with connect(tunnel.address) as keys, programs(tunnel, WARM), ExitStack() as stack:
        before = [end.memory for end in tunnel.ends]
        started = time.monotonic()
        socks = stack.enter_context(programs(tunnel, count))
        opened = time.monotonic() - started
        per_stream = [(end.memory - then) / count for end, then in zip(tunnel.ends, before, strict=True)]
        keys.settimeout(IDLE_SECONDS)
        busy = [cpu_seconds(end) for end in tunnel.ends]
        with pytest.raises(TimeoutError):
            keys.recv(1)
        busy = [cpu_seconds(end) - then for end, then in zip(tunnel.ends, busy, strict=True)]
        keys.settimeout(LIMIT)
        echo = statistics.median([time_echo(keys) for _ in range(100)])
        greet(socks)
    FIGURES.info("%d idle streams: opened in %.1f s, %.0f and %.0f bytes each, %.0f and %.0f ms of CPU in %.0f s, median of"
                 " echoes %.1f ms", count, opened, *per_stream, *(1e3 * b for b in busy), IDLE_SECONDS, 1e3 * echo)  # fmt: skip
    assert max(per_stream) < MOST_MEMORY
    assert max(busy) < IDLE_CPU
    assert echo < LONGEST_ECHO


def stuff(socks: list[socket.socket]) -> int:
    """Send on all, without reading, until none has taken anything for a second; how many bytes they took."""
    taken = 0
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_WRITE, sock.send)
        while ready := selector.select(1.0):
            taken += sum(key.data(PATTERN[:PIECE]) for key, _ in ready)
    return taken


@pytest.mark.slow
@pytest.mark.parametrize("count", [700])
def test_programs_that_read_nothing_hold_up_nobody_however_many_they_are(tunnel: Tunnel, count: int) -> None:
    with programs(tunnel, count) as stopped, connect(tunnel.address) as keys, connect(tunnel.address) as sock:
        taken = stuff(stopped)
        FIGURES.info("%d programs that read nothing sent %.0f MB; %s", count, taken / MEGABYTE, tunnel.usage())
        greet([keys, sock])
        Load([sock], 4 * MEGABYTE).run(keys)
        assert max(end.memory for end in tunnel.ends) < MOST_STOPPED * count
