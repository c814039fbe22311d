"""A line between two network namespaces of its own: delay, loss, a bottleneck, limits of single flows. Needs root and Linux.

    with Line(PRESETS["wan"]) as line:
        server = line.popen("server", ["iperf3", "-s"])
        with line.inside("client"):
            sock = socket.create_connection((SERVER_ADDRESS, 5201))
        print(line.counters())

Two things can make the line: netem, where the kernel has it and can do what is asked, and the emulator (line.c, compiled when
first used). Everything ends with the block: what was started in it, the line, and the namespaces, which have no names. They end
with this process too, whatever ends that.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import shlex
import signal
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from benches.line_settings import MTU, PRESETS, LineSettings, Way, parse_line

__all__ = [
    "CLIENT_ADDRESS",
    "PRESETS",
    "SERVER_ADDRESS",
    "Counters",
    "Kind",
    "Line",
    "LineError",
    "LineSettings",
    "Side",
    "Way",
    "WayCounters",
    "build_emulator",
    "choose_kind",
    "netem_can",
    "netem_commands",
    "netem_works",
    "parse_line",
]

Side = Literal["client", "server"]
Kind = Literal["netem", "emulator"]

CLIENT_ADDRESS, SERVER_ADDRESS = "10.99.0.1", "10.99.0.2"
DEVICE = "line"  # its name in both namespaces

_SOURCE = Path(__file__).with_name("line.c")
_BUILD = _SOURCE.parents[1] / "build"
_STEP_LIMIT = 10  # seconds for a command, an answer or an end
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_ETHERNET = 14  # bytes of a header that only netem's devices count
_OWN_NAMESPACE = "/proc/thread-self/ns/net"


class LineError(Exception):
    """The line cannot be made, or broke."""


# --- Counters


@dataclass(frozen=True)
class WayCounters:
    """What one direction of the line did. `packets` and `bytes` are what it was given; of netem, what it let pass."""

    packets: int
    bytes: int
    dropped: dict[str, int]
    """Packets by cause; of netem as one sum."""
    late_us: dict[str, int] = field(default_factory=dict)
    """How much later than intended the emulator has delivered: p50, p99 and max in microseconds."""


@dataclass(frozen=True)
class Counters:
    """What the line did since it is there."""

    up: WayCounters
    down: WayCounters
    tcp_flows: int
    """TCP connections begun. With netem: by all programs on the client's side, those on its loopback too."""
    udp_flows: int
    """0 with netem."""
    limited_flows: int
    """Flows that had come to `flow_limit_bytes`."""
    cpu_seconds: float
    """What the emulator has used itself."""

    @property
    def bytes(self) -> int:
        """Both ways."""
        return self.up.bytes + self.down.bytes


# --- Namespaces: of threads, as setns(2) has it


_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments):
        code = ctypes.get_errno()
        raise LineError(f"{name}: {os.strerror(code)}")


@contextmanager
def _returning() -> Iterator[None]:
    """The thread is back in its namespace at the end of the block."""
    home = os.open(_OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        _call("setns", home, _CLONE_NEWNET)
        os.close(home)


@contextmanager
def _entered(namespace: int) -> Iterator[None]:
    with _returning():
        _call("setns", namespace, _CLONE_NEWNET)
        yield


def _new_namespace() -> int:
    """A descriptor. The namespace, with IPv4 and loopback alone, lives as long as that, or any process in it."""
    with _returning():
        _call("unshare", _CLONE_NEWNET)
        with suppress(FileNotFoundError):  # a kernel without IPv6
            Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
        _ip("link set lo up")
        return os.open(_OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)


def _ip(*commands: str, keep: Sequence[int] = ()) -> None:
    _run(["ip", "-batch", "-"], "\n".join(commands), keep)


def _run(command: Sequence[str], text: str = "", keep: Sequence[int] = ()) -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=True, timeout=_STEP_LIMIT, pass_fds=keep)
    except FileNotFoundError:
        raise LineError(f"{command[0]} is missing (in Debian's package iproute2 or util-linux)") from None
    except subprocess.CalledProcessError as error:
        raise LineError(f"{' '.join(command)}: {error.stderr.strip()}") from None
    return done.stdout


# --- netem


@cache
def netem_works() -> bool:
    """Whether tc is there and the kernel knows netem."""
    try:
        namespace = _new_namespace()
        try:
            with _entered(namespace):
                _run(["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"])
        finally:
            os.close(namespace)
    except LineError:
        return False
    return True


def netem_can(settings: LineSettings) -> bool:
    """Whether netem can do exactly what is asked: its jitter reorders, it knows no flows, and it has one kind of loss."""
    ways = (settings.up, settings.down)
    of_flows = settings.flow_limit_bytes or settings.outages or any(way.flow_rate_mbit for way in ways)
    return not of_flows and all((way.reorder or not way.jitter_ms) and not (way.loss_percent and way.bursts) for way in ways)


