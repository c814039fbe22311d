"""Every way to multiply over GF(2**8) that this machine has, next to the definition of the field and to zfec."""

import platform
from pathlib import Path
from random import Random

import pytest
import zfec  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from tcsplitter._core import FEC_KERNELS, Fec

POLYNOMIAL = 0x11D
CHUNK = 64  # what kernels work on; they meet an edge at its multiples
WIDE = [(1, 1), (4, 1), (10, 3), (20, 10), (255, 1), (1, 255), (128, 128), (2, 254), (254, 2)]

kernels = pytest.mark.parametrize("kernel", FEC_KERNELS)


def multiply(a: int, b: int) -> int:
    """Bit by bit, as the field is defined."""
    product = 0
    while b:
        product ^= a * (b & 1)
        a, b = a << 1, b >> 1
        a ^= POLYNOMIAL * (a >> 8)
    return product


def parity_of_zfec(shots: list[bytes], parity: int) -> list[bytes]:
    length = 3 + max(map(len, shots))
    blocks = tuple((len(shot).to_bytes(3, "big") + shot).ljust(length, b"\0") for shot in shots)
    made: list[bytes] = zfec.Encoder(len(shots), len(shots) + parity).encode(
        blocks, tuple(range(len(shots), len(shots) + parity))
    )
    return made


def test_the_kernels_are_those_of_the_processor() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    needed = {"x86_64": {"gfni": {"avx2", "gfni"}, "avx2": {"avx2"}}, "aarch64": {"neon": {"asimd"}}}.get(platform.machine(), {})
    there = [name for name, needs in needed.items() if needs <= flags]
    assert list(FEC_KERNELS) == [*there, "portable"]


@pytest.mark.parametrize("kernel", ["", "none", "AVX2", None])
def test_another_kernel_is_refused(kernel: str) -> None:
    with pytest.raises(ValueError, match="tuple"):
        Fec(2, 1, kernel)


@kernels
def test_the_whole_table_of_products(kernel: str) -> None:
    # With one shot of all elements and others of none, a parity block is all elements times its factor of that shot.
    elements = bytes(range(256))
    factors = set()
    for shots in [elements], [elements, b""], [b"", elements]:
        for block in Fec(len(shots), 256 - len(shots), kernel).encode(shots):
            factor = block[3 + 1]
            assert block[3:] == bytes(multiply(factor, element) for element in elements)
            factors.add(factor)
    # There is no zero in a matrix of which any rows can be inverted.
    assert factors == set(range(1, 256))


@kernels
@pytest.mark.parametrize("parity", range(1, 10))
def test_all_lengths_of_tails(kernel: str, parity: int) -> None:
    rng = Random(1)
    fec = Fec(5, parity, kernel)
    for longest in range(2 * CHUNK + 5):
        whole = [rng.randbytes(longest) for _ in range(5)]
        ragged = [shot[: rng.randint(0, longest)] for shot in whole]
        for shots in whole, ragged:
            assert fec.encode(shots) == parity_of_zfec(shots, parity)


@kernels
def test_shots_that_end_around_the_same_edge(kernel: str) -> None:
    for edge in CHUNK, 5 * CHUNK:
        for longest in edge + 2, edge + CHUNK, edge + 3 * CHUNK + 1:
            shots = [bytes([size % 251]) * size for size in (0, edge - 1, longest, edge, edge + 1, 1)]
            assert Fec(6, 5, kernel).encode(shots) == parity_of_zfec(shots, 5)


@kernels
@pytest.mark.parametrize(("data", "parity"), WIDE, ids=[f"{d}+{p}" for d, p in WIDE])
def test_wide_stripes(kernel: str, data: int, parity: int) -> None:
    rng = Random(data)
    shots = [rng.randbytes(rng.choice([0, 1, 63, 64, 600, rng.randint(0, 1_200)])) for _ in range(data)]
    fec = Fec(data, parity, kernel)
    blocks = fec.encode(shots)
    assert blocks == parity_of_zfec(shots, parity)
    lost = rng.sample(range(data), min(data, parity))
    present = {i: shot for i, shot in enumerate(shots) if i not in lost}
    assert fec.rebuild(present, dict(enumerate(blocks))) == {i: shots[i] for i in lost}


@kernels
def test_long_shots_that_are_taken_in_blocks(kernel: str) -> None:
    rng = Random(3)
    shots = [rng.randbytes(size) for size in (70_000, 66_001, 10_000, 9_999, 70_000)]
    fec = Fec(5, 6, kernel)
    blocks = fec.encode(shots)
    assert blocks == parity_of_zfec(shots, 6)
    assert fec.rebuild({}, dict(enumerate(blocks[1:], 1))) == dict(enumerate(shots))


@kernels
@pytest.mark.parametrize("size", [1, 31, 64, 200])
def test_blocks_at_any_address(kernel: str, size: int) -> None:
    rng = Random(2)
    shots = [rng.randbytes(size) for _ in range(3)]
    fec = Fec(3, 3, kernel)
    blocks = fec.encode(shots)
    for offset in range(CHUNK + 1):
        # At the end of its buffer, so that a sanitizer sees what is read beyond it.
        moved = {i: memoryview(bytes(offset + i) + block)[offset + i :] for i, block in enumerate(blocks)}
        assert fec.rebuild({}, moved) == dict(enumerate(shots))


@given(
    st.sampled_from(FEC_KERNELS), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2_000), st.randoms(use_true_random=False)
)
def test_any_stripe_has_the_parity_of_zfec(kernel: str, data: int, parity: int, longest: int, rng: Random) -> None:
    shots = [rng.randbytes(rng.randint(0, longest)) for _ in range(data)]
    assert Fec(data, parity, kernel).encode(shots) == parity_of_zfec(shots, parity)
