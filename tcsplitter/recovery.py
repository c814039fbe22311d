"""Which shots have arrived, which are late, which are lost, and how much may be under way.

Modelled on RFC 9002, with one difference: a carrier does not drop a shot, it delivers it late or dies. So there is no packet
threshold and no probe time-out; lateness is judged by the minimum RTT and by quantiles (lateness.py), and loss by time and by
what the kernel knows (PROTOCOL.md section 4). How much may be under way is for congestion.py to say.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

from tcsplitter.acks import ack_delay
from tcsplitter.congestion import Congestion
from tcsplitter.errors import RemoteProtocolError
from tcsplitter.lateness import Lateness

if TYPE_CHECKING:
    from tcsplitter._core import Ranges
    from tcsplitter.payload import PayloadSize
    from tcsplitter.shots import SentShot

LOST_RTTS, LOST_SECONDS = 3.0, 1.0
"""A shot is taken for lost after the larger of these, or what the line takes for all that is under way, without progress."""
GIVE_UP_RTTS, GIVE_UP_SECONDS, GIVE_UP_TURNS = 10.0, 3.0, 2.0
"""A carrier with an unacknowledged shot is reset after the larger of these, or so many times that."""
LOST_MEMORY = 10.0
"""Seconds for which a shot that was taken for lost may still be acknowledged."""
MAX_PATIENCE, PATIENCE_FADES = 2.0, 0.99
"""How far verdicts that proved wrong may stretch LOST_*, and the factor by which each timely ack takes it back.

