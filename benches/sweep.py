"""Which --tick, --tock and --buffer to take: measures a real tunnel across an emulated line. Needs root, Linux and matplotlib.

    make sweep
    .venv/bin/python benches/sweep.py --line mobile --tick 0 10 --buffer 0:0 40:8 --repeat 3

Purpose: to see what the settings do for typing, bulk and a steady stream. Metrics: percentiles of the echo of keystrokes,
goodput, how evenly and how late the frames of a stream arrive, connections, and bytes on the line for each byte carried.

Every combination of the values given is a setting, and each workload has fresh ends and a fresh line. What is measured is kept at
once, so a sweep that was interrupted goes on with the same command, and one whose values have changed measures what is missing.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import click

sys.path.append(str(Path(__file__).resolve().parents[1]))  # as a script it has only its own folder there

from benches.line import PRESETS, Kind, LineError, choose_kind, parse_line
from benches.rounds import describe_machine
from benches.sweep_cells import OPTIONS, WORKLOADS, Cell, Kept, Setting, SweepError, all_cells, all_settings
from tcsplitter.errors import ConfigError

GRID = {"tick": ["0", "5", "20"], "tock": ["auto", "5", "20"], "buffer": ["0:0", "40:0", "40:8"]}
OUT = Path("build/sweep")
_OVERHEAD = 1.65  # seconds of each measurement besides what was asked for: the start of the ends, and the warm-up
_RESULTS = "cells.jsonl"


def main(words: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    asked = parse(words)
    try:
        return run(asked)
    except (SweepError, LineError, ConfigError) as error:
        click.echo(f"sweep: {error}", err=True)
        return 1


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measures a tunnel with every combination of the values of --tick to --reuse, and reports which one to take.",
        epilog=f"Lines by name: {', '.join(PRESETS)}.",
    )
    for name in OPTIONS:
        values = GRID.get(name, [getattr(Setting(), name)])
        parser.add_argument(f"--{name}", nargs="+", default=values, metavar="VALUE", help=f"of the ends ({' '.join(values)})")
    parser.add_argument(
        "--line", default="lossy", metavar="LINE", help="a name, NAME=VALUE, or both: lossy,delay_ms=40,up.rate_mbit=5 (lossy)"
    )
    parser.add_argument(
        "--kind", choices=["netem", "emulator"], help="what makes the line (netem, where it can, else the emulator)"
    )
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="what to measure (all)")
    parser.add_argument("--secs", type=float, default=4.0, metavar="N", help="of each workload, after a second of warm-up (4)")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="measure all of it so often (1)")
    parser.add_argument(
        "--out", type=Path, default=OUT, metavar="DIR", help=f"where results are kept and the report goes ({OUT})"
    )
    parser.add_argument("--report-only", action="store_true", help="measure nothing, report what is kept")
    asked = parser.parse_args(words)
    if asked.secs < 1 or asked.repeat < 1:
        parser.error("--secs and --repeat begin at 1")
    return asked


def run(asked: argparse.Namespace) -> int:
    """Measure what is missing, and report."""
    if find_spec("matplotlib") is None:
        raise SweepError("the report's plots need matplotlib: .venv/bin/python -m pip install 'matplotlib>=3.8', or make sweep")
    kept = Kept(asked.out / _RESULTS)
    kept.load()
    if not asked.report_only and not measure_missing(asked, kept):
        return 130
    return report(kept, asked.out)


def measure_missing(asked: argparse.Namespace, kept: Kept) -> bool:
    """Returns whether it came to its end; if not, it was told how to go on."""
    settings = all_settings({name: list(dict.fromkeys(getattr(asked, name))) for name in OPTIONS})
    for setting in settings:
        setting.check()
    try:
        line = parse_line(asked.line)
    except ValueError as error:
        raise SweepError(f"--line: {error}") from None
    kind = choose_kind(line, asked.kind)
    machine = describe_machine()
    kept.begin({"line": line.describe(), "settings": asdict(line), "kind": kind, "secs": asked.secs, "machine": machine})
    cells = list(all_cells(settings, asked.workloads, asked.repeat))
    missing = kept.missing(cells)
    told = f"{len(settings)} settings × {len(asked.workloads)} workloads × {asked.repeat}: {len(cells)} measurements"
    if len(missing) < len(cells):
        told += f", {len(cells) - len(missing)} of them kept in {kept.path}"
    click.echo(f"{line.describe()} ({kind})\n{told}. About {show_time(len(missing) * (asked.secs + _OVERHEAD))}.", err=True)
    try:
        measure_all(missing, kept, asked, kind)
    except KeyboardInterrupt:
        left = len(kept.missing(cells))
        click.echo(f"\nInterrupted; {len(cells) - left} of {len(cells)} measurements are kept in {kept.path}.", err=True)
        click.echo("The same command goes on from there; with --report-only it reports what there is.", err=True)
        return False
    return True


def measure_all(cells: Sequence[Cell], kept: Kept, asked: argparse.Namespace, kind: Kind) -> None:
    """With a progress bar."""
    from benches.sweep_load import measure

    line = parse_line(asked.line)
    names = [name for name in OPTIONS if len(set(getattr(asked, name))) > 1]
    failed = 0

    def show(cell: Cell | None) -> str:
        told = f"{cell.workload} {cell.setting.describe(names)}" if cell else ""
        return told + (f" ({failed} failed)" if failed else "")

    with click.progressbar(cells, label="measuring", item_show_func=show, show_pos=True, width=24, file=sys.stderr) as bar:
        for cell in bar:
            measured = measure(cell, line, kind, asked.secs)
            failed += measured.failed is not None
            kept.add(measured)


def report(kept: Kept, out: Path) -> int:
    """Write it, and print the table. Returns 1 if something failed."""
    from benches.sweep_report import write_report

    started = time.monotonic()
    files = write_report(kept, out)
    click.echo((out / "table.txt").read_text())
    click.echo(f"{', '.join(path.name for path in files)} are in {out} ({time.monotonic() - started:.0f} s).", err=True)
    return int(any(measured.failed for measured in kept.measured.values()))


def show_time(seconds: float) -> str:
    """For people."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
