"""What the tests on real sockets share: a reactor that serves until something holds, and ends of connections."""

import os
import random
import socket
import struct
from collections.abc import Callable
from socket import SocketType
from typing import Any

from tcsplitter._tcp import TcpSocket, accept
from tcsplitter.carrier import Carrier, Lent, Op
from tcsplitter.modes import Kind
from tcsplitter.options import Address
from tcsplitter.reactor import Reactor, boot_time
from tcsplitter.transport import Carriers, CarrierSocket, Dialler


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """A port that nobody has, below those that the kernel gives to whoever asks for none: it stays free."""
    dice = random.SystemRandom()
    while True:
        with socket.socket(socket.AF_INET, kind) as sock:
            port = dice.randrange(20_000, 30_000)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Harness:
    """A reactor under test, and a plain listening socket for the other sides of its connections."""

    def __init__(self, clock: Callable[[], float] = boot_time) -> None:
        self.reactor = Reactor(clock)
        self.service = socket.create_server(("127.0.0.1", 0))
        self.opened: list[socket.socket] = []

    @property
    def port(self) -> int:
        """Where the listening socket is."""
        return int(self.service.getsockname()[1])

    def until(self, condition: Callable[[], Any]) -> None:
        """Serve until the condition holds; not for ever."""
        limit = self.reactor.clock() + 10
        nudge = self.reactor.timer(lambda _now: None)
        while not condition():
            nudge.at(self.reactor.clock() + 0.01)
            self.reactor.wake()
            assert self.reactor.now < limit, "it never came"

    def wakes(self, count: int) -> None:
        """Serve what is ready, that many times."""
        for _ in range(count):
            self.reactor.call(lambda _now: None)
            self.reactor.wake()

    def close(self) -> None:
        """Release it all."""
        self.reactor.close()
        self.service.close()
        for sock in self.opened:
            sock.close()


def crowd(service: socket.socket) -> list[socket.socket]:
    """Connections that a listening socket has to accept before it answers another one."""
    service.listen(0)
    waiting: list[socket.socket] = []
    while True:
        sock = socket.socket()
        sock.setblocking(False)
        if sock.connect_ex(service.getsockname()) and sock.connect_ex(service.getsockname()):
            sock.close()
            return waiting
        waiting.append(sock)


class Notes:
    """An end that writes down what it is told."""

    def __init__(self) -> None:
        self.reading_paused = False
        self.readable: set[Carrier] = set()
        self.events: list[tuple[Any, ...]] = []
        self.received: dict[Carrier, bytes] = {}
        self.times: list[float] = []
        """When something was received."""
        self.on_receive: Callable[[Carrier], None] = lambda _carrier: None

    def carrier_may_read(self, carrier: Carrier) -> bool:
        return carrier in self.readable

    def carrier_connected(self, carrier: Carrier, dial_seconds: float, now: float) -> None:
        assert 0 <= dial_seconds <= now
        self.events.append(("connected", carrier))

    def carrier_dial_failed(self, carrier: Carrier, reason: str, now: float) -> None:
        assert now > 0
        self.events.append(("failed", carrier, reason))

    def carrier_received(self, carrier: Carrier, data: Lent, now: float) -> None:
        assert now > 0
        self.times.append(now)
        self.received[carrier] = self.received.get(carrier, b"") + data
        self.on_receive(carrier)

    def carrier_eof(self, carrier: Carrier, now: float) -> None:
        assert now > 0
        self.events.append(("eof", carrier))

    def carrier_lost(self, carrier: Carrier, now: float) -> None:
        assert now > 0
        self.events.append(("lost", carrier))

    def carrier_progress(self, carrier: Carrier, outstanding: int, now: float) -> None:
        assert now > 0
        self.events.append(("progress", carrier, outstanding))


class CarrierHarness(Harness):
    """One end's carriers, and a plain listening socket for its other side."""

    def __init__(self, client: bool = True) -> None:
        super().__init__()
        self.end = Notes()
        dialler = Dialler(self.reactor, dict.fromkeys(Kind, Address("127.0.0.1", self.port)), self.end) if client else None
        self.carriers = Carriers(self.reactor, self.end, dialler)

    def do(self, *actions: tuple[Op, Carrier] | tuple[Op, Carrier, bytes]) -> None:
        self.carriers.execute([(each[0], each[1], each[2] if len(each) == 3 else b"") for each in actions], self.reactor.now)

    def connect(self) -> tuple[Carrier, socket.socket]:
        """A carrier that is connected, and the other side of it."""
        carrier = Carrier(Kind.FLING, self.reactor.now)
        if self.carriers.dialler:
            self.do((Op.DIAL, carrier))
            peer = self.service.accept()[0]
            self.until(lambda: ("connected", carrier) in self.end.events)
        else:
            peer = socket.create_connection(self.service.getsockname())
            sock, _host = accept(self.service.fileno())
            self.carriers.accepted(sock, carrier, self.reactor.now)
        peer.settimeout(10)
        self.opened.append(peer)
        return carrier, peer

    def close(self) -> None:
        self.carriers.close_all()
        super().close()


def socket_of(carrier: Carrier) -> TcpSocket:
    conn = carrier.io
    assert isinstance(conn, CarrierSocket)
    return conn._sock


def known(sock: SocketType | TcpSocket) -> socket.socket:
    """The same connection as Python has it, to ask it what an end does not; to be closed as well."""
    return socket.socket(fileno=os.dup(sock.fileno()))


class FakeStream:
    """Bytes one way, bytes the other way."""

    def __init__(self, room: int = 1_000_000) -> None:
        self.app: Any = None
        self.room = room
        self.written = bytearray()
        self.finished = 0
        self.resets: list[int] = []
        self.reset_code: int | None = None
        self.waiting = bytearray()
        self.ended = False

    @property
    def readable(self) -> int:
        return len(self.waiting)

    @property
    def at_end(self) -> bool:
        return self.ended and not self.waiting

    def write(self, data: bytes | memoryview) -> None:
        assert 0 < len(data) <= self.room
        self.room -= len(data)
        self.written += data

    def finish(self) -> None:
        self.finished += 1

    def reset(self, code: int = 0) -> None:
        self.resets.append(code)

    def peek(self, limit: int) -> list[bytes | memoryview]:
        assert self.waiting
        half = min(limit, len(self.waiting)) // 2
        return [bytes(self.waiting[:half]), memoryview(bytes(self.waiting[half:limit]))]

    def consume(self, count: int, _now: float = 0.0) -> None:
        assert count <= len(self.waiting)
        del self.waiting[:count]


def read_all(sock: socket.socket) -> bytes:
    """All bytes up to the end of the stream; the socket has a time-out."""
    data = bytearray()
    while piece := sock.recv(262_144):
        data += piece
    return bytes(data)


def fill(sock: socket.socket) -> int:
    """Write until the kernels take no more; returns how much. The socket does not block from then on."""
    sock.setblocking(False)
    sent = 0
    try:
        while True:
            sent += sock.send(bytes(1_000_000))
    except BlockingIOError:
        return sent


def reset(sock: socket.socket) -> None:
    """Close it with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
