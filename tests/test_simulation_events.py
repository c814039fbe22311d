"""What happens to a session: restarts, renewed keys, outages, sleep, silence; on the simulator's virtual clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from simulator import Connection, Line, Network, Plan

from tcsplitter import keyring
from tcsplitter.carrier import Carrier
from tcsplitter.client_end import ClientConfig
from tcsplitter.modes import MODES, Kind
from tcsplitter.server_end import LINGER_WITHOUT_STREAMS, QUIET_SECONDS, ServerConfig
from tcsplitter.shared import Handling

BULK = (400_000, 400_000)


def start(line: Line | None = None, sizes: tuple[int, int] = BULK, client: ClientConfig | None = None) -> Network:
    """A network with one stream that is under way."""
    net = Network(7, line or Line(), client)
    net.open(Plan(0, sizes, [20_000]))
    net.run(lambda: len(net.programs[1]) == 1, 10)
    return net


def elapse(net: Network, seconds: float) -> None:
    """Let virtual time pass."""
    until = net.now + seconds
    net.at(until, lambda: None)
    net.run(lambda: net.now >= until, seconds + 1)


def cut_all(net: Network) -> None:
    """The server's machine is gone: its connections are reset, and new ones refused."""
    net.server_up = False
    for connection in [c.io for c in net.client.session.carriers.all]:
        connection._break(0)
        connection._break(1)


def keep_busy(net: Network) -> Callable[[], bool]:
    """Wait for the next byte that reaches the server's program."""
    seen = net.programs[1][0].count
    return lambda: net.programs[1][0].count > seen


def test_the_same_seed_gives_the_same_run() -> None:
    line = Line(late=0.1, cut=0.1, freeze=0.05, jitter=0.01, split=True)
    traces = []
    for _ in range(2):
        net = start(line)
        net.run(net.done, 120)
        traces.append((net.now, net.steps, net.dials, net.client.session.counters.as_dict()))
    assert traces[0] == traces[1]


def test_connections_whose_syn_was_lost_are_left_alone() -> None:
    net = start(Line(dial_late=0.2, rate=1_000_000), sizes=(4_000_000, 0))
    used: dict[Carrier, float] = {}

    def done() -> bool:
        used.update((carrier, carrier.dial_seconds) for carrier in net.client.session.carriers.all)
        return net.done()

    net.run(done, 60)
    net.verify()
    assert len(used) > 100
    assert max(used.values()) < 1.0


def test_a_restarted_server_resets_all_streams_soon() -> None:
    net = start(sizes=(0, 0), client=ClientConfig())
    net.open(Plan(1, (100_000_000, 0), [20_000]))
    net.run(lambda: 1 in net.programs[1], 5)
    elapse(net, 1)
    net.restart_server()
    began = net.now
    net.run(lambda: net.programs[0][1].was_reset is not None, 10)
    assert net.now - began < 3
    net.open(Plan(2, (50_000, 50_000), [5_000]))
    net.run(lambda: net.programs[0][2].ended, 10)
    assert net.programs[1][2].count == 50_000


def test_an_idle_client_finds_out_that_the_server_was_restarted() -> None:
    net = Network(3, Line())
    elapse(net, 5)
    old = net.client.session.id
    net.restart_server()
    net.run(lambda: net.client.session.id not in (b"", old), 60)


@pytest.mark.parametrize(("name", "value"), [("REKEY_SHOTS", 10), ("REKEY_BYTES", 100_000), ("REKEY_SECONDS", 0.3)])
def test_keys_are_renewed_while_data_flows(name: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, name, value)
    net = start(Line(late=0.05, rate=250_000), sizes=(1_000_000, 1_000_000))
    session = net.client.session
    net.run(net.done, 60)
    net.verify()
    assert net.client.session is session
    epoch = session.keys.sealing
    assert epoch is not None
    assert epoch.number >= 3


