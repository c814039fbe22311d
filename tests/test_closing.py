"""How connections end: the server end first, with no shot destroyed by a reset and nothing left in TIME_WAIT at the client."""

from __future__ import annotations

import heapq
import queue
import secrets
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest
from session_pair import Pair, data_shots
from tunnel import LIMIT, MEGABYTE, Service, Traffic, connect, exchange, traffic

from tcsplitter.client import ClientProgram
from tcsplitter.options import Address, ClientOptions, ServerOptions
from tcsplitter.program import Program
from tcsplitter.server import ServerProgram

ANY_PORT = Address("127.0.0.1", 0)
KEYS = {"test": secrets.token_bytes(32)}
DELAY = 0.02  # seconds each way
TIME_WAIT = "06"  # in /proc/net/tcp


class DelayProxy:
    """Forwards with a delay, FIN for FIN and RST for RST, and counts who ended first and how."""

    def __init__(self, target: Address) -> None:
        self.first: Counter[str] = Counter()
        self.resets: Counter[str] = Counter()
        """Resets that came before the other side had ended."""
        self._target = (target.host, target.port)
        self._selector = selectors.DefaultSelector()
        self._peers: dict[socket.socket, tuple[str, socket.socket]] = {}
        self._ended: dict[socket.socket, None] = {}
        self._later: list[tuple[float, int, socket.socket, bytes | None]] = []
        self._serial = count()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._waker, self._woken = socket.socketpair()
        for sock in (self._listener, self._woken):
            self._selector.register(sock, selectors.EVENT_READ)
        self.address = Address(*self._listener.getsockname()[:2])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._waker.send(b"\0")
        self._thread.join()
        for sock in [self._listener, self._waker, self._woken, *self._peers]:
            sock.close()
        self._selector.close()

    def _run(self) -> None:
        while True:
            wait = max(0.0, self._later[0][0] - time.monotonic()) if self._later else None
            for key, _ in self._selector.select(wait):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self._woken:
                    return
                if sock is self._listener:
                    self._accept()
                else:
                    self._read(sock)
            while self._later and self._later[0][0] <= time.monotonic():
                _, _, sock, data = heapq.heappop(self._later)
                self._forward(sock, data)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(self._target)
        self._peers |= {client: ("client", server), server: ("server", client)}
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(sock, selectors.EVENT_READ)

    def _read(self, sock: socket.socket) -> None:
        side, peer = self._peers[sock]
        try:
            data = sock.recv(65_536)
        except ConnectionResetError:
            data = b""
            if peer not in self._ended:
                self.resets[side] += 1
        if not data:
            self._selector.unregister(sock)
            if peer not in self._ended:
                self.first[side] += 1
            self._ended[sock] = None
        heapq.heappush(self._later, (time.monotonic() + DELAY, next(self._serial), peer, data or None))

    def _forward(self, sock: socket.socket, data: bytes | None) -> None:
        try:
            if data is None:
                sock.shutdown(socket.SHUT_WR)
            else:
                sock.sendall(data)
        except OSError:
            assert self._peers[sock][1] in self._ended or sock in self._ended


@contextmanager
def running(program: Program) -> Iterator[None]:
    thread = threading.Thread(target=program.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        program.stop()
        thread.join(5)
        assert not thread.is_alive()


def sockets_in_time_wait(port: int) -> set[str]:
    """Local addresses of those at the client: their remote port is the server end's."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table][1:]
    return {row[1] for row in rows if row[3] == TIME_WAIT and row[2].endswith(f":{port:04X}")}


@pytest.mark.parametrize(("up", "down"), [(2, 2), (2, 0), (0, 2)])
def test_no_shot_dies_by_a_reset(up: int, down: int) -> None:
    arrived: queue.Queue[Traffic] = queue.Queue()
    with Service(lambda sock: arrived.put(exchange(sock, down * MEGABYTE, 2))) as service:
        host, _, port = service.address.rpartition(":")
        server = ServerProgram(ServerOptions(l_fling=ANY_PORT, keys=KEYS, forward=Address(host, int(port))))
        proxy = DelayProxy(server.address)
        others = sockets_in_time_wait(proxy.address.port)  # the port may have been another program's before
        client = ClientProgram(ClientOptions(r_fling=proxy.address, keys=KEYS, listen=ANY_PORT))
        with running(server), running(client):
            with connect(str(client.address)) as program:
                assert exchange(program, up * MEGABYTE, 1) == traffic(down * MEGABYTE, 2)
            assert arrived.get(timeout=LIMIT) == traffic(up * MEGABYTE, 1)
            sessions = [client.end.session, *server.end.sessions.values()]
            counted = [(each.counters.carriers_died, each.counters.shots_lost) for each in sessions]
            waiting = sockets_in_time_wait(proxy.address.port) - others
            ended = Counter(proxy.first)
    proxy.close()
    assert counted == [(0, 0), (0, 0)]
    assert ended["server"] > (up + down) * MEGABYTE / 2 / 10_000
    assert ended["client"] == 0
    assert not proxy.resets["server"]
    assert not waiting


# --- what the protocol knows of it


def test_a_half_is_delivered_once_the_shot_that_ends_it_is_acknowledged() -> None:
    pair = Pair()
    mine, _ = pair.open()
    mine.write(b"up")
    (shot,) = data_shots(pair.flush())
    carrier = shot.carrier
    assert carrier.tx_final
    assert not carrier.delivered
    pair.deliver(shot)
    pair.settle()
    assert carrier.delivered


def test_a_half_that_ends_with_an_ack_is_not_known_to_be_delivered() -> None:
    pair = Pair()
    _, theirs = pair.open()
    theirs.write(b"down")
    (shot,) = data_shots(pair.flush())
    carrier = pair.other[shot.carrier]
    pair.deliver(shot)
    pair.settle()
    assert carrier.tx_final
    assert not carrier.delivered
