"""`--rate` through both ends as processes: what a capped end puts on the line for bulk, and keystrokes beside it."""

import logging
import socket
import statistics
import threading
import time
from collections.abc import Callable

import pytest
from tunnel import Service, Tunnel, connect, receive_exactly

from tcsplitter.cap import BURST_SHOTS, SHOT_OVERHEAD, wire_bytes

pytestmark = pytest.mark.alone

FIGURES = logging.getLogger("figures")  # pytest --log-cli-level=INFO shows them
CAP = "8"
RATE = 1_000_000  # bytes per second: the same
PAYLOAD = 10_000
SIZE = 250 * PAYLOAD
SOON = 0.04  # seconds that a keystroke may take, on a busy machine: the cap pays for four payloads meanwhile
BULK, KEYS = b"b", b"k"


@pytest.fixture(autouse=True)
def show_figures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, FIGURES.name)


class Arrivals:
    """What each reading of bulk brought, and when."""

    def __init__(self) -> None:
        self.read: list[tuple[float, int]] = []
        self.done = threading.Event()

    def from_socket(self, sock: socket.socket) -> None:
        """Until all of it came."""
        total = 0
        while total < SIZE:
            piece = sock.recv(1_000_000)
            assert piece, f"ended after {total} bytes"
            self.read.append((time.monotonic(), len(piece)))
            total += len(piece)
        self.done.set()

    def rate(self) -> float:
        """Bytes per second, as they were on the line, but for what the bucket gave at once."""
        (began, _), (ended, _) = self.read[0], self.read[-1]
        shots = SIZE / PAYLOAD - BURST_SHOTS
        return shots * wire_bytes(PAYLOAD + SHOT_OVERHEAD, first=True) / (ended - began)


def type_until(done: threading.Event, sock: socket.socket) -> list[float]:
    """How long the echo of each keystroke took, one every 50 ms."""
    took = []
    while not done.wait(0.05):
        began = time.monotonic()
        sock.sendall(b"x")
        receive_exactly(sock, 1)
        took.append(time.monotonic() - began)
    return took


def carry(tunnel_options: Callable[[bool], tuple[str, ...]], down: bool) -> tuple[float, list[float]]:
    """Bulk one way and keystrokes beside it: the rate on the line, and what the keystrokes took."""
    came = Arrivals()

    def serve(sock: socket.socket) -> None:
        if receive_exactly(sock, 1) == KEYS:
            while key := sock.recv(1):
                sock.sendall(key)
        elif down:
            sock.sendall(bytes(SIZE))
        else:
            came.from_socket(sock)

    with (
        Service(serve) as service,
        Tunnel(service.address, client_options=tunnel_options(not down), server_options=tunnel_options(down)) as tunnel,
        connect(tunnel.address) as bulk,
        connect(tunnel.address) as keys,
    ):
        keys.sendall(KEYS + b"x")
        receive_exactly(keys, 1)
        work: Callable[[], None] = (lambda: came.from_socket(bulk)) if down else (lambda: bulk.sendall(bytes(SIZE)))
        worker = threading.Thread(target=work, daemon=True)
        bulk.sendall(BULK)
        worker.start()
        took = type_until(came.done, keys)
        worker.join()
    return came.rate(), took


@pytest.mark.parametrize("down", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["up", "down"])
def test_bulk_keeps_to_the_cap_and_keystrokes_stay_quick(down: bool) -> None:
    rate, took = carry(lambda sends: ("--rate", CAP) if sends else (), down)
    FIGURES.info("--rate %s: %.2f Mbit/s on the line; %d keystrokes", CAP, rate * 8e-6, len(took))
    FIGURES.info("keystrokes took %.1f ms, the worst %.1f ms", statistics.median(took) * 1000, max(took) * 1000)
    assert 0.9 * RATE <= rate <= RATE
    assert len(took) > 20
    assert statistics.median(took) < SOON / 4
    assert statistics.quantiles(took, n=20)[-1] < SOON
