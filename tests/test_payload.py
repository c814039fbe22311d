"""How long payloads are on their way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tcsplitter.payload import FIRST_FLIGHT, SMALL, PayloadSize

SHOT_OVERHEAD = 200
"""Bytes that a hello, a shot's header and its frames have at the most, but for long acks."""


# --- round trips


@given(st.integers(0, 2**24))
def test_a_fresh_connection_doubles_what_it_sends_in_each_round_trip(size: int) -> None:
    flights = PayloadSize(size).flights
    assert size <= FIRST_FLIGHT * (2**flights - 1)
    assert flights == 1 or size > FIRST_FLIGHT * (2 ** (flights - 1) - 1)


def test_a_payload_takes_one() -> None:
    assert PayloadSize(SMALL + SHOT_OVERHEAD).flights == 1


@given(st.integers(0, 2**24))
def test_a_connection_that_is_used_again_takes_one(size: int) -> None:
    assert PayloadSize(size, fresh=False).flights == 1