def test_no_epoch_seals_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no handshake gets through, an end falls silent rather than wear out its keys."""
    monkeypatch.setattr(keyring, "REKEY_SHOTS", 20)
    monkeypatch.setattr(keyring, "MAX_EPOCH_SHOTS", 30)
    net = start()
    net.server_up = False
    elapse(net, 20)
    epoch = net.client.session.keys.sealing
    assert epoch is not None
    assert epoch.sealed <= 30
    net.server_up = True
    net.run(net.done, 60)
    net.verify()


@pytest.mark.parametrize("seconds", [0.5, 5.0, 60.0])
def test_streams_go_on_within_a_second_of_an_outage(seconds: float) -> None:
    net = start(Line(outages=[(1.0, 1.0 + seconds)], rate=60_000))
    net.run(lambda: net.now >= 1001.0, 10)
    net.run(lambda: net.now >= 1001.0 + seconds, seconds + 1)
    net.run(keep_busy(net), 2.5)
    net.run(net.done, 120)
    net.verify()


def test_a_server_that_is_down_is_not_stormed() -> None:
    net = start(sizes=(0, 100_000_000))
    elapse(net, 0.5)
    assert 0 < net.programs[0][0].count < 50_000_000
    cut_all(net)
    before = net.dials
    elapse(net, 60)
    assert net.dials - before < 60 * 3 + 40
    net.server_up = True
    net.run(lambda: net.programs[0][0].count > 0 and net.client.session.heard_at > net.now - 0.5, 5)


def test_idle_ends_are_quiet() -> None:
    net = Network(1, Line())
    net.open(Plan(0, (100, 100), [100]))
    net.run(net.done, 10)
    elapse(net, 60)
    steps, dials = net.steps, net.dials
    elapse(net, 600)
    assert net.dials - dials < 4 * 600 / 20 + 10
    assert net.steps - steps < 20 * (net.dials - dials) + 600


def test_the_pool_returns_to_its_size() -> None:
    net = start()
    net.run(net.done, 60)
    elapse(net, 60)
    assert len(net.client.session.carriers.all) == 4


def test_a_session_without_streams_is_forgotten_by_the_server() -> None:
    net = Network(1, Line())
    elapse(net, 5)
    assert len(net.server.sessions) == 1
    cut_all(net)
    elapse(net, LINGER_WITHOUT_STREAMS + 10)
    assert not net.server.sessions


def test_streams_are_given_up_after_linger() -> None:
    net = Network(1, Line(rate=1_000_000), ClientConfig(linger=20), ServerConfig(linger=20))
    net.open(Plan(0, (10_000_000, 10_000_000), [10_000]))
    elapse(net, 1)
    net.line.outages.append((net.now - 1000, net.now - 1000 + 3600))
    net.run(lambda: net.programs[0][0].was_reset is not None, 40)
    net.run(lambda: net.programs[1][0].was_reset is not None, QUIET_SECONDS + 40)


@pytest.mark.parametrize("pool", [1, 2])
def test_carriers_that_froze_under_the_server_give_their_places_in_a_fixed_pool_back(
    pool: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client takes them for idle until they are old, but the server says that it has none."""
    send = Connection.send
    frozen: list[Connection] = []

    def freeze(connection: Connection, side: int, data: bytes) -> None:
        carrier = connection.sides[0]
        if side == 1 and carrier is not None and carrier.kind is Kind.LASSO and len(data) > 200 and len(frozen) < pool:
            frozen.append(connection)
            for pipe in connection.pipes:
                pipe.frozen = True
        send(connection, side, data)

    monkeypatch.setattr(Connection, "send", freeze)
    net = Network(1, Line(delay=0.02), ClientConfig(mode=MODES["none"], conns=pool, lassoes=pool, burst=0))
    net.open(Plan(0, (1, 50_000), [100_000]))
    net.run(net.done, 15)
    net.verify()
    assert len(frozen) == pool


def test_a_short_linger_at_the_server_does_not_end_streams_that_have_nothing_to_say() -> None:
    net = Network(1, Line(), ClientConfig(linger=5), ServerConfig(linger=5))
    net.open(Plan(0, (10, 10), [10], stopped=[True, True]))
    elapse(net, 400)
    assert net.programs[0][0].was_reset is None
    assert net.programs[1][0].was_reset is None


def test_sleep_costs_no_more_than_a_fresh_dial() -> None:
    net = start(sizes=(0, 0))
    net.open(Plan(1, (0, 0), [1]))
    elapse(net, 1)
    for connection in [c.io for c in net.client.session.carriers.all]:
        for pipe in connection.pipes:
            pipe.frozen = True
    net.client.clock_jumped(net.now)
    net.settle(0)
    net.open(Plan(2, (36, 36), [36]))
    began = net.now
    net.run(lambda: net.programs[0][2].ended, 5)
    assert net.now - began < 6 * net.line.delay


def test_a_frozen_path_is_noticed_by_who_only_receives() -> None:
    """All connections die silently under a download: the client has nothing to send, and asks all the same."""
    net = start(sizes=(0, 100_000_000))
    elapse(net, 0.5)
    for connection in [c.io for c in net.client.session.carriers.all]:
        for pipe in connection.pipes:
            pipe.frozen = True
    seen = net.programs[0][0].count
    elapse(net, 0.2)
    seen = net.programs[0][0].count
    assert 0 < seen < 50_000_000
    net.run(lambda: net.programs[0][0].count > seen + 1_000_000, 6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sizes", [(0, 10_000_000), (10_000_000, 0)], ids=["down", "up"])
def test_streams_do_not_dry_up_where_every_fifth_carrier_freezes(sizes: tuple[int, int], seed: int) -> None:
    net = Network(seed, Line(delay=0.0005, freeze=0.2))
    net.open(Plan(0, sizes, [50_000]))
    net.run(net.done, 12)
    net.verify()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("size", "rate"), [(65_536, 30_000), (262_144, 125_000)])
def test_payloads_that_take_seconds_do_not_choke_their_line(size: int, rate: float, seed: int) -> None:
    """Each takes longer than the verdict that it is lost: what is sent again must not take the place of what is new."""
    fault = [Line(), Line(late=0.1), Line(freeze=0.1), Line(cut=0.05, jitter=0.01)][seed % 4]
    handling = Handling(size=size)
    net = Network(seed, replace(fault, delay=0.02, rate=rate), ClientConfig(handling), ServerConfig(handling))
    for name in range(3):
        net.open(Plan(name, (int(5 * rate), int(5 * rate)), [100_000]))
    net.run(net.done, 250)
    net.verify()


def test_refused_streams_are_reset_at_once() -> None:
    net = Network(1, Line())
    elapse(net, 1)
    plan = Plan(0, (100, 100), [100], resets=1)
    net.open(plan)
    began = net.now
    net.run(lambda: net.programs[0][0].was_reset is not None, 5)
    assert net.now - began < 6 * net.line.delay


def test_stop_tells_the_other_end() -> None:
    net = start(sizes=(0, 50_000_000))
    net.client.stop(net.now)
    net.settle(0)
    net.run(lambda: not net.server.sessions, 1)
    assert net.programs[1][0].was_reset is not None
