"""Connections that freeze after the server has used them: the client hears of it, or they would fill its pool."""

from __future__ import annotations

from collections import deque

import pytest
from session_pair import CLIENT, SERVER, Pair
from simulator import Line, Network, Plan

from tcsplitter.carrier import Carrier, Op
from tcsplitter.client_end import ClientConfig
from tcsplitter.modes import Kind
from tcsplitter.sending import MAX_GONE
from tcsplitter.shared import Handling

HELLO = 70_000


def opened() -> tuple[Pair, Carrier]:
    """A pair, and a carrier of the client with a hello of its own that the server has given up."""
    pair = Pair(Handling())
    pair.open()
    carrier = Carrier(Kind.FLING, pair.now)
    client = pair.sessions[CLIENT]
    client.carriers.adopt(carrier, client, 25.0, pair.now)
    client.carriers.greet(carrier, HELLO)
    return pair, carrier


def say(pair: Pair, data: bytes = b"hello") -> None:
    next(iter(pair.sessions[SERVER].streams)).write(data)
    pair.settle()


def give_up(pair: Pair, hello: int) -> None:
    carrier = Carrier(Kind.FLING, pair.now)
    carrier.hello = hello
    pair.sessions[SERVER]._sender.given_up(carrier)


def test_the_client_resets_what_the_server_has_given_up() -> None:
    pair, carrier = opened()
    client = pair.sessions[CLIENT]
    give_up(pair, HELLO)
    assert not carrier.closed
    say(pair)
    assert carrier.closed
    assert carrier not in client.carriers.all
    assert HELLO not in client.carriers.greeted
    assert client.counters.carriers_died == 1


@pytest.mark.parametrize("hello", [HELLO + 1, 0])
def test_what_the_client_does_not_know_is_ignored(hello: int) -> None:
    pair, carrier = opened()
    give_up(pair, hello)
    give_up(pair, hello)
    say(pair)
    assert not carrier.closed
    assert pair.sessions[CLIENT].closed is None


def test_many_are_told_of_in_several_shots() -> None:
    pair, carrier = opened()
    for number in range(MAX_GONE):
        give_up(pair, number + 1_000)
    give_up(pair, HELLO)
    say(pair)
    assert not carrier.closed
    say(pair)
    assert carrier.closed


def test_a_client_may_not_say_so() -> None:
    pair, _ = opened()
    pair.sessions[CLIENT]._sender._gone.append(1)
    next(iter(pair.sessions[CLIENT].streams)).write(b"hello")
    pair.settle()
    assert "protocol error" in (pair.sessions[SERVER].closed or "")


def seconds_to_download(seed: int, tells: bool) -> float:
    net = Network(seed, Line(delay=0.005, swallow=0.1), ClientConfig(burst=64))
    net.run(lambda: bool(net.server.sessions), 600)
    if not tells:
        for session in net.server.sessions.values():
            session._sender._gone = deque(maxlen=0)
    net.open(Plan(1, (0, 10_000_000), [100_000]))
    net.run(net.done, 600)
    net.verify()
    return net.now - 1000.0


def test_what_froze_does_not_fill_the_pool() -> None:
    told, untold = (sum(seconds_to_download(seed, tells) for seed in range(1, 7)) for tells in (True, False))
    assert told < 0.8 * untold, f"{told:.1f} s, without a word {untold:.1f} s"


def test_what_is_read_on_a_carrier_that_was_dropped_in_the_same_wake_counts_nowhere() -> None:
    pair = Pair()
    pair.open()
    session = pair.client
    carrier = next(iter(session.carriers.all))
    session.carriers.drop(carrier, Op.RESET)
    header = bytes(2) + (10_000).to_bytes(3, "big") + (999).to_bytes(8, "big")
    session.receive(carrier, header + bytes(5_000), pair.now)
    assert (session.carriers.partial, session.held) == (0, 0)
