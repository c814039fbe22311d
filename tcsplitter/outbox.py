"""What the pure side has for the I/O side."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tcsplitter.carrier import Action
    from tcsplitter.session import Session
    from tcsplitter.streams import Stream


class Outbox:
    """In the order in which it came up. An end has one for all its sessions."""

    __slots__ = ("actions", "news", "touched")

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self.news: dict[Stream, None] = {}
        """Streams whose state changed for the local side."""
        self.touched: dict[Session, None] = {}
        """Sessions that need a flush."""

    def take_actions(self) -> list[Action]:
        actions = self.actions[:]
        self.actions.clear()
        return actions

    def take_news(self) -> list[Stream]:
        news = list(self.news)
        self.news.clear()
        return news
