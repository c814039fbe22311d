"""What the benchmarks rest on: how their results are told and compared, the floor program, and the bare ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benches import bare, loopback, results, sharing, streams
from benches.floor import compile_floor
from benches.results import Result, note_figures, note_work, of_values, read, table
from benches.rounds import BOTH, Measured

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root")
SCRIPT = Path(results.__file__)
KEY = ("core: seal", "time")
MEASURED = Result(2e-6, 1e-6, 3e-6)


def benchmark(name: str, middle: float, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """As pytest-benchmark writes it, quartiles half and twice the median."""
    stats = {"median": middle, "q1": middle / 2, "q3": 2 * middle}
    return {"fullname": f"benches/bench_{name}", "stats": stats, "extra_info": extra or {}}


def write(path: Path, *benchmarks: dict[str, Any]) -> str:
    path.write_text(json.dumps({"benchmarks": benchmarks}))
    return str(path)


# --- the ends


@pytest.mark.parametrize(("script", "words"), [(loopback, []), (streams, ["bulk"])])
@pytest.mark.parametrize(("given_size", "size"), [([], "10000"), (["--size", "auto"], "auto")])
def test_the_size_goes_to_both_ends_as_it_was_given(
    script: Any, words: list[str], given_size: list[str], size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [script.__name__, *words, *given_size])
    assert script.parse().size == size


@pytest.mark.parametrize(
    ("script", "words"), [(loopback, []), (loopback, ["--fec", "0", "auto"]), (streams, ["bulk"]), (sharing, ["streams"])]
)
def test_what_was_asked_for_is_written_with_the_figures(
    script: Any, words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", [script.__name__, *words, "--repeat", "2", "--json", str(tmp_path / "figures")])
    monkeypatch.setattr(script, "enter_namespace", lambda: None, raising=False)
    monkeypatch.setattr(script, "raise_limit", lambda _: None, raising=False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(script, "measure", lambda *_: Measured({BOTH: 1.5, "ms": 3.0}, {}))
    script.main()
    told = json.loads((tmp_path / "figures").read_text())
    assert told["asked"]["repeat"] == 2
    assert {name: middle for name, middle in told["medians"].items() if name.startswith("ms")} == (
        {"ms, auto to 0": 1.0} if "--fec" in words else {"ms": 3.0}
    )
    assert all(each["figures"]["ms"] == 3.0 for each in told["rounds"])


# --- results


@given(st.lists(st.floats(0.001, 1_000), min_size=1, max_size=20))
def test_a_median_lies_between_its_quartiles(values: list[float]) -> None:
    found = of_values(values)
    assert min(values) <= found.low <= found.middle <= found.high <= max(values)
    assert found.middle == median(values)


@given(st.lists(st.floats(0.001, 1_000), min_size=1, max_size=20), st.floats(0.5, 2))
def test_a_run_does_not_differ_from_itself_and_differing_is_mutual(values: list[float], factor: float) -> None:
    found, other = of_values(values), of_values([factor * value for value in values])
    assert not found.differs(found)
    assert found.differs(other) is other.differs(found)


@pytest.mark.parametrize(("middle", "differs"), [(1.0, True), (2.9, True), (3.0, False), (4.0, False), (5.0, False), (5.1, True)])
def test_what_differs_lies_outside_of_both_spreads(middle: float, differs: bool) -> None:
    assert Result(4.0, 3.0, 5.0).differs(Result(middle, middle, middle)) is differs


def test_a_time_has_the_work_of_a_round_per_second() -> None:
    assert Result(2.0, 1.0, 4.0).per_second(8.0) == Result(4.0, 2.0, 8.0)


def test_what_benchmarks_noted_is_found_in_their_file(tmp_path: Path) -> None:
    work: dict[str, Any] = {}
    figures: dict[str, Any] = {}
    note_work(work, MB=3.0)
    note_figures(figures, [{"ratio": 2.0}, {"ratio": 1.0}, {"ratio": 4.0}])
    path = write(
        tmp_path / "run.json",
        benchmark("core.py::test_seal[64-bytes]", 0.5),
        benchmark("fec.py::test_encode", 0.1, work),
        benchmark("loopback.py::test_bulk", 9.0, figures),
    )
    assert read(path) == {
        ("core: seal[64-bytes]", "time"): Result(0.5, 0.25, 1.0),
        ("fec: encode", "time"): Result(0.1, 0.05, 0.2),
        ("fec: encode", "MB/s"): Result(3 / 0.1, 3 / 0.2, 3 / 0.05),
        ("loopback: bulk", "ratio"): Result(2.0, 1.5, 3.0),
    }


def test_a_table_has_a_line_for_each_result() -> None:
    head, *lines = table({KEY: MEASURED, ("fec: encode", "MB/s"): Result(12_345.0, 12_345.0, 12_345.0)})
    assert head.split() == ["median", "spread"]
    assert [line.split() for line in lines] == [
        ["core:", "seal,", "time", "2", "µs", "100.0", "%"],
        ["fec:", "encode,", "MB/s", "12345", "0.0", "%"],
    ]


@pytest.mark.parametrize(("kept", "end"), [(4e-6, ["0.500", "*"]), (2e-6, ["1.000"]), (2.5e-6, ["0.800"]), (0.0, ["-", "*"])])
def test_beside_a_kept_run_there_is_the_ratio_of_medians(kept: float, end: list[str]) -> None:
    _, line = table({KEY: MEASURED}, {KEY: Result(kept, kept, kept)})
    assert line.split("%")[-1].split() == end


def test_what_only_one_run_has_is_told_apart() -> None:
    lines = table({KEY: MEASURED, ("a", "time"): MEASURED}, {KEY: MEASURED, ("b", "time"): MEASURED})
    assert [line.split()[0] for line in lines[2:]] == ["only", "a,", "only", "b,"]


def test_the_script_compares_two_files(tmp_path: Path) -> None:
    now = write(tmp_path / "now.json", benchmark("core.py::test_seal", 0.003))
    kept = write(tmp_path / "kept.json", benchmark("core.py::test_seal", 0.002))
    done = subprocess.run([sys.executable, SCRIPT, now, kept], capture_output=True, text=True, check=True)
    told = " ".join(done.stdout.splitlines()[1].split())
    assert told == "core: seal, time 3 ms 150.0 % 2 ms 150.0 % 1.500"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"benchmarks": [{}]}'])
def test_the_script_refuses_what_is_no_run(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    done = subprocess.run([sys.executable, SCRIPT, tmp_path / "run.json"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("results: ")
    assert "Traceback" not in done.stderr


# --- the floor


@pytest.fixture(scope="module")
def floor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It compiles, and without a warning, as those are errors."""
    program = tmp_path_factory.mktemp("floor") / "floor"
    compile_floor(program)
    return program


