"""Every mode on real sockets, with one address for all connections and with one for each kind: what arrives, and on what."""

import hashlib
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tunnel import LIMIT, Service, Tunnel, connect, echo, exchange, receive, receive_exactly, send, traffic

from tcsplitter.modes import MODES

SIZE = 1_500_000
SMALL = 60_000
STREAMS = 50
DATAGRAMS = 200
each_mode = pytest.mark.parametrize("mode", MODES)
each_place = pytest.mark.parametrize("apart", [False, True], ids=["one address", "all apart"])


@contextmanager
def tunnel(forward: str, mode: str, apart: bool, *options: str) -> Iterator[Tunnel]:
    pools = ("--lassoes", "4") if mode != "fling" else ()
    with Tunnel(
        forward, server_options=("--dup", mode, *options), client_options=("--dup", mode, *pools, *options), apart=apart
    ) as both:
        yield both
        check_carriers(both, mode, apart)


def check_carriers(both: Tunnel, mode: str, apart: bool) -> None:
    """Connections of the kinds that the mode has, each carrying payload only the way it may; nothing died."""
    client, server = both.client.counted(), both.server.counted()
    kinds = {kind.name.lower() for kind in MODES[mode].pools} | ({"sync", "retry"} if apart else set())
    for counted, ways in (client, MODES[mode].up), (server, MODES[mode].down):
        assert {name.split()[0] for name in counted if name.endswith(" dialled")} == kinds
        carriers = {kind.name.lower() for kind in ways}
        for kind in kinds - {"retry"}:
            assert (counted[f"{kind} sent on"] > 0) <= (kind in carriers), counted
        assert counted[f"{ways[0].name.lower()} sent on"] > 0, counted
        assert counted["shots refused"] == 0
        if mode == "none":
            assert not any(count for name, count in counted.items() if name.endswith("both ways")), counted


@each_place
@each_mode
class TestStreams:
    """Data is identical, whichever way it goes."""

    def test_up(self, mode: str, apart: bool) -> None:
        """The answer is several payloads: one alone goes on whatever is there at that moment."""
        times = 2_000

        def serve(sock: socket.socket) -> None:
            sock.sendall(receive(sock).sha256.encode() * times)

        with Service(serve) as service, tunnel(service.address, mode, apart) as both, connect(both.address) as sock:
            send(sock, SIZE, 1)
            assert receive_exactly(sock, 64 * times).decode() == traffic(SIZE, 1).sha256 * times

    def test_down(self, mode: str, apart: bool) -> None:
        def serve(sock: socket.socket) -> None:
            assert receive_exactly(sock, 3) == b"go!"
            send(sock, SIZE, 2)

        with Service(serve) as service, tunnel(service.address, mode, apart) as both, connect(both.address) as sock:
            sock.sendall(b"go!")
            assert receive(sock) == traffic(SIZE, 2)

    def test_both_ways(self, mode: str, apart: bool) -> None:
        def serve(sock: socket.socket) -> None:
            assert exchange(sock, SIZE, 3) == traffic(SIZE, 4)

        with Service(serve) as service, tunnel(service.address, mode, apart) as both, connect(both.address) as sock:
            assert exchange(sock, SIZE, 4) == traffic(SIZE, 3)

    def test_fifty_streams(self, mode: str, apart: bool) -> None:
        failed: list[BaseException] = []

        def run(seed: int) -> None:
            try:
                with connect(both.address) as sock:
                    assert exchange(sock, SMALL, seed) == traffic(SMALL, seed)
            except (AssertionError, OSError) as error:
                failed.append(error)

        with Service(echo) as service, tunnel(service.address, mode, apart) as both:
            threads = [threading.Thread(target=run, args=(seed,), daemon=True) for seed in range(STREAMS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(LIMIT)
            assert not failed, failed[0]

    def test_half_close(self, mode: str, apart: bool) -> None:
        """The program shuts down writing; the service answers after that, at length."""

        def serve(sock: socket.socket) -> None:
            assert receive(sock) == traffic(10, 5)
            send(sock, SIZE, 6)

        with Service(serve) as service, tunnel(service.address, mode, apart) as both, connect(both.address) as sock:
            send(sock, 10, 5)
            assert receive(sock) == traffic(SIZE, 6)


@each_place
@each_mode
def test_udp_echo(mode: str, apart: bool) -> None:
    dice = random.Random(7)
    sizes = [0, 1, 1_472, 9_999, 10_001, 65_507, *(dice.randrange(1_500) for _ in range(DATAGRAMS))]
    with (
        udp_echo() as forward,
        tunnel(forward, mode, apart, "--protocol", "udp") as both,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.settimeout(LIMIT)
        sock.connect(("127.0.0.1", both.port))
        for size in sizes:
            sent = dice.randbytes(size)
            sock.send(sent)
            came = sock.recv(70_000)
            assert hashlib.sha256(came).digest() == hashlib.sha256(sent).digest(), size


@contextmanager
def udp_echo() -> Iterator[str]:
    """A service that sends every datagram back; gives its address."""
    service = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    service.bind(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            data, peer = service.recvfrom(70_000)
            if data == b"the end":
                return
            service.sendto(data, peer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{service.getsockname()[1]}"
    finally:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"the end", service.getsockname())
        thread.join(LIMIT)
        service.close()
