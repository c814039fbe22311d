"""What parity costs, next to zfec, which does the same calculation a byte at a time.

Purpose: to see that parity does not limit a tunnel. Metric: the time of a round, which is one stripe, and MB of shots per second
by the median. zfec is given blocks that are made already, and nothing is checked for it.
"""

import random

import pytest
import zfec  # type: ignore[import-untyped]
from pytest_benchmark.fixture import BenchmarkFixture

from benches.results import note_work
from tcsplitter._core import FEC_KERNELS, Fec

PREFIX = 3  # bytes of a block before the shot

shapes = pytest.mark.parametrize(("data", "parity"), [(10, 3), (4, 1), (20, 10)], ids=["10+3", "4+1", "20+10"])
sizes = pytest.mark.parametrize("size", [1_300, 10_000, 65_536], ids=lambda size: f"{size}-bytes")
coders = pytest.mark.parametrize("coder", ["core", "zfec"])


def random_shots(data: int, size: int) -> list[bytes]:
    rng = random.Random(1)
    return [rng.randbytes(size) for _ in range(data)]


def block(shot: bytes) -> bytes:
    return len(shot).to_bytes(PREFIX, "big") + shot


@coders
@sizes
@shapes
def test_encode(benchmark: BenchmarkFixture, data: int, parity: int, size: int, coder: str) -> None:
    """The parity of one stripe."""
    shots = random_shots(data, size)
    blocks, numbers = tuple(map(block, shots)), tuple(range(data, data + parity))
    encoder = zfec.Encoder(data, data + parity)
    note_work(benchmark.extra_info, MB=data * size / 1e6)
    made = benchmark(Fec(data, parity).encode, shots) if coder == "core" else benchmark(encoder.encode, blocks, numbers)
    assert made == encoder.encode(blocks, numbers)


@coders
@sizes
@shapes
def test_rebuild(benchmark: BenchmarkFixture, data: int, parity: int, size: int, coder: str) -> None:
    """One stripe that lost as many shots as its parity can make up for."""
    shots = random_shots(data, size)
    spare = Fec(data, parity).encode(shots)
    note_work(benchmark.extra_info, MB=data * size / 1e6)
    if coder == "core":
        kept = dict(enumerate(shots[parity:], parity))
        rebuilt = benchmark(Fec(data, parity).rebuild, kept, dict(enumerate(spare)))
        assert rebuilt == dict(enumerate(shots[:parity]))
    else:
        # In the order that zfec would otherwise bring about in these very tuples.
        numbers = (*range(data, data + parity), *range(parity, data))
        blocks = (*spare, *map(block, shots[parity:]))
        assert benchmark(zfec.Decoder(data, data + parity).decode, blocks, numbers) == list(map(block, shots))


@pytest.mark.parametrize("kernel", FEC_KERNELS)
def test_kernels(benchmark: BenchmarkFixture, kernel: str) -> None:
    """The parity of one stripe of 10+3, 10,000 bytes each, by every kernel that this machine has."""
    shots = random_shots(10, 10_000)
    note_work(benchmark.extra_info, MB=0.1)
    made = benchmark(Fec(10, 3, kernel).encode, shots)
    assert made == Fec(10, 3).encode(shots)


def test_a_small_stripe(benchmark: BenchmarkFixture) -> None:
    """A stripe of its own: the object is made, and the parity of ten shots of 100 bytes."""
    shots = random_shots(10, 100)
    note_work(benchmark.extra_info, MB=0.001)
    made = benchmark(lambda: Fec(10, 3).encode(shots))
    assert made == Fec(10, 3).encode(shots)
