"""What a sweep has found: medians by setting, which setting to take for what, and the files that tell it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from benches import sweep_plots
from benches.sweep_advice import Choice, choose, make_advice, make_table
from benches.sweep_cells import WORKLOADS, Kept, Measured, Setting, SweepError
from benches.sweep_page import make_page
from benches.sweep_rows import Row, Spread

# --- Rows


def make_rows(kept: Kept) -> list[Row]:
    """One for each setting, in the order of the values of its options."""
    by_setting: dict[Setting, list[Measured]] = {}
    for measured in kept.measured.values():
        by_setting.setdefault(measured.cell.setting, []).append(measured)
    return [_make_row(setting, by_setting[setting]) for setting in sorted(by_setting, key=_order)]


def _make_row(setting: Setting, measured: Sequence[Measured]) -> Row:
    row = Row(setting)
    for workload in WORKLOADS:
        own = [each for each in measured if each.cell.workload == workload]
        good = [each for each in own if not each.failed]
        row.failed += [f"{workload}: {each.failed}" for each in own if each.failed]
        for name in good[0].figures if good else ():
            values = [each.figures[name] for each in good]
            row.figures[workload, name] = Spread(median(values), min(values), max(values))
        for name in good[0].samples if good else ():
            row.samples[workload, name] = [value for each in good for value in each.samples[name]]
    return row


def _order(setting: Setting) -> list[tuple[float, ...]]:
    """Numbers by their size; words such as auto come first."""
    return [
        tuple(float(part) if re.fullmatch(r"[0-9.]+", part) else -1.0 for part in str(value).split(":"))
        for value in asdict(setting).values()
    ]


# --- Files


def write_report(kept: Kept, out: Path) -> list[Path]:
    """Write results.json, table.txt, the PNGs and report.html; returns their paths. SweepError if nothing is kept."""
    rows = make_rows(kept)
    if not rows:
        raise SweepError("nothing was measured yet")
    choices = choose(rows)
    up, down = (kept.conditions["settings"][way]["delay_ms"] for way in ("up", "down"))
    pictures = sweep_plots.draw_all(rows, {choice.use.name: choice.row for choice in choices}, up + down, down)
    conditions = describe_conditions(kept)
    files = {
        "results.json": _make_json(kept, rows, choices).encode(),
        "table.txt": f"{conditions}\n\n{make_table(rows)}\n{make_advice(rows)}".encode(),
        "report.html": make_page(conditions, rows, choices, pictures).encode(),
        **{f"{name}.png": png for name, png in pictures.items()},
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (out / name).write_bytes(content)
    return [out / name for name in files]


def describe_conditions(kept: Kept) -> str:
    """The line, for how long and on which machine it was measured."""
    asked = kept.conditions
    repeats = max((cell.repeat for cell in kept.measured), default=0)
    often = f"{repeats} times" if repeats > 1 else "once"
    return f"Line: {asked['line']} ({asked['kind']}). Each workload {asked['secs']:g} s, {often}.\n{asked['machine']}"


def _make_json(kept: Kept, rows: Sequence[Row], choices: Sequence[Choice]) -> str:
    told = {
        "conditions": kept.conditions,
        "settings": [
            {
                "setting": asdict(row.setting),
                "failed": row.failed,
                "figures": {
                    workload: {name: asdict(spread) for (own, name), spread in row.figures.items() if own == workload}
                    for workload in WORKLOADS
                },
            }
            for row in rows
        ],
        "choices": {
            choice.use.name: {
                "setting": asdict(choice.row.setting),
                "measure": choice.use.told,
                "unit": choice.use.unit,
                "value": abs(choice.use.measure(choice.row)),
                "best": choice.best,
            }
            for choice in choices
        },
    }
    return json.dumps(told, indent=1) + "\n"
