"""Every named cap, at the cap and one beyond it; whoever is beyond it is a client that knows the key and breaks the rules."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from peer import KEY, Peer, Server, fresh_ephemeral, ping, request, reset, stream
from shots import header

from tcsplitter import (
    client_end,
    credit,
    handshake,
    keyring,
    newcomers,
    options,
    parity,
    pool,
    receiving,
    recovery,
    server_end,
    session,
    table,
)
from tcsplitter._core import (
    ACK,
    CLOSE,
    CREDIT,
    HEADER_SIZE,
    HELLO,
    MAX_HELLO_SEALED,
    MAX_SEALED,
    PARITY,
    RESET,
    STREAM_CREDIT,
    TAG_SIZE,
    Fec,
    ShotWriter,
)
from tcsplitter.carrier import Action, Carrier, Op
from tcsplitter.config import SessionConfig
from tcsplitter.credit import GAP_GROWTH, INITIAL_WINDOW, SESSION_WINDOW, WHOLE_WINDOW
from tcsplitter.handshake import NO_SESSION, STATUS_CONTINUES, STATUS_NEW, STATUS_NO_ROOM, Gate, Initiator
from tcsplitter.keyring import MAX_EPOCH_SHOTS, REKEY_BYTES, REKEY_SECONDS, REKEY_SHOTS, Epoch
from tcsplitter.newcomers import LONGEST_SECONDS, MAX_NEWCOMERS, MAX_PER_ADDRESS, MAX_UNOPENED, Newcomers
from tcsplitter.options import MAX_PAYLOAD
from tcsplitter.outbox import Outbox
from tcsplitter.rebuild import KEEP_SECONDS, MAX_KEPT, MAX_KEPT_BYTES, MAX_STRIPE_BYTES, MAX_STRIPES, SWEEP_SECONDS
from tcsplitter.receiving import MAX_PIECES
from tcsplitter.server_end import MAX_PROVISIONAL, MAX_SESSIONS, PROVISIONAL_SECONDS
from tcsplitter.session import MAX_PARTIAL, Session
from tcsplitter.streams import TOO_MANY
from tcsplitter.table import MAX_STREAMS

Frames = list[tuple[Any, ...]]
MAX_FRAMES = 4_096  # the core does not export it


def test_the_caps_are_those_of_the_protocol() -> None:
    stated: dict[tuple[object, str], int] = {
        (credit, "INITIAL_WINDOW"): 65_536,
        (credit, "MAX_WINDOW"): 48 * 2**20,
        (credit, "SESSION_WINDOW"): 33_554_432,
        (credit, "FIRST_WINDOWS"): 2_048,
        (table, "MAX_STREAMS"): 16_384,
        (receiving, "MAX_PIECES"): 16_384,
        (session, "MAX_PARTIAL"): 32 * 2**20,
        (recovery, "MAX_UNACKED_CHUNKS"): 8_192,
        (newcomers, "MAX_PER_ADDRESS"): 256,
        (newcomers, "MAX_NEWCOMERS"): 4_096,
        (newcomers, "MAX_UNOPENED"): 64 * 2**20,
        (server_end, "MAX_PROVISIONAL"): 8,
        (server_end, "MAX_HELD"): 512 * 2**20,
        (keyring, "REKEY_SHOTS"): 2**22,
        (keyring, "REKEY_BYTES"): 2**36,
        (keyring, "MAX_EPOCH_SHOTS"): 2**24,
        (handshake, "MAX_SEEN"): 65_536,
    }
    assert stated == {key: getattr(*key) for key in stated}
    assert client_end.ASK_MAX_SECONDS == 5
    assert (pool.MAX_DIALING, options.MAX_PAYLOAD) == (224, 2**20)


# ------------------------------------------------------------------------------------- what a client may send


class Rig:
    """A server, one session of it, and a carrier on which its client can send shot after shot.

    Answers are those to what was sent: the session's credit, which grows with its streams, is not among them.
    """

    def __init__(self) -> None:
        self.server = Server()
        self.peer = Peer(self.server)
        self.line = self.peer.carrier()
        self.session = self.peer.session

    def send(self, *frames: Callable[[ShotWriter], object]) -> Frames:
        """One shot; what the server answers, but for acks."""
        self.peer.send(self.line, *frames)
        self.server.wait(0.05)
        return [frame for frame in self.peer.read(self.line) if frame[0] not in (ACK, CREDIT)]

    def acknowledged(self, *frames: Callable[[ShotWriter], object]) -> bool:
        """Send one shot; whether the server acknowledges it."""
        number = self.peer.number
        self.peer.send(self.line, *frames)
        self.server.wait(0.05)
        ranges = [r for frame in self.peer.read(self.line) if frame[0] == ACK for r in frame[3]]
        return any(low <= number <= high for low, high in ranges)

    def ended_by(self, *frames: Callable[[ShotWriter], object]) -> str:
        """Send one shot; the reason that the server gives for ending the session."""
        (frame,) = self.send(*frames)
        assert frame[:2] == (CLOSE, 1)
        assert not self.peer.alive
        return str(frame[2])


@pytest.mark.parametrize("offset", [0, 1, INITIAL_WINDOW - 1])
def test_a_streams_first_credit(offset: int) -> None:
    rig = Rig()
    room = INITIAL_WINDOW - offset
    grown = [(STREAM_CREDIT, 0, GAP_GROWTH * INITIAL_WINDOW, 0)] if offset else []
    assert rig.send(stream(0, offset, bytes(room))) == grown
    assert rig.peer.alive
    assert "credit" in rig.ended_by(stream(2, offset, bytes(room + 1)))


@pytest.mark.parametrize("offset", [INITIAL_WINDOW, 2**40, 2**62 - 2])
def test_an_offset_beyond_a_streams_credit(offset: int) -> None:
    assert "credit" in Rig().ended_by(stream(0, offset, b"x"))


def test_the_credit_of_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    first = 3
    monkeypatch.setattr(credit, "FIRST_WINDOWS", first)
    rig = Rig()
    whole = SESSION_WINDOW + first * INITIAL_WINDOW
    for number in range(whole // INITIAL_WINDOW):
        rig.peer.send(rig.line, stream(2 * number, 0, bytes(INITIAL_WINDOW)))
    assert rig.peer.alive
    assert rig.session.held == whole
    assert "credit" in rig.ended_by(stream(whole, 0, b"x"))


@pytest.mark.parametrize("behind", [stream(2, 0, b"x"), reset(2, final_size=1)])
def test_what_stands_behind_close_opens_nothing(behind: Callable[[ShotWriter], object]) -> None:
    rig = Rig()
    rig.peer.send(rig.line, lambda writer: writer.close(0, "bye"), behind)
    assert rig.session.closed == "bye"
    assert not rig.session.streams
    assert not rig.session.outbox.take_news()


def test_a_final_size_counts_against_the_credit_of_its_stream() -> None:
    rig = Rig()
    rig.send(reset(0, final_size=INITIAL_WINDOW))
    assert rig.peer.alive
    assert rig.session.held == 0
    assert "credit" in rig.ended_by(reset(2, final_size=INITIAL_WINDOW + 1))


def test_the_window_of_a_stream_stops_growing() -> None:
    rig = Rig()
    offset, limit, granted = 0, INITIAL_WINDOW, []
    while offset < 4 * WHOLE_WINDOW:
        answers: Frames = []
        while offset < limit:
            size = min(limit - offset, MAX_PAYLOAD)
            answers += rig.send(stream(0, offset, bytes(size)))
            offset += size
        rig.peer.stream(0).consume(rig.peer.stream(0).readable, 0.0)
        answers += rig.send(ping())
        limit = max(frame[2] for frame in answers if frame[0] == STREAM_CREDIT)
        granted.append(limit - offset)
    assert max(granted) == granted[-1] == WHOLE_WINDOW


def open_streams(rig: Rig, first: int, count: int) -> Frames:
    answers: Frames = []
    numbers = iter(range(first, first + count))
    while batch := list(itertools.islice(numbers, 256)):
        answers += rig.send(*[stream(2 * number) for number in batch])
    return answers


def test_open_streams() -> None:
    rig = Rig()
    assert open_streams(rig, 0, MAX_STREAMS) == []
    assert open_streams(rig, MAX_STREAMS, 1) == [(RESET, 2 * MAX_STREAMS, TOO_MANY, 0)]
    assert rig.peer.alive
    assert len(rig.server.opened) == MAX_STREAMS
    rig.send(reset(0), reset(2 * MAX_STREAMS))
    assert rig.peer.alive


def test_streams_that_are_refused_again_and_again_do_not_pile_up() -> None:
    rig = Rig()
    open_streams(rig, 0, MAX_STREAMS)
    open_streams(rig, MAX_STREAMS, 2 * MAX_STREAMS)
    assert not rig.peer.alive or len(rig.session.streams) <= 2 * MAX_STREAMS


def a_gap(number: int) -> Callable[[ShotWriter], object]:
    """The n-th of pieces of which no two touch: one byte in every other place."""
    per_stream = INITIAL_WINDOW // 2
    return stream(2 * (number // per_stream), 2 * (number % per_stream) + 1, b"x")


def make_gaps(rig: Rig, count: int) -> None:
    numbers = iter(range(count))
    while batch := list(itertools.islice(numbers, 1000)):
        assert rig.acknowledged(*map(a_gap, batch))


def pieces(rig: Rig) -> int:
    return sum(each.incoming.pieces for each in rig.session.streams)


def test_separate_pieces() -> None:
    rig = Rig()
    make_gaps(rig, MAX_PIECES - 1)
    assert rig.acknowledged(a_gap(MAX_PIECES - 1))
    assert pieces(rig) == MAX_PIECES
    assert not rig.acknowledged(a_gap(MAX_PIECES))
    assert pieces(rig) == MAX_PIECES
    assert rig.acknowledged(stream(0, 0, b"x"))  # what fills a gap is welcome
    assert pieces(rig) == MAX_PIECES - 1
    assert rig.acknowledged(a_gap(MAX_PIECES))


def test_one_shot_does_not_carry_the_pieces_beyond_their_cap() -> None:
    rig = Rig()
    make_gaps(rig, MAX_PIECES - 1)
    rig.acknowledged(*[a_gap(MAX_PIECES - 1 + number) for number in range(2000)])
    assert pieces(rig) <= MAX_PIECES


def test_shots_that_are_half_there() -> None:
    rig = Rig()
    whole = rig.peer.shot(stream(0, 0, bytes(INITIAL_WINDOW)))
    parts = [whole[:-1]] * (MAX_PARTIAL // len(whole))
    for part in [*parts, whole[: MAX_PARTIAL - len(parts) * (len(whole) - 1)]]:
        waiting = rig.peer.carrier()
        rig.server.feed(waiting, part)
    end, idle = rig.server.end, rig.line
    assert rig.session.held == MAX_PARTIAL
    assert not end.reading_paused
    assert end.carrier_may_read(idle)
    one_more = rig.peer.carrier()
    rig.server.feed(one_more, whole[:1])
    assert end.reading_paused
    assert not end.carrier_may_read(idle)
    assert end.carrier_may_read(one_more)
    assert end.carrier_may_read(rig.server.connect())  # a newcomer costs next to nothing
    end.carrier_lost(one_more, rig.server.now)
    rig.server.settle()
    assert not end.reading_paused


def test_what_a_server_holds_for_all_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_end, "MAX_HELD", 100_000)
    rig, server = Rig(), Server()
    rigs = [(peer, peer.carrier()) for peer in (Peer(server), Peer(server))]
    for peer, line in rigs:
        peer.send(line, stream(0, 0, bytes(50_000)))
    assert not server.end.reading_paused
    rigs[0][0].send(rigs[0][1], stream(0, 50_000, b"x"))
    assert server.end.reading_paused
    assert not server.end.carrier_may_read(rigs[0][1])
    assert server.end.carrier_may_read(rigs[1][1])  # it has no more than its share
    rigs[0][0].stream(0).consume(1, 0.0)
    server.settle()
    assert not server.end.reading_paused
    assert rig.server.end.carrier_may_read(rig.line)


def test_the_largest_shot() -> None:
    rig = Rig()
    limit = MAX_SEALED - TAG_SIZE

    def fill(writer: ShotWriter) -> None:
        for number in range(16):
            writer.stream(2 * number, 0, bytes(INITIAL_WINDOW), False)
        writer.stream(32, 0, bytes(limit - writer.size - 5), False)  # type, id and offset take a byte each, this length two
        assert writer.size == limit

    assert rig.acknowledged(fill)
    assert not rig.server.ended
    header = rig.peer.shot(ping())[:2] + (MAX_SEALED + 1).to_bytes(3, "big") + bytes(8)
    rig.server.feed(rig.line, header)
    assert rig.server.ended[rig.line][0] is Op.RESET
    assert rig.peer.alive


def test_frames_in_a_shot() -> None:
    rig = Rig()
    assert rig.acknowledged(*[ping()] * MAX_FRAMES)
    assert "frames" in rig.ended_by(*[ping()] * (MAX_FRAMES + 1))


# ----------------------------------------------------------- parity; the receiver's other caps: test_rebuild_caps.py


def parity_over(numbers: list[int], block: bytes = bytes(100), count: int = 1) -> Callable[[ShotWriter], object]:
    return lambda writer: writer.parity(0, len(numbers), count, numbers, block)


def kept(rig: Rig) -> int:
    return rig.session._receiver.rebuilder.held


def test_shots_that_are_kept_for_parity() -> None:
    rig = Rig()
    rig.session.expect_parity(True)
    for _ in range(MAX_KEPT):
        rig.peer.send(rig.line, ping())
    one = kept(rig) // MAX_KEPT
    assert kept(rig) == MAX_KEPT * one
    rig.peer.send(rig.line, ping())
    assert kept(rig) == MAX_KEPT * one
    rig.server.wait(KEEP_SECONDS + SWEEP_SECONDS + 0.1)
    assert kept(rig) == 0


def test_bytes_that_are_kept_for_parity() -> None:
    rig = Rig()
    rig.session.expect_parity(True)
    rig.peer.send(rig.line, stream(0, 0, b""))
    rig.peer.send(rig.line, parity_over([rig.peer.number - 1]))
    size, offset = 60_000, 0
    while offset < MAX_KEPT_BYTES + 2 * MAX_PAYLOAD:
        rig.peer.send(rig.line, stream(offset // size * 2, 0, bytes(size)))
        rig.peer.stream(offset // size * 2).consume(size, 0.0)
        offset += size
        assert kept(rig) <= MAX_KEPT_BYTES
    assert kept(rig) > MAX_KEPT_BYTES - 2 * size


def test_stripes_that_wait_for_shots() -> None:
    rig = Rig()
    waiting = rig.session._receiver.rebuilder
    for number in range(MAX_STRIPES + 1):
        rig.peer.number = 10_000 + number
        assert rig.session.counters.stripes_lost == 0
        rig.peer.send(rig.line, parity_over([2 * number + 1_000, 2 * number + 1_001]))
    assert rig.session.counters.stripes_lost == 1
    assert kept(rig) == MAX_STRIPES * 100
    rig.server.wait(KEEP_SECONDS + 0.1)
    assert (kept(rig), len(waiting.rebuilt)) == (0, 0)
    assert rig.peer.alive


def test_bytes_of_stripes_that_wait_for_shots() -> None:
    rig = Rig()
    block = bytes(MAX_STRIPE_BYTES // 16)
    for number in range(20):
        rig.peer.number = 10_000 + number
        rig.peer.send(rig.line, parity_over([2 * number + 1_000, 2 * number + 1_001], block))
        assert kept(rig) == min(number + 1, 16) * len(block)
    assert rig.session.counters.stripes_lost == 4


def test_blocks_of_a_stripe() -> None:
    rig = Rig()
    numbers = list(range(1_000, 1_255))
    rig.peer.number = 10_000
    rig.send(parity_over(numbers))
    assert kept(rig) == 100
    head = bytes(4) + bytes([0, 255, 2]) + bytes(255)
    number = rig.peer._take(None)
    aad = bytes([PARITY, 0]) + (len(head) + TAG_SIZE).to_bytes(3, "big") + number.to_bytes(8, "big")
    rig.server.feed(rig.line, aad + rig.peer.sealer.encrypt(bytes(4) + aad[5:], head, aad))
    assert not rig.peer.alive


def test_the_longest_shot_that_parity_covers() -> None:
    longest = Fec(1, 1).encode([bytes(parity.MAX_SHOT)])[0]
    writer = ShotWriter()
    writer.begin(0, 0)
    writer.parity(0, 255, 1, [2**61 + 2**31 * number for number in range(255)], longest)
    assert writer.size <= MAX_SEALED - TAG_SIZE
    assert parity.MAX_SHOT > MAX_PAYLOAD + 4_096  # a payload of any size has parity


# ------------------------------------------------------------------------------------------------- handshakes


def grant(server: Server, psk: bytes = KEY, previous: bytes = NO_SESSION) -> tuple[int, bytes]:
    """Shake hands; the status and the session that was granted."""
    initiator = Initiator(psk, fresh_ephemeral(), request(previous))
    carrier = server.connect()
    server.feed(carrier, initiator.message)
    answer, _ = initiator.read_answer(bytes(server.written[carrier]))
    return answer.status, answer.session_id


def test_provisional_sessions_of_a_key() -> None:
    other = bytes(range(2, 34))
    server = Server(keys={"peer": KEY, "other": other})
    bystander = grant(server, other)[1]
    granted = [grant(server)[1] for _ in range(MAX_PROVISIONAL)]
    assert list(server.end.sessions) == [bystander, *granted]
    granted.append(grant(server)[1])
    assert list(server.end.sessions) == [bystander, *granted[1:]]
    server.wait(PROVISIONAL_SECONDS + 0.1)
    assert not server.end.sessions


def test_provisional_epochs_of_a_key() -> None:
    server = Server()
    peer = Peer(server)
    line = peer.carrier()
    further = [Peer(server, previous=peer.answer.session_id) for _ in range(MAX_PROVISIONAL + 1)]
    assert {each.answer.status for each in further} == {STATUS_CONTINUES}
    for oldest, each in enumerate(further):
        each.number = 1000 + oldest
        carrier = server.connect()
        server.feed(carrier, each.hello())
        assert (carrier.session is None) == (oldest == 0)
    peer.send(line, ping())
    assert peer.alive
    assert not server.ended


def test_sessions_of_a_server() -> None:
    server = Server()
    for number in range(1, MAX_SESSIONS):
        name = number.to_bytes(8, "big")
        server.end.sessions[name] = Session(SessionConfig(False), "peer", Outbox(), {}, server.now)
    status, name = grant(server)
    assert status == STATUS_NEW
    assert grant(server)[0] == STATUS_NO_ROOM
    assert grant(server, previous=name) == (STATUS_CONTINUES, name)
    del server.end.sessions[name]
    assert grant(server)[0] == STATUS_NEW


def test_what_an_epoch_seals_before_the_next_handshake() -> None:
    epoch = Epoch(0, Gate, Gate, 0.0)  # type: ignore[arg-type]
    for field, limit in (("sealed", REKEY_SHOTS), ("opened", REKEY_SHOTS), ("volume", REKEY_BYTES)):
        setattr(epoch, field, limit - 1)
        assert not epoch.worn(0.0)
        setattr(epoch, field, limit)
        assert epoch.worn(0.0)
        setattr(epoch, field, 0)
    assert not epoch.worn(REKEY_SECONDS - 1)
    assert epoch.worn(REKEY_SECONDS)


def test_what_an_epoch_seals_at_all() -> None:
    rig = Rig()
    epoch = rig.session.keys.sealing
    assert epoch is not None
    epoch.sealed = MAX_EPOCH_SHOTS - 1
    assert rig.acknowledged(ping())
    assert epoch.sealed == MAX_EPOCH_SHOTS
    assert not rig.acknowledged(ping())
    assert epoch.sealed == MAX_EPOCH_SHOTS


# -------------------------------------------------------------------------------------------------- newcomers


def closed(actions: list[Action]) -> list[Carrier]:
    assert {op for op, _, _ in actions} <= {Op.CLOSE}
    return [carrier for _, carrier, _ in actions]


def test_newcomers_of_one_address() -> None:
    actions: list[Action] = []
    book = Newcomers(random.Random(1), actions)
    bystander = book.accept("192.0.2.1", 0.0)
    crowd = [book.accept("192.0.2.2", 0.0) for _ in range(MAX_PER_ADDRESS)]
    assert closed(actions) == []
    crowd += [book.accept("192.0.2.2", 0.0) for _ in range(10)]
    assert len(book) == MAX_PER_ADDRESS + 1
    assert closed(actions) == crowd[:10]
    assert book.get(bystander) is not None


def test_newcomers_in_all() -> None:
    actions: list[Action] = []
    book = Newcomers(random.Random(1), actions)
    crowd = [book.accept(f"198.51.100.{number % 100}", 0.0) for number in range(MAX_NEWCOMERS)]
    assert closed(actions) == []
    crowd += [book.accept(f"203.0.113.{number}", 0.0) for number in range(10)]
    assert len(book) == MAX_NEWCOMERS
    assert closed(actions) == crowd[:10]


def test_both_limits_at_once_cost_one_newcomer() -> None:
    actions: list[Action] = []
    book = Newcomers(random.Random(1), actions)
    full = [book.accept("192.0.2.2", 0.0) for _ in range(MAX_PER_ADDRESS)]
    for number in range(MAX_NEWCOMERS - MAX_PER_ADDRESS):
        book.accept(f"198.51.100.{number % 100}", 0.0)
    book.accept("192.0.2.2", 0.0)
    assert len(book) == MAX_NEWCOMERS
    assert closed(actions) == full[:1]


def test_hellos_that_are_half_there() -> None:
    book = Newcomers(random.Random(1), [])
    carriers = [book.accept(f"192.0.2.{number}", 0.0) for number in range(3)]
    first, second, third = (book.get(carrier) for carrier in carriers)
    assert first
    assert second
    assert third
    assert book.may_keep(first, 1_000)
    assert book.may_keep(second, MAX_UNOPENED - 1_000)
    assert not book.may_keep(third, 1)
    assert book.may_keep(third, 0)
    book.discard(carriers[0])  # and forgets what it has kept
    assert book.may_keep(third, 1_000)
    assert not book.may_keep(third, 1_001)
    book.remove(carriers[1])
    assert book.may_keep(third, MAX_UNOPENED)


def test_who_says_half_a_hello_is_refused_where_too_many_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newcomers, "MAX_UNOPENED", 2 * 1_000 - 1)
    rig = Rig()
    half = rig.peer.answer.session_id + header(HELLO, 0, MAX_HELLO_SEALED, 9) + bytes(1_000 - HEADER_SIZE)
    first, second = rig.server.connect(), rig.server.connect()
    rig.server.feed(first, half)
    assert not any("half a hello" in line for line in rig.server.lines)
    rig.server.feed(second, half)
    assert any("half a hello" in line for line in rig.server.lines)
    rig.server.wait(LONGEST_SECONDS)
    assert rig.server.ended[first][0] is rig.server.ended[second][0] is Op.CLOSE


def test_carriers_of_sessions_do_not_count_as_newcomers() -> None:
    rig = Rig()
    for _ in range(MAX_PER_ADDRESS + 10):
        rig.peer.carrier()
    assert not rig.server.ended
