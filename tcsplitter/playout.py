"""Forwarding what arrived: at a beat, where one is set, and past what does not come, where that is allowed."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from tcsplitter._core import Playout

if TYPE_CHECKING:
    from tcsplitter import options
    from tcsplitter._core import RecvBuffer

ATTEMPT_SECONDS = 0.01
"""Where there is no beat an attempt at a missing payload is made that often."""
_FILLING = memoryview(bytes(65_536))


class Forwarding:
    """What of a stream's bytes in order may be forwarded now, and when a missing payload is passed over.

    A payload is missing while the local program could take it and something behind it has come. Each beat that finds it
    missing is an attempt, and so are those that found nothing before that was known, all but one: a first payload after a
    pause must have its chance. The beat after the last attempt goes on behind it.
    """

    __slots__ = ("_idle_beats", "_largest", "_pass_at", "_playout", "_size", "attempts", "ready")

    def __init__(self, setting: options.Playout, size: int, attempts: int, now: float) -> None:
        """`size`: bytes that a payload is taken to have until one came."""
        self.attempts = attempts
        """After so many a missing payload is passed over; -1: never."""
        self.ready = 0
        """Bytes that may be forwarded and were not consumed."""
        self._playout: Playout | None = None
        if setting.beat:
            self._playout = Playout(setting.beat, setting.merge, setting.catch_up, now + setting.after)
        self._idle_beats = 0
        """Beats that had found nothing when something was released last."""
        self._pass_at = inf
        self._size = size
        self._largest = 0

    def arrived(self, offset: int, length: int) -> None:
        """A payload came, in order or not."""
        self._largest = max(self._largest, length)
        if self._playout is not None:
            self._playout.expect(offset + length)

    def run(self, incoming: RecvBuffer, now: float) -> int:
        """Release what is due; returns how many payloads were passed over for it."""
        passed, since = 0, now
        if now >= self._pass_at:
            # What stood behind the gap is in time for the beat that passed it by, however late this wake comes.
            passed, since = self._pass_by(incoming), self._pass_at
            self._pass_at = inf
        if self._playout is None:
            self.ready = incoming.readable
        else:
            self._playout.advance(incoming.read_offset + incoming.readable, since)
            if released := self._playout.release(now):
                self.ready += released
                self._idle_beats = self._playout.skipped
        self._look_for_gap(incoming, now)
        return passed

    def deadline(self) -> float:
        """When `run` has to be called though nothing came."""
        return min(self._pass_at, self._playout.deadline() if self._playout is not None else inf)

    def _pass_by(self, incoming: RecvBuffer) -> int:
        skipped = _skip(incoming)
        if skipped and self._playout is not None:
            self._playout.pass_by(incoming.read_offset)
        return -(-skipped // (self._largest or self._size))

    def _look_for_gap(self, incoming: RecvBuffer, now: float) -> None:
        missing = not incoming.readable and incoming.highest > incoming.read_offset
        if not missing or self.attempts < 0:
            self._pass_at = inf
        elif self._pass_at == inf:
            self._pass_at = self._end_of_attempts(now)

    def _end_of_attempts(self, now: float) -> float:
        if self._playout is None:
            return now + self.attempts * ATTEMPT_SECONDS
        in_vain = self._playout.skipped - self._idle_beats
        return self._playout.beat(now, min(self.attempts, max(1, self.attempts - in_vain)))


def _skip(incoming: RecvBuffer) -> int:
    """Go past the gap that the reader stands at, up to where the stream is known to go; returns how many bytes that was."""
    start = incoming.read_offset
    if not (incoming.skip() or incoming.readable):
        # Neither data nor the end of the stream follows, so that there is nothing to skip to: the gap is filled.
        while (left := incoming.highest - incoming.read_offset) > 0:
            incoming.insert(incoming.read_offset, _FILLING[:left], False)
            incoming.consume(incoming.readable)
    return incoming.read_offset - start
