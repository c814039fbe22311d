"""demo.py: for real with little data, and what it says when the tunnel is not what it should be."""

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tcsplitter import demo


def _clock(seconds: float = 10.0) -> Any:
    return demo._Clock(time.monotonic() + seconds)


def test_the_demo_verifies_both_directions_and_prints_its_figures() -> None:
    lines: list[str] = []
    assert demo.run_demo(lines.append, up=3_000_000, down=2_000_000, echoes=20) == 0, lines
    text = "\n".join(lines)
    assert re.search(r"up, 3 MB +[0-9.]+ MB/s +SHA-256 verified", text)
    assert re.search(r"down, 2 MB +[0-9.]+ MB/s +SHA-256 verified", text)
    assert re.search(r"20 echoes of 36 bytes +p50 [0-9.]+ ms, p99 [0-9.]+ ms +direct: p50", text)
    used = re.search(r"connections used +([0-9,]+) +[0-9]+ payloads sent again", text)
    assert used
    # 500 payloads of 10,000 bytes, a connection for each pair of one up and one down at the least.
    assert int(used[1].replace(",", "")) >= 300
    assert re.search(r"All verified in [0-9.]+ s\.$", text)
    assert "\x1b" not in text


def test_nothing_at_all_is_verified_too() -> None:
    lines: list[str] = []
    assert demo.run_demo(lines.append, up=0, down=0, echoes=1) == 0, lines


def test_time_is_bounded() -> None:
    lines: list[str] = []
    started = time.monotonic()
    assert demo.run_demo(lines.append, time_limit=0.05) == 1
    assert time.monotonic() - started < 10
    assert any(line == "FAILED: not done within 0.05 s." for line in lines)


def test_an_end_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    lines: list[str] = []
    assert demo.run_demo(lines.append, up=1, down=1, echoes=1) == 1
    assert "FAILED: the server end did not start." in lines


def test_a_folder_of_the_same_name_is_not_taken_for_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tcsplitter").mkdir()
    (tmp_path / "tcsplitter" / "__init__.py").write_text("raise ImportError('the source, which was not built')")
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    assert demo.run_demo(lines.append, up=1, down=1, echoes=1) == 0, lines


def test_a_download_that_differs_is_refused() -> None:
    data = os.urandom(100_000)
    with demo._Service(data, _clock()) as service:
        assert demo._download(service.address, data, _clock()) > 0
        for other in (data[:-1], data + b"x", data[:-1] + bytes([data[-1] ^ 1])):
            with pytest.raises(demo._DemoError, match="download"):
                demo._download(service.address, other, _clock())


def test_an_upload_is_measured() -> None:
    with demo._Service(b"", _clock()) as service:
        assert demo._upload(service.address, 100_000, _clock()) > 0


@pytest.mark.parametrize(("answer", "sentence"), [(b"x" * 40, "upload arrived with another SHA-256"), (b"short", "5 bytes")])
def test_an_upload_without_the_right_answer_is_refused(monkeypatch: pytest.MonkeyPatch, answer: bytes, sentence: str) -> None:
    with demo._Service(answer, _clock()) as service:
        monkeypatch.setattr(demo, "_SINK", demo._SOURCE)
        with pytest.raises(demo._DemoError, match=sentence):
            demo._upload(service.address, 0, _clock())


def test_an_echo_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with demo._Service(b"x" * 1000, _clock()) as service:
        assert len(demo._echo(service.address, 3, _clock())) == 3
        monkeypatch.setattr(demo, "_ECHO", demo._SOURCE)
        with pytest.raises(demo._DemoError, match="changed"):
            demo._echo(service.address, 1, _clock())
