"""Sockets that the kernel reports when so many bytes have come (SO_RCVLOWAT), not for each segment."""

from math import inf
from selectors import EVENT_READ
from typing import Protocol

from tcsplitter.reactor import Reactor, Source

LOOK_EVERY = 1.0  # seconds; a carrier from which nothing is heard for three is given up (recovery.GIVE_UP_SECONDS)


class Awaited(Source, Protocol):
    """What may take its time; transport.CarrierSocket."""

    events: int


class Awaiting:
    """All of them. Each is read now and then, whatever has come: one that is slow must not look silent."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._all: dict[Awaited, None] = {}
        self._timer = reactor.timer(self._look)

    def note(self, source: Awaited, waits: bool) -> None:
        """Whether it is one of them from here on."""
        if not waits:
            self._all.pop(source, None)
            return
        self._all[source] = None
        if self._timer.when == inf:
            self._timer.at(self._reactor.now + LOOK_EVERY)

    def _look(self, now: float) -> None:
        for source in list(self._all):
            if source.events & EVENT_READ:
                source.on_ready(EVENT_READ, now)
        if self._all:
            self._timer.at(now + LOOK_EVERY)
