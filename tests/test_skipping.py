"""What the ends tell each other of payloads that are not waited for, and when one counts as lost."""

from __future__ import annotations

import random

import pytest
from peer import Peer, Server, ack, ping, stream
from stream_ends import NOW, End, Frame, Shot

from tcsplitter._core import ASK, RESET, SKIP, STREAM, STREAM_CREDIT
from tcsplitter.credit import FAST_GROWTH, INITIAL_WINDOW, PACED_SECONDS, WINDOW_SHARE
from tcsplitter.errors import RemoteProtocolError
from tcsplitter.options import Playout, Retries
from tcsplitter.recovery import GIVE_UP_SECONDS, LOST_SECONDS
from tcsplitter.server_end import ServerConfig
from tcsplitter.shared import Handling
from tcsplitter.streams import GIVEN_UP, Stream

SIZE = 100
NOISE = random.Random(1).randbytes(100 * SIZE)
BEAT = 0.04
RETRIES = [Retries(resend=resend, skip=skip) for resend in (False, True) for skip in (-1, 0, 3)]
UNREPLACED = [Retries(resend=False, skip=skip) for skip in (0, 3)]


# --- what is told about it


def receiving(attempts: int, beat: float = 0.0) -> End:
    """A server whose client wishes gaps to be passed."""
    end = End(client=False, handling=Handling(size=SIZE, playout=Playout(beat=beat)))
    end.table.set_peer_skip(attempts)
    return end


def sending(retries: Retries, count: int) -> tuple[End, Stream, list[Shot]]:
    """A client that has sent so many payloads."""
    end = End(client=True, handling=Handling(size=SIZE, retries=retries))
    stream = end.table.open()
    stream.write(bytes(count * SIZE))
    return end, stream, end.shots()


def stream_of(end: End) -> Stream:
    stream = end.table.get(0)
    assert stream is not None
    return stream


def frames(shots: list[Shot]) -> list[Frame]:
    return [frame for shot in shots for frame in shot.frames]


@pytest.mark.parametrize("retries", UNREPLACED, ids=str)
def test_a_stream_whose_first_payload_is_lost_is_opened_all_the_same(retries: Retries) -> None:
    client, _, (shot,) = sending(retries, 1)
    client.lost(shot)
    again = client.shots()
    assert frames(again) == [(STREAM, 0, SIZE, b"", False)]
    server = receiving(retries.skip)
    server.take(*frames(again))
    server.shared.now += 1
    server.shared.beats.run(server.shared.now)
    assert stream_of(server).incoming.read_offset == SIZE
    assert frames(server.shots()) == [(SKIP, 0, SIZE)]


