"""What the compiled core costs, piece by piece.

Purpose: to see, before sockets blur it, whether a change made a step of a payload's journey dearer. Metric: the time of one
round, its minimum and median. A round is one shot, or as many operations as the docstring says with the Python loop around them.
Sizes are pinned and randomness is seeded, so figures of one machine can be compared.
"""

import random

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pytest_benchmark.fixture import BenchmarkFixture

from tcsplitter._core import STREAM, AckLog, Playout, RecvBuffer, ReplayWindow, ShotReader, ShotWriter, open_frames

SIZES = [64, 1_400, 10_000, 65_536]  # bytes of stream data in a shot
SEGMENT = 1_448  # bytes that one read gives on an Ethernet line
NUMBERS = 1_000  # shot numbers in a round
REORDERED_WITHIN = 100  # how far shots overtake one another
PIECE, PIECES = 10_000, 200  # of a stream that is reassembled in a round

AEAD = AESGCM(bytes(range(32)))
NOISE = random.Random(1).randbytes(SIZES[-1])

sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size}-bytes")
orders = pytest.mark.parametrize("shuffled", [False, True], ids=["in-order", "shuffled"])


def seal(writer: ShotWriter, data: bytes) -> bytes:
    writer.begin(4, 0)
    writer.stream(4, 1 << 20, data, False)
    return writer.seal(AEAD, 0, 0, 1 << 16)


def order(count: int, shuffled: bool) -> list[int]:
    """0 to `count` - 1; shuffled in blocks of REORDERED_WITHIN, as numbers arrive when every shot has a connection of its own."""
    numbers = list(range(count))
    if shuffled:
        rng = random.Random(2)
        for first in range(0, count, REORDERED_WITHIN):
            block = numbers[first : first + REORDERED_WITHIN]
            rng.shuffle(block)
            numbers[first : first + REORDERED_WITHIN] = block
    return numbers


@sizes
def test_seal(benchmark: BenchmarkFixture, size: int) -> None:
    shot = benchmark(seal, ShotWriter(), NOISE[:size])
    assert open_frames(AEAD, shot)[2][0][3] == NOISE[:size]


@sizes
def test_open(benchmark: BenchmarkFixture, size: int) -> None:
    _, _, frames = benchmark(open_frames, AEAD, seal(ShotWriter(), NOISE[:size]))
    assert frames == [(STREAM, 4, 1 << 20, NOISE[:size], False)]


@sizes
def test_read_whole(benchmark: BenchmarkFixture, size: int) -> None:
    shot = seal(ShotWriter(), NOISE[:size])
    assert benchmark(ShotReader().feed, shot)[0][3] == shot


@pytest.mark.parametrize("size", SIZES[1:], ids=lambda size: f"{size}-bytes")
def test_read_in_segments(benchmark: BenchmarkFixture, size: int) -> None:
    """A shot in pieces of SEGMENT bytes, the first of them half as long."""
    shot, reader = seal(ShotWriter(), NOISE[:size]), ShotReader()
    pieces = [shot[: SEGMENT // 2], *(shot[at : at + SEGMENT] for at in range(SEGMENT // 2, len(shot), SEGMENT))]
    assert benchmark(lambda: [record for piece in pieces for record in reader.feed(piece)])[0][3] == shot


@orders
def test_acks(benchmark: BenchmarkFixture, shuffled: bool) -> None:
    """NUMBERS times: a number is noted, an ack taken."""
    numbers = order(NUMBERS, shuffled)

    def note_and_take() -> AckLog:
        log = AckLog()
        for number in numbers:
            log.add(number)
            log.take()
        return log

    assert benchmark(note_and_take)


@orders
def test_replay_window(benchmark: BenchmarkFixture, shuffled: bool) -> None:
    """NUMBERS times: a number is checked and marked."""
    window, numbers, rounds = ReplayWindow(), order(NUMBERS, shuffled), 0

    def check_and_mark() -> None:
        nonlocal rounds
        first = rounds * NUMBERS
        for number in numbers:
            window.check(first + number)
            window.mark(first + number)
        rounds += 1

    benchmark(check_and_mark)
    assert window.highest == rounds * NUMBERS - 1


@orders
def test_reassembly(benchmark: BenchmarkFixture, shuffled: bool) -> None:
    """PIECES times: a piece is put in, and what is in order by then taken out."""
    offsets = [PIECE * number for number in order(PIECES, shuffled)]
    piece = NOISE[:PIECE]

    def reassemble() -> int:
        buffer = RecvBuffer()
        for offset in offsets:
            if buffer.insert(offset, piece, False):
                while ready := buffer.peek():
                    buffer.consume(sum(map(len, ready)))
        return buffer.read_offset

    assert benchmark(reassemble) == PIECE * PIECES


@orders
def test_playout(benchmark: BenchmarkFixture, shuffled: bool) -> None:
    """NUMBERS times: a payload's end is expected, and those in order by then go to the beat and from it."""
    numbers = order(NUMBERS, shuffled)
    steps: list[tuple[int, int, float]] = []
    there: set[int] = set()
    in_order = 0
    for number in numbers:
        there.add(number)
        while in_order in there:
            in_order += 1
        steps.append((PIECE * (number + 1), PIECE * in_order, float(len(steps))))

    def play_out() -> int:
        playout, released = Playout(1.0, 0, False, 0), 0
        for end, reached, now in steps:
            playout.expect(end)
            playout.advance(reached, now)
            released += playout.release(now)
        return released + playout.waiting

    assert benchmark(play_out) == PIECE * NUMBERS