Small on purpose: a payload that is sent again costs little, while one that meets several dead carriers in a row waits this
long for each of them, and its stream with it.
"""
MAX_BACKOFF = 16.0
"""When a shot is lost for its age, and since then no younger one arrived and no dial was quick, the line is full, not the carrier
dead: the bound is halved, and LOST_* and GIVE_UP_* are doubled, once in the time that such a verdict takes. An ack regains a
little of the one and half of the other."""
LATE_WINDOWS = 4
"""So many windows may be under way and late."""
MAX_UNACKED_CHUNKS = 8_192
"""STREAM frames that may be unacknowledged: each can leave a gap at the other end."""


class Recovery:
    """The account of data shots of one direction, kept by their sender."""

    def __init__(self, size: PayloadSize, cap: float = 0.0, polite: bool = False) -> None:
        """As Congestion has it."""
        self.sent: dict[int, SentShot] = {}
        """Unacknowledged and not taken for lost, in the order in which they will be judged."""
        self.lost: dict[int, SentShot] = {}
        """Taken for lost, or rebuilt from parity, in that order; kept for LOST_MEMORY, to learn from a late ack."""
        self.in_flight = 0
        """Bytes of `sent` that are not late."""
        self.late_bytes = 0
        """Bytes of `sent` that are."""
        self.congestion = Congestion(size, cap, polite)
        self.lateness = Lateness(self.congestion.rtt)
        self.chunks_in_flight = 0
        self.wrong_verdicts = 0
        self._patience = 1.0
        self._backoff = 1.0
        self._quick_dial_at = -inf
        self._young: deque[SentShot] = deque()
        self._halve_at = 0.0
        self._newest_delivered = -inf
        """When the youngest of the delivered shots was sent: while one that is late is no older, the line may be full."""
        self._highest_delivered = -1
        """Its number: what was overtaken has a bad carrier."""

    @property
    def rtt(self) -> float:
        """The minimum RTT in seconds, or a guess."""
        return self.congestion.rtt

    @property
    def min_rtt(self) -> float:
        """The same; 0 while unknown."""
        return self.congestion.min_rtt

    def lost_after(self) -> float:
        patience = max(self._patience, self._backoff) * max(LOST_RTTS * self.congestion.rtt, LOST_SECONDS)
        return max(patience, self.congestion.takes(self.under_way()))

    def give_up_after(self) -> float:
        patience = self._backoff * max(GIVE_UP_RTTS * self.congestion.rtt, GIVE_UP_SECONDS)
        return max(patience, GIVE_UP_TURNS * self.congestion.takes(self.under_way()))

    def dialled(self, seconds: float, now: float) -> None:
        """A dial took so long: an RTT, and a sign of how full the line is."""
        self.sample_rtt(seconds, now)
        if seconds < max(LOST_RTTS * self.congestion.rtt, LOST_SECONDS) / 2:
            self._quick_dial_at = now

    def sample_rtt(self, seconds: float, now: float, size: int = 0) -> None:
        """Take an RTT in, that of `size` bytes."""
        self.congestion.sample_rtt(seconds, size, now)
        self.lateness.begin(self.congestion.rtt)

    def under_way(self) -> int:
        """Bytes of `sent`."""
        return self.in_flight + self.late_bytes

    @property
    def is_quiet(self) -> bool:
        """The line could take as much again as is under way."""
        return 2 * self.under_way() < self.congestion.window()

    def may_send(self, now: float) -> bool:
        """Whether bulk data may go: cap, pace and line allow more, and late shots, which have an account of their own, are not
        too many."""
        return now >= self.congestion.cap.opens_at and self.line_allows(now)

    def line_allows(self, now: float) -> bool:
        """The same but for the cap."""
        return now >= self.congestion.opens_at and self.has_room()

    @property
    def opens_at(self) -> float:
        """When cap and pace allow more."""
        return max(self.congestion.opens_at, self.congestion.cap.opens_at)

    def has_room(self) -> bool:
        """Whether bulk data may go but for cap and pace."""
        window = self.congestion.window()
        return self.in_flight < window and self.late_bytes < LATE_WINDOWS * window and self.chunks_left() > 0

    def chunks_left(self) -> int:
        """STREAM frames that may still be sent: the other end's reassembly has to stay within bounds."""
        return MAX_UNACKED_CHUNKS - self.chunks_in_flight

    def on_sent(self, shot: SentShot) -> None:
        """Enter a data shot."""
        self.congestion.on_sent(shot, self.under_way())
        self.sent[shot.number] = shot
        self.in_flight += shot.size
        self.chunks_in_flight += len(shot.chunks)
        self._young.append(shot)

    def note_late(self, now: float) -> None:
        """Move the shots that have become late to their own account, and let go of what has arrived before."""
        rtt = self.congestion.rtt
        limit = now - max(self.lateness.in_time(rtt, ack_delay(rtt)), self.congestion.takes_least())
        while self._young:
            shot: SentShot = self._young[0]
            if shot.number in self.sent:
                if shot.sent_at >= limit:
                    break
                shot.late = True
                self.in_flight -= shot.size
                self.late_bytes += shot.size
            self._young.popleft()

    def was_overtaken(self, shot: SentShot) -> bool:
        """Whether a younger shot has arrived."""
        return self._highest_delivered > shot.number

    def _leave(self, shot: SentShot) -> None:
        if shot.late:
            self.late_bytes -= shot.size
        else:
            self.in_flight -= shot.size
        self.chunks_in_flight -= len(shot.chunks)

    def on_ack(
        self, answered: int, delay: float, ranges: Ranges, rebuilt: Ranges, next_number: int, now: float
    ) -> tuple[list[SentShot], list[SentShot]]:
        """The shots of which this ack newly says that they arrived, lost ones among them, and those that were rebuilt from parity
        instead. RemoteProtocolError for a number never sent."""
        if ranges and ranges[0][1] >= next_number or rebuilt and rebuilt[0][1] >= next_number or answered >= next_number:
            raise RemoteProtocolError("acknowledges a shot that was never sent")
        arrived: list[SentShot] = []
        highest_before = self._highest_delivered
        for low, high in reversed(ranges):
            for number in self._known(low, high):
                arrived.append(self._deliver(number, delay if number == answered else None, highest_before, now))
        found = [number for low, high in rebuilt for number in self._known(low, high)]
        return arrived, [shot for number in found if (shot := self._rebuild(number, now)) is not None]

    def _rebuild(self, number: int, now: float) -> SentShot | None:
        """The other end has it from parity; None if that is known. Its own ack will tell whether it was late."""
        shot = self.lost.get(number)
        if shot is None:
            shot = self._move_to_lost(number, now)
            shot.rebuilt = True
        elif shot.settled:
            return None
        shot.settled = True
        return shot

    def knows(self, number: int) -> bool:
        """Whether the shot was sent and neither acknowledged nor forgotten."""
        return number in self.sent or number in self.lost

    def _known(self, low: int, high: int) -> list[int]:
        """Outstanding numbers from low to high, without walking a range that is much longer than the account."""
        if high - low > 2 * (len(self.sent) + len(self.lost)):
            return [n for book in (self.sent, self.lost) for n in book if low <= n <= high]
        return [n for n in range(low, high + 1) if n in self.sent or n in self.lost]

    def _deliver(self, number: int, delay: float | None, highest_before: int, now: float) -> SentShot:
        shot = self.sent.pop(number, None)
        counted = False
        if shot is None:
            shot = self.lost.pop(number)
            counted = not shot.rebuilt
            if shot.by_time:
                self.wrong_verdicts += 1
                self._patience = min(1.5 * self._patience, MAX_PATIENCE)
        else:
            self._leave(shot)
            self._patience = max(1.0, self._patience * PATIENCE_FADES)
            self._backoff = max(1.0, self._backoff / 2)
        self._newest_delivered = max(self._newest_delivered, shot.sent_at)
        self._highest_delivered = max(self._highest_delivered, number)
        rtt, flights = self.congestion.rtt, self.congestion.size.flights_of(shot.size)
        outlier = self.lateness.sample(now - shot.sent_at, shot.size, rtt, ack_delay(rtt), flights)
        if not counted:
            # Compared with what came in an ack before this one: what this ack says together may be late for its own lateness.
            self.lateness.count(outlier and highest_before > number)
        if delay is not None:
            self.sample_rtt(now - shot.sent_at - delay, now, shot.size)
        self.congestion.on_delivered(shot, now)
        return shot

    def overdue(self, now: float) -> list[SentShot]:
        """Shots old enough to be lost, oldest first; they stay until `lose` or `spare`."""
        limit = now - self.lost_after()
        found = []
        for shot in self.sent.values():
            if shot.judged_from > limit:
                break
            found.append(shot)
        return found

    def spare(self, shot: SentShot, now: float) -> None:
        """The kernel shows progress: judge the shot again later."""
        del self.sent[shot.number]
        shot.judged_from = now
        self.sent[shot.number] = shot

    def lose(self, number: int, by_time: bool, now: float) -> SentShot | None:
        """Take a shot for lost; None if it is not outstanding."""
        if number not in self.sent:
            if (gone := self.lost.get(number)) is not None and gone.rebuilt:
                self._never_came(gone)
            return None
        shot = self._move_to_lost(number, now)
        shot.by_time = by_time
        if not by_time or self.was_overtaken(shot):
            self.lateness.count(late=True)
        if by_time and shot.sent_at >= max(self._newest_delivered, self._quick_dial_at) and now >= self._halve_at:
            self.congestion.on_full()
            self._backoff = min(2 * self._backoff, MAX_BACKOFF)
            self._halve_at = now + self.lost_after()
        return shot

    def _move_to_lost(self, number: int, now: float) -> SentShot:
        shot = self.lost[number] = self.sent.pop(number)
        self._leave(shot)
        shot.judged_from = now
        return shot

    def _never_came(self, shot: SentShot) -> None:
        """It was rebuilt, and itself will hardly come any more."""
        shot.rebuilt = False
        self.lateness.count(late=True)

    def forget_lost(self, now: float) -> None:
        """Forget the shots that were taken for lost so long ago that no ack can be expected."""
        for number, shot in list(self.lost.items()):
            if shot.judged_from > now - LOST_MEMORY:
                break
            del self.lost[number]
            if shot.rebuilt:
                self._never_came(shot)

    def deadline(self) -> float:
        """When the oldest shot will be old enough to be lost."""
        for shot in self.sent.values():
            return shot.judged_from + self.lost_after()
        return inf
