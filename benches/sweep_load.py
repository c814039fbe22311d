"""A tunnel across a line, and what a sweep sends through it: keystrokes, a steady stream, bulk. All data is verified."""

from __future__ import annotations

import os
import random
import re
import secrets
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from types import TracebackType

from benches.ends import cpu_seconds
from benches.line import SERVER_ADDRESS, Counters, Kind, Line, LineError, LineSettings, Side
from benches.sweep_cells import Cell, Measured, Setting
from tcsplitter.keys import KEY_VARIABLE, generate_key

WARM_UP = 1.0  # seconds of each workload that are not measured
ECHO_SIZE, ECHO_GAP = 36, 0.05  # bytes and seconds: keystrokes in ssh
FRAME_SIZE, FRAME_GAP = 10_000, 0.04  # 25 frames a second, 2 Mbit/s
STALL = 0.2  # seconds without a frame that somebody who watches notices
STRAGGLERS = 5.0  # seconds after the last was sent for which what is missing is waited for

_COMMAND = Path(sys.executable).with_name("tcsplitter")
_HOST, _TUNNEL_PORT, _SERVICE_PORT, _PROGRAM_PORT = "127.0.0.1", 4430, 6003, 6000
_START_LIMIT = 20.0  # seconds for the ends to find each other, and for a program to reach the service
_STEP = 0.02  # seconds between two looks at what the ends say
_BLOCK = 65_536
_PERIOD = 1_000_003  # bytes after which the noise repeats: a prime, so no payloads can be swapped unnoticed
_NOISE = random.Random(4430).randbytes(_PERIOD)
_NOISE += _NOISE[:262_144]
_HEAD = struct.Struct("!I")


class BrokenTunnelError(Exception):
    """An end has ended, never came up, or changed the data."""


def measure(cell: Cell, settings: LineSettings, kind: Kind, secs: float) -> Measured:
    """Do it on a line and with ends of its own. Each repeat has other chances, the same for all settings."""
    result = Measured(cell, {}, {})
    try:
        with Line(replace(settings, seed=settings.seed + cell.repeat - 1), kind) as line, Tunnel(line, cell.setting) as tunnel:
            line.restart_outages()
            _WORKLOADS[cell.workload](tunnel, secs, result)
            tunnel.check()
    except (BrokenTunnelError, LineError, OSError) as error:
        result.failed = str(error) or type(error).__name__
    return result


def noise(offset: int, size: int) -> bytes:
    """What the data is from this offset on."""
    start = offset % _PERIOD
    return _NOISE[start : start + size]


# --- The tunnel


@dataclass(frozen=True)
class _Reading:
    """What only grows, at one moment."""

    at: float
    line: Counters
    cpu: float


