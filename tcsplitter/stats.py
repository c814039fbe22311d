"""Counters of a session. They only grow; whoever reads them takes differences."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Counters:
    """What a session has done so far."""

    carriers: int = 0
    """Connections that became carriers."""
    carriers_died: int = 0
    """Carriers that broke, were given up, or could not be trusted."""
    retired: int = 0
    """Carriers closed because nothing needed them."""
    shots_sent: int = 0
    shots_received: int = 0
    bytes_sent: int = 0
    """On carriers, headers and hellos included."""
    bytes_received: int = 0
    shots_lost: int = 0
    """Data shots taken for lost; what they held was sent again."""
    shots_dropped: int = 0
    """Shots that came too late for the replay window, or found no room."""
    shots_refused: int = 0
    """Shots that did not open, came twice, or came where none was due."""

    def as_dict(self) -> dict[str, int]:
        return asdict(self)
