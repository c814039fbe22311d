"""Stripes of this direction: which data shots a parity shot covers, when a stripe is complete, and which parity waits to go.

A stripe is a few data shots, each on a carrier of its own, that left as they were; its parity shots go on further carriers. Any
of them, as many as there are data shots, are enough for the other end to have the rest at once (PROTOCOL.md section 6).
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

from tcsplitter._core import Fec

if TYPE_CHECKING:
    from tcsplitter.carrier import Carrier
    from tcsplitter.lateness import Lateness
    from tcsplitter.recovery import Recovery
    from tcsplitter.shared import Handling
    from tcsplitter.shots import SentShot

AUTO_DATA = 10
"""Data shots of a full stripe where the line decides."""
MAX_SHOT = 1_060_000
"""Bytes of a shot that parity can cover: the parity shot has a longer body and must not become too long."""
SIZE_JUMP = 4
"""A shot so many times as long as the longest of its stripe starts another one: parity is as long as the longest."""
SHORTEST_WAIT = 0.005
"""Seconds for which a stripe waits for more shots at least, so that on a fast line too a busy stream fills it."""
DROP_RTTS, DROP_SECONDS = 2.0, 0.1
"""Parity that found no carrier for the larger of these is dropped: what it covers was sent again, or is about to be. Where
nothing is sent again it waits for as long as a silent carrier is given."""


MAX_WAITING_BYTES = 16 * 1024 * 1024
"""Parity that waits; the oldest is dropped beyond that."""


class Stripe:
    """The shots of one stripe; as sent, until its parity is made."""

    __slots__ = ("began_at", "carriers", "closed_at", "longest", "numbers", "sealed", "urgent")

    def __init__(self, now: float) -> None:
        self.began_at = now
        self.closed_at = inf
        self.numbers: list[int] = []
        self.sealed: list[bytes] = []
        self.longest = 0
        self.carriers: set[Carrier] = set()
        """Those that carry a shot of it."""
        self.urgent = True
        """It holds nothing of bulk streams."""


class Parity:
    """One block of a stripe that waits to be sent."""

    __slots__ = ("block", "count", "index", "stripe")

    def __init__(self, stripe: Stripe, index: int, count: int, block: bytes) -> None:
        self.stripe = stripe
        self.index = index
        self.count = count
        """How many blocks the stripe has."""
        self.block = block


class Stripes:
    """Gathers data shots into stripes and keeps their parity until there are carriers for it."""

    def __init__(self, handling: Handling, recovery: Recovery) -> None:
        setting = handling.fec
        self.auto = setting.auto
        self.used = setting.used
        self._data = AUTO_DATA if setting.auto else setting.data
        self._parity = setting.parity
        self._tock = handling.tock
        self._resend = handling.retries.resend
        self._recovery = recovery
        self._lateness: Lateness = recovery.lateness
        self._open: Stripe | None = None
        self._waiting: deque[Parity] = deque()
        self._bytes = 0
        """Of those that wait."""

    def __len__(self) -> int:
        """Parity shots that wait."""
        return len(self._waiting)

    @property
    def gathered(self) -> int:
        """Shots of the stripe that is open."""
        return len(self._open.numbers) if self._open is not None else 0

    def add(self, shot: SentShot, sealed: bytes, others: float, urgent: bool, now: float) -> None:
        """A data shot left; `others`: carriers that are left for further shots of its stripe."""
        if len(sealed) > MAX_SHOT:
            return
        stripe = self._open
        if stripe is not None and (shot.carrier in stripe.carriers or len(sealed) > SIZE_JUMP * stripe.longest):
            self.close(now)
            stripe = None
        if stripe is None:
            stripe = self._open = Stripe(now)
        shot.covered = True
        stripe.numbers.append(shot.number)
        stripe.sealed.append(sealed)
        stripe.longest = max(stripe.longest, len(sealed))
        stripe.carriers.add(shot.carrier)
        stripe.urgent &= urgent
        if len(stripe.numbers) >= self._data or others <= self._parity:
            self.close(now)

    def run(self, now: float, delay: float) -> None:
        """Close the stripe that waited for more shots for long enough: one tock, or where there is none `delay`."""
        if self._open is not None and now >= self._closes_at(delay):
            self.close(now)

    def deadline(self, delay: float) -> float:
        """When `run` has something to do."""
        return self._closes_at(delay) if self._open is not None else inf

    def _closes_at(self, delay: float) -> float:
        return self._open.began_at + (self._tock or max(delay, SHORTEST_WAIT)) if self._open is not None else inf

    def close(self, now: float) -> None:
        """Make the parity of the stripe that is open."""
        stripe, self._open = self._open, None
        if stripe is None:
            return
        data = len(stripe.numbers)
        count = self._lateness.parity(data) if self.auto else self._parity
        if count:
            stripe.closed_at = now
            blocks = Fec(data, count).encode(stripe.sealed)
            self._waiting.extend(Parity(stripe, index, count, block) for index, block in enumerate(blocks))
            self._bytes += count * len(blocks[0])
            while self._bytes > MAX_WAITING_BYTES:
                self._drop()
        else:
            self._uncover(stripe)
        stripe.sealed.clear()

    def forget(self) -> None:
        """The line is full: what was sent gets no parity."""
        if self._open is not None:
            self._uncover(self._open)
        self._open = None
        while self._waiting:
            self._drop()

    def _uncover(self, stripe: Stripe) -> None:
        for number in stripe.numbers:
            if (shot := self._recovery.sent.get(number)) is not None:
                shot.covered = False

    def next(self, now: float) -> Parity | None:
        """The parity that is to be sent next; what nobody needs any more is dropped."""
        patience = max(DROP_RTTS * self._recovery.rtt, DROP_SECONDS) if self._resend else self._recovery.give_up_after()
        limit = now - patience
        while self._waiting:
            stripe = self._waiting[0].stripe
            if stripe.closed_at >= limit and any(number in self._recovery.sent for number in stripe.numbers):
                return self._waiting[0]
            self._drop()
        return None

    def _drop(self) -> Stripe:
        parity = self._waiting.popleft()
        self._bytes -= len(parity.block)
        return parity.stripe

    def sent(self, carrier: Carrier) -> None:
        """What `next` gave went on this carrier."""
        self._drop().carriers.add(carrier)
