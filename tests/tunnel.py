"""The tunnel as users run it, for tests: both ends are processes of the installed command, on loopback, with a throw-away key.

    with Service(echo) as service, Tunnel(service.address) as tunnel, connect(tunnel.address) as program:
        program.sendall(b"hello")

All of it is bounded in time: sockets and waits give up after LIMIT, and a Tunnel that outlives its own limit kills its ends.
"""

import hashlib
import itertools
import os
import random
import re
import secrets
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from tcsplitter.keys import KEY_VARIABLE, generate_key

MEGABYTE = 1_000_000
LIMIT = 30.0  # seconds that any one step may take
STOP_LIMIT = 5.0  # seconds from SIGTERM to the exit: the 3 that are promised, and some for a slow machine
APART = {"lasso": "Lasso", "sync": "Sync", "retry": "FlingR"}
"""Kinds of connections that can have addresses of their own, and what their flags are called."""
_PIECE = 262_144
_NOISE = random.Random(6000).randbytes(MEGABYTE - 16)


class Process:
    """A program and the lines that it prints. It is killed, children included, at the end of the block."""

    def __init__(self, name: str, command: Sequence[str | Path], environment: dict[str, str] | None = None) -> None:
        self.name = name
        self.lines: list[str] = []
        self._said = threading.Condition()
        self._over = False
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()
        if kind is not None:
            self.show()

    def wait_for(self, pattern: str, start: int = 0) -> re.Match[str]:
        """The first line from number `start` on in which `pattern` is found; AssertionError if it does not come in time."""
        ends_at = time.monotonic() + LIMIT
        with self._said:
            for number in itertools.count(start):
                while number >= len(self.lines):
                    assert not self._over, f"{self.name} ended without saying {pattern!r}"
                    assert self._said.wait(max(0.0, ends_at - time.monotonic())), f"{self.name} did not say {pattern!r}"
                if found := re.search(pattern, self.lines[number]):
                    return found
        raise AssertionError("not reached: the count has no end")

    def kill(self) -> None:
        """End it, if it did not end by itself."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(LIMIT)

    def show(self) -> None:
        """Tell whoever reads the failed test what it said."""
        said = "".join(f"    {line}\n" for line in self.lines)
        sys.stderr.write(f"{self.name} left with exit code {self.process.returncode}; it said:\n{said}")

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            for line in stdout:
                with self._said:
                    self.lines.append(line.rstrip())
                    self._said.notify_all()
        with self._said:
            self._over = True
            self._said.notify_all()


class End(Process):
    """One end: `tcsplitter ARGUMENTS`, the first of which is `server` or `client`."""

    def __init__(self, *arguments: str, key: str) -> None:
        command = [sys.executable, "-m", "tcsplitter", *arguments]
        super().__init__(f"the {arguments[0]} end", command, os.environ | {KEY_VARIABLE: key})

    @property
    def address(self) -> str:
        """HOST:PORT where it listens; waits until it does."""
        return self.wait_for(r"listening on (\S+:[0-9]+)")[1]

    def listens(self, kind: str) -> str:
        """HOST:PORT where a server end takes connections of this kind, if it has an address of its own."""
        return self.wait_for(rf"listening on .*, {kind} (\S+:[0-9]+)")[1]

    def counted(self) -> dict[str, int]:
        """Its counters by name, as of now; of a server end those of its only session."""
        start = len(self.lines)
        self.process.send_signal(signal.SIGUSR1)
        line = self.wait_for(r"counted.*: (.*)", start)[1]
        return {name: int(count) for name, _, count in (item.rpartition(" ") for item in line.split(", "))}

    @property
    def memory(self) -> int:
        """Resident bytes."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def descriptors(self) -> int:
        """Open files."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self) -> None:
        """SIGTERM, as a service manager does. AssertionError if it does not leave in order, or complained."""
        self.process.terminate()
        try:
            code = self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not leave after SIGTERM") from None
        self._reader.join(LIMIT)
        assert code == 0, f"{self.name} left with exit code {code}"
        assert not [line for line in self.lines if "Traceback" in line], f"{self.name} raised an exception"


class Tunnel:
    """A server end that forwards to `forward`, and a client end.

    `via` puts a proxy in between: it is given the server end's address and returns the one that the client end dials. With
    `apart` flings, lassoes, sync and retry connections have addresses of their own. `client_options` may be made from the server
    end. At the end of the block both get SIGTERM and must leave in order. If anything failed, what both said is shown.
    """

    def __init__(
        self,
        forward: str,
        *,
        server_options: tuple[str, ...] = (),
        client_options: tuple[str, ...] | Callable[[End], tuple[str, ...]] = (),
        via: Callable[[str], str] | None = None,
        limit: float = 120.0,
        apart: bool = False,
    ) -> None:
        self.key = generate_key(secrets.token_bytes(32))
        self.ends: list[End] = []
        self._expired = False
        self._timer = threading.Timer(limit, self._expire)
        self._forward = forward
        self._options = server_options, client_options
        self._via = via
        self._apart = apart

    def __enter__(self) -> "Tunnel":
        self._timer.start()
        try:
            for_server, for_client = self._options
            if self._apart:
                for_server += tuple(word for flag in APART.values() for word in (f"--l{flag}", "127.0.0.1:0"))
            self.server = self._start("server", "--lFling", "127.0.0.1:0", "--forward", self._forward, *for_server)
            if callable(for_client):
                for_client = for_client(self.server)
            self.server_address = self.server.address if self._via is None else self._via(self.server.address)
            if self._apart:
                for_client += tuple(w for kind, flag in APART.items() for w in (f"--r{flag}", self.server.listens(kind)))
            self.client = self._start("client", "--rFling", self.server_address, "--listen", "127.0.0.1:0", *for_client)
            self.address = self.client.address
            """Where programs connect."""
        except BaseException:
            self._close(show=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        failed = True
        try:
            if kind is None:
                assert not self._expired, "the tunnel's limit of time has passed"
                self.client.stop()
                self.server.stop()
                failed = False
        finally:
            self._close(show=failed)

    @property
    def port(self) -> int:
        """The port where programs connect."""
        return int(self.address.rpartition(":")[2])

    @property
    def connect_command(self) -> list[str]:
        """A further client end, for stdin and stdout. It needs `environment`."""
        return [sys.executable, "-m", "tcsplitter", "connect", "--rFling", self.server_address]

    @property
    def environment(self) -> dict[str, str]:
        """The environment, with the key in it."""
        return os.environ | {KEY_VARIABLE: self.key}

    def usage(self) -> str:
        """Memory and descriptors of both ends, for people."""
        return "; ".join(f"{end.name} {end.memory / MEGABYTE:.0f} MB, {end.descriptors} descriptors" for end in self.ends)

    def _start(self, *arguments: str) -> End:
        self.ends.append(End(*arguments, key=self.key))
        return self.ends[-1]

    def _expire(self) -> None:
        self._expired = True
        for end in self.ends:
            end.process.kill()

    def _close(self, show: bool) -> None:
        self._timer.cancel()
        self._timer.join()
        for end in self.ends:
            end.kill()
            if show:
                end.show()
        if show and self._expired:
            sys.stderr.write("The tunnel's limit of time had passed: both ends were killed.\n")


class Service:
    """A service on loopback: `serve` gets each connection in a thread of its own. What it raises fails the block."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "Service":
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the acceptor, which close alone would not
        self._acceptor.join()
        self._listener.close()
        for thread in self._threads:
            thread.join(LIMIT)
        if kind is None and self._errors:
            raise self._errors[0]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._run, args=(sock,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _run(self, sock: socket.socket) -> None:
        with sock:
            try:
                prepare(sock)
                self._serve(sock)
            except (AssertionError, OSError) as error:
                self._errors.append(error)


def connect(address: str) -> socket.socket:
    """A program's connection to HOST:PORT."""
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)), timeout=LIMIT)
    prepare(sock)
    return sock


