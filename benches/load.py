"""Programs at both sides of the tunnel, in processes of their own. Those that carry bulk copy nothing (sendfile, MSG_TRUNC)."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from benches.ends import CLIENT_PORT, HOST, Pair
from benches.namespace import fail
from tcsplitter.tuning import unpaced

ECHO_SIZE = 36  # bytes: a keystroke in ssh

Job = Callable[[], None]

_BLOCK = 1 << 20  # bytes of one write or read of bulk
_FORK = multiprocessing.get_context("fork")


def pour(sock: socket.socket, limit: int, taken: memoryview[int]) -> None:
    """Send `limit` bytes, and count them."""
    source = os.memfd_create("noise")
    os.write(source, os.urandom(_BLOCK))
    while taken[0] < limit:
        taken[0] += os.sendfile(sock.fileno(), source, 0, min(_BLOCK, limit - taken[0]))


def drain(sock: socket.socket, got: memoryview[int]) -> None:
    """Throw away what comes, and count it."""
    unused = bytearray(_BLOCK)
    while count := sock.recv_into(unused, _BLOCK, socket.MSG_TRUNC):
        got[0] += count
    raise ConnectionError("the stream has ended")


def echo(sock: socket.socket) -> None:
    """Give back what comes."""
    while data := sock.recv(_BLOCK):
        sock.sendall(data)
    raise ConnectionError("the stream has ended")


def relay(listening: socket.socket, port: int) -> None:
    """Pass on what comes on a connection to `port`, and what comes back: as little as a hop that waits for two sockets can do."""
    near, _ = listening.accept()
    far = socket.create_connection((HOST, port))
    with selectors.DefaultSelector() as selector:
        for here, there in ((near, far), (far, near)):
            here.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(here, selectors.EVENT_READ, (here.recv, there.sendall))
        while True:
            for key, _events in selector.select():
                recv, send = key.data
                data = recv(_BLOCK)
                if not data:
                    return
                send(data)


def time_echoes(sock: socket.socket, count: int) -> list[float]:
    """Seconds that each of `count` echoes took."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        sock.sendall(bytes(ECHO_SIZE))
        missing = ECHO_SIZE
        while missing:
            missing -= len(sock.recv(missing)) or fail("the stream has ended")
        times.append(time.perf_counter() - start)
    return times


def counter() -> memoryview[int]:
    """A number that a child process counts up and this one reads."""
    return memoryview(mmap.mmap(-1, 8)).cast("Q")


def _do(job: Job) -> None:
    """What a child process does; Ctrl-C is for its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job()


@contextmanager
def running(jobs: list[Job]) -> Iterator[list[int]]:
    """A process for each, until the end of the block; their ids. Leaves if one of them failed."""
    processes = [_FORK.Process(target=_do, args=(job,), daemon=True) for job in jobs]
    try:
        for process in processes:
            process.start()
        yield [process.pid or 0 for process in processes]
        if any(process.exitcode for process in processes):
            fail("a stream broke")
    finally:
        for process in processes:
            process.kill()
            process.join()


def listen_at(port: int, backlog: int | None = None) -> socket.socket:
    """Where programs connect. Not paced, as `connect_to` is not: else what is measured may be BBR's pace."""
    listening = socket.create_server((HOST, port), backlog=backlog)
    unpaced(listening, HOST)
    return listening


def connect_to(port: int) -> socket.socket:
    """A program's connection."""
    sock = socket.socket()
    unpaced(sock, HOST)
    sock.connect((HOST, port))
    return sock


def connect(service: socket.socket, port: int) -> tuple[socket.socket, socket.socket]:
    """A connection to the service by way of `port`: the client program's side and the service's."""
    ours = connect_to(port)
    theirs, _ = service.accept()
    for sock in (ours, theirs):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


@dataclass
class Bulk:
    """A stream with bulk: what arrived at the service (up) and at the client program (down), in bytes."""

    up: memoryview[int]
    down: memoryview[int]
    pids: list[int]

    @property
    def carried(self) -> Pair:
        """Bytes so far, up and down."""
        return self.up[0], self.down[0]


@contextmanager
def bulk(service: socket.socket, direction: str) -> Iterator[Bulk]:
    """Bulk on a stream of its own until the end of the block."""
    up, down = counter(), counter()
    ours, theirs = connect(service, CLIENT_PORT)
    jobs: list[Job] = []
    if direction != "down":
        jobs += [partial(drain, theirs, up), partial(pour, ours, sys.maxsize, counter())]
    if direction != "up":
        jobs += [partial(drain, ours, down), partial(pour, theirs, sys.maxsize, counter())]
    with ours, theirs, running(jobs) as pids:
        yield Bulk(up, down, pids)
