"""What the tests on real sockets share: a reactor that serves until something holds, and ends of connections."""

import socket
import struct
from collections.abc import Callable
from typing import Any

from tcsplitter.reactor import Reactor


class Harness:
    """A reactor under test, and a plain listening socket for the other sides of its connections."""

    def __init__(self) -> None:
        self.reactor = Reactor()
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

    def write(self, data: bytes) -> None:
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
