"""Parity and twins between two sessions: what is rebuilt, what is acknowledged how, and what becomes of the other copies."""

from __future__ import annotations

import random
from dataclasses import replace

import peer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peer import KEY, Peer, Server, fresh_ephemeral, request
from session_pair import CLIENT, NOW, SERVER, SIZE, Pair, Sent, acks, data_shots, listed, parity_shots
from stream_ends import read

from tcsplitter import receiving, server_end
from tcsplitter._core import FINAL, Fec
from tcsplitter.carrier import Carrier, Op
from tcsplitter.client_end import ClientConfig, ClientEnd
from tcsplitter.handshake import NO_SESSION, STATUS_NEW, VERSION, Answer, Gate
from tcsplitter.modes import MODES, Kind
from tcsplitter.options import Fec as Setting
from tcsplitter.options import Retries
from tcsplitter.rebuild import KEEP_SECONDS, SWEEP_SECONDS
from tcsplitter.server_end import ServerConfig
from tcsplitter.shared import Handling

NOISE = random.Random(9).randbytes(200 * SIZE)
SOME = Handling(size=SIZE, fec=Setting(3, 1), hedge=False)
AUTO = Handling(size=SIZE, fec=Setting(auto=True), hedge=False)
HEDGED = Handling(size=SIZE)


def send(pair: Pair, count: int = 3, side: int = CLIENT, size: int = SIZE) -> list[Sent]:
    """An end writes so many payloads to the stream, on a line that takes them all; what leaves."""
    session = pair.sessions[side]
    (stream,) = session.streams
    start = stream.final_size
    pair.widen(side)
    stream.write(NOISE[start : start + count * size])
    return pair.flush()


def opened(handling: Handling = SOME, **more: object) -> Pair:
    pair = Pair(handling, **more)  # type: ignore[arg-type]
    pair.open()
    return pair


# --- a shot that is rebuilt


def test_a_lost_shot_is_rebuilt_and_acknowledged_as_such() -> None:
    pair = opened()
    shots = send(pair)
    first, second, third = data_shots(shots)
    (parity,) = parity_shots(shots)
    assert parity.covers == [first.number, second.number, third.number]
    assert len({shot.carrier for shot in shots}) == 4
    pair.lose(second)
    pair.deliver(first, parity, third)
    assert read(next(iter(pair.server.streams))) == NOISE[: 3 * SIZE]
    answers = pair.wait(0.03)
    for _kind, _answered, _delay, ranges, rebuilt in acks(answers):
        assert listed(ranges).isdisjoint({second.number})
        assert listed(rebuilt) == {second.number}
    assert acks(answers)
    pair.settle()
    (stream,) = pair.client.streams
    assert stream.unacknowledged == 0
    lost = pair.sent(second)
    assert lost is not None
    assert lost.rebuilt
    assert (pair.counted(CLIENT, "parity_sent"), pair.counted(SERVER, "parity_received")) == (1, 1)
    assert (pair.counted(SERVER, "shots_rebuilt"), pair.counted(SERVER, "stripes_lost")) == (1, 0)
    assert (pair.counted(CLIENT, "shots_lost"), pair.counted(CLIENT, "payloads_resent")) == (0, 0)


