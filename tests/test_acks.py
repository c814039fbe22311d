"""What is acknowledged, how often, and by when; read back from the bodies that it is written to."""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shots import AEAD

from tcsplitter._core import ACK, ShotWriter, open_frames
from tcsplitter.acks import Acks, ack_delay

NOW = 50.0


def written(acks: Acks, now: float = NOW) -> list[tuple[Any, ...]]:
    """The frames that it adds to a body."""
    writer = ShotWriter()
    writer.begin(0, 0)
    acks.write(writer, now)
    return open_frames(AEAD, writer.seal(AEAD, 0, 0, 0))[2]


def numbers(frame: tuple[Any, ...]) -> list[int]:
    assert frame[0] == ACK
    return [number for low, high in frame[3] for number in range(low, high + 1)]


def test_nothing_arrived_nothing_is_said() -> None:
    acks = Acks(NOW)
    assert written(acks) == []
    assert acks.due_at == inf


@given(st.lists(st.sets(st.integers(0, 60), max_size=8), max_size=12))
def test_every_number_is_listed_in_three_acks(arrivals: list[set[int]]) -> None:
    acks = Acks(NOW)
    listed: Counter[int] = Counter()
    arrived: set[int] = set()
    for batch in [*arrivals, set[int](), set[int](), set[int](), set[int]()]:
        for number in batch - arrived:
            acks.add(number)
        arrived |= batch
        listed.update(number for frame in written(acks) for number in numbers(frame))
    assert listed == dict.fromkeys(arrived, 3)
    assert written(acks) == []


def test_an_ack_names_the_shot_that_it_answers_and_how_long_it_waited() -> None:
    acks = Acks(NOW)
    acks.add(7)
    acks.elicited(7, 0.02, NOW)
    acks.add(9)
    acks.elicited(9, 0.02, NOW + 0.25)
    acks.add(10)
    assert written(acks, NOW + 0.5) == [(ACK, 9, 250_000, [(9, 10), (7, 7)], [])]


def test_an_ack_goes_alone_when_the_first_that_asked_can_wait_no_longer() -> None:
    acks = Acks(NOW)
    acks.add(1)
    assert acks.due_at == inf
    acks.elicited(1, 0.02, NOW)
    acks.elicited(2, 0.02, NOW + 0.01)
    assert acks.due_at == NOW + 0.02
    acks.elicited(3, 0.0, NOW + 0.01)
    assert acks.due_at == pytest.approx(NOW + 0.011)
    written(acks, NOW + 0.011)
    assert acks.due_at == inf


@pytest.mark.parametrize(
    ("min_rtt", "delay"),
    [(0.0, 0.0), (0.004, 0.0), (0.0079, 0.0), (0.008, 0.001), (0.1, 0.0125), (0.2, 0.025), (0.201, 0.025), (3.0, 0.025)],
)
def test_an_ack_waits_for_an_eighth_of_the_rtt(min_rtt: float, delay: float) -> None:
    assert ack_delay(min_rtt) == delay
    assert ack_delay(min_rtt, small=True) == max(delay, 0.001)
