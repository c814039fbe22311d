"""How many idle carriers an end wishes to find: what leaves until those that are asked for now are there, and what waits."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tcsplitter.congestion import Congestion
    from tcsplitter.table import StreamTable

MAX_WANT = 1024
CLIENT_TURNS, SERVER_TURNS, TURN_SECONDS = 1.5, 2.5, 0.002
"""RTTs, and seconds besides, from the use of a carrier until another one is there in its place. The client dials as soon as it
has used one; the server's use has to become known, and the hello has to come."""
LEAST_AHEAD, MOST_AHEAD, RAISE, FALL = 1.25, 4.0, 1.25, 0.99
"""So many times what leaves in that time is wished for: more after each round in which carriers were wanting, else less again."""
STARTUP_AHEAD = 4
"""While the rate is being looked for, so many times what waits and is under way is wished for, and at most so many times what
the line may take."""
OPENING_BYTES, OPENING_RTTS, MAX_OPENING = 160_000, 2.0, 16
"""A client that has opened a stream will soon want carriers for this much, in either direction: it asks for them at once, for so
long, and for no more than so many of all streams together."""


class Demand:
    """The account of what one direction of a session needs."""

    def __init__(self, client: bool, congestion: Congestion, streams: StreamTable) -> None:
        self._client = client
        self._turns = CLIENT_TURNS if client else SERVER_TURNS
        self._congestion = congestion
        self._streams = streams
        self._sending = streams.shared.sending
        self._opened = 0
        """Streams there had been when it was looked at last."""
        self._opened_at = -inf
        """When there was a new one."""
        self._fresh = 0
        """How many were new then."""
        self._ahead = LEAST_AHEAD
        self._starved = False
        self._round = 0

    def starved(self) -> None:
        """Bulk could have gone, but there was no carrier."""
        self._starved = True

    def payloads(self, in_flight: int, now: float) -> int:
        """Idle carriers for what leaves while others are dialled, and for what waits."""
        line = self._congestion
        if line.rounds != self._round:
            self._adapt()
        turn = self._turns * (line.rtt + min(line.queue, line.rtt)) + TURN_SECONDS
        wish = min(self._bytes(line, turn, in_flight, now), line.cap.within(MOST_AHEAD * turn))
        return int(wish / line.size.bytes) + self._sending.lost_chunks + self._opening(now)

    def _bytes(self, line: Congestion, turn: float, in_flight: int, now: float) -> float:
        """What leaves in a turn and what waits, together."""
        unsent, room = self._sending.unsent, max(0.0, line.window() - in_flight)
        if line.is_short():  # what is dialled is there at once
            return LEAST_AHEAD * line.rate_at(now) * self._turns * line.rtt + min(unsent, room)
        leaving = self._ahead * line.rate_at(now) * turn
        if line.starting:
            return leaving + STARTUP_AHEAD * min(unsent + in_flight, line.window())
        return leaving or min(unsent, room)

    def _opening(self, now: float) -> int:
        """Carriers for streams that were just opened."""
        if not self._client:
            return 0
        if self._streams.opened != self._opened:
            self._fresh = self._streams.opened - self._opened
            self._opened, self._opened_at = self._streams.opened, now
        if now > self._opened_at + OPENING_RTTS * self._congestion.rtt:
            return 0
        return min(self._fresh * -(-OPENING_BYTES // self._congestion.size.bytes), MAX_OPENING)

    def _adapt(self) -> None:
        self._round = self._congestion.rounds
        if self._starved and not self._congestion.starting:
            self._ahead = min(MOST_AHEAD, RAISE * self._ahead)
        else:
            self._ahead = max(LEAST_AHEAD, FALL * self._ahead)
        self._starved = False
