"""Bodies of parity shots: building them and taking them apart, against PROTOCOL.md section 6. The code: test_core_fec.py."""

from __future__ import annotations

from itertools import accumulate

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given, settings
from hypothesis import strategies as st
from shots import AEAD, seal, seal_hello, unseal

from tcsplitter._core import (
    FINAL,
    HELLO,
    MAX_SEALED,
    MAX_VARINT,
    PARITY,
    TAG_SIZE,
    ShotReader,
    ShotWriter,
    open_frames,
    open_parity,
)
from tcsplitter.errors import LocalProtocolError, RemoteProtocolError

MAX_BODY = MAX_SEALED - TAG_SIZE
BLOCKS = 256

# Golden vectors, as those in test_core_wire.py.

GOLDEN_BODIES: list[tuple[str, tuple[int, int, list[int], bytes], str]] = [
    ("one of one", (0, 1, [0], b"abcd"), "01020304 00 01 01 00 61626364"),
    ("neighbours", (1, 2, [300, 301, 302], b"xyz"), "01020304 01 03 02 412c 00 00 78797a"),
    ("gaps", (0, 3, [63, 65, 130, 20_000], b""), "01020304 00 04 03 3f 01 4040 80004d9d"),
    ("late", (2, 3, [1 << 40, (1 << 40) + 1], b"\0"), "01020304 02 02 03 c000010000000000 00 00"),
]


def opened(shot: bytes) -> tuple[int, int, int, int, list[int], bytes]:
    """What a parity shot holds, with the block made bytes."""
    *stated, block = open_parity(AEAD, shot)
    return *stated, bytes(block)  # type: ignore[return-value]


def written(index: int, parity: int, numbers: list[int], block: bytes, want: int = 0, held: int = 0) -> bytes:
    """A sealed parity shot of the writer's."""
    writer = ShotWriter()
    writer.begin(want, held)
    writer.parity(index, len(numbers), parity, numbers, block)
    return writer.seal(AEAD, 0, 0, 0)


@pytest.mark.parametrize(("given_", "body"), [row[1:] for row in GOLDEN_BODIES], ids=[row[0] for row in GOLDEN_BODIES])
def test_golden_bodies(given_: tuple[int, int, list[int], bytes], body: str) -> None:
    index, parity, numbers, block = given_
    plain = bytes.fromhex(body)
    assert unseal(written(index, parity, numbers, block, 0x0102, 0x0304)) == plain
    assert opened(seal(plain, PARITY)) == (0x0102, 0x0304, index, parity, numbers, block)


GOLDEN_SHOT = "040500001b0000000000000007e06f131a17155fffc43e8d8abcabab0ba6f4775522285cd860c9df"


def test_golden_shot() -> None:
    writer = ShotWriter()
    writer.begin(2, 5)
    writer.parity(0, 2, 1, [5, 6], b"ab")
    assert writer.seal(AEAD, 0, 5, 7).hex() == GOLDEN_SHOT
    assert ShotReader().feed(bytes.fromhex(GOLDEN_SHOT)) == [(PARITY, 5, 7, bytes.fromhex(GOLDEN_SHOT))]
    assert unseal(bytes.fromhex(GOLDEN_SHOT)).hex() == "00020005" + "000201" + "0500" + "6162"
    assert opened(bytes.fromhex(GOLDEN_SHOT)) == (2, 5, 0, 1, [5, 6], b"ab")


# --- there and back


@st.composite
def stripes(draw: st.DrawFn) -> tuple[int, int, list[int], bytes]:
    data = draw(st.integers(1, 255) | st.integers(1, 8))
    parity = draw(st.integers(1, BLOCKS - data))
    gaps = draw(st.lists(st.integers(1, 2**40) | st.integers(1, 3), min_size=data - 1, max_size=data - 1))
    first = draw(st.integers(0, MAX_VARINT - sum(gaps)) | st.just(MAX_VARINT - sum(gaps)) | st.integers(0, 100))
    return draw(st.integers(0, parity - 1)), parity, list(accumulate([first, *gaps])), draw(st.binary(max_size=300))


