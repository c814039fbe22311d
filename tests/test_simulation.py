"""Thousands of seeded bad networks: every stream arrives whole and in order, memory stays bounded, both ends go idle.

Those from FAST on are for `make soak`. TCSPLITTER_SEEDS=50000 makes it so many, TCSPLITTER_SEED=123 runs that one alone.
"""

from __future__ import annotations

import os
import random

import pytest
from simulator import Line, Network, Plan

from tcsplitter.client_end import ClientConfig
from tcsplitter.credit import SESSION_WINDOW
from tcsplitter.modes import MODES
from tcsplitter.options import Fec
from tcsplitter.rebuild import MAX_KEPT_BYTES, MAX_STRIPE_BYTES
from tcsplitter.server_end import ServerConfig
from tcsplitter.session import MAX_PARTIAL
from tcsplitter.shared import Handling

FECS = [Fec(), Fec(), Fec(auto=True), Fec(1, 1), Fec(4, 2), Fec(10, 3), Fec(20, 10)]
ALONE = os.environ.get("TCSPLITTER_SEED")
BATCH = 1 if ALONE else 100
FIRSTS = [int(ALONE)] if ALONE else range(0, int(os.environ.get("TCSPLITTER_SEEDS", "6000")), BATCH)
FAST = 1000


def make_line(rng: random.Random) -> Line:
    """Clean and fast, or bad in one or several ways."""
    return Line(
        delay=rng.choice([0.00005, 0.001, 0.02, 0.075, 0.15]),
        jitter=rng.choice([0.0, 0.0, 0.01, 0.05]),
        late=rng.choice([0.0, 0.02, 0.1, 0.3]),
        dial_late=rng.choice([0.0, 0.05, 0.2]),
        dial_fail=rng.choice([0.0, 0.0, 0.1]),
        freeze=rng.choice([0.0, 0.0, 0.05, 0.2]),
        cut=rng.choice([0.0, 0.0, 0.05, 0.2]),
        split=rng.random() < 0.3,
        outages=[(at := rng.uniform(0, 5), at + rng.choice([0.5, 5, 20]))] if rng.random() < 0.15 else [],
        rate=rng.choice([0.0, 0.0, 125_000.0, 2_500_000.0]),
        replay=rng.choice([0.0, 0.1]),
    )


def make_plans(rng: random.Random, config: ClientConfig) -> list[Plan]:
    """One to six streams that write in pieces of their own sizes, some read slowly, some reset."""
    payloads = 30 if config.burst else 4 * config.conns
    sizes = [
        0,
        1,
        36,
        config.handling.size,
        min(200_000, payloads * config.handling.size // 2),
        min(200_000, payloads * config.handling.size),
    ]
    return [
        Plan(
            name=name,
            sizes=(rng.choice(sizes), rng.choice(sizes)),
            writes=rng.choice([[1, 7, 300], [1_000, 10_000], [100_000], [100_000]]),
            slow=rng.choice([0.0, 0.0, 0.3]),
            chatty=rng.choice([0.0, 0.0, 0.02]),
            resets=rng.choice([0, 1]) if rng.random() < 0.1 else None,
        )
        for name in range(rng.randint(1, 6))
    ]


def make_config(rng: random.Random, dice: random.Random) -> ClientConfig:
    """Pools and payloads by `rng`; mode, further kinds of carriers, pace and repair by `dice`, half of the time the defaults."""
    conns = rng.choice([1, 2, 4, 16])
    plain = dice.random() < 0.5
    return ClientConfig(
        handling=Handling(
            size=rng.choice([100, 1_292, 10_000, 10_000, 65_536]),
            tock=0.0 if plain else dice.choice([0.0, 0.0, 0.01, 0.1]),
            fec=Fec() if plain else dice.choice(FECS),
            hedge=plain or dice.random() < 0.7,
        ),
        mode=MODES["fling" if plain else dice.choice(list(MODES))],
        lassoes=dice.choice([1, 2, 4, 16]),
        sync=not plain and dice.random() < 0.3,
        retry=not plain and dice.random() < 0.3,
        after=0.0 if plain else dice.choice([0.0, 0.0, 0.5]),
        reuse=rng.choice([1, 1, 1, 2, 0]),
        conns=conns,
        burst=rng.choice([0, 64, 1024, 1024]) if conns < 64 else 1024,
        idle=rng.choice([1.0, 25.0]),
    )


def run_seed(seed: int) -> Network:
    rng = random.Random(seed)
    config = make_config(rng, random.Random(f"the knobs of seed {seed}"))
    net = Network(seed, make_line(rng), config, ServerConfig(config.handling, idle=config.idle))
    plans = make_plans(rng, config)
    for plan in plans:
        net.after(rng.choice([0.0, 0.0, 0.3]) * rng.random(), lambda plan=plan: net.open(plan))  # type: ignore[misc]
    net.run(lambda: len(net.by_stream) == len(plans) and net.done(), seconds=600)
    net.verify()
    assert net.peak_held <= SESSION_WINDOW + MAX_PARTIAL + MAX_KEPT_BYTES + MAX_STRIPE_BYTES
    net.settle(0)
    assert not net.client.session.shared.scheduler.lost, "streams that are gone are still waited for"
    assert net.idle_wakes < 2_000, "it wakes up again and again for something that it cannot do"
    return net


@pytest.mark.parametrize("first", [pytest.param(first, marks=[pytest.mark.slow] if first >= FAST else []) for first in FIRSTS])
def test_every_stream_arrives_whole(first: int) -> None:
    for seed in range(first, first + BATCH):
        try:
            run_seed(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed} failed: {error}") from error
