"""Bodies on the wire: building them and taking them apart, against PROTOCOL.md section 5. The shots: test_core_sealing.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shots import AEAD, seal, unseal

from tcsplitter import _core
from tcsplitter._core import (
    FINAL,
    HEADER_SIZE,
    HELLO,
    MAX_ACK_RANGES,
    MAX_DATAGRAM,
    MAX_HELLO_SEALED,
    MAX_SEALED,
    MAX_VARINT,
    PARITY,
    TAG_SIZE,
    ShotReader,
    ShotWriter,
    open_frames,
)
from tcsplitter.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_BODY = MAX_SEALED - TAG_SIZE


def frames_of(body: bytes) -> list[tuple[Any, ...]]:
    """The frames of a body, with views made bytes."""
    _, _, frames = open_frames(AEAD, seal(body))
    return [tuple(bytes(field) if isinstance(field, memoryview) else field for field in frame) for frame in frames]


def written(write: Callable[[ShotWriter], None], want: int = 0, held: int = 0) -> bytes:
    """The body that a writer makes."""
    writer = ShotWriter()
    writer.begin(want, held)
    write(writer)
    return unseal(writer.seal(AEAD, 0, 0, 0))


def nothing(_: ShotWriter) -> None:
    """Adds no frame."""


# --- Golden vectors. They are version 1 of the protocol: an end that was built before a change here could no longer talk to one
# that was built after it. A change needs another version number in the handshake.

GOLDEN_BODIES: list[tuple[str, Callable[[ShotWriter], None], str, list[tuple[Any, ...]]]] = [
    ("empty", nothing, "01020304", []),
    ("ping", lambda w: w.ping(), "01020304 01", [(_core.PING,)]),
    (
        "ack",
        lambda w: w.ack(300, 25_000, [(290, 300), (200, 250), (0, 0)], []),
        "01020304 02 412c 800061a8 03 412c 0a 26 32 40c6 00",
        [(_core.ACK, 300, 25_000, [(290, 300), (200, 250), (0, 0)], [])],
    ),
    (
        "ack with rebuilt",
        lambda w: w.ack(7, 0, [(5, 7)], [(4, 4), (1, 2)]),
        "01020304 03 07 00 01 07 02 02 04 00 00 01",
        [(_core.ACK, 7, 0, [(5, 7)], [(4, 4), (1, 2)])],
    ),
    ("credit", lambda w: w.credit(33_554_432), "01020304 04 82000000", [(_core.CREDIT, 33_554_432)]),
    (
        "stream credit",
        lambda w: w.stream_credit(4, 65_536, 9),
        "01020304 05 04 80010000 09",
        [(_core.STREAM_CREDIT, 4, 65_536, 9)],
    ),
    ("reset", lambda w: w.reset(8, 1, 1 << 40), "01020304 06 08 01 c000010000000000", [(_core.RESET, 8, 1, 1 << 40)]),
    ("close", lambda w: w.close(1, "zu groß"), "01020304 07 01 08 7a752067726fc39f", [(_core.CLOSE, 1, "zu groß")]),
    (
        "stream",
        lambda w: w.stream(4, 16_383, b"abc", False),
        "01020304 08 04 7fff 03 616263",
        [(_core.STREAM, 4, 16_383, b"abc", False)],
    ),
    ("fin", lambda w: w.stream(64, 16_384, b"", True), "01020304 09 4040 80004000 00", [(_core.STREAM, 64, 16_384, b"", True)]),
    ("skip", lambda w: w.skip(8, 65_536), "01020304 0c 08 80010000", [(_core.SKIP, 8, 65_536)]),
    ("ask", lambda w: w.ask(65_536), "01020304 0e 80010000", [(_core.ASK, 65_536)]),
    ("gone", lambda w: w.gone(65_536), "01020304 0d 80010000", [(_core.GONE, 65_536)]),
    (
        "datagram",
        lambda w: w.datagram(2, 300, -1, -1, 3, 0, b"abc"),
        "01020304 10 02 412c 03 616263",
        [(_core.DATAGRAM, 2, 300, -1, -1, 3, 0, b"abc")],
    ),
    (
        "fragment",
        lambda w: w.datagram(2, 300, -1, -1, 65_507, 65_504, b"abc"),
        "01020304 11 02 412c 8000ffe3 8000ffe0 03 616263",
        [(_core.DATAGRAM, 2, 300, -1, -1, 65_507, 65_504, b"abc")],
    ),
    (
        "timed datagram",
        lambda w: w.datagram(0, 0, 100_000, 250, 0, 0, b""),
        "01020304 12 00 00 800186a0 40fa 00",
        [(_core.DATAGRAM, 0, 0, 100_000, 250, 0, 0, b"")],
    ),
    (
        "timed fragment",
        lambda w: w.datagram(1, 2, 0, 0, 9, 4, b"xyz"),
        "01020304 13 01 02 00 00 09 04 03 78797a",
        [(_core.DATAGRAM, 1, 2, 0, 0, 9, 4, b"xyz")],
    ),
]


@pytest.mark.parametrize(("write", "body", "frames"), [row[1:] for row in GOLDEN_BODIES], ids=[row[0] for row in GOLDEN_BODIES])
def test_golden_bodies(write: Callable[[ShotWriter], None], body: str, frames: list[tuple[Any, ...]]) -> None:
    assert written(write, want=0x0102, held=0x0304).hex() == body.replace(" ", "")
    assert frames_of(bytes.fromhex(body)) == frames
    assert open_frames(AEAD, seal(bytes.fromhex(body)))[:2] == (0x0102, 0x0304)


def test_an_open_ended_stream_frame_runs_to_the_end_of_the_body() -> None:
    assert frames_of(bytes.fromhex("00000000 01 0a 04 10 616263")) == [(_core.PING,), (_core.STREAM, 4, 16, b"abc", False)]
    assert frames_of(bytes.fromhex("00000000 0b 04 10")) == [(_core.STREAM, 4, 16, b"", True)]


def test_constants_are_those_of_the_protocol() -> None:
    assert (HEADER_SIZE, TAG_SIZE, MAX_SEALED, MAX_HELLO_SEALED, MAX_ACK_RANGES) == (13, 16, 1_064_960, 81_920, 32)
    assert (MAX_VARINT, _core.REPLAY_WINDOW, _core.MAX_JUMP) == (2**62 - 1, 2**17, 2**24)
    assert MAX_DATAGRAM == 65_535 - 20 - 8  # what UDP over IPv4 can hold
    assert (FINAL, HELLO, PARITY) == (1, 2, 4)
    kinds = (_core.PING, _core.ACK, _core.CREDIT, _core.STREAM_CREDIT, _core.RESET, _core.CLOSE, _core.STREAM)
    assert kinds == (1, 2, 4, 5, 6, 7, 8)
    assert (_core.SKIP, _core.GONE, _core.ASK, _core.DATAGRAM) == (12, 13, 14, 16)


# --- What is written is what is read.

varints = st.integers(0, MAX_VARINT) | st.sampled_from([0, 63, 64, 16_383, 16_384, 2**30 - 1, 2**30, MAX_VARINT])


@st.composite
def ranges(draw: st.DrawFn) -> list[tuple[int, int]]:
    found = []
    low = draw(st.integers(10_000, MAX_VARINT)) + 2
    for _ in range(draw(st.integers(1, MAX_ACK_RANGES))):
        high = low - 2 - draw(st.integers(0, 100))
        low = high - draw(st.integers(0, 100))
        found.append((low, high))
    return found


@st.composite
def datagrams(draw: st.DrawFn) -> tuple[Any, ...]:
    stamp, deadline = draw(st.just((-1, -1)) | st.tuples(varints, varints))
    data = draw(st.binary(max_size=300) | st.integers(0, MAX_DATAGRAM).map(bytes))
    total = draw(st.just(len(data)) | st.integers(len(data), MAX_DATAGRAM))
    return _core.DATAGRAM, draw(varints), draw(varints), stamp, deadline, total, draw(st.integers(0, total - len(data))), data


frames_strategy = st.lists(
    st.one_of(
        st.just((_core.PING,)),
        st.tuples(st.just(_core.ACK), varints, varints, ranges(), ranges() | st.just([])),
        st.tuples(st.just(_core.CREDIT), varints),
        st.tuples(st.just(_core.STREAM_CREDIT), varints, varints, varints),
        st.tuples(st.just(_core.RESET), varints, varints, varints),
        st.tuples(st.just(_core.CLOSE), varints, st.text(max_size=60)),
        st.tuples(st.just(_core.STREAM), varints, st.integers(0, MAX_VARINT - 300), st.binary(max_size=300), st.booleans()),
        st.tuples(st.just(_core.SKIP), varints, varints),
        st.tuples(st.just(_core.GONE), varints),
        st.tuples(st.just(_core.ASK), varints),
        datagrams(),
    ),
    max_size=16,  # of the longest datagrams no more fit into a body
)

ADDERS: dict[int, Callable[..., None]] = {
    _core.PING: ShotWriter.ping,
    _core.ACK: ShotWriter.ack,
    _core.CREDIT: ShotWriter.credit,
    _core.STREAM_CREDIT: ShotWriter.stream_credit,
    _core.RESET: ShotWriter.reset,
    _core.CLOSE: ShotWriter.close,
    _core.STREAM: ShotWriter.stream,
    _core.SKIP: ShotWriter.skip,
    _core.GONE: ShotWriter.gone,
    _core.ASK: ShotWriter.ask,
    _core.DATAGRAM: ShotWriter.datagram,
}


@given(st.integers(0, 65_535), st.integers(0, 65_535), frames_strategy, st.integers(0, 255), varints)
def test_frames_come_back_as_they_were_written(
    want: int, held: int, frames: list[tuple[Any, ...]], epoch: int, number: int
) -> None:
    writer = ShotWriter()
    writer.begin(want, held)
    for kind, *fields in frames:
        ADDERS[kind](writer, *fields)
    size = writer.size
    shot = writer.seal(AEAD, FINAL, epoch, number)
    assert ShotReader().feed(shot) == [(FINAL, epoch, number, shot)]
    assert len(shot) == HEADER_SIZE + size + TAG_SIZE
    assert open_frames(AEAD, shot) == (want, held, frames)


# --- ShotWriter


def test_a_body_holds_exactly_its_maximum() -> None:
    writer = ShotWriter()
    writer.begin(0, 0)
    writer.stream(0, 0, bytes(MAX_BODY - 4 - 7 - 1), False)
    assert writer.size == MAX_BODY - 1
    with pytest.raises(LocalProtocolError, match="holds"):
        writer.credit(64)
    assert writer.size == MAX_BODY - 1
    writer.ping()
    with pytest.raises(LocalProtocolError, match="holds"):
        writer.ping()
    shot = writer.seal(AEAD, 0, 0, 0)
    assert len(shot) == HEADER_SIZE + MAX_SEALED
    assert [frame[0] for frame in open_frames(AEAD, shot)[2]] == [_core.STREAM, _core.PING]


@pytest.mark.parametrize(
    "add",
    [
        pytest.param(lambda w: w.ack(0, 0, None, []), id="ranges"),
        pytest.param(lambda w: w.ack(0, 0, [(0, 0)], None), id="rebuilt"),
        pytest.param(lambda w: w.stream(0, 0, None, False), id="data"),
        pytest.param(lambda w: w.seal(AEAD, 0, 0, 0, None), id="what goes before"),
        pytest.param(lambda _: open_frames(AEAD, cast("Any", None)), id="a record"),
    ],
)
def test_none_is_refused_and_leaves_the_body_as_it_was(add: Callable[[Any], object]) -> None:
    writer = ShotWriter()
    writer.begin(0, 0)
    size = writer.size
    with pytest.raises(TypeError):
        add(writer)
    assert writer.size == size


def test_data_larger_than_any_body_is_refused() -> None:
    writer = ShotWriter()
    writer.begin(0, 0)
    for size in (MAX_BODY - 8, MAX_BODY + 1, 4 * MAX_BODY):
        with pytest.raises(LocalProtocolError):
            writer.stream(0, 0, bytes(size), False)
    assert unseal(writer.seal(AEAD, 0, 0, 0)) == bytes(4)


@pytest.mark.parametrize(
    "write",
    [
        lambda w: w.credit(MAX_VARINT + 1),
        lambda w: w.credit(-1),
        lambda w: w.stream_credit(0, MAX_VARINT + 1, 0),
        lambda w: w.reset(0, 0, -1),
        lambda w: w.close(-1, ""),
        lambda w: w.stream(-1, 0, b"", False),
        lambda w: w.stream(0, -1, b"abc", False),
        lambda w: w.stream(0, MAX_VARINT - 2, b"abc", False),
        lambda w: w.skip(-1, 0),
        lambda w: w.skip(0, MAX_VARINT + 1),
        lambda w: w.datagram(-1, 0, -1, -1, 3, 0, b"abc"),
        lambda w: w.datagram(0, MAX_VARINT + 1, -1, -1, 3, 0, b"abc"),
        lambda w: w.datagram(0, 0, 0, -1, 3, 0, b"abc"),
        lambda w: w.datagram(0, 0, MAX_VARINT + 1, 0, 3, 0, b"abc"),
        lambda w: w.datagram(0, 0, -1, -1, 2, 0, b"abc"),
        lambda w: w.datagram(0, 0, -1, -1, 3, 1, b"abc"),
        lambda w: w.datagram(0, 0, -1, -1, 3, -1, b"abc"),
        lambda w: w.datagram(0, 0, -1, -1, 4, -1, b"abc"),
        lambda w: w.datagram(0, 0, -1, -1, 9, 7, b"abc"),
        lambda w: w.datagram(0, 0, -1, -1, MAX_DATAGRAM + 1, 0, b"abc"),
        lambda w: w.datagram(0, 0, -1, -1, MAX_DATAGRAM + 1, 0, bytes(MAX_DATAGRAM + 1)),
        lambda w: w.ack(0, 0, [], []),
        lambda w: w.ack(0, 0, [], [(0, 0)]),
        lambda w: w.ack(0, 0, [(2 * i, 2 * i) for i in range(MAX_ACK_RANGES, -1, -1)], []),
        lambda w: w.ack(0, 0, [(0, 0)], [(2 * i, 2 * i) for i in range(MAX_ACK_RANGES, -1, -1)]),
        lambda w: w.ack(0, 0, [(5, 4)], []),
        lambda w: w.ack(0, 0, [(-1, 4)], []),
        lambda w: w.ack(0, 0, [(5, 9), (3, 4)], []),
        lambda w: w.ack(0, 0, [(1, 2), (5, 9)], []),
    ],
)
def test_what_cannot_be_written_leaves_the_body_as_it_was(write: Callable[[ShotWriter], None]) -> None:
    def attempt(writer: ShotWriter) -> None:
        writer.ping()
        with pytest.raises(LocalProtocolError):
            write(writer)
        assert writer.size == 5
        writer.ping()

    assert written(attempt) == bytes.fromhex("00000000 01 01")


def test_nothing_is_written_or_sealed_before_a_body_was_begun() -> None:
    writer = ShotWriter()
    for _ in range(2):
        with pytest.raises(LocalProtocolError):
            writer.ping()
        with pytest.raises(LocalProtocolError):
            writer.seal(AEAD, 0, 0, 0)
        assert writer.size == 0
        writer.begin(0, 0)
        writer.seal(AEAD, 0, 0, 0)


def test_begin_drops_a_body_that_was_not_sealed() -> None:
    writer = ShotWriter()
    writer.begin(1, 3)
    writer.ping()
    writer.begin(2, 4)
    assert open_frames(AEAD, writer.seal(AEAD, 0, 0, 0)) == (2, 4, [])


@pytest.mark.parametrize(("want", "sent"), [(65_535, 65_535), (65_536, 65_535), (2**63 - 1, 65_535)])
def test_want_and_held_are_cut(want: int, sent: int) -> None:
    assert open_frames(AEAD, seal(written(nothing, want, want)))[:2] == (sent, sent)


@pytest.mark.parametrize(("want", "held"), [(-1, 0), (0, -1)])
def test_a_want_below_0_is_refused(want: int, held: int) -> None:
    with pytest.raises(LocalProtocolError):
        ShotWriter().begin(want, held)


@pytest.mark.parametrize(
    ("reason", "sent"),
    [("a" * 300, "a" * 255), ("é" * 128, "é" * 127), ("a" + "€" * 100, "a" + "€" * 84), ("\ud800", "?"), ("", "")],
)
def test_a_long_reason_is_cut_between_characters(reason: str, sent: str) -> None:
    assert frames_of(written(lambda w: w.close(1, reason))) == [(_core.CLOSE, 1, sent)]


@pytest.mark.parametrize("data", [bytearray(b"abcd"), memoryview(b"xabcdx")[1:5], memoryview(b"abcd").cast("H")])
def test_any_contiguous_buffer_is_taken(data: Buffer) -> None:
    assert frames_of(written(lambda w: w.stream(0, 0, data, False))) == [(_core.STREAM, 0, 0, b"abcd", False)]
    assert frames_of(written(lambda w: w.datagram(1, 2, -1, -1, 4, 0, data))) == [(_core.DATAGRAM, 1, 2, -1, -1, 4, 0, b"abcd")]


def test_a_buffer_with_holes_is_refused_and_released() -> None:
    writer = ShotWriter()
    writer.begin(0, 0)
    with pytest.raises(BufferError):
        writer.stream(0, 0, memoryview(b"abcd")[::2], False)
    data = bytearray(b"abcd")
    with pytest.raises(LocalProtocolError):
        writer.stream(0, MAX_VARINT, data, False)
    with pytest.raises(LocalProtocolError):
        writer.datagram(0, 0, -1, -1, 3, 0, data)
    writer.stream(0, 0, data, False)
    data.clear()  # BufferError if it were still held
    assert frames_of(unseal(writer.seal(AEAD, 0, 0, 0))) == [(_core.STREAM, 0, 0, b"abcd", False)]


# --- Opening


def test_large_data_is_a_view_and_small_data_is_not() -> None:
    body = bytes.fromhex("00000000 08 00 00 1e") + b"a" * 30 + bytes.fromhex("0a 04 00") + b"b" * 70
    _, _, ((*_, small, _), (*_, large, _)) = open_frames(AEAD, seal(body))
    assert type(small) is bytes
    assert small == b"a" * 30
    assert type(large) is memoryview
    assert large == b"b" * 70
    assert type(large.obj) is bytes
    assert 2 * len(large) >= len(large.obj)
    for size, expected in ((7, bytes), (8, memoryview)):  # behind as many bytes as 8
        _, _, ((*_, data),) = open_frames(AEAD, seal(bytes.fromhex(f"00000000 10 00 00 {size:02x}") + bytes(size)))
        assert type(data) is expected


REFUSED = {
    "frame type 0": "00000000 00",
    "frame type 0x0d": "00000000 0d 00 00 00 00 00 00 00",
    "frame type 0x0f": "00000000 0f 00 00 00 00 00 00 00",
    "frame type 0x14": "00000000 14 00 00 00 00 00 00 00",
    "frame type 0xff": "00000000 01 ff",
    "credit without a value": "00000000 04",
    "varint cut short": "00000000 04 c000000000",
    "stream data cut short": "00000000 08 00 00 03 6162",
    "stream length far beyond the body": "00000000 08 00 00 ffffffffffffffff",
    "stream without a length": "00000000 08 00 00",
    "open-ended stream without an offset": "00000000 0a 00",
    "offset and length above the limit": "00000000 08 00 ffffffffffffffff 01 61",
    "offset and length above the limit, open-ended": "00000000 0a 00 fffffffffffffffe 6162",
    "no range": "00000000 02 00 00 00",
    "33 ranges": "00000000 02 00 00 21 64 00" + 32 * "0000",
    "2**62 - 1 ranges": "00000000 02 00 00 ffffffffffffffff 64 00",
    "fewer ranges than stated": "00000000 02 00 00 02 64 00",
    "first range below 0": "00000000 02 00 00 01 04 05",
    "second range starts below 0": "00000000 02 00 00 02 04 03 00 00",
    "second range ends below 0": "00000000 02 00 00 02 04 00 00 03",
    "gap of 2**62 - 1": "00000000 02 00 00 02 04 00 ffffffffffffffff ffffffffffffffff",
    "rebuilt ranges missing": "00000000 03 00 00 01 04 00",
    "no rebuilt range": "00000000 03 00 00 01 04 00 00",
    "rebuilt range below 0": "00000000 03 00 00 01 04 00 01 00 01",
    "close without a reason": "00000000 07 01",
    "reason cut short": "00000000 07 01 03 6162",
    "reason that is no UTF-8": "00000000 07 01 02 c328",
    "reason with a surrogate": "00000000 07 01 03 eda080",
    "reset cut short": "00000000 06 00 00",
    "skip without an offset": "00000000 0c 04",
    "skip with half an offset": "00000000 0c 04 c0000000",
    "datagram without a length": "00000000 10 00 00",
    "datagram cut short": "00000000 10 00 00 03 6162",
    "datagram of 2**62 - 1 bytes": "00000000 10 00 00 ffffffffffffffff",
    "datagram of 65,508 bytes": "00000000 10 00 00 8000ffe4" + 65_508 * "00",
    "timed datagram without a deadline": "00000000 12 00 00 00",
    "fragment without an offset": "00000000 11 00 00 05",
    "fragment cut short": "00000000 11 00 00 05 01 03 6162",
    "fragment of 65,508 bytes": "00000000 11 00 00 8000ffe4 00 01 61",
    "fragment of 2**62 - 1 bytes": "00000000 11 00 00 ffffffffffffffff 00 01 61",
    "fragment beyond its datagram": "00000000 11 00 00 05 03 03 616263",
    "fragment longer than its datagram": "00000000 11 00 00 02 00 03 616263",
    "fragment at 2**62 - 1": "00000000 11 00 00 05 ffffffffffffffff 01 61",
    "empty fragment beyond its datagram": "00000000 13 00 00 00 00 05 06 00",
    "good frame, then garbage": "00000000 08 00 00 01 61 40",
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
def test_malformed_bodies_are_refused(body: str) -> None:
    with pytest.raises(RemoteProtocolError):
        frames_of(bytes.fromhex(body))


def test_the_largest_values_are_accepted() -> None:
    most = "ffffffffffffffff"
    assert frames_of(bytes.fromhex(f"00000000 08 {most} {most} 00")) == [(_core.STREAM, MAX_VARINT, MAX_VARINT, b"", False)]
    assert frames_of(bytes.fromhex("00000000 08 00 fffffffffffffffe 01 61")) == [(_core.STREAM, 0, MAX_VARINT - 1, b"a", False)]
    assert frames_of(bytes.fromhex(f"00000000 02 {most} {most} 01 {most} {most}")) == [
        (_core.ACK, MAX_VARINT, MAX_VARINT, [(0, MAX_VARINT)], [])
    ]
    assert frames_of(bytes.fromhex(f"00000000 0c {most} {most}")) == [(_core.SKIP, MAX_VARINT, MAX_VARINT)]
    assert frames_of(bytes.fromhex(f"00000000 13 {most} {most} {most} {most} 8000ffe3 8000ffe3 00")) == [
        (_core.DATAGRAM, MAX_VARINT, MAX_VARINT, MAX_VARINT, MAX_VARINT, MAX_DATAGRAM, MAX_DATAGRAM, b"")
    ]
    whole = bytes(MAX_DATAGRAM)
    assert frames_of(written(lambda w: w.datagram(0, 0, -1, -1, MAX_DATAGRAM, 0, whole)))[0][5:] == (MAX_DATAGRAM, 0, whole)
    full = [(2 * i, 2 * i) for i in range(MAX_ACK_RANGES - 1, -1, -1)]
    assert frames_of(written(lambda w: w.ack(62, 0, full, full))) == [(_core.ACK, 62, 0, full, full)]


def test_an_encoding_longer_than_needed_is_accepted() -> None:
    for value in ("07", "4007", "80000007", "c000000000000007"):
        assert frames_of(bytes.fromhex("00000000 04" + value)) == [(_core.CREDIT, 7)]
    # A fragment may be all of its datagram.
    assert frames_of(bytes.fromhex("00000000 11 05 06 01 00 01 61")) == [(_core.DATAGRAM, 5, 6, -1, -1, 1, 0, b"a")]


@pytest.mark.parametrize("body", [row[2] for row in GOLDEN_BODIES], ids=[row[0] for row in GOLDEN_BODIES])
def test_cut_and_changed_bodies_are_read_or_refused(body: str) -> None:
    whole = bytes.fromhex(body)
    changed = [whole[:i] + bytes([value]) + whole[i + 1 :] for i in range(4, len(whole)) for value in range(256)]
    cut = [whole[:i] for i in range(4, len(whole))]
    for candidate in cut + changed:
        try:
            frames_of(candidate)
        except RemoteProtocolError:
            assert candidate != whole
    for candidate in cut[1:]:  # none of these ends where a frame ends
        with pytest.raises(RemoteProtocolError):
            frames_of(candidate)


@given(st.binary(min_size=4, max_size=80) | st.lists(st.sampled_from(range(21)), min_size=4, max_size=40).map(bytes))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    try:
        frames = frames_of(body)
    except RemoteProtocolError:
        return
    data = [frame[7] for frame in frames if frame[0] == _core.DATAGRAM]
    assert sum(map(len, data)) + sum(len(frame[3]) for frame in frames if frame[0] == _core.STREAM) <= len(body)
    for frame in frames:
        assert frame[0] != _core.DATAGRAM or frame[6] + len(frame[7]) <= frame[5] <= MAX_DATAGRAM
