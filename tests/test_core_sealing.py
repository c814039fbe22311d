"""Sealed shots as a whole, and hellos, against PROTOCOL.md sections 3 and 4. What a body holds: test_core_wire.py."""

from __future__ import annotations

import random
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from shots import AEAD, seal, seal_hello

from tcsplitter import _core
from tcsplitter._core import (
    FINAL,
    GREETING,
    HEADER_SIZE,
    HELLO,
    MAX_HELLO_SEALED,
    MAX_SEALED,
    MAX_VARINT,
    PARITY,
    ROOM_AROUND,
    TAG_SIZE,
    ShotReader,
    ShotWriter,
    open_frames,
)
from tcsplitter.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from tcsplitter._core import Bytes

# Golden vectors, as those in test_core_wire.py.

GOLDEN_SHOT = "010300001b00000000000001020d2a10936d981052477e0af956a067834a19154456a70981c66e7a"
GOLDEN_HELLO = "020300001a00000000000000093692b92631c3de8d3fb4c05cf2280bc8981655ab798939b9b490"


def test_golden_shot() -> None:
    writer = ShotWriter()
    writer.begin(2, 5)
    writer.stream(4, 0, b"abc", True)
    assert writer.seal(AEAD, FINAL, 3, 0x0102).hex() == GOLDEN_SHOT
    assert ShotReader().feed(bytes.fromhex(GOLDEN_SHOT)) == [(FINAL, 3, 0x0102, bytes.fromhex(GOLDEN_SHOT))]
    assert open_frames(AEAD, bytes.fromhex(GOLDEN_SHOT)) == (2, 5, [(_core.STREAM, 4, 0, b"abc", True)])


def test_golden_hello() -> None:
    assert written_hello(3, 9, 1, 180_000).hex() == GOLDEN_HELLO
    assert ShotReader(expect_hello=True).feed(bytes.fromhex(GOLDEN_HELLO)) == [(HELLO, 3, 9, bytes.fromhex(GOLDEN_HELLO))]
    assert open_frames(AEAD, bytes.fromhex(GOLDEN_HELLO)) == (0, 0, [(GREETING, 1, 180_000)])


def written_hello(epoch: int, number: int, kind: int, connect_us: int) -> bytes:
    writer = ShotWriter()
    writer.begin(0, 0)
    writer.greeting(kind, connect_us)
    return writer.seal(AEAD, 0, epoch, number)


# --- Sealing


