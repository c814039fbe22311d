"""What the kernel is told of the sockets of carriers, as it says itself afterwards."""

import select
import socket
from collections.abc import Callable
from contextlib import closing
from socket import SocketType
from typing import TypeVar

import pytest

from tcsplitter._tcp import start_connect
from tcsplitter.endpoints import as_local
from tcsplitter.net import Target, listen_on
from tcsplitter.options import Address
from tcsplitter.tuning import FIRST_WINDOW, Tuning, unpaced

T = TypeVar("T")


def both_sides(dialled: Tuning, accepted: Tuning, read: Callable[[SocketType], T], host: str = "127.0.0.1") -> list[T]:
    """What `read` finds at both ends of a connection between carriers' sockets with these tunings, the dialled one first."""
    (listening,) = listen_on("--lFling", Address(host, 0), 16, accepted.listening)
    target: Target = (listening.family, listening.getsockname())
    with listening, closing(as_local(start_connect(target, dialled.dialled)[0])) as near:
        assert select.select([listening], [], [], 10)[0]
        with listening.accept()[0] as far:
            return [read(near), read(far)]


def segment(sock: SocketType) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)


def buffer(sock: SocketType) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def congestion_control(sock: SocketType) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


@pytest.mark.parametrize(("host", "headers"), [("127.0.0.1", 40), ("::1", 60)])
def test_both_sides_can_limit_segments(host: str, headers: int) -> None:
    def largest(dialled: int, accepted: int) -> list[int]:
        return both_sides(Tuning(dialled), Tuning(accepted), segment, host)

    assert min(largest(0, 0)) > 1400
    for limits in ((1400, 0), (0, 1400), (1400, 1400)):
        assert all(0 < size <= 1400 - headers for size in largest(*limits))


def test_a_payload_beyond_the_first_window_has_room_at_once() -> None:
    large = Tuning(payload=2 * FIRST_WINDOW)
    small = both_sides(Tuning(payload=10_000), Tuning(payload=10_000), buffer)
    assert small == both_sides(Tuning(), Tuning(), buffer)
    wide = both_sides(large, large, buffer)
    assert min(wide) > max(small)


def test_what_goes_to_a_program_on_this_machine_is_not_paced_from_its_first_byte_on() -> None:
    """What began under BBR stays paced whatever is chosen later, so it must be chosen before anything connects."""

    for host in ("127.0.0.1", "127.1.2.3", "::1"):
        (listening,) = listen_on("--listen", Address(host, 0), 16, unpaced)
        with listening, closing(as_local(start_connect((listening.family, listening.getsockname()), unpaced)[0])) as near:
            assert select.select([listening], [], [], 10)[0]
            with listening.accept()[0] as far:
                assert congestion_control(near) == congestion_control(far) == b"reno"


def test_carriers_that_last_are_not_paced_on_this_machine_either() -> None:
    assert both_sides(Tuning(lasting=True), Tuning(), congestion_control) == [b"reno", b"reno"]


def test_what_goes_to_other_machines_is_left_as_the_kernel_has_it() -> None:
    for host in ("192.0.2.1", "0.0.0.0", "2001:db8::1", "::", "1.127.0.0"):
        with socket.socket() as untouched, socket.socket() as sock:
            unpaced(sock, host)
            assert congestion_control(sock) == congestion_control(untouched)
