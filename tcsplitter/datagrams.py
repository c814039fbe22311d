"""Datagrams on their way: those read from a local program, the pieces cut of them, and those of which only a part has come."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from math import inf
from typing import TYPE_CHECKING, Protocol

from tcsplitter._core import RangeSet
from tcsplitter.errors import RemoteProtocolError

if TYPE_CHECKING:
    from tcsplitter._core import ShotWriter
    from tcsplitter.scheduler import Source
    from tcsplitter.stats import Counters

DATAGRAM_WEIGHT = 64
"""Bytes that a datagram counts for beside its own, so that empty ones fill a queue too."""
PIECE_WEIGHT = 128
"""Bytes that a separate piece of a datagram that is not whole counts for beside the datagram's own."""
MAX_PARTIAL_BYTES, MAX_PARTIALS = 8 * 1024 * 1024, 4_096
"""Datagrams of a session of which only some fragments have come: what they weigh, and how many; the oldest give way."""
PARTIAL_SECONDS = 10.0
"""After so long a datagram that is not whole is given up."""
MAX_RANGES, MAX_RANGES_OF_FLOW = 65_536, 4_096
"""Separate ranges of numbers that are remembered, of a session and of a flow; below the highest of them all counts as seen."""


class Datagram:
    """One that the local program sent."""

    __slots__ = ("born", "cut", "data", "deadline", "number", "stamp")

    def __init__(self, number: int, data: bytes, born: float, stamp: int, deadline: int) -> None:
        self.number = number
        self.data = data
        self.born = born
        """When it was read."""
        self.stamp = stamp
        """The same for the other end, in ms of the session's clock; -1 where there is no deadline."""
        self.deadline = deadline
        """Age in ms at which the other end drops it; -1 where there is none."""
        self.cut = 0
        """Bytes that are in pieces already."""

    @property
    def left(self) -> int:
        """Bytes that are not."""
        return len(self.data) - self.cut

    @property
    def weight(self) -> int:
        """What it takes of a queue."""
        return self.left + DATAGRAM_WEIGHT

    @property
    def share(self) -> int:
        """What it takes of a payload, as the scheduler counts."""
        return max(1, self.left)


class Piece:
    """A datagram, or a fragment of one, as it was cut for a payload; it is resent as it is."""

    __slots__ = ("acked", "data", "datagram", "offset", "source")

    def __init__(self, source: Source, datagram: Datagram, offset: int, data: bytes) -> None:
        self.source = source
        self.datagram = datagram
        self.offset = offset
        self.data = data
        self.acked = False

    @property
    def size(self) -> int:
        """Bytes of payload."""
        return len(self.data)

    def write(self, writer: ShotWriter) -> None:
        """Add it to a shot's body."""
        whole = self.datagram
        writer.datagram(self.source.id, whole.number, whole.stamp, whole.deadline, len(whole.data), self.offset, self.data)


class Numbers:
    """Of the datagrams of a flow: the next to be sent, and those that have come, so that each counts once."""

    __slots__ = ("_seen", "next")

    def __init__(self) -> None:
        self.next = 0
        self._seen = RangeSet()

    def __contains__(self, number: int) -> bool:
        return number in self._seen

    def add(self, number: int, most: int) -> int:
        """It has come. Beyond `most` ranges the lower half is taken for one; returns how many more there are now."""
        before = len(self._seen)
        self._seen.add(number, number)
        if len(self._seen) > most:
            self._seen.add(0, self._seen.ranges()[most // 2][1])
        return len(self._seen) - before

    def fold(self) -> None:
        """Nothing older than what has come is waited for any more."""
        if self._seen:
            self._seen.add(0, self._seen.ranges()[0][1])

    def __len__(self) -> int:
        """Ranges that are remembered."""
        return len(self._seen)


class Partial:
    """A datagram of which some fragments have come."""

    __slots__ = ("_borders", "_left", "data", "since")

    def __init__(self, size: int, since: float) -> None:
        self.data = bytearray(size)
        self.since = since
        self._borders: list[int] = []
        """Where each run of bytes that have come begins and ends, rising."""
        self._left = size

    @property
    def weight(self) -> int:
        """What it takes of the room for such datagrams."""
        return len(self.data) + PIECE_WEIGHT * len(self._borders) // 2

    def add(self, offset: int, piece: bytes | memoryview) -> bool:
        """Take a fragment in; whether the datagram is whole. Raises RemoteProtocolError if it contradicts what has come."""
        if not piece:
            return False
        borders, end = self._borders, offset + len(piece)
        first = bisect_right(borders, offset)
        if first % 2 and end <= borders[first]:
            if self.data[offset:end] != bytearray(piece):
                raise RemoteProtocolError("sent fragments of a datagram that contradict each other")
        elif first % 2 or first != bisect_left(borders, end):
            raise RemoteProtocolError("sent fragments of a datagram that overlap")
        else:
            joins_before = first > 0 and borders[first - 1] == offset
            joins_after = first < len(borders) and borders[first] == end
            borders[first - joins_before : first + joins_after] = [offset] * (not joins_before) + [end] * (not joins_after)
            self.data[offset:end] = piece
            self._left -= len(piece)
        return not self._left


class Receiver(Protocol):
    """Whose datagrams become whole; flows.Flow."""

    partials: set[int]

    def see(self, number: int) -> None: ...


class Reassembly:
    """All datagrams of a session of which some fragments have come, the oldest first."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._partials: dict[tuple[Receiver, int], Partial] = {}
        self._weight = 0

    def add(self, flow: Receiver, number: int, size: int, offset: int, piece: bytes | memoryview, now: float) -> bytes | None:
        """Take a fragment in; the datagram if that made it whole. Raises RemoteProtocolError if it contradicts what has come."""
        partial = self._partials.get((flow, number))
        if partial is None:
            partial = self._partials[flow, number] = Partial(size, now)
            flow.partials.add(number)
            self._weight += partial.weight
        elif len(partial.data) != size:
            raise RemoteProtocolError("sent fragments of a datagram that contradict each other")
        before = partial.weight
        whole = partial.add(offset, piece)
        self._weight += partial.weight - before
        if whole:
            self.drop(flow, number)
            return bytes(partial.data)
        while self._weight > MAX_PARTIAL_BYTES or len(self._partials) > MAX_PARTIALS:
            self._give_up_oldest()
        return None

    def drop(self, flow: Receiver, number: int) -> None:
        """It is whole, or nobody waits for the rest."""
        flow.partials.remove(number)
        self._weight -= self._partials.pop((flow, number)).weight

    def run(self, now: float) -> None:
        """Give up those whose rest did not come in time."""
        while now >= self.deadline():
            self._give_up_oldest()

    def deadline(self) -> float:
        """When `run` has something to do."""
        return next(iter(self._partials.values())).since + PARTIAL_SECONDS if self._partials else inf

    def _give_up_oldest(self) -> None:
        flow, number = next(iter(self._partials))
        self.drop(flow, number)
        flow.see(number)
        self._counters.datagrams_lost += 1
