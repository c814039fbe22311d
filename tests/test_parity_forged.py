"""Parity and stripes that somebody makes up who has the keys: what is rebuilt is taken in only if it is what it says."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from session_pair import CLIENT, SERVER, SIZE, Pair, Sent
from shots import AEAD, seal, seal_hello
from stream_ends import read

from tcsplitter._core import PARITY, Fec, ShotWriter
from tcsplitter.carrier import Carrier
from tcsplitter.modes import Kind
from tcsplitter.options import Fec as Setting
from tcsplitter.shared import Handling

SOME = Handling(size=SIZE, fec=Setting(3, 1), hedge=False)


class Forger:
    """Sends a server whatever shots and parity a test wants."""

    def __init__(self) -> None:
        self.pair = Pair(SOME)
        self.server = self.pair.server
        self.number = 1_000

    def feed(self, shot: bytes) -> None:
        line = self.pair.connect(Carrier(Kind.FLING, self.pair.now))
        self.pair.deliver(Sent(CLIENT, line, shot, self.pair.now))

    def take(self) -> int:
        self.number += 1
        return self.number - 1

    def shot(self, data: bytes, offset: int, number: int, epoch: int = 0) -> bytes:
        writer = ShotWriter()
        writer.begin(0, 0)
        writer.stream(0, offset, data, False)
        return writer.seal(AEAD, 0, epoch, number)

    def parity(self, shots: Sequence[bytes], numbers: list[int], index: int = 0, count: int = 1) -> bytes:
        writer = ShotWriter()
        writer.begin(0, 0)
        writer.parity(index, len(numbers), count, numbers, Fec(len(shots), count).encode(shots)[index])
        return writer.seal(AEAD, 0, 0, self.take())

    def rebuild(self, hidden: bytes, number: int) -> None:
        """Have a shot rebuilt that never came, with the help of one that did."""
        known = self.take()
        companion = self.shot(b"x", 0, known)
        self.feed(companion)
        order = sorted([(known, companion), (number, hidden)])
        self.feed(self.parity([shot for _, shot in order], [each for each, _ in order]))

    @property
    def counted(self) -> tuple[int, int]:
        return self.pair.counted(SERVER, "shots_rebuilt"), self.pair.counted(SERVER, "stripes_lost")


def test_what_a_forger_rebuilds_is_taken_in_if_it_is_what_it_says() -> None:
    forger = Forger()
    number = forger.take()
    forger.rebuild(forger.shot(b"yz", 1, number), number)
    assert forger.counted == (1, 0)
    assert read(next(iter(forger.server.streams))) == b"xyz"


@pytest.mark.parametrize("what", ["hello", "parity", "unknown epoch", "not sealed", "malformed", "other number", "empty"])
def test_what_cannot_be_in_a_stripe_is_as_good_as_lost(what: str) -> None:
    forger = Forger()
    number = forger.take()
    shots = {
        "hello": seal_hello(AEAD, 0, number, 0, 0),
        "parity": seal(bytes(4) + bytes([0, 1, 1, 5]) + bytes(9), PARITY, 0, number),
        "unknown epoch": forger.shot(b"yz", 1, number, epoch=9),
        "not sealed": forger.shot(b"yz", 1, number)[:-1] + b"?",
        "malformed": seal(bytes(4) + b"\xff", 0, 0, number),
        "other number": forger.shot(b"yz", 1, number + 500),
        "empty": b"",
    }
    forger.rebuild(shots[what], number)
    assert forger.counted == (0, 1)
    assert (forger.server.closed, forger.pair.reset) == (None, [])
    forger.feed(forger.shot(b"yz", 1, number))  # the true one
    assert read(next(iter(forger.server.streams))) == b"xyz"
    assert forger.pair.counted(SERVER, "shots_refused") == 0


def test_a_rebuilt_shot_that_breaks_the_protocol_ends_the_session() -> None:
    forger = Forger()
    number = forger.take()
    forger.rebuild(forger.shot(b"yz", 10**9, number), number)
    assert forger.server.closed is not None
    assert "credit" in forger.server.closed


def test_malformed_parity_ends_the_session() -> None:
    forger = Forger()
    forger.feed(seal(bytes(4) + bytes([1, 1, 1, 5]), PARITY, 0, forger.take()))
    assert forger.server.closed is not None


def test_a_rebuilt_shot_says_what_its_sender_wants_only_if_nothing_newer_did() -> None:
    forger = Forger()
    number = forger.take()
    writer = ShotWriter()
    writer.begin(77, 5)
    writer.stream(0, 1, b"y", False)
    forger.rebuild(writer.seal(AEAD, 0, 0, number), number)
    assert forger.counted == (1, 0)
    assert forger.server.peer.want == 0


def test_contradictions_cost_the_stripe_and_nothing_else() -> None:
    forger = Forger()
    one, two, three = (forger.take() for _ in range(3))
    shots = [forger.shot(b"x", 0, one), forger.shot(b"y", 1, two), forger.shot(b"z", 2, three)]
    forger.feed(forger.parity(shots, [one, two, three], 0, 2))
    forger.feed(forger.parity(shots[:2], [one, two], 1, 2))
    assert forger.counted == (0, 1)
    assert forger.server._receiver.rebuilder.held == 0
    forger.feed(shots[0])
    forger.feed(forger.parity(shots, [one, two, three], 1, 2))
    assert forger.counted == (0, 1)
    forger.feed(shots[2])
    forger.feed(shots[1])
    assert read(next(iter(forger.server.streams))) == b"xyz"
    assert forger.server.closed is None
