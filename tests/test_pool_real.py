"""The pool on real sockets: how far it grows under load, how it shrinks, and what is dialled while nobody answers."""

import logging
import os
import signal
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from tunnel import LIMIT, MEGABYTE, End, Service, Tunnel, connect, echo, receive, receive_exactly, reset, send, traffic

from tcsplitter.client_end import MAX_ATTEMPTS
from tcsplitter.pool import MAX_DIALING

pytestmark = pytest.mark.alone

FIGURES = logging.getLogger("figures")  # pytest --log-cli-level=INFO shows them
CONNS = 4
BURST = 32
LOAD = 15 * MEGABYTE
ESTABLISHED, SYN_SENT = 1, 2  # states of sockets
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, DONE = 4, 20, 0x301, 3  # netlink(7)
SAMPLE_EVERY = 0.005
FILLERS = 3  # connections that fill the queue of who accepts none


@pytest.fixture(autouse=True)
def show_figures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, FIGURES.name)


def pause(seconds: float) -> None:
    """Let time pass, where that is what is measured."""
    threading.Event().wait(seconds)


def sockets_to(address: str, state: int) -> int:
    """Sockets of this machine in a state that lead to an IPv4 address (sock_diag(7)); with many of others a fast way to tell."""
    port = socket.htons(int(address.rpartition(":")[2]))
    anyone = bytes(16), bytes(16), 0, b"\xff" * 8  # addresses, interface and cookie of the sockets asked for
    question = struct.pack("=BBBxIHH16s16sI8s", socket.AF_INET, socket.IPPROTO_TCP, 0, 1 << state, 0, port, *anyone)
    count = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(LIMIT)
        netlink.send(struct.pack("=IHHII", 16 + len(question), SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, 0, 0) + question)
        while True:
            answer = netlink.recv(1 << 18)
            while answer:
                size, kind = struct.unpack_from("=IH", answer)
                if kind != SOCK_DIAG_BY_FAMILY:
                    assert kind == DONE
                    return count
                count += 1
                answer = answer[(size + 3) // 4 * 4 :]


def established(both: Tunnel) -> int:
    """Carriers that the client end has. It stands still meanwhile: sockets that come and go would be counted twice."""
    pid = both.client.process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, pid, os.WSTOPPED)
        return sockets_to(both.server_address, ESTABLISHED)
    finally:
        os.kill(pid, signal.SIGCONT)


class Sampler:
    """Counts the established carriers every few milliseconds, until the end of the block."""

    def __init__(self, both: Tunnel) -> None:
        self.counts: list[int] = []
        self._both = both
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(LIMIT)

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_EVERY):
            self.counts.append(established(self._both))


