"""The bounds of the local UDP sockets: what is dropped and counted, how often they are read, and what cannot be bound."""

import errno
import os
import resource
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from loopback import Clock
from udp_local import FakeFlow, Harness

from tcsplitter import udp
from tcsplitter._core import MAX_DATAGRAM
from tcsplitter.datagrams import DATAGRAM_WEIGHT
from tcsplitter.errors import ConfigError
from tcsplitter.flows import QUEUE_BYTES
from tcsplitter.options import Address
from tcsplitter.udp import READ_BATCH, READ_BYTES, UdpCounters, bind_udp


@pytest.fixture
def harness() -> Generator[Harness, None, None]:
    harness = Harness()
    yield harness
    harness.close()


def test_no_descriptor_left_costs_the_datagrams_only(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    service = harness.plain("127.0.0.1", 0)
    forwarder = harness.forward("127.0.0.1", service.getsockname()[1])
    flow = FakeFlow()
    forwarder.open(flow, harness.reactor.now)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        harness.give(flow, b"one", b"two")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert harness.counters == UdpCounters(send_drops=2)
    assert caplog.messages[0].endswith(os.strerror(errno.EMFILE))
    harness.give(flow, b"three")
    assert service.recv(100) == b"three"


@pytest.mark.parametrize("full", [BlockingIOError(errno.EAGAIN, ""), OSError(errno.ENOBUFS, "")])
def test_what_the_kernel_does_not_take_is_dropped(harness: Harness, full: OSError, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*_args: object) -> int:
        raise full

    listener = harness.listen()
    program = harness.program(listener.port)
    program.send(b"question")
    harness.until(lambda: harness.flows)
    flow = FakeFlow()
    forwarder = harness.forward("127.0.0.1", listener.port)
    forwarder.open(flow, harness.reactor.now)
    harness.give(flow, b"question")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "send", refuse)
        patch.setattr(socket.socket, "sendmsg", refuse)
        harness.give(flow, b"one", b"two")
        harness.give(harness.flows[0], b"three")
    assert harness.counters == UdpCounters(send_drops=3)
    assert not flow.readable
    assert not caplog.messages


def test_datagrams_longer_than_the_way_takes_are_counted(harness: Harness) -> None:
    program = harness.program(harness.listen().port)
    program.send(b"question")
    harness.until(lambda: harness.flows)
    flow = FakeFlow()
    harness.forward("127.0.0.1", program.getsockname()[1]).open(flow, harness.reactor.now)
    for longer in (harness.flows[0], flow):
        harness.give(longer, bytes(MAX_DATAGRAM + 1))
    assert harness.counters == UdpCounters(too_long=2)


def test_datagrams_longer_than_the_tunnel_takes_are_counted(harness: Harness) -> None:
    program = harness.program(harness.listen("::1").port, "::1")
    service = harness.plain("::1", 0)
    flow = FakeFlow()
    harness.forward("::1", service.getsockname()[1]).open(flow, harness.reactor.now)
    harness.give(flow, b"question")
    _, peer = service.recvfrom(100)
    for size in (MAX_DATAGRAM, MAX_DATAGRAM + 1, MAX_DATAGRAM + 20):
        program.send(bytes(size))
        service.sendto(bytes(size), peer)
    harness.until(lambda: harness.counters.too_long == 4)
    assert [[len(data) for data in some.sent] for some in (*harness.flows, flow)] == [[MAX_DATAGRAM]] * 2


def test_an_address_that_cannot_be_sent_to_is_told(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    def unreachable(*_args: object) -> int:
        raise OSError(errno.ENETUNREACH, "")

    program = harness.program(harness.listen().port)
    program.send(b"question")
    harness.until(lambda: harness.flows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "sendmsg", unreachable)
        harness.give(harness.flows[0], b"answer", b"answer")
    assert caplog.messages == [f"cannot send a datagram to 127.0.0.1: {os.strerror(errno.ENETUNREACH)}"]
    assert harness.counters == UdpCounters(send_drops=2)


def test_a_socket_that_cannot_be_read_is_told(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    def no_memory(*_args: object) -> None:
        raise OSError(errno.ENOMEM, "")

    program = harness.program(harness.listen().port)
    program.send(b"question")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "recvmsg", no_memory)
        harness.wakes(2)
    assert caplog.messages == [f"cannot read datagrams: {os.strerror(errno.ENOMEM)}"]
    harness.until(lambda: harness.flows)
    assert harness.flows[0].sent == [b"question"]


def test_what_the_kernel_dropped_is_counted_apart(harness: Harness) -> None:
    program = harness.program(harness.listen(buffer=4096).port)
    for _ in range(3):
        for _ in range(50):
            program.send(bytes(1400))
        harness.until(lambda: harness.flows)
        harness.wakes(2)
    sent = len(harness.flows[0].sent)
    assert 3 <= sent < 100
    assert harness.counters == UdpCounters(kernel_drops=150 - sent)


def test_what_the_kernel_dropped_before_the_end_is_counted(harness: Harness) -> None:
    listener = harness.listen(buffer=4096)
    program = harness.program(listener.port)
    for _ in range(50):
        program.send(bytes(1400))
    listener.close_all()
    assert 40 <= harness.counters.kernel_drops < 50


def test_the_count_of_kernel_drops_wraps_around(harness: Harness) -> None:
    told = iter((2**32 - 2, 3))
    program = harness.program(harness.listen().port)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "getsockopt", lambda *_args: bytes(32) + next(told).to_bytes(4, "little"))
        for count in (1, 2):
            program.send(b"datagram")
            harness.until(lambda count=count: harness.flows and len(harness.flows[0].sent) == count)  # type: ignore[misc]
    assert harness.counters.kernel_drops == 2**32 + 3


