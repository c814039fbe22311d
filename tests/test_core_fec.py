"""Parity over shots (PROTOCOL.md section 6) and each hazard of zfec that its guard keeps away."""

import itertools
from random import Random

import pytest
import zfec  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from tcsplitter._core import HEADER_SIZE, MAX_SEALED, Fec
from tcsplitter.errors import RemoteProtocolError

LONGEST = HEADER_SIZE + MAX_SEALED


@given(st.lists(st.binary(max_size=90), min_size=1, max_size=6), st.integers(1, 4), st.data())
def test_any_lost_shots_come_back(shots: list[bytes], spare: int, data: st.DataObject) -> None:
    fec = Fec(len(shots), spare)
    parity = fec.encode(shots)
    assert len(parity) == spare
    assert {len(block) for block in parity} == {3 + max(map(len, shots))}
    lost = data.draw(st.sets(st.integers(0, len(shots) - 1), max_size=spare))
    kept = data.draw(st.sets(st.integers(0, spare - 1), min_size=len(lost)))
    present = {i: shot for i, shot in enumerate(shots) if i not in lost}
    assert fec.rebuild(present, {i: parity[i] for i in kept}) == {i: shots[i] for i in lost}


@pytest.mark.parametrize("order", list(itertools.permutations([0, 2, 3])))
def test_the_order_of_arrival_does_not_matter(order: tuple[int, ...]) -> None:
    shots = [bytes([i]) * (i + 5) for i in range(4)]
    fec = Fec(4, 2)
    parity = fec.encode(shots)
    assert fec.rebuild({i: shots[i] for i in order}, {1: parity[1], 0: parity[0]}) == {1: shots[1]}


@pytest.mark.parametrize(("data", "parity"), [(d, p) for d in range(1, 6) for p in range(1, 8 - d)])
def test_all_patterns_of_loss_are_made_up_for(data: int, parity: int) -> None:
    shots = [bytes(range(i, 2 * i + 70)) for i in range(data)]
    fec = Fec(data, parity)
    blocks = fec.encode(shots)
    # Twice, because matrices are kept: zfec must not have reordered what they are kept under.
    for _ in range(2):
        for kept in itertools.combinations(range(data + parity), data):
            present = {i: shots[i] for i in kept if i < data}
            spare = {i - data: blocks[i - data] for i in kept if i >= data}
            assert fec.rebuild(present, spare) == {i: shots[i] for i in range(data) if i not in kept}


@given(st.integers(1, 255), st.integers(1, 255), st.integers(0, 300), st.randoms(use_true_random=False))
def test_any_of_a_large_stripe_are_enough(data: int, parity: int, longest: int, rng: Random) -> None:
    parity = min(parity, 256 - data)
    shots = [rng.randbytes(rng.randint(0, longest)) for _ in range(data)]
    blocks = Fec(data, parity).encode(shots)
    kept = set(rng.sample(range(data + parity), data))
    present = {i: shots[i] for i in kept if i < data}
    spare = {i - data: blocks[i - data] for i in kept if i >= data}
    assert Fec(data, parity).rebuild(present, spare) == {i: shots[i] for i in range(data) if i not in kept}


def test_more_parity_than_needed_changes_nothing() -> None:
    shots = [b"abc", b"de", b"", b"fghi"]
    parity = dict(enumerate(Fec(4, 3).encode(shots)))
    assert Fec(4, 3).rebuild({0: b"abc", 2: b"", 3: b"fghi"}, parity) == {1: b"de"}


GOLDEN = ["0000167a754b78b4bb9c9caf96", "000032684f0360c1d0b9b9eca7"]


def test_golden_parity() -> None:
    # Part of the wire format: an end that was built before a change here could not rebuild what a later one sends.
    assert [block.hex() for block in Fec(2, 2).encode([b"tcsplitter", b"shot"])] == GOLDEN


def test_a_block_is_the_length_the_shot_and_zeros() -> None:
    shots = [b"abc", b"abcdefg"]
    blocks = (b"\0\0\3abc\0\0\0\0", b"\0\0\7abcdefg")
    assert Fec(2, 3).encode(shots) == zfec.Encoder(2, 5).encode(blocks, (2, 3, 4))


