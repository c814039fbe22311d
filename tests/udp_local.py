"""Local UDP sockets on one side, a flow that only takes notes on the other."""

import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from loopback import Harness as LoopbackHarness

from tcsplitter.log import LimitedLog
from tcsplitter.options import Address
from tcsplitter.reactor import boot_time
from tcsplitter.udp import UdpCounters, UdpForwarder, UdpListener, bind_udp


class FakeFlow:
    """Datagrams one way, datagrams the other way."""

    def __init__(self) -> None:
        self.app: Any = None
        self.closed = False
        self.sent: list[bytes] = []
        self.waiting: deque[bytes] = deque()
        self.on_send: Callable[[], None] = lambda: None

    @property
    def readable(self) -> int:
        return len(self.waiting)

    def send(self, data: bytes, _now: float) -> None:
        assert type(data) is bytes
        self.sent.append(data)
        self.on_send()

    def take(self) -> bytes:
        return self.waiting.popleft()


class Harness(LoopbackHarness):
    """Both ends of the local side on one reactor; programs and services are plain sockets."""

    def __init__(self, clock: Callable[[], float] = boot_time) -> None:
        super().__init__(clock)
        self.log = LimitedLog(logging.getLogger("tcsplitter.test"))
        self.counters = UdpCounters()
        self.flows: list[FakeFlow] = []
        self.most_flows = 10_000
        self.ends: list[UdpListener | UdpForwarder] = []

    def listen(self, host: str = "127.0.0.1", tick: float = 0.0, buffer: int = 0) -> UdpListener:
        """A listener on a free port; `buffer` is the size of its receive buffer."""
        (sock,) = bind_udp("--listen", Address(host, 0))
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        listener = UdpListener(self.reactor, sock, self.open_flow, tick, self.log, self.counters)
        self.ends.append(listener)
        return listener

    def forward(self, host: str, port: int, tick: float = 0.0) -> UdpForwarder:
        """A forwarder to that address."""
        forwarder = UdpForwarder(self.reactor, Address(host, port), tick, self.log, self.counters)
        self.ends.append(forwarder)
        return forwarder

    def open_flow(self, _now: float) -> FakeFlow | None:
        if len(self.flows) >= self.most_flows:
            return None
        self.flows.append(FakeFlow())
        return self.flows[-1]

    def program(self, port: int, host: str = "127.0.0.1") -> socket.socket:
        """A program's socket, connected, so that it takes answers from that address only."""
        sock = self.plain(host)
        sock.connect((host, port))
        return sock

    def plain(self, host: str = "127.0.0.1", port: int | None = None) -> socket.socket:
        """A blocking socket with a time-out; bound if a port is given."""
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.opened.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1_000_000)
        sock.settimeout(10)
        if port is not None:
            sock.bind((host, port))
        return sock

    def give(self, flow: FakeFlow, *datagrams: bytes) -> None:
        """Let the tunnel have news for the local side."""
        flow.waiting += datagrams
        flow.app.update(self.reactor.now)

    def close(self) -> None:
        for end in self.ends:
            end.close_all()
        self.wakes(1)
        super().close()
