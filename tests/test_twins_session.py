"""Twins between two sessions: what is sent once more, which copy counts, and when all are lost."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_pair import CLIENT, RTT, SERVER, SIZE, Pair, Sent, data_shots, parity_shots
from stream_ends import read

from tcsplitter._core import ACK, CREDIT, HEADER_SIZE, PING, RESET, STREAM, TAG_SIZE
from tcsplitter.carrier import Carrier
from tcsplitter.chunks import Control
from tcsplitter.hedging import SMALL_BURST, SMALL_SHARE
from tcsplitter.lateness import SMALL_SHOT
from tcsplitter.modes import MODES, Kind
from tcsplitter.options import Fec, Retries
from tcsplitter.shared import Handling
from tcsplitter.streams import GIVEN_UP

OVERDUE = 1.5 * RTT
HEDGED = Handling(size=SIZE)
AUTO = Handling(size=SIZE, fec=Fec(auto=True))


def opened(handling: Handling = HEDGED, **more: object) -> Pair:
    pair = Pair(handling, **more)  # type: ignore[arg-type]
    pair.open()
    return pair


def say(pair: Pair, data: bytes, side: int = CLIENT) -> list[Sent]:
    """The program of an end writes something short; what leaves."""
    (stream,) = pair.sessions[side].streams
    stream.write(data)
    return pair.flush()


def overdue(handling: Handling = HEDGED, **more: object) -> tuple[Pair, Sent, Sent]:
    """A pair, a shot of which nothing was heard, and its twin."""
    pair = opened(handling, **more)
    (original,) = say(pair, b"hello")
    (twin,) = data_shots(pair.wait(OVERDUE))
    return pair, original, twin


def test_a_small_shot_without_an_ack_is_sent_once_more() -> None:
    pair, original, twin = overdue()
    assert twin.number > original.number
    assert twin.carrier is not original.carrier
    assert twin.sealed[13:] != original.sealed[13:]
    streams = [[frame for frame in shot.frames if frame[0] == STREAM] for shot in (original, twin)]
    assert streams[0] == streams[1]
    assert pair.counted(CLIENT, "hedges_sent") == 1
    assert pair.counted(CLIENT, "hedge_bytes") == len(twin.sealed)
    sent = pair.sent(twin)
    assert sent is not None
    assert sent.is_twin
    assert sent.copies is not None
    assert [each.number for each in sent.copies.shots] == [original.number, twin.number]


def test_no_twin_of_what_is_acknowledged_in_time() -> None:
    pair = opened()
    for _ in range(20):
        say(pair, b"hello")
        pair.settle()
    pair.wait(5.0)
    assert pair.counted(CLIENT, "hedges_sent") == pair.counted(SERVER, "hedges_sent") == 0


@pytest.mark.parametrize(("first", "won"), [("twin", 1), ("original", 0)])
def test_the_copy_that_comes_first_settles_all(first: str, won: int) -> None:
    pair, original, twin = overdue()
    one, other = (twin, original) if first == "twin" else (original, twin)
    pair.deliver(one)
    (theirs,) = pair.server.streams
    assert read(theirs) == b"hello"
    pair.wire.remove(other)
    pair.settle()
    (mine,) = pair.client.streams
    assert mine.unacknowledged == 0
    assert pair.counted(CLIENT, "hedges_won") == won
    assert pair.wait(RTT * 5) == [], "no further twins"
    pair.deliver(other)
    pair.settle()
    assert theirs.readable == 0
    assert pair.counted(CLIENT, "hedges_won") == won
    assert not pair.client.recovery.sent
    assert not pair.reset


def test_both_in_one_ack_is_no_win() -> None:
    pair, original, twin = overdue()
    pair.deliver(original, twin)
    pair.settle()
    assert pair.counted(CLIENT, "hedges_won") == 0
    assert read(next(iter(pair.server.streams))) == b"hello"


def test_further_twins_until_one_arrives() -> None:
    pair, original, twin = overdue()
    further = data_shots(pair.wait(5 * RTT))
    assert len(further) == 3
    assert len({shot.carrier for shot in (original, twin, *further)}) == 5
    pair.lose(original, twin, *further[:2])
    pair.deliver(further[2])
    pair.settle()
    assert pair.counted(CLIENT, "hedges_sent") == 4
    assert pair.counted(CLIENT, "hedges_won") == 1
    assert pair.wait(0.5) == []


# --- loss


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_chunk_goes_again_once_when_the_first_of_its_copies_is_lost(order: tuple[int, int]) -> None:
    pair, *copies = overdue()
    pair.lose(*copies)
    first, second = copies[order[0]], copies[order[1]]
    again, its_twin = data_shots(pair.kill(first.carrier, CLIENT))
    sent = pair.sent(its_twin)
    assert sent is not None
    assert sent.is_twin, "the line is now known to lose shots"
    assert pair.counted(CLIENT, "payloads_resent") == 1
    assert data_shots(pair.kill(second.carrier, CLIENT)) == []
    assert pair.counted(CLIENT, "payloads_resent") == 1
    assert pair.counted(CLIENT, "shots_lost") == 2
    pair.deliver(again)
    pair.settle()
    assert read(next(iter(pair.server.streams))) == b"hello"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_where_nothing_is_sent_again_a_chunk_is_given_up_when_all_its_copies_are_lost(order: tuple[int, int]) -> None:
    pair = opened(replace(AUTO, retries=Retries(resend=False, skip=-1)))
    copies = data_shots(say(pair, b"hello"))
    assert len(copies) == 2
    pair.lose(*copies)
    for given_up, at in enumerate(order):
        pair.kill(copies[at].carrier, CLIENT)
        assert pair.counted(CLIENT, "payloads_given_up") == given_up


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize(("skip", "reset"), [(-1, GIVEN_UP), (0, None)])
def test_a_twin_of_control_frames_alone_does_not_stand_for_the_payload(skip: int, reset: int | None, arrives: bool) -> None:
    pair = opened(Handling(size=SIZE, retries=Retries(resend=False, skip=skip)))
    (mine,) = pair.client.streams
    mine.write(b"hello")
    pair.client.streams.queue_control(Control.CREDIT)
    (original,) = pair.flush()
    (twin,) = pair.wait(1.5 * RTT)
    assert original.payload
    assert not twin.payload
    pair.lose(original)
    if not arrives:
        pair.lose(twin)
    pair.kill(original.carrier, CLIENT)
    for _ in range(30):
        pair.settle()
        pair.wait(1.0)
    assert pair.counted(CLIENT, "payloads_given_up") == 1
    assert mine.reset_code == reset
    assert mine.unacknowledged == 0 or reset is not None


def test_a_copy_that_is_lost_after_another_arrived_is_not_missed() -> None:
    pair, original, twin = overdue()
    pair.lose(original)
    pair.deliver(twin)
    pair.settle()
    assert data_shots(pair.kill(original.carrier, CLIENT)) == []
    assert pair.counted(CLIENT, "payloads_resent") == 0
    assert not next(iter(pair.client.streams)).has_lost


def test_copies_that_are_lost_by_time_are_lost_together() -> None:
    pair, original, twin = overdue()
    pair.lose(original, twin)
    pair.lose(*pair.wait(pair.client.recovery.lost_after() - OVERDUE - RTT))
    assert pair.counted(CLIENT, "payloads_resent") == 0
    pair.wait(30.0)
    pair.settle()
    assert read(next(iter(pair.server.streams))) == b"hello"


def test_where_nothing_is_sent_again_there_are_no_twins_and_one_loss() -> None:
    pair = opened(replace(HEDGED, retries=Retries(resend=False, skip=0)))
    (original,) = say(pair, b"hello")
    assert data_shots(pair.wait(3 * RTT)) == []
    pair.lose(original)
    pair.kill(original.carrier, CLIENT)
    assert pair.counted(CLIENT, "payloads_given_up") == 1


def test_without_retries_twins_at_once_are_one_payload_together() -> None:
    pair = opened(replace(AUTO, retries=Retries(resend=False, skip=0)))
    original, twin = say(pair, b"hello")
    pair.lose(original, twin)
    pair.kill(original.carrier, CLIENT)
    assert pair.counted(CLIENT, "payloads_given_up") == 0
    pair.kill(twin.carrier, CLIENT)
    assert pair.counted(CLIENT, "payloads_given_up") == 1


def test_what_turns_out_to_have_arrived_is_not_sent_once_more() -> None:
    """It was taken for lost and sent again, and then the ack of the first sending comes."""
    pair = opened()
    (original,) = say(pair, b"hello")
    copies = data_shots(pair.wait(2 * RTT))
    for shot in (original, *copies):
        pair.lose(shot)
        pair.kill(shot.carrier, CLIENT)
    assert pair.counted(CLIENT, "payloads_resent") == 1
    pair.lose(*data_shots(pair.wire))
    pair.deliver(original, on=pair.connect(Carrier(Kind.FLING, pair.now)))
    pair.deliver(*pair.wait(RTT / 4))
    assert next(iter(pair.client.streams)).unacknowledged == 0
    assert data_shots(pair.wait(5 * RTT)) == []


# --- twins at once


def test_where_the_line_decides_small_shots_have_a_twin_at_once() -> None:
    pair = opened(AUTO)
    original, twin = say(pair, b"hello")
    assert original.carrier is not twin.carrier
    assert parity_shots(pair.wire) == []
    pair.lose(original)
    pair.settle()
    assert read(next(iter(pair.server.streams))) == b"hello"
    assert pair.counted(CLIENT, "hedges_won") == 1


def test_bulk_has_no_twins() -> None:
    pair = opened(AUTO)
    pair.widen(CLIENT)
    (stream,) = pair.client.streams
    stream.write(bytes(20 * SIZE))
    pair.flush()
    assert pair.counted(CLIENT, "hedges_sent") <= 1, "the last one is that of a stream with less than a payload left"


def test_twins_at_once_stop_at_their_budget() -> None:
    pair = opened(AUTO, carriers=200)
    pair.widen(CLIENT)
    for _ in range(100):
        pair.client.streams.open().write(bytes(900))
    pair.flush()
    sealing = HEADER_SIZE + TAG_SIZE
    bound = SMALL_BURST + SMALL_SHARE * pair.client.counters.bytes_sent
    assert SMALL_BURST / 2 < pair.counted(CLIENT, "hedge_bytes") <= bound + sealing * pair.counted(CLIENT, "hedges_sent")


def test_twins_wait_for_carriers() -> None:
    pair = opened(carriers=2)
    (original,) = say(pair, b"hello")
    assert data_shots(pair.wait(2 * OVERDUE)) == []
    pair.connect(Carrier(Kind.FLING, pair.now))
    (twin,) = data_shots(pair.flush())
    assert twin.carrier is not original.carrier


# --- control frames


def test_control_frames_that_are_overdue_go_again_as_things_stand() -> None:
    pair = opened()
    (mine,) = pair.client.streams
    mine.reset()
    (original,) = pair.flush()
    assert [frame[0] for frame in original.frames if frame[0] != ACK] == [RESET]
    (twin,) = pair.wait(OVERDUE)
    assert [frame[0] for frame in twin.frames if frame[0] != ACK] == [RESET]
    pair.lose(original)
    pair.settle()
    assert not pair.client.streams
    assert not pair.server.streams
    assert pair.counted(CLIENT, "hedges_won") == 1


def test_a_ping_has_a_twin_too() -> None:
    pair = opened()
    pair.client.streams.queue_control(Control.PING)
    (original,) = pair.flush()
    (twin,) = pair.wait(OVERDUE)
    for copy in original, twin:
        assert [frame[0] for frame in copy.frames if frame[0] != ACK] == [PING]


def test_control_frames_of_a_lost_shot_go_again_though_its_twin_is_under_way() -> None:
    pair = opened()
    (mine,) = pair.client.streams
    mine.write(b"hello")
    pair.client.streams.queue_control(Control.CREDIT)
    (original,) = pair.flush()
    (twin,) = pair.wait(OVERDUE)
    kinds = [sorted(frame[0] for frame in shot.frames if frame[0] != ACK) for shot in (original, twin)]
    assert kinds[0] == kinds[1]
    pair.lose(original, twin)
    for copy, expected in ((original, kinds[0]), (twin, [frame for frame in kinds[0] if frame != STREAM])):
        again = pair.kill(copy.carrier, CLIENT)[0]
        assert sorted(frame[0] for frame in again.frames if frame[0] != ACK) == expected


def test_where_payload_is_never_sent_twice_control_frames_are() -> None:
    pair = opened(replace(HEDGED, retries=Retries(resend=False, skip=-1)))
    (mine,) = pair.client.streams
    mine.write(b"hello")
    pair.client.streams.queue_control(Control.CREDIT)
    (original,) = pair.flush()
    (twin,) = pair.wait(OVERDUE)
    assert STREAM in [frame[0] for frame in original.frames]
    assert [frame[0] for frame in twin.frames if frame[0] != ACK] == [CREDIT]
    pair.lose(original)
    pair.settle()
    assert pair.counted(CLIENT, "payloads_given_up") == 0
    pair.kill(original.carrier, CLIENT)
    assert pair.counted(CLIENT, "payloads_given_up") == 1


# --- late ones


def overtaken() -> tuple[Pair, Sent]:
    """A pair on a line whose delays are known, and a larger shot that is missing while all younger ones arrived."""
    pair = opened(Handling(size=2 * SMALL_SHOT), carriers=200)
    (mine,) = pair.client.streams
    for _ in range(60):
        mine.write(bytes(4 * SMALL_SHOT))
        pair.settle()
        read(next(iter(pair.server.streams)))
    assert pair.counted(CLIENT, "hedges_sent") == 0
    mine.write(bytes(4 * SMALL_SHOT))
    slow = pair.flush()[0]
    pair.lose(slow)
    pair.now += 0.001
    mine.write(bytes(12 * SMALL_SHOT))
    pair.settle()
    return pair, slow


def test_a_larger_shot_that_was_overtaken_gets_one_twin() -> None:
    pair, slow = overtaken()
    pair.now = slow.left_at + 2 * RTT
    (mine,) = pair.client.streams
    mine.write(bytes(12 * SMALL_SHOT))  # something else happens
    pair.settle()
    pair.now += 2 * RTT
    pair.settle()
    assert pair.counted(CLIENT, "hedges_sent") == pair.counted(CLIENT, "hedges_won") == 1
    assert mine.unacknowledged == 0
    assert pair.counted(CLIENT, "payloads_resent") == 0


# --- all together

fates = st.sampled_from(["arrives", "arrives", "arrives", "late", "dies", "repeats"])
SETTINGS = [
    Handling(size=SIZE, fec=fec, hedge=hedge) for fec in (Fec(), Fec(3, 1), Fec(2, 2), Fec(auto=True)) for hedge in (True, False)
]


@settings(max_examples=3 * settings().max_examples)
@given(
    handling=st.sampled_from(SETTINGS),
    mode=st.sampled_from(list(MODES)),
    share=st.sampled_from([0.0, 0.1, 0.4]),
    writes=st.lists(st.tuples(st.sampled_from([CLIENT, SERVER]), st.integers(1, 4_000)), min_size=1, max_size=12),
    plan=st.lists(fates, max_size=150),
    order=st.randoms(use_true_random=False),
)
def test_everything_arrives_once_whatever_happens_to_shots(
    handling: Handling, mode: str, share: float, writes: list[tuple[int, int]], plan: list[str], order: random.Random
) -> None:
    pair = opened(handling, mode=mode, carriers=30)
    wrote, came = [0, 0], [b"", b""]
    fate_of = iter(plan)
    streams = [next(iter(session.streams)) for session in pair.sessions]
    for session in pair.sessions:
        session.recovery.lateness.share = share
    late: list[Sent] = []
    for step in range(400):
        if step < len(writes):
            side, size = writes[step]
            streams[side].write(pattern(side, wrote[side], size))
            wrote[side] += size
        pair.flush()
        for shot in list(pair.wire):
            fate = next(fate_of, "arrives")
            if fate == "dies":
                pair.lose(shot)
                pair.kill(shot.carrier, shot.side)
                pair.kill(pair.other[shot.carrier], 1 - shot.side)
            elif fate == "late":
                pair.lose(shot)
                late.append(shot)
            else:
                pair.deliver(shot)
        if order.random() < 0.3:
            order.shuffle(late)
            while late:
                pair.deliver(late.pop())
        for side in (CLIENT, SERVER):
            came[side] += read(streams[side])
        refill(pair, mode)
        pair.wait(0.02)
        if step >= len(writes) and [len(each) for each in came] == wrote[::-1] and next(fate_of, None) is None and not late:
            break
    assert [came[CLIENT], came[SERVER]] == [pattern(SERVER, 0, wrote[SERVER]), pattern(CLIENT, 0, wrote[CLIENT])]
    for session in pair.sessions:
        assert session.closed is None
        assert session.counters.shots_refused == 0


def pattern(side: int, offset: int, size: int) -> bytes:
    row = bytes(range(251)) if side == CLIENT else bytes(range(250, -1, -1))
    return (row * (size // 251 + 2))[offset % 251 :][:size]


def refill(pair: Pair, mode: str) -> None:
    """Dial new carriers in place of those that were used up."""
    for kind in MODES[mode].pools:
        while len(pair.client.carriers.idle[kind]) < 10:
            pair.connect(Carrier(kind, pair.now))
