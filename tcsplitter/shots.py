"""A shot that was sent, as its sender remembers it until its fate is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tcsplitter.carrier import Carrier
    from tcsplitter.scheduler import Portion
    from tcsplitter.table import ControlFrame


class SentShot:
    """A data shot that was sent and what it held."""

    __slots__ = (
        "by_time", "carrier", "chunks", "control", "copies", "covered", "delivered", "delivered_at", "ends_half", "first_sent_at",
        "is_twin", "judged_from", "late", "limited", "number", "rebuilt", "round", "sent_at", "settled", "size",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        sent_at: float,
        size: int,
        carrier: Carrier,
        chunks: list[Portion],
        control: list[ControlFrame],
    ) -> None:
        self.number = number
        self.sent_at = sent_at
        self.judged_from = sent_at
        """From when its age counts for the verdict: later than sent_at if the kernel showed progress."""
        self.by_time = False
        """Whether it was taken for lost for its age, and not because its carrier died."""
        self.size = size
        self.carrier = carrier
        self.chunks = chunks
        """What it holds of streams and flows; nothing where it is parity."""
        self.control = control
        self.copies: Copies | None = None
        """This one and its twins, where there are any."""
        self.is_twin = False
        """It was sent because of another copy."""
        self.ends_half = False
        """Nothing follows it on its carrier."""
        self.covered = False
        """It belongs to a stripe, so it may arrive though its carrier is dead."""
        self.rebuilt = False
        """The other end has it by way of parity, and it is not known yet whether it was late."""
        self.settled = False
        """The other end has it by way of parity."""
        self.delivered = 0
        self.delivered_at = 0.0
        self.first_sent_at = 0.0
        self.limited = False
        self.round = -1
        """In which of the rounds that overrun.py counts it was sent; -1: in none."""
        self.late = False


class Copies:
    """A shot and its twins: those that hold the same."""

    __slots__ = ("arrived", "replaced", "shots")

    def __init__(self, original: SentShot) -> None:
        self.shots = [original]
        self.arrived = False
        """One of them was acknowledged."""
        self.replaced = False
        """One of them was lost."""
