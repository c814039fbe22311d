"""Datagrams through the tunnel as users run it: none lost, altered, merged or late by us."""

import logging
import os
import random
import shutil
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from chaos import ChaosProxy
from loopback import free_port
from tunnel import LIMIT, End, Process, Tunnel
from udp_load import LARGEST, Echo, Exchange, check_all_came, eventually, program, random_datagrams, udp_sockets

from tcsplitter._core import MAX_DATAGRAM
from tcsplitter.keys import generate_key

FIGURES = logging.getLogger("figures")  # pytest --log-cli-level=INFO shows them
UDP = ("--protocol", "udp")
WIREGUARD = 1_420
PEERS = 200
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def show_figures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, FIGURES.name)


def tunnel(forward: str, *options: str, **more: object) -> Tunnel:
    return Tunnel(forward, server_options=UDP + options, client_options=UDP + options, **more)  # type: ignore[arg-type]


def both_ways(up: list[bytes], down: list[bytes], rate: float) -> None:
    with Exchange() as exchange, tunnel(exchange.address) as both:
        exchange.run(both, up, down, rate)
        FIGURES.info(check_all_came(exchange, both, up, down))


@pytest.mark.parametrize("count", [1_500, pytest.param(10_000, marks=slow)])
def test_a_thousand_a_second_each_way(count: int) -> None:
    dice = random.Random(1)
    up, down = (random_datagrams([dice.randrange(1_473) for _ in range(count)], seed) for seed in (2, 3))
    both_ways(up, down, 1_000)


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=slow)])
def test_all_sizes(count: int) -> None:
    dice = random.Random(4)
    sizes = [0, 1, 9_999, 10_000, 10_001, 20_000, MAX_DATAGRAM, *(dice.randrange(MAX_DATAGRAM + 1) for _ in range(count - 7))]
    both_ways(random_datagrams(sizes, 5), random_datagrams(sizes[::-1], 6), 50)


@pytest.mark.parametrize("seconds", [1.5, pytest.param(5.0, marks=slow)])
def test_like_wireguard(seconds: float) -> None:
    sizes = [WIREGUARD] * int(2_000 * seconds)
    both_ways(random_datagrams(sizes, 7), random_datagrams(sizes, 8), 2_000)


def test_each_program_gets_its_own_replies_and_silence_ends_its_flow() -> None:
    idle = ("--flow-idle", "1000")
    with Echo() as service, ExitStack() as stack, tunnel(service.address, *idle) as both:
        socks = [stack.enter_context(program(both)) for _ in range(PEERS)]
        for round_number in range(3):
            for number, sock in enumerate(socks):
                sock.send(b"%d/%d" % (number, round_number))
            service.serve(PEERS)
            for number, sock in enumerate(socks):
                assert sock.recv(LARGEST) == b"%d/%d" % (number, round_number)
        assert udp_sockets(both.server) == PEERS, "each flow has a socket of its own"
        assert list(service.peers.values()) == [3] * PEERS
        eventually(lambda: not udp_sockets(both.server), "the sockets to the service were not closed")
        old = set(service.peers)
        socks[7].send(b"once more")
        service.serve(1)
        assert socks[7].recv(LARGEST) == b"once more"
        assert len(set(service.peers) - old) == 1, "a flow that ended does not go on"


def test_a_flow_goes_on_where_only_the_server_forgot_it() -> None:
    """The client's flow lives for a minute: what the service sends after the server let go of the flow is not taken for old."""
    with (
        Echo() as service,
        Tunnel(service.address, server_options=(*UDP, "--flow-idle", "300"), client_options=UDP) as both,
        program(both) as sock,
    ):
        for number in range(3):
            for word in (b"a", b"b", b"c"):
                sock.send(word * (number + 1))
                service.serve(1)
                assert sock.recv(LARGEST) == word * (number + 1)
            assert len(service.peers) == number + 1
            eventually(lambda: not udp_sockets(both.server), "the flow did not end")


def test_small_datagrams_share_a_payload() -> None:
    with Echo() as service, tunnel(service.address, "--tock", "20") as both, program(both) as sock:
        sock.send(b"first")
        service.serve(1)
        assert sock.recv(LARGEST) == b"first"
        before = both.client.counted()
        for number in range(50):
            sock.send(b"%d" % number)
        service.serve(50)
        assert {sock.recv(LARGEST) for _ in range(50)} == {b"%d" % number for number in range(50)}
        after = both.client.counted()
        shots = after["shots sent"] - before["shots sent"]
        FIGURES.info("50 datagrams each way in %d shots up, acks included", shots)
        assert after["datagrams sent"] - before["datagrams sent"] == 50
        assert shots < 15


def test_datagrams_that_pile_up_share_a_payload_by_themselves() -> None:
    with Echo() as service, tunnel(service.address) as both, program(both) as sock:
        sock.send(b"first")
        service.serve(1)
        assert sock.recv(LARGEST) == b"first"
        before = both.client.counted()["shots sent"]
        both.client.process.send_signal(signal.SIGSTOP)
        try:
            for number in range(50):
                sock.send(b"%d" % number)
        finally:
            both.client.process.send_signal(signal.SIGCONT)
        service.serve(50)
        assert {sock.recv(LARGEST) for _ in range(50)} == {b"%d" % number for number in range(50)}
        shots = both.client.counted()["shots sent"] - before
        FIGURES.info("50 datagrams at once, each way, in %d shots up, acks included", shots)
        assert shots < 20


