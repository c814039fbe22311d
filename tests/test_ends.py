"""The two ends: handshakes and their refusals, keys and sessions of several clients, contact, and what users are told."""

from __future__ import annotations

import logging
import random
from itertools import pairwise

import pytest
from peer import KEY, Peer, Server, fresh_ephemeral, request, stream
from shots import seal_hello
from simulator import KEY as SIMULATED_KEY
from simulator import Line, Network, Plan

from tcsplitter.carrier import Carrier, Op
from tcsplitter.client_end import ASK_RTTS, ASK_SECONDS, MAX_ATTEMPTS, PING_FIRST, PING_LAST, ClientConfig, ClientEnd
from tcsplitter.handshake import (
    NO_SESSION,
    STATUS_CONTINUES,
    STATUS_MODE_NOT_SUPPORTED,
    STATUS_NEW,
    STATUS_NO_ROOM,
    STATUS_OTHER_PROTOCOL,
    STATUS_OTHER_VERSION,
    VERSION,
    Answer,
    Gate,
    Initiator,
)
from tcsplitter.modes import MODES
from tcsplitter.outbox import Note
from tcsplitter.server_end import PROVISIONAL_SECONDS, ServerConfig, ServerEnd
from tcsplitter.session import STOPPED

OTHER_KEY = bytes(range(2, 34))
INSTANCE = b"instance"
SESSION = b"session!"


# --- a client and whatever server a test makes up


class Alone:
    """A client whose connections succeed after an RTT and lead to nobody; the test answers in a server's name."""

    def __init__(self, psk: bytes = KEY, rtt: float = 0.05, config: ClientConfig | None = None) -> None:
        self.now = 1000.0
        self.rtt = rtt
        self.client = ClientEnd(config or ClientConfig(), "peer", psk, random.Random(1), self.now)
        self.gate = Gate({"peer": KEY}, self.now)
        self.asking: dict[Carrier, bytes] = {}
        """First messages on carriers that are open."""
        self.asked_at: list[float] = []
        self.notes: list[Note] = []
        self.dialled: list[Carrier] = []
        self.busy = False
        """Whether it asked for anything since that was last set to False."""

    def settle(self) -> None:
        while True:
            self.client.outbox.take_news()
            self.client.flush(self.now)
            self.client.tend(self.now)
            actions = self.client.outbox.take_actions()
            for op, carrier, data in actions:
                self.busy = True
                if op is Op.DIAL:
                    self.dialled.append(carrier)
                    self.client.carrier_connected(carrier, self.rtt, self.now)
                elif op is Op.WRITE and carrier.session is None:
                    self.asking[carrier] = data
                    self.asked_at.append(self.now)
                elif op is Op.RESET:
                    self.asking.pop(carrier, None)
                elif op is Op.PROBE:
                    self.client.carrier_progress(carrier, 0, self.now)
            if not actions:
                break
        self.notes += self.client.outbox.take_notes()

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        self.settle()
        while (due := max(self.client.deadline(), self.now + 1e-3)) <= until:
            self.now = due
            self.settle()
        self.now = until
        self.settle()

    def answer(self, status: int, version: int = VERSION, carrier: Carrier | None = None) -> None:
        """Answer the first handshake that is unanswered, or the one on this carrier."""
        carrier = carrier or next(iter(self.asking))
        responder = self.gate.respond(self.asking[carrier], self.now)
        accepted = status in (STATUS_NEW, STATUS_CONTINUES)
        answer = Answer(version, status, 0, SESSION if accepted else NO_SESSION, INSTANCE)
        self.client.carrier_received(carrier, responder.answer(answer, fresh_ephemeral())[0], self.now)
        self.settle()


@pytest.mark.parametrize(
    ("status", "version", "says"),
    [
        (STATUS_OTHER_VERSION, 2, "version 2 of the protocol, this client version 1: install the same tcsplitter on both"),
        (STATUS_NEW, 2, "version 2 of the protocol, this client version 1: install the same tcsplitter on both"),
        (STATUS_MODE_NOT_SUPPORTED, VERSION, "does not serve --dup fling: give both ends the same"),
        (STATUS_OTHER_PROTOCOL, VERSION, "does not serve --protocol tcp: give both ends the same"),
    ],
)
def test_a_server_that_can_never_serve_ends_the_client(status: int, version: int, says: str) -> None:
    alone = Alone()
    alone.wait(0.1)
    alone.answer(status, version)
    assert alone.client.failed is not None
    assert says in alone.client.failed
    assert not alone.client.connected
    assert not alone.asking
    alone.busy = False
    for _ in range(100):
        alone.now += 1.0
        alone.settle()
    assert not alone.busy


