"""Both ends as processes on loopback, beside the least that one connection per payload takes. Needs root, Linux, a C compiler.

Purpose: to see what the tunnel costs, sockets and kernel included. Metric: CPU seconds of both ends per GB, and their ratio to
those of the floor program, which runs in turns with them: the ratio survives a machine that is slower today. loopback.py, which
does the measuring, has more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches.floor import floor_command
from benches.results import note_figures

SCRIPT = Path(__file__).with_name("loopback.py")
REPEATS = 3
SECONDS, FLOOR_SECONDS = 3, 1
ECHOES = 1_000
TOLD = (
    "MB/s up",
    "MB/s down",
    "connections per second",
    "floor, connections per second",
    "CPU s per GB, both ends",
    "floor, CPU s per GB, both ends",
    "ratio of CPU s per GB to the floor's",
    "µs direct, p50",
    "µs tunnel, p50",
    "µs more, p50",
    "µs direct, p99",
    "µs tunnel, p99",
    "µs more, p99",
)

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root")]


def measure(path: Path, *options: str) -> list[dict[str, float]]:
    """The figures of each repeat that are TOLD and not zero throughout."""
    command = [sys.executable, str(SCRIPT), *options, "--repeat", str(REPEATS), "--json", str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rounds = [each["figures"] for each in json.loads(path.read_text())["rounds"]]
    names = [name for name in TOLD if any(each.get(name) for each in rounds)]
    return [{name: each[name] for name in names} for each in rounds]


@pytest.mark.parametrize(("direction", "size"), [("both", 10_000), ("up", 10_000), ("both", 65_536)])
def test_bulk(benchmark: BenchmarkFixture, tmp_path: Path, direction: str, size: int) -> None:
    floor = floor_command(size, size if direction == "both" else 0, FLOOR_SECONDS)
    options = ["--direction", direction, "--size", str(size), "--secs", str(SECONDS), "--floor", floor]
    rounds = benchmark.pedantic(measure, (tmp_path / "rounds.json", *options), rounds=1)  # type: ignore[no-untyped-call]
    note_figures(benchmark.extra_info, rounds)


def test_echo(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Echoes of a few bytes, in turns directly and through the tunnel."""
    options = ["--echo", str(ECHOES)]
    rounds = benchmark.pedantic(measure, (tmp_path / "rounds.json", *options), rounds=1)  # type: ignore[no-untyped-call]
    note_figures(benchmark.extra_info, rounds)
