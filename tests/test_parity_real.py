"""Parity and twins through both ends as processes, while a share of the connections goes silent for ever: no error, no close."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

import pytest
from chaos import ChaosProxy
from tunnel import LIMIT, MEGABYTE, Service, Traffic, Tunnel, connect, echo, receive, receive_exactly, send, traffic

pytestmark = pytest.mark.alone

FIGURES = logging.getLogger("figures")  # pytest --log-cli-level=INFO shows them
UNFORGIVING = "--retries", "0:-1", "--burst", "4096"
"""What was swallowed keeps its place in the pool for 3 s: the usual 1,024 are too few where 300 are in a second."""
STRIPE_WAIT = 12.0  # seconds: as long as the receiver of a stripe waits for what it lacks, and some for a slow machine

each_way = pytest.mark.parametrize("down", [False, True], ids=["up", "down"])
each_share = pytest.mark.parametrize(("share", "fec"), [(0.01, "10:3"), (0.1, "10:9")])


@pytest.fixture(autouse=True)
def show_figures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, FIGURES.name)


def carry(size: int, down: bool, share: float, seed: int, options: tuple[str, ...], after: Callable[[Tunnel], None]) -> Traffic:
    """Send `size` bytes one way and say what arrived; `after` is called while both ends still run."""
    received: list[Traffic] = []

    def serve(sock: socket.socket) -> None:
        if down:
            send(sock, size, seed)
            receive(sock)
        else:
            received.append(receive(sock))
            sock.shutdown(socket.SHUT_WR)

    began = time.monotonic()
    with (
        ChaosProxy(seed, share, ("swallow",)) as proxy,
        Service(serve) as service,
        Tunnel(service.address, server_options=options, client_options=options, via=proxy.start, limit=240) as tunnel,
    ):
        with connect(tunnel.address) as program:
            program.settimeout(4 * LIMIT)
            if down:
                program.shutdown(socket.SHUT_WR)
                received.append(receive(program))
            else:
                send(program, size, seed)
                assert program.recv(1) == b""
        took = time.monotonic() - began
        after(tunnel)
        FIGURES.info(
            "%d MB %s, %s: %d of %d connections swallowed, %.1f s",
            size // MEGABYTE,
            "down" if down else "up",
            " ".join(options),
            proxy.struck["swallow"],
            proxy.connections,
            took,
        )
    return received[0]


def carry_whole(size: int, down: bool, share: float, fec: str, seed: int) -> None:
    def check(tunnel: Tunnel) -> None:
        ends = tunnel.server, tunnel.client
        sender, receiver = (end.counted() for end in (ends if down else reversed(ends)))
        FIGURES.info("parity sent %d, shots rebuilt %d", sender["parity sent"], receiver["shots rebuilt"])
        assert sender["payloads given up"] == receiver["stripes lost"] == sender["payloads resent"] == 0
        assert receiver["shots rebuilt"] > 0

    assert carry(size, down, share, seed, (*UNFORGIVING, "--fec", fec), check) == traffic(size, seed)


@each_way
@each_share
def test_what_is_swallowed_is_rebuilt(share: float, fec: str, down: bool) -> None:
    carry_whole(10 * MEGABYTE, down, share, fec, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@each_way
@each_share
def test_what_is_swallowed_of_a_hundred_megabytes_is_rebuilt(share: float, fec: str, down: bool, seed: int) -> None:
    carry_whole(100 * MEGABYTE, down, share, fec, seed)


@pytest.mark.slow
def test_the_share_of_stripes_that_fail_is_that_of_theory() -> None:
    size, payload = 40 * MEGABYTE, 1_000
    counted: list[int] = []

    def count(tunnel: Tunnel) -> None:
        ends_at = time.monotonic() + STRIPE_WAIT
        while time.monotonic() < ends_at:
            with connect(tunnel.address):  # nothing else tells that time has passed than that the ends still answer
                lost = tunnel.server.counted()["stripes lost"]
            time.sleep(1.0)
        counted.extend((lost, tunnel.client.counted()["parity sent"]))

    options = "--retries", "0:50", "--tock", "100", "--frags", str(payload), "--fec", "10:3"
    carry(size, False, 0.1, 5, options, count)
    stripes = counted[1] / 3
    FIGURES.info("%d stripes lost of %.0f: %.2f %%", counted[0], stripes, 100 * counted[0] / stripes)
    assert stripes == pytest.approx(size / payload / 10, rel=0.05), "hardly a stripe was closed early"
    assert counted[0] / stripes == pytest.approx(0.0342, abs=0.01)


@pytest.mark.parametrize(("options", "counter"), [((), "hedges sent"), (("--fec", "10:3"), "parity sent")])
def test_every_echo_is_answered_soon(options: tuple[str, ...], counter: str) -> None:
    """A fifth of the connections swallows what is sent on it, either way; without repair an echo takes a second then."""
    slow = 0
    with (
        ChaosProxy(3, 0.2, ("swallow",)) as proxy,
        Service(echo) as service,
        Tunnel(service.address, server_options=options, client_options=options, via=proxy.start) as tunnel,
        connect(tunnel.address) as program,
    ):
        for number in range(60):
            began = time.monotonic()
            program.sendall(b"%05d" % number)
            assert receive_exactly(program, 5) == b"%05d" % number
            slow += time.monotonic() - began > 0.5
        sent = tunnel.client.counted()[counter] + tunnel.server.counted()[counter]
        FIGURES.info("%s %d, %d echoes of 60 over 0.5 s, %d connections swallowed", counter, sent, slow, proxy.struck["swallow"])
        assert proxy.struck["swallow"] > 3
        assert sent > 0
        assert slow <= 2