def test_a_server_without_room_is_asked_again() -> None:
    alone = Alone()
    alone.wait(0.1)
    alone.answer(STATUS_NO_ROOM)
    assert alone.client.failed is None
    assert not alone.client.connected
    alone.wait(2.0)
    alone.answer(STATUS_NEW)
    assert alone.client.connected
    assert [note.text for note in alone.notes] == [
        "the server has no room for another session; still trying",
        "session established",
    ]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_what_a_program_begins_in_the_wake_in_which_the_session_ended_is_in_the_next_one(protocol: str) -> None:
    alone = Alone(config=ClientConfig(protocol=protocol))
    alone.wait(0.1)
    alone.answer(STATUS_NEW)
    ended = alone.client.session
    ended.close(STOPPED, "the server was stopped")
    begin = alone.client.open_stream if protocol == "tcp" else alone.client.open_flow
    begin(alone.now)
    alone.settle()
    assert alone.client.session is not ended
    assert alone.client.session.in_use
    assert "the session ended: the server was stopped" in [note.text for note in alone.notes]


@pytest.mark.parametrize("rtt", [0.05, 1.0])
def test_an_unanswered_handshake_is_raced(rtt: float) -> None:
    alone = Alone(rtt=rtt)
    pause = max(ASK_RTTS * rtt, ASK_SECONDS)
    alone.wait(3.5 * pause)
    assert len(alone.asking) == len({message[16:48] for message in alone.asking.values()}) >= 4  # ephemerals
    gaps = [later - earlier for earlier, later in pairwise(alone.asked_at)][1:]  # before the first the RTT is not known
    assert all(0.9 * pause <= gap <= 1.1 * pause + 0.01 for gap in gaps)


@pytest.mark.parametrize("index", [0, 2])
def test_the_first_answer_wins(index: int) -> None:
    alone = Alone()
    alone.wait(1.3)
    alone.answer(STATUS_NEW, carrier=list(alone.asking)[index])
    assert alone.client.connected
    assert not [carrier for carrier in alone.asking if not carrier.closed and carrier is not list(alone.asking)[index]]
    alone.asking.clear()
    alone.asked_at.clear()
    alone.wait(10.0)
    assert alone.asked_at == []


def test_handshakes_that_are_unanswered_are_bounded_and_grow_rare() -> None:
    alone = Alone()
    for _ in range(100):
        alone.wait(1.0)
        assert len(alone.asking) <= MAX_ATTEMPTS
    assert len(alone.asking) == MAX_ATTEMPTS
    gaps = [later - earlier for earlier, later in pairwise(alone.asked_at)]
    assert max(gaps[:50]) < 0.6
    alone.wait(600.0)
    gaps = [later - earlier for earlier, later in pairwise(alone.asked_at)]
    assert min(gaps[-10:]) > 4.0
    assert max(gaps) < 6.0


def test_a_client_that_is_not_answered_dials_one_pool_and_handshakes() -> None:
    alone = Alone()
    alone.wait(3.0)
    pool = [carrier for carrier in alone.dialled if carrier not in alone.asking]
    assert len(pool) == ClientConfig().conns
    for carrier in pool:
        alone.client.carrier_eof(carrier, alone.now)
    alone.wait(100.0)
    assert len(alone.dialled) == len(pool) + len(alone.asked_at)


def test_an_answer_in_pieces() -> None:
    alone = Alone()
    alone.wait(0.1)
    (carrier,) = alone.asking
    message = alone.gate.respond(alone.asking[carrier], alone.now).answer(
        Answer(VERSION, STATUS_NEW, 0, SESSION, INSTANCE), fresh_ephemeral()
    )[0]
    for byte in message[:-1]:
        alone.client.carrier_received(carrier, bytes([byte]), alone.now)
    assert not alone.client.connected
    alone.client.carrier_received(carrier, message[-1:], alone.now)
    assert alone.client.connected


