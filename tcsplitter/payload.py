"""How much one payload carries: what the user set, or more where the line takes more payloads in an RTT than can be dialled, or
where carriers are used again and the line is fast."""

from __future__ import annotations

from math import inf

SMALL = 10_000
"""Bytes of a payload, where the user sets none."""
LARGE = 39_000
"""Bytes of a payload that has grown: what a fresh connection sends in two round trips, with segments down to 1,360 bytes."""
REUSED, REUSED_RATE = 131_072, 64_000_000
"""The same where carriers are used again without limit: nothing is dialled for a payload, so the larger it is the less it costs.
At so many bytes per second it holds up a keystroke behind it for 2 ms; on slower lines it does not grow."""
FIRST_FLIGHT, SEGMENT = 14_480, 1_448
"""Bytes that a fresh connection sends before it waits for an ack: ten segments (RFC 6928), with timestamps; one of them may be
the hello, while that is not acknowledged."""
GROW_FROM, SHRINK_BELOW, NEWS = 0.5, 0.25, 0.25
"""Payloads grow only while so large a share of what they may be small for is sent, and shrink below the other; what was sent is
an average, with this weight for the newest round."""


class PayloadSize:
    """The size of one direction's payloads, which all ask for when they need it, as it changes.

    It has two values, not many: payloads that do not fit a connection's first window take a round trip more, so they had better
    be as large as that allows.
    """

    __slots__ = ("_fresh", "_least", "_most_small", "_used", "bytes", "flights")

    def __init__(self, size: int, most_small: float = inf, fresh: bool = True) -> None:
        """`size`: bytes at the least; `most_small`: bytes that can be sent in an RTT in payloads of that size, infinity where
        they must not grow; `fresh`: each goes on a connection of its own, else it is bytes in a second."""
        self.bytes = self._least = size
        self._most_small = most_small
        self._fresh = fresh
        self._used = 0.0
        self.flights = self.flights_of(size)
        """Round trips that a payload takes."""

    def flights_of(self, size: int) -> int:
        """Round trips that so many bytes take on a connection that doubles in each what it sends (RFC 5681)."""
        return (-(-(size + SEGMENT) // FIRST_FLIGHT)).bit_length() if self._fresh else 1

    def follow(self, rate: float, used: float, rtt: float) -> bool:
        """A round is over: the line would carry so many bytes in a second, and so many arrived. Whether payloads have grown whose
        size has bounded the rate till then."""
        before = self.bytes
        span = rtt if self._fresh else 1.0
        self._used += NEWS * (used * span - self._used)
        if rate * span > self._most_small and self._used > GROW_FROM * self._most_small:
            self.bytes = max(self._least, LARGE if self._fresh else REUSED)
        elif self._used < SHRINK_BELOW * self._most_small:
            self.bytes = self._least
        if self.bytes != before:
            self.flights = self.flights_of(self.bytes)
        return self._fresh and self.bytes > before
