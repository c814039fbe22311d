"""How much one payload carries, and for how long it is on its way."""

from __future__ import annotations

SMALL = 10_000
"""Bytes of a payload, where the user sets none."""
FIRST_FLIGHT = 14_480
"""Bytes that a fresh connection sends before it waits for an ack: ten segments (RFC 6928), with timestamps."""


class PayloadSize:
    """The size of one direction's payloads, which all ask for when they need it."""

    __slots__ = ("_fresh", "bytes", "flights")

    def __init__(self, size: int, fresh: bool = True) -> None:
        """`size`: bytes; `fresh`: each goes on a connection of its own."""
        self.bytes = size
        self._fresh = fresh
        self.flights = self.flights_of(size)
        """Round trips that a payload takes."""

    def flights_of(self, size: int) -> int:
        """Round trips that so many bytes take on a connection that doubles in each what it sends (RFC 5681)."""
        return max(1, -(-size // FIRST_FLIGHT)).bit_length() if self._fresh else 1
