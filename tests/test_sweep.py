"""The sweep of settings: the grid, what is kept and gone on from, and a small one for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweep_results import CONDITIONS, GRID, fill, measured

from benches import sweep, sweep_load
from benches.line import LineError, LineSettings, Way, parse_line
from benches.sweep_cells import OPTIONS, WORKLOADS, Cell, Kept, Measured, Setting, SweepError, all_cells, all_settings, varying
from tcsplitter.errors import ConfigError
from tcsplitter.shared import MAX_UNSENT

ROOT = Path(__file__).parents[1]
# --- The grid


def test_the_grid_is_the_product_of_the_values() -> None:
    settings = all_settings(GRID)
    assert len(settings) == len(set(settings)) == 6
    assert {(each.tick, each.buffer) for each in settings} == {(a, b) for a in GRID["tick"] for b in GRID["buffer"]}
    assert all(each.conns == Setting().conns for each in settings)
    assert varying(settings) == ["tick", "buffer"]
    cells = list(all_cells(settings, WORKLOADS, 3))
    assert len(set(cells)) == len(cells) == 6 * 4 * 3
    assert all(a.repeat <= b.repeat for a, b in pairwise(cells))


def test_the_grid_by_default_ends_within_a_quarter_of_an_hour() -> None:
    asked = sweep.parse([])
    count = len(all_settings({name: getattr(asked, name) for name in OPTIONS})) * len(WORKLOADS) * asked.repeat
    assert count * (asked.secs + sweep._OVERHEAD) < 15 * 60
    assert Setting() in all_settings({name: getattr(asked, name) for name in OPTIONS})


@pytest.mark.parametrize(
    "setting",
    [
        Setting(tick="x"),
        Setting(tock="soon"),
        Setting(buffer="1:2:3"),
        Setting(conns="-1"),
        Setting(frags="0"),
        Setting(fec="300:1"),
        Setting(reuse="1.5"),
    ],
)
def test_what_the_ends_would_not_take_is_refused(setting: Setting) -> None:
    with pytest.raises(ConfigError):
        setting.check()


def test_the_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    for words, told in [
        (["--tick", "fast"], "--tick"),
        (["--line", "atlantis"], "--line: no line is named 'atlantis'"),
        (["--report-only"], "nothing was measured"),
    ]:
        assert sweep.main([*words, *out]) == 1
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        sweep.parse(["--secs", "0"])


def test_without_matplotlib_it_says_so_first(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sweep, "find_spec", lambda _name: None)
    assert sweep.main([]) == 1
    assert "pip install 'matplotlib" in capsys.readouterr().err


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert sweep.main(["--out", str(tmp_path)]) == 1
    assert "needs root" in capsys.readouterr().err


# --- What is kept


@given(
    tick=st.sampled_from(["0", "5"]),
    repeat=st.integers(1, 9),
    figures=st.dictionaries(st.text(), st.floats(allow_nan=False)),
    samples=st.dictionaries(st.text(), st.lists(st.floats(allow_nan=False))),
    failed=st.none() | st.text(),
)
def test_a_line_is_what_was_measured(
    tick: str, repeat: int, figures: dict[str, float], samples: dict[str, list[float]], failed: str | None
) -> None:
    one = Measured(Cell(Setting(tick=tick), "echo", repeat), figures, samples, failed)
    line = one.as_json()
    assert "\n" not in line
    assert Measured.from_json(line) == one


def test_it_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    cells = list(all_cells(all_settings(GRID), WORKLOADS, 2))
    path = tmp_path / "sub" / "cells.jsonl"
    for done in range(0, len(cells), 5):
        kept = Kept(path)
        kept.load()
        kept.begin(CONDITIONS | {"machine": f"run {done}"})
        assert kept.missing(cells) == cells[done:]
        for cell in cells[done : done + 5]:
            kept.add(measured(cell.setting, cell.workload, 50, cell.repeat))
    assert list(kept.measured) == cells


def test_a_larger_grid_and_more_repeats_measure_what_is_new(tmp_path: Path) -> None:
    kept = fill(tmp_path / "cells.jsonl")
    again = Kept(kept.path)
    again.load()
    assert again.measured == kept.measured
    larger = all_settings(GRID | {"tick": ["0", "5", "20"]})
    missing = again.missing(list(all_cells(larger, WORKLOADS, 1)))
    assert {cell.setting.tick for cell in missing} == {"20"}
    assert len(missing) == 3 * 4
    assert {cell.repeat for cell in again.missing(list(all_cells(all_settings(GRID), WORKLOADS, 2)))} == {2}


def test_what_failed_is_measured_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "cells.jsonl")
    kept.begin(CONDITIONS)
    cells = list(all_cells([Setting()], ["echo"], 1))
    kept.add(measured(Setting(), "echo", 1, failed="it broke"))
    assert kept.missing(cells) == cells
    kept.add(measured(Setting(), "echo", 1))
    again = Kept(kept.path)
    again.load()
    assert not again.missing(cells)


@pytest.mark.parametrize("size", range(1, 60, 7))
def test_a_last_line_that_was_cut_short_is_dropped(tmp_path: Path, size: int) -> None:
    kept = fill(tmp_path / "cells.jsonl")
    whole = kept.path.read_bytes()
    last = list(kept.measured)[-1]
    kept.path.write_bytes(whole[:-size])
    again = Kept(kept.path)
    again.load()
    assert again.missing(kept.measured) == [last]
    again.begin(CONDITIONS)
    again.add(kept.measured[last])
    assert kept.path.read_bytes() == whole


def test_a_first_line_that_was_cut_short_is_no_line(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    path.write_text('{"form')
    kept = Kept(path)
    kept.load()
    kept.begin(CONDITIONS)
    again = Kept(path)
    again.load()
    assert again.conditions == kept.conditions


@pytest.mark.parametrize("change", [{"secs": 3.0}, {"kind": "netem"}, {"settings": {"up": {}}}, {"line": "30 ms"}])
def test_other_conditions_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = fill(tmp_path / "cells.jsonl").path
    before = path.read_bytes()
    kept = Kept(path)
    kept.load()
    with pytest.raises(SweepError, match=rf"measured with another {next(iter(change))}: .*choose another --out"):
        kept.begin(CONDITIONS | change)
    assert path.read_bytes() == before
    kept.begin(CONDITIONS | {"machine": "another one"})


def test_the_line_is_kept_as_it_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    for text in ["mobile,outages=1/2", "mobile,outages=1/2", "mobile"]:
        kept = Kept(path)
        kept.load()
        if text == "mobile":
            with pytest.raises(SweepError, match="another settings"):
                kept.begin({"settings": asdict(parse_line(text))})
        else:
            kept.begin({"settings": asdict(parse_line(text))})


@pytest.mark.parametrize("text", ["hello\n", "[]\n", '{"format": 99}\n', '{"format": 1}\n{"cell": 3}\n', '{"format": 1}\n{}\n'])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cells.jsonl"
    path.write_text(text)
    with pytest.raises(SweepError, match="is not what a sweep has kept"):
        Kept(path).load()
    assert path.read_text() == text


# --- The run


def run_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None) -> tuple[int, list[Cell]]:
    """A sweep of a small grid whose measurements take no time; the one of this number is interrupted."""
    done: list[Cell] = []

    def measure(cell: Cell, *_: object) -> Measured:
        if len(done) == fail_at:
            raise KeyboardInterrupt
        done.append(cell)
        return measured(cell.setting, cell.workload, 50)

    monkeypatch.setattr(sweep_load, "measure", measure)
    monkeypatch.setattr(sweep, "choose_kind", lambda _line, _kind: "emulator")
    return sweep.main(["--tick", "0", "5", "--tock", "auto", "--buffer", "0:0", "--out", str(tmp_path)]), done


def test_an_interruption_is_told_and_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, first = run_sweep(tmp_path, monkeypatch, fail_at=3)
    assert code == 130
    assert len(first) == 3
    assert "Interrupted; 3 of 8 measurements are kept" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
    code, second = run_sweep(tmp_path, monkeypatch)
    assert code == 0
    assert len(second) == 5
    assert not set(first) & set(second)
    told = capsys.readouterr()
    assert "3 of them kept" in told.err
    assert "ssh:" in told.out
    assert run_sweep(tmp_path, monkeypatch) == (0, [])


def test_another_line_in_the_same_place_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_sweep(tmp_path, monkeypatch)
    assert sweep.main(["--line", "wan", "--out", str(tmp_path)]) == 1
    assert "was measured with another line" in capsys.readouterr().err


def test_a_line_that_cannot_be_is_a_failed_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_line(*_: object) -> None:
        raise LineError("no TUN devices here")

    monkeypatch.setattr(sweep_load, "Line", no_line)
    found = sweep_load.measure(Cell(Setting(), "echo", 1), parse_line("lan"), "emulator", 1.0)
    assert found.failed == "no TUN devices here"


@pytest.mark.netns
@pytest.mark.alone
@pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root")
@pytest.mark.parametrize("workload", WORKLOADS)
def test_each_workload_across_a_real_tunnel(workload: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_load, "WARM_UP", 0.4)
    way = Way(delay_ms=10, rate_mbit=20)
    found = sweep_load.measure(Cell(Setting(), workload, 1), LineSettings(way, way), "emulator", 0.6)
    assert found.failed is None
    figures = found.figures
    assert figures["connections per second"] > 0
    # The near end reads up to MAX_UNSENT ahead of the line: much beside what crosses it in so short a time.
    ahead = MAX_UNSENT / (figures["Mbit/s"] * 0.6e6 / 8) if workload in ("up", "down") else 0
    assert figures["wire bytes per byte"] > 1 - ahead
    if workload == "echo":
        assert len(found.samples["echo ms"]) == 12
        assert 2 * way.delay_ms <= figures["echo p50 ms"] < 2 * way.delay_ms + 20
    elif workload == "stream":
        assert len(found.samples["delay ms"]) == 15
        assert way.delay_ms <= figures["delay p50 ms"] < way.delay_ms + 40
        assert figures["stalls percent"] == 0
    else:
        assert 10 < figures["Mbit/s"] < way.rate_mbit


@pytest.mark.netns
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root")
def test_a_sweep_for_real_that_is_interrupted(tmp_path: Path) -> None:
    out = tmp_path / "out"
    grid = ["--tick", "0", "--tock", "auto", "5", "--buffer", "0:0", "--secs", "1", "--line", "lan", "--out", str(out)]
    command = [sys.executable, str(ROOT / "benches" / "sweep.py"), *grid]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        assert any(line.startswith("measuring") for line in process.stderr)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The same command goes on from there" in said
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "ssh:" in done.stdout
    assert (out / "report.html").stat().st_size > 50_000
    kept = Kept(out / "cells.jsonl")
    kept.load()
    assert len(kept.measured) == 2 * 4
    assert not any(each.failed for each in kept.measured.values())
