"""The receiver of stripes, without a session: shots and parity come as a test says; what is rebuilt is taken in if it opens."""

from __future__ import annotations

import random
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from shots import AEAD, unseal

from tcsplitter._core import Fec, ShotWriter
from tcsplitter.rebuild import Rebuilder, Rebuilt
from tcsplitter.stats import Counters

NOW = 100.0
LATER = 10**5


def sealed(number: int) -> bytes:
    """A shot as it is on the wire; they have different lengths."""
    writer = ShotWriter()
    writer.begin(0, 0)
    writer.stream(0, 0, random.Random(number).randbytes(20 + 7 * number % 17), False)
    return writer.seal(AEAD, 0, 0, number)


def parity_of(shots: Sequence[bytes], count: int) -> list[bytes]:
    return Fec(len(shots), count).encode(shots)


class Rig:
    """The receiver of a direction: what came is taken in once, and so is what was rebuilt, if it opens."""

    def __init__(self, lowest: int = 0) -> None:
        self.counters = Counters()
        self.taken: dict[int, bytes] = {}
        self.lowest = lowest
        """Numbers below it are too old."""
        self.rebuilder = Rebuilder(self.counters, lambda number: number in self.taken or number < self.lowest)
        self.now = NOW

    def shot(self, number: int, record: bytes | None = None) -> list[int]:
        """A shot comes; the numbers that were rebuilt because of it."""
        record = record or sealed(number)
        self.taken[number] = record
        self.rebuilder.arrived(number, record, self.now)
        return self._take(self.rebuilder.take_ready())

    def parity(
        self, numbers: Sequence[int], index: int, count: int, block: bytes | None = None, number: int = LATER
    ) -> list[int]:
        """Parity comes, that of the true shots unless another block is given; the numbers that were rebuilt because of it."""
        block = parity_of([sealed(each) for each in numbers], count)[index] if block is None else block
        self.rebuilder.parity(number, index, count, list(numbers), memoryview(block), self.now)
        return self._take(self.rebuilder.take_ready())

    def _take(self, rebuilt: Rebuilt) -> list[int]:
        for number, record in rebuilt:
            assert number not in self.taken
            try:
                unseal(record)
            except InvalidTag:
                continue
            assert record == sealed(number)
            self.taken[number] = record
            self.rebuilder.took_in(number)
        return [number for number, _ in rebuilt]

    def check(self) -> None:
        """Nothing is kept that is not accounted for."""
        own = self.rebuilder
        assert own._kept_bytes == sum(map(len, own._kept.values()))
        assert own._kept.keys() <= {number for _, number in own._kept_until}
        assert own._stripe_bytes == sum(
            sum(map(len, each.shots.values())) + sum(map(len, each.blocks.values())) for each in own._stripes.values()
        )
        waits = {number: each for each in own._stripes.values() for number in each.numbers}
        assert own._waits_for == waits
        assert own._done.keys().isdisjoint(own._stripes)

    @property
    def waiting(self) -> int:
        """Stripes that wait for shots."""
        return len(self.rebuilder._stripes)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.rebuilder.run(self.now)
