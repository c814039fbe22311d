"""Connections that have not proved a key yet: little memory, one deadline, and the same slow close for every failure."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from tcsplitter._core import ShotReader
from tcsplitter.carrier import Action, Carrier, Op
from tcsplitter.modes import Kind
from tcsplitter.pool import Random

if TYPE_CHECKING:
    from tcsplitter.session import Session

MAX_PER_ADDRESS = 256
MAX_NEWCOMERS = 4_096
MAX_UNOPENED = 64 * 1024 * 1024
"""Bytes of hellos that are not whole, of all of them together."""
SHORTEST_SECONDS, LONGEST_SECONDS = 10.0, 30.0
"""Between these lies the deadline of a newcomer, drawn when it is accepted."""


class Newcomer:
    """What is kept of one: at most as much as a handshake or a hello has bytes."""

    __slots__ = ("answered", "deadline", "discarding", "host", "partial", "received", "session")

    def __init__(self, host: str, deadline: float) -> None:
        self.host = host
        self.deadline = deadline
        self.received = b""
        self.partial = 0
        """Bytes kept of its hello."""
        self.session: Session | None = None
        """The session that it named, without proof so far."""
        self.discarding = False
        """It failed: nothing it says matters any more."""
        self.answered = False
        """It had its answer to a handshake; its end is awaited."""


class Newcomers:
    """All of them, oldest first. Those of one address can push out only each other.

    The connection that was accepted last is none yet: mostly a hello comes with it, and makes it a carrier of a session at once.
    """

    def __init__(self, random: Random, actions: list[Action]) -> None:
        self.latest: Carrier | None = None
        """What was accepted last, while nothing else was asked of it."""
        self.latest_host = ""
        self._latest_at = -inf
        self._random = random
        self._actions = actions
        self._all: dict[Carrier, Newcomer] = {}
        self._by_host: dict[str, dict[Carrier, None]] = {}
        self._check_at = inf
        self._partial = 0

    def __len__(self) -> int:
        self._keep_latest()
        return len(self._all)

    def accept(self, host: str, now: float) -> Carrier:
        """A connection came in."""
        self._keep_latest()
        self.latest = carrier = Carrier(Kind.FLING, now)
        self.latest_host = host
        self._latest_at = now
        return carrier

    def _keep_latest(self) -> None:
        """What was accepted last is one like the others from here on."""
        carrier, host = self.latest, self.latest_host
        if carrier is None:
            return
        self.latest = None
        deadline = self._latest_at + SHORTEST_SECONDS + (LONGEST_SECONDS - SHORTEST_SECONDS) * self._random.random()
        same_host = self._by_host.setdefault(host, {})
        if len(same_host) >= MAX_PER_ADDRESS:
            self.close(next(iter(same_host)))
        elif len(self._all) >= MAX_NEWCOMERS:
            self.close(next(iter(self._all)))
        self._by_host.setdefault(host, {})[carrier] = None
        self._all[carrier] = Newcomer(host, deadline)
        self._check_at = min(self._check_at, deadline)

    def get(self, carrier: Carrier) -> Newcomer | None:
        if carrier is self.latest:
            self._keep_latest()
        return self._all.get(carrier)

    def remove(self, carrier: Carrier) -> None:
        """It is a carrier of a session now, or gone."""
        if carrier is self.latest:
            self.latest = None
            return
        newcomer = self._all.pop(carrier, None)
        if newcomer is not None:
            self._partial -= newcomer.partial
            same_host = self._by_host[newcomer.host]
            del same_host[carrier]
            if not same_host:
                del self._by_host[newcomer.host]

    def may_keep(self, newcomer: Newcomer, count: int) -> bool:
        """So many bytes are kept of its hello: whether there is room for them."""
        self._partial += count - newcomer.partial
        newcomer.partial = count
        return self._partial <= MAX_UNOPENED

    def discard(self, carrier: Carrier) -> None:
        """It failed: read on until its deadline, and keep nothing."""
        newcomer = self._all[carrier]
        self.may_keep(newcomer, 0)
        carrier.reader = ShotReader()
        newcomer.received = b""
        newcomer.session = None
        newcomer.discarding = True
        self._actions.append((Op.DISCARD, carrier, b""))

    def close(self, carrier: Carrier) -> None:
        self.remove(carrier)
        if not carrier.closed:
            carrier.closed = True
            self._actions.append((Op.CLOSE, carrier, b""))

    def close_overdue(self, now: float) -> list[Newcomer]:
        """Close those whose time is up, and return them; there is none before `deadline`."""
        overdue = [(c, newcomer) for c, newcomer in self._all.items() if newcomer.deadline <= now]
        for carrier, _ in overdue:
            self.close(carrier)
        self._check_at = min((newcomer.deadline for newcomer in self._all.values()), default=inf)
        return [newcomer for _, newcomer in overdue]

    def deadline(self) -> float:
        """When the time of one of them may be up."""
        self._keep_latest()
        return self._check_at