@given(stripe=stripes(), want=st.integers(0, 65_535), held=st.integers(0, 65_535), final=st.booleans())
def test_parity_comes_back_as_it_was_written(
    stripe: tuple[int, int, list[int], bytes], want: int, held: int, final: bool
) -> None:
    index, parity, numbers, block = stripe
    writer = ShotWriter()
    writer.begin(want, held)
    writer.parity(index, len(numbers), parity, numbers, block)
    size = writer.size
    shot = writer.seal(AEAD, FINAL if final else 0, 0, 9)
    assert len(unseal(shot)) == size
    assert ShotReader().feed(shot) == [(PARITY | FINAL if final else PARITY, 0, 9, shot)]
    assert opened(shot) == (want, held, index, parity, numbers, block)
    with pytest.raises(RemoteProtocolError, match="parity"):
        open_frames(AEAD, shot)


def test_a_block_is_a_view_that_keeps_what_it_shows() -> None:
    block = open_parity(AEAD, written(0, 1, [1], b"abc"))[-1]
    assert isinstance(block, memoryview)
    assert block.readonly
    assert bytes(block) == b"abc"


def test_the_longest_body() -> None:
    block = bytes(MAX_BODY - 4 - 3 - 1)
    assert opened(written(0, 1, [5], block))[5] == block
    writer = ShotWriter()
    writer.begin(0, 0)
    with pytest.raises(LocalProtocolError, match="body"):
        writer.parity(0, 1, 1, [5], block + b"x")


# --- what the writer refuses


@pytest.mark.parametrize(
    ("index", "data", "parity", "numbers"),
    [
        (0, 0, 1, []),
        (0, 1, 0, [1]),
        (1, 1, 1, [1]),
        (-1, 1, 1, [1]),
        (0, 2, 1, [1]),
        (0, 1, 1, [1, 2]),
        (0, 1, 256, [1]),
        (0, 256, 1, list(range(256))),
        (0, 128, 129, list(range(128))),
        (2**40, 1, 2**41, [1]),
        (0, 1, -1, [1]),
        (0, 2, 1, [2, 1]),
        (0, 2, 1, [1, 1]),
        (0, 1, 1, [-1]),
        (0, 1, 1, [MAX_VARINT + 1]),
    ],
)
def test_parity_that_cannot_be_is_refused(index: int, data: int, parity: int, numbers: list[int]) -> None:
    writer = ShotWriter()
    writer.begin(1, 2)
    with pytest.raises(LocalProtocolError):
        writer.parity(index, data, parity, numbers, b"block")
    assert writer.size == 4
    writer.ping()
    assert unseal(writer.seal(AEAD, 0, 0, 0)).hex() == "0001000201", "the body is as it was"


def test_the_widest_stripes() -> None:
    for data in (1, 128, 255):
        numbers = list(range(data))
        assert opened(written(255 - data, BLOCKS - data, numbers, b"b"))[2:5] == (255 - data, BLOCKS - data, numbers)


def test_parity_needs_a_body_of_its_own() -> None:
    writer = ShotWriter()
    with pytest.raises(LocalProtocolError):
        writer.parity(0, 1, 1, [0], b"")
    writer.begin(0, 0)
    writer.ping()
    with pytest.raises(LocalProtocolError):
        writer.parity(0, 1, 1, [0], b"")
    assert open_frames(AEAD, writer.seal(AEAD, 0, 0, 0))[2] != []


def test_nothing_is_added_to_parity() -> None:
    writer = ShotWriter()
    writer.begin(0, 0)
    writer.parity(0, 1, 1, [0], b"block")
    size = writer.size
    for add in (
        writer.ping,
        lambda: writer.credit(1),
        lambda: writer.stream(0, 0, b"", False),
        lambda: writer.ack(0, 0, [(0, 0)], []),
        lambda: writer.close(0, ""),
        lambda: writer.parity(0, 1, 1, [0], b"block"),
    ):
        with pytest.raises(LocalProtocolError):
            add()
        assert writer.size == size
    with pytest.raises(LocalProtocolError, match="flags"):
        writer.seal(AEAD, PARITY, 0, 0)
    assert opened(writer.seal(AEAD, 0, 0, 0))[5] == b"block"


@pytest.mark.parametrize("sealed", [True, False])
def test_the_next_body_is_one_of_frames_again(sealed: bool) -> None:
    writer = ShotWriter()
    writer.begin(0, 0)
    writer.parity(0, 1, 1, [0], b"block")
    if sealed:
        writer.seal(AEAD, 0, 0, 0)
        with pytest.raises(LocalProtocolError, match="begun"):
            writer.ping()
    writer.begin(0, 0)
    writer.ping()
    shot = writer.seal(AEAD, FINAL, 0, 1)
    assert shot[0] == FINAL
    assert len(open_frames(AEAD, shot)[2]) == 1