class Tunnel:
    """Both ends, one at each side of the line, and a service behind the server end."""

    def __init__(self, line: Line, setting: Setting, *flags: str) -> None:
        self._line = line
        self._stack = ExitStack()
        self._ends: list[tuple[subprocess.Popen[bytes], int]] = []
        self._environment = os.environ | {KEY_VARIABLE: generate_key(secrets.token_bytes(32))}
        shape = ["--tick", setting.tick, "--tock", setting.tock, "--buffer", setting.buffer, "--frags", setting.frags]
        shape += ["--fec", setting.fec, *flags]
        self._server = ["server", "--lFling", f"{SERVER_ADDRESS}:{_TUNNEL_PORT}", "--forward", f"{_HOST}:{_SERVICE_PORT}", *shape]
        self._client = ["client", "--rFling", f"{SERVER_ADDRESS}:{_TUNNEL_PORT}", "--listen", f"{_HOST}:{_PROGRAM_PORT}", *shape]
        self._client += ["--conns", setting.conns, "--reuse", setting.reuse]

    def __enter__(self) -> Tunnel:
        with ExitStack() as stack:
            with self._line.inside("server"):
                self._service = stack.enter_context(socket.create_server((_HOST, _SERVICE_PORT)))
            self._service.settimeout(_START_LIMIT)
            self._start(stack, "server", self._server, b"listening on")
            self._start(stack, "client", self._client, b"session established")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """A program's connection through the tunnel, and the service's side of it. Both are closed with the tunnel."""
        with self._line.inside("client"):
            ours = self._stack.enter_context(socket.create_connection((_HOST, _PROGRAM_PORT), timeout=_START_LIMIT))
        theirs = self._stack.enter_context(self._service.accept()[0])
        for sock in (ours, theirs):
            sock.settimeout(None)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return ours, theirs

    def read(self) -> _Reading:
        """Now."""
        return _Reading(time.monotonic(), self._line.counters(), sum(cpu_seconds(end.pid) for end, _ in self._ends))

    def unread(self, side: Side) -> int:
        """Bytes between a program at this side and its end of the tunnel: in the kernel's queues, not yet read by the end."""
        port = f"{_PROGRAM_PORT if side == 'client' else _SERVICE_PORT:04X}"
        pattern = rf":(?:\w{{4}} \w{{8}}:{port}|{port} \w{{8}}:\w{{4}}) 01 (\w{{8}}):(\w{{8}})"
        queues: list[tuple[str, str]] = []
        with self._line.inside(side):
            # Where other sockets come and go meanwhile, one of the two may be told twice or not at all.
            while len(queues) != 2:
                self.check()
                queues = re.findall(pattern, Path("/proc/thread-self/net/tcp").read_text())
        return sum(int(size, 16) for queue in queues for size in queue)

    def check(self) -> None:
        """BrokenTunnelError if an end has ended."""
        for end, said in self._ends:
            if end.poll() is not None:
                last = os.pread(said, 1 << 20, 0).decode(errors="replace").strip().splitlines()[-1:]
                raise BrokenTunnelError(f"an end has ended with code {end.returncode}: {' '.join(last)}")

    def _start(self, stack: ExitStack, side: Side, words: Sequence[str], ready: bytes) -> None:
        said = os.memfd_create(side)
        stack.callback(os.close, said)
        self._ends.append((self._line.popen(side, [_COMMAND, *words], env=self._environment, stderr=said), said))
        ends_at = time.monotonic() + _START_LIMIT
        while not re.search(re.escape(ready), os.pread(said, 1 << 20, 0)):
            self.check()
            if time.monotonic() > ends_at:
                raise BrokenTunnelError(f"the {side} end did not say {ready.decode()!r}")
            time.sleep(_STEP)


def _cost(before: _Reading, after: _Reading, carried: int) -> dict[str, float]:
    """What these bytes have cost. Those on the line are counted both ways, with the headers of IP and TCP."""
    took = after.at - before.at
    connections = after.line.tcp_flows - before.line.tcp_flows
    return {
        "wire bytes per byte": (after.line.bytes - before.line.bytes) / carried,
        "connections per MB": connections / (carried / 1e6),
        "connections per second": connections / took,
        "CPU percent, both ends": (after.cpu - before.cpu) / took * 100,
    }


def _percentiles(name: str, values: Sequence[float]) -> dict[str, float]:
    """Milliseconds of these seconds."""
    cuts = quantiles(values, n=100, method="inclusive")
    return {f"{name} p{percent} ms": cuts[percent - 1] * 1000 for percent in (50, 90, 99)} | {
        f"{name} worst ms": max(values) * 1000
    }


# --- Keystrokes