DOING = {
    "connected": lambda client, carrier, now: client.carrier_connected(carrier, 0.05, now),
    "failed": lambda client, carrier, now: client.carrier_dial_failed(carrier, "192.0.2.1:1: Connection refused", now),
    "read": lambda client, carrier, now: client.carrier_received(carrier, b"x" * 100, now),
    "ended": lambda client, carrier, now: client.carrier_eof(carrier, now),
    "lost": lambda client, carrier, now: client.carrier_lost(carrier, now),
}


@pytest.mark.parametrize("what", DOING)
@pytest.mark.parametrize("mode", MODES)
def test_what_a_handshake_that_was_given_up_reports_in_the_same_wake_is_nothing(mode: str, what: str) -> None:
    alone = Alone(config=ClientConfig(mode=MODES[mode], lassoes=4))
    alone.wait(1.3)
    _first, second = list(alone.asking)[:2]
    alone.answer(STATUS_NEW)
    assert second.closed
    dialled = len(alone.dialled)
    DOING[what](alone.client, second, alone.now)
    assert second not in alone.client.session.carriers.all
    alone.client.session.carriers.drop(next(iter(alone.client.session.carriers.all)), Op.RESET)
    alone.settle()
    assert len(alone.dialled) == dialled + 1, "no backoff"


def test_where_connections_bring_garbage_they_are_dialled_again_ever_more_rarely() -> None:
    alone = Alone(rtt=0.001)
    alone.wait(0.1)
    alone.answer(STATUS_NEW)
    before = len(alone.dialled)
    ends = alone.now + 10.0
    while alone.now < ends:
        for carrier in list(alone.client.session.carriers.all):
            alone.client.carrier_received(carrier, b"HTTP/1.1 400 Bad Request\r\n\r\n", alone.now)
        alone.wait(0.01)
    assert len(alone.dialled) - before < 60


def test_an_answer_that_continues_a_session_is_none_for_the_next_one() -> None:
    alone = Alone(config=ClientConfig(linger=5.0))
    alone.wait(0.1)
    alone.answer(STATUS_NEW)
    alone.client.open_stream(alone.now)
    alone.wait(4.9)
    assert alone.asking
    old = set(alone.asking)
    alone.wait(1.0)
    assert any("no contact for 5 s" in note.text for note in alone.notes)
    assert all(carrier.closed for carrier in old)
    assert not alone.client.connected


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4, bytes(80)])
def test_who_answers_without_the_key_is_not_believed(garbage: bytes) -> None:
    alone = Alone()
    alone.wait(0.1)
    (carrier,) = alone.asking
    alone.client.carrier_received(carrier, garbage, alone.now)
    alone.wait(5.0)
    assert carrier.closed
    assert not alone.client.connected
    assert alone.client.failed is None
    assert [note.level for note in alone.notes] == [logging.WARNING]
    assert "does not have this key" in alone.notes[0].text
    alone.answer(STATUS_NEW)
    assert alone.client.connected


# --- a server and clients that know a key


def test_clients_with_keys_of_their_own_get_sessions_of_their_own() -> None:
    server = Server(keys={"one": KEY, "two": OTHER_KEY})
    one, two = Peer(server, KEY), Peer(server, OTHER_KEY)
    assert [(session.name, session.id) for session in server.end.sessions.values()] == [
        ("one", one.answer.session_id),
        ("two", two.answer.session_id),
    ]
    one.send(one.carrier(), stream(0, 0, b"of the first"))
    two.send(two.carrier(), stream(0, 0, b"of the second"))
    assert one.stream(0) is not two.stream(0)
    assert [b"".join(each.stream(0).peek(99)) for each in (one, two)] == [b"of the first", b"of the second"]
    assert server.opened == [one.stream(0), two.stream(0)]


def test_a_client_cannot_continue_the_session_of_another_key() -> None:
    server = Server(keys={"one": KEY, "two": OTHER_KEY})
    one = Peer(server, KEY)
    one.send(one.carrier(), stream(0, 0, b"mine"))
    thief = Peer(server, OTHER_KEY, previous=one.answer.session_id)
    assert thief.answer.status == STATUS_NEW
    assert thief.answer.session_id != one.answer.session_id
    assert thief.session.name == "two"
    owner = Peer(server, KEY, previous=one.answer.session_id)
    assert (owner.answer.status, owner.answer.session_id) == (STATUS_CONTINUES, one.answer.session_id)


