"""What the pure side has for the I/O side."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tcsplitter.carrier import Action
    from tcsplitter.flows import Flow
    from tcsplitter.streams import Stream


class Note(NamedTuple):
    """Something that the user should know."""

    level: int
    """As in `logging`."""
    text: str
    key: str
    """Notes of one key are held back when they come too often; those without one never."""


class Outbox:
    """In the order in which it came up. An end has one for all its sessions; a new stream or flow in the news has no `app`."""

    __slots__ = ("actions", "news", "notes")

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self.news: dict[Stream | Flow, None] = {}
        """Streams and flows whose state changed for the local side."""
        self.notes: list[Note] = []

    def take_actions(self) -> list[Action]:
        """What is to be done, in order. The list itself stays: those who add to it hold it."""
        actions = self.actions[:]
        self.actions.clear()
        return actions

    def take_news(self) -> list[Stream | Flow]:
        news = list(self.news)
        self.news.clear()
        return news

    def note(self, level: int, text: str, key: str = "") -> None:
        self.notes.append(Note(level, text, key))

    def take_notes(self) -> list[Note]:
        notes = self.notes[:]
        self.notes.clear()
        return notes
