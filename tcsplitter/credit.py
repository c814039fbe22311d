"""Windows: what one stream grants the other end, and what all streams of a session together may send and have granted."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from tcsplitter.errors import RemoteProtocolError

if TYPE_CHECKING:
    from tcsplitter.scheduler import Source

INITIAL_WINDOW = 65_536
"""Bytes of a stream that may be sent before the other end grants more."""
WHOLE_WINDOW, MAX_WINDOW = 16 * 1024 * 1024, 48 * 1024 * 1024
"""Ceilings of what one stream may have granted and unread, bytes: while nothing is missing, or the RTT is next to nothing, and
behind a gap. Where a line loses segments the payload that all others wait for comes up to 0.8 s late, as 300 Mbit/s, 80 ms and a
loss of 1 % have it: 30 MB that must find room meanwhile."""
WINDOW_SHARE = 4
"""More is granted when such a share of a window was consumed: the sender must not have to stop though several frames with credit
are lost. Where all streams hold much that is not read, the share is one of what they leave, for a stream of half of that: a
credit is a proof that the reader reads, and without one no stream has more unread than twice as much (SendWindow.share)."""
GROWTH_RTTS, GROWTH_SECONDS, PACED_SECONDS = 2.0, 0.01, 2.0
"""If that took less than the larger of the first two the window is too small; where data is forwarded at a beat, or past gaps, if
it took less than the last."""
FAST_GROWTH, GAP_GROWTH = 8, 4
"""Factors by which it grows: while the reader takes what comes, and behind a gap."""
SESSION_WINDOW, SESSION_SHARE, FINEST = 32 * 1024 * 1024, 2, 2048
"""Bytes of all streams of a direction that may be granted and unread at first, beside their first windows: they become so many
times the largest window of a stream, if that is more; and into how many credits they are cut at the most, as each takes a
shot."""
FIRST_WINDOWS = 2048
"""For so many streams at the most the session's window is larger by a first window each: they find room whatever others hold."""

FEW_LEFT, LITTLE = SESSION_WINDOW // 4, 4
"""Bytes of the session's window, beside first windows, that streams leave to others, each of which may keep no more than one of
so many shares of what is left. A receiver proves that its reader reads before half of such a share is used up (WINDOW_SHARE)."""


def first_windows(streams: int) -> int:
    """Bytes by which so many open streams make the session's window larger."""
    return INITIAL_WINDOW * min(streams, FIRST_WINDOWS)


