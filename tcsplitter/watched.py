"""What a descriptor is waited for: stated at once, and told to the selector when the wake ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tcsplitter.reactor import Closable, Reactor


class Watched:
    """What a Source that holds a descriptor is made of; `watch` states which events it waits for."""

    __slots__ = ("asked", "closed", "events", "fd", "reactor")

    def __init__(self, reactor: Reactor, fd: int) -> None:
        self.reactor = reactor
        self.fd = fd
        self.events = 0
        """What it waits for."""
        self.asked = 0
        """What the selector was asked for; 0: it is not registered, as selectors take no empty set."""
        self.closed = False

    def watch(self, events: int) -> None:
        """Wait for `events` and nothing else. The selector is asked when the wake ends: much is over by then, or changed again.
        What is waited for no more it forgets at once, as the descriptor may become another file's."""
        if events == self.events:
            return
        self.events = events
        if events:
            self.reactor.changed.append(self)
        elif self.asked:
            self.reactor.unregister(self.fd)
            self.asked = 0

    def rest(self, events: int) -> None:
        """The same for one that goes by `leave`, mostly in this very wake: the selector is told when the wake ends, even if
        nothing is left to wait for."""
        self.events = events
        self.reactor.changed.append(self)

    def ask(self) -> None:
        """Ask the selector for what is waited for. Raises PermissionError for files that cannot be waited for."""
        if self.events == self.asked:
            return
        if not self.events:
            self.reactor.unregister(self.fd)
        elif self.asked:
            self.reactor.modify(self.fd, self.events, self)
        else:
            self.reactor.register(self.fd, self.events, self)
        self.asked = self.events

    def leave(self, closable: Closable) -> None:
        """Wait for nothing any more, and close at the end of this wake what holds the descriptor."""
        self.part()
        self.reactor.close_later(closable)

    def part(self) -> None:
        """Wait for nothing any more; what holds the descriptor is to be closed before this wake ends."""
        if self.asked:
            self.reactor.forget(self.fd)
        self.events = self.asked = 0