def test_a_client_cannot_greet_in_the_session_of_another_key() -> None:
    server = Server(keys={"one": KEY, "two": OTHER_KEY})
    one, thief = Peer(server, KEY), Peer(server, OTHER_KEY)
    carrier = server.connect()
    server.feed(carrier, one.answer.session_id + seal_hello(thief.sealer, 0, 5, 0, 0))
    assert carrier.session is None
    server.wait(40.0)
    assert server.ended[carrier][0] is Op.CLOSE
    assert not server.written[carrier]


@pytest.mark.parametrize("greets", [False, True])
def test_a_session_without_proof_expires_and_touches_no_target(greets: bool) -> None:
    server = Server()
    peer = Peer(server)
    if greets:
        peer.carrier()
    server.wait(PROVISIONAL_SECONDS - 0.01)
    assert peer.alive
    server.wait(0.02)
    assert peer.alive is greets
    assert server.opened == []


def test_a_hello_for_a_session_that_expired_is_refused() -> None:
    server = Server()
    peer = Peer(server)
    server.wait(PROVISIONAL_SECONDS + 1)
    carrier = server.connect()
    server.feed(carrier, peer.hello() + peer.shot(stream(0, 0, b"x")))
    assert carrier.session is None
    assert server.opened == []


def test_no_target_is_touched_before_a_sealed_shot_names_a_stream() -> None:
    server = Server()
    peer = Peer(server)
    line = peer.carrier()
    assert server.opened == []
    peer.send(line, stream(0))
    assert [opened.id for opened in server.opened] == [0]


def test_a_server_says_whom_it_refused() -> None:
    server = Server()
    carrier = server.connect("203.0.113.9")
    server.feed(carrier, Initiator(OTHER_KEY, fresh_ephemeral(), request()).message)
    quiet = server.connect("203.0.113.10")
    server.wait(31.0)
    assert server.lines == [
        "refused a connection from 203.0.113.9: a request that was made with no key known here",
        "closed a connection from 203.0.113.10: it said nothing",
    ]
    assert {op for op, _ in (server.ended[carrier], server.ended[quiet])} == {Op.CLOSE}


# --- both ends on a network


def network(client: ClientConfig | None = None, server: ServerConfig | None = None) -> Network:
    return Network(1, Line(), client, server)


def said(net: Network, end: int = 0) -> list[str]:
    return [note.text for note in net.notes[end] if note.level > logging.DEBUG]


def elapse(net: Network, seconds: float) -> None:
    """Let virtual time pass."""
    until = net.now + seconds
    net.at(until, lambda: None)
    net.run(lambda: net.now >= until, seconds + 1)


def restart_with(net: Network, keys: dict[str, bytes]) -> None:
    """The server comes back with these keys; the connections of the old one are reset."""
    carriers = [carrier for session in net.server.sessions.values() for carrier in session.carriers.all]
    net.server = ServerEnd(ServerConfig(), keys, random.Random(9), net.now)
    net.ends[1] = net.server
    for carrier in carriers:
        carrier.io.close(1, reset=True)


def test_a_key_that_was_removed_is_refused() -> None:
    net = network(ClientConfig(linger=20.0))
    net.open(Plan(0, (10_000_000, 0), [20_000]))
    net.run(lambda: len(net.programs[1]) == 1, 5)
    restart_with(net, {"another": OTHER_KEY})
    served = net.programs[1][0].count
    elapse(net, 15)
    assert not net.server.sessions
    assert net.programs[1][0].count == served
    net.run(lambda: net.programs[0][0].was_reset is not None, 20)
    elapse(net, 15)
    assert not net.client.connected
    assert net.client.failed is None
    assert said(net)[0] == "session established"
    assert "the server has another key" in said(net)[1]
    assert said(net)[2] == "no contact for 20 s; open streams that are reset: 1"


