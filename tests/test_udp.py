"""Each peer on this side is a flow, and each flow a socket to the service: who gets what, over all kinds of addresses."""

import os
import socket
from collections.abc import Generator
from threading import Event

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from loopback import free_port
from udp_local import FakeFlow, Harness

from tcsplitter import net, udp
from tcsplitter._core import MAX_DATAGRAM
from tcsplitter.net import Target
from tcsplitter.options import Address
from tcsplitter.udp import UdpCounters

SIZES = st.one_of(st.integers(0, 3000), st.sampled_from((0, 1, 1472, MAX_DATAGRAM)))


@pytest.fixture
def harness() -> Generator[Harness, None, None]:
    harness = Harness()
    yield harness
    harness.close()


def numbered(sizes: list[int] | tuple[int, ...]) -> list[bytes]:
    """Datagrams of these sizes that differ as far as their sizes let them."""
    return [bytes((number + i) % 256 for i in range(size)) for number, size in enumerate(sizes)]


@given(st.lists(SIZES, min_size=1, max_size=6))
@example([0, 1, 1472, MAX_DATAGRAM])
@settings(max_examples=30)
def test_listener_keeps_boundaries(sizes: list[int]) -> None:
    harness = Harness()
    datagrams = numbered(sizes)
    program = harness.program(harness.listen().port)
    for datagram in datagrams:
        program.send(datagram)
    harness.until(lambda: harness.flows and len(harness.flows[0].sent) == len(datagrams))
    assert harness.flows[0].sent == datagrams
    for datagram in datagrams:
        harness.give(harness.flows[0], datagram)
        assert program.recv(70_000) == datagram
    assert len(harness.flows) == 1
    assert not any(harness.counters.as_dict().values())
    harness.close()


@given(st.lists(SIZES, min_size=1, max_size=6))
@example([0, 1, 1472, MAX_DATAGRAM])
@settings(max_examples=30)
def test_forwarder_keeps_boundaries(sizes: list[int]) -> None:
    harness = Harness()
    datagrams = numbered(sizes)
    service = harness.plain("127.0.0.1", 0)
    flow = FakeFlow()
    harness.forward("127.0.0.1", service.getsockname()[1]).open(flow, harness.reactor.now)
    peers = set()
    for datagram in datagrams:
        harness.give(flow, datagram)
        data, peer = service.recvfrom(70_000)
        peers.add(peer)
        assert data == datagram
    assert len(peers) == 1
    for datagram in datagrams:
        service.sendto(datagram, peer)
    harness.until(lambda: len(flow.sent) == len(datagrams))
    assert flow.sent == datagrams
    assert not any(harness.counters.as_dict().values())
    harness.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0"])
def test_every_peer_is_a_flow_and_gets_its_own_replies(harness: Harness, host: str) -> None:
    listener = harness.listen(host)
    programs = [harness.program(listener.port, "127.0.0.1" if host == "0.0.0.0" else host) for _ in range(50)]
    for number, program in enumerate(programs):
        program.send(b"hello %d" % number)
        program.send(b"again %d" % number)
    harness.until(lambda: sum(len(flow.sent) for flow in harness.flows) == 100)
    assert len(harness.flows) == 50
    for flow in reversed(harness.flows):
        harness.give(flow, *(b"re: " + sent for sent in flow.sent))
    for number, program in enumerate(programs):
        assert [program.recv(100), program.recv(100)] == [b"re: hello %d" % number, b"re: again %d" % number]


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_wildcard_answers_from_the_address_written_to(harness: Harness, host: str) -> None:
    listener = harness.listen(host)
    program = harness.plain("127.0.0.1", 0)
    for local in ("127.0.0.1", "127.0.0.2"):
        program.sendto(local.encode(), (local, listener.port))
    harness.until(lambda: sum(len(flow.sent) for flow in harness.flows) == 2)
    assert len(harness.flows) == 2, "each local address is a flow of its own"
    for flow in harness.flows:
        harness.give(flow, flow.sent[0])
        data, (answered_from, _) = program.recvfrom(100)
        assert answered_from.encode() == data


def test_wildcard_answers_over_ipv6_too(harness: Harness) -> None:
    program = harness.program(harness.listen("::").port, "::1")
    program.send(b"question")
    harness.until(lambda: harness.flows)
    harness.give(harness.flows[0], b"answer")
    assert program.recv(100) == b"answer"


