"""Datagrams through both ends as processes: a program and a service in one thread, each sending at a steady pace."""

from __future__ import annotations

import random
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from selectors import EVENT_READ
from types import TracebackType

from tunnel import LIMIT, End, Tunnel

RECEIVE_BUFFER = 8_388_608
LARGEST = 65_536
QUIET = 3.0
"""Seconds without a datagram after which no more are waited for; what was lost is sent again after one."""
_SO_RCVBUFFORCE = 33
_POLL = 0.05


def udp_socket() -> socket.socket:
    """On loopback, with a receive buffer that holds more than a second of any load here, where the kernel allows that."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    sock.settimeout(LIMIT)
    sock.bind(("127.0.0.1", 0))
    return sock


def where(sock: socket.socket) -> str:
    """HOST:PORT of a socket."""
    return f"127.0.0.1:{sock.getsockname()[1]}"


def program(tunnel: Tunnel) -> socket.socket:
    """A program's socket, connected to the client end."""
    sock = udp_socket()
    sock.connect(("127.0.0.1", tunnel.port))
    return sock


def random_datagrams(sizes: Sequence[int], seed: int) -> list[bytes]:
    """Datagrams of these sizes, of noise."""
    dice = random.Random(seed)
    return [dice.randbytes(size) for size in sizes]


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait until it holds."""
    ends_at = time.monotonic() + LIMIT
    with selectors.DefaultSelector() as pause:
        while not holds():
            assert time.monotonic() < ends_at, what
            pause.select(_POLL)


def udp_sockets(end: End) -> int:
    """How many UDP sockets over IPv4 an end has open."""
    with open("/proc/net/udp", encoding="ascii") as file:
        known = {f"socket:[{line.split()[9]}]" for line in file.readlines()[1:]}
    found = 0
    for descriptor in Path(f"/proc/{end.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found += str(descriptor.readlink()) in known
    return found


class Echo:
    """A service that sends every datagram back when `serve` is called."""

    def __init__(self) -> None:
        self.sock = udp_socket()
        self.address = where(self.sock)
        self.peers: Counter[tuple[str, int]] = Counter()
        """How many datagrams came from each address."""

    def __enter__(self) -> Echo:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.sock.close()

    def serve(self, count: int) -> None:
        """Answer so many datagrams."""
        for _ in range(count):
            data, peer = self.sock.recvfrom(LARGEST)
            self.peers[peer] += 1
            self.sock.sendto(data, peer)


class Exchange:
    """A program and a service that send each other datagrams, and note what comes and when.

    The program sends first; the service answers to where that came from, a tunnel's one flow.
    """

    def __init__(self) -> None:
        self.service = udp_socket()
        self.address = where(self.service)
        self.came: list[list[bytes]] = [[], []]
        """At the service, and at the program."""
        self.came_at: list[list[float]] = [[], []]
        self.sent_at: list[list[float]] = [[], []]
        self._peer: tuple[str, int] | None = None

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.service.close()

    def run(self, tunnel: Tunnel, up: Sequence[bytes], down: Sequence[bytes], rate: float) -> None:
        """Send all of both at so many a second, and take what comes until all has come or nothing more does."""
        loads = up, down
        with program(tunnel) as sock:
            self._ways = (sock.send, self._answer)
            sock.setblocking(False)
            self.service.setblocking(False)
            with selectors.DefaultSelector() as selector:
                selector.register(self.service, EVENT_READ, self._serve)
                selector.register(sock, EVENT_READ, lambda: self._note(1, sock.recv(LARGEST)))
                began = time.monotonic()
                while any(len(came) < len(load) for came, load in zip(self.came, loads, strict=True)):
                    due = int((time.monotonic() - began) * rate) + 1
                    for way in (0, 1) if self._peer else (0,):
                        self._send(way, loads[way][len(self.sent_at[way]) : due])
                    over = all(len(sent) == len(load) for sent, load in zip(self.sent_at, loads, strict=True))
                    ready = selector.select(QUIET if over else max(0.0, began + due / rate - time.monotonic()))
                    for key, _ in ready:
                        self._take(key.data)
                    if over and not ready:
                        return

    def _send(self, way: int, load: Sequence[bytes]) -> None:
        for datagram in load:
            self._ways[way](datagram)
            self.sent_at[way].append(time.monotonic())

    def _answer(self, datagram: bytes) -> int:
        assert self._peer is not None
        return self.service.sendto(datagram, self._peer)

    def _serve(self) -> None:
        data, self._peer = self.service.recvfrom(LARGEST)
        self._note(0, data)

    def _take(self, receive: Callable[[], None]) -> None:
        with suppress(BlockingIOError):
            while True:
                receive()

    def _note(self, way: int, data: bytes) -> None:
        self.came[way].append(data)
        self.came_at[way].append(time.monotonic())


def check_all_came(exchange: Exchange, tunnel: Tunnel, up: Sequence[bytes], down: Sequence[bytes]) -> str:
    """Nothing was lost, altered, merged or repeated by the tunnel: the kernel's drops are all that may be missing. Figures."""
    counted = tunnel.client.counted(), tunnel.server.counted()
    for name in "datagrams dropped", "datagrams late", "datagrams lost", "payloads given up", "shots refused":
        assert [counts[name] for counts in counted] == [0, 0], (name, counted)
    dropped = [counts.get("udp kernel drops", 0) for counts in counted]
    for way, load in enumerate((up, down)):
        assert not Counter(exchange.came[way]) - Counter(load), "altered, merged or repeated"
        assert len(load) - len(exchange.came[way]) == dropped[way], f"lost {'up' if way == 0 else 'down'}: {counted}"
    seconds = exchange.sent_at[0][-1] - exchange.sent_at[0][0]
    volume = sum(map(len, up)) + sum(map(len, down))
    return (
        f"{len(up)} up and {len(down)} down, {volume / 1e6:.1f} MB in {seconds:.1f} s, kernel drops {dropped}, "
        f"shots {counted[0]['shots sent']} up and {counted[1]['shots sent']} down"
    )
