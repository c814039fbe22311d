"""What becomes of shots whose carrier broke, froze or fell silent: the verdicts, and sending again what they held."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from tcsplitter.carrier import PROBE, RESET, Carrier, CarrierSet
from tcsplitter.chunks import Control

if TYPE_CHECKING:
    from tcsplitter.outbox import Outbox
    from tcsplitter.recovery import Recovery
    from tcsplitter.scheduler import Portion
    from tcsplitter.shots import SentShot
    from tcsplitter.table import ControlFrame, StreamTable


class Repair:
    """Joins the account of shots, the carriers they went on, and the streams that they came from; a session's."""

    def __init__(self, recovery: Recovery, carriers: CarrierSet, streams: StreamTable, outbox: Outbox) -> None:
        self._recovery = recovery
        self._carriers = carriers
        self._streams = streams
        self._shared = streams.shared
        self._counters = streams.shared.counters
        self._outbox = outbox

    def judge(self, now: float) -> None:
        """Ask the kernel about shots that are old enough to be lost; the answer decides (`progress`)."""
        for carrier in dict.fromkeys(shot.carrier for shot in self._recovery.overdue(now)):
            if carrier.closed:
                self.progress(carrier, 0, now)
            else:
                self._outbox.actions.append((PROBE, carrier, b""))

    def progress(self, carrier: Carrier, outstanding: int, now: float) -> float:
        """The kernel's answer: so many bytes wait in the send queue. While that shrinks, what is on the carrier is not lost.

        Returns when the youngest of what is taken for lost was sent; minus infinity if nothing is.
        """
        lost_from = -inf
        progress = 0 < outstanding < carrier.outstanding and not carrier.closed
        carrier.outstanding = outstanding
        for shot in self._recovery.overdue(now):
            if shot.carrier is not carrier:
                continue
            if progress:
                self._recovery.spare(shot, now)
                self._carriers.expire(carrier, now + self._recovery.give_up_after())
            elif self._cannot_be_replaced(shot, now):
                self._hold(shot, now)
            else:
                self._lose(shot.number, by_time=True, now=now)
                lost_from = max(lost_from, shot.sent_at)
        return lost_from

    def _cannot_be_replaced(self, shot: SentShot, now: float) -> bool:
        """Nothing would go again in place of its data, so the end of its carrier decides; of one that is closed already, age."""
        if self._shared.handling.retries.resend or not any(chunk.size for chunk in shot.chunks):
            return False
        return not shot.carrier.closed or now < shot.sent_at + self._recovery.give_up_after()

    def _hold(self, shot: SentShot, now: float) -> None:
        """Judge its data later, but send the rest again, and ask elsewhere whether it arrived: its acks may be what was lost."""
        self._recovery.spare(shot, now)
        self._carriers.suspend(shot.carrier)
        self._replace([chunk for chunk in shot.chunks if not chunk.size], shot.control)
        self._streams.queue_control(Control.ASK, shot.number)

    def kill(self, carrier: Carrier, now: float) -> None:
        """Reset a carrier that is dead or not to be trusted: what it may still hold is lost, unless parity can make up for it."""
        self._counters.carriers_died += 1
        self._carriers.drop(carrier, RESET)
        for number in carrier.sent:
            shot = self._recovery.sent.get(number)
            if shot is not None and shot.covered and self._cannot_be_replaced(shot, now):
                self._hold(shot, now)
            else:
                self._lose(number, by_time=False, now=now)

    def _lose(self, number: int, by_time: bool, now: float) -> None:
        """A data shot is taken for lost."""
        shot = self._recovery.lose(number, by_time, now)
        if shot is None:
            return
        self._counters.shots_lost += 1
        self._carriers.suspend(shot.carrier)
        # A twin holds the same chunks, but control frames of its own.
        self._replace(shot.chunks if self._is_to_be_replaced(shot) else [], shot.control)

    def _is_to_be_replaced(self, shot: SentShot) -> bool:
        """Whether its loss makes up for that of all copies: the first one where chunks are sent again, as others may be lost long
        after it; else the last one."""
        copies = shot.copies
        if copies is None:
            return True
        first, copies.replaced = not copies.replaced, True
        if self._shared.handling.retries.resend:
            return first
        return not any(copy.chunks and copy.number in self._recovery.sent for copy in copies.shots)

    def _replace(self, chunks: list[Portion], control: list[ControlFrame]) -> None:
        """What was lost goes again, as far as its source wishes."""
        for chunk in chunks:
            if chunk.source.chunk_lost(chunk):
                self._shared.schedule(chunk.source)
        for kind, subject in control:
            if kind != Control.PING:
                self._streams.queue_control(kind, subject)

    def repeat_control(self, carrier: Carrier) -> None:
        """A carrier owes an answer: the control frames that it took go elsewhere as well."""
        for number in carrier.sent:
            if (shot := self._recovery.sent.get(number)) is not None:
                self._replace([], shot.control)

    def outstanding(self, carrier: Carrier) -> bool:
        """Something that was sent on the carrier may still be acknowledged."""
        return any(self._recovery.knows(n) for n in carrier.sent)
