"""The settings of a line: how they are written, what cannot be, and what netem and the emulator are told of them."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benches.line import PRESETS, LineError, LineSettings, Way, build_emulator, netem_can, netem_commands, parse_line

LIMIT = 10.0


@given(
    delay=st.floats(0, 1e4),
    jitter=st.floats(0, 1),
    loss=st.floats(0, 100),
    bursts=st.none() | st.tuples(*[st.floats(0, 100)] * 3),
    rate=st.floats(0, 1e4),
    limit=st.integers(0, 1 << 40),
    outages=st.lists(st.floats(0, 1e3), min_size=2, max_size=2, unique=True).map(sorted),
)
def test_what_is_written_is_what_is_read(
    delay: float,
    jitter: float,
    loss: float,
    bursts: tuple[float, float, float] | None,
    rate: float,
    limit: int,
    outages: list[float],
) -> None:
    text = f"delay_ms={delay!r},jitter_ms={delay * jitter!r},down.loss_percent={loss!r},rate_mbit={rate!r}"
    text += f",flow_limit_bytes={limit},outages={outages[0]!r}/{outages[1]!r}"
    if bursts:
        text += ",up.bursts=" + "/".join(map(repr, bursts))
    settings = parse_line(text)
    up = Way(delay_ms=delay, jitter_ms=delay * jitter, bursts=bursts, rate_mbit=rate)
    down = Way(delay_ms=delay, jitter_ms=delay * jitter, loss_percent=loss, rate_mbit=rate)
    assert settings == LineSettings(up, down, flow_limit_bytes=limit, outages=((outages[0], outages[1]),))
    assert settings.describe()


def test_a_preset_can_be_changed() -> None:
    settings = parse_line("mobile,down.rate_mbit=3,reorder=1,flow_end=reset,seed=7")
    assert settings.down.rate_mbit == 3
    assert settings.up.rate_mbit == PRESETS["mobile"].up.rate_mbit
    assert settings.up.reorder
    assert (settings.flow_end, settings.seed) == ("reset", 7)
    assert parse_line("lan") == PRESETS["lan"]


@pytest.mark.parametrize(
    "text",
    [
        "atlantis",
        "wan,wind=1",
        "wan,up=3",
        "wan,seed",
        "wan,seed=x",
        "seed=-1",
        "delay_ms=1,jitter_ms=3",
        "delay_ms=-1",
        "loss_percent=101",
        "bursts=1/2",
        "bursts=-1/2/3",
        "outages=1/2/3",
        "outages=2/1",
        "flow_end=soon",
        "flow_limit_bytes=-1",
        "flow_rate_mbit=1",
        "rate_mbit=1,queue_bytes=10",
        "sideways.delay_ms=1",
        "down.seed=1",
        "delay_ms=nan",
    ],
)
def test_what_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_line(text)


def test_a_queue_that_was_not_set_holds_100_ms() -> None:
    assert Way(rate_mbit=80).queue == 1_000_000
    assert Way(rate_mbit=0.1).queue == 32_000
    assert Way(rate_mbit=80, queue_bytes=5000).queue == 5000


def test_what_netem_can_do() -> None:
    assert netem_can(PRESETS["wan"])
    assert not netem_can(PRESETS["throttled"])
    assert not netem_can(LineSettings(Way(delay_ms=2, jitter_ms=1)))
    assert netem_can(LineSettings(Way(delay_ms=2, jitter_ms=1, reorder=True)))
    assert not netem_can(LineSettings(Way(loss_percent=1, bursts=(1, 2, 3))))
    assert not netem_can(LineSettings(outages=((1, 2),)))
    assert not netem_can(LineSettings(flow_limit_bytes=1))


def test_what_tc_is_told() -> None:
    way = Way(delay_ms=20.5, jitter_ms=2, reorder=True, loss_percent=1.5, rate_mbit=8, queue_bytes=50_000)
    netem, tbf = (" ".join(command) for command in netem_commands(way))
    assert netem == "tc qdisc add dev line root handle 1: netem limit 200000 delay 20.5ms 2ms loss random 1.5%"
    assert tbf == "tc qdisc add dev line parent 1:1 handle 10: tbf rate 8000000bit burst 3028 limit 50000"
    assert "loss gemodel 1% 20% 90%" in " ".join(netem_commands(Way(bursts=(1, 20, 90)))[0])


# --- The emulator as a program


def test_it_compiles_without_warnings() -> None:
    program = build_emulator("-Wall", "-Wextra", "-Wconversion", "-Werror")
    assert build_emulator() == program


def test_a_compiler_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(LineError, match="cannot be compiled.*no-such-compiler"):
        build_emulator("-Wall")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "usage"),
        (["0"], "usage"),
        (["0", "0", "up.delay"], "NAME=NUMBER"),
        (["0", "0", "up.delay="], "not a number"),
        (["0", "0", "up.delay=1x"], "not a number"),
        (["0", "0", "up.wind=1"], "no such setting"),
        (["0", "0", "sideways.delay=1"], "no such setting"),
        (["0", "0", "outage=1"], "START:END"),
        (["0", "0", *["outage=1:2"] * 65], "too many outages"),
    ],
)
def test_it_refuses_what_it_does_not_know(words: list[str], told: str) -> None:
    command = [str(build_emulator()), *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert told in done.stderr