def test_one_socket_does_not_hold_up_the_others(harness: Harness) -> None:
    busy, quiet = harness.program(harness.listen().port), harness.program(harness.listen().port)
    for _ in range(READ_BATCH + 44):
        busy.send(b"flood")
    quiet.send(b"keystroke")
    harness.wakes(1)
    assert sorted(len(flow.sent) for flow in harness.flows) == [1, READ_BATCH]
    harness.wakes(1)
    assert sorted(len(flow.sent) for flow in harness.flows) == [1, READ_BATCH + 44]


def test_a_wake_reads_less_than_a_queue_holds(harness: Harness) -> None:
    program = harness.program(harness.listen().port)
    for size in [40_000] * 3 + [0] * 7 + [MAX_DATAGRAM] * 2:
        program.send(bytes(size))
    harness.wakes(1)
    flow = harness.flows[0]
    for count in (2, 11, 12):
        assert len(flow.sent) == count
        harness.wakes(1)
    assert 2 * max(READ_BYTES, MAX_DATAGRAM) + READ_BATCH * DATAGRAM_WEIGHT < QUEUE_BYTES


def test_a_socket_is_read_once_per_tick() -> None:
    clock = Clock()
    harness = Harness(clock)
    program = harness.program(harness.listen(tick=0.5).port)
    service = harness.plain("127.0.0.1", 0)
    flow = FakeFlow()
    harness.forward("127.0.0.1", service.getsockname()[1], tick=0.5).open(flow, harness.reactor.now)
    harness.give(flow, b"question")
    _, peer = service.recvfrom(100)

    def send(count: int) -> int:
        for _ in range(count):
            program.send(b"datagram")
            service.sendto(b"datagram", peer)
        harness.wakes(4)
        counts = {len(some.sent) for some in (harness.flows[0], flow)}
        assert len(counts) == 1
        return counts.pop()

    assert send(1) == 1, "the first one waits for nothing"
    assert send(3) == 1
    clock.now += 0.25
    assert send(1) == 1
    clock.now += 0.375
    assert send(READ_BATCH) == 5 + READ_BATCH, "then all that is there, though it is a little late"
    clock.now += 0.25
    assert send(1) == 5 + READ_BATCH
    clock.now += 0.125
    assert send(0) == 6 + READ_BATCH, "which does not put off the next time"
    clock.now += 0.75
    assert send(0) == 6 + READ_BATCH
    assert send(1) == 7 + READ_BATCH, "nor is what comes after a quiet tick put off"
    clock.now += 0.375
    assert send(1) == 7 + READ_BATCH, "but the tick begins anew there"
    clock.now += 0.125
    assert send(0) == 8 + READ_BATCH
    harness.close()


def test_a_closed_socket_waits_for_no_tick() -> None:
    clock = Clock()
    harness = Harness(clock)
    listener = harness.listen(tick=0.5)
    program = harness.program(listener.port)
    program.send(b"datagram")
    harness.wakes(2)
    program.send(b"datagram")
    listener.close_all()
    clock.now += 1
    harness.wakes(2)
    assert [len(flow.sent) for flow in harness.flows] == [1]
    harness.close()


def test_no_two_listeners_on_one_port(harness: Harness) -> None:
    port = harness.listen().port
    with pytest.raises(ConfigError, match=r"^--listen 127\.0\.0\.1:[0-9]+: the address is in use.*`ss -lunp`"):
        bind_udp("--listen", Address("127.0.0.1", port))


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("192.0.2.1", "this machine has no such address"),
        ("not.a.name.invalid", "the name cannot be resolved"),
        ("a" * 70, "name"),
    ],
)
def test_addresses_that_cannot_be_bound(host: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"^--listen {host}:0: .*{text}"):
        bind_udp("--listen", Address(host, 0))


def test_a_port_without_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(_sock: socket.socket, _address: object) -> None:
        raise PermissionError(errno.EACCES, "")

    monkeypatch.setattr(socket.socket, "bind", bind)
    with pytest.raises(ConfigError, match="no permission for this port"):
        bind_udp("--listen", Address("127.0.0.1", 53))


def test_a_name_with_several_addresses_gets_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(_host: str, port: int, **_hints: int) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", (host, port)) for host in ("127.0.0.1", "127.0.0.2")]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    sockets = bind_udp("--listen", Address("two-homes.test", 0))
    names = [sock.getsockname() for sock in sockets]
    for sock in sockets:
        assert not sock.getblocking()
        sock.close()
    assert [name[0] for name in names] == ["127.0.0.1", "127.0.0.2"]
    assert names[0][1] == names[1][1] != 0


def test_the_receive_buffer_is_large(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = min(udp.RECEIVE_BUFFER, int(Path("/proc/sys/net/core/rmem_max").read_text()))
    for force in (udp._SO_RCVBUFFORCE, -1):
        monkeypatch.setattr(udp, "_SO_RCVBUFFORCE", force)
        (sock,) = bind_udp("--listen", Address("127.0.0.1", 0))
        harness.opened.append(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= granted
