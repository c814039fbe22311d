"""Keystrokes and bulk through both ends across emulated lines. Needs root and Linux.

Purpose: to see whether a change helps or hurts where the tunnel is used. Metrics: those that a sweep has (sweep_load.py). Every
repeat has ends and a line of its own; the chances of the line are the same in every run.
"""

from __future__ import annotations

import os

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches.line import PRESETS, choose_kind
from benches.results import note_figures
from benches.sweep_cells import Cell, Setting
from benches.sweep_load import measure

REPEATS = 3
SECONDS = 3.0

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root")]


@pytest.mark.parametrize("workload", ["echo", "down"])
@pytest.mark.parametrize("name", ["wan", "lossy", "mobile"])
def test_line(benchmark: BenchmarkFixture, name: str, workload: str) -> None:
    line = PRESETS[name]

    def repeat() -> list[dict[str, float]]:
        cells = [Cell(Setting(), workload, number) for number in range(1, REPEATS + 1)]
        rounds = [measure(cell, line, choose_kind(line), SECONDS) for cell in cells]
        assert not [each.failed for each in rounds if each.failed]
        return [each.figures for each in rounds]

    note_figures(benchmark.extra_info, benchmark.pedantic(repeat, rounds=1))  # type: ignore[no-untyped-call]
