"""Accounts of shots under way, filled and acknowledged by hand."""

from __future__ import annotations

from tcsplitter.carrier import Carrier
from tcsplitter.congestion import DEFAULT_RTT
from tcsplitter.lateness import Lateness
from tcsplitter.modes import Kind
from tcsplitter.payload import PayloadSize
from tcsplitter.recovery import Recovery
from tcsplitter.shots import SentShot

SIZE = 10_000


def shot(number: int, at: float, size: int = SIZE, chunks: int = 1) -> SentShot:
    return SentShot(number, at, size, Carrier(Kind.FLING, 0.0), [None] * chunks, [])  # type: ignore[list-item]


def make(count: int = 0, at: float = 0.0, step: float = 0.0, size: int = SIZE) -> Recovery:
    """An account with shots 0, 1, … of `size` bytes, sent from `at` on."""
    account = Recovery(PayloadSize(SIZE))
    for number in range(count):
        account.on_sent(shot(number, at + number * step, size))
    return account


def ack(account: Recovery, low: int, high: int, now: float, delay: float = 0.0, answered: int | None = None) -> list[int]:
    """Acknowledge a range; the numbers that were news."""
    arrived, rebuilt = account.on_ack(high if answered is None else answered, delay, [(low, high)], [], 2**62, now)
    assert not rebuilt
    return [each.number for each in arrived]


def ack_rebuilt(account: Recovery, low: int, high: int, now: float) -> list[int]:
    """An ack that lists a range as rebuilt from parity; the numbers that were news."""
    arrived, rebuilt = account.on_ack(0, 0.0, [], [(low, high)], 2**62, now)
    assert not arrived
    return [each.number for each in rebuilt]


class Tallied(Lateness):
    """Keeps what it was told of each shot."""

    def __init__(self) -> None:
        super().__init__(DEFAULT_RTT)
        self.told: list[bool] = []

    def count(self, late: bool) -> None:
        self.told.append(late)
        super().count(late)
