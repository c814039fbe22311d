"""`tcsplitter demo`: both ends as processes of their own on loopback, and real data through them, verified.

This process plays the programs at both sides: the service behind the server end, and the client program before the client end.
"""

import hashlib
import os
import re
import secrets
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tcsplitter import keys
from tcsplitter.errors import TcsplitterError

MEGABYTE = 1_000_000
ECHO_SIZE = 36  # bytes: what a keystroke in ssh sends

# The service does what the first byte of a connection says.
_ECHO, _SINK, _SOURCE = b"E", b"S", b"D"
_REPORT = struct.Struct("!32sd")  # what the sink answers: SHA-256, and when the last byte was read (time.monotonic)
_CHUNK = 262_144


class _DemoError(TcsplitterError):
    """The tunnel did not do what it should; the text is the sentence for the user."""


@dataclass(frozen=True, slots=True)
class _Clock:
    """When all has to be over."""

    ends_at: float  # time.monotonic

    def left(self) -> float:
        """Seconds, never 0: that would mean non-blocking to a socket."""
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def run_demo(
    say: Callable[[str], None],
    *,
    up: int = 64 * MEGABYTE,
    down: int = 64 * MEGABYTE,
    echoes: int = 200,
    time_limit: float = 30.0,
) -> int:
    """Send `up` and `down` bytes and `echoes` echoes through the tunnel. Lines go to `say`.

    Returns the exit code: 0 if every byte was verified within `time_limit` seconds, else 1.
    """
    started = time.monotonic()
    clock = _Clock(started + time_limit)
    say("tcsplitter demo: two ends on loopback, a throw-away key, one TCP connection per payload")
    ends: list[_End] = []
    try:
        with ExitStack() as stack:
            service = stack.enter_context(_Service(os.urandom(down), clock))
            key = keys.generate_key(secrets.token_bytes(32))
            server = stack.enter_context(_End(["server", "--lFling", "127.0.0.1:0", "--forward", service.address], key))
            ends.append(server)
            client = stack.enter_context(
                _End(["client", "--rFling", server.ready(clock), "--listen", "127.0.0.1:0", "--verbose"], key)
            )
            ends.append(client)
            tunnel = client.ready(clock)
            say(_row(f"up, {up / MEGABYTE:g} MB", f"{_upload(tunnel, up, clock) / MEGABYTE:.0f} MB/s", "SHA-256 verified"))
            rate = _download(tunnel, service.data, clock)
            say(_row(f"down, {down / MEGABYTE:g} MB", f"{rate / MEGABYTE:.0f} MB/s", "SHA-256 verified"))
            through, direct = _echo(tunnel, echoes, clock), _echo(service.address, echoes, clock)
            say(_row(f"{echoes} echoes of {ECHO_SIZE} bytes", _latency(through), f"direct: {_latency(direct)}"))
            for end in (client, server):
                end.stop(clock)
            say(
                _row(
                    "connections used",
                    f"{client.counted('carriers'):,}",
                    f"{client.counted('payloads resent')} payloads sent again",
                )
            )
    except TimeoutError:
        return _fail(say, f"not done within {time_limit:g} s", ends)
    except OSError as error:
        return _fail(say, f"a connection broke: {error.strerror or error}", ends)
    except _DemoError as error:
        return _fail(say, str(error), ends)
    say(f"All verified in {time.monotonic() - started:.1f} s.")
    return 0


def _fail(say: Callable[[str], None], sentence: str, ends: list["_End"]) -> int:
    say(f"FAILED: {sentence}.")
    for end in ends:
        for line in end.lines[-5:]:
            say(f"  {line}")
    return 1


def _row(what: str, figure: str, note: str) -> str:
    return f"  {what:<24}{figure:<28}{note}"


def _latency(seconds: list[float]) -> str:
    p50, p99 = statistics.median(seconds), sorted(seconds)[int(len(seconds) * 0.99)]
    return f"p50 {p50 * 1000:.2f} ms, p99 {p99 * 1000:.2f} ms"


def _upload(address: str, size: int, clock: _Clock) -> float:
    """Bytes per second, from connecting to the moment when the service has read all."""
    data = os.urandom(size)
    started = time.monotonic()
    with _connect(address, clock) as connection:
        connection.sendall(_SINK)
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        report = _read_to_end(connection, clock)
    if len(report) != _REPORT.size:
        raise _DemoError(f"the answer to the upload has {len(report)} bytes instead of {_REPORT.size}")
    digest, done = _REPORT.unpack(report)
    if digest != hashlib.sha256(data).digest():
        raise _DemoError("the upload arrived with another SHA-256")
    return size / (float(done) - started)


