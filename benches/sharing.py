"""How a line is shared, by the streams of a tunnel and with others. Needs root and Linux.

    .venv/bin/python benches/sharing.py streams    ten streams with bulk at once
    .venv/bin/python benches/sharing.py beside     a stream with bulk beside an ordinary TCP connection (cubic)

Purpose: to see that no stream starves, and what the tunnel takes from others. Metrics: the largest and the smallest share of the
streams, as times their mean; Mbit/s of the tunnel and of the other, and how many times as much as the other the tunnel has.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # as a script it has only its own folder there

from benches.line import SERVER_ADDRESS, Line, LineSettings, choose_kind, parse_line
from benches.load import Job, counter, drain, pour, running
from benches.rounds import STEP_LIMIT, Measured, run
from benches.sweep_cells import Setting
from benches.sweep_load import Tunnel

_OTHER_PORT = 5201


def main() -> None:
    asked = parse()
    run(asked, [partial(measure, asked)], int(2 * asked.warm_up + asked.secs) + STEP_LIMIT)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures how a line is shared.")
    parser.add_argument("what", choices=["streams", "beside"], help="what is measured; the head of the script has more")
    parser.add_argument("--line", type=parse_line, default="wan", help="as of benches/sweep.py (wan)")
    parser.add_argument("--streams", type=int, default=10, metavar="N", help="how many (10)")
    parser.add_argument(
        "--first", choices=["tunnel", "other"], default="other", help="who has the line to itself at first (other)"
    )
    parser.add_argument("--polite", action="store_true", help="the flag of both ends")
    parser.add_argument("--warm-up", type=float, default=5.0, metavar="N", help="seconds before what is measured (5)")
    parser.add_argument("--secs", type=float, default=10.0, metavar="N", help="how long (10)")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="with a fresh line and ends each time (1)")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    asked = parser.parse_args()
    if min(asked.streams, asked.repeat) < 1 or min(asked.warm_up, asked.secs) <= 0:
        parser.error("--streams and --repeat begin at 1, --warm-up and --secs are more than nothing")
    return asked


def measure(asked: argparse.Namespace) -> Measured:
    """One repeat, with a line and ends of its own."""
    settings: LineSettings = asked.line
    flags = ["--polite"] if asked.polite else []
    with Line(settings, choose_kind(settings)) as line, Tunnel(line, Setting(), *flags) as tunnel, ExitStack() as stack:
        if asked.what == "streams":
            with _carrying(*[tunnel.connect() for _ in range(asked.streams)]) as got:
                time.sleep(asked.warm_up)
                rates = _rates(got, asked.secs)
            mean = sum(rates) / len(rates)
            return Measured({"Mbit/s": sum(rates), "largest share": max(rates) / mean, "smallest share": min(rates) / mean}, {})
        joins: dict[str, Callable[[], tuple[socket.socket, socket.socket]]] = {
            "tunnel": tunnel.connect,
            "other": partial(_beside, line, stack),
        }
        second = "other" if asked.first == "tunnel" else "tunnel"
        with _carrying(joins[asked.first]()) as early:
            time.sleep(asked.warm_up)
            with _carrying(joins[second]()) as late:
                time.sleep(asked.warm_up)
                both = dict(zip((asked.first, second), _rates(early + late, asked.secs), strict=True))
        figures = {f"Mbit/s of the {name}": both[name] for name in joins}
        return Measured(figures | {"tunnel to other": both["tunnel"] / both["other"]}, {})


def _beside(line: Line, stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """A connection across the line without the tunnel, with cubic (RFC 9438): the client's side, and the server's."""
    with line.inside("server"):
        service = stack.enter_context(socket.create_server((SERVER_ADDRESS, _OTHER_PORT)))
    with line.inside("client"):
        ours = stack.enter_context(socket.create_connection((SERVER_ADDRESS, _OTHER_PORT)))
    theirs = stack.enter_context(service.accept()[0])
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    return ours, theirs


@contextmanager
def _carrying(*pairs: tuple[socket.socket, socket.socket]) -> Iterator[list[memoryview[int]]]:
    """Bulk from the server's side of each to the client's until the end of the block; what each has brought, in bytes."""
    got = [counter() for _ in pairs]
    jobs: list[Job] = [partial(pour, theirs, sys.maxsize, counter()) for _, theirs in pairs]
    jobs += [partial(drain, ours, brought) for (ours, _), brought in zip(pairs, got, strict=True)]
    with running(jobs):
        yield got


def _rates(got: Sequence[memoryview[int]], secs: float) -> list[float]:
    """Mbit/s of each, from now on for so long."""
    start, before = time.monotonic(), [each[0] for each in got]
    time.sleep(secs)
    took = time.monotonic() - start
    return [(each[0] - had) * 8e-6 / took for each, had in zip(got, before, strict=True)]


if __name__ == "__main__":
    main()
