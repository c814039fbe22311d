"""A TCP proxy on loopback that treats connections badly: it resets them, stalls them, or goes silent on them for ever.

Which connections suffer, how, and at which byte, follows from the seed and the order in which they are made.
"""

from __future__ import annotations

import random
import selectors
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from selectors import EVENT_READ, EVENT_WRITE

FATES = "reset", "stall", "freeze"
"""What happens to some at some byte. A further one is "swallow": silent for ever from the first byte behind the hello on."""
HELLO = 47  # bytes
STALL_SECONDS = 0.5, 3.0
_PIECE = 65_536
_LATEST_BYTE = 12_000  # so most fates strike in the middle of a shot of 10,000 bytes
_NODELAY = socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class _Half:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.pending = b""
        self.carried = 0
        self.doom: int | None = None
        """After how many bytes the fate of the connection strikes."""
        self.over = False


class _Link:
    """A connection and what is to become of it."""

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        rng: random.Random,
        share: float,
        fates: Sequence[str],
        stall: tuple[float, float],
    ) -> None:
        self.halves = {client: _Half(client, server), server: _Half(server, client)}
        self.fate = ""
        self.stall = rng.uniform(*stall)
        self.halted = False
        """Nothing is forwarded for now, or for ever."""
        if rng.random() < share:
            self.fate = rng.choice(fates)
        if self.fate == "swallow":
            self.halves[client].doom, self.halves[server].doom = HELLO, 0
        elif self.fate:
            half = self.halves[rng.choice([client, server])]
            half.doom = rng.choice([0, rng.randrange(200), rng.randrange(_LATEST_BYTE), rng.randrange(_LATEST_BYTE)])

    def interest(self, sock: socket.socket) -> int:
        """What to wait for on one of its two sockets."""
        if self.halted:
            return 0
        reads = self.halves[sock]
        other = next(half for half in self.halves.values() if half.sink is sock)
        return (0 if reads.pending or reads.over else EVENT_READ) | (EVENT_WRITE if other.pending else 0)


class ChaosProxy:
    """Listens from `start` on until the end of the block, in a thread of its own.

    A `share` of the connections meets one of the `fates`; `stall`: the least and the most seconds for which one can stand still.
    """

    def __init__(
        self, seed: int, share: float = 0.2, fates: Sequence[str] = FATES, stall: tuple[float, float] = STALL_SECONDS
    ) -> None:
        self.struck: Counter[str] = Counter()
        """How many connections met which fate."""
        self.mid_shot = 0
        """How many of them had carried more than a hello by then."""
        self.connections = 0
        self._seed = seed
        self._share = share
        self._fates = fates
        self._stall = stall
        self._selector = selectors.DefaultSelector()
        self._links: dict[socket.socket, _Link] = {}
        self._stalled: list[tuple[float, _Link]] = []
        self._waker, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self, target: str) -> str:
        """Forward to HOST:PORT; returns the address where it listens."""
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self._selector.register(self._listener, EVENT_READ)
        self._selector.register(self._woken, EVENT_READ)
        self._thread.start()
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> ChaosProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._waker.send(b"\0")
        if self._thread.ident is not None:
            self._thread.join()
            self._listener.close()
        for sock in self._links:
            sock.close()
        self._selector.close()
        self._waker.close()
        self._woken.close()

    def _run(self) -> None:
        while True:
            for key, events in self._selector.select(self._patience()):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self._woken:
                    return
                if sock is self._listener:
                    self._accept()
                elif sock in self._links:
                    self._serve(self._links[sock], sock, events)
            self._end_stalls()

    def _patience(self) -> float | None:
        if not self._stalled:
            return None
        return max(0.0, min(until for until, _ in self._stalled) - time.monotonic())

    def _end_stalls(self) -> None:
        now = time.monotonic()
        for until, link in self._stalled:
            if until <= now:
                link.halted = False
                self._watch(link)
        self._stalled = [entry for entry in self._stalled if entry[0] > now]

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._target)
                except OSError:  # the kernel refuses one whose ports are those of a connection that it has not forgotten
                    client.close()
                    continue
                for sock in (client, server):
                    sock.setblocking(False)
                    sock.setsockopt(*_NODELAY)
                dice = random.Random(f"{self._seed}/{self.connections}")
                link = _Link(client, server, dice, self._share, self._fates, self._stall)
                self.connections += 1
                self._links |= {client: link, server: link}
                self._watch(link)

    def _watch(self, link: _Link) -> None:
        for sock in link.halves:
            known = self._selector.get_map().get(sock)
            events = link.interest(sock)
            if known is None and events:
                self._selector.register(sock, events)
            elif known is not None and not events:
                self._selector.unregister(sock)
            elif known is not None:
                self._selector.modify(sock, events)

    def _serve(self, link: _Link, sock: socket.socket, events: int) -> None:
        try:
            for half in link.halves.values():
                if half.source is sock and events & EVENT_READ and not half.pending and not half.over:
                    self._read(link, half)
                elif half.sink is sock and events & EVENT_WRITE:
                    self._write(link, half)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(link)
            return
        if sock not in self._links:
            return
        if all(half.over and not half.pending for half in link.halves.values()):
            self._drop(link, reset=False)
        else:
            self._watch(link)

    def _read(self, link: _Link, half: _Half) -> None:
        half.pending = half.source.recv(_PIECE)
        half.over = not half.pending
        self._write(link, half)

    def _write(self, link: _Link, half: _Half) -> None:
        """Forward what was read, up to the byte at which the connection's fate strikes."""
        left = len(half.pending) if half.doom is None else half.doom - half.carried
        if half.pending:
            sent = half.sink.send(half.pending[:left]) if left > 0 else 0
            half.carried += sent
            half.pending = half.pending[sent:]
        if half.pending and half.doom is not None and half.carried >= half.doom:
            self._strike(link, half)
        elif half.over and not half.pending:
            half.sink.shutdown(socket.SHUT_WR)

    def _strike(self, link: _Link, half: _Half) -> None:
        self.struck[link.fate] += 1
        self.mid_shot += half.carried > 44
        half.doom = None
        if link.fate == "reset":
            self._drop(link)
            return
        link.halted = True
        if link.fate == "stall":
            self._stalled.append((time.monotonic() + link.stall, link))

    def _drop(self, link: _Link, reset: bool = True) -> None:
        link.halted = True
        self._watch(link)
        self._stalled = [entry for entry in self._stalled if entry[1] is not link]
        for sock in link.halves:
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            del self._links[sock]
            sock.close()
