"""Lines on stderr: their form, and how often they are repeated."""

import logging
from collections.abc import Generator

import pytest

from tcsplitter import log
from tcsplitter.log import REPEAT_AFTER, LimitedLog, setup_logging


@pytest.fixture
def package_logger() -> Generator[logging.Logger, None, None]:
    """The package's logger, put back as it was."""
    logger = logging.getLogger("tcsplitter")
    before = logger.handlers[:], logger.propagate, logger.level
    yield logger
    logger.handlers[:], logger.propagate = before[0], before[1]
    logger.setLevel(before[2])


def test_a_line_names_its_program(package_logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    setup_logging()
    package_logger.getChild("client").info("listening on %s", "127.0.0.1:6000")
    package_logger.getChild("client").debug("details")
    assert capsys.readouterr().err == "tcsplitter client: listening on 127.0.0.1:6000\n"


def test_repeated_lines_are_counted_and_held_back(caplog: pytest.LogCaptureFixture) -> None:
    limited = LimitedLog(logging.getLogger("tcsplitter.test"))
    for now in (100.0, 101.0, 100.0 + REPEAT_AFTER - 0.001):
        limited.log(logging.WARNING, "accept", f"no room at {now}", now)
    limited.log(logging.WARNING, "other", "another line", 102.0)
    limited.log(logging.WARNING, "accept", "no room still", 100.0 + REPEAT_AFTER)
    limited.log(logging.WARNING, "accept", "no room again", 100.0 + 3 * REPEAT_AFTER)
    assert caplog.messages == ["no room at 100.0", "another line", "no room still (2 more held back)", "no room again"]


def test_the_keys_kept_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    limited = LimitedLog(logging.getLogger("tcsplitter.test"))
    for number in range(log._MAX_KEYS + 1):
        limited.log(logging.WARNING, str(number), "line", 100.0)
    assert len(limited._recent) == log._MAX_KEYS
    caplog.clear()
    limited.log(logging.WARNING, "0", "the oldest was forgotten", 101.0)
    limited.log(logging.WARNING, str(log._MAX_KEYS), "the newest was not", 101.0)
    assert caplog.messages == ["the oldest was forgotten"]
