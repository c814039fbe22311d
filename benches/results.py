"""What `make bench` measured, as a table of medians and spreads; beside it a run that was kept.

    .venv/bin/python benches/results.py build/bench/latest.json [KEPT.json]

The spread is the distance between the quartiles in percent of the median. A change is marked with * where neither median lies
between the quartiles of the other run: then it is more than what rounds of one run differ by. Reads the files of
pytest-benchmark's --benchmark-json, with what the benchmarks noted by `note_work` and `note_figures`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

Key = tuple[str, str]
"""A benchmark and what was measured of it."""

_WORK, _FIGURES = "work", "figures"
_TIME = "time"
_SCALES = [("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)]


# --- What benchmarks note


def note_work(extra_info: dict[str, Any], **amounts: float) -> None:
    """What one round does, by unit: the table has it per second as well as the time."""
    extra_info[_WORK] = amounts


def note_figures(extra_info: dict[str, Any], rounds: Sequence[Mapping[str, float]]) -> None:
    """What was measured in each round by another program: the table has this and not the time."""
    extra_info[_FIGURES] = {name: [each[name] for each in rounds] for name in rounds[0]}


# --- What is made of it


@dataclass(frozen=True)
class Result:
    """One measured quantity: its median and quartiles; times in seconds."""

    middle: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """In percent of the median."""
        return 100 * (self.high - self.low) / abs(self.middle) if self.middle else 0.0

    def differs(self, other: Result) -> bool:
        """Whether neither median lies between the quartiles of the other."""
        return not (self.low <= other.middle <= self.high or other.low <= self.middle <= other.high)

    def per_second(self, amount: float) -> Result:
        """Of a time: how much of what it takes to do `amount` is done in a second."""
        return Result(*(amount / seconds for seconds in (self.middle, self.high, self.low)))


def of_values(values: Sequence[float]) -> Result:
    """Median and quartiles; one value is all three."""
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return Result(median(values), low, high)


def read(path: str) -> dict[Key, Result]:
    """All results of a file."""
    with open(path, encoding="utf-8") as file:
        benchmarks = json.load(file)["benchmarks"]
    return {(_name(each), what): result for each in benchmarks for what, result in _results(each).items()}


def _name(benchmark: Mapping[str, Any]) -> str:
    path, _, test = benchmark["fullname"].partition("::")
    return f"{path.rpartition('/')[2].removeprefix('bench_').removesuffix('.py')}: {test.removeprefix('test_')}"


def _results(benchmark: Mapping[str, Any]) -> dict[str, Result]:
    noted, stats = benchmark["extra_info"], benchmark["stats"]
    if _FIGURES in noted:
        return {name: of_values(values) for name, values in noted[_FIGURES].items()}
    time = Result(stats["median"], stats["q1"], stats["q3"])
    return {_TIME: time} | {f"{unit}/s": time.per_second(amount) for unit, amount in noted.get(_WORK, {}).items()}


# --- How it is told


def table(results: Mapping[Key, Result], kept: Mapping[Key, Result] | None = None) -> list[str]:
    """Lines; with `kept` also what it has, and how many times as much this is. What only one of them has comes last."""
    head = f"{'':64}{'median':>12}{'spread':>8}"
    if kept is None:
        return [head] + [_row(key, result) for key, result in results.items()]
    both = [key for key in results if key in kept]
    lines = [f"{head}{'kept':>12}{'spread':>8}{'ratio':>8}"]
    lines += [_row(key, results[key]) + _beside(key[1], results[key], kept[key]) for key in both]
    for name, ours, others in (("only now", results, kept), ("only kept", kept, results)):
        alone = {key: result for key, result in ours.items() if key not in others}
        lines += [f"{name}:"] * bool(alone) + [_row(key, result) for key, result in alone.items()]
    return lines


def _row(key: Key, result: Result) -> str:
    return f"{f'{key[0]}, {key[1]}':64}" + _cells(key[1], result)


def _cells(what: str, result: Result) -> str:
    return f"{_amount(what, result.middle):>12}{result.spread:6.1f} %"


def _beside(what: str, result: Result, kept: Result) -> str:
    ratio = f"{result.middle / kept.middle:.3f}" if kept.middle else "-"
    return f"{_cells(what, kept)}{ratio:>8}{' *' if result.differs(kept) else ''}"


def _amount(what: str, value: float) -> str:
    if what != _TIME:
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"
    unit, scale = next(((unit, scale) for unit, scale in _SCALES if value >= scale), _SCALES[-1])
    return f"{value / scale:.4g} {unit}"


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit("results: give the file of a run, and that of a kept one if you like")
    try:
        results, *kept = map(read, sys.argv[1:])
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"results: {error!r}")
    print("\n".join(table(results, *kept)))


if __name__ == "__main__":
    main()
