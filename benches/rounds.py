"""Rounds of a benchmark, in turns with a floor program where one is asked for, and what is told of them: tables and JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median

from benches.namespace import fail

STEP_LIMIT = 30  # seconds that a program may take beyond what was asked for
BOTH = "CPU s per GB, both ends"


@dataclass
class Measured:
    """Figures by name, and what each second was like."""

    figures: dict[str, float]
    seconds: dict[str, list[float]]


def run(
    asked: argparse.Namespace,
    measures: Sequence[Callable[[], Measured]],
    limit: int,
    floor: str | None = None,
    settings: Sequence[str] = (),
) -> None:
    """Take turns as `take_turns` has it, show the figures, and write them to `asked.json` if that is set. Measures of more than
    one of `settings` are compared."""
    machine = describe_machine()
    print(machine)
    rounds, floors = take_turns(measures, asked.repeat, limit, floor)
    medians = compare(settings, rounds) if len(settings) > 1 else summarize(rounds, floors)
    if asked.json:
        told = {"machine": machine, "asked": vars(asked), "rounds": rounds, "medians": medians}
        Path(asked.json).write_text(json.dumps(told, indent=1, default=asdict) + "\n")


def take_turns(
    measures: Sequence[Callable[[], Measured]], repeat: int, limit: int, floor: str | None
) -> tuple[list[Measured], list[dict[str, float]]]:
    """What each has measured in turn, `repeat` times, and the floor before each repeat and after the last. One measurement
    takes `limit` seconds at most, or the program leaves."""
    signal.signal(signal.SIGALRM, lambda *_: fail("took too long"))
    rounds, floors = [], []
    for _ in range(repeat):
        if floor:
            floors.append(_run_floor(floor))
        for measure in measures:
            signal.alarm(limit)
            rounds.append(measure())
            signal.alarm(0)
    if floor:
        floors.append(_run_floor(floor))
    return rounds, floors


def _run_floor(command: str) -> dict[str, float]:
    """The figures that the program prints."""
    try:
        done = subprocess.run(shlex.split(command), stdout=subprocess.PIPE, timeout=STEP_LIMIT, check=True)
        printed = json.loads(done.stdout)
        return {BOTH: float(printed["cpu_s_per_GB"]), "connections per second": float(printed["conns_per_s"])}
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        fail(f"--floor: {error!r}")


def describe_machine() -> str:
    """Name, processors, system and load, on one line."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    model = found[1] if found else platform.machine()
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{platform.node()}: {os.cpu_count()} × {model}, {system}, load {os.getloadavg()[0]:.1f}"


def summarize(rounds: list[Measured], floors: list[dict[str, float]]) -> dict[str, float]:
    """Show all figures and their medians; with floors the ratio to those before and after each round too. Returns the medians."""
    if floors:
        for number, measured in enumerate(rounds):
            floor = {name: mean(each[name] for each in floors[number : number + 2]) for name in floors[0]}
            measured.figures |= {f"floor, {name}": value for name, value in floor.items()}
            measured.figures["ratio of CPU s per GB to the floor's"] = measured.figures[BOTH] / floor[BOTH]
    medians = {name: median(measured.figures[name] for measured in rounds) for name in rounds[0].figures}
    _show(rounds, medians)
    return medians


def compare(settings: Sequence[str], rounds: list[Measured]) -> dict[str, float]:
    """Show the rounds of each setting of --fec, which were taken in turn, and how the others compare with the first one:
    the medians of the ratios, which are returned."""
    by_setting = {setting: rounds[at :: len(settings)] for at, setting in enumerate(settings)}
    for setting, its_rounds in by_setting.items():
        print(f"--fec {setting}")
        summarize(its_rounds, [])
    ratios = {}
    for setting in settings[1:]:
        for name in rounds[0].figures:
            pairs = zip(by_setting[settings[0]], by_setting[setting], strict=True)
            shares = [other.figures[name] / first.figures[name] for first, other in pairs if first.figures[name]]
            if shares:
                ratios[f"{name}, {setting} to {settings[0]}"] = median(shares)
    for name, ratio in ratios.items():
        print(f"{name:60}{ratio:10.3f}")
    return ratios


def _show(rounds: list[Measured], medians: dict[str, float]) -> None:
    print(f"{'':38}" + "".join(f"{number:>10}" for number in range(1, len(rounds) + 1)) + f"{'median':>10}")
    for name, middle in medians.items():
        row = [*(measured.figures[name] for measured in rounds), middle]
        print(f"{name:38}" + "".join(f"{value:10.2f}" if value < 1_000 else f"{value:10.0f}" for value in row))
    for number, measured in enumerate(rounds, 1):
        for name, values in measured.seconds.items():
            print(f"{name}, each second of {number}: " + " ".join(f"{value:.0f}" for value in values))