@needs_root
@pytest.mark.netns
@pytest.mark.parametrize(("payload", "reply"), [(10_000, 10_000), (1, 0), (1_000_000, 1), (1, 1_000_000)])
def test_the_floor_carries_what_it_says(floor: Path, payload: int, reply: int) -> None:
    command = [str(floor), "--payload", str(payload), "--reply", str(reply), "--conns", "16", "--secs", "0.3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    told = json.loads(done.stdout)
    assert (told["payload"], told["reply"], told["conns"], told["failed"]) == (payload, reply, 16, 0)
    assert 0.3 <= told["secs"] < 5
    assert told["conns_per_s"] * (payload + reply) / 1e6 == pytest.approx(told["MB_per_s"], rel=0.01)
    assert told["cpu_s_per_GB"] * (payload + reply) / 1e3 == pytest.approx(told["cpu_us_per_conn"], rel=0.01)
    assert 0 < told["cpu_us_per_conn"] * 1e-6 * told["conns_per_s"] < (os.cpu_count() or 1)


@pytest.mark.parametrize(
    "words", [["--conns", "0"], ["--payload", "many"], ["--secs", "nan"], ["--reply", "-1"], ["--what"], ["more"], ["--secs", ""]]
)
def test_the_floor_refuses_what_it_does_not_understand(floor: Path, words: list[str]) -> None:
    done = subprocess.run([floor, *words], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert done.stderr


# --- the bare ends


@needs_root
@pytest.mark.netns
@pytest.mark.parametrize("size", [1, 10_000])
def test_the_bare_ends_carry_a_payload_each_way_on_each_connection(size: int) -> None:
    command = [sys.executable, bare.__file__, "--size", str(size), "--conns", "4", "--secs", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    told = json.loads(done.stdout)
    assert told["MB_per_s"] == pytest.approx(told["conns_per_s"] * 2 * size / 1e6, rel=0.1)
    assert 0 < told["cpu_s_per_GB"] * told["MB_per_s"] / 1e3 < (os.cpu_count() or 1)
