"""Every named cap on what an end sends, dials or remembers of its own, at the cap and one beyond it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from peer import KEY, Peer, Server, fresh_ephemeral, request

from tcsplitter import (
    handshake,
)
from tcsplitter._core import (
    CREDIT,
    MAX_ACK_RANGES,
    MAX_SEALED,
    MAX_VARINT,
    STREAM,
    STREAM_CREDIT,
    TAG_SIZE,
    ShotReader,
    ShotWriter,
    open_frames,
)
from tcsplitter.carrier import Carrier, Op
from tcsplitter.chunks import Control
from tcsplitter.client_end import MAX_ATTEMPTS, ClientConfig, ClientEnd
from tcsplitter.config import SessionConfig
from tcsplitter.credit import INITIAL_WINDOW, SESSION_WINDOW
from tcsplitter.demand import MAX_WANT
from tcsplitter.handshake import Gate, Initiator
from tcsplitter.modes import Kind
from tcsplitter.noise import NoiseError
from tcsplitter.options import MAX_PAYLOAD
from tcsplitter.outbox import Outbox
from tcsplitter.payload import PayloadSize
from tcsplitter.pool import DIAL_BURST, DIALS_PER_SECOND, MAX_DIALING, DialBudget, Pool
from tcsplitter.recovery import MAX_UNACKED_CHUNKS, Recovery
from tcsplitter.scheduler import MAX_CHUNKS
from tcsplitter.sending import MAX_GONE
from tcsplitter.session import Session
from tcsplitter.shared import MAX_UNSENT, MOST_UNSENT, Handling
from tcsplitter.shots import SentShot
from tcsplitter.table import MAX_CONTROL, MAX_STREAMS

Frames = list[tuple[Any, ...]]


class ClientSession:
    """A client's session that was told its keys, and what it sends on its one carrier."""

    def __init__(self, size: int = 10_000) -> None:
        server = Server()
        self.peer = Peer(server)
        self.outbox = Outbox()
        config = SessionConfig(True, handling=Handling(size=size), reuse=0, reserve=0)
        self.session = Session(config, "peer", self.outbox, {}, 0.0)
        self.session.id = self.peer.answer.session_id
        self.session.keys.install(0, self.peer.sealer, self.peer.opener, 0.0)

        self.session.hello(Carrier(Kind.FLING, 0.0), 25.0, 0.0)
        self.session.flush(0.0)
        self.outbox.take_actions()

    def shots(self) -> list[Frames]:
        """What it sends now."""
        self.session.flush(0.0)
        sent = b"".join(data for op, _, data in self.outbox.take_actions() if op is Op.WRITE)
        return [open_frames(self.peer.sealer, record[3])[2] for record in ShotReader().feed(sent)]

    def frames(self) -> Frames:
        return [frame for shot in self.shots() for frame in shot]


def test_data_frames_that_are_unacknowledged() -> None:
    account = Recovery(PayloadSize(10_000))
    account.on_sent(shot_of(0, MAX_UNACKED_CHUNKS - 1))
    assert account.may_send(0.1)
    account.on_sent(shot_of(1, 1))
    assert not account.may_send(0.1)
    account.on_ack(0, 0.0, [(1, 1)], [], 2, 0.1)
    assert account.may_send(0.1)


def shot_of(number: int, chunks: int) -> SentShot:
    return SentShot(number, 0.0, 1, Carrier(Kind.FLING, 0.0), [None] * chunks, [])  # type: ignore[list-item]


def test_sparse_streams_keep_to_the_unacknowledged_frames_too() -> None:
    client = ClientSession()
    for _ in range(MAX_STREAMS):
        client.session.streams.open().write(b"x")
    assert sum(frame[0] == STREAM for frame in client.frames()) <= MAX_UNACKED_CHUNKS


def test_chunks_in_a_shot() -> None:
    client = ClientSession()
    for _ in range(MAX_CHUNKS + 1):
        client.session.streams.open().write(b"x")
    counts = [sum(frame[0] == STREAM for frame in shot) for shot in client.shots()]
    assert counts == [MAX_CHUNKS, 1]


def test_control_frames_in_a_shot() -> None:
    client = ClientSession()
    for _ in range(MAX_CONTROL + 1):
        each = client.session.streams.open()
        client.session.streams.queue_control(Control.STREAM_CREDIT, each)
    counts = [sum(frame[0] in (CREDIT, STREAM_CREDIT) for frame in shot) for shot in client.shots()]
    assert counts[0] == MAX_CONTROL
    assert sum(counts) == MAX_CONTROL + 2  # the session's credit grows with its streams