def test_which_local_addresses_of_ipv6_can_be_answered_from() -> None:
    interface = (7).to_bytes(4, "little")
    for address, local in (("2001:db8::1", 16), ("fe80::1", 20), ("febf::1", 20), ("fec0::1", 16), ("ff02::1", 0)):
        packed = socket.inet_pton(socket.AF_INET6, address) + interface
        assert udp._local_ipv6(packed) == packed[:local]
    assert udp._reply_from(b"") == []
    assert udp._reply_from(bytes(15) + b"\1") == [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, bytes(15) + b"\1" + bytes(4))]


def test_a_new_peer_that_finds_no_room_is_dropped_and_counted(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    listener = harness.listen()
    harness.most_flows = 1
    first, second = harness.program(listener.port), harness.program(listener.port)
    first.send(b"1")
    harness.until(lambda: harness.flows)
    second.send(b"2")
    second.send(b"3")
    first.send(b"4")
    harness.until(lambda: harness.counters.no_room == 2)
    harness.until(lambda: len(harness.flows[0].sent) == 2)
    assert harness.flows[0].sent == [b"1", b"4"]
    assert caplog.messages == ["too many flows: datagrams from 127.0.0.1 are dropped"]


def test_a_flow_that_closed_is_let_go_after_its_last_datagram(harness: Harness) -> None:
    program = harness.program(harness.listen().port)
    program.send(b"first")
    harness.until(lambda: harness.flows)
    old = harness.flows[0]
    old.closed = True
    harness.give(old, b"last")
    assert program.recv(100) == b"last"
    program.send(b"second")
    harness.until(lambda: len(harness.flows) == 2)
    assert (old.sent, harness.flows[1].sent) == ([b"first"], [b"second"])
    harness.give(old, b"too late")
    assert old.readable == 1


def test_a_flow_that_closed_gives_its_socket_back(harness: Harness) -> None:
    service = harness.plain("127.0.0.1", 0)
    forwarder = harness.forward("127.0.0.1", service.getsockname()[1])
    flow = FakeFlow()
    forwarder.open(flow, harness.reactor.now)
    before = len(os.listdir("/proc/self/fd"))
    harness.give(flow, b"question")
    assert len(os.listdir("/proc/self/fd")) == before + 1
    flow.closed = True
    harness.give(flow, b"last")
    assert [service.recv(100), service.recv(100)] == [b"question", b"last"]
    harness.wakes(1)
    assert len(os.listdir("/proc/self/fd")) == before
    assert not forwarder.open_flows


def test_closing_while_a_datagram_is_handed_over(harness: Harness) -> None:
    service = harness.plain("127.0.0.1", 0)
    flow = FakeFlow()
    forwarder = harness.forward("127.0.0.1", service.getsockname()[1])
    forwarder.open(flow, harness.reactor.now)
    harness.give(flow, b"question")
    flow.on_send = forwarder.close_all
    _, peer = service.recvfrom(100)
    for _ in range(3):
        service.sendto(b"answer", peer)
    harness.until(lambda: flow.sent)
    harness.wakes(2)
    assert flow.sent == [b"answer"]


def test_close_all_ends_everything(harness: Harness) -> None:
    listener = harness.listen()
    program = harness.program(listener.port)
    program.send(b"question")
    harness.until(lambda: harness.flows)
    for _ in range(2):
        harness.flows[0].app.abort()
        listener.close_all()
    harness.wakes(1)
    harness.give(harness.flows[0], b"nobody sends this")
    program.send(b"anybody there?")
    with pytest.raises(ConnectionRefusedError):
        program.send(b"the answer to the first one comes with this one")


def test_a_refusal_does_not_end_a_flow(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port(socket.SOCK_DGRAM)
    flow = FakeFlow()
    harness.forward("127.0.0.1", port).open(flow, harness.reactor.now)
    harness.give(flow, b"too early")
    harness.until(lambda: harness.counters.refused == 1)
    assert caplog.messages == [f"cannot reach --forward 127.0.0.1:{port}: Connection refused"]
    harness.give(flow, b"too early as well")
    service = harness.plain("127.0.0.1", port)
    harness.give(flow, b"question")  # the kernel still holds the refusal of the one before
    data, peer = service.recvfrom(100)
    assert data == b"question"
    service.sendto(b"answer", peer)
    harness.until(lambda: flow.sent)
    assert flow.sent == [b"answer"]
    assert harness.counters == UdpCounters(refused=2)


def test_a_target_that_refuses_gives_way_to_the_next(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port(socket.SOCK_DGRAM)
    service = harness.plain("127.0.0.2", port)
    targets = [(socket.AF_INET, (host, port)) for host in ("127.0.0.1", "127.0.0.2")]
    monkeypatch.setattr(net, "_look_up", lambda _address, _flags: targets)
    forwarder = harness.forward("two-homes.test", port)
    first, second = FakeFlow(), FakeFlow()
    forwarder.open(first, harness.reactor.now)
    harness.give(first, b"refused")
    harness.until(lambda: harness.counters.refused)
    harness.give(first, b"question")
    data, peer = service.recvfrom(100)
    assert data == b"question"
    service.sendto(b"answer", peer)
    harness.until(lambda: first.sent)
    service.close()
    harness.give(first, b"anybody there?")
    harness.until(lambda: harness.counters.refused == 2)
    again = harness.plain("127.0.0.2", port)
    forwarder.open(second, harness.reactor.now)
    for flow in (first, second):
        harness.give(flow, b"still here")  # it answered once; and what it answered, later flows ask first
        assert again.recv(100) == b"still here"
    assert harness.counters == UdpCounters(refused=2)


def test_a_target_that_cannot_be_connected_is_passed_over(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    service = harness.plain("127.0.0.1", 0)
    port = service.getsockname()[1]
    targets = [(socket.AF_INET, ("255.255.255.255", port)), (socket.AF_INET, ("127.0.0.1", port))]
    monkeypatch.setattr(net, "_look_up", lambda _address, _flags: targets)
    flow = FakeFlow()
    harness.forward("two-homes.test", port).open(flow, harness.reactor.now)
    harness.give(flow, b"question")
    assert service.recv(100) == b"question"


class Names:
    """What the look-up of any name finds, and when."""

    def __init__(self) -> None:
        self.targets: list[Target] = []
        self.answered = Event()

    def look_up(self, address: Address, flags: int) -> list[Target]:
        if flags == socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        assert self.answered.wait(10)
        if not self.targets:
            raise socket.gaierror(socket.EAI_NONAME, f"no {address.host} here")
        return self.targets


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Generator[Names, None, None]:
    names = Names()
    monkeypatch.setattr(net, "_look_up", names.look_up)
    monkeypatch.setattr(net, "RESOLVE_PAUSE", 0.0)
    yield names
    names.answered.set()


def test_datagrams_wait_in_the_flow_while_the_name_is_looked_up(harness: Harness, names: Names) -> None:
    service = harness.plain("127.0.0.1", 0)
    names.targets = [(socket.AF_INET, service.getsockname())]
    flow = FakeFlow()
    harness.forward("somewhere.test", 53).open(flow, harness.reactor.now)
    harness.give(flow, b"one", b"two")
    assert flow.readable == 2
    names.answered.set()
    harness.until(lambda: not flow.readable)
    assert [service.recv(100), service.recv(100)] == [b"one", b"two"]


def test_a_name_that_is_not_found_costs_the_datagrams(harness: Harness, names: Names, caplog: pytest.LogCaptureFixture) -> None:
    service = harness.plain("127.0.0.1", 0)
    flow = FakeFlow()
    harness.forward("nowhere.test", 53).open(flow, harness.reactor.now)
    harness.give(flow, b"question")
    names.answered.set()
    harness.until(lambda: harness.counters.send_drops == 1)
    assert caplog.messages == ["cannot reach --forward nowhere.test:53: no nowhere.test here"]
    names.targets = [(socket.AF_INET, service.getsockname())]

    def got_through() -> bool:
        dropped = harness.counters.send_drops
        harness.give(flow, b"again")
        return harness.counters.send_drops == dropped

    harness.until(got_through)
    assert service.recv(100) == b"again"


def test_a_flow_that_closes_during_the_look_up(harness: Harness, names: Names) -> None:
    flow = FakeFlow()
    forwarder = harness.forward("somewhere.test", 53)
    forwarder.open(flow, harness.reactor.now)
    flow.closed = True
    harness.give(flow, b"question")
    assert not forwarder.open_flows
    names.targets = [(socket.AF_INET, ("127.0.0.1", 9))]
    names.answered.set()
    harness.until(lambda: forwarder.resolver.targets)
    assert flow.readable == 1