def test_a_sender_that_lost_a_whole_window_gets_more_credit() -> None:
    client, stream, shots = sending(UNREPLACED[0], 2 * INITIAL_WINDOW // SIZE)
    server = receiving(0)
    assert stream.unsent
    for shot in shots:
        client.lost(shot)
    told = 0
    while stream.unsent:
        under_way = client.shots()
        assert under_way
        for shot in under_way:
            for frame in shot.frames:
                server.take(frame)
            client.acked(shot)
        server.shared.beats.run(server.shared.now)
        while stream_of(server).readable:
            stream_of(server).consume(stream_of(server).readable, server.shared.now)
            server.shared.beats.run(server.shared.now)
        for frame in frames(server.shots()):
            told += frame[0] == STREAM_CREDIT
            if frame[0] != SKIP:
                client.take(frame)
    assert told > 0
    assert server.shared.counters.payloads_skipped == len(shots)


def test_what_the_other_end_passed_is_not_sent_again() -> None:
    client, _, shots = sending(Retries(resend=True, skip=3), 4)
    client.lost(shots[0])
    client.lost(shots[1])
    client.acked(shots[1])  # late: it was not lost after all
    client.table.pass_by(0, 3 * SIZE)
    client.lost(shots[2])
    client.lost(shots[3])
    assert [(frame[2], len(frame[3])) for frame in frames(client.shots())] == [(3 * SIZE, SIZE)]
    assert client.shared.counters.payloads_given_up == 2
    assert client.shared.sending.lost_chunks == 0


def test_a_smaller_offset_that_comes_later_changes_nothing() -> None:
    client, _, shots = sending(Retries(resend=True, skip=3), 3)
    client.table.pass_by(0, 2 * SIZE)
    client.table.pass_by(0, SIZE)
    for shot in shots:
        client.lost(shot)
    assert [frame[2] for frame in frames(client.shots())] == [2 * SIZE]


def test_the_end_goes_again_without_the_data_that_was_lost_with_it() -> None:
    client, stream, shots = sending(UNREPLACED[0], 1)
    stream.write(bytes(SIZE))
    stream.finish()
    (last,) = client.shots()
    client.acked(shots[0])
    client.lost(last)
    (again,) = client.shots()
    assert again.frames == [(STREAM, 0, 2 * SIZE, b"", True)]
    client.lost(again)
    assert frames(client.shots()) == [(STREAM, 0, 2 * SIZE, b"", True)]
    assert client.shared.counters.payloads_resent == 0


@pytest.mark.parametrize("beyond", [0, 1, 2**61])
def test_passing_by_what_was_not_sent_is_a_protocol_error(beyond: int) -> None:
    client, _, _ = sending(Retries(), 2)
    if not beyond:
        client.table.pass_by(0, 2 * SIZE)
        return
    with pytest.raises(RemoteProtocolError, match="was not sent"):
        client.table.pass_by(0, 2 * SIZE + beyond)
    with pytest.raises(RemoteProtocolError, match="has not opened"):
        client.table.pass_by(2, 0)


def test_passing_by_a_stream_that_is_gone_or_reset_means_nothing() -> None:
    client, stream, shots = sending(Retries(), 2)
    client.lost(shots[0])
    stream.reset()
    client.table.pass_by(0, 2 * SIZE)
    (shot,) = client.shots()
    assert [frame[0] for frame in shot.frames] == [RESET]
    client.acked(shot)
    client.take((RESET, 0, 0, 0))
    assert client.balanced()
    client.table.pass_by(0, 2 * SIZE)
    assert client.shots() == []


@pytest.mark.parametrize("beat", [0.0, BEAT])
@pytest.mark.parametrize("known", [False, True])
def test_how_long_to_wait_may_become_known_late_or_again(known: bool, beat: float) -> None:
    """A handshake that renews keys says it again: nothing that was held is forgotten."""
    server = End(client=False, handling=Handling(size=SIZE, playout=Playout(beat=beat)))
    server.take((STREAM, 0, 0, b"", False))
    if known:
        server.table.set_peer_skip(3)
    server.take((STREAM, 0, 0, bytes(SIZE), False))
    server.take((STREAM, 0, 2 * SIZE, bytes(SIZE), False))
    server.table.set_peer_skip(3)
    stream = stream_of(server)
    for _ in range(2):
        server.shared.now += 1
        server.shared.beats.run(server.shared.now)
        assert stream.readable == SIZE
        stream.consume(SIZE, server.shared.now)
        server.table.set_peer_skip(3)
    assert stream.incoming.read_offset == 3 * SIZE


@pytest.mark.parametrize("beat", [0.0, BEAT])
def test_timers_of_gaps_that_are_filled_do_not_pile_up(beat: float) -> None:
    server = receiving(50_000, beat)
    for number in range(0, 400, 2):
        server.take((STREAM, 0, (number + 1) * SIZE, bytes(SIZE), False))
        server.take((STREAM, 0, number * SIZE, bytes(SIZE), False))
        stream = stream_of(server)
        server.shared.now += 2 * BEAT
        server.shared.beats.run(server.shared.now)
        stream.consume(stream.readable, server.shared.now)
    assert server.shared.counters.payloads_skipped == 0
    assert len(server.shared.beats._heap) <= (1 if not beat else 200)


@pytest.mark.parametrize(("pause", "granted"), [(0.01, FAST_GROWTH * INITIAL_WINDOW), (PACED_SECONDS + 0.1, INITIAL_WINDOW)])
def test_credit_comes_early_where_gaps_are_passed(pause: float, granted: int) -> None:
    """So that frames with it may be lost, and the stream goes on."""
    server = receiving(3)
    server.take((STREAM, 0, 0, bytes(INITIAL_WINDOW // WINDOW_SHARE), False))
    server.shared.now += pause
    stream_of(server).consume(INITIAL_WINDOW // WINDOW_SHARE - 1, server.shared.now)
    assert server.shots() == []
    stream_of(server).consume(1, server.shared.now)
    read = INITIAL_WINDOW // WINDOW_SHARE
    assert frames(server.shots()) == [(STREAM_CREDIT, 0, read + granted, read)]


@pytest.mark.parametrize("size", [100, INITIAL_WINDOW // 2, INITIAL_WINDOW])
@pytest.mark.parametrize("retries", RETRIES, ids=str)
def test_what_may_be_lost_is_kept_whole(retries: Retries, size: int) -> None:
    """As far as a window takes two of them: else the other end might grant no more before it has what does not fit."""
    end = End(client=True, handling=Handling(size=size, retries=retries))
    stream = end.table.open()
    whole = size < INITIAL_WINDOW and retries != Retries()
    assert stream.room == (INITIAL_WINDOW // size * size if whole else INITIAL_WINDOW)
    second = end.table.open()
    stream.write(bytes(10))
    second.write(bytes(size))
    cut = [chunk.size for shot in end.shots() for chunk in shot.chunks]
    assert cut == ([10, size] if whole else [10, size - 10, 10])


def test_a_gap_is_passed_after_so_many_attempts() -> None:
    for beat, attempts, expected in [(0.0, 3, 3 * 0.01), (0.0, 0, 0.0), (BEAT, 3, 3.5 * BEAT), (BEAT, 0, 0.5 * BEAT)]:
        end = receiving(attempts, beat)
        end.take((STREAM, 0, 0, bytes(SIZE), False))
        stream = stream_of(end)
        if beat:
            end.shared.now += beat
            end.shared.beats.run(end.shared.now)
        stream.consume(SIZE, end.shared.now)
        end.shared.now = began = end.shared.now + beat / 2
        end.take((STREAM, 0, 2 * SIZE, bytes(SIZE), False))
        while not stream.readable:
            assert stream.beat_at < NOW + 1
            end.shared.now = stream.beat_at
            end.shared.beats.run(end.shared.now)
        assert end.shared.now - began == pytest.approx(expected)
        assert end.shared.counters.payloads_skipped == 1


# --- when a payload counts as lost


def server_of(retries: Retries) -> tuple[Server, Peer]:
    """A server end, and a client with an open stream and two carriers that take any number of shots."""
    server = Server(config=ServerConfig(handling=Handling(size=SIZE, retries=retries)))
    peer = Peer(server)
    first = peer.carrier()
    peer.send(first, stream(0))
    return server, peer


@pytest.mark.parametrize("retries", [Retries(resend=False, skip=-1), *UNREPLACED], ids=str)
@pytest.mark.parametrize("arrived", [False, True])
def test_only_the_end_of_its_carrier_makes_a_payload_lost(retries: Retries, arrived: bool) -> None:
    server, peer = server_of(retries)
    peer.carrier()
    peer.stream(0).write(bytes(SIZE))
    server.settle()
    (used,) = [carrier for carrier in peer.session.carriers.all if any(f[0] == STREAM for f in peer.read(carrier))]
    (free,) = [carrier for carrier in peer.session.carriers.all if carrier is not used]
    server.wait(LOST_SECONDS + 0.01)
    counted = peer.session.counters
    assert (counted.payloads_given_up, peer.stream(0).sent_reset) == (0, None)
    # Whether it came is asked on another carrier: its ack may be what was lost.
    asked = [frame[0] for frame in peer.read(free)]
    assert ASK in asked
    assert STREAM not in asked
    if arrived:
        for number in range(4):
            peer.send(free, ack(number))
            if not peer.session.recovery.sent:
                break
    server.wait(GIVE_UP_SECONDS)
    assert counted.payloads_given_up == (not arrived)
    assert peer.stream(0).sent_reset == (GIVEN_UP if retries.skip < 0 and not arrived else None)
    assert counted.payloads_resent == 0


@pytest.mark.parametrize("retries", UNREPLACED, ids=str)
def test_of_a_carrier_that_was_closed_in_order_age_decides(retries: Retries) -> None:
    server, peer = server_of(retries)
    (carrier,) = peer.session.carriers.all
    peer.stream(0).write(bytes(SIZE))
    server.feed(carrier, peer.shot(ping(), final=True))
    assert carrier.closed
    server.wait(GIVE_UP_SECONDS - 0.1)
    assert peer.session.counters.payloads_given_up == 0
    server.wait(LOST_SECONDS + 0.1)
    assert peer.session.counters.payloads_given_up == 1
    assert not peer.session.recovery.sent


def test_what_is_no_payload_goes_again_without_waiting_for_that() -> None:
    server, peer = server_of(UNREPLACED[0])
    peer.carrier()
    held = peer.stream(0)
    held.write(bytes(SIZE // 2))
    second = server_stream(server, peer)
    second.finish()
    server.settle()
    (used,) = [carrier for carrier in peer.session.carriers.all if any(f[0] == STREAM for f in peer.read(carrier))]
    (free,) = [carrier for carrier in peer.session.carriers.all if carrier is not used]
    peer.read(free)
    server.wait(LOST_SECONDS + 0.01)
    assert (STREAM, second.id, 0, b"", True) in peer.read(free)
    assert peer.session.counters.payloads_given_up == 0


def server_stream(server: Server, peer: Peer) -> Stream:
    """Another stream of the same client, opened without a wake of the server in between."""
    found = peer.session.streams.accept(2)
    assert found is not None
    found.app = server
    return found
