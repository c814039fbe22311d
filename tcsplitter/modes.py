"""What a session carries, which carriers there are and what each may carry: the modes of `--dup`, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Kind(IntEnum):
    """What a carrier was dialled for (PROTOCOL.md section 4)."""

    FLING = 0
    LASSO = 1
    SYNC = 2
    RETRY = 3


FLING, LASSO, SYNC, RETRY = Kind
"""For what is asked of every shot: an enum takes longer to find its member than the rest of the question does."""


@dataclass(frozen=True, slots=True)
class Mode:
    """Which pools the client keeps dialled, and which of them carry payload in each direction."""

    name: str
    number: int
    """On the wire (PROTOCOL.md section 2)."""
    pools: tuple[Kind, ...]
    up: tuple[Kind, ...]
    """Kinds that carry payload from client to server, in the order in which they are taken."""
    down: tuple[Kind, ...]
    """The same from server to client."""
    incoming_first: bool = False
    """The client leaves as many idle carriers alone as the server wants."""

    def carries(self, client: bool) -> tuple[Kind, ...]:
        """Kinds that this end may send payload on, in the order in which they are taken."""
        return self.up if client else self.down


MODES = {
    mode.name: mode
    for mode in (
        Mode("fling", 0, pools=(FLING,), up=(FLING,), down=(FLING,)),
        Mode("lasso", 1, pools=(LASSO,), up=(LASSO,), down=(LASSO,), incoming_first=True),
        Mode("both", 2, pools=(FLING, LASSO), up=(FLING, LASSO), down=(LASSO, FLING)),
        Mode("none", 3, pools=(FLING, LASSO), up=(FLING,), down=(LASSO,)),
    )
}
"""By name, in the order of their numbers."""

PROTOCOLS = ("tcp", "udp")
"""What a session carries, streams or datagrams; the place is the number on the wire."""

RESERVE = 2
"""Idle carriers of a direction that are kept for control frames and sparse streams."""


def reserve(pool: int, burst: int) -> int:
    """How many to keep of a pool of this size: a fixed one of less than two reserves is too small to spare any."""
    return RESERVE if burst or pool >= 2 * RESERVE else 0
