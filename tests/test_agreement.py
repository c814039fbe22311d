"""What client and server have to agree on: version, mode, protocol; and what they tell each other when they do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from peer import KEY, Server, fresh_ephemeral, request
from simulator import Line, Network

from tcsplitter import client_end
from tcsplitter.client_end import ClientConfig
from tcsplitter.handshake import (
    NO_SESSION,
    STATUS_MODE_NOT_SUPPORTED,
    STATUS_NEW,
    STATUS_OTHER_PROTOCOL,
    STATUS_OTHER_VERSION,
    VERSION,
    Answer,
    Initiator,
)
from tcsplitter.modes import MODES, PROTOCOLS, Mode
from tcsplitter.options import Retries
from tcsplitter.server_end import ServerConfig
from tcsplitter.shared import Handling


def ask(config: ServerConfig | None = None, **changed: int) -> tuple[Answer, Server]:
    """What a server answers to a request that is like any other but for what is changed."""
    server = Server(config=config)
    initiator = Initiator(KEY, fresh_ephemeral(), replace(request(), **changed))  # type: ignore[arg-type]
    carrier = server.connect()
    server.feed(carrier, initiator.message)
    answer, _ = initiator.read_answer(bytes(server.written[carrier]))
    return answer, server


def refused(version: int, mode: int, protocol: int = 0, config: ServerConfig | None = None) -> tuple[int, int]:
    """Version and status that a server answers where it grants no session."""
    answer, server = ask(config, version=version, mode=mode, protocol=protocol)
    assert answer.session_id == NO_SESSION
    assert not server.end.sessions
    return answer.version, answer.status


@pytest.mark.parametrize("version", [0, 2, 255])
@pytest.mark.parametrize("mode", [0, 1])
def test_a_server_refuses_other_versions(version: int, mode: int) -> None:
    assert refused(version, mode) == (VERSION, STATUS_OTHER_VERSION)


@pytest.mark.parametrize("mode", [4, 255])
def test_a_server_refuses_modes_unheard_of(mode: int) -> None:
    assert refused(VERSION, mode) == (VERSION, STATUS_MODE_NOT_SUPPORTED)


@pytest.mark.parametrize("asked", MODES.values(), ids=lambda mode: mode.name)
def test_a_server_serves_the_mode_that_a_client_asks_for(asked: Mode) -> None:
    answer, server = ask(mode=asked.number)
    assert answer.status == STATUS_NEW
    assert server.end.sessions[answer.session_id].config.mode is asked


@pytest.mark.parametrize("served", MODES.values(), ids=lambda mode: mode.name)
@pytest.mark.parametrize("asked", MODES.values(), ids=lambda mode: mode.name)
def test_a_server_that_was_told_a_mode_serves_no_other(asked: Mode, served: Mode) -> None:
    config = ServerConfig(mode=served)
    if asked is served:
        assert ask(config, mode=asked.number)[0].status == STATUS_NEW
    else:
        assert refused(VERSION, asked.number, config=config) == (VERSION, STATUS_MODE_NOT_SUPPORTED)


@pytest.mark.parametrize("asked", [0, 1, 2, 255])
@pytest.mark.parametrize("served", PROTOCOLS)
def test_a_server_serves_one_protocol(asked: int, served: str) -> None:
    config = ServerConfig(protocol=served)
    if PROTOCOLS[asked : asked + 1] == (served,):
        assert ask(config, protocol=asked)[0].status == STATUS_NEW
    else:
        assert refused(VERSION, 0, asked, config) == (VERSION, STATUS_OTHER_PROTOCOL)


@pytest.mark.parametrize("skip", [-1, 0, 7])
def test_ends_tell_each_other_after_how_many_attempts_they_skip(skip: int) -> None:
    handling = Handling(retries=Retries(skip=skip))
    answer, server = ask(ServerConfig(handling), skip=5)
    assert answer.skip == skip + 1
    assert server.end.sessions[answer.session_id].shared.peer_skip == 4
    net = Network(1, Line(), ClientConfig(Handling(retries=Retries(skip=3))), ServerConfig(handling))
    net.run(lambda: net.client.connected, 1.0)
    (session,) = net.server.sessions.values()
    assert (net.client.session.shared.peer_skip, session.shared.peer_skip) == (skip, 3)


@pytest.mark.parametrize(
    ("client", "server", "says"),
    [
        (ClientConfig(mode=MODES["none"], lassoes=4), ServerConfig(mode=MODES["both"]), "does not serve --dup none"),
        (ClientConfig(protocol="udp"), ServerConfig(), "does not serve --protocol udp"),
        (ClientConfig(), ServerConfig(protocol="udp"), "does not serve --protocol tcp"),
    ],
)
def test_ends_that_were_told_different_things_stop_the_client(client: ClientConfig, server: ServerConfig, says: str) -> None:
    net = Network(1, Line(), client, server)
    net.run(lambda: net.client.failed is not None, 1.0)
    assert says in str(net.client.failed)
    assert not net.server.sessions


def test_both_ends_agree_on_what_another_version_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_end, "VERSION", 2)
    net = Network(1, Line())
    net.run(lambda: net.client.failed is not None, 1.0)
    assert "version 1 of the protocol, this client version 2" in str(net.client.failed)
    assert not net.server.sessions
