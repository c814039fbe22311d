"""How an end takes part in a session: what its user set, and what the handshake asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from tcsplitter.demand import MAX_WANT
from tcsplitter.modes import MODES, RESERVE, Mode
from tcsplitter.payload import REUSED_RATE
from tcsplitter.pool import MAX_DIALING
from tcsplitter.shared import Handling

DIAL_SHARE = 0.7
"""Of the dials that may be under way so many are enough for an RTT; payloads grow before it takes more."""


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How this end takes part in a session."""

    client: bool
    mode: Mode = MODES["fling"]
    handling: Handling = field(default_factory=Handling)
    reuse: int = 1
    """Data shots per carrier and half; 0: no limit."""
    idle: float = 25.0
    """Seconds for which a carrier may stay unused."""
    reserve: int = RESERVE
    """Idle carriers that bulk leaves alone."""
    fixed: bool = False
    """The pool does not grow."""
    most: int = MAX_WANT
    """Idle carriers that the pool can have at all, as far as this end's want goes."""
    datagrams: bool = False
    """The session carries flows, not streams."""

    @property
    def most_small(self) -> float:
        """Bytes that can leave in an RTT in payloads that have not grown, as far as carriers for them can be dialled, or where
        these are used again without limit in a second; infinity where the user set their size or what counts payloads."""
        handling = self.handling
        counted = handling.tock or handling.playout.beat or handling.fec.data or not handling.retries.resend
        if counted or self.fixed or self.datagrams or self.reuse > 1 or not handling.grows:
            return inf
        if not self.reuse:
            return REUSED_RATE
        return DIAL_SHARE * MAX_DIALING // len(self.mode.pools) * handling.size
