"""Who proves no key gets not a byte, learns nothing from how it is closed, and disturbs nobody. Who proves one and breaks a rule
loses its session, and nobody else notices. Here on a clock of the test's own; test_hostile_real.py does it to programs.
"""

from __future__ import annotations

import random

import pytest
from hostile import Attack, Wiretap, attacks, forge
from hypothesis import example, given
from hypothesis import strategies as st
from peer import ELSEWHERE, KEY, Build, Peer, Server, ack, credit, fresh_ephemeral, ping, request, reset, stream, stream_credit
from shots import header

from tcsplitter._core import ACK, CLOSE, FINAL, HELLO, MAX_JUMP, PARITY, TAG_SIZE
from tcsplitter.carrier import Carrier, Op
from tcsplitter.errors import LocalProtocolError
from tcsplitter.handshake import ANSWER_SIZE, Initiator
from tcsplitter.newcomers import LONGEST_SECONDS, SHORTEST_SECONDS


def make_wiretap(peer: Peer) -> Wiretap:
    """Have `peer` send a whole carrier, and make a hello that never arrives."""
    carrier = peer.server.connect()
    data = peer.hello() + peer.shot(stream(0, 0, b"once"), final=True)
    peer.server.feed(carrier, data)
    peer.server.eof(carrier)
    return Wiretap(peer.first_message, data, peer.hello())


class Scene:
    """A server with an honest client that has a stream open, and what can be recorded of another one."""

    def __init__(self) -> None:
        self.server = Server()
        self.honest = Peer(self.server)
        self.line = self.honest.carrier()
        self.honest.send(self.line, stream(0, 0, b"a"))
        self.tapped = Peer(self.server)
        self.tap = make_wiretap(self.tapped)

    def play(self, attack: Attack, at_once: bool = False) -> Carrier:
        """`at_once`: what comes first is there when the connection is accepted."""
        carrier = self.server.end.accepted(ELSEWHERE, self.server.now) if at_once else self.server.connect()
        for step in attack:
            if step is None:
                self.server.eof(carrier)
            elif isinstance(step, float):
                self.server.wait(step)
            else:
                self.server.feed(carrier, step)
        return carrier

    def check_the_honest(self) -> None:
        """Its session lives: what it sends arrives and is acknowledged."""
        number, size = self.honest.number, self.honest.stream(0).readable
        self.honest.read(self.line)
        self.honest.send(self.line, stream(0, size, b"b"))
        self.server.wait(0.1)
        assert self.honest.stream(0).readable == size + 1
        acks = [frame for frame in self.honest.read(self.line) if frame[0] == ACK]
        assert any(low <= number <= high for each in acks for low, high in each[3])


def names() -> list[str]:
    return list(attacks(Wiretap(bytes(96), bytes(100), bytes(44))))


# ---------------------------------------------------------------------------------------- who proves no key


@pytest.mark.parametrize("at_once", [False, True])
def test_every_attack_is_met_by_silence_and_the_same_deadline(at_once: bool) -> None:
    outcomes = {}
    for name in names():
        scene = Scene()
        began = scene.server.now
        carrier = scene.play(attacks(scene.tap)[name], at_once)
        assert carrier not in scene.server.ended, name
        scene.server.wait(LONGEST_SECONDS)
        scene.check_the_honest()
        assert carrier not in scene.server.written, name
        op, at = scene.server.ended[carrier]
        outcomes[name] = op, at - began
    assert set(outcomes.values()) == {outcomes["silence"]}
    assert outcomes["silence"][0] is Op.CLOSE
    assert SHORTEST_SECONDS <= outcomes["silence"][1] <= LONGEST_SECONDS


def test_deadlines_are_spread() -> None:
    server = Server()
    crowd = [server.connect(f"198.51.100.{number}") for number in range(200)]
    began = server.now
    server.wait(LONGEST_SECONDS)
    ages = [server.ended[carrier][1] - began for carrier in crowd]
    assert min(ages) >= SHORTEST_SECONDS
    assert max(ages) - min(ages) > 0.9 * (LONGEST_SECONDS - SHORTEST_SECONDS)
    assert len(set(ages)) > 150


@pytest.mark.parametrize("name", ["a replayed connection", "a replayed handshake", "a replayed hello"])
def test_a_replay_does_nothing_at_any_time(name: str) -> None:
    scene = Scene()
    for pause in (0.0, 1.0, 12.0, 30.0):
        scene.server.wait(pause)
        carrier = scene.play(attacks(scene.tap)[name])
        assert carrier.session is None
        assert carrier not in scene.server.written
    assert len(scene.server.opened) == 2
    scene.check_the_honest()


