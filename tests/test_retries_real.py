"""A stream that would rather lose payloads than wait, through both ends as processes, while connections go silent for ever."""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from itertools import pairwise

import pytest
from chaos import ChaosProxy
from tunnel import LIMIT, End, Service, Tunnel, connect

pytestmark = pytest.mark.alone

FIGURES = logging.getLogger("figures")  # pytest --log-cli-level=INFO shows them
SIZE, PACE = 1_200, 0.04  # bytes of a payload; seconds from one to the next
LONGEST_GAP = 4  # beats: three attempts in vain, and the one that goes on
BUSY = 0.035  # seconds by which the machine may be late: with a gap of the longest kind less than 200 ms together
START = 1.0  # seconds after which the pool of connections has met its first losses
GIVE_UP = 3.0  # seconds that a silent connection is given
SHARE = 0.1  # of the connections that are doomed, about half at a byte that they do not reach
SKIPPING = "--frags", str(SIZE), "--retries", "0:3", "--buffer", f"{PACE * 1000:g}:0"
UNFORGIVING = "--frags", str(SIZE), "--retries", "0:-1"
each_way = pytest.mark.parametrize("down", [False, True], ids=["up", "down"])
one_way_first = pytest.mark.parametrize("down", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["up", "down"])


@pytest.fixture(autouse=True)
def show_figures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, FIGURES.name)


def payload(number: int) -> bytes:
    """One that says which it is."""
    return number.to_bytes(4, "big") + random.Random(number).randbytes(SIZE - 4)


def numbers(data: bytes) -> list[int]:
    """Which payloads these are; AssertionError if they are anything but whole ones."""
    found = [int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data), SIZE)]
    assert data == b"".join(map(payload, found))
    return found


class Play:
    """A constant stream of payloads from one program to another."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.arrivals: list[tuple[float, bytes]] = []
        self.over = threading.Event()
        """The receiver has come to its end."""
        self.sent = threading.Event()
        """So has the sender."""
        self.received_reset = self.sender_reset = False
        self.ended_at = 0.0

    def send(self, sock: socket.socket) -> None:
        began = time.monotonic()
        try:
            for number in range(self.count):
                self.over.wait(max(0.0, began + number * PACE - time.monotonic()))
                sock.sendall(payload(number))
            sock.shutdown(socket.SHUT_WR)
            assert not sock.recv(1)
        except (ConnectionResetError, BrokenPipeError):
            self.sender_reset = True
        self.sent.set()

    def receive(self, sock: socket.socket) -> None:
        try:
            while data := sock.recv(65_536):
                self.arrivals.append((time.monotonic(), data))
        except ConnectionResetError:
            self.received_reset = True
        self.ended_at = time.monotonic()
        self.over.set()

    @property
    def data(self) -> bytes:
        return b"".join(data for _, data in self.arrivals)

    def gaps(self) -> list[tuple[float, int]]:
        """Seconds between arrivals, once it has begun, and how many payloads are missing there."""
        found, came, size = [], numbers(self.data), 0
        for (earlier, data), (later, _) in pairwise(self.arrivals):
            size += len(data)
            index = size // SIZE
            if later > self.arrivals[0][0] + START:
                found.append((later - earlier, came[index] - came[index - 1] - 1))
        return found


def counted(end: End) -> dict[str, int]:
    """Its counters, of the session that was used: a server may have made others, for handshakes whose answers froze."""
    start = len(end.lines)
    for _ in range(2):  # when the second answer begins the first is complete
        end.counted()
    lines = [line.rpartition(": ")[2].split(", ") for line in end.lines[start:] if "counted" in line]
    sessions = [{name: int(count) for name, _, count in (item.rpartition(" ") for item in line)} for line in lines]
    return max(sessions, key=lambda session: session["shots received"])


def play(
    seed: int, seconds: float, down: bool, share: float, options: tuple[str, ...]
) -> tuple[Play, dict[str, int], dict[str, int]]:
    """What happened, and the counters of the end that sent and of the one that received."""
    stream = Play(int(seconds / PACE))

    def serve(sock: socket.socket) -> None:
        (stream.send if down else stream.receive)(sock)

    with (
        ChaosProxy(seed, share, ("freeze",)) as proxy,
        Service(serve) as service,
        Tunnel(service.address, server_options=options, client_options=options, via=proxy.start) as tunnel,
    ):
        with connect(tunnel.address) as program:
            (stream.receive if down else stream.send)(program)
            assert stream.over.wait(LIMIT)
        assert stream.sent.wait(LIMIT)
        server, client = counted(tunnel.server), counted(tunnel.client)
        gaps = stream.gaps()
        FIGURES.info(
            "seed %d %s: %d of %d payloads in order, longest gap %.0f ms; %d of %d connections froze",
            seed, "down" if down else "up", len(stream.data) // SIZE, stream.count, 1000 * max(gaps, default=(0, 0))[0],
            sum(proxy.struck.values()), proxy.connections,
        )  # fmt: skip
        assert set(proxy.struck) == {"freeze"}
    return (stream, server, client) if down else (stream, client, server)


def skip_what_freezes(seed: int, seconds: float, down: bool) -> None:
    stream, sender, receiver = play(seed, seconds, down, SHARE, SKIPPING)
    came = numbers(stream.data)
    assert came == sorted(set(came))
    assert not stream.sender_reset
    assert not stream.received_reset
    assert receiver["payloads skipped"] == stream.count - len(came)
    assert len(came) > 0.85 * stream.count
    assert sender["payloads resent"] == 0
    for gap, missing in stream.gaps():
        # Where nothing is in store and more are lost in a row than there are attempts, something behind them has to come first.
        assert gap <= PACE * max(LONGEST_GAP, missing + 2) + BUSY


@one_way_first
def test_what_freezes_is_passed_over(down: bool) -> None:
    skip_what_freezes(13, 4, down)


@pytest.mark.slow
@each_way
@pytest.mark.parametrize("seed", range(20, 25))
def test_what_freezes_is_passed_over_for_long(seed: int, down: bool) -> None:
    skip_what_freezes(seed, 20, down)


@one_way_first
def test_a_stream_that_lost_a_payload_is_reset(down: bool) -> None:
    """At both ends, soon, and with nothing missing in what came before."""
    stream, sender, _ = play(3, 12, down, 0.3, UNFORGIVING)
    came = numbers(stream.data)
    assert came == list(range(len(came)))
    assert len(came) < stream.count
    assert stream.received_reset
    assert stream.sender_reset
    assert sender["payloads resent"] == 0
    assert sender["payloads given up"] > 0
    assert stream.ended_at - stream.arrivals[-1][0] < GIVE_UP + 1.5
