"""Addresses of their own for sync and retry connections: what goes there, and what happens when nothing answers there."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from chaos import ChaosProxy
from tunnel import LIMIT, Service, Tunnel, connect, echo, exchange, traffic

SIZE = 3_000_000


@contextmanager
def black_hole() -> Iterator[str]:
    """An address that accepts connections and never says a word; gives it as HOST:PORT."""
    listener = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                taken.append(listener.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(LIMIT)
        for sock in (listener, *taken):
            sock.close()


@contextmanager
def closed_port() -> Iterator[str]:
    """An address where nobody listens; it is bound, so that nobody else will."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"


@pytest.mark.parametrize("place", [black_hole, closed_port])
@pytest.mark.parametrize("flag", ["--rSync", "--rFlingR"])
def test_the_flings_do_without_sync_and_retry_connections(flag: str, place: Callable[[], AbstractContextManager[str]]) -> None:
    """Handshakes too: of two that are tried one goes to the flings' address."""
    with (
        place() as nowhere,
        Service(echo) as service,
        Tunnel(service.address, client_options=(flag, nowhere)) as both,
        connect(both.address) as sock,
    ):
        assert exchange(sock, SIZE, 1) == traffic(SIZE, 1)
        counted = both.client.counted()
        assert counted["fling sent on"] > 0
        assert counted.get("sync sent on", 0) == counted.get("retry sent on", 0) == 0
        if place is closed_port:
            both.client.wait_for("no (sync|retry) connections to 127.0.0.1:[0-9]+: Connection refused")


def test_a_server_that_is_not_there_is_named() -> None:
    with closed_port() as nowhere, Tunnel("127.0.0.1:1", via=lambda _address: nowhere) as both:
        both.client.wait_for(f"cannot reach the server at {nowhere}: Connection refused; still trying")


def test_handshakes_go_where_the_sync_connections_are() -> None:
    """The flings lead nowhere, so there would be no session if they did not."""
    with (
        black_hole() as nowhere,
        Tunnel(
            "127.0.0.1:1",
            server_options=("--lSync", "127.0.0.1:0"),
            client_options=lambda server: ("--rSync", server.listens("sync")),
            via=lambda _address: nowhere,
        ) as both,
    ):
        both.client.wait_for("session established")


def test_control_frames_go_where_the_sync_connections_are() -> None:
    """A download of megabytes takes credit, acks and their answers to and fro; none of it is payload."""
    with (
        Service(echo) as service,
        Tunnel(service.address, apart=True) as both,
        connect(both.address) as sock,
    ):
        assert exchange(sock, SIZE, 2) == traffic(SIZE, 2)
        for end in both.ends:
            counted = end.counted()
            assert counted["sync dialled"] == 2, "they are not bound by --reuse"
            assert counted["sync sent on"] == counted["sync received on"] == 0


def test_sync_connections_that_freeze_are_passed_over() -> None:
    """Each stalls, freezes or breaks somewhere in its first bytes; the streams go on by the flings."""
    with (
        ChaosProxy(5, share=1.0) as proxy,
        Service(echo) as service,
        Tunnel(
            service.address,
            server_options=("--lSync", "127.0.0.1:0"),
            client_options=lambda server: ("--rSync", proxy.start(server.listens("sync"))),
        ) as both,
        connect(both.address) as sock,
    ):
        assert exchange(sock, SIZE, 3) == traffic(SIZE, 3)
        assert proxy.struck


def test_what_was_lost_goes_again_on_retry_connections() -> None:
    with (
        ChaosProxy(6, share=0.1) as proxy,
        Service(echo) as service,
        Tunnel(
            service.address,
            server_options=("--lFlingR", "127.0.0.1:0"),
            client_options=lambda server: ("--rFlingR", server.listens("retry")),
            via=proxy.start,
        ) as both,
        connect(both.address) as sock,
    ):
        assert exchange(sock, SIZE, 4) == traffic(SIZE, 4)
        client, server = both.client.counted(), both.server.counted()
        assert client["payloads resent"] + server["payloads resent"] > 0
        assert client["retry sent on"] + server["retry sent on"] > 0
        assert client["retry sent on"] <= client["payloads resent"]