def test_an_attacker_who_leaves_is_forgotten() -> None:
    scene = Scene()
    for name in names():
        carrier = scene.play(attacks(scene.tap)[name])
        scene.server.end.carrier_lost(carrier, scene.server.now)
        scene.server.settle()
    scene.server.wait(LONGEST_SECONDS)
    assert {op for op, _ in scene.server.ended.values()} <= {Op.RESET, Op.CLOSE}
    scene.check_the_honest()


def test_a_client_that_proved_the_key_and_stalls_is_closed_by_the_deadline() -> None:
    server = Server()
    began = server.now
    Peer(server)
    server.wait(LONGEST_SECONDS)
    (carrier,) = server.written
    assert server.ended[carrier][0] is Op.CLOSE
    assert SHORTEST_SECONDS <= server.ended[carrier][1] - began <= LONGEST_SECONDS


def test_a_client_that_says_hello_and_stalls_is_closed_when_it_was_idle_for_twice_the_time() -> None:
    server = Server()
    carrier = Peer(server).carrier()
    began = server.now
    server.wait(60.0)
    assert carrier not in server.written
    assert server.ended[carrier][0] is Op.CLOSE
    assert server.ended[carrier][1] - began == pytest.approx(50.0, abs=0.1)


def test_an_honest_handshake_in_drops_is_answered() -> None:
    scene = Scene()
    message = Initiator(KEY, fresh_ephemeral(), request()).message
    carrier = scene.play([step for byte in message for step in (bytes([byte]), 0.05)])
    assert len(scene.server.written[carrier]) == ANSWER_SIZE


garbage = st.binary(min_size=1, max_size=300)


@given(st.lists(garbage, max_size=6), st.booleans())
def test_garbage_in_any_pieces_is_met_by_silence(pieces: list[bytes], fin: bool) -> None:
    scene = Scene()
    carrier = scene.play([*pieces, *([None] if fin else [])])
    assert carrier not in scene.server.written
    assert carrier not in scene.server.ended
    scene.server.wait(LONGEST_SECONDS)
    assert scene.server.ended[carrier][0] is Op.CLOSE
    scene.check_the_honest()


@given(st.data())
def test_a_genuine_connection_with_a_bit_changed_or_bytes_missing(data: st.DataObject) -> None:
    scene = Scene()
    genuine = scene.tapped.hello() + scene.tapped.shot(stream(2, 0, b"secret" * 30), final=True)
    at = data.draw(st.integers(0, len(genuine) - 1))
    missing = data.draw(st.integers(0, 20))
    changed = bytes([genuine[at] ^ data.draw(st.integers(1, 255))]) if not missing else b""
    forged = genuine[:at] + changed + genuine[at + max(missing, 1) :]
    cut = data.draw(st.integers(0, len(forged)))
    carrier = scene.play([forged[:cut], forged[cut:], None])
    scene.server.wait(LONGEST_SECONDS)
    hello_size = 47
    if at < hello_size:
        assert carrier not in scene.server.written
    assert len(scene.server.opened) == 2
    assert scene.tapped.alive
    scene.check_the_honest()


# ------------------------------------------------------------------------------- carriers that turn to garbage


def turns(peer: Peer) -> dict[str, bytes]:
    """What may follow on a carrier that was genuine so far; none of it may act, and none of it ends the session."""
    shot = peer.shot(stream(0, 0, bytes(5000)))
    rng = random.Random(1)
    return {
        "garbage": rng.randbytes(3000),
        "garbage in the middle of a shot": shot[:1000] + rng.randbytes(len(shot) - 1000),
        "a shot with a bit changed": shot[:-1] + bytes([shot[-1] ^ 1]),
        "a forged number far ahead": forge(shot, 2**40),
        "the largest number": forge(shot, 2**64 - 1),
        "an unknown epoch": shot[:1] + b"\xc8" + shot[2:],
        "flags unheard of": b"\x80" + shot[1:],
        "parity": bytes([PARITY]) + shot[1:],
        "a second hello": peer.hello()[8:],
        "a shot too long": header(0, 0, 2**24 - 1, 7),
        "a shot too short": header(0, 0, 17, 7),
        "the same shot twice": shot + shot,
    }


@pytest.mark.parametrize("name", list(turns(Scene().tapped)))
@pytest.mark.parametrize("whole", [True, False])
def test_a_carrier_that_turns_to_garbage_ends_alone(name: str, whole: bool) -> None:
    scene = Scene()
    peer = scene.tapped
    carrier, other = peer.carrier(), peer.carrier()
    data = turns(peer)[name]
    for piece in [data] if whole else [data[at : at + 700] for at in range(0, len(data), 700)]:
        if carrier not in scene.server.ended:
            scene.server.feed(carrier, piece)
    assert scene.server.ended[carrier][0] is Op.RESET
    peer.send(other, stream(2, 0, b"still here"))
    assert peer.stream(2).readable == 10
    assert peer.alive
    scene.check_the_honest()


