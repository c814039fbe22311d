"""The cutting of a carrier's bytes into shots (ShotReader), against PROTOCOL.md sections 3 and 4."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lending import lent
from shots import header, seal, seal_hello

from tcsplitter._core import FINAL, HEADER_SIZE, HELLO, MAX_HELLO_SEALED, MAX_SEALED, PARITY, ShotReader
from tcsplitter.errors import RemoteProtocolError

if TYPE_CHECKING:
    from tcsplitter._core import Record


def fed_whole(reader: ShotReader, data: bytes) -> list[Record]:
    return reader.feed(data)


def fed_bytewise(reader: ShotReader, data: bytes) -> list[Record]:
    return [record for i in range(len(data)) for record in reader.feed(data[i : i + 1])]


def fed_in_sevens(reader: ShotReader, data: bytes) -> list[Record]:
    return [record for i in range(0, len(data), 7) for record in reader.feed(data[i : i + 7])]


def fed_lent(reader: ShotReader, pieces: Iterable[bytes]) -> list[Record]:
    """What is returned is looked at before the next piece takes its place."""
    records: list[Record] = []
    for piece in pieces:
        with lent(piece) as view:
            records += [(flags, epoch, number, bytes(shot)) for flags, epoch, number, shot in reader.feed(view)]
    return records


def fed_in_lent_sevens(reader: ShotReader, data: bytes) -> list[Record]:
    return fed_lent(reader, (data[i : i + 7] for i in range(0, len(data), 7)))


Feeder = Callable[[ShotReader, bytes], "list[Record]"]
every_way = pytest.mark.parametrize("feed", [fed_whole, fed_bytewise, fed_in_sevens, fed_in_lent_sevens])


@st.composite
def halves(draw: st.DrawFn) -> list[tuple[int, int, int, bytes]]:
    """The records of a half; nothing of them is really sealed, for the reader does not open them."""
    sizes = draw(st.lists(st.integers(20, 200), max_size=6))
    records = []
    for i, size in enumerate(sizes):
        flags = FINAL if i == len(sizes) - 1 and draw(st.booleans()) else draw(st.sampled_from([0, PARITY]))
        epoch, number = draw(st.integers(0, 255)), draw(st.integers(0, 2**62 - 1))
        records.append((flags, epoch, number, header(flags, epoch, size, number) + bytes([i]) * size))
    return records


@given(halves(), st.booleans(), st.data())
def test_shots_are_cut_alike_in_whatever_pieces_they_come(records: list[Record], with_hello: bool, data: st.DataObject) -> None:
    if with_hello:
        records = [(HELLO, 1, 2, header(HELLO, 1, 30, 2) + bytes(30)), *records]
    ended = any(flags & FINAL for flags, *_ in records)
    rest = b"" if ended or not records else data.draw(st.binary(max_size=12))
    line = b"".join(shot for *_, shot in records) + rest
    cuts = sorted(data.draw(st.sets(st.integers(0, len(line)), max_size=8)) | {0, len(line)})

    def fed_in_pieces(reader: ShotReader, line: bytes) -> list[Record]:
        return [record for low, high in pairwise(cuts) for record in reader.feed(line[low:high])]

    def fed_in_lent_pieces(reader: ShotReader, line: bytes) -> list[Record]:
        return fed_lent(reader, (line[low:high] for low, high in pairwise(cuts)))

    for feed in (fed_whole, fed_bytewise, fed_in_pieces, fed_in_lent_pieces):
        reader = ShotReader(with_hello)
        assert feed(reader, line) == records
        assert reader.pending == len(rest)


@every_way
def test_what_a_shot_lacks_is_known_with_its_header(feed: Feeder) -> None:
    shot = seal(bytes(100))
    assert ShotReader().missing == 0
    for count in range(1, len(shot)):
        reader = ShotReader()
        assert feed(reader, shot[:count]) == []
        assert reader.missing == (len(shot) if count >= HEADER_SIZE else HEADER_SIZE) - count
        assert len(feed(reader, shot[count:])) == 1
        assert reader.missing == 0
        assert len(feed(reader, shot + shot[:count])) == 1
        assert reader.missing == (len(shot) if count >= HEADER_SIZE else HEADER_SIZE) - count


def test_one_whole_shot_is_not_copied() -> None:
    shot = seal(bytes(500))
    reader = ShotReader()
    assert reader.feed(shot)[0][3] is shot


def test_whole_shots_of_a_view_are_views_of_the_same() -> None:
    line = b"12345678" + seal(bytes(500), HELLO) + seal(bytes(100))
    view = memoryview(line)
    whole = [record[3] for record in ShotReader(expect_hello=True).feed(view, 8)]
    assert [shot.obj for shot in whole if isinstance(shot, memoryview)] == [line, line]
    assert b"".join(whole) == line[8:]


@every_way
@pytest.mark.parametrize(
    ("expect_hello", "head"),
    [
        pytest.param(False, header(0x08, 0, 100, 0), id="unknown flag"),
        pytest.param(False, header(0x80 | FINAL, 0, 100, 0), id="another unknown flag"),
        pytest.param(False, header(0, 0, 19, 0), id="too short for a body and its tag"),
        pytest.param(False, header(0, 0, 0, 0), id="no length"),
        pytest.param(False, header(0, 0, MAX_SEALED + 1, 0), id="too long"),
        pytest.param(False, header(0, 0, 0xFFFFFF, 0), id="longest length"),
        pytest.param(False, header(0, 0, 100, 2**62), id="a number that no ack can name"),
        pytest.param(False, header(HELLO, 0, 23, 0), id="hello where none was due"),
        pytest.param(True, header(0, 0, 23, 0), id="no hello"),
        pytest.param(True, header(HELLO, 0, 19, 0), id="hello too short"),
        pytest.param(True, header(HELLO, 0, MAX_HELLO_SEALED + 1, 0), id="hello too long"),
        pytest.param(True, header(HELLO | 0x10, 0, 23, 0), id="hello with an unknown flag"),
    ],
)
def test_a_bad_header_is_refused_for_good(feed: Feeder, expect_hello: bool, head: bytes) -> None:
    reader = ShotReader(expect_hello)
    assert reader.feed(head[:12]) == []
    assert reader.pending == 12
    with pytest.raises(RemoteProtocolError):
        feed(reader, head[12:] + bytes(50))
    assert reader.pending == 0
    for data in (b"", seal(bytes(20)), seal(bytes(7), HELLO)):
        with pytest.raises(RemoteProtocolError, match="already"):
            reader.feed(data)


@every_way
def test_the_limits_themselves_are_accepted(feed: Feeder) -> None:
    shortest, hello = header(0, 0, 20, 0) + bytes(20), header(HELLO, 0, MAX_HELLO_SEALED, 0) + bytes(MAX_HELLO_SEALED)
    assert [record[3] for record in feed(ShotReader(True), hello + shortest)] == [hello, shortest]


def test_the_longest_shot_is_accepted_in_pieces() -> None:
    longest = header(0, 0, MAX_SEALED, 0) + bytes(MAX_SEALED)
    reader = ShotReader()
    assert [record for i in range(0, len(longest), 100) for record in reader.feed(longest[i : i + 100])] == [(0, 0, 0, longest)]


@every_way
def test_a_second_hello_is_refused(feed: Feeder) -> None:
    hello = seal_hello()
    with pytest.raises(RemoteProtocolError, match="hello"):
        feed(ShotReader(True), hello + hello)


@every_way
@pytest.mark.parametrize("after", [b"\0", seal(bytes(4))])
def test_nothing_may_follow_a_final_shot(feed: Feeder, after: bytes) -> None:
    reader = ShotReader()
    reader.feed(seal(bytes(4), FINAL))
    assert reader.feed(b"") == []
    with pytest.raises(RemoteProtocolError, match="last"):
        feed(reader, after)
    with pytest.raises(RemoteProtocolError, match="last"):
        feed(ShotReader(), seal(bytes(4), FINAL) + after)


def test_only_bytes_are_fed() -> None:
    """And views of bytes, however these are counted; nothing of others is kept."""
    for other in (bytearray(40), "x" * 40, None):
        with pytest.raises(TypeError):
            ShotReader().feed(other)  # type: ignore[arg-type]
    shot = seal(bytes(27))  # 56 in all
    assert ShotReader().feed(memoryview(shot).cast("I").cast("B"))[0][3] == shot
    assert ShotReader().feed(memoryview(shot).cast("I"))[0][3] == shot
    with pytest.raises(BufferError):
        ShotReader().feed(memoryview(shot)[::2])
