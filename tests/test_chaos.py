"""Both ends as processes, and a proxy between them that resets, stalls or freezes every fifth connection."""

from __future__ import annotations

import logging
import queue
import socket
import time

import pytest
from chaos import ChaosProxy
from tunnel import LIMIT, MEGABYTE, Service, Traffic, Tunnel, connect, exchange, traffic

FIGURES = logging.getLogger("figures")  # pytest --log-cli-level=INFO shows them
UP, DOWN = 1, 2  # seeds: what goes up differs from what goes down
ALL_FATES = {"reset", "stall", "freeze"}


@pytest.fixture(autouse=True)
def show_figures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, FIGURES.name)


def run(seed: int, size: int) -> None:
    arrived: queue.Queue[Traffic] = queue.Queue()

    def serve(sock: socket.socket) -> None:
        arrived.put(exchange(sock, size, DOWN))

    with ChaosProxy(seed) as proxy, Service(serve) as service, Tunnel(service.address, via=proxy.start) as tunnel:
        began = time.monotonic()
        with connect(tunnel.address) as program:
            assert exchange(program, size, UP) == traffic(size, DOWN)
        assert arrived.get(timeout=LIMIT) == traffic(size, UP)
        seconds = time.monotonic() - began
        FIGURES.info(
            "seed %d: %.1f MB/s each way in %.1f s; %d connections, of which %s, %d beyond the hello; %s",
            seed, size / MEGABYTE / seconds, seconds, proxy.connections, dict(proxy.struck), proxy.mid_shot, tunnel.usage(),
        )  # fmt: skip
    assert set(proxy.struck) == ALL_FATES
    assert sum(proxy.struck.values()) > 0.1 * proxy.connections
    assert proxy.mid_shot > 0.2 * sum(proxy.struck.values())


def test_megabytes_each_way_arrive_whole() -> None:
    run(0, 2 * MEGABYTE)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_twenty_megabytes_each_way_arrive_whole(seed: int) -> None:
    run(1000 + seed, 20 * MEGABYTE)
