"""What a sweep measures and keeps: settings of the tunnel, the cells of the grid, and a file with a line of JSON for each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from tcsplitter.options import (
    Address,
    ClientOptions,
    parse_buffer,
    parse_count,
    parse_fec,
    parse_frags,
    parse_milliseconds,
    parse_tock,
)

WORKLOADS = ("echo", "stream", "up", "down")
FORMAT = 1  # of the file


class SweepError(Exception):
    """What was asked for cannot be measured, or does not go with what is kept."""


@dataclass(frozen=True)
class Setting:
    """Options of the ends, as they are written on a command line; `conns` and `reuse` are of the client end alone."""

    tick: str = "0"
    tock: str = "auto"
    buffer: str = "0:0"
    conns: str = "4"
    frags: str = "10000"
    fec: str = "0"
    reuse: str = "1"

    def check(self) -> None:
        """ConfigError if the ends would not take it."""
        size, mtu = parse_frags("--frags", self.frags)
        ClientOptions(
            r_fling=Address("127.0.0.1", 1),
            keys={"": bytes(32)},
            tick=parse_milliseconds("--tick", self.tick),
            tock=parse_tock("--tock", self.tock),
            playout=parse_buffer("--buffer", self.buffer),
            conns=parse_count("--conns", self.conns),
            size=size,
            mtu=mtu,
            fec=parse_fec("--fec", self.fec),
            reuse=parse_count("--reuse", self.reuse),
        )

    def describe(self, names: Sequence[str]) -> str:
        """These options, as they are written on a command line."""
        return " ".join(f"--{name} {getattr(self, name)}" for name in names)


OPTIONS = tuple(each.name for each in fields(Setting))


@dataclass(frozen=True)
class Cell:
    """One measurement: a workload under a setting, for the n-th time."""

    setting: Setting
    workload: str
    repeat: int


@dataclass
class Measured:
    """A cell and what came of it: figures by name and single samples by name, or why it failed."""

    cell: Cell
    figures: dict[str, float]
    samples: dict[str, list[float]]
    failed: str | None = None

    def as_json(self) -> str:
        """A line."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Measured:
        """ValueError, KeyError or TypeError if the line is not one of `as_json`."""
        told: dict[str, Any] = json.loads(line)
        cell = told["cell"]
        return cls(
            Cell(Setting(**cell["setting"]), cell["workload"], cell["repeat"]), told["figures"], told["samples"], told["failed"]
        )


def all_settings(grid: Mapping[str, Sequence[str]]) -> list[Setting]:
    """The product of the values of each option; options that are not named are as they are by default."""
    return [Setting(**dict(zip(grid, values, strict=True))) for values in product(*grid.values())]


def all_cells(settings: Sequence[Setting], workloads: Sequence[str], repeat: int) -> Iterator[Cell]:
    """Whole repeats first, so that one which is interrupted leaves those before it complete."""
    for number in range(1, repeat + 1):
        for setting in settings:
            for workload in workloads:
                yield Cell(setting, workload, number)


def varying(settings: Sequence[Setting]) -> list[str]:
    """The options that differ among these settings."""
    return [name for name in OPTIONS if len({getattr(setting, name) for setting in settings}) > 1]


class Kept:
    """The file with all that was measured so far, and under which conditions. A cell that failed is measured again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.conditions: dict[str, Any] = {}
        self.measured: dict[Cell, Measured] = {}

    def load(self) -> None:
        """Read what is there; SweepError if that is not of this program. A last line that was cut short is dropped."""
        if not self.path.exists():
            return
        text = self.path.read_text(encoding="utf-8")
        whole, _, torn = text.rpartition("\n")
        if torn:
            os.truncate(self.path, len((whole + "\n").encode()) if whole else 0)
        lines = whole.splitlines()
        try:
            if lines:
                self.conditions = json.loads(lines[0])
                if self.conditions["format"] != FORMAT:
                    raise ValueError(f"format {self.conditions['format']}")
            for measured in map(Measured.from_json, lines[1:]):
                self.measured[measured.cell] = measured
        except (ValueError, KeyError, TypeError) as error:
            raise SweepError(
                f"{self.path} is not what a sweep has kept: {error!r}. Move it away, or choose another --out"
            ) from None

    def begin(self, conditions: dict[str, Any]) -> None:
        """Write down the conditions of a new file; SweepError if those of one that is there are others.

        `machine` may differ: it is told, and the first one stays."""
        wanted = {"format": FORMAT} | conditions
        if not self.conditions:
            self.conditions = wanted
            self._append(json.dumps(wanted, separators=(",", ":")))
            return
        for name in wanted:
            if name != "machine" and json.loads(json.dumps(wanted[name])) != self.conditions.get(name):
                raise SweepError(
                    f"{self.path} was measured with another {name}: {self.conditions.get(name)}, not {wanted[name]}. "
                    "Ask for that one to go on, or choose another --out"
                )

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those that are still to be measured."""
        return [cell for cell in cells if cell not in self.measured or self.measured[cell].failed]

    def add(self, measured: Measured) -> None:
        """Keep it, on the disk too."""
        self.measured[measured.cell] = measured
        self._append(measured.as_json())

    def _append(self, line: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
