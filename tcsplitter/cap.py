"""The hard cap of `--rate`: what this end puts on the line for payload, whatever the line could take."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tcsplitter.payload import PayloadSize

SEGMENT, HEADERS = 1_448, 52
"""Bytes that a packet of 1,500 carries, and those of IP and TCP in front of them."""
CONNECTION = 250
"""Bytes that a connection of its own costs one direction: SYN, acks and FIN."""
SHOT_OVERHEAD = 100
"""Bytes that a shot adds to a payload: its header, its tag, the frames around what it carries, an ack."""
BURST_SHOTS, BURST_SECONDS = 2, 0.02
"""What was not used may be made up for, as far as it is no more than the larger of so many full shots, and what the cap allows in
this time."""
AHEAD_SECONDS = 0.1
"""Sparse streams may be ahead of what is paid by as much as the cap allows in this time."""


def wire_bytes(size: int, first: bool) -> int:
    """What so many bytes take on the line, about. `first`: on a connection that is used for the first time."""
    return size + -(-size // SEGMENT) * HEADERS + (CONNECTION if first else 0)


class Cap:
    """A token bucket, kept as the time at which all that was sent is paid (the virtual scheduling of ITU-T I.371, annex A).

    Bulk goes once a full shot is paid ahead, so that it never leaves a debt to a keystroke. Sparse streams go sooner. What is
    sent without asking, as control frames are, is paid for by what follows.
    """

    def __init__(self, rate: float, size: PayloadSize) -> None:
        """`rate`: bytes per second, 0 for no cap; `size`: that of payloads."""
        self.rate = rate or inf
        self.opens_at = -inf
        """From when bulk, twins, parity and what was lost may go."""
        self.sparse_at = -inf
        """From when sparse streams may."""
        self._size = size
        self._paid_at = -inf

    def spend(self, size: int, first: bool, now: float) -> None:
        """A shot of so many bytes was sent; `first`: its connection had carried none of this end."""
        if self.rate == inf:
            return
        self._paid_at = max(self._paid_at, now - self._burst) + wire_bytes(size, first) / self.rate
        self.opens_at = self._paid_at + self._shot
        self.sparse_at = self._paid_at - max(AHEAD_SECONDS - self._shot, 0.0)

    @property
    def _shot(self) -> float:
        """Seconds that a full shot takes."""
        return wire_bytes(self._size.bytes + SHOT_OVERHEAD, first=True) / self.rate

    @property
    def _burst(self) -> float:
        """Seconds that may be made up for."""
        return max(BURST_SHOTS * self._shot, BURST_SECONDS)

    def within(self, seconds: float) -> float:
        """Bytes that may be sent in this time, at most."""
        if self.rate == inf:
            return inf
        return self.rate * (self._burst + seconds)