def _echo(tunnel: Tunnel, secs: float, result: Measured) -> None:
    """One every ECHO_GAP, whether the one before was answered or not, as somebody types."""
    ours, theirs = tunnel.connect()
    threading.Thread(target=_give_back, args=(theirs,), daemon=True).start()
    answers = _Answers(ours)
    keys, warm = round((WARM_UP + secs) / ECHO_GAP), round(WARM_UP / ECHO_GAP)
    sent: list[float] = []
    start = time.monotonic()
    before = tunnel.read()
    for number in range(keys):
        answers.take(start + number * ECHO_GAP)
        if number == warm:
            before = tunnel.read()
        sent.append(time.monotonic())
        ours.sendall(_keystroke(number))
    answers.take(time.monotonic() + STRAGGLERS, enough=keys)
    after = tunnel.read()
    unanswered = keys - len(answers.came)
    came = answers.came + [after.at] * unanswered
    times = [there - here for here, there in zip(sent, came, strict=True)][warm:]
    result.samples["echo ms"] = _rounded(times)
    result.figures |= _percentiles("echo", times) | {"echoes missing": unanswered}
    result.figures |= _cost(before, after, 2 * ECHO_SIZE * len(times))


class _Answers:
    """What comes back, and when it came."""

    def __init__(self, sock: socket.socket) -> None:
        self.came: list[float] = []
        self._sock = sock
        self._pending = bytearray()

    def take(self, until: float, enough: int | None = None) -> None:
        """Whatever comes until then; no longer than until there are enough."""
        while enough is None or len(self.came) < enough:
            if not select.select([self._sock], [], [], max(0.0, until - time.monotonic()))[0]:
                return
            self._pending += _receive(self._sock, _BLOCK)
            now = time.monotonic()
            while len(self._pending) >= ECHO_SIZE:
                _compare(bytes(self._pending[:ECHO_SIZE]), _keystroke(len(self.came)))
                del self._pending[:ECHO_SIZE]
                self.came.append(now)


def _keystroke(number: int) -> bytes:
    return _HEAD.pack(number) + noise(number * ECHO_SIZE, ECHO_SIZE - _HEAD.size)


def _give_back(sock: socket.socket) -> None:
    with suppress(OSError):  # it ends with the tunnel
        while data := sock.recv(_BLOCK):
            sock.sendall(data)


# --- A stream at a constant beat, from the service


def _stream(tunnel: Tunnel, secs: float, result: Measured) -> None:
    """A frame every FRAME_GAP. When it was due, not when the tunnel took it, is when its delay begins."""
    ours, theirs = tunnel.connect()
    frames, warm = round((WARM_UP + secs) / FRAME_GAP), round(WARM_UP / FRAME_GAP)
    start = time.monotonic()
    readings: list[_Reading] = []
    sender = threading.Thread(
        target=_send_frames, args=(theirs, start, frames, warm, lambda: readings.append(tunnel.read())), daemon=True
    )
    sender.start()
    came = _take_frames(ours, frames, start + frames * FRAME_GAP + STRAGGLERS)
    readings.append(tunnel.read())
    if len(readings) < 2:
        raise BrokenTunnelError("the stream stood still from the start")
    came += [readings[-1].at] * (frames - len(came))
    came = came[warm:]
    delays = [when - (start + (warm + number) * FRAME_GAP) for number, when in enumerate(came)]
    gaps = [b - a for a, b in pairwise(came)]
    result.samples |= {"gap ms": _rounded(gaps), "delay ms": _rounded(delays)}
    result.figures |= _percentiles("off the beat", [abs(gap - FRAME_GAP) for gap in gaps])
    result.figures |= _percentiles("delay", delays)
    result.figures |= {
        "stalls percent": sum(gap > STALL for gap in gaps) / len(gaps) * 100,
        "time stalled percent": sum(gap for gap in gaps if gap > STALL) / sum(gaps) * 100,
    }
    result.figures |= _cost(readings[0], readings[-1], FRAME_SIZE * len(came))


def _send_frames(sock: socket.socket, start: float, frames: int, warm: int, at_warm: Callable[[], None]) -> None:
    with suppress(OSError):  # it ends with the tunnel
        for number in range(frames):
            time.sleep(max(0.0, start + number * FRAME_GAP - time.monotonic()))
            if number == warm:
                at_warm()
            sock.sendall(_frame(number))