# --- what comes from outside


def model(body: bytes) -> tuple[int, int, int, int, list[int], bytes] | None:
    """Section 6 read by hand; None for what it does not allow."""
    if len(body) < 7:
        return None
    index, data, parity = body[4:7]
    at, numbers = 7, list[int]()
    if not data or index >= parity or data + parity > BLOCKS:
        return None
    for _ in range(data):
        if at >= len(body) or at + (1 << (body[at] >> 6)) > len(body):
            return None
        size = 1 << (body[at] >> 6)
        value = int.from_bytes(body[at : at + size], "big") & (1 << 8 * size - 2) - 1
        numbers.append(value if not numbers else numbers[-1] + 1 + value)
        at += size
    if numbers[-1] > MAX_VARINT:
        return None
    return int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big"), index, parity, numbers, body[at:]


def check(body: bytes) -> None:
    expected = model(body)
    shot = seal(body, PARITY)
    if expected is None:
        with pytest.raises(RemoteProtocolError):
            open_parity(AEAD, shot)
    else:
        assert opened(shot) == expected


shapes = st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 5)).map(bytes)
huge = st.sampled_from([b"\xff" * 8, b"\xc0" + bytes(7), b"\xbf\xff\xff\xff"])
rest = st.lists(st.binary(max_size=12) | huge, max_size=4).map(b"".join)


@settings(max_examples=5 * settings().max_examples)
@given(st.binary(min_size=4, max_size=60) | st.tuples(st.just(bytes(4)), shapes, rest).map(b"".join))
def test_any_body_is_taken_apart_or_the_other_ends_fault(body: bytes) -> None:
    check(body)


@given(stripes(), st.data())
def test_whatever_is_cut_or_changed_is_taken_apart_or_the_other_ends_fault(
    stripe: tuple[int, int, list[int], bytes], data: st.DataObject
) -> None:
    body = unseal(written(*stripe))
    check(body[: data.draw(st.integers(4, len(body)))])
    at = data.draw(st.integers(4, len(body) - 1))
    check(body[:at] + bytes([data.draw(st.integers(0, 255))]) + body[at + 1 :])


@pytest.mark.parametrize(
    "body",
    [
        "",
        "00",
        "0001",
        "000101",  # no numbers
        "00000100",  # no data
        "00010000",  # no parity
        "01010100",  # an index beyond
        "ff01ff00",
        "00010140",  # a number cut short
        "00ff02" + "00" * 255,  # 257 blocks
        "00028000",  # 130 blocks, and only one number
        "000101c0",
        "000201ffffffffffffffff00",  # one above the last number
        "000201ffffffffffffffffffffffffffffffff",
        "000301ffffffffffffffffffffffffffffffffffffffffffffffff",
    ],
)
def test_malformed_bodies_are_refused(body: str) -> None:
    malformed = bytes(4) + bytes.fromhex(body)
    assert model(malformed) is None
    check(malformed)


def test_a_changed_shot_does_not_open() -> None:
    shot = written(0, 1, [5, 6], b"block")
    for at in range(len(shot)):
        changed = shot[:at] + bytes([shot[at] ^ 1]) + shot[at + 1 :]
        with pytest.raises((InvalidTag, RemoteProtocolError)):
            open_parity(AEAD, changed)
    with pytest.raises(InvalidTag):
        open_parity(AEAD, shot[:-1] + bytes([shot[-1] ^ 1]))


def test_frames_are_no_parity_and_neither_is_a_hello() -> None:
    with pytest.raises(RemoteProtocolError, match="parity"):
        open_parity(AEAD, seal(bytes(20)))
    with pytest.raises(RemoteProtocolError, match="parity"):
        open_parity(AEAD, seal_hello())
    body = unseal(written(0, 1, [0], b""))
    assert open_parity(AEAD, seal(body, PARITY))
    with pytest.raises(RemoteProtocolError, match="parity"):
        open_parity(AEAD, seal(body, PARITY | HELLO))


@pytest.mark.parametrize("length", [0, 12, 13, 30, 41, 43])
def test_a_shot_of_another_length_than_it_says_is_refused(length: int) -> None:
    shot = written(0, 1, [5], b"block")
    assert len(shot) == 42
    with pytest.raises(RemoteProtocolError):
        open_parity(AEAD, (shot + bytes(1))[:length])
