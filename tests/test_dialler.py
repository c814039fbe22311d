"""Dialling: which kind of carrier goes where, and what follows when a target fails."""

from __future__ import annotations

import resource
import socket
from collections.abc import Generator

import pytest
from loopback import CarrierHarness as Harness
from loopback import known, socket_of

from tcsplitter import net, transport
from tcsplitter.carrier import Carrier, Op
from tcsplitter.modes import Kind
from tcsplitter.net import Target
from tcsplitter.options import Address
from tcsplitter.transport import Dialler
from tcsplitter.tuning import Tuning


@pytest.fixture
def client() -> Generator[Harness, None, None]:
    harness = Harness(True)
    yield harness
    harness.close()


class Names:
    """The ports on loopback that names lead to, in place of the system's resolver."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.targets: dict[str, int] = {}
        self.asked: list[str] = []
        monkeypatch.setattr(net, "_look_up", self._look_up)

    def _look_up(self, address: Address, flags: int) -> list[Target]:
        if flags:
            raise socket.gaierror(socket.EAI_NONAME, "not numeric")
        self.asked.append(address.host)
        return [(socket.AF_INET, ("127.0.0.1", self.targets[address.host]))]


class Silent:
    """A listening socket whose queue is full, so that it answers no SYN."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.port: int = self._listening.getsockname()[1]
        self._sockets = [socket.create_connection(("127.0.0.1", self.port))]

    def make_room(self) -> None:
        """Answer the next SYN."""
        self._sockets.append(self._listening.accept()[0])

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._listening, *self._sockets):
            sock.close()