@given(st.integers(0, 255), st.integers(0, MAX_VARINT), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_a_hello_comes_back_as_it_was_written(epoch: int, number: int, kind: int, connect_us: int) -> None:
    hello = written_hello(epoch, number, kind, connect_us)
    assert hello == seal_hello(AEAD, epoch, number, kind, connect_us)
    assert ShotReader(True).feed(hello) == [(HELLO, epoch, number, hello)]
    assert open_frames(AEAD, hello) == (0, 0, [(GREETING, kind, connect_us)])


def test_a_hello_takes_frames_along() -> None:
    writer = ShotWriter()
    writer.begin(7, 8)
    writer.greeting(0, 2**32)
    writer.ping()
    writer.stream(0, 5, b"abc", False)
    hello = writer.seal(AEAD, FINAL, 0, 1)
    assert ShotReader(True).feed(hello) == [(HELLO | FINAL, 0, 1, hello)]
    frames = [(GREETING, 0, 2**32 - 1), (_core.PING,), (_core.STREAM, 0, 5, b"abc", False)]
    assert open_frames(AEAD, hello) == (7, 8, frames)
    writer.begin(0, 0)
    assert ShotReader().feed(writer.seal(AEAD, 0, 0, 2))[0][0] == 0  # the next one is none


def test_what_greets_stands_first() -> None:
    writer = ShotWriter()
    with pytest.raises(LocalProtocolError, match="greeting"):
        writer.greeting(0, 0)
    writer.begin(0, 0)
    writer.ping()
    with pytest.raises(LocalProtocolError, match="greeting"):
        writer.greeting(0, 0)
    assert open_frames(AEAD, writer.seal(AEAD, 0, 0, 0)) == (0, 0, [(_core.PING,)])
    writer.begin(0, 0)
    writer.greeting(0, 0)
    with pytest.raises(LocalProtocolError, match="greeting"):
        writer.greeting(0, 0)
    with pytest.raises(LocalProtocolError, match="parity"):
        writer.parity(0, 1, 1, [5], b"block")


def test_a_hello_is_as_long_as_it_may_be_and_no_longer() -> None:
    writer = ShotWriter()
    writer.begin(0, 0)
    writer.greeting(0, 0)
    room = MAX_HELLO_SEALED - TAG_SIZE - writer.size
    writer.stream(0, 0, bytes(room - 7), False)  # type, id and offset, and a length of four bytes
    assert len(ShotReader(True).feed(writer.seal(AEAD, 0, 0, 0))) == 1
    writer.begin(0, 0)
    writer.greeting(0, 0)
    writer.stream(0, 0, bytes(room - 6), False)
    with pytest.raises(LocalProtocolError, match="hello"):
        writer.seal(AEAD, 0, 0, 0)


@pytest.mark.parametrize(
    ("flags", "epoch", "number"),
    [(HELLO, 0, 0), (PARITY, 0, 0), (8, 0, 0), (-1, 0, 0), (0, 256, 0), (0, -1, 0), (0, 0, -1), (0, 0, MAX_VARINT + 1)],
)
def test_a_header_that_cannot_be_is_refused(flags: int, epoch: int, number: int) -> None:
    writer = ShotWriter()
    writer.begin(0, 0)
    with pytest.raises(LocalProtocolError):
        writer.seal(AEAD, flags, epoch, number)


@pytest.mark.parametrize(("kind", "connect_us"), [(4, 0), (-1, 0), (0, -1)])
def test_a_hello_that_cannot_be_is_refused(kind: int, connect_us: int) -> None:
    with pytest.raises(LocalProtocolError):
        written_hello(0, 0, kind, connect_us)


class KeepingAead:
    """A cipher that seals nothing and keeps what it is given."""

    def __init__(self, tag: bytes) -> None:
        self.tag = tag
        self.given: list[tuple[bytes, Bytes, Bytes | None]] = []

    def encrypt_into(self, nonce: bytes, data: Bytes, associated_data: Bytes | None, buf: Bytes) -> int:
        self.given.append((nonce, data, associated_data))
        return _put(bytes(data) + self.tag, buf)

    def decrypt_into(self, nonce: bytes, data: Bytes, associated_data: Bytes | None, buf: Bytes) -> int:
        self.given.append((nonce, data, associated_data))
        return _put(bytes(data)[: -len(self.tag)], buf)


def _put(made: bytes, buf: Bytes) -> int:
    memoryview(buf)[: len(made)] = made[: len(memoryview(buf))]
    return len(made)


def test_a_cipher_with_another_tag_size_is_refused() -> None:
    writer = ShotWriter()
    writer.begin(0, 0)
    with pytest.raises(LocalProtocolError, match="cipher"):
        writer.seal(KeepingAead(bytes(15)), 0, 0, 0)
    with pytest.raises(LocalProtocolError, match="cipher"):
        open_frames(KeepingAead(bytes(15)), seal(bytes(9)))


def test_a_body_that_the_cipher_still_holds_is_never_moved() -> None:
    aead = KeepingAead(bytes(16))
    writer = ShotWriter()
    writer.begin(0, 0)
    writer.seal(aead, 0, 0, 0)
    writer.begin(0, 0)
    with pytest.raises(BufferError):
        writer.stream(0, 0, bytes(100_000), False)
    assert bytes(aead.given[0][1]) == bytes(4)


# --- Sealing data where they are


def in_the_middle(data: bytes, room: int = ROOM_AROUND) -> memoryview:
    """As the data of a local program are read: bytes that may change, with others to both sides."""
    whole = bytearray(b"<" * room + data + b">" * room)
    return memoryview(whole)[room : room + len(data)]


@st.composite
def frames_around(draw: st.DrawFn) -> list[tuple[str, tuple[object, ...]]]:
    """Frames of a body, some of them with data that can be sealed where they are."""
    sizes = st.sampled_from([0, 1, 4_095, 4_096, 70_000])
    frames: list[tuple[str, tuple[object, ...]]] = []
    for name in draw(st.lists(st.sampled_from(["stream", "ack", "ping"]), min_size=1, max_size=6)):
        if name == "stream":
            frames.append((name, (draw(st.integers(0, 9)), draw(st.integers(0, 2**40)), draw(sizes), draw(st.booleans()))))
        elif name == "ack":
            ranges = [(number, number) for number in range(4 * draw(st.integers(1, 32)), 0, -4)]
            frames.append((name, (0, 0, ranges, [])))
        else:
            frames.append((name, ()))
    return frames


@given(frames_around(), st.sampled_from([0, 10, ROOM_AROUND, 1_000]))
def test_where_the_data_are_makes_no_difference(frames: list[tuple[str, tuple[object, ...]]], room: int) -> None:
    shots = []
    for place in (bytes, lambda data: in_the_middle(data, room)):
        writer = ShotWriter()
        views = []
        for _ in range(2):  # the second one finds what the first has left
            writer.begin(1, 2)
            for name, values in frames:
                if name == "stream":
                    stream_id, offset, size, fin = values
                    assert isinstance(size, int)
                    views.append(place(random.Random(size).randbytes(size)))
                    writer.stream(stream_id, offset, views[-1], fin)  # type: ignore[arg-type]
                else:
                    getattr(writer, name)(*values)
            written = writer.size
            shots.append(writer.seal(AEAD, 0, 0, 7))
            assert len(shots[-1]) == written + HEADER_SIZE + TAG_SIZE
        for view in views:
            if isinstance(view, memoryview):
                assert view.obj == b"<" * room + view + b">" * room
    assert len(set(shots)) == 1


class LookingAead(KeepingAead):
    """One that keeps how things stand while it seals, and may fail."""

    def __init__(self, whole: bytearray, fails: bool) -> None:
        super().__init__(bytes(TAG_SIZE))
        self.whole = whole
        self.fails = fails

    def encrypt_into(self, nonce: bytes, data: Bytes, associated_data: Bytes | None, buf: Bytes) -> int:
        self.seen = bytes(self.whole)
        self.body = bytes(data)
        if self.fails:
            raise MemoryError
        return super().encrypt_into(nonce, data, associated_data, buf)


@pytest.mark.parametrize("fails", [False, True])
def test_many_data_are_sealed_where_they_are(fails: bool) -> None:
    data = random.Random(1).randbytes(65_536)
    view = in_the_middle(data)
    whole = view.obj
    assert isinstance(whole, bytearray)
    before = bytes(whole)
    writer = ShotWriter()
    writer.begin(0, 0)
    writer.stream(0, 0, view, False)
    writer.ping()
    aead = LookingAead(whole, fails)
    with pytest.raises(MemoryError) if fails else nullcontext():
        writer.seal(aead, 0, 0, 0)
    assert aead.body in aead.seen
    assert aead.body[:4] == bytes(4)
    assert aead.body[-len(data) - 1 :] == data + bytes([_core.PING])
    assert whole == before
    if fails:  # the body is still there
        assert open_frames(AEAD, writer.seal(AEAD, 0, 0, 0)) == (0, 0, [(_core.STREAM, 0, 0, data, False), (_core.PING,)])
    else:
        with pytest.raises(ValueError, match="released"):
            bytes(aead.given[0][1])


def test_data_that_may_not_change_are_sealed_as_a_copy() -> None:
    data = bytes(100_000)
    writer = ShotWriter()
    writer.begin(0, 0)
    writer.stream(0, 0, memoryview(data)[1_000:-1_000], False)
    aead = LookingAead(bytearray(), fails=False)
    writer.seal(aead, 0, 0, 0)
    assert len(aead.body) > 98_000
    assert data == bytes(100_000)


def test_lent_data_that_do_not_fit_leave_the_body_as_it_was() -> None:
    writer = ShotWriter()
    writer.begin(0, 0)
    writer.ping()
    with pytest.raises(LocalProtocolError, match="body"):
        writer.stream(0, 0, in_the_middle(bytes(MAX_SEALED - TAG_SIZE - 5)), False)
    writer.stream(0, 0, b"abc", False)
    assert open_frames(AEAD, writer.seal(AEAD, 0, 0, 0)) == (0, 0, [(_core.PING,), (_core.STREAM, 0, 0, b"abc", False)])


def test_a_body_that_was_begun_anew_holds_no_lent_data() -> None:
    writer = ShotWriter()
    writer.begin(0, 0)
    view = in_the_middle(bytes(5_000))
    writer.stream(0, 0, view, False)
    writer.begin(0, 0)
    writer.ping()
    assert open_frames(AEAD, writer.seal(AEAD, 0, 0, 0)) == (0, 0, [(_core.PING,)])
    assert isinstance(view.obj, bytearray)
    whole = view.obj
    view.release()
    whole.clear()  # nothing holds it any more


# --- Opening


def test_a_changed_shot_does_not_open() -> None:
    shot = seal(bytes.fromhex("00000000 01"), epoch=1, number=2)
    for i in range(len(shot)):
        for bit in range(8):
            changed = shot[:i] + bytes([shot[i] ^ 1 << bit]) + shot[i + 1 :]
            with pytest.raises((InvalidTag, RemoteProtocolError)):
                open_frames(AEAD, changed)


@pytest.mark.parametrize("length", [0, 1, 12, 13, 30, 31, 34, 36])
def test_a_shot_of_another_length_than_it_says_is_refused(length: int) -> None:
    shot = seal(bytes(6))
    assert len(shot) == 35
    with pytest.raises(RemoteProtocolError):
        open_frames(AEAD, (shot + bytes(1))[:length])
    with pytest.raises(RemoteProtocolError):
        open_frames(AEAD, (seal(bytes(6), HELLO) + bytes(1))[:length])


def test_parity_is_no_shot_with_frames_once_it_is_known_to_be_genuine() -> None:
    parity = seal(bytes.fromhex("00000000 01"), PARITY)
    with pytest.raises(RemoteProtocolError, match="parity"):
        open_frames(AEAD, parity)
    with pytest.raises(InvalidTag):
        open_frames(AEAD, parity[:-1] + bytes([parity[-1] ^ 1]))
    with pytest.raises(RemoteProtocolError, match="parity"):
        open_frames(AEAD, seal(bytes.fromhex("00000000 0f00 00000000"), PARITY | HELLO))


def test_what_greets_is_in_hellos_alone() -> None:
    assert open_frames(AEAD, seal_hello())
    with pytest.raises(RemoteProtocolError, match="unknown"):
        open_frames(AEAD, seal(bytes.fromhex("00000000 0f00 00000000")))
    with pytest.raises(RemoteProtocolError, match="unknown"):
        open_frames(AEAD, seal(bytes.fromhex("00000000 0f00 00000000 0f00 00000000"), HELLO))


@pytest.mark.parametrize(
    "frames",
    ["", "01", "0f", "0f00 000000", "0f04 00000000", "0fff 00000000", "01 0f00 00000000", "0f00 00000000 ff"],
)
def test_malformed_hellos_are_refused(frames: str) -> None:
    hello = seal(bytes(4) + bytes.fromhex(frames), HELLO)
    with pytest.raises(RemoteProtocolError):
        open_frames(AEAD, hello)
    with pytest.raises(InvalidTag):
        open_frames(AESGCM(bytes(32)), hello)