# ------------------------------------------------------------------ clients that know the key and break the rules


BROKEN_RULES: dict[str, Build] = {
    "an offset far ahead": stream(0, 2**40, b"x"),
    "a final size far ahead": reset(0, 0, 2**40),
    "data beyond the end": stream(0, 1, b"y", True),
    "an ack of what was never sent": ack(1000),
    "credit for a stream that the server has not opened": stream_credit(1, 10),
    "data on a stream that the server has not opened": stream(1),
    "a reset of a stream that the server has not opened": reset(3),
}


@pytest.mark.parametrize("name", list(BROKEN_RULES))
def test_a_client_that_breaks_a_rule_loses_its_session_alone(name: str) -> None:
    scene = Scene()
    peer = Peer(scene.server)
    carrier = peer.carrier()
    peer.send(carrier, stream(0, 0, b"xyz"), stream(2, 0, b"x"))
    if name == "data beyond the end":
        peer.send(carrier, stream(0, 3, fin=True))
    mine = [peer.stream(0), peer.stream(2)]
    scene.server.wait(0.05)
    peer.read(carrier)
    peer.send(carrier, stream(0, 4, b"!") if name == "data beyond the end" else BROKEN_RULES[name])
    assert [frame[:2] for frame in peer.read(carrier)] == [(CLOSE, 1)]
    assert not peer.alive
    assert [each.reset_code for each in mine] == [0, 0]
    assert any("protocol error" in line for line in scene.server.lines)
    scene.check_the_honest()


def test_a_jump_of_shot_numbers_ends_the_session() -> None:
    scene = Scene()
    peer = scene.tapped
    carrier = peer.carrier()
    scene.server.feed(carrier, peer.shot(ping(), number=peer.number + MAX_JUMP - 1))
    assert peer.alive
    scene.server.feed(carrier, peer.shot(ping(), number=peer.number + MAX_JUMP))
    assert not peer.alive
    scene.check_the_honest()


def test_numbers_may_skip_and_the_late_ones_are_dropped() -> None:
    scene = Scene()
    peer = scene.tapped
    carrier = peer.carrier()
    first = peer.shot(stream(2, 0, b"late"))
    scene.server.feed(carrier, peer.shot(ping(), number=peer.number + 2**20))
    scene.server.feed(carrier, first)
    assert peer.session.streams.get(2) is None
    assert carrier not in scene.server.ended
    peer.send(carrier, stream(2, 0, b"again"))
    assert peer.stream(2).readable == 5


small = st.sampled_from([0, 1, 2, 3, 4, 7, 63, 64])
edges = small | st.sampled_from([65_535, 65_536, 65_537, 2**25, 2**25 + 1, 2**30, 2**40, 2**62 - 2, 2**62 - 1])
frames: st.SearchStrategy[Build] = st.one_of(
    st.builds(stream, small, edges, st.binary(max_size=40), st.booleans()),
    st.builds(reset, small, edges, edges),
    st.builds(stream_credit, small, edges),
    st.builds(credit, edges),
    st.builds(ack, small),
    st.just(ping()),
)


@given(st.lists(st.lists(frames, min_size=1, max_size=4), max_size=12), st.integers(0, 3))
@example([[reset(0, 0, 2**25 + 1)]], 0)
def test_whatever_frames_a_client_seals_the_server_goes_on(shots: list[list[Build]], consumed: int) -> None:
    scene = Scene()
    peer = Peer(scene.server)
    carrier = peer.carrier()
    for each in shots:
        try:
            data = peer.shot(*each)
        except LocalProtocolError:  # it cannot even be written
            continue
        scene.server.feed(carrier, data)
        for open_stream in list(peer.session.streams):
            open_stream.consume(min(consumed, open_stream.readable), 0.0)
        scene.server.wait(0.03)
    scene.check_the_honest()


@given(st.binary(max_size=200), st.sampled_from([0, FINAL, HELLO, PARITY]))
def test_whatever_body_a_client_seals_the_server_goes_on(body: bytes, flags: int) -> None:
    scene = Scene()
    peer = scene.tapped
    carrier = peer.carrier()
    number = peer.number
    head = header(flags, 0, len(body) + TAG_SIZE, number)
    scene.server.feed(carrier, head + peer.sealer.encrypt(bytes(4) + number.to_bytes(8, "big"), body, head))
    scene.server.wait(1.0)
    scene.check_the_honest()