def test_a_key_that_is_put_back_is_served_again() -> None:
    net = network()
    elapse(net, 1)
    restart_with(net, {})
    elapse(net, 30)
    restart_with(net, {"sim": SIMULATED_KEY})
    elapse(net, 6)
    net.open(Plan(0, (36, 36), [36]))
    net.run(net.done, 1)
    net.verify()


def test_a_restart_of_the_server_is_said_once() -> None:
    net = network()
    for name in range(3):
        net.open(Plan(name, (0, 10_000_000), [20_000]))
    elapse(net, 0.2)
    restart_with(net, {"sim": SIMULATED_KEY})
    elapse(net, 5)
    assert said(net) == ["session established", "the server was restarted; open streams that are reset: 3"]
    assert [program.was_reset is not None for program in net.programs[0].values()] == [True] * 3


def test_a_server_says_whose_session_begins_and_ends() -> None:
    net = network()
    elapse(net, 1)
    net.client.stop(net.now)
    net.settle(0)
    elapse(net, 5)
    assert said(net, end=1) == ["session of sim from 192.0.2.1 established", "session of sim ended: the client was stopped"]


def test_trouble_is_said_once_and_so_is_its_end() -> None:
    net = network()
    net.server_up = False
    elapse(net, 20)
    assert said(net) == ["cannot reach the server at there: refused; still trying"]
    net.server_up = True
    net.run(lambda: net.client.connected, 10)
    elapse(net, 60)
    assert said(net) == ["cannot reach the server at there: refused; still trying", "session established"]


def ping_times(net: Network, seconds: float) -> list[float]:
    """When the server heard of its client."""
    (session,) = net.server.sessions.values()
    times, until = [session.heard_at], net.now + seconds
    net.at(until, lambda: None)
    while net.now < until:
        steps = net.steps
        net.run(lambda: net.steps > steps, seconds + 1)  # noqa: B023
        if session.heard_at > times[-1] + 0.5:
            times.append(session.heard_at)
    return times


def test_a_silent_session_with_streams_is_pinged_ever_more_rarely() -> None:
    config = ClientConfig(idle=100_000.0)  # nothing but pings
    net = network(config, ServerConfig(idle=100_000.0))
    net.open(Plan(0, (10, 10), [10], stopped=[True, True]))
    elapse(net, 1)
    gaps = [later - earlier for earlier, later in pairwise(ping_times(net, 400))]
    expected = [min(PING_FIRST * 2**n, PING_LAST) for n in range(len(gaps))]
    assert len(gaps) >= 8
    assert gaps == pytest.approx(expected, abs=0.2)


def test_a_session_that_hears_of_its_server_is_not_pinged() -> None:
    net = network()
    pinged_at = net.client._pinged_at
    net.open(Plan(0, (0, 500), [1], chatty=1.0))
    elapse(net, 60)
    assert net.programs[0][0].count > 60
    assert net.client._pinged_at == pinged_at


def test_a_session_without_streams_is_not_pinged() -> None:
    net = network(ClientConfig(idle=100_000.0), ServerConfig(idle=100_000.0))
    elapse(net, 1)
    assert len(ping_times(net, 100)) == 1


class Typist:
    """A program that writes when a test says so, and ignores what comes."""

    def __init__(self, net: Network) -> None:
        self._net = net
        self._stream = net.client.open_stream(net.now)
        self._stream.app = self
        net.by_stream[self._stream.id] = Plan(0, (1_000, 0), [1])

    def update(self, _now: float) -> None:
        """Nothing is expected."""

    def write(self, data: bytes) -> None:
        self._net.client.session.enter(self._net.now)
        self._stream.write(data)
        self._net.settle(0)


def test_who_writes_after_a_pause_is_not_taken_for_one_who_has_waited() -> None:
    """A handshake asks whether the session lives; with every pause of a typist that would be a connection for each keystroke."""
    net = network(ClientConfig(idle=100_000.0), ServerConfig(idle=100_000.0))
    typist = Typist(net)
    elapse(net, 1)
    (session,) = net.server.sessions.values()
    for pause in (1.5, 3.0, 10.0, 60.0):
        elapse(net, pause)
        received = session.counters.bytes_received
        typist.write(b"a keystroke")
        elapse(net, 0.5)
        assert session.counters.bytes_received > received
    assert session.epochs_made == 1