def test_the_widest_stripes_and_the_longest_shots() -> None:
    shots = [bytes([i]) * 3 for i in range(255)]
    wide = Fec(255, 1)
    assert wide.rebuild({i: shots[i] for i in range(254)}, dict(enumerate(wide.encode(shots)))) == {254: shots[254]}
    single = Fec(1, 255)
    assert single.rebuild({}, {254: single.encode([b"abc"])[254]}) == {0: b"abc"}
    longest = bytes(range(256)) * (LONGEST // 256) + bytes(LONGEST % 256)
    assert Fec(1, 1).rebuild({}, {0: Fec(1, 1).encode([longest])[0]}) == {0: longest}


@pytest.mark.parametrize(("data", "parity"), [(0, 1), (1, 0), (-1, 2), (2, -1), (256, 1), (1, 256), (128, 129), (2**40, 1)])
def test_impossible_stripes_are_refused(data: int, parity: int) -> None:
    with pytest.raises(ValueError, match="blocks"):
        Fec(data, parity)


@pytest.mark.parametrize("shots", [[], [b"a"], [b"a", b"b", b"c"], [b"a", bytes(LONGEST + 1)]])
def test_encode_refuses_other_counts_and_lengths(shots: list[bytes]) -> None:
    with pytest.raises(ValueError, match="shot"):
        Fec(2, 1).encode(shots)


def test_only_bytes_are_encoded() -> None:
    with pytest.raises(TypeError):
        Fec(2, 1).encode([b"a", bytearray(b"b")])  # type: ignore[list-item]


# --- Hazards. What zfec does with each was measured; none of it may be reached through the guard.


def test_too_few_blocks_are_refused() -> None:
    fec = Fec(3, 2)
    shots = [b"a", b"b", b"c"]
    parity = fec.encode(shots)
    for present, spare in ({0: b"a"}, {0: parity[0]}), ({}, dict(enumerate(parity))), ({0: b"a", 1: b"b"}, {}):
        with pytest.raises(ValueError, match="missing"):
            fec.rebuild(present, spare)


@pytest.mark.parametrize("index", [-1, 3, 4, 255, 256, 2**40, 0.5, "1"])
def test_a_foreign_data_number_is_refused(index: int) -> None:
    # zfec takes a number of 3 or 4 for parity, and reads past its matrix for one of 5 to 255.
    fec = Fec(3, 2)
    parity = dict(enumerate(fec.encode([b"a", b"b", b"c"])))
    with pytest.raises(ValueError, match="index"):
        fec.rebuild({0: b"a", index: b"b"}, parity)


@pytest.mark.parametrize("index", [-1, -3, 2, 252, 2**40, 0.5, "1"])
def test_a_foreign_parity_number_is_refused(index: int) -> None:
    # -1 to -3 would name data blocks a second time, for which zfec never returns.
    fec = Fec(3, 2)
    parity = fec.encode([b"a", b"b", b"c"])
    with pytest.raises(ValueError, match="index"):
        fec.rebuild({0: b"a", 2: b"c"}, {0: parity[0], index: parity[1]})


def test_nothing_is_decoded_where_nothing_is_missing() -> None:
    fec = Fec(2, 1)
    assert fec.rebuild({0: b"a", 1: b"b"}, {}) == {}
    assert fec.rebuild({1: b"b", 0: b"a"}, {0: b"garbage of any length"}) == {}


def test_what_is_passed_in_is_left_as_it_was() -> None:
    # zfec reorders the tuples it is given and returns the objects passed in.
    fec = Fec(3, 2)
    shots = [b"abc", b"bcd", b"cde"]
    parity = fec.encode(shots)
    assert shots == [b"abc", b"bcd", b"cde"]
    present, spare = {2: shots[2], 0: shots[0]}, {1: parity[1]}
    for _ in range(2):
        assert fec.rebuild(present, spare) == {1: b"bcd"}
        assert (list(present.items()), spare) == ([(2, b"cde"), (0, b"abc")], {1: parity[1]})


def test_a_parity_block_in_a_mutable_buffer_is_not_kept() -> None:
    fec = Fec(1, 2)
    block = bytearray(fec.encode([b"abc"])[0])
    rebuilt = fec.rebuild({}, {0: block})
    block.clear()
    assert rebuilt == {0: b"abc"}


def test_parity_comes_in_any_buffers() -> None:
    shots = [b"abcdefgh" * 20, b"12345"]
    first, second = Fec(2, 2).encode(shots)
    apart = bytearray(2 * len(first))
    apart[::2] = first
    for block in memoryview(b"." + first + b".")[1:-1], memoryview(apart)[::2], memoryview(first).cast("c"):
        assert Fec(2, 2).rebuild({1: shots[1]}, {0: block}) == {0: shots[0]}
        assert Fec(2, 2).rebuild({}, {0: block, 1: second}) == dict(enumerate(shots))


@pytest.mark.parametrize("block", [None, 7, "abcdef"])
def test_parity_that_is_no_buffer_is_refused(block: object) -> None:
    with pytest.raises(TypeError):
        Fec(1, 1).rebuild({}, {0: block})  # type: ignore[type-var]


@pytest.mark.parametrize("shot", [None, 7, "abc", bytearray(b"abc")])
def test_only_bytes_are_rebuilt_from(shot: bytes) -> None:
    parity = Fec(2, 1).encode([b"abc", b"de"])
    with pytest.raises(TypeError):
        Fec(2, 1).rebuild({0: shot}, {0: parity[0]})


def test_blocks_of_different_lengths_contradict_each_other() -> None:
    fec = Fec(2, 2)
    parity = fec.encode([b"abc", b"de"])
    for spare in ({0: parity[0], 1: parity[1] + b"\0"}, {0: parity[0][:-1], 1: parity[1]}):
        with pytest.raises(RemoteProtocolError):
            fec.rebuild({}, spare)


@pytest.mark.parametrize("block", [b"", b"\0\0", bytes(5), bytes(3 + LONGEST + 1)])
def test_a_parity_block_of_an_impossible_length_contradicts(block: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Fec(2, 1).rebuild({0: b"abc"}, {0: block})


def test_a_rebuilt_length_beyond_the_block_contradicts() -> None:
    parity = zfec.Encoder(1, 2).encode((b"\0\0\4abc",), (1,))[0]
    with pytest.raises(RemoteProtocolError):
        Fec(1, 1).rebuild({}, {0: parity})


def test_rebuilt_padding_that_is_not_zero_contradicts() -> None:
    parity = zfec.Encoder(1, 2).encode((b"\0\0\2abc",), (1,))[0]
    with pytest.raises(RemoteProtocolError):
        Fec(1, 1).rebuild({}, {0: parity})


@given(st.data())
def test_any_parity_is_rebuilt_or_refused(data: st.DataObject) -> None:
    length = data.draw(st.integers(3, 12))
    block = st.binary(min_size=length, max_size=length)
    try:
        rebuilt = Fec(2, 2).rebuild({}, {0: data.draw(block), 1: data.draw(block)})
    except RemoteProtocolError:
        return
    assert set(rebuilt) == {0, 1}