def until(condition: Callable[[], bool], seconds: float) -> float:
    """After how long it held; AssertionError if it did not in this time."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + seconds, f"not within {seconds:g} s"
        pause(0.02)
    return time.monotonic() - began


def load(sock: socket.socket) -> None:
    """A service: takes what comes and says so, or sends, as it is told."""
    if receive_exactly(sock, 1) == b"d":
        send(sock, LOAD, 1)
    else:
        assert receive(sock) == traffic(LOAD, 2)
        sock.sendall(b"!")


def use(both: Tunnel, way: str) -> list[int]:
    """How many carriers were established while a stream was loaded."""
    with Sampler(both) as sampler, connect(both.address) as program:
        if way == "download":
            program.sendall(b"d")
            assert receive(program) == traffic(LOAD, 1)
        else:
            program.sendall(b"u")
            send(program, LOAD, 2)
            assert receive_exactly(program, 1) == b"!"
    FIGURES.info(
        "%s: %d samples, %d to %d carriers, median %g",
        way, len(sampler.counts), min(sampler.counts), max(sampler.counts), statistics.median(sampler.counts),
    )  # fmt: skip
    return sampler.counts


@contextmanager
def pooled(
    *options: str, via: Callable[[str], str] | None = None, serve: Callable[[socket.socket], None] = load
) -> Iterator[Tunnel]:
    with Service(serve) as service, Tunnel(service.address, client_options=options, via=via) as both:
        both.client.wait_for("session established")
        yield both


def settled(both: Tunnel, count: int, seconds: float) -> float:
    """After how long there were so many carriers and stayed, but for those that are replaced."""
    return until(lambda: statistics.median(established(both) for _ in range(20)) == count, seconds)


# ------------------------------------------------------------------------------------------------ under load


@pytest.mark.parametrize("way", ["download", "upload"])
def test_the_pool_grows_under_load_and_shrinks_again(way: str) -> None:
    with pooled("--burst", str(BURST), "--idle", "500") as both:
        settled(both, CONNS, LIMIT)
        counts = use(both, way)
        assert max(counts) <= BURST
        assert max(counts) > 2 * CONNS
        FIGURES.info("%s: back at %d carriers after %.1f s", way, CONNS, settled(both, CONNS, 10.0))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["download", "upload"])
def test_the_pool_is_back_at_its_size_within_a_minute_of_idling(way: str) -> None:
    with pooled() as both:
        settled(both, CONNS, LIMIT)
        counts = use(both, way)
        assert max(counts) > 2 * CONNS
        FIGURES.info("%s: back at %d carriers after %.1f s", way, CONNS, settled(both, CONNS, 60.0))


@pytest.mark.parametrize("way", ["download", "upload"])
def test_a_fixed_pool_does_not_grow(way: str) -> None:
    with pooled("--burst", "0", "--conns", "6") as both:
        settled(both, 6, LIMIT)
        counts = use(both, way)
        assert max(counts) <= 6
        settled(both, 6, LIMIT)


def test_idle_carriers_are_replaced() -> None:
    with pooled("--idle", "300") as both:
        settled(both, CONNS, LIMIT)
        before = both.client.counted()["fling replaced"]
        until(lambda: both.client.counted()["fling replaced"] >= before + 3 * CONNS, 10.0)
        assert statistics.median(established(both) for _ in range(50)) == CONNS
        counted = both.client.counted()
        assert counted["fling timed out"] == counted["carriers died"] == 0


@pytest.mark.parametrize("after", [1.0, pytest.param(2.0, marks=pytest.mark.slow)])
def test_the_start_of_the_pool_is_spread_over_the_time_given_by_after(after: float) -> None:
    conns = 20
    began = time.monotonic()
    with pooled("--conns", str(conns), "--after", str(int(1000 * after))) as both:
        ready = time.monotonic()
        seen: list[tuple[float, int]] = []
        while not seen or seen[-1][1] < conns:
            pause(after / 20)
            count = both.server.counted()["fling dialled"]
            seen.append((time.monotonic(), count))
            assert seen[-1][0] < ready + LIMIT
    FIGURES.info("--conns 20 --after %g: %s", 1000 * after, ", ".join(f"{count} at {at - ready:.1f} s" for at, count in seen))
    for at, count in seen:
        # The end began some time between these two, and a few carriers are kept from the start on.
        assert count <= max(CONNS, 1 + conns * (at - began) / after)
    assert after - (ready - began) - 0.2 <= seen[-1][0] - ready <= after + 1.0
    assert sum(2 * CONNS <= count < conns for _, count in seen) >= 3


# ----------------------------------------------------------------------------------------- nobody answers


def refused() -> int:
    """Connections that were refused on this machine so far."""
    with open("/proc/net/snmp", encoding="ascii") as table:
        names, values = (line.split() for line in table if line.startswith("Tcp:"))
    return int(dict(zip(names, values, strict=True))["AttemptFails"])


def check_echo(both: Tunnel) -> float:
    """How long a new stream takes to answer."""
    began = time.monotonic()
    with connect(both.address) as program:
        program.sendall(b"?")
        assert receive_exactly(program, 1) == b"?"
    return time.monotonic() - began


def answers(both: Tunnel) -> bool:
    """Whether a new stream does: one that was opened before the restart was noticed is reset."""
    try:
        check_echo(both)
    except ConnectionResetError:
        return False
    return True


@pytest.mark.parametrize("outage", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_few_dials_to_a_server_that_is_down_and_quick_ones_when_it_is_back(outage: int) -> None:
    with Service(echo) as service, Tunnel(service.address) as both:
        check_echo(both)
        before = refused()
        both.server.kill()
        times: list[float] = []
        began = time.monotonic()
        while (now := time.monotonic() - began) < outage:
            times += [now] * (refused() - before - len(times))
            pause(0.005)
        both.server = End("server", "--lFling", both.server_address, "--forward", service.address, key=both.key)
        both.ends.append(both.server)
        assert both.server.address == both.server_address
        took = until(lambda: answers(both), 5.0)
        when = " ".join(f"{at:.2f}" for at in times)
        FIGURES.info("%d dials in %d s, at %s; back after %.2f s", len(times), outage, when, took)
    assert outage <= len(times) <= 10 + 5 * outage
    assert max(sum(second <= at < second + 1 for at in times) for second in range(outage)) <= 20


class Relay:
    """Forwards connections, or accepts none though they may queue, or closes what it accepts at once."""

    def __init__(self) -> None:
        self.accepted = 0
        self.mode = "forward"
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self._go_on = threading.Event()
        self._go_on.set()
        self._links: set[socket.socket] = set()
        self._fillers: list[socket.socket] = []
        self._target = ("", 0)

    def start(self, target: str) -> str:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._threads = [threading.Thread(target=self._run, daemon=True)]
        self._threads[0].start()
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def set(self, mode: str) -> None:
        """All that is open is cut off."""
        self.mode = mode
        for link in list(self._links):
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        if mode == "ignore":
            self._go_on.clear()
            for _ in range(FILLERS):  # whom the thread accepts still, and who fills the queue
                self._fillers.append(socket.socket())
                self._fillers[-1].setblocking(False)
                self._fillers[-1].connect_ex(self._listener.getsockname())
        else:
            for filler in self._fillers:
                filler.close()
            self._go_on.set()

    def stop(self) -> None:
        self.set("close")
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LIMIT)
        self._listener.close()

    def _run(self) -> None:
        with suppress(OSError):
            while self._go_on.wait():
                link, _ = self._listener.accept()
                self.accepted += 1
                if self.mode == "reset":
                    reset(link)
                elif self.mode == "close":
                    link.close()
                else:
                    self._threads.append(threading.Thread(target=self._serve, args=(link,), daemon=True))
                    self._threads[-1].start()

    def _serve(self, link: socket.socket) -> None:
        with suppress(OSError), link, socket.create_connection(self._target) as onward:
            self._links |= {link, onward}
            back = threading.Thread(target=_forward, args=(onward, link), daemon=True)
            back.start()
            _forward(link, onward)
            back.join(LIMIT)
            self._links -= {link, onward}


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65_536):
            sink.sendall(piece)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def relay() -> Iterator[Relay]:
    relay = Relay()
    yield relay
    relay.stop()


@pytest.mark.parametrize("outage", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_dials_that_nobody_answers_are_bounded(relay: Relay, outage: int) -> None:
    with pooled(via=relay.start, serve=echo) as both:
        check_echo(both)
        relay.set("ignore")
        counts = []
        ends_at = time.monotonic() + outage
        while time.monotonic() < ends_at:
            counts.append(sockets_to(both.server_address, SYN_SENT))
            pause(0.02)
        relay.set("forward")
        took = check_echo(both)
        FIGURES.info("up to %d dials unanswered at once within %d s; back after %.2f s", max(counts), outage, took)
    # What was dialled when the stream opened is in the pool yet, so fewer than CONNS may be missing.
    assert 0 < max(counts) <= MAX_DIALING + MAX_ATTEMPTS + FILLERS
    assert took < 5.0


@pytest.mark.parametrize("how", ["reset", pytest.param("close", marks=pytest.mark.slow)])
def test_a_server_that_cuts_off_every_connection_is_not_dialled_in_a_loop(relay: Relay, how: str) -> None:
    with pooled(via=relay.start, serve=echo) as both:
        check_echo(both)
        before = relay.accepted
        relay.set(how)
        pause(1.0)
        count = relay.accepted - before
        relay.set("forward")
        took = check_echo(both)
        FIGURES.info("%d dials in 1 s to who answers by a %s; back after %.2f s", count, how, took)
    assert count <= 50
    assert took < 5.0
