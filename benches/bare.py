"""What a payload per connection costs at the least where Python tends the sockets: sealed, with no session. Needs root and Linux.

    .venv/bin/python benches/bare.py --size 10000

Purpose: how far from floor.c the interpreter alone is; also for --floor of loopback.py. A client end reads payloads from a local
program and dials a connection for each; a server end passes them on, sends a payload of the other direction back and closes.
Local programs are read from and written to once in a wake, with all there is. Nothing is numbered, acknowledged, put in order or
timed, and nothing that fails is repaired. Prints a line of JSON, as floor.c does.
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from socket import IPPROTO_TCP, MSG_DONTWAIT, TCP_NODELAY

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

sys.path.append(str(Path(__file__).resolve().parents[1]))  # as a script it has only its own folder there

from benches.ends import CLIENT_PORT, HOST, SERVER_PORT, SERVICE_PORT, accepted, cpu_seconds
from benches.load import Job, bulk, connect_to, listen_at, running
from benches.namespace import enter_namespace
from tcsplitter.tuning import widen

WARM_UP = 0.5  # seconds of bulk before anything is measured
NONCE, TAG = 12, 16  # bytes that sealing adds
ACCEPTS = 16  # in one wake
BACKLOG = 1024
MOST_READ, MOST_BUFFERS = 1_048_576, 1024  # of a local program in one go: bytes, buffers


class Seal:
    """AES-128-GCM with a key that is no secret, and nonces that count."""

    def __init__(self) -> None:
        self._aead = AESGCM(bytes(16))
        self._next = 0

    def seal(self, payload: bytes | memoryview) -> bytearray:
        sealed = bytearray(NONCE + len(payload) + TAG)
        sealed[:NONCE] = nonce = self._next.to_bytes(NONCE, "little")
        self._next += 1
        self._aead.encrypt_into(nonce, payload, None, memoryview(sealed)[NONCE:])
        return sealed

    def open(self, sealed: bytes) -> bytes:
        return self._aead.decrypt(sealed[:NONCE], memoryview(sealed)[NONCE:], None)


class Loop:
    """epoll, with a callback for each socket that is waited for."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}

    def add(self, sock: socket.socket, callback: Callable[[], None]) -> None:
        self._callbacks[sock.fileno()] = callback
        self._epoll.register(sock, select.EPOLLIN)

    def remove(self, sock: socket.socket) -> None:
        del self._callbacks[sock.fileno()]
        self._epoll.unregister(sock)

    def close(self, sock: socket.socket) -> None:
        """Closing takes it out of epoll too."""
        del self._callbacks[sock.fileno()]
        sock.close()

    def mute(self, sock: socket.socket, muted: bool) -> None:
        self._epoll.modify(sock, 0 if muted else select.EPOLLIN)

    def run(self, at_end: Callable[[], None]) -> None:
        """Serve what is ready, again and again; `at_end` of each wake."""
        while True:
            for fd, _events in self._epoll.poll():
                if callback := self._callbacks.get(fd):
                    callback()
            at_end()


