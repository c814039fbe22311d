"""What the streams and flows of a session share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tcsplitter.credit import ReceiveWindow, SendWindow
from tcsplitter.options import Fec, Playout, Retries
from tcsplitter.pace import Beats, Tock
from tcsplitter.payload import SMALL, PayloadSize
from tcsplitter.scheduler import Scheduler
from tcsplitter.stats import Counters

if TYPE_CHECKING:
    from tcsplitter.scheduler import Source


MAX_UNSENT, UNSENT_PAYLOADS, MOST_UNSENT, LEAST_PAYLOADS = 262_144, 16, 1_048_576, 2
"""Bytes read from the local program ahead of sending; where payloads are large so many of them, up to so many bytes; and at least
as many as the last. It is to be more than the pace makes up for at once, or it looks as if the program were what limits."""
SHORT_TIMES = 2
"""So many times that where the RTT is next to nothing: what is read at once is what a wake has to send, and wakes are dear."""


@dataclass(frozen=True, slots=True)
class Handling:
    """How this end treats what it carries; times in seconds."""

    size: int = SMALL
    """Bytes of streams and datagrams that one payload carries."""
    grows: bool = False
    """Payloads become larger where the line takes too many of them."""
    tock: float = 0.0
    """For how long a payload that is not full may wait for more."""
    playout: Playout = field(default_factory=Playout)
    retries: Retries = field(default_factory=Retries)
    fec: Fec = field(default_factory=Fec)
    """The parity that goes with what is sent."""
    hedge: bool = True
    """Late payloads are sent again, on another carrier."""
    deadline: float = 0.0
    """Age at which a datagram is dropped; 0: at none."""
    flow_idle: float = 60.0
    """After so long without a datagram a flow ends."""
    rate: float = 0.0
    """Bytes per second that payload may take on the line at most; 0: any."""
    polite: bool = False
    """Yield to others that keep the line's queue full, however long."""


class Shared:
    """Turns, windows, timers, counters and being heard, for all streams and flows of one session."""

    def __init__(
        self, handling: Handling, size: PayloadSize, news: dict[Any, None], touch: Callable[[], None], now: float = 0.0
    ) -> None:
        self.handling = handling
        self.size = size
        self.peer_skip = -1
        """Attempts that are made for stream data which does not come, as the other end wishes; -1: no end of them."""
        self.counters = Counters()
        self.sending = SendWindow()
        self.receiving = ReceiveWindow()
        self.scheduler = Scheduler(size)
        self.tock = Tock(handling.tock, handling.size)
        self.beats = Beats()
        self.now = now
        """Of this wake; the session keeps it and the next up to date."""
        self.rtt = 0.0
        self.short = False
        """The line has next to no RTT."""
        self.news = news
        self.touch = touch

    def most_unsent(self) -> int:
        """Bytes that each source may have unsent."""
        size, always, most = self.size.bytes, MAX_UNSENT, MOST_UNSENT
        times = SHORT_TIMES if self.short else 1
        return max(times * max(always, min(UNSENT_PAYLOADS * size, most)), LEAST_PAYLOADS * size)

    def few_unsent(self) -> int:
        """A source that has fewer is asked for more: less than a payload, or as much less than it may have as is read at once."""
        return max(self.size.bytes, self.most_unsent() - (SHORT_TIMES * MAX_UNSENT if self.short else MAX_UNSENT))

    def schedule(self, source: Source) -> None:
        """It may have something to send."""
        self.touch()
        self.scheduler.schedule(source)

    def tell(self, member: Any) -> None:
        """The local side has to look at this stream or flow."""
        self.news[member] = None

    def let_go(self) -> None:
        """The window of all streams has room again: those it held take their turns, and nobody else is looked at."""
        held, self.sending.held = self.sending.held, {}
        for stream in held:
            self.schedule(stream)
            self.tell(stream)