def _download(address: str, expected: bytes, clock: _Clock) -> float:
    """Bytes per second, from connecting to the moment when all is read here."""
    started = time.monotonic()
    with _connect(address, clock) as connection:
        connection.sendall(_SOURCE)
        connection.shutdown(socket.SHUT_WR)
        data = _read_to_end(connection, clock)
    elapsed = time.monotonic() - started
    if hashlib.sha256(data).digest() != hashlib.sha256(expected).digest():
        raise _DemoError(f"the download arrived with another SHA-256, {len(data)} of {len(expected)} bytes")
    return len(expected) / elapsed


def _echo(address: str, count: int, clock: _Clock) -> list[float]:
    """Seconds from writing to having read back, one after the other."""
    times = []
    with _connect(address, clock) as connection:
        connection.sendall(_ECHO)
        for _ in range(count):
            message = os.urandom(ECHO_SIZE)
            started = time.monotonic()
            connection.sendall(message)
            answer = b""
            while len(answer) < ECHO_SIZE:
                connection.settimeout(clock.left())
                piece = connection.recv(ECHO_SIZE - len(answer))
                if not piece:
                    raise _DemoError("the echo connection was closed half-way")
                answer += piece
            times.append(time.monotonic() - started)
            if answer != message:
                raise _DemoError("an echo came back changed")
    return times


def _connect(address: str, clock: _Clock) -> socket.socket:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=clock.left())
    connection.settimeout(clock.left())
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _read_to_end(connection: socket.socket, clock: _Clock) -> bytearray:
    data = bytearray()
    while True:
        connection.settimeout(clock.left())
        piece = connection.recv(_CHUNK)
        if not piece:
            return data
        data += piece


class _Service:
    """The service behind the tunnel, a thread per connection: echoes, takes an upload, or gives `data`."""

    def __init__(self, data: bytes, clock: _Clock) -> None:
        self.data = data
        self._clock = clock
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "_Service":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # Unlike close alone, this wakes the accepting thread.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(self._clock.left())
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                order = connection.recv(1)
                if order == _SOURCE:
                    connection.sendall(self.data)
                elif order == _SINK:
                    received = _read_to_end(connection, self._clock)
                    done = time.monotonic()
                    connection.sendall(_REPORT.pack(hashlib.sha256(received).digest(), done))
                elif order == _ECHO:
                    while piece := connection.recv(_CHUNK):
                        connection.sendall(piece)
        except OSError:
            # The other side of this connection sees it break and says so.
            return


class _End:
    """A client or server end as a process, and what it says on stderr."""

    def __init__(self, arguments: list[str], key: str) -> None:
        self.name = arguments[0]
        self.lines: list[str] = []
        self._said = threading.Condition()
        self._over = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tcsplitter", *arguments],
            env=os.environ | {keys.KEY_VARIABLE: key},
            cwd=Path(__file__).parents[1],  # Python looks there first: where this runs may be a folder of the same name
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "_End":
        self._reader.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def ready(self, clock: _Clock) -> str:
        """Wait for the line that says where it listens; return that address."""
        with self._said:
            while True:
                for line in self.lines:
                    if found := re.search(r"listening on (\S+:[0-9]+)", line):
                        return found[1]
                if self._over:
                    raise _DemoError(f"the {self.name} end did not start")
                if not self._said.wait(clock.left()):
                    raise TimeoutError

    def stop(self, clock: _Clock) -> None:
        """SIGTERM, as a service manager does; the end has to leave by itself."""
        self._process.terminate()
        try:
            code = self._process.wait(clock.left())
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        if code != 0:
            raise _DemoError(f"the {self.name} end stopped with exit code {code}")

    def counted(self, what: str) -> int:
        """A counter from the line that a verbose client end leaves behind."""
        self._reader.join()
        for line in self.lines:
            if found := re.search(rf"counted: .*\b{what} ([0-9]+)", line):
                return int(found[1])
        raise _DemoError(f"the {self.name} end did not count its {what}")

    def _read(self) -> None:
        stderr = self._process.stderr
        if stderr is not None:
            with stderr:
                for line in stderr:
                    self._add(line.rstrip())
        with self._said:
            self._over = True
            self._said.notify_all()

    def _add(self, line: str) -> None:
        with self._said:
            self.lines.append(line)
            self._said.notify_all()