def prepare(sock: socket.socket) -> None:
    """What every socket of a test has: a limit of time, and no delay."""
    sock.settimeout(LIMIT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def reset(sock: socket.socket) -> None:
    """Close it with an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """`size` bytes; AssertionError if there are fewer."""
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, f"ended after {len(data)} of {size} bytes"
        data += piece
    return bytes(data)


def echo(sock: socket.socket) -> None:
    """A service that gives back what it gets."""
    while piece := sock.recv(_PIECE):
        sock.sendall(piece)


class Traffic(NamedTuple):
    """What went one way."""

    size: int
    sha256: str


def blocks(size: int, seed: int) -> Iterator[bytes]:
    """`size` bytes in blocks of up to a megabyte, no two alike: cheaper to make than to send."""
    for number in range(-(-size // MEGABYTE)):
        yield (struct.pack("!QQ", seed, number) + _NOISE)[: size - number * MEGABYTE]


def traffic(size: int, seed: int) -> Traffic:
    """What `blocks` amounts to."""
    digest = hashlib.sha256()
    for block in blocks(size, seed):
        digest.update(block)
    return Traffic(size, digest.hexdigest())


def send(sock: socket.socket, size: int, seed: int) -> None:
    """Send the blocks, then shut down writing."""
    for block in blocks(size, seed):
        sock.sendall(block)
    sock.shutdown(socket.SHUT_WR)


def receive(sock: socket.socket) -> Traffic:
    """All that comes until the end."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_PIECE))
    size = 0
    while count := sock.recv_into(buffer):
        digest.update(buffer[:count])
        size += count
    return Traffic(size, digest.hexdigest())


def exchange(sock: socket.socket, size: int, seed: int) -> Traffic:
    """Send `size` bytes and receive all that comes, both at once."""
    errors: list[OSError] = []

    def send_all() -> None:
        try:
            send(sock, size, seed)
        except OSError as error:
            errors.append(error)

    sender = threading.Thread(target=send_all, daemon=True)
    sender.start()
    received = receive(sock)
    sender.join(LIMIT)
    if errors:
        raise errors[0]
    assert not sender.is_alive(), "the sender never came to its end"
    return received
