"""Which setting to take for what, and a table of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan

from benches.sweep_cells import Setting, varying
from benches.sweep_rows import Row

CLOSE = 0.1
"""A measure that is this share worse than the best, or a millisecond, is as good: the defaults are taken, or what costs less."""
_MOST_DELAY = 300.0  # ms that a stream may come later than with the setting where it comes earliest, to be chosen


# --- Which setting to take


@dataclass(frozen=True)
class Use:
    """What somebody wants the tunnel for, and the measure that matters then: smaller is better, NaN is out of the question."""

    name: str
    told: str
    """The measure, in words."""
    unit: str
    measure: Callable[[Row], float]
    cost: Callable[[Row], float]
    cost_told: str
    fits: Callable[[Row, Sequence[Row]], bool] = lambda _row, _rows: True


@dataclass(frozen=True)
class Choice:
    """The setting to take for a use, and how it compares."""

    use: Use
    row: Row
    best: float
    """The best measure of any setting."""
    default: Row | None
    """The row of the options' defaults, where they were measured."""

    def sentence(self, names: Sequence[str]) -> str:
        """What to take and why; `names` are the options to tell."""
        return f"{self.row.setting.describe(names) or 'the defaults'}: {self.reason()}"

    def reason(self) -> str:
        """The measure, and that of the defaults."""
        told = f"{self.use.told} {_show(self.row, self.use)}"
        if self.default is self.row:
            return told + ". These are the defaults."
        if self.default is not None and not isnan(self.use.measure(self.default)):
            told += f"; with the defaults {_show(self.default, self.use)}"
        return told + "."


def _show(row: Row, use: Use) -> str:
    return f"{abs(use.measure(row)):.3g} {use.unit}"


def _both_ways(row: Row, name: str) -> float:
    return (row.value("up", name) + row.value("down", name)) / 2


def _in_time(row: Row, rows: Sequence[Row]) -> bool:
    delays = [each.value("stream", "delay p50 ms") for each in rows]
    return row.value("stream", "delay p50 ms") <= min(each for each in delays if not isnan(each)) + _MOST_DELAY


USES = (
    Use(
        "ssh",
        "9 of 10 keystrokes are echoed within",
        "ms",
        lambda row: row.value("echo", "echo p90 ms"),
        lambda row: row.value("echo", "wire bytes per byte"),
        "the fewest bytes on the line",
    ),
    Use(
        "bulk",
        "goodput, the mean of up and down,",
        "Mbit/s",
        lambda row: -_both_ways(row, "Mbit/s"),
        lambda row: _both_ways(row, "wire bytes per byte"),
        "the fewest bytes on the line",
    ),
    Use(
        "video",
        "99 of 100 frames come off their beat by at most",
        "ms",
        lambda row: row.value("stream", "off the beat p99 ms"),
        lambda row: row.value("stream", "delay p50 ms"),
        "the least delay",
        _in_time,
    ),
)


def choose(rows: Sequence[Row]) -> list[Choice]:
    """For each use that was measured, among the settings that are as good as the best: the defaults, else what costs least."""
    default = next((row for row in rows if row.setting == Setting()), None)
    choices = []
    for use in USES:
        fitting = [row for row in rows if not isnan(use.measure(row)) and use.fits(row, rows)]
        if fitting:
            best = min(map(use.measure, fitting))
            margin = max(abs(best) * CLOSE, 1.0 if use.unit == "ms" else 0.0)
            good = [row for row in fitting if use.measure(row) <= best + margin]
            choices.append(
                Choice(use, min(good, key=lambda row: (row is not default, use.cost(row), use.measure(row))), abs(best), default)
            )
    return choices


# --- The table


@dataclass(frozen=True)
class Column:
    """A figure of the table."""

    group: str
    head: str
    value: Callable[[Row], float]
    digits: int = 0

    def show(self, row: Row) -> str:
        """Its value, or a dash."""
        value = self.value(row)
        return "–" if isnan(value) else f"{value:.{self.digits}f}"


def _of(workload: str, name: str) -> Callable[[Row], float]:
    return lambda row: row.value(workload, name)


COLUMNS = (
    Column("echo, ms", "p50", _of("echo", "echo p50 ms")),
    Column("echo, ms", "p90", _of("echo", "echo p90 ms")),
    Column("echo, ms", "p99", _of("echo", "echo p99 ms")),
    Column("echo, ms", "conn/s", _of("echo", "connections per second")),
    Column("bulk", "Mbit/s up", _of("up", "Mbit/s"), 1),
    Column("bulk", "down", _of("down", "Mbit/s"), 1),
    Column("bulk", "wire B/B", lambda row: _both_ways(row, "wire bytes per byte"), 2),
    Column("bulk", "conn/MB", lambda row: _both_ways(row, "connections per MB")),
    Column("stream, ms", "off p50", _of("stream", "off the beat p50 ms"), 1),
    Column("stream, ms", "p90", _of("stream", "off the beat p90 ms"), 1),
    Column("stream, ms", "p99", _of("stream", "off the beat p99 ms"), 1),
    Column("stream, ms", "stalls %", _of("stream", "stalls percent"), 1),
    Column("stream, ms", "delay p50", _of("stream", "delay p50 ms")),
    Column("stream, ms", "p99", _of("stream", "delay p99 ms")),
)


def make_table(rows: Sequence[Row]) -> str:
    """For a terminal."""
    names = varying([row.setting for row in rows]) or ["tick", "tock", "buffer"]
    heads = [*names, *(column.head for column in COLUMNS)]
    lines = [[*(getattr(row.setting, name) for name in names), *(column.show(row) for column in COLUMNS)] for row in rows]
    widths = [max(len(line[at]) for line in [heads, *lines]) + 2 for at in range(len(heads))]
    groups, at = " " * sum(widths[: len(names)]), len(names)
    for group in dict.fromkeys(column.group for column in COLUMNS):
        count = sum(column.group == group for column in COLUMNS)
        groups += f"{'  ' + group + ' ':─<{sum(widths[at : at + count])}}"
        at += count
    told = ["".join(f"{word:>{width}}" for word, width in zip(line, widths, strict=True)) for line in [heads, *lines]]
    failed = [f"{row.setting.describe(names)}: {reason}" for row in rows for reason in row.failed]
    return "\n".join([groups.rstrip(), *told, *(["", "Failed:", *failed] if failed else [])]) + "\n"


def make_advice(rows: Sequence[Row]) -> str:
    """A line for each use."""
    names = varying([row.setting for row in rows])
    return "".join(f"{choice.use.name + ':':7}{choice.sentence(names)}\n" for choice in choose(rows))
