"""Segment sizes on the wire: two network namespaces, a line between them, and all packets that cross it."""

from __future__ import annotations

import ctypes
import logging
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from tcsplitter._tcp import start_connect
from tcsplitter.net import Target, listen_on
from tcsplitter.options import Address
from tcsplitter.tuning import Tuning

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

FIGURES = logging.getLogger("figures")  # pytest --log-cli-level=INFO shows them
HOSTS = {socket.AF_INET: ("10.83.0.1", "10.83.0.2"), socket.AF_INET6: ("fd83::1", "fd83::2")}
HEADERS = {socket.AF_INET: 40, socket.AF_INET6: 60}
LINE_MTU, MTU = 9000, 1400
SIZE = 100_000

T = TypeVar("T")
Family = socket.AddressFamily


class Namespace:
    """A network namespace: that of one thread. It goes, with all that is in it, once the thread and its sockets are gone."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self.path = self.run(self._enter)

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call it in the namespace: sockets that it makes and programs that it starts belong there."""
        return self._thread.submit(function, *args).result(timeout=20)

    def ip(self, command: str) -> None:
        """Run ip(8) there."""
        self.run(lambda: subprocess.run(["ip", *command.split()], check=True, timeout=10))

    def close(self) -> None:
        self._thread.shutdown()

    @staticmethod
    def _enter() -> str:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x40000000):  # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), "no network namespace")
        return f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"


Line = tuple[Namespace, Namespace]


@pytest.fixture
def line() -> Generator[Line, None, None]:
    """Two namespaces and a line between them, whose packets may be large."""
    with ExitStack() as stack:
        near, far = Namespace(), Namespace()
        stack.callback(near.close)
        stack.callback(far.close)
        with open(far.path) as there:
            near.run(_move_peer, there.fileno())
        for number, side in enumerate((near, far)):
            side.ip(f"link set line mtu {LINE_MTU} up")
            for family, hosts in HOSTS.items():
                length, flag = (24, "") if family == socket.AF_INET else (64, "nodad")
                side.ip(f"address add {hosts[number]}/{length} dev line {flag}")
        yield near, far


def _move_peer(namespace: int) -> None:
    command = f"ip link add name line type veth peer name line netns /proc/self/fd/{namespace}"
    subprocess.run(command.split(), check=True, timeout=10, pass_fds=[namespace])


@dataclass
class Segment:
    """What is to be known of a TCP packet on the line. One that the kernel has yet to cut says how large its pieces are."""

    syn: bool
    largest_payload: int
    announced: int  # the MSS option; 0: none


class Capture:
    """All packets that cross the line, as the kernel of one side sees them: packet(7) with the header of virtio_net."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))  # ETH_P_ALL
        self._sock.setsockopt(socket.SOL_SOCKET, 33, 16_000_000)  # SO_RCVBUFFORCE
        self._sock.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR
        self._sock.bind(("line", 0))
        self._sock.setblocking(False)

    def segments(self) -> Iterator[Segment]:
        """Those captured so far. Fails if the kernel had to drop some."""
        while select.select([self._sock], [], [], 0)[0]:
            segment = self._parse(self._sock.recv(131_072))
            if segment:
                yield segment
        seen, dropped = struct.unpack("II", self._sock.getsockopt(263, 6, 8))  # PACKET_STATISTICS
        assert seen
        assert not dropped

    def close(self) -> None:
        self._sock.close()

    def _parse(self, data: bytes) -> Segment | None:
        cut_into, frame = struct.unpack_from("H", data, 4)[0], data[10:]
        (ether_type,) = struct.unpack_from("!H", frame, 12)
        if self._family == socket.AF_INET:
            start, protocol, ours = 14 + (frame[14] & 15) * 4, frame[23], 0x0800
            end = 14 + int.from_bytes(frame[16:18], "big")
        else:
            start, protocol, ours = 54, frame[20], 0x86DD
            end = 54 + int.from_bytes(frame[18:20], "big")
        if ether_type != ours or protocol != socket.IPPROTO_TCP:
            return None
        payload = end - start - (frame[start + 12] >> 4) * 4
        return Segment(
            syn=bool(frame[start + 13] & 2),
            largest_payload=min(cut_into or payload, payload),
            announced=int.from_bytes(frame[start + 22 : start + 24], "big") if frame[start + 20] == 2 else 0,
        )


@contextmanager
def connected(listening: Namespace, dialling: Namespace, family: Family, mtus: tuple[int, int]) -> Iterator[list[socket.socket]]:
    """The two sides of a connection, made with the MTUs of who listens and who dials."""
    (service,) = listening.run(listen_on, "--lFling", Address(HOSTS[family][0], 0), 16, Tuning(mtus[0]).listening)
    with service:
        target: Target = (service.family, service.getsockname())
        near = socket.socket(fileno=dialling.run(start_connect, target, Tuning(mtus[1]).dialled)[0].detach())
        assert select.select([service], [], [], 10)[0]
        far, _ = service.accept()
    with near, far:
        for sock in (near, far):
            sock.settimeout(10)
        yield [near, far]


def exchange(sides: list[socket.socket]) -> None:
    """SIZE bytes each way."""
    data = os.urandom(SIZE)
    with ThreadPoolExecutor() as threads:
        for sender, receiver in (sides, sides[::-1]):
            sending = threads.submit(sender.sendall, data)
            received = bytearray()
            while len(received) < SIZE:
                received += receiver.recv(SIZE)
            sending.result()
            assert received == data


@pytest.mark.parametrize("family", HOSTS, ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("mtus", [(MTU, MTU), (MTU, 0), (0, MTU), (0, 0)], ids=["both", "listener", "dialler", "neither"])
def test_no_segment_exceeds_the_mtu(line: Line, family: Family, mtus: tuple[int, int]) -> None:
    near, far = line
    capture = near.run(Capture, family)
    with connected(near, far, family, mtus) as sides:
        exchange(sides)
    segments = list(capture.segments())
    capture.close()
    announced = [segment.announced for segment in segments if segment.syn]
    assert set(announced[:1]) == {(mtus[1] or LINE_MTU) - HEADERS[family]}  # SYN
    assert (mtus[0] or LINE_MTU) - HEADERS[family] in announced[1:]  # SYN and ACK
    largest = max(segment.largest_payload for segment in segments)
    FIGURES.info("MTUs of %s: MSS %s announced, largest segment %d bytes", mtus, announced, largest)
    if any(mtus):
        assert MTU - HEADERS[family] - 40 <= largest <= MTU - HEADERS[family]  # 40: TCP's options
    else:
        assert largest > MTU
