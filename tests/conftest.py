"""Profiles of the property tests, constants that only C has, and the rule that CI skips nothing."""

import os
from collections.abc import Generator
from importlib import import_module
from pathlib import Path
from runpy import run_path

import pytest
from hypothesis import HealthCheck, settings

import tcsplitter

settings.register_profile("fast", derandomize=True, deadline=None, max_examples=100)
settings.register_profile(
    "deep", deadline=None, max_examples=10_000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("TCSPLITTER_HYPOTHESIS", "fast"))

# Constants to which a .pxd gives a C type are no names of the compiled module any more: tests find those of its source.
for _types in Path(tcsplitter.__file__).parent.glob("*.pxd"):
    _source = _types.with_suffix(".py")
    for _name, _value in run_path(str(_source)).items() if _source.exists() else ():
        _module = import_module(f"tcsplitter.{_source.stem}")
        if _name.isupper() and not hasattr(_module, _name):
            setattr(_module, _name, _value)

IN_CI = os.environ.get("CI") == "true"


def _fail_a_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        path, line, reason = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, str(report.longrepr))
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: CI must run everything, but this was skipped. {reason}"


# Outermost, so that the reports of expected failures, which count as skipped too, are marked as such by then.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_a_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_a_skip(report)
    return report