@pytest.mark.parametrize("datagrams", [False, True])
def test_a_payload_of_any_shape_fits_into_a_shot_with_all_that_may_stand_beside_it(datagrams: bool) -> None:
    ids, far = 2**30 - 1, MAX_VARINT - MAX_PAYLOAD
    writer = ShotWriter()
    writer.begin(0, 0)
    for number in range(MAX_CONTROL):
        writer.ask(far + number) if datagrams else writer.reset(ids, 1, far)
    for number in range(MAX_CHUNKS):
        data = bytes(MAX_PAYLOAD // MAX_CHUNKS + (number < MAX_PAYLOAD % MAX_CHUNKS))
        if datagrams:
            fragment = 4 if number in (0, MAX_CHUNKS - 1) else 0
            writer.datagram(ids, far, far, 60_000, len(data) + fragment, fragment, data)
        else:
            writer.stream(ids, far, data, False)
    for number in range(MAX_GONE):
        writer.gone(far + number)
    ranges = [(far - 2**32 * n, far - 2**32 * n) for n in range(MAX_ACK_RANGES)]
    writer.ack(far, 2**30 - 1, ranges, ranges)
    assert MAX_PAYLOAD < writer.size <= MAX_SEALED - TAG_SIZE


@pytest.mark.parametrize(
    ("size", "ahead"), [(10_000, MAX_UNSENT), (65_536, MOST_UNSENT), (MAX_UNSENT, MOST_UNSENT), (MAX_PAYLOAD, 2 * MAX_PAYLOAD)]
)
def test_what_is_read_ahead_from_a_program(size: int, ahead: int) -> None:
    each = ClientSession(size).session.streams.open()
    each.raise_send_limit(2**40, 0)
    each.write(bytes(ahead - 1))
    assert each.room == 1
    each.write(b"x")
    assert each.room == 0


def test_the_first_window_holds_the_sender() -> None:
    client = ClientSession()
    each = client.session.streams.open()
    assert each.room == INITIAL_WINDOW
    each.write(bytes(INITIAL_WINDOW))
    assert each.room == 0
    each.write(b"x")
    assert sum(len(frame[3]) for frame in client.frames() if frame[0] == STREAM) == INITIAL_WINDOW
    each.raise_send_limit(INITIAL_WINDOW + 1, 0)
    client.session.shared.schedule(each)
    assert sum(len(frame[3]) for frame in client.frames() if frame[0] == STREAM) == 1


def test_the_window_of_a_session_holds_the_sender() -> None:
    client = ClientSession()
    opened = [client.session.streams.open() for _ in range(SESSION_WINDOW // INITIAL_WINDOW)]
    late = client.session.streams.open()
    for each in opened[1:]:
        each.write(bytes(INITIAL_WINDOW))
    opened[0].write(bytes(INITIAL_WINDOW - 1))
    assert late.room == 1
    opened[0].write(b"x")
    assert late.room == 0


def test_idle_carriers_that_an_end_wishes_for() -> None:
    client = ClientSession(1)
    client.session.streams.open().write(bytes(INITIAL_WINDOW))
    client.session.recovery.congestion.rate = 1e9
    assert client.session.want() == MAX_WANT


def make_client(burst: int = 1024) -> ClientEnd:
    return ClientEnd(ClientConfig(burst=burst), "peer", KEY, random.Random(1), 1000.0)


def test_handshakes_that_are_unanswered() -> None:
    client = make_client()
    asking: dict[Carrier, None] = {}
    most, now = 0, 1000.0
    for _ in range(400):
        now += 0.1
        client.flush(now)
        client.tend(now)
        for op, carrier, _ in client.outbox.take_actions():
            if op is Op.DIAL:
                client.carrier_connected(carrier, 0.01, now)
            elif op is Op.WRITE:
                asking[carrier] = None
            elif op is Op.RESET:
                asking.pop(carrier, None)
        most = max(most, len(asking))
    assert most == MAX_ATTEMPTS


def test_dials_that_are_under_way() -> None:
    dialled = Pool(4, 60_000, 25.0, DialBudget(0.0), random.Random(1), 0.0)
    for number in range(MAX_DIALING):
        assert dialled.dials_due(0, 10_000, 60_000, 1.0, 2.0) == MAX_DIALING - number
        dialled.dialled([Carrier(Kind.FLING, 2.0)], 2.0)
    assert dialled.dials_due(0, 10_000, 60_000, 1.0, 2.0) == 0


def test_dials_in_a_second() -> None:
    dialled = Pool(4, 60_000, 25.0, DialBudget(0.0), random.Random(1), 0.0)
    total, now, step = 0, 0.0, 0.001
    while now < 2.0:
        for _ in range(dialled.dials_due(0, 10_000, 60_000, 0.0, now)):
            carrier = Carrier(Kind.FLING, now)
            dialled.dialled([carrier], now)
            dialled.connected(carrier, 0.0, now)
            total += 1
        now += step
    assert total == pytest.approx(DIAL_BURST + 2.0 * DIALS_PER_SECOND, rel=0.02)
    assert total <= DIAL_BURST + 2.0 * DIALS_PER_SECOND


@pytest.mark.parametrize("burst", [4, 64, 1024])
def test_carriers_that_a_pool_grows_to(burst: int) -> None:
    dialled = Pool(4, burst, 25.0, DialBudget(0.0), random.Random(1), 0.0)
    alive = 0
    for step in range(400):
        for _ in range(dialled.dials_due(0, alive, 60_000, 0.01, step * 0.02)):
            carrier = Carrier(Kind.FLING, 0.0)
            dialled.dialled([carrier], step * 0.02)
            dialled.connected(carrier, 0.01, step * 0.02)
            alive += 1
    assert alive == burst


def test_requests_that_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "MAX_SEEN", 3)
    gate = Gate({"peer": KEY}, 0.0)
    messages = [Initiator(KEY, fresh_ephemeral(), request()).message for _ in range(4)]
    for message in messages[:3]:
        gate.respond(message, 0.0)
    with pytest.raises(NoiseError, match="repeated"):
        gate.respond(messages[0], 0.0)
    gate.respond(messages[3], 0.0)
    gate.respond(messages[0], 0.0)