def closed_port() -> int:
    """A port that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return int(closed.getsockname()[1])


def test_a_dialled_carrier_has_nodelay_and_reports_once(client: Harness) -> None:
    carrier, _ = client.connect()
    with known(socket_of(carrier)) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    client.wakes(3)
    assert client.end.events == [("connected", carrier)]


def test_a_refused_dial_says_why(client: Harness) -> None:
    address = f"127.0.0.1:{client.port}"
    client.service.close()
    carrier = Carrier(Kind.FLING, 0.0)
    client.do((Op.DIAL, carrier))
    client.until(lambda: client.end.events)
    assert client.end.events == [("failed", carrier, f"{address}: Connection refused")]
    assert carrier.io is None
    assert not client.carriers.open


def test_a_dial_that_finds_no_descriptor_fails_and_the_process_goes_on(client: Harness) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    carrier = Carrier(Kind.FLING, 0.0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        client.do((Op.DIAL, carrier))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert client.end.events == [("failed", carrier, f"127.0.0.1:{client.port}: Too many open files")]
    client.connect()


def test_names_are_resolved_without_blocking(client: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    port = client.port

    def look_up(address: Address, flags: int) -> list[Target]:
        if flags:
            raise socket.gaierror(socket.EAI_NONAME, "not numeric")
        asked.append(address.host)
        if len(asked) == 1:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, ("127.0.0.1", port))]

    monkeypatch.setattr(net, "_look_up", look_up)
    dialler = Dialler(client.reactor, {Kind.FLING: Address("tunnel.example", 1)}, client.end)
    client.carriers.dialler = dialler
    first, second = (Carrier(Kind.FLING, 0.0) for _ in range(2))
    client.do((Op.DIAL, first))
    assert not client.end.events
    client.until(lambda: client.end.events)
    assert client.end.events == [("failed", first, "tunnel.example:1: Temporary failure in name resolution")]
    client.do((Op.DIAL, second))
    client.until(lambda: ("connected", second) in client.end.events)
    assert asked == ["tunnel.example"] * 2


@pytest.fixture
def two_targets(client: Harness, monkeypatch: pytest.MonkeyPatch) -> Harness:
    """A client end whose server has two targets; nobody listens at the first."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        ports = closed.getsockname()[1], client.port
    targets = [(socket.AF_INET, ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr(net, "_look_up", lambda _address, _flags: targets)
    client.carriers.dialler = Dialler(client.reactor, {Kind.FLING: Address("two.example", 1)}, client.end)
    return client


def test_a_failed_dial_goes_on_to_the_next_target(two_targets: Harness) -> None:
    client = two_targets
    first, second = (Carrier(Kind.FLING, 0.0) for _ in range(2))
    client.do((Op.DIAL, first))
    client.until(lambda: client.end.events)
    client.do((Op.DIAL, second))
    client.until(lambda: len(client.end.events) == 2)
    assert [event[:2] for event in client.end.events] == [("failed", first), ("connected", second)]


def test_dials_that_fail_together_count_once(two_targets: Harness) -> None:
    client = two_targets
    first, second, third = (Carrier(Kind.FLING, 0.0) for _ in range(3))
    client.do((Op.DIAL, first), (Op.DIAL, second))
    client.until(lambda: len(client.end.events) == 2)
    client.do((Op.DIAL, third))
    client.until(lambda: ("connected", third) in client.end.events)


def test_each_kind_goes_to_its_own_address(client: Harness) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        addresses = {kind: Address("127.0.0.1", client.port) for kind in Kind}
        addresses[Kind.LASSO] = Address("127.0.0.1", other.getsockname()[1])
        client.carriers.dialler = Dialler(client.reactor, addresses, client.end)
        carriers = [Carrier(kind, 0.0) for kind in Kind]
        client.do(*[(Op.DIAL, carrier) for carrier in carriers])
        client.until(lambda: len(client.end.events) == len(carriers))
        for carrier in carriers:
            service = other if carrier.kind is Kind.LASSO else client.service
            with known(socket_of(carrier)) as sock:
                assert sock.getpeername() == service.getsockname()


def test_kinds_with_equal_addresses_share_a_look_up(client: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch)
    shared, own = Address("shared.example", 1), Address("own.example", 1)
    names.targets = {"shared.example": client.port, "own.example": client.port}
    addresses = {Kind.FLING: shared, Kind.LASSO: Address("shared.example", 1), Kind.SYNC: own}
    client.carriers.dialler = Dialler(client.reactor, addresses, client.end)
    carriers = [Carrier(kind, 0.0) for kind in addresses]
    client.do(*[(Op.DIAL, carrier) for carrier in carriers])
    client.until(lambda: len(client.end.events) == len(carriers))
    assert sorted(names.asked) == ["own.example", "shared.example"]


def test_a_failure_of_one_kind_does_not_concern_the_others(client: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch)
    names.targets = {"good.example": client.port, "bad.example": closed_port()}
    addresses = {Kind.FLING: Address("good.example", 1), Kind.LASSO: Address("bad.example", 1)}
    client.carriers.dialler = Dialler(client.reactor, addresses, client.end)
    fling, lasso = (Carrier(kind, 0.0) for kind in addresses)
    client.do((Op.DIAL, fling), (Op.DIAL, lasso))
    client.until(lambda: len(client.end.events) == 2)
    assert ("connected", fling) in client.end.events
    assert ("failed", lasso, "bad.example:1: Connection refused") in client.end.events


@pytest.mark.parametrize("silent", [False, True])
def test_a_name_that_has_moved_is_found_after_a_failed_dial(
    client: Harness, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    monkeypatch.setattr(net, "RESOLVE_PAUSE", 0.0)
    monkeypatch.setattr(transport, "SILENCE", 0.0)
    names = Names(monkeypatch)
    with Silent() as old:
        names.targets["moving.example"] = old.port if silent else closed_port()
        client.carriers.dialler = dialler = Dialler(client.reactor, {Kind.FLING: Address("moving.example", 1)}, client.end)
        resolver = dialler._routes[Kind.FLING]._resolver
        client.until(lambda: resolver.targets)
        names.targets["moving.example"] = client.port
        first, second = (Carrier(Kind.FLING, 0.0) for _ in range(2))
        client.do((Op.DIAL, first))
        if silent:
            client.do((Op.RESET, first))
        client.until(lambda: resolver.targets == [(socket.AF_INET, ("127.0.0.1", client.port))])
        client.do((Op.DIAL, second))
        client.until(lambda: ("connected", second) in client.end.events)
    assert names.asked == ["moving.example"] * 2
    assert client.end.events[:-1] == ([] if silent else [("failed", first, "moving.example:1: Connection refused")])


@pytest.mark.parametrize("reason", ["too short a time", "another got through"])
def test_a_target_that_may_answer_yet_is_not_passed_over(client: Harness, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    if reason == "another got through":
        monkeypatch.setattr(transport, "SILENCE", 0.0)
    with Silent() as slow:
        targets = [(socket.AF_INET, ("127.0.0.1", port)) for port in (slow.port, client.port)]
        monkeypatch.setattr(net, "_look_up", lambda _address, _flags: targets)
        client.carriers.dialler = Dialler(client.reactor, {Kind.FLING: Address("two.example", 1)}, client.end)
        first, second, third = (Carrier(Kind.FLING, 0.0) for _ in range(3))
        client.do((Op.DIAL, first))
        client.wakes(1)
        if reason == "another got through":
            slow.make_room()
            client.do((Op.DIAL, second))
            client.until(lambda: ("connected", second) in client.end.events)
        assert ("connected", first) not in client.end.events
        client.do((Op.RESET, first), (Op.DIAL, third))
        assert socket_of(third).error() == 0
        assert third.io.target == targets[0]


@pytest.mark.parametrize(("mtu", "largest"), [(0, 65_495), (1500, 1460)])  # loopback takes halves of its own
def test_a_dialler_can_limit_segments(client: Harness, mtu: int, largest: int) -> None:
    addresses = {Kind.FLING: Address("127.0.0.1", client.port)}
    client.carriers.dialler = Dialler(client.reactor, addresses, client.end, Tuning(mtu))
    carrier, _ = client.connect()
    with known(socket_of(carrier)) as sock:
        segment = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    assert largest / 2 - 10 < segment <= largest
