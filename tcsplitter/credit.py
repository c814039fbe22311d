"""The windows that all streams of a session share: what may be sent, and what was granted to the other end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tcsplitter.errors import RemoteProtocolError

if TYPE_CHECKING:
    from tcsplitter.scheduler import Source

SESSION_WINDOW = 32 * 1024 * 1024
"""Bytes of all streams of a direction that may be granted and unread."""


class SendWindow:
    """Bytes of all streams together, on their way out."""

    __slots__ = ("held", "limit", "lost_chunks", "total", "unsent")

    def __init__(self) -> None:
        self.limit = SESSION_WINDOW
        """Bytes that may be sent in all."""
        self.total = 0
        """Bytes sent; those sent again are not counted again."""
        self.unsent = 0
        """Bytes that streams hold and never sent."""
        self.lost_chunks = 0
        """Chunks that streams hold to be sent again."""
        self.held: dict[Source, None] = {}
        """Streams that found no room, the one that waits for the longest first."""

    @property
    def left(self) -> int:
        """Bytes that may be sent now."""
        return self.limit - self.total

    @property
    def room(self) -> int:
        """Bytes that may be read from local programs now."""
        return max(0, self.left - self.unsent)

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

    __slots__ = ("_received", "_returned", "limit")

    def __init__(self) -> None:
        self.limit = SESSION_WINDOW
        """Bytes that the other end may send in all."""
        self._received = 0
        self._returned = 0

    @property
    def held(self) -> int:
        """Bytes received and not consumed."""
        return self._received - self._returned

    def count(self, fresh: int) -> None:
        """New bytes came. Raises RemoteProtocolError beyond the credit."""
        if self._received + fresh > self.limit:
            raise RemoteProtocolError(f"sent {self._received + fresh} bytes in all with a credit of {self.limit}")
        self._received += fresh

    def give_back(self, count: int) -> bool:
        """Bytes were consumed; whether the other end should be granted more: when a quarter of the window has come together."""
        self._returned += count
        if self._returned + SESSION_WINDOW - self.limit < SESSION_WINDOW // 4:
            return False
        self.limit = self._returned + SESSION_WINDOW
        return True
