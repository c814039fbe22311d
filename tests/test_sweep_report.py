"""What a sweep advises and how it is told: the table, the page and its pictures, from results that are made up."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from math import isnan
from pathlib import Path

import pytest
from sweep_results import CONDITIONS, GRID, fill, measured, row

from benches import sweep
from benches.sweep_advice import USES, choose, make_advice, make_table
from benches.sweep_cells import WORKLOADS, Kept, Setting, all_settings
from benches.sweep_report import make_rows, write_report
from benches.sweep_rows import Row, Spread

# --- What is advised


def test_each_use_gets_the_setting_that_is_best_for_it() -> None:
    default, ssh, bulk, video = Setting(), Setting(tick="1"), Setting(tick="2"), Setting(tick="3")
    rows = [
        row(default, echo=100, up=100, down=100, stream=500),
        row(ssh, echo=50, up=100, down=100, stream=500),
        row(bulk, echo=100, up=50, down=50, stream=500),
        row(video, echo=100, up=100, down=100, stream=250),
    ]
    found = {choice.use.name: choice for choice in choose(rows)}
    assert [found[use.name].row.setting for use in USES] == [ssh, bulk, video]
    assert all(choice.default is rows[0] for choice in found.values())
    advice = make_advice(rows)
    assert "ssh:   --tick 1: 9 of 10 keystrokes are echoed within 100 ms; with the defaults 200 ms." in advice
    assert "bulk:  --tick 2: goodput, the mean of up and down, 20 Mbit/s; with the defaults 10 Mbit/s." in advice


def test_of_those_that_are_as_good_the_cheapest_is_taken() -> None:
    best, near, far = row(Setting(tick="1"), echo=100), row(Setting(tick="2"), echo=108), row(Setting(tick="3"), echo=112)
    costs = zip((best, near, far), (1.5, 1.2, 1.1), strict=True)
    for each, wire in costs:
        each.figures["echo", "wire bytes per byte"] = Spread(wire, wire, wire)
    (choice,) = choose([best, near, far])
    assert choice.row is near
    assert choice.best == 200


def test_the_defaults_are_advised_where_they_are_as_good() -> None:
    best, default = row(Setting(tick="1"), echo=100), row(Setting(), echo=108)
    default.figures["echo", "wire bytes per byte"] = Spread(9, 9, 9)
    assert [choice.row for choice in choose([best, default])] == [default]


def test_a_stream_that_is_steady_but_seconds_late_is_not_advised() -> None:
    steady, lively = row(Setting(tick="1"), stream=100), row(Setting(tick="2"), stream=200)
    steady.figures["stream", "delay p50 ms"] = Spread(900, 900, 900)
    assert [choice.row for choice in choose([steady, lively])] == [lively]


def test_nothing_is_advised_where_nothing_was_measured() -> None:
    assert choose([]) == []
    assert choose([Row(Setting())]) == []
    assert isnan(Row(Setting()).value("echo", "echo p50 ms"))


def test_the_defaults_are_told_as_such() -> None:
    assert "ssh:   the defaults: 9 of 10 keystrokes are echoed within 100 ms. These are the defaults." in make_advice(
        [row(Setting(), echo=50)]
    )


# --- The report


class Page(HTMLParser):
    """What a page refers to, and how its elements nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    files = write_report(fill(tmp_path / "cells.jsonl", repeat=2), tmp_path / "out")
    assert {path.name for path in files} == {
        *("results.json", "table.txt", "report.html"),
        *(f"{name}.png" for name in ("ssh", "bulk", "video", "samples", "tradeoff")),
    }
    text = (tmp_path / "out" / "report.html").read_text()
    page = Page()
    page.feed(text)
    page.close()
    assert not page.open
    assert len(page.sources) == page.tags.count("img") == 5
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"@import|url\(", text)
    assert "20 ms &lt;fast&gt;" in text
    assert "a &amp; b" in text
    assert "--tick 0 --buffer 0:0" in text
    for path in files:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")


def test_results_hold_medians_and_spread(tmp_path: Path) -> None:
    kept = fill(tmp_path / "cells.jsonl", repeat=3)
    write_report(kept, tmp_path)
    told = json.loads((tmp_path / "results.json").read_text())
    assert len(told["settings"]) == 6
    assert told["settings"][0]["figures"]["echo"]["echo p50 ms"] == {"median": 52.0, "least": 51.0, "most": 53.0}
    assert told["choices"]["ssh"]["setting"] == told["settings"][0]["setting"]
    assert told["conditions"]["machine"] == "a & b"


def test_the_table_has_a_line_for_each_setting(tmp_path: Path) -> None:
    rows = make_rows(fill(tmp_path / "cells.jsonl"))
    groups, heads, *lines = make_table(rows).splitlines()
    assert groups.split("─")[0].split() == ["echo,", "ms"]
    assert heads.split()[:5] == ["tick", "buffer", "p50", "p90", "p99"]
    assert [line.split()[:2] for line in lines] == [[tick, buffer] for tick in GRID["tick"] for buffer in GRID["buffer"]]
    assert len({len(line) for line in [heads, *lines]}) == 1
    assert lines[0].split()[2:5] == ["51", "102", "153"]


def test_settings_are_ordered_by_number(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "cells.jsonl")
    for tock in ["20", "auto", "5"]:
        kept.add(measured(Setting(tock=tock), "echo", 50))
    assert [each.setting.tock for each in make_rows(kept)] == ["auto", "5", "20"]


@pytest.mark.parametrize(
    ("workloads", "grid"),
    [
        (["echo"], {"tick": ["0"]}),
        (["up"], {"tick": ["0", "9"]}),
        (["stream"], {"buffer": ["0:0", "9:1"]}),
        (["up", "down"], {"tick": ["0", "9"], "buffer": ["0:0", "9:1"]}),
        (["echo", "stream"], {"conns": ["4", "8"]}),
        (WORKLOADS, {"buffer": ["0:0", "9:1"], "conns": ["4", "8"]}),
    ],
)
def test_there_is_a_report_of_whatever_was_measured(tmp_path: Path, workloads: list[str], grid: dict[str, list[str]]) -> None:
    kept = Kept(tmp_path / "cells.jsonl")
    kept.begin(CONDITIONS)
    *settings, last = all_settings(grid)
    for setting in settings:
        for workload in workloads:
            kept.add(measured(setting, workload, 70))
    kept.add(measured(last, workloads[0], 0, failed="the <data> differs"))
    write_report(kept, tmp_path)
    assert "the <data> differs" in (tmp_path / "table.txt").read_text()
    assert "the &lt;data&gt; differs" in (tmp_path / "report.html").read_text()


def test_a_report_alone_measures_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "cells.jsonl")
    assert sweep.main(["--report-only", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "ssh:   --tick 0 --buffer 0:0" in printed.out
    assert "report.html" in printed.err