class Local:
    """The local program, which reads whatever it is sent, and is read in payloads of `size` while any are wanted."""

    def __init__(
        self, loop: Loop, sock: socket.socket, size: int, wanted: Callable[[], int], take: Callable[[bytes | memoryview], None]
    ) -> None:
        sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        widen(sock, MOST_READ)
        self._loop, self._sock, self._size, self._wanted, self._take = loop, sock, size, wanted, take
        self._out: list[bytes | memoryview] = []
        self._held = b""
        self._readable, self._waits = False, True
        loop.add(sock, self._on_ready)

    def send(self, data: bytes) -> None:
        """Write it at the end of the wake."""
        self._out.append(data)

    def settle(self) -> None:
        """The wake ends: write what there is, read what is wanted."""
        self._write()
        while (count := self._wanted()) and (len(self._held) >= self._size or self._read(count * self._size)):
            whole = min(count, len(self._held) // self._size) * self._size
            view = memoryview(self._held)
            for start in range(0, whole, self._size):
                self._take(view[start : start + self._size])
            self._held = self._held[whole:]
        waits = count > 0
        if waits != self._waits:
            self._waits = waits
            self._loop.mute(self._sock, not waits)

    def _write(self) -> None:
        out, self._out = self._out, []
        while out:
            sent = self._sock.sendmsg(out[:MOST_BUFFERS])
            while out and sent >= len(out[0]):
                sent -= len(out.pop(0))
            if sent:
                out[0] = memoryview(out[0])[sent:]

    def _read(self, most: int) -> bool:
        """Whether anything came."""
        if not self._readable:
            return False
        self._readable = False
        try:
            data = self._sock.recv(min(most, MOST_READ), MSG_DONTWAIT)
        except BlockingIOError:
            return False
        if not data:
            raise ConnectionError("the program is gone")
        self._held += data
        return True

    def _on_ready(self) -> None:
        self._readable = True


class Connection:
    """It brings one sealed payload, maybe in pieces."""

    __slots__ = ("_held", "_missing", "sock")

    def __init__(self, sock: socket.socket, size: int) -> None:
        self.sock = sock
        self._held = b""
        self._missing = NONCE + size + TAG

    def read(self) -> bytes | None:
        """The payload, still sealed, once it is complete."""
        try:
            data = self.sock.recv(self._missing, MSG_DONTWAIT)
        except BlockingIOError:
            return None
        self._held = self._held + data if self._held else data
        self._missing -= len(data)
        return None if self._missing else self._held


def serve(listening: socket.socket, service: socket.socket, size: int) -> None:
    """The server end: what a connection brings goes to the service, what the service says goes back on it."""
    loop, seal = Loop(), Seal()
    idle: deque[socket.socket] = deque()

    def answer(payload: bytes | memoryview) -> None:
        sock = idle.popleft()
        sock.sendall(seal.seal(payload))
        sock.close()

    local = Local(loop, service, size, idle.__len__, answer)

    def arrived(connection: Connection, sealed: bytes) -> None:
        local.send(seal.open(sealed))
        idle.append(connection.sock)

    def go_on(connection: Connection) -> None:
        if (sealed := connection.read()) is not None:
            loop.remove(connection.sock)
            arrived(connection, sealed)

    def accept() -> None:
        for _ in range(ACCEPTS):
            try:
                sock, _address = listening.accept()
            except BlockingIOError:
                return
            connection = Connection(sock, size)
            if (sealed := connection.read()) is None:
                loop.add(sock, partial(go_on, connection))
            else:
                arrived(connection, sealed)

    loop.add(listening, accept)
    loop.run(local.settle)


def dial(program: socket.socket, size: int, most: int) -> None:
    """The client end: each payload of the program is dialled for, `most` at once."""
    loop, seal = Loop(), Seal()
    left = most

    def send(payload: bytes | memoryview) -> None:
        nonlocal left
        left -= 1
        sock = socket.socket()
        sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        sock.connect((HOST, SERVER_PORT))
        sock.sendall(seal.seal(payload))
        loop.add(sock, partial(answered, Connection(sock, size)))

    local = Local(loop, program, size, lambda: left, send)

    def answered(connection: Connection) -> None:
        nonlocal left
        if (sealed := connection.read()) is not None:
            loop.close(connection.sock)
            left += 1
            local.send(seal.open(sealed))

    loop.run(local.settle)


# --- The program


def main() -> None:
    parser = argparse.ArgumentParser(description="Carries bulk both ways, one payload each way per connection.")
    parser.add_argument("--size", type=int, default=10_000, metavar="BYTES", help="of a payload (10000)")
    parser.add_argument("--conns", type=int, default=64, metavar="N", help="connections in use at once (64)")
    parser.add_argument("--secs", type=float, default=3.0, metavar="S", help="how long (3)")
    asked = parser.parse_args()
    if min(asked.size, asked.conns) < 1 or asked.secs <= 0:
        parser.error("all numbers are above 0")
    enter_namespace()
    gc.disable()  # nothing here makes circles
    print(json.dumps(measure(asked.size, asked.conns, asked.secs)))


def measure(size: int, conns: int, secs: float) -> dict[str, float]:
    """The figures of floor.c that there are here: CPU seconds are those of the two ends."""
    with (
        listen_at(SERVICE_PORT) as service,
        listen_at(CLIENT_PORT) as near,
        socket.create_server((HOST, SERVER_PORT), backlog=BACKLOG) as listening,
    ):
        listening.setblocking(False)
        listening.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)  # Linux hands this down to what is accepted
        ends: list[Job] = [partial(server_end, listening, size), partial(client_end, near, size, conns)]
        with running(ends) as pids, bulk(service, "both") as flow:
            time.sleep(WARM_UP)
            before = (time.monotonic(), sum(flow.carried), sum(map(cpu_seconds, pids)), accepted())
            time.sleep(secs)
            after = (time.monotonic(), sum(flow.carried), sum(map(cpu_seconds, pids)), accepted())
    took, carried, cpu, connections = (b - a for a, b in zip(before, after, strict=True))
    return {"cpu_s_per_GB": cpu / carried * 1e9, "conns_per_s": connections / took, "MB_per_s": carried / took / 1e6}


def server_end(listening: socket.socket, size: int) -> None:
    with suppress(ConnectionError):  # the load's processes notice it, if it comes too early
        serve(listening, connect_to(SERVICE_PORT), size)


def client_end(near: socket.socket, size: int, conns: int) -> None:
    with suppress(ConnectionError):
        dial(near.accept()[0], size, conns)


if __name__ == "__main__":
    main()
