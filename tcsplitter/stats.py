"""Counters of a session. They only grow; whoever reads them takes differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from tcsplitter.modes import Kind


@dataclass
class KindCounters:
    """What became of the carriers of one kind."""

    dialled: int = 0
    """Connections that became carriers."""
    sent_on: int = 0
    """Carriers that carried payload of this end."""
    received_on: int = 0
    """Carriers that brought payload."""
    both_ways: int = 0
    """Carriers that did both."""
    timed_out: int = 0
    """Carriers given up because nothing came through."""
    replaced: int = 0
    """Carriers closed because nothing needed them for too long."""


def _of_each_kind() -> dict[Kind, KindCounters]:
    return {kind: KindCounters() for kind in Kind}


@dataclass
class Counters:
    """What a session has done so far."""

    carriers: int = 0
    """Connections that became carriers."""
    carriers_died: int = 0
    """Carriers that broke, were given up, or could not be trusted."""
    shots_sent: int = 0
    shots_received: int = 0
    bytes_sent: int = 0
    """On carriers, headers and hellos included."""
    bytes_received: int = 0
    shots_lost: int = 0
    """Data shots taken for lost."""
    shots_dropped: int = 0
    """Shots that came too late for the replay window, or found no room."""
    shots_refused: int = 0
    """Shots that did not open, came twice, or came where none was due."""
    payloads_resent: int = 0
    """Chunks that were sent again."""
    payloads_given_up: int = 0
    """Chunks that were lost and not sent again."""
    payloads_skipped: int = 0
    """Gaps that were passed over in what was received, counted in payloads."""
    parity_sent: int = 0
    parity_received: int = 0
    shots_rebuilt: int = 0
    """Shots of the other end that were had by way of parity, before they came or in their place."""
    stripes_lost: int = 0
    """Stripes of the other end that lacked more shots than parity came for, or whose shots contradicted each other."""
    hedges_sent: int = 0
    """Twins: shots that were sent once more, late or likely to be."""
    hedges_won: int = 0
    """Twins that were acknowledged before what they are twins of."""
    hedge_bytes: int = 0
    """What the twins took of `bytes_sent`."""
    datagrams_sent: int = 0
    datagrams_received: int = 0
    """Datagrams that arrived whole."""
    datagrams_dropped: int = 0
    """Datagrams that were too many or too old when their turn came."""
    datagrams_late: int = 0
    """Datagrams that arrived after their deadline."""
    datagrams_lost: int = 0
    """Datagrams of which only a part arrived."""
    kinds: dict[Kind, KindCounters] = field(default_factory=_of_each_kind)

    def of(self, kind: Kind) -> KindCounters:
        """Those of one kind of carriers."""
        return self.kinds[kind]

    def as_dict(self) -> dict[str, int]:
        """All of them by name; those of a kind of carriers have its name in front, if there were any."""
        counted = asdict(self)
        kinds = counted.pop("kinds")
        for kind, of_kind in kinds.items():
            if of_kind["dialled"]:
                counted |= {f"{kind.name.lower()}_{name}": count for name, count in of_kind.items()}
        return counted


def counted_line(name: str, counted: Mapping[str, int]) -> str:
    """Counters as one line for people, of the session with the key of this name; without one it needs no name."""
    line = ", ".join(f"{what.replace('_', ' ')} {count}" for what, count in counted.items())
    return f"counted for {name}: {line}" if name else f"counted: {line}"
