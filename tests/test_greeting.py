"""When the hello of a fresh carrier leaves: with a shot where one can take it along, and soon in any case."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from session_pair import CLIENT, NOW, SERVER, SIZE, Frame, Pair
from shots import AEAD, seal
from stream_ends import read

from tcsplitter._core import (
    FINAL,
    GREETING,
    HELLO,
    MAX_HELLO_SEALED,
    STREAM,
    ShotReader,
    open_frames,
    open_parity,
)
from tcsplitter.carrier import Carrier, Op
from tcsplitter.congestion import PACED_RTT
from tcsplitter.modes import Kind
from tcsplitter.options import Fec
from tcsplitter.scheduler import MAX_CHUNKS
from tcsplitter.sending import GREET_SECONDS, MOST_GREETING
from tcsplitter.shared import Handling

if TYPE_CHECKING:
    from tcsplitter._core import Record

ID_SIZE, ALONE = 8, 47  # bytes of a session's id; of a hello that takes nothing along, with that


def connected(pair: Pair) -> Carrier:
    """A carrier that was connected after the last flush."""
    carrier = Carrier(Kind.FLING, NOW)
    pair.client.hello(carrier, 25.0, pair.now)
    return carrier


def written(pair: Pair, carrier: Carrier) -> list[bytes]:
    return [data for op, where, data in pair.outboxes[CLIENT].take_actions() if op is Op.WRITE and where is carrier]


def test_where_nothing_waits_it_leaves_at_once() -> None:
    pair = Pair()
    carrier = connected(pair)
    assert not written(pair, carrier)
    pair.client.greet()
    (hello,) = written(pair, carrier)
    assert len(hello) == ALONE
    pair.client.flush(pair.now)
    assert not written(pair, carrier)


def test_where_something_waits_a_shot_takes_it_along() -> None:
    pair = Pair(carriers=0)
    pair.client.streams.open().write(bytes(SIZE // 2))
    carrier = connected(pair)
    pair.client.greet()
    assert not written(pair, carrier)
    pair.client.flush(pair.now)
    (both,) = written(pair, carrier)
    assert len(both) > ALONE + SIZE // 2


def test_it_does_not_wait_for_long() -> None:
    pair = Pair()
    assert pair.client.deadline() > pair.now + GREET_SECONDS
    carrier = connected(pair)
    assert pair.client.deadline() <= pair.now + GREET_SECONDS
    pair.client.flush(pair.now + GREET_SECONDS)
    assert len(written(pair, carrier)) == 1


# --- where the RTT is next to nothing


class Short:
    """A pair on a line with next to no RTT, and a carrier that the server has not accepted."""

    def __init__(self, size: int = SIZE, **config: Any) -> None:
        self.pair = Pair(Handling(size=size, fec=config.pop("fec", Fec())), carriers=0, **config)
        self.client, self.server = self.pair.client, self.pair.server
        for session in self.pair.sessions:
            session.recovery.sample_rtt(PACED_RTT / 2, NOW)
        self.carrier = connected(self.pair)
        self.elsewhere: list[bytes] = []
        """What was sent on others."""

    def write(self, *data: bytes) -> None:
        """Each on a stream of its own."""
        for each in data:
            self.client.streams.open().write(each)

    def sent(self) -> list[Record]:
        """The shots that the carrier brings."""
        self.client.flush(self.pair.now)
        actions = [action for action in self.pair.outboxes[CLIENT].take_actions() if action[0] is Op.WRITE]
        self.elsewhere = [data for _, carrier, data in actions if carrier is not self.carrier]
        (data,) = [data for _, carrier, data in actions if carrier is self.carrier]
        assert data[:ID_SIZE] == b"sessions"
        return ShotReader(expect_hello=True).feed(data, ID_SIZE)

    def accept(self, record: Record) -> Carrier:
        """The server is brought this one."""
        accepted = Carrier(Kind.FLING, self.pair.now)
        assert self.server.welcome(accepted, record, self.pair.now)
        return accepted


def frames_of(record: Record) -> list[Frame]:
    return open_frames(AEAD, record[3])[2]


def test_the_hello_takes_the_first_payload_along() -> None:
    short = Short()
    short.write(b"hello")
    (record,) = short.sent()
    assert record[0] == HELLO | FINAL
    assert [frame[0] for frame in frames_of(record)] == [GREETING, STREAM]
    carrier = short.accept(record)
    assert (carrier.hello, carrier.rx_final, carrier.owes_ack) == (record[2], True, True)
    (stream,) = short.server.streams
    assert read(stream) == b"hello"
    short.server.flush(NOW + 0.001)
    (_, _, answer), *_ = short.pair.outboxes[SERVER].take_actions()
    short.client.receive(short.carrier, answer, NOW)
    assert not short.client.recovery.sent
    assert short.carrier.rx_final


def test_a_hello_that_nothing_goes_with_is_as_elsewhere() -> None:
    short = Short()
    (record,) = short.sent()
    assert record[0] == HELLO
    assert len(record[3]) == ALONE - ID_SIZE
    carrier = short.accept(record)
    assert not carrier.owes_ack
    assert not carrier.rx_final
    assert carrier in short.server.carriers.idle[Kind.FLING]


def test_it_is_known_by_its_number_and_confirmed_by_its_ack() -> None:
    short = Short(reuse=0)
    short.write(b"hello")
    (record,) = short.sent()
    assert short.client.carriers.greeted == {record[2]: short.carrier}
    assert short.carrier.hello in short.client.carriers.unconfirmed[Kind.FLING]
    short.client.carriers.confirm([(record[2], record[2])])
    assert not short.client.carriers.unconfirmed[Kind.FLING]


def test_large_payloads_follow_a_hello_of_its_own() -> None:
    short = Short(size=MOST_GREETING + 1)
    short.write(bytes(MOST_GREETING))
    hello, payload = short.sent()
    assert [record[0] for record in (hello, payload)] == [HELLO, FINAL]
    assert len(hello[3]) == ALONE - ID_SIZE


def test_however_much_goes_with_a_payload_the_hello_is_not_too_long() -> None:
    short = Short(size=MOST_GREETING)
    short.write(*[bytes(MOST_GREETING // MAX_CHUNKS)] * (MAX_CHUNKS + 10))
    for stream in list(short.client.streams)[:10]:
        stream.reset()
    (record,) = short.sent()
    assert MOST_GREETING < len(record[3]) < MAX_HELLO_SEALED
    short.accept(record)
    assert len(short.server.streams) > 300


def test_where_parity_is_to_cover_the_payload_it_follows_the_hello() -> None:
    short = Short(fec=Fec(1, 1))
    connected(short.pair)
    short.write(b"hello")
    two = [short.sent(), ShotReader(expect_hello=True).feed(short.elsewhere[0], ID_SIZE)]
    assert [hello[0] for hello, _ in two] == [HELLO, HELLO]
    payload, parity = sorted((shot for _, shot in two), key=lambda shot: shot[0])
    assert open_parity(AEAD, parity[3])[4] == [payload[2]]


@pytest.mark.parametrize(
    "frames", ["", "01", "0f04 00000000", "0f00 00000000 ff"], ids=["none", "no greeting", "kind", "unknown"]
)
def test_a_genuine_hello_that_is_malformed_ends_the_session(frames: str) -> None:
    short = Short()
    hello = seal(bytes(4) + bytes.fromhex(frames), HELLO)
    (record,) = ShotReader(expect_hello=True).feed(hello)
    assert not short.server.welcome(Carrier(Kind.FLING, NOW), record, NOW)
    assert "protocol error" in str(short.server.closed)


def test_what_a_hello_takes_along_is_held_to_the_protocol() -> None:
    short = Short()
    hello = seal(bytes(4) + bytes.fromhex("0f00 00000000 0d05"), HELLO)  # GONE is for servers to say
    (record,) = ShotReader(expect_hello=True).feed(hello)
    carrier = short.accept(record)
    assert carrier.closed
    assert "protocol error" in str(short.server.closed)


def test_a_replayed_hello_brings_nothing_again() -> None:
    short = Short()
    short.write(b"hello")
    (record,) = short.sent()
    short.accept(record)
    assert not short.server.welcome(Carrier(Kind.FLING, NOW), record, NOW)
    assert short.server.closed is None
