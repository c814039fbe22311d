"""Addresses and listening sockets."""

import errno
import logging
import os
import resource
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tcsplitter import net
from tcsplitter._tcp import TcpSocket, accept
from tcsplitter.errors import ConfigError
from tcsplitter.log import LimitedLog
from tcsplitter.net import Listener, Resolver, Target, listen_on
from tcsplitter.options import Address
from tcsplitter.reactor import Reactor
from tcsplitter.udp import bind_udp

LOOPBACK = Address("127.0.0.1", 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_numeric_addresses_need_no_look_up(host: str) -> None:
    reactor = Reactor()
    resolver = Resolver(reactor, Address(host, 80))
    assert [sockaddr[:2] for _, sockaddr in resolver.targets] == [(host, 80)]
    resolver.refresh()
    assert not resolver._waiting
    reactor.close()


@pytest.fixture
def log() -> LimitedLog:
    return LimitedLog(logging.getLogger("tcsplitter.test"))


def always() -> bool:
    return True


def test_accepted_sockets_have_nodelay_and_do_not_block(log: LimitedLog) -> None:
    reactor = Reactor()
    accepted: list[tuple[TcpSocket, str]] = []
    (sock,) = listen_on("--lFling", LOOPBACK, 16)
    listener = Listener(reactor, sock, lambda each, host, _now: accepted.append((each, host)), always, log)
    with socket.create_connection(("127.0.0.1", listener.port)):
        reactor.wake()
    ((served, host),) = accepted
    with socket.socket(fileno=served.detach()) as known:
        assert known.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert not os.get_blocking(known.fileno())
        assert not os.get_inheritable(known.fileno())
    assert host == "127.0.0.1"
    listener.close()
    reactor.close()


def test_out_of_descriptors_the_listener_rests_and_logs_once(log: LimitedLog, caplog: pytest.LogCaptureFixture) -> None:
    reactor = Reactor()
    accepted: list[TcpSocket] = []
    (sock,) = listen_on("--lFling", LOOPBACK, 16)
    listener = Listener(reactor, sock, lambda each, _host, _now: accepted.append(each), always, log)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_connection(("127.0.0.1", listener.port)):
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            wakes = 0
            ends = reactor.clock() + 3.5 * net.ACCEPT_PAUSE
            while reactor.clock() < ends:
                reactor.wake()
                wakes += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert not accepted
        assert wakes <= 10
        assert caplog.text.count("cannot accept connections for the moment: Too many open files") == 1
        while not accepted:
            reactor.wake()
    accepted[0].close()
    listener.close()
    reactor.close()


def test_without_room_nothing_is_accepted(log: LimitedLog) -> None:
    reactor = Reactor()
    accepted: list[TcpSocket] = []
    (sock,) = listen_on("--listen", LOOPBACK, 16)
    listener = Listener(reactor, sock, lambda each, _host, _now: accepted.append(each), lambda: len(accepted) < 2, log)
    programs = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(3)]
    ends = reactor.clock() + 2.5 * net.ACCEPT_PAUSE
    while reactor.clock() < ends:
        reactor.wake()
    assert len(accepted) == 2
    accepted.pop().close()
    while len(accepted) < 2:
        reactor.wake()
    for program in programs:
        program.close()
    for each in accepted:
        each.close()
    listener.close()
    reactor.close()


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (Address("192.0.2.1", 0), "this machine has no such address"),
        (Address("nowhere.invalid", 1), "the name cannot be resolved"),
    ],
)
def test_an_address_that_cannot_be_listened_on(address: Address, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--listen {address}: {text}".replace(".", r"\.")):
        listen_on("--listen", address, 1)


@pytest.mark.parametrize("listen", [partial(listen_on, backlog=1), bind_udp])
@pytest.mark.parametrize(
    "targets",
    [
        [(socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET, ("127.0.0.1", 0))],
        [(socket.AF_INET6, ("2001:db8::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0))],
        [(socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_X25, ("::1", 0))],
    ],
    ids=["named twice", "no such address", "no such family"],
)
def test_of_a_name_that_stands_for_several_those_are_taken_that_there_are(
    listen: Callable[[str, Address], list[socket.socket]], targets: list[Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    def getaddrinfo(*_asked: object, **_hints: object) -> list[tuple[Any, ...]]:
        return [(family, socket.SOCK_STREAM, 0, "", sockaddr) for family, sockaddr in targets]

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    (sock,) = listen("--listen", Address("localhost", port))
    with sock:
        assert sock.getsockname() == ("127.0.0.1", port)


def test_a_name_that_stands_for_nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = [(socket.AF_INET, (host, 0)) for host in ("198.51.100.1", "203.0.113.1")]
    monkeypatch.setattr(net, "_look_up", lambda _address, _flags: targets)
    with pytest.raises(ConfigError, match=r"^--listen elsewhere\.test:0: this machine has no such address"):
        listen_on("--listen", Address("elsewhere.test", 0), 1)


def test_a_busy_port_names_flag_address_and_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = Address("127.0.0.1", holder.getsockname()[1])
        with pytest.raises(ConfigError, match=f"^--listen {address}: the address is in use; stop the program"):
            listen_on("--listen", address, 1)


def test_accept_errors_of_single_connections_are_passed_over(log: LimitedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    reactor = Reactor()
    (sock,) = listen_on("--lFling", LOOPBACK, 16)
    errors = [ConnectionAbortedError(errno.ECONNABORTED, "aborted")]

    def flaky(fd: int) -> tuple[TcpSocket, str]:
        """Fails once as if a connection had ended before it was accepted."""
        if errors:
            raise errors.pop()
        return accept(fd)

    monkeypatch.setattr(net, "accept", flaky)
    accepted: list[TcpSocket] = []
    listener = Listener(reactor, sock, lambda each, _host, _now: accepted.append(each), always, log)
    with socket.create_connection(("127.0.0.1", listener.port)):
        reactor.wake()
    assert len(accepted) == 1
    accepted[0].close()
    listener.close()
    reactor.close()
    assert sock.fileno() == -1
