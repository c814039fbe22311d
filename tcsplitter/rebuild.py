"""Shots that came are kept while parity may need them, and those that did not come are rebuilt (PROTOCOL.md section 6)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from tcsplitter._core import REPLAY_WINDOW, Fec, ShotReader
from tcsplitter.errors import RemoteProtocolError

if TYPE_CHECKING:
    from tcsplitter.stats import Counters

MAX_KEPT, MAX_KEPT_BYTES = 8_192, 16 * 1024 * 1024
"""Shots that are kept without it being known whether parity will need them; beyond either the oldest are forgotten."""
QUIET_BYTES = 1024 * 1024
"""The same while no parity has come for KEEP_SECONDS: on a clean line, or a full one, none does but for the last of a burst."""
MAX_STRIPES, MAX_STRIPE_BYTES = 256, 16 * 1024 * 1024
"""Stripes that wait for shots, and what is kept for them; beyond either the oldest is given up."""
KEEP_SECONDS, SWEEP_SECONDS = 10.0, 1.0
"""How long either is kept; shots are let go of together, with so much more time for the oldest."""
MAX_DONE, MAX_REBUILT = 4_096, 16_384
"""Stripes that are over, and shots that were rebuilt and did not come, that are remembered."""

Rebuilt = list[tuple[int, bytes]]
"""Numbers and sealed shots."""


class _Stripe:
    """What has come of a stripe that lacks something."""

    __slots__ = ("blocks", "count", "ends_at", "length", "numbers", "shots", "size")

    def __init__(self, numbers: list[int], count: int, length: int, ends_at: float) -> None:
        self.numbers = numbers
        self.count = count
        self.length = length
        self.ends_at = ends_at
        self.shots: dict[int, bytes] = {}
        """Data shots by their place in the stripe."""
        self.blocks: dict[int, memoryview] = {}
        self.size = 0


class Rebuilder:
    """One direction of a session, at its receiver.

    A stripe waits while more of its data shots are missing than parity has come. It is done when it lacks nothing, or what it
    lacked was rebuilt; it is given up after KEEP_SECONDS, for want of room, or when its shots contradict each other.
    """

    def __init__(self, counters: Counters, has: Callable[[int], bool]) -> None:
        """`has`: whether a shot of this number was taken in, or is too old to be."""
        self.keeping = False
        """The other end may send parity."""
        self.rebuilt: dict[int, None] = {}
        """Numbers that were rebuilt, and that did not come since."""
        self._counters = counters
        self._has = has
        self._kept: dict[int, bytes] = {}
        self._kept_until: deque[tuple[float, int]] = deque()
        """Those that were released since are still among them."""
        self._kept_bytes = 0
        self._quiet_from = -inf
        """When no parity will have come for KEEP_SECONDS, unless some comes before."""
        self._stripes: dict[int, _Stripe] = {}
        """Those that wait, by their first number, oldest first."""
        self._ready: dict[int, _Stripe] = {}
        """Those of which enough has come, by their first number."""
        self._stripe_bytes = 0
        self._waits_for: dict[int, _Stripe] = {}
        """By the numbers that they cover."""
        self._done: dict[int, None] = {}
        """First numbers of stripes that are over."""

    @property
    def held(self) -> int:
        """Bytes that are kept."""
        return self._kept_bytes + self._stripe_bytes

    # ----------------------------------------------------------------------------- what comes

    def arrived(self, number: int, record: bytes, now: float) -> None:
        """A data shot came, sealed as it is."""
        stripe = self._waits_for.get(number)
        if stripe is not None:
            self._add_shot(stripe, stripe.numbers.index(number), record)
            self._look_at(stripe)
            self._make_room()
            return
        self._kept[number] = record
        self._kept_bytes += len(record)
        self._kept_until.append((now + KEEP_SECONDS, number))
        most = MAX_KEPT_BYTES if now < self._quiet_from else QUIET_BYTES
        while len(self._kept_until) > MAX_KEPT or self._kept_bytes > most:
            self._forget_oldest()

    def parity(self, number: int, index: int, count: int, numbers: list[int], block: memoryview, now: float) -> None:
        """A parity shot came: block `index` of `count` over the shots of `numbers`."""
        self.keeping = True
        self._quiet_from = now + KEEP_SECONDS
        first = numbers[0]
        if first in self._done:
            return
        stripe = self._stripes.get(first)
        if stripe is None:
            stripe = self._begin(number, count, numbers, len(block), now)
        if stripe is None:
            return
        if index not in stripe.blocks:
            stripe.blocks[index] = block
            self._count(stripe, len(block))
        same = stripe.numbers == numbers and stripe.count == count and stripe.length == len(block)
        if not same or stripe.blocks[index] != block:
            self._give_up(stripe)
            return
        self._look_at(stripe)
        self._make_room()

    def _begin(self, number: int, count: int, numbers: list[int], length: int, now: float) -> _Stripe | None:
        """A stripe of which nothing was known; None if it lacks nothing, or cannot be one."""
        if all(map(self._has, numbers)):
            self._release(numbers)
            self._finish(numbers[0])
            return None
        if not number - REPLAY_WINDOW < numbers[0] <= numbers[-1] < number or any(n in self._waits_for for n in numbers):
            self._counters.stripes_lost += 1
            self._finish(numbers[0])
            return None
        stripe = self._stripes[numbers[0]] = _Stripe(numbers, count, length, now + KEEP_SECONDS)
        for at, covered in enumerate(numbers):
            self._waits_for[covered] = stripe
            if (record := self._kept.get(covered)) is not None:
                self._add_shot(stripe, at, record)
        return stripe

    def _make_room(self) -> None:
        while len(self._stripes) > MAX_STRIPES or self._stripe_bytes > MAX_STRIPE_BYTES:
            self._give_up(next(iter(self._stripes.values())))

    def _add_shot(self, stripe: _Stripe, at: int, record: bytes) -> None:
        stripe.shots[at] = record
        self._count(stripe, len(record))

    def _count(self, stripe: _Stripe, size: int) -> None:
        stripe.size += size
        self._stripe_bytes += size

    # ------------------------------------------------------------------------ what becomes of it

    def _look_at(self, stripe: _Stripe) -> None:
        """More of it has come."""
        if all(at in stripe.shots or self._has(number) for at, number in enumerate(stripe.numbers)):
            self._end(stripe)
        elif len(stripe.shots) + len(stripe.blocks) >= len(stripe.numbers):
            self._ready[stripe.numbers[0]] = stripe

    def take_ready(self) -> Rebuilt:
        """What can be rebuilt; to be called when all that has come is taken in: often parity is just a little ahead of shots."""
        rebuilt: Rebuilt = []
        while self._ready:
            rebuilt += self._rebuild(next(iter(self._ready.values())))
        return rebuilt

    def _rebuild(self, stripe: _Stripe) -> Rebuilt:
        """The missing shots; what came and was forgotten is rebuilt too, and not needed."""
        missing = [at for at, number in enumerate(stripe.numbers) if at not in stripe.shots and not self._has(number)]
        self._end(stripe)
        try:
            shots = Fec(len(stripe.numbers), stripe.count).rebuild(stripe.shots, stripe.blocks)
            rebuilt = [(stripe.numbers[at], shots[at]) for at in missing]
            for number, record in rebuilt:
                _check(number, record)
        except RemoteProtocolError:
            self._counters.stripes_lost += 1
            return []
        return rebuilt

    def took_in(self, number: int) -> None:
        """A shot that was rebuilt proved genuine."""
        self._counters.shots_rebuilt += 1
        self.rebuilt[number] = None
        if len(self.rebuilt) > MAX_REBUILT:
            del self.rebuilt[next(iter(self.rebuilt))]

    def _give_up(self, stripe: _Stripe) -> None:
        self._counters.stripes_lost += 1
        self._end(stripe)

    def _end(self, stripe: _Stripe) -> None:
        del self._stripes[stripe.numbers[0]]
        self._ready.pop(stripe.numbers[0], None)
        for number in stripe.numbers:
            del self._waits_for[number]
        self._stripe_bytes -= stripe.size
        self._release(stripe.numbers)
        self._finish(stripe.numbers[0])

    def _release(self, numbers: list[int]) -> None:
        """Their stripe is over."""
        for number in numbers:
            self._kept_bytes -= len(self._kept.pop(number, b""))

    def _finish(self, first: int) -> None:
        self._done[first] = None
        if len(self._done) > MAX_DONE:
            del self._done[next(iter(self._done))]

    def _forget_oldest(self) -> None:
        _, number = self._kept_until.popleft()
        self._kept_bytes -= len(self._kept.pop(number, b""))

    # ------------------------------------------------------------------------------------ time

    def run(self, now: float) -> None:
        """Let go of what was kept for long enough."""
        while self._kept_until and self._kept_until[0][0] <= now:
            self._forget_oldest()
        while self._stripes and (stripe := next(iter(self._stripes.values()))).ends_at <= now:
            self._give_up(stripe)

    def deadline(self) -> float:
        """When `run` has something to do."""
        by = self._kept_until[0][0] + SWEEP_SECONDS if self._kept_until else inf
        return min(by, next(iter(self._stripes.values())).ends_at) if self._stripes else by

    def forget(self) -> None:
        """There is no room: let go of all."""
        while self._kept_until:
            self._forget_oldest()
        while self._stripes:
            self._give_up(next(iter(self._stripes.values())))


def _check(number: int, record: bytes) -> None:
    """Raises RemoteProtocolError if what was rebuilt is not the one shot of this number."""
    reader = ShotReader()
    records = reader.feed(record)
    if len(records) != 1 or reader.pending or records[0][2] != number:
        raise RemoteProtocolError("a rebuilt shot is not the one that parity named")