class StreamWindow:
    """What a stream lets its other end send.

    It grows when it holds the sender and the reader keeps up: when a share of it was consumed in little time, or when the sender
    has used such a share behind a gap, which lasts for many RTTs, and the reader has taken all that came before the gap.
    """

    __slots__ = ("_began_at", "_gap", "_receiving", "_returned", "_size", "limit")

    def __init__(self, receiving: ReceiveWindow) -> None:
        self.limit = INITIAL_WINDOW
        """Offset up to which the other end may send."""
        self._size = INITIAL_WINDOW
        self._began_at = -inf
        """When the other end began to use it."""
        self._gap = False
        """A share of it was used behind a gap."""
        self._receiving = receiving
        self._returned = 0
        """All below this offset was consumed, or dropped."""

    def begin(self, now: float) -> None:
        """What is consumed from here on counts for its growth."""
        self._began_at = now

    def expect(self, highest: int, now: float) -> None:
        """More data comes, beyond what reached up to `highest`."""
        if highest <= self.limit - self._size:
            self.begin(now)

    def returned(self, offset: int) -> int:
        """All below this offset was consumed, or dropped: how many bytes those are that were not before."""
        count = max(0, offset - self._returned)
        self._returned += count
        return count

    def note_gap(self, highest: int) -> None:
        """There is a gap before what reaches up to `highest`."""
        self._gap |= highest - (self.limit - self._size) > self._size // WINDOW_SHARE

    def grow_behind_gap(self, read_offset: int, short: bool, now: float) -> bool:
        """The reader has taken all there is: whether more was granted because of a gap. `short`: the RTT is next to nothing."""
        size = max(self._size, min(GAP_GROWTH * self._size, WHOLE_WINDOW if short else MAX_WINDOW))
        if not self._gap or read_offset + size == self.limit:
            return False
        self._grant(read_offset, size, now)
        return True

    @property
    def large(self) -> bool:
        """It has grown."""
        return self._size > INITIAL_WINDOW

    def consumed(self, read_offset: int, soon: float, now: float) -> bool:
        """The reader has taken all before this offset; `soon`: seconds. Whether more was granted."""
        used = read_offset + self._size - self.limit
        if used < max(INITIAL_WINDOW, min(self._size, self._receiving.free // 2)) // WINDOW_SHARE:
            return False
        grows = used >= self._size // WINDOW_SHARE and now - self._began_at < soon
        self._grant(read_offset, max(self._size, min(FAST_GROWTH * self._size, WHOLE_WINDOW)) if grows else self._size, now)
        return True

    def _grant(self, read_offset: int, size: int, now: float) -> None:
        self._size = size
        self._receiving.widen(SESSION_SHARE * self._size)
        self._gap = False
        self.limit = read_offset + self._size
        self.begin(now)


class SendWindow:
    """Bytes of all streams together, on their way out."""

    __slots__ = ("held", "limit", "lost_chunks", "streams", "total", "unsent")

    def __init__(self) -> None:
        self.limit = SESSION_WINDOW
        """Bytes that may be sent in all."""
        self.total = 0
        """Bytes sent; those sent again are not counted again."""
        self.unsent = 0
        """Bytes that streams hold and never sent."""
        self.lost_chunks = 0
        """Chunks that streams hold to be sent again."""
        self.streams = 0
        """Streams that are open."""
        self.held: dict[Source, None] = {}
        """Streams that found no room, the one that waits for the longest first."""

    def left(self) -> int:
        """Bytes that may be sent now."""
        return self.limit - self.total

    def room(self) -> int:
        """Bytes that may be read from local programs now."""
        return max(0, self.left() - self.unsent)

    def share(self, unread: int, size: int) -> int:
        """Bytes that a stream may take of what is left, of which so many are unread as far as is known, in payloads of `size`.

        It keeps a first window unread; or, of what is left beside all first windows, as much as it leaves to others beyond
        FEW_LEFT, or a small share: so readers that stop hold up nobody else.
        """
        left = self.room()
        free = left - first_windows(self.streams)
        beyond = max((free - FEW_LEFT - unread) // 2, free // LITTLE - unread)
        return max(min(left, INITIAL_WINDOW - unread), beyond if beyond >= size else 0)

    def took(self, count: int) -> None:
        """A chunk of new data was cut from what was unsent."""
        self.total += count
        self.unsent -= count

    def raise_limit(self, total: int) -> bool:
        """Whether the credit that came is news: a smaller one is an older one."""
        if total <= self.limit:
            return False
        self.limit = total
        return True


class ReceiveWindow:
    """Bytes of all streams together, received and consumed."""

    __slots__ = ("_free_before", "_received", "_returned", "_size", "limit", "streams")

    def __init__(self) -> None:
        self.limit = SESSION_WINDOW
        """Bytes that the other end may send in all."""
        self.streams = 0
        """Streams that are open."""
        self._size = SESSION_WINDOW
        """Bytes that may be granted and unread, beside first windows."""
        self._received = 0
        self._returned = 0
        self._free_before = SESSION_WINDOW
        """The most that was free since `has_shrunk` said so last."""

    @property
    def held(self) -> int:
        """Bytes received and not consumed."""
        return self._received - self._returned

    @property
    def free(self) -> int:
        """Bytes that what is unread leaves beside first windows."""
        return max(0, self._size - self.held)

    def widen(self, size: int) -> None:
        """Let so many bytes be granted and unread, if that is more than before. `give_back` tells when to say so."""
        self._size = max(self._size, size)

    def count(self, fresh: int) -> None:
        """New bytes came. Raises RemoteProtocolError beyond the credit."""
        if self._received + fresh > self.limit:
            raise RemoteProtocolError(f"sent {self._received + fresh} bytes in all with a credit of {self.limit}")
        self._received += fresh

    def has_shrunk(self) -> bool:
        """Whether what is free has lost a third: then what was consumed so far may be as much as calls for more credit."""
        if 3 * self.free >= 2 * self._free_before:
            return False
        self._free_before = self.free
        return True

    def give_back(self, count: int) -> bool:
        """Bytes were consumed; whether the other end should be granted more: when a share of what is free has come together."""
        self._returned += count
        self._free_before = max(self._free_before, self.free)
        limit = self._returned + self._size + first_windows(self.streams)
        if limit - self.limit < max(self.free // WINDOW_SHARE, SESSION_WINDOW // FINEST):
            return False
        self.limit = limit
        return True
