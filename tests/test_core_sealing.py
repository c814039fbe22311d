"""Sealed shots as a whole, and hellos, against PROTOCOL.md sections 3 and 4. What a body holds: test_core_wire.py."""

from __future__ import annotations

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
    HELLO,
    MAX_HELLO_SEALED,
    MAX_VARINT,
    PARITY,
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
