"""Both ends as processes, and a proxy in between that resets, stalls or freezes every fifth connection, some in the middle of a shot."""

from __future__ import annotations

import logging
import queue
import time

import pytest
from chaos import ChaosProxy
from tunnel import LIMIT, MEGABYTE, Service, Traffic, Tunnel, connect, exchange, traffic

FIGURES = logging.getLogger("figures")  # pytest --log-cli-level=INFO shows them
SIZE = 20 * MEGABYTE
UP, DOWN = 1, 2  # seeds: what goes up differs from what goes down
ALL_FATES = {"reset", "stall", "freeze"}


@pytest.fixture(autouse=True)
def show_figures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, FIGURES.name)


def run(seed: int) -> None:
    arrived: queue.Queue[Traffic] = queue.Queue()

    def serve(sock: object) -> None:
        arrived.put(exchange(sock, SIZE, DOWN))  # type: ignore[arg-type]

    with ChaosProxy(seed) as proxy, Service(serve) as service, Tunnel(service.address, via=proxy.start) as tunnel:
        began = time.monotonic()
        with connect(tunnel.address) as program:
            assert exchange(program, SIZE, UP) == traffic(SIZE, DOWN)
        assert arrived.get(timeout=LIMIT) == traffic(SIZE, UP)
        seconds = time.monotonic() - began
        FIGURES.info(
            "seed %d: %.1f MB/s each way in %.1f s; %d connections, of which %s, %d beyond the hello; %s",
            seed, SIZE / MEGABYTE / seconds, seconds, proxy.connections, dict(proxy.struck), proxy.mid_shot, tunnel.usage(),
        )  # fmt: skip
    assert set(proxy.struck) == ALL_FATES
    assert sum(proxy.struck.values()) > 0.1 * proxy.connections
    assert proxy.mid_shot > 0.2 * sum(proxy.struck.values())


@pytest.mark.parametrize("seed", range(3))
def test_twenty_megabytes_each_way_arrive_whole(seed: int) -> None:
    run(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_twenty_megabytes_each_way_arrive_whole_every_time(seed: int) -> None:
    run(1000 + seed)
