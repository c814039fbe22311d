"""What a line between two machines is like: its settings, those that have names, and how they are written on a command line."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from math import inf
from typing import Any, Literal

MTU = 1500


@dataclass(frozen=True)
class Way:
    """One direction of a line; ValueError if it cannot be. Sizes are those of IP packets."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    """Uniform: at most so much less or more than the delay."""
    reorder: bool = False
    """Jitter may change the order of packets."""
    loss_percent: float = 0.0
    bursts: tuple[float, float, float] | None = None
    """Loss in bursts (Gilbert and Elliott), percent: that a burst begins with a packet, that it ends, what is lost meanwhile."""
    rate_mbit: float = 0.0
    """0: no limit and no queue."""
    queue_bytes: int = 0
    """What waits at most; 0: as much as takes 100 ms, at least 32 kB. Packets beyond are dropped."""
    flow_rate_mbit: float = 0.0
    """A policer for each flow: what is beyond this rate is dropped. 0: none."""
    flow_burst_bytes: int = 0
    """What a flow may send beyond that rate, until it has saved it up again."""

    def __post_init__(self) -> None:
        numbers = [value for value in asdict(self).values() if isinstance(value, (int, float))]
        if not all(0 <= number < inf for number in numbers):
            raise ValueError("a setting of a line is a number, and not below 0")
        if self.jitter_ms > self.delay_ms:
            raise ValueError("more jitter than delay")
        if max(self.loss_percent, *(self.bursts or (0,))) > 100:
            raise ValueError("more than 100 percent")
        if self.bursts and min(self.bursts) < 0:
            raise ValueError("less than 0 percent")
        if self.flow_rate_mbit and self.flow_burst_bytes < MTU:
            raise ValueError("a policer that lets no packet pass: flow_burst_bytes is too small")
        if self.queue_bytes and self.queue_bytes < MTU:
            raise ValueError("a queue that holds no packet")

    @property
    def bytes_per_second(self) -> float:
        """The rate; 0: no limit."""
        return self.rate_mbit * 125_000

    @property
    def queue(self) -> float:
        """Bytes that wait at most."""
        return self.queue_bytes or max(32_000, self.bytes_per_second / 10)


@dataclass(frozen=True)
class LineSettings:
    """A line; ValueError if it cannot be. Up is from the client's namespace to the server's."""

    up: Way = field(default_factory=Way)
    down: Way = field(default_factory=Way)
    flow_limit_bytes: int = 0
    """After so much, both ways together, a TCP flow is over; 0: never."""
    flow_end: Literal["freeze", "reset"] = "freeze"
    """Freeze: none of its packets passes any more. Reset: both ends get an RST besides."""
    outages: tuple[tuple[float, float], ...] = ()
    """From when to when, in seconds on the outage clock, nothing passes."""
    seed: int = 1
    """Of all chances."""

    def __post_init__(self) -> None:
        if self.flow_limit_bytes < 0 or not 0 <= self.seed < 1 << 50:
            raise ValueError("a negative or too large flow_limit_bytes or seed")
        if self.flow_end not in ("freeze", "reset"):
            raise ValueError("flow_end is freeze or reset")
        if any(not 0 <= start < end for start, end in self.outages):
            raise ValueError("an outage that ends before it starts")

    def describe(self) -> str:
        """On one line, what is not as it is by default."""
        up, down = _describe(self.up), _describe(self.down)
        told = [up] if up == down else [f"up: {up}", f"down: {down}"]
        if self.flow_limit_bytes:
            told.append(f"TCP flows {self.flow_end} after {self.flow_limit_bytes} bytes")
        told += [f"outage {start:g} to {end:g} s" for start, end in self.outages]
        return "; ".join(told)


def _describe(way: Way) -> str:
    told = [f"{way.delay_ms:g} ms" + (f" ± {way.jitter_ms:g}" + (", reordering" if way.reorder else "") if way.jitter_ms else "")]
    if way.loss_percent:
        told.append(f"{way.loss_percent:g} % loss")
    if way.bursts:
        told.append("bursts of loss {:g}/{:g}/{:g} %".format(*way.bursts))
    if way.rate_mbit:
        told.append(f"{way.rate_mbit:g} Mbit/s, queue {way.queue / 1000:.0f} kB")
    if way.flow_rate_mbit:
        told.append(f"each flow {way.flow_rate_mbit:g} Mbit/s after {way.flow_burst_bytes} bytes")
    return ", ".join(told)


def _symmetric(way: Way) -> LineSettings:
    return LineSettings(way, way)


_WAN = Way(delay_ms=20, rate_mbit=50)

PRESETS = {
    "lan": _symmetric(Way(delay_ms=0.25)),
    "wan": _symmetric(_WAN),
    "far": _symmetric(Way(delay_ms=90, jitter_ms=2, loss_percent=0.1, rate_mbit=50)),
    "lossy": _symmetric(Way(delay_ms=25, jitter_ms=3, loss_percent=2, rate_mbit=30)),
    "mobile": LineSettings(
        Way(delay_ms=35, jitter_ms=15, bursts=(0.3, 20, 60), rate_mbit=8, queue_bytes=250_000),
        Way(delay_ms=35, jitter_ms=15, bursts=(0.3, 20, 60), rate_mbit=25, queue_bytes=750_000),
    ),
    "throttled": _symmetric(replace(_WAN, flow_rate_mbit=0.5, flow_burst_bytes=60_000)),
    "frozen": LineSettings(_WAN, _WAN, flow_limit_bytes=300_000),
    "reset": LineSettings(_WAN, _WAN, flow_limit_bytes=300_000, flow_end="reset"),
}
"""Lines by name: two that are clean, two that lose at random, one that loses in bursts, and three that are hard on long flows."""


def parse_line(text: str) -> LineSettings:
    """`[PRESET][,NAME=VALUE]...`, as in `wan,loss_percent=1,up.rate_mbit=5`: NAME is a setting of the line, of both ways, or of
    one. Numbers within a value: `bursts=0.3/20/60`, `outages=2/4/8/9`. ValueError if it is not that."""
    words = text.split(",")
    settings = LineSettings()
    if "=" not in words[0]:
        if words[0] not in PRESETS:
            raise ValueError(f"no line is named {words[0]!r}; there are: {', '.join(PRESETS)}")
        settings = PRESETS[words.pop(0)]
    ways = {"up": asdict(settings.up), "down": asdict(settings.down)}
    rest: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        place, dot, short = name.rpartition(".")
        if not sign:
            raise ValueError(f"{word!r} is not NAME=VALUE")
        if place in ways or not dot and name in ways["up"]:
            for way in [place] if dot else ["up", "down"]:
                ways[way][short] = _parse_value(Way, short, value)
        else:
            rest[name] = _parse_value(LineSettings, name, value)
    return replace(settings, up=Way(**ways["up"]), down=Way(**ways["down"]), **rest)


def _parse_value(kind: type[Way] | type[LineSettings], name: str, value: str) -> object:
    types = {each.name: str(each.type) for each in fields(kind)}
    if name not in types or name in ("up", "down"):
        raise ValueError(f"a line has no setting {name!r}")
    if types[name] in ("int", "float"):
        return float(value) if types[name] == "float" else int(value)
    if types[name] == "bool":
        return bool(int(value))
    if name == "flow_end":
        return value
    numbers = [float(number) for number in value.split("/")]
    if name == "bursts" and len(numbers) == 3:
        return tuple(numbers)
    if name == "outages" and len(numbers) % 2 == 0:
        return tuple(zip(numbers[::2], numbers[1::2], strict=True))
    raise ValueError(f"the wrong count of numbers in {name}={value}")