def test_a_frozen_connection_holds_up_only_what_is_on_it() -> None:
    load = [struct.pack("!I", number) * 50 for number in range(300)]
    with (
        ChaosProxy(5, share=0.1, fates=("freeze",)) as proxy,
        Exchange() as exchange,
        tunnel(exchange.address, "--hedge", "off", via=proxy.start) as both,
    ):
        exchange.run(both, load, [], 150)
        check_all_came(exchange, both, load, [])
        delays = delays_of(exchange)
        late = [number for number, delay in delays.items() if delay > 0.5]
        FIGURES.info(
            "%d connections froze: %d of 300 datagrams late, the worst %.2f s",
            proxy.struck["freeze"],
            len(late),
            max(delays.values()),
        )
        assert 0 < len(late) <= proxy.struck["freeze"]
        order = [struct.unpack_from("!I", data)[0] for data in exchange.came[0]]
        followed = [number for number in late if number + 20 < len(load)]
        assert all(order.index(number) > order.index(number + 20) for number in followed)


def delays_of(exchange: Exchange) -> dict[int, float]:
    """How long each datagram took to the service, by the number that it begins with."""
    numbers = [struct.unpack_from("!I", data)[0] for data in exchange.came[0]]
    return {number: at - exchange.sent_at[0][number] for number, at in zip(numbers, exchange.came_at[0], strict=True)}


@pytest.mark.parametrize("deadline", [0, 200])
def test_deadline(deadline: int) -> None:
    """Some connections stand still for 500 ms: what they bring after that is dropped and counted, if it is too old."""
    load = [struct.pack("!I", number) * 50 for number in range(300)]
    with (
        ChaosProxy(6, share=0.2, fates=("stall",), stall=(0.5, 0.5)) as proxy,
        Exchange() as exchange,
        tunnel(exchange.address, "--deadline", str(deadline), "--hedge", "off", via=proxy.start) as both,
    ):
        exchange.run(both, load, [], 150)
        counted = both.server.counted()
        delays = delays_of(exchange)
        FIGURES.info(
            "%s: %d late; the slowest that came took %.3f s", dict(proxy.struck), counted["datagrams late"], max(delays.values())
        )
        assert counted["datagrams received"] == len(delays) == len(exchange.came[0])
        assert both.client.counted()["datagrams sent"] == len(load)
        assert counted["datagrams late"] == len(load) - len(delays)
        assert (counted["datagrams late"] > 0) == (deadline > 0)
        assert (max(delays.values()) > 0.4) == (deadline == 0)


@pytest.fixture
def resolver() -> Iterator[str]:
    """A name server on loopback that knows the names `h0.test` to `h19.test` and asks nobody else; gives its address."""
    dnsmasq = shutil.which("dnsmasq", path=f"{os.environ['PATH']}:/usr/sbin")
    if dnsmasq is None:
        pytest.skip("needs dnsmasq (Debian: dnsmasq-base)")
    port = free_port()
    records = [f"--host-record=h{number}.test,192.0.2.{number}" for number in range(20)]
    alone = ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file", "--log-facility=-"]
    bound = ["--listen-address=127.0.0.1", "--bind-interfaces", f"--port={port}"]
    with Process("dnsmasq", [dnsmasq, *alone, *bound, *records]) as process:
        process.wait_for("started, version")
        yield f"127.0.0.1:{port}"


def query(number: int, name: str) -> bytes:
    """A question for the address of a name (RFC 1035, section 4.1)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)


def test_a_name_server(resolver: str) -> None:
    with ExitStack() as stack, tunnel(resolver) as both:
        socks = [stack.enter_context(program(both)) for _ in range(100)]
        for number, sock in enumerate(socks):
            sock.send(query(number, f"h{number % 20}.test"))
        for number, sock in enumerate(socks):
            answer = sock.recv(LARGEST)
            asked = query(number, f"h{number % 20}.test")
            identity, flags, questions, answers = struct.unpack_from("!HHHH", answer)
            assert (identity, flags & 0x800F, questions, answers) == (number, 0x8000, 1, 1)
            assert answer[12 : len(asked)] == asked[12:]
            assert answer[-4:] == socket.inet_aton(f"192.0.2.{number % 20}")
            assert answer[len(asked) + 2 : len(asked) + 6] == struct.pack("!HH", 1, 1), "an address, of the internet"


@pytest.mark.parametrize("client_protocol", ["tcp", "udp"])
def test_ends_that_tunnel_different_things_say_so(client_protocol: str) -> None:
    key = generate_key(random.Random(1).randbytes(32))
    other = {"tcp": "udp", "udp": "tcp"}[client_protocol]
    server = End("server", "--lFling", "127.0.0.1:0", "--forward", "127.0.0.1:9", "--protocol", other, key=key)
    with server:
        arguments = ("--rFling", server.address, "--listen", "127.0.0.1:0", "--protocol", client_protocol)
        client = End("client", *arguments, key=key)
        with client:
            assert client.process.wait(LIMIT) == 1
            client.wait_for(f"the server does not serve --protocol {client_protocol}: give both ends the same")
        server.stop()
