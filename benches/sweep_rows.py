"""A row of a sweep: one setting, and everything that was measured with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import nan

from benches.sweep_cells import Setting


@dataclass(frozen=True)
class Spread:
    """Of the repeats of a measurement."""

    median: float
    least: float
    most: float


@dataclass
class Row:
    """Figures and samples by workload and name; what failed, in words."""

    setting: Setting
    figures: dict[tuple[str, str], Spread] = field(default_factory=dict)
    samples: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def value(self, workload: str, name: str) -> float:
        """The median; NaN if it was not measured."""
        spread = self.figures.get((workload, name))
        return spread.median if spread else nan
