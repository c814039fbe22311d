"""The rule that CI skips nothing, on a test session of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = {
    "mark": "@pytest.mark.skip(reason='the reason')\ndef test() -> None: ...",
    "call": "def test() -> None:\n    pytest.skip('the reason')",
    "fixture": "@pytest.fixture\ndef missing() -> None:\n    pytest.skip('the reason')\n\ndef test(missing: None) -> None: ...",
    "module": "pytest.skip('the reason', allow_module_level=True)",
}
EXPECTED_FAILURE = "@pytest.mark.xfail(reason='the reason')\ndef test() -> None:\n    raise ValueError"


def run_pytest(folder: Path, source: str, ci: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text())
    (folder / "test_it.py").write_text(f"import pytest\n\n{source}\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    return subprocess.run(command, cwd=folder, env={**os.environ, "CI": ci}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("source", SKIPS.values(), ids=SKIPS)
def test_a_skip_fails_in_ci(tmp_path: Path, source: str) -> None:
    result = run_pytest(tmp_path, source, ci="true")
    assert result.returncode in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
    assert "CI must run everything, but this was skipped. Skipped: the reason" in result.stdout


def test_a_skip_is_a_skip_elsewhere(tmp_path: Path) -> None:
    result = run_pytest(tmp_path, SKIPS["call"], ci="")
    assert result.returncode == pytest.ExitCode.OK
    assert "1 skipped" in result.stdout


def test_an_expected_failure_passes_in_ci(tmp_path: Path) -> None:
    result = run_pytest(tmp_path, EXPECTED_FAILURE, ci="true")
    assert result.returncode == pytest.ExitCode.OK
    assert "1 xfailed" in result.stdout