def netem_commands(way: Way) -> list[list[str]]:
    """What tc is to do at the sending side (tc-netem(8), tc-tbf(8)): first delay and loss, then the bottleneck."""
    netem = ["netem", "limit", "200000", "delay", f"{way.delay_ms:g}ms"]
    if way.jitter_ms:
        netem += [f"{way.jitter_ms:g}ms"]
    if way.loss_percent:
        netem += ["loss", "random", f"{way.loss_percent:g}%"]
    if way.bursts:
        netem += ["loss", "gemodel", *(f"{share:g}%" for share in way.bursts)]
    commands = [["tc", "qdisc", "add", "dev", DEVICE, "root", "handle", "1:", *netem]]
    if way.rate_mbit:
        burst = max(2 * (MTU + _ETHERNET), round(way.bytes_per_second / 1000))
        tbf = ["tbf", "rate", f"{round(way.rate_mbit * 1e6)}bit", "burst", str(burst), "limit", str(round(way.queue))]
        commands.append(["tc", "qdisc", "add", "dev", DEVICE, "parent", "1:1", "handle", "10:", *tbf])
    return commands


# --- The emulator


def build_emulator(*flags: str) -> Path:
    """Compile line.c into build/, unless that is newer already; LineError if there is no compiler."""
    program = _BUILD / "line"
    if not flags and program.exists() and program.stat().st_mtime > _SOURCE.stat().st_mtime:
        return program
    _BUILD.mkdir(exist_ok=True)
    compiler = shlex.split(os.environ.get("CC", "cc"))
    with tempfile.TemporaryDirectory(dir=_BUILD) as scratch:
        made = Path(scratch, "line")
        try:
            _run([*compiler, "-std=c11", "-O2", *flags, "-o", str(made), str(_SOURCE)])
        except LineError as error:
            raise LineError(f"the emulator cannot be compiled: {error}") from None
        os.replace(made, program)
    return program


def _emulator_words(settings: LineSettings) -> list[str]:
    words = [f"seed={settings.seed}", f"flow_limit={settings.flow_limit_bytes}"]
    words += [f"flow_reset={int(settings.flow_end == 'reset')}"]
    words += [f"outage={start}:{end}" for start, end in settings.outages]
    for name, way in (("up", settings.up), ("down", settings.down)):
        enter, leave, lost = way.bursts or (0, 0, 0)
        numbers = {
            "delay": way.delay_ms / 1000,
            "jitter": way.jitter_ms / 1000,
            "reorder": int(way.reorder),
            "loss": way.loss_percent / 100,
            "enter": enter / 100,
            "leave": leave / 100,
            "lost": lost / 100,
            "rate": way.bytes_per_second,
            "queue": way.queue,
            "flow_rate": way.flow_rate_mbit * 125_000,
            "flow_burst": way.flow_burst_bytes,
        }
        words += [f"{name}.{key}={value!r}" for key, value in numbers.items()]
    return words


# --- The line


