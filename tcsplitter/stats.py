"""Counters of a session. They only grow; whoever reads them takes differences."""

from __future__ import annotations

from collections.abc import Mapping

from tcsplitter.modes import Kind

_OF_KIND = ("dialled", "sent_on", "received_on", "both_ways", "timed_out", "replaced")
_OF_SESSION = (
    "carriers", "carriers_died", "shots_sent", "shots_received", "bytes_sent", "bytes_received", "shots_lost", "shots_dropped",
    "shots_refused", "payloads_resent", "payloads_given_up", "payloads_skipped", "parity_sent", "parity_received",
    "shots_rebuilt", "stripes_lost", "hedges_sent", "hedges_won", "hedge_bytes", "datagrams_sent", "datagrams_received",
    "datagrams_dropped", "datagrams_late", "datagrams_lost",
)  # fmt: skip
"""In the order in which they are shown."""


class KindCounters:
    """What became of the carriers of one kind."""

    __slots__ = _OF_KIND

    def __init__(self) -> None:
        self.dialled = 0
        """Connections that became carriers."""
        self.sent_on = 0
        """Carriers that carried payload of this end."""
        self.received_on = 0
        """Carriers that brought payload."""
        self.both_ways = 0
        """Carriers that did both."""
        self.timed_out = 0
        """Carriers given up because nothing came through."""
        self.replaced = 0
        """Carriers closed because nothing needed them for too long."""


class Counters:
    """What a session has done so far."""

    __slots__ = (*_OF_SESSION, "kinds")

    def __init__(self) -> None:
        self.carriers = 0
        """Connections that became carriers."""
        self.carriers_died = 0
        """Carriers that broke, were given up, or could not be trusted."""
        self.shots_sent = 0
        self.shots_received = 0
        self.bytes_sent = 0
        """On carriers, headers and hellos included."""
        self.bytes_received = 0
        self.shots_lost = 0
        """Data shots taken for lost."""
        self.shots_dropped = 0
        """Shots that came too late for the replay window, or found no room."""
        self.shots_refused = 0
        """Shots that did not open, came twice, or came where none was due."""
        self.payloads_resent = 0
        """Chunks that were sent again."""
        self.payloads_given_up = 0
        """Chunks that were lost and not sent again."""
        self.payloads_skipped = 0
        """Gaps that were passed over in what was received, counted in payloads."""
        self.parity_sent = 0
        self.parity_received = 0
        self.shots_rebuilt = 0
        """Shots of the other end that were had by way of parity, before they came or in their place."""
        self.stripes_lost = 0
        """Stripes of the other end that lacked more shots than parity came for, or whose shots contradicted each other."""
        self.hedges_sent = 0
        """Twins: shots that were sent once more, late or likely to be."""
        self.hedges_won = 0
        """Twins that were acknowledged before what they are twins of."""
        self.hedge_bytes = 0
        """What the twins took of `bytes_sent`."""
        self.datagrams_sent = 0
        self.datagrams_received = 0
        """Datagrams that arrived whole."""
        self.datagrams_dropped = 0
        """Datagrams that were too many or too old when their turn came."""
        self.datagrams_late = 0
        """Datagrams that arrived after their deadline."""
        self.datagrams_lost = 0
        """Datagrams of which only a part arrived."""
        self.kinds = {kind: KindCounters() for kind in Kind}

    def as_dict(self) -> dict[str, int]:
        """All of them by name; those of a kind of carriers have its name in front, if there were any."""
        counted = {name: getattr(self, name) for name in _OF_SESSION}
        for kind, of_kind in self.kinds.items():
            if of_kind.dialled:
                counted |= {f"{kind.name.lower()}_{name}": getattr(of_kind, name) for name in _OF_KIND}
        return counted


def counted_line(name: str, counted: Mapping[str, int]) -> str:
    """Counters as one line for people, of the session with the key of this name; without one it needs no name."""
    line = ", ".join(f"{what.replace('_', ' ')} {count}" for what, count in counted.items())
    return f"counted for {name}: {line}" if name else f"counted: {line}"
