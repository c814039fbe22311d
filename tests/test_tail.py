"""The shot that says nothing, behind the last data shot of a half, where the line loses segments."""

from __future__ import annotations

import random
from typing import Any

import pytest
from session_pair import CLIENT, SERVER, Pair, Sent, data_shots

from tcsplitter._core import FINAL
from tcsplitter.carrier import Op
from tcsplitter.lateness import CLEAN_SHARE
from tcsplitter.modes import Kind
from tcsplitter.sending import TAIL_FROM, TAIL_JITTER
from tcsplitter.shared import Handling

SIZE = TAIL_FROM
NOISE = random.Random(1).randbytes(SIZE)
BOTH = pytest.mark.parametrize("side", [CLIENT, SERVER])


def opened(share: float = 2 * CLEAN_SHARE, **config: Any) -> Pair:
    """A pair with a stream on a line with this share of late shots."""
    pair = Pair(Handling(size=SIZE, hedge=False), **config)
    pair.open()
    pair.settle()
    for side in (CLIENT, SERVER):
        pair.widen(side)
        pair.sessions[side].recovery.lateness.share = share
    return pair


def send(pair: Pair, side: int, size: int = SIZE) -> list[Sent]:
    """What leaves for so many bytes."""
    next(iter(pair.sessions[side].streams)).write(NOISE[:size])
    return pair.flush()


def is_final(shot: Sent) -> bool:
    return bool(shot.sealed[0] & FINAL)


@BOTH
def test_where_shots_are_late_a_half_ends_with_a_shot_that_says_nothing(side: int) -> None:
    pair = opened()
    data, tail = send(pair, side)
    assert tail.carrier is data.carrier
    assert (is_final(data), is_final(tail)) == (False, True)
    assert data_shots([data, tail]) == [data]
    assert tail.frames == []
    assert data.carrier not in pair.sessions[side].carriers.idle[Kind.FLING]


@BOTH
@pytest.mark.parametrize("why", ["clean", "small", "short", "jitter", "reuse"])
def test_elsewhere_the_data_shot_is_the_last(why: str, side: int) -> None:
    pair = opened(CLEAN_SHARE / 2 if why == "clean" else 2 * CLEAN_SHARE, reuse=3 if why == "reuse" else 1)
    line = pair.sessions[side].recovery.congestion
    if why == "short":
        line.sample_rtt(0.001, 0, pair.now)
        pair.widen(side)
    line.jitter = 1.01 * TAIL_JITTER * line.rtt if why == "jitter" else 0.0
    (data,) = send(pair, side, TAIL_FROM - 100 if why == "small" else SIZE)
    assert is_final(data) == (why != "reuse")


@BOTH
@pytest.mark.parametrize("fate", ["comes", "comes late", "never comes"])
def test_the_data_does_not_wait_for_it_and_the_carrier_ends(fate: str, side: int) -> None:
    pair = opened()
    data, tail = send(pair, side)
    carrier = data.carrier
    pair.lose(tail)
    first = [data] if fate != "comes" else [data, tail]
    pair.deliver(*first)
    (there,) = pair.sessions[1 - side].streams
    assert b"".join(there.peek(SIZE)) == NOISE[:SIZE]
    pair.settle()
    if fate == "comes late":
        pair.deliver(tail, on=carrier)
    if fate == "never comes":
        pair.wait(2 * pair.client.recovery.give_up_after())
    for known, end in ((carrier, side), (pair.other[carrier], 1 - side)):
        if end == CLIENT and not known.closed:
            pair.sessions[end].carrier_eof(known, pair.now)
    pair.settle()
    assert carrier.closed
    assert pair.other[carrier].closed
    assert pair.counted(side, "shots_lost") == 0


@BOTH
def test_it_is_written_in_a_segment_of_its_own(side: int) -> None:
    pair = opened()
    next(iter(pair.sessions[side].streams)).write(NOISE[:SIZE])
    pair.sessions[side].flush(pair.now)
    ops = [op for op, _, _ in pair.outboxes[side].take_actions()]
    assert ops == ([Op.WRITE, Op.TAIL] if side == CLIENT else [Op.WRITE, Op.TAIL, Op.SHUT])