def _frame(number: int) -> bytes:
    return _HEAD.pack(number) + noise(number * FRAME_SIZE, FRAME_SIZE - _HEAD.size)


def _take_frames(sock: socket.socket, frames: int, until: float) -> list[float]:
    """When each was complete, of those that come until then."""
    came: list[float] = []
    pending = bytearray()
    while len(came) < frames and select.select([sock], [], [], max(0.0, until - time.monotonic()))[0]:
        pending += _receive(sock, _BLOCK)
        now = time.monotonic()
        while len(pending) >= FRAME_SIZE:
            _compare(bytes(pending[:FRAME_SIZE]), _frame(len(came)))
            del pending[:FRAME_SIZE]
            came.append(now)
    return came


# --- Bulk


def _up(tunnel: Tunnel, secs: float, result: Measured) -> None:
    ours, theirs = tunnel.connect()
    _flood(tunnel, "client", ours, theirs, secs, result)


def _down(tunnel: Tunnel, secs: float, result: Measured) -> None:
    ours, theirs = tunnel.connect()
    _flood(tunnel, "server", theirs, ours, secs, result)


def _flood(tunnel: Tunnel, side: Side, source: socket.socket, sink: socket.socket, secs: float, result: Measured) -> None:
    """As much as goes. What is still under way at the end is given up."""
    pour, drain = _Pour(source), _Drain(sink)
    threads = [threading.Thread(target=each.run, daemon=True) for each in (pour, drain)]
    for thread in threads:
        thread.start()
    try:
        drain.wait(WARM_UP)
        before, got, taken = tunnel.read(), drain.got, pour.given - tunnel.unread(side)
        drain.wait(secs)
        after, carried = tunnel.read(), drain.got - got
        taken = pour.given - tunnel.unread(side) - taken
    finally:
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(STRAGGLERS)
    if not carried:
        raise BrokenTunnelError("nothing was carried")
    # Behind a slow beat much of what has crossed the line waits at its far end, so the cost is that of what the near end took.
    result.figures |= {"Mbit/s": carried * 8 / 1e6 / (after.at - before.at)} | _cost(before, after, max(taken, 1))


class _Pour:
    """Gives as much as is taken."""

    def __init__(self, sock: socket.socket) -> None:
        self.given = 0
        self._sock = sock

    def run(self) -> None:
        """Until the socket is shut down."""
        with suppress(OSError):
            while True:
                self.given += self._sock.send(noise(self.given, _BLOCK))


class _Drain:
    """Takes all that comes, and compares it with what it should be."""

    def __init__(self, sock: socket.socket) -> None:
        self.got = 0
        self._sock = sock
        self._over = threading.Event()
        self._error: BrokenTunnelError | OSError | None = None

    def run(self) -> None:
        """Until the stream ends, which is an error before the socket was shut down."""
        try:
            while True:
                data = _receive(self._sock, _BLOCK)
                _compare(data, noise(self.got, len(data)))
                self.got += len(data)
        except (BrokenTunnelError, OSError) as error:
            self._error = error
            self._over.set()

    def wait(self, secs: float) -> None:
        """So long, or raise what ended the stream."""
        if self._over.wait(secs) and self._error is not None:
            raise self._error


def _receive(sock: socket.socket, size: int) -> bytes:
    data = sock.recv(size)
    if not data:
        raise BrokenTunnelError("the stream has ended")
    return data


def _compare(data: bytes, wanted: bytes) -> None:
    if data != wanted:
        raise BrokenTunnelError("the data differs from what was sent")


def _rounded(seconds: Sequence[float]) -> list[float]:
    """Milliseconds, as they are kept."""
    return [round(each * 1000, 2) for each in seconds]


_WORKLOADS: dict[str, Callable[[Tunnel, float, Measured], None]] = {"echo": _echo, "stream": _stream, "up": _up, "down": _down}
