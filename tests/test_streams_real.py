"""Streams through both ends as processes: bulk, many at once, half-close, resets, small writes, and what an echo costs."""

import logging
import os
import queue
import select
import socket
import statistics
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tunnel import (
    LIMIT,
    MEGABYTE,
    Service,
    Traffic,
    Tunnel,
    connect,
    echo,
    exchange,
    prepare,
    receive,
    receive_exactly,
    reset,
    send,
    traffic,
)

pytestmark = pytest.mark.alone

FIGURES = logging.getLogger("figures")  # pytest --log-cli-level=INFO shows them
UP, DOWN = 1, 2  # seeds: what goes up differs from what goes down


@pytest.fixture(autouse=True)
def show_figures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, FIGURES.name)


@pytest.mark.parametrize("size", [40 * MEGABYTE, pytest.param(200 * MEGABYTE, marks=pytest.mark.slow)])
@pytest.mark.parametrize("ways", ["up", "down", "both"])
def test_bulk_arrives_whole(size: int, ways: str) -> None:
    up = 0 if ways == "down" else size
    down = 0 if ways == "up" else size
    arrived: queue.Queue[Traffic] = queue.Queue()

    def serve(sock: socket.socket) -> None:
        arrived.put(exchange(sock, down, DOWN))

    with Service(serve) as service, Tunnel(service.address) as tunnel:
        started = time.monotonic()
        with connect(tunnel.address) as program:
            assert exchange(program, up, UP) == traffic(down, DOWN)
        assert arrived.get(timeout=LIMIT) == traffic(up, UP)
        elapsed = time.monotonic() - started
        FIGURES.info("%s: %.0f MB/s each way in %.1f s; %s", ways, size / MEGABYTE / elapsed, elapsed, tunnel.usage())


def test_two_hundred_streams_at_once() -> None:
    count, size = 200, 100_000
    all_here = threading.Barrier(count)

    def serve(sock: socket.socket) -> None:
        seed = int.from_bytes(receive_exactly(sock, 2), "big")
        all_here.wait(LIMIT)
        assert exchange(sock, size, ~seed & 0xFFFF) == traffic(size, seed)

    def use(seed: int) -> None:
        with connect(tunnel.address) as program:
            program.sendall(seed.to_bytes(2, "big"))
            assert exchange(program, size, seed) == traffic(size, ~seed & 0xFFFF)

    with Service(serve) as service, Tunnel(service.address) as tunnel, ThreadPoolExecutor(count) as programs:
        started = time.monotonic()
        list(programs.map(use, range(count)))
        FIGURES.info("%d streams of %d bytes each way in %.1f s; %s", count, size, time.monotonic() - started, tunnel.usage())


def test_the_service_answers_after_the_program_shut_down_writing() -> None:
    question, answer = traffic(100_000, UP), traffic(10 * MEGABYTE, DOWN)

    def serve(sock: socket.socket) -> None:
        assert receive(sock) == question
        send(sock, answer.size, DOWN)

    with Service(serve) as service, Tunnel(service.address) as tunnel, connect(tunnel.address) as program:
        send(program, question.size, UP)
        assert receive(program) == answer


def test_the_program_answers_after_a_service_that_spoke_first_shut_down_writing() -> None:
    greeting, answer = traffic(100_000, DOWN), traffic(10 * MEGABYTE, UP)

    def serve(sock: socket.socket) -> None:
        send(sock, greeting.size, DOWN)
        assert receive(sock) == answer

    with Service(serve) as service, Tunnel(service.address) as tunnel, connect(tunnel.address) as program:
        assert receive(program) == greeting
        send(program, answer.size, UP)


# ------------------------------------------------------------------------------------------------- resets


@pytest.fixture
def service() -> Generator[socket.socket, None, None]:
    with socket.create_server(("127.0.0.1", 0)) as service:
        prepare(service)
        yield service


def address_of(sock: socket.socket) -> str:
    return f"127.0.0.1:{sock.getsockname()[1]}"


def fill(sock: socket.socket) -> None:
    """Write until nothing was taken for a quarter of a second."""
    block = bytes(65_536)
    while select.select([], [sock], [], 0.25)[1]:
        sock.send(block)


def seconds_until_broken(sock: socket.socket) -> float:
    """How long it takes until the socket has an error, whatever there is still to read."""
    started = time.monotonic()
    poll = select.poll()
    poll.register(sock, 0)
    assert poll.poll(LIMIT * 1000), "nothing broke"
    elapsed = time.monotonic() - started
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "it ended in order"
    return elapsed


@pytest.mark.parametrize("state", ["all is open", "its window is full", "the other's window is full", "it shut down writing"])
@pytest.mark.parametrize("side", ["program", "service"])
def test_a_reset_crosses_within_a_second(service: socket.socket, side: str, state: str) -> None:
    with Tunnel(address_of(service)) as tunnel, connect(tunnel.address) as program, service.accept()[0] as target:
        prepare(target)
        program.sendall(b"x")
        assert target.recv(1) == b"x"
        breaker, other = (program, target) if side == "program" else (target, program)
        if state == "its window is full":
            fill(breaker)
        elif state == "the other's window is full":
            fill(other)
        elif state == "it shut down writing":
            breaker.shutdown(socket.SHUT_WR)
            assert not other.recv(1)
        reset(breaker)
        elapsed = seconds_until_broken(other)
        FIGURES.info("reset by the %s while %s: %.0f ms", side, state, elapsed * 1000)
        assert elapsed < 1


@pytest.mark.parametrize("said", [b"", b"anyone?"])
def test_a_service_that_refuses_resets_the_program_within_a_second(service: socket.socket, said: bytes) -> None:
    with Tunnel(address_of(service)) as tunnel:
        service.close()
        with connect(tunnel.address) as program:
            program.sendall(said)
            elapsed = seconds_until_broken(program)
            FIGURES.info("refused after %.0f ms", elapsed * 1000)
            assert elapsed < 1


# ------------------------------------------------------------------------------------------- small things


def test_twenty_thousand_writes_of_one_byte_arrive() -> None:
    count = 20_000
    expected = os.urandom(count)
    pieces = [expected[i : i + 1] for i in range(count)]

    def serve(sock: socket.socket) -> None:
        assert receive_exactly(sock, count) == expected
        for piece in pieces:
            sock.sendall(piece)

    with Service(serve) as service, Tunnel(service.address) as tunnel, connect(tunnel.address) as program:
        started = time.monotonic()
        for piece in pieces:
            program.sendall(piece)
        assert receive_exactly(program, count) == expected
        FIGURES.info("%d writes of one byte, each way, in %.1f s", count, time.monotonic() - started)


def median_echo(address: str, count: int = 300) -> float:
    """Seconds that an echo of 36 bytes takes, as a keystroke in ssh does."""
    times = []
    with connect(address) as program:
        for _ in range(count):
            message = os.urandom(36)
            started = time.monotonic()
            program.sendall(message)
            assert receive_exactly(program, 36) == message
            times.append(time.monotonic() - started)
    return statistics.median(times)


def test_an_echo_takes_less_than_a_millisecond_more_than_without_the_tunnel() -> None:
    with Service(echo) as service, Tunnel(service.address) as tunnel:
        for _ in range(6):  # one good run is enough: other programs on the machine only make it worse
            direct, through = median_echo(service.address), median_echo(tunnel.address)
            FIGURES.info("median echo: direct %.3f ms, through the tunnel %.3f ms", direct * 1000, through * 1000)
            if through - direct < 0.001:
                return
        raise AssertionError(f"the last run: {direct * 1000:.3f} ms without, {through * 1000:.3f} ms with the tunnel")
