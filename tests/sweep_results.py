"""Results of a sweep that nobody has measured, for its tests."""

from __future__ import annotations

from pathlib import Path

from benches.sweep_cells import WORKLOADS, Cell, Kept, Measured, Setting, all_cells, all_settings
from benches.sweep_rows import Row, Spread

CONDITIONS = {
    "settings": {"up": {"delay_ms": 20.0}, "down": {"delay_ms": 20.0}},
    "kind": "emulator",
    "secs": 2.0,
    "line": "20 ms <fast>",
    "machine": "a & b",
}
GRID = {"tick": ["0", "5"], "tock": ["auto"], "buffer": ["0:0", "20:0", "40:8"]}


def cost(number: float) -> dict[str, float]:
    return {
        "wire bytes per byte": 1 + number,
        "connections per MB": 100.0,
        "connections per second": 10.0,
        "CPU percent, both ends": 9.0,
    }


def percentiles(name: str, first: float) -> dict[str, float]:
    return {f"{name} p50 ms": first, f"{name} p90 ms": 2 * first, f"{name} p99 ms": 3 * first, f"{name} worst ms": 4 * first}


def figures_of(workload: str, size: float) -> tuple[dict[str, float], dict[str, list[float]]]:
    """As if measured: the larger the size, the worse."""
    if workload == "echo":
        return percentiles("echo", size) | {"echoes missing": 0.0} | cost(0.1), {"echo ms": [size, 2 * size, 3 * size]}
    if workload == "stream":
        stalls = {"stalls percent": 1.0, "time stalled percent": 2.0}
        samples = {"gap ms": [40.0, 40.0 + size, 40.0], "delay ms": [size] * 4}
        return percentiles("off the beat", size / 10) | percentiles("delay", size) | stalls | cost(0.1), samples
    return {"Mbit/s": 1000 / size} | cost(size / 1000), {}


def measured(setting: Setting, workload: str, size: float, repeat: int = 1, failed: str | None = None) -> Measured:
    figures, samples = ({}, {}) if failed else figures_of(workload, size)
    return Measured(Cell(setting, workload, repeat), figures, samples, failed)


def fill(path: Path, repeat: int = 1) -> Kept:
    """A grid, of which the first settings are the best."""
    kept = Kept(path)
    kept.begin(CONDITIONS)
    settings = all_settings(GRID)
    for cell in all_cells(settings, WORKLOADS, repeat):
        kept.add(measured(cell.setting, cell.workload, 50 + 20 * settings.index(cell.setting) + cell.repeat, cell.repeat))
    return kept


def row(setting: Setting, **sizes: float) -> Row:
    made = Row(setting)
    for workload, size in sizes.items():
        figures, samples = figures_of(workload, size)
        made.figures |= {(workload, name): Spread(value, value, value) for name, value in figures.items()}
        made.samples |= {(workload, name): values for name, values in samples.items()}
    return made