@given(lost=st.sets(st.integers(0, 11), max_size=3), order=st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_whatever_is_lost_of_a_stripe_is_rebuilt_if_enough_is_left(lost: set[int], order: random.Random) -> None:
    pair = opened(replace(SOME, fec=Setting(9, 3)))
    shots = send(pair, 9)
    assert [shot.is_parity for shot in shots] == [False] * 9 + [True] * 3
    pair.lose(*[shots[number] for number in lost])
    rest = [shot for number, shot in enumerate(shots) if number not in lost]
    order.shuffle(rest)
    for shot in rest:
        pair.deliver(shot)
    assert read(next(iter(pair.server.streams))) == NOISE[: 9 * SIZE]
    late = [shot for shot in shots[:9] if shot not in rest]
    assert pair.counted(SERVER, "shots_rebuilt") >= len(late)
    pair.settle()
    assert next(iter(pair.client.streams)).unacknowledged == 0
    for shot in late:
        pair.deliver(shot)
    pair.settle()
    assert not pair.reset
    assert (pair.counted(SERVER, "shots_refused"), pair.counted(CLIENT, "shots_lost")) == (0, 0)
    assert not pair.client.recovery.lost


def lose_and_rebuild() -> tuple[Pair, Sent]:
    """A pair of which one shot was rebuilt, all acks of that having arrived; and the shot, which is still on its way."""
    pair = opened()
    shots = send(pair)
    original = shots[1]
    pair.wire.remove(original)
    pair.deliver(shots[0], *shots[2:])
    pair.settle()
    assert read(next(iter(pair.server.streams))) == NOISE[: 3 * SIZE]
    return pair, original


def test_the_original_that_comes_late_is_news_of_its_carrier_only() -> None:
    pair, original = lose_and_rebuild()
    (theirs,) = pair.server.streams
    carrier = pair.other[original.carrier]
    assert carrier in pair.server.carriers.idle[Kind.FLING]
    before = pair.counted(SERVER, "shots_received")
    pair.deliver(original)
    assert theirs.readable == 0
    assert pair.counted(SERVER, "shots_received") == before + 1
    assert carrier.rx_final
    assert carrier.ack_by < NOW + 60.0
    answers = pair.wait(0.03)
    assert [shot.carrier for shot in answers] == [carrier]
    ((_, answered, _, ranges, rebuilt),) = acks(answers)
    assert answered == original.number
    assert original.number in listed(ranges)
    assert original.number not in listed(rebuilt)
    pair.settle()
    assert pair.sent(original) is None
    assert pair.client.recovery.wrong_verdicts == 0
    assert not pair.reset


def test_a_third_copy_is_a_repeated_number() -> None:
    pair, original = lose_and_rebuild()
    pair.deliver(original)
    again = pair.connect(Carrier(Kind.FLING, pair.now))
    pair.deliver(original, on=again)
    assert pair.reset == [pair.other[again]]
    assert pair.counted(SERVER, "shots_refused") == 1
    assert pair.server.closed is None


def test_the_original_of_a_rebuilt_shot_has_to_open() -> None:
    pair, original = lose_and_rebuild()
    forged = Sent(CLIENT, original.carrier, original.sealed[:-1] + bytes([original.sealed[-1] ^ 1]), pair.now)
    again = pair.connect(Carrier(Kind.FLING, pair.now))
    pair.deliver(forged, on=again)
    assert pair.reset == [pair.other[again]]
    pair.deliver(original)
    pair.settle()
    assert pair.sent(original) is None, "a forgery does not keep the true one from being taken"
    assert len(pair.reset) == 1


def test_the_end_of_its_carrier_tells_that_a_rebuilt_shot_never_comes() -> None:
    pair, original = lose_and_rebuild()
    share = pair.client.recovery.lateness.share
    assert data_shots(pair.kill(original.carrier, CLIENT)) == []
    assert pair.client.recovery.lateness.share > share
    (stream,) = pair.client.streams
    assert not stream.has_lost
    assert (pair.counted(CLIENT, "shots_lost"), pair.counted(CLIENT, "payloads_resent")) == (0, 0)


def test_what_comes_in_the_same_wake_as_its_parity_is_not_rebuilt() -> None:
    pair = opened()
    one, two, three, parity = send(pair)
    pair.deliver(one, parity, three, two)
    assert pair.counted(SERVER, "shots_rebuilt") == 0
    assert read(next(iter(pair.server.streams))) == NOISE[: 3 * SIZE]
    assert pair.server._receiver.rebuilder._stripe_bytes == 0
    pair.settle()
    assert not pair.client.recovery.sent
    assert not pair.client.recovery.lost


def test_a_final_shot_that_is_rebuilt_does_not_finish_any_carrier() -> None:
    pair, original = lose_and_rebuild()
    assert original.sealed[0] & FINAL
    assert not pair.other[original.carrier].rx_final


def test_what_is_rebuilt_and_finds_no_room_is_taken_in_when_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = opened()
    (theirs,) = pair.server.streams
    first, second = send(pair), send(pair)
    with monkeypatch.context() as patch:
        patch.setattr(receiving, "MAX_PIECES", 2)
        pair.deliver(second[0], second[2])
        assert pair.server.streams.pieces == 2
        pair.deliver(second[3])
        assert listed([each for ack in acks(pair.wait(0.03)) for each in ack[4]]) == set()
        assert theirs.incoming.held == 2 * SIZE
    pair.deliver(*first)
    pair.deliver(second[1])
    pair.settle()
    assert read(theirs) == NOISE[: 6 * SIZE], "what was acknowledged was taken in"
    assert not pair.reset


# --- every kind of session


def lost_of_each_stripe(shots: list[Sent]) -> list[Sent]:
    """The first data shot of every stripe."""
    lost = {parity.covers[0] for parity in parity_shots(shots)}
    return [shot for shot in shots if not shot.is_parity and shot.number in lost]


@pytest.mark.parametrize("side", [CLIENT, SERVER], ids=["up", "down"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("handling", [SOME, AUTO], ids=["3:1", "auto"])
def test_streams_of_all_modes_are_rebuilt_in_both_directions(handling: Handling, mode: str, side: int) -> None:
    pair = opened(handling, mode=mode)
    pair.sessions[side].recovery.lateness.share = 0.05
    shots = send(pair, 6, side)
    assert {shot.side for shot in shots} == {side}
    carries = MODES[mode].carries(side == CLIENT)
    assert {shot.carrier.kind for shot in shots} <= set(carries)
    lost = lost_of_each_stripe(shots)
    assert lost
    pair.lose(*lost)
    pair.settle()
    (mine,), (theirs,) = pair.sessions[side].streams, pair.sessions[1 - side].streams
    assert read(theirs) == NOISE[: 6 * SIZE]
    assert mine.unacknowledged == 0
    assert pair.counted(1 - side, "shots_rebuilt") == len(lost)
    assert pair.counted(side, "parity_sent") == pair.counted(1 - side, "parity_received") == len(parity_shots(shots))
    assert pair.counted(side, "payloads_resent") == 0


@pytest.mark.parametrize("mode", MODES)
def test_datagrams_of_all_modes_are_rebuilt_in_both_directions(mode: str) -> None:
    pair = Pair(SOME, mode, datagrams=True)
    up = pair.client.flows.open()
    assert up is not None
    for side in (CLIENT, SERVER):
        flow = pair.flow(side)
        pair.widen(side)
        for number in range(6):
            flow.send(bytes([number]) * 700, pair.now)
        pair.wait(0.02)
        lost = lost_of_each_stripe(pair.wire)
        assert len(lost) == 2
        pair.lose(*lost)
        pair.settle()
        found = pair.flow(1 - side)
        came = []
        while found.readable:
            came.append(found.take())
        assert sorted(came) == [bytes([number]) * 700 for number in range(6)]
        assert pair.counted(1 - side, "shots_rebuilt") == 2
        assert flow.unacknowledged == 0


@pytest.mark.parametrize("resend", [True, False])
def test_what_is_rebuilt_is_not_given_up(resend: bool) -> None:
    pair = opened(replace(SOME, retries=Retries(resend=resend)))
    shots = send(pair, 6)
    lost = lost_of_each_stripe(shots)
    pair.lose(*lost)
    pair.settle()
    for shot in lost:
        pair.kill(shot.carrier, CLIENT)
    pair.settle()
    assert read(next(iter(pair.server.streams))) == NOISE[: 6 * SIZE]
    assert (pair.counted(CLIENT, "payloads_given_up"), pair.counted(CLIENT, "payloads_resent")) == (0, 0)


def test_stripes_that_lack_too_much_are_repaired_as_ever() -> None:
    pair = opened()
    shots = send(pair)
    pair.lose(shots[0], shots[1])
    pair.settle()
    for shot in (shots[0], shots[1]):
        pair.kill(shot.carrier, CLIENT)
    pair.settle()
    assert read(next(iter(pair.server.streams))) == NOISE[: 3 * SIZE]
    assert pair.counted(CLIENT, "payloads_resent") == 2
    pair.wait(15.0)
    assert pair.server._receiver.rebuilder.held == 0
    assert pair.counted(SERVER, "stripes_lost") <= 1


def test_with_reuse_a_stripe_uses_no_carrier_twice() -> None:
    pair = opened(SOME, reuse=0, carriers=5, fixed=True)
    shots = send(pair, 30)
    by_number = {shot.number: shot for shot in shots}
    assert len(parity_shots(shots)) >= 3
    for parity in parity_shots(shots):
        used = [by_number[number].carrier for number in parity.covers]
        assert len(set(used)) == len(used)
        assert parity.carrier not in used
    pair.lose(*lost_of_each_stripe(shots))
    pair.settle()
    assert read(next(iter(pair.server.streams))) == NOISE[: 30 * SIZE]


def test_a_pool_too_small_for_parity_goes_on_without() -> None:
    pair = opened(SOME, reuse=0, carriers=1, fixed=True)
    send(pair, 10)
    pair.settle()
    pair.wait(5.0)
    pair.settle()
    assert read(next(iter(pair.server.streams))) == NOISE[: 10 * SIZE]
    assert pair.counted(CLIENT, "parity_sent") == 0


def test_without_parity_nothing_is_kept() -> None:
    pair = opened(Handling(size=SIZE))
    send(pair, 10)
    pair.settle()
    for session in pair.sessions:
        assert not session._receiver.rebuilder.keeping
        assert session._receiver.rebuilder.held == 0


# --- memory


def test_what_is_kept_counts_as_held_and_is_let_go() -> None:
    pair = opened(replace(SOME, fec=Setting(20, 1)))
    pair.deliver(*send(pair, 5))
    kept = pair.server._receiver.rebuilder.held
    assert kept > 5 * SIZE
    assert pair.server.held == next(iter(pair.server.streams)).readable + kept
    pair.server.forget_kept()
    assert pair.server._receiver.rebuilder.held == 0
    pair.deliver(*send(pair, 5))
    assert pair.server._receiver.rebuilder.held > 0
    assert pair.server.deadline() <= pair.now + KEEP_SECONDS + SWEEP_SECONDS
    pair.wait(KEEP_SECONDS + SWEEP_SECONDS + 0.1)
    assert pair.server._receiver.rebuilder.held == 0


def test_a_server_that_has_no_room_lets_go_of_what_only_parity_may_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_end, "MAX_HELD", 10_000)
    server, client = talk(may_send=True)
    line = client.carrier()
    for number in range(5):
        client.send(line, peer.stream(0, 1_000 * number, bytes(1_000)))
        client.stream(0).consume(1_000, server.now)
    assert client.session._receiver.rebuilder.held > 5_000
    for number in range(5, 12):
        client.send(line, peer.stream(0, 1_000 * number, bytes(1_000)))
    server.settle()
    assert client.session.held < 11_100
    assert client.stream(0).readable == 7_000
    assert client.alive


# --- who may send parity says so in the handshake


def talk(may_send: bool, config: ServerConfig | None = None) -> tuple[Server, Peer]:
    """A server, and a client that said in its request whether it may send parity."""
    asked = replace(request(), parity=may_send)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peer, "request", lambda previous=NO_SESSION: replace(asked, previous=previous))
        server = Server(config=config)
        return server, Peer(server)


@pytest.mark.parametrize("may_send", [True, False])
def test_a_server_keeps_shots_from_the_start_if_the_client_may_send_parity(may_send: bool) -> None:
    _server, client = talk(may_send)
    line = client.carrier()
    first = client.number
    shots = [client.shot(peer.stream(0, number, b"xyz"[number : number + 1])) for number in range(3)]
    for shot in shots[1:]:
        client.server.feed(line, shot)
    assert (client.session._receiver.rebuilder.held > 0) == may_send
    client.writer.begin(0, 0)
    numbers = list(range(first, first + 3))
    client.writer.parity(0, 3, 1, numbers, Fec(3, 1).encode(shots)[0])
    client.server.feed(line, client.writer.seal(client.sealer, 0, client.answer.epoch, client.number))
    client.number += 1
    stream = client.stream(0)
    assert stream.readable == (3 if may_send else 0), "whoever did not expect parity has not kept what it takes"
    assert client.session._receiver.rebuilder.keeping
    client.server.feed(client.carrier(), shots[0])
    assert read(stream) == b"xyz"


def test_a_session_that_goes_on_with_new_keys_still_keeps() -> None:
    server, client = talk(may_send=True)
    again = Peer(server, previous=client.answer.session_id)
    assert again.session is client.session
    assert again.session._receiver.rebuilder.keeping


@pytest.mark.parametrize("fec", [Setting(), Setting(10, 3), Setting(auto=True)])
def test_both_ends_say_whether_they_may_send_parity(fec: Setting) -> None:
    _, asked = talk(False, ServerConfig(handling=Handling(fec=fec)))
    assert asked.answer.parity == fec.used
    client = ClientEnd(ClientConfig(handling=Handling(fec=fec)), "peer", KEY, random.Random(1), NOW)
    client.flush(NOW)
    client.tend(NOW)
    for op, carrier, _ in client.outbox.take_actions():
        if op is Op.DIAL:
            client.carrier_connected(carrier, 0.05, NOW)
    client.flush(NOW)
    ((dialled, message),) = [(carrier, data) for op, carrier, data in client.outbox.take_actions() if op is Op.WRITE]
    responder = Gate({"peer": KEY}, NOW).respond(message, NOW)
    assert responder.request.parity == fec.used
    assert not client.session._receiver.rebuilder.keeping
    answer = Answer(VERSION, STATUS_NEW, 0, b"sessions", b"instance", parity=fec.used)
    client.carrier_received(dialled, responder.answer(answer, fresh_ephemeral())[0], NOW)
    assert client.session._receiver.rebuilder.keeping == fec.used
