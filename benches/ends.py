"""The processes under test, a server end and a client end of the installed command, and what /proc says about them."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benches.namespace import fail
from tcsplitter.keys import KEY_VARIABLE, generate_key

HOST = "127.0.0.1"
SERVER_PORT, SERVICE_PORT, CLIENT_PORT = 7100, 7101, 7102
RELAY_PORTS = 7103, 7104
LISTEN, TIME_WAIT = "0A", "06"  # states in /proc/net/tcp

Pair = tuple[float, float]

_COMMAND = Path(sys.executable).with_name("tcsplitter")
_STOP_LIMIT = 5  # seconds from SIGTERM to the exit of an end
_SHOWN = 1 << 20  # bytes at most of what the ends said
_TICKS = os.sysconf("SC_CLK_TCK")


class Ends:
    """A server end and a client end: `size` as `--frags`, `reuse` and `fec` as the options of those names."""

    def __init__(self, size: str, reuse: int, fec: str) -> None:
        self._environment = os.environ | {KEY_VARIABLE: generate_key(secrets.token_bytes(32))}
        self._said = os.memfd_create("said")
        self._all: list[subprocess.Popen[bytes]] = []
        self._server = ["server", "--lFling", f"{HOST}:{SERVER_PORT}", "--forward", f"{HOST}:{SERVICE_PORT}"]
        self._client = ["client", "--rFling", f"{HOST}:{SERVER_PORT}", "--listen", f"{HOST}:{CLIENT_PORT}", "--reuse", str(reuse)]
        self._shape = ["--frags", size, "--fec", fec]

    def start(self) -> None:
        """The server end first; returns when both listen."""
        self.server = self._start(self._server, SERVER_PORT)
        self.client = self._start(self._client, CLIENT_PORT)

    def check(self) -> None:
        """Leave if one of them did, and show what they said."""
        if any(end.poll() is not None for end in self._all):
            said = os.pread(self._said, _SHOWN, 0).decode(errors="replace")
            fail(f"an end has ended; they said:\n{said}")

    def stop(self) -> None:
        """SIGTERM to both, and whoever does not heed it is killed."""
        for end in self._all:
            end.terminate()
        for end in self._all:
            try:
                end.wait(_STOP_LIMIT)
            except subprocess.TimeoutExpired:
                end.kill()
                end.wait()
        os.close(self._said)

    def _start(self, arguments: list[str], port: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([_COMMAND, *arguments, *self._shape], env=self._environment, stderr=self._said)
        self._all.append(process)
        while not count_sockets(rf"{port:04X} \S+", LISTEN):
            self.check()
            time.sleep(0.05)
        return process


@contextmanager
def both_ends(size: str, reuse: int, fec: str) -> Iterator[Ends]:
    """The ends from their start until the end of the block."""
    ends = Ends(size, reuse, fec)
    try:
        ends.start()
        yield ends
    finally:
        ends.stop()


def cpu_seconds(pid: int) -> float:
    """User and system, of a process and the children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def memory(pid: int, name: str) -> float:
    """MB: VmRSS, or VmHWM, its peak."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024 / 1e6


def resident_now(ends: Ends) -> Pair:
    """MB that the server end and the client end hold."""
    return memory(ends.server.pid, "VmRSS"), memory(ends.client.pid, "VmRSS")


def busy_seconds() -> float:
    """CPU seconds that the machine has not been idle, all processors together."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / _TICKS


def count_sockets(ports: str, state: str) -> int:
    """The namespace's sockets in a state; `ports` is a pattern that matches `LOCAL ADDRESS:REMOTE`, ports in hexadecimal."""
    return len(re.findall(rf":{ports} {state} ", Path("/proc/net/tcp").read_text()))


def accepted() -> int:
    """Connections that the namespace has accepted so far."""
    names, values = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Tcp:"))
    return int(values[names.index("PassiveOpens")])