class Line:
    """The two namespaces and the line between them, from the start of the block to its end. LineError if that cannot be.

    Without a `kind` it is netem, where that works and can do what is asked, else the emulator.
    """

    def __init__(self, settings: LineSettings, kind: Kind | None = None) -> None:
        self.settings = settings
        self._kind = kind
        self._stack = ExitStack()
        self._emulator: subprocess.Popen[bytes] | None = None
        self._namespaces: dict[Side, int] = {}

    def __enter__(self) -> Line:
        self.kind = choose_kind(self.settings, self._kind)
        """What makes the line."""
        with ExitStack() as stack:
            for side in _SIDES:
                self._namespaces[side] = _new_namespace()
                stack.callback(os.close, self._namespaces[side])
            if self.kind == "netem":
                self._lay_netem()
            else:
                self._start_emulator(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    @contextmanager
    def inside(self, side: Side) -> Iterator[None]:
        """This thread is in the namespace until the end of the block. Sockets and threads that it makes there stay there."""
        with _entered(self._namespaces[side]):
            yield

    def popen(self, side: Side, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program in the namespace, in a session of its own; `options` are Popen's. It is killed, with what it started,
        at the end of the line's block, and when this thread ends."""
        with self.inside(side):
            words = ["setpriv", "--pdeathsig", "KILL", "--", *command]
            process: subprocess.Popen[bytes] = subprocess.Popen(words, start_new_session=True, **options)
        self._stack.callback(_kill, process)
        return process

    def counters(self) -> Counters:
        """What was counted so far."""
        return self._netem_counters() if self._emulator is None else self._emulator_counters(self._emulator)

    def restart_outages(self) -> None:
        """Set the outage clock, which starts with the line, to zero."""
        if self._emulator is not None:
            self._command(self._emulator, b"z")

    def _start_emulator(self, stack: ExitStack) -> None:
        program = build_emulator()
        with ExitStack() as devices:
            descriptors = []
            for side in _SIDES:
                descriptors.append(self._open_tun(side))
                devices.callback(os.close, descriptors[-1])
            self._emulator = subprocess.Popen(
                [program, *map(str, descriptors), *_emulator_words(self.settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=descriptors,
            )
            stack.callback(_end, self._emulator)
        self._emulator_counters(self._emulator)  # its answer says that it runs

    def _open_tun(self, side: Side) -> int:
        with self.inside(side):
            try:
                descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                raise LineError(f"no TUN devices here: {error}") from None
            fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
            _ip(f"address add {_ADDRESSES[side]}/30 dev {DEVICE}", f"link set {DEVICE} mtu {MTU} txqueuelen 10000 up")
        return descriptor

    def _lay_netem(self) -> None:
        with self.inside("client"):
            far = self._namespaces["server"]
            _ip(f"link add name {DEVICE} type veth peer name {DEVICE} netns /proc/self/fd/{far}", keep=[far])
        for side, way in zip(_SIDES, (self.settings.up, self.settings.down), strict=True):
            with self.inside(side):
                # Without segments of a size that no line carries.
                up = f"link set {DEVICE} mtu {MTU} gso_max_segs 1 up"
                _ip(f"address add {_ADDRESSES[side]}/30 dev {DEVICE}", up)
                for command in netem_commands(way):
                    _run(command)

    def _emulator_counters(self, emulator: subprocess.Popen[bytes]) -> Counters:
        told = json.loads(self._command(emulator, b"c", answer=True))
        ways = []
        for side, name in zip(_SIDES, ("up", "down"), strict=True):
            way = told.pop(name)
            dropped = way["dropped"] | {"device": self._device_counters(side)[2], "unwritten": way["unwritten"]}
            ways.append(WayCounters(way["packets"], way["bytes"], dropped, way["late_us"]))
        return Counters(ways[0], ways[1], **told)

    def _command(self, emulator: subprocess.Popen[bytes], command: bytes, answer: bool = False) -> bytes:
        assert emulator.stdin is not None
        assert emulator.stdout is not None
        try:
            os.write(emulator.stdin.fileno(), command)
        except BrokenPipeError:
            raise LineError("the emulator has ended") from None
        if not answer:
            return b""
        if not select.select([emulator.stdout], [], [], _STEP_LIMIT)[0]:
            raise LineError("the emulator does not answer")
        return emulator.stdout.readline() or _fail("the emulator has ended")

    def _netem_counters(self) -> Counters:
        ways = []
        for side in _SIDES:
            packets, size, _ = self._device_counters(side)
            with self.inside(side):
                queues = json.loads(_run(["tc", "-s", "-j", "qdisc", "show", "dev", DEVICE]) or "[]")
            dropped = {"netem": sum(queue.get("drops", 0) for queue in queues if queue.get("root"))}
            ways.append(WayCounters(packets, size - packets * _ETHERNET, dropped))
        with self.inside("client"):
            told = Path("/proc/thread-self/net/snmp").read_text()
        names, values = (line.split() for line in told.splitlines() if line.startswith("Tcp:"))
        begun = int(values[names.index("ActiveOpens")])
        return Counters(ways[0], ways[1], tcp_flows=begun, udp_flows=0, limited_flows=0, cpu_seconds=0.0)

    def _device_counters(self, side: Side) -> tuple[int, int, int]:
        """Packets and bytes that the device has sent, and packets that it has dropped."""
        with self.inside(side):
            for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
                name, _, numbers = line.partition(":")
                if name.strip() == DEVICE:
                    values = [int(number) for number in numbers.split()]
                    return values[9], values[8], values[11]
        raise LineError("the device is gone")


_SIDES: tuple[Side, Side] = ("client", "server")
_ADDRESSES = {"client": CLIENT_ADDRESS, "server": SERVER_ADDRESS}


def choose_kind(settings: LineSettings, kind: Kind | None = None) -> Kind:
    """What will make the line; LineError where that cannot be, as without root."""
    if os.geteuid() != 0:
        raise LineError("a line between namespaces needs root")
    if kind == "netem" and not netem_can(settings):
        raise LineError("netem cannot do this line: it keeps no order, knows no flows, and has one kind of loss")
    if kind == "netem" and not netem_works():
        raise LineError("the kernel has no netem here, or tc is missing")
    return kind or ("netem" if netem_can(settings) and netem_works() else "emulator")


def _fail(reason: str) -> bytes:
    raise LineError(reason)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _end(emulator: subprocess.Popen[bytes]) -> None:
    """By the end of its input."""
    assert emulator.stdin is not None
    assert emulator.stdout is not None
    emulator.stdin.close()
    try:
        emulator.wait(_STEP_LIMIT)
    except subprocess.TimeoutExpired:
        emulator.kill()
        emulator.wait()
    emulator.stdout.close()
