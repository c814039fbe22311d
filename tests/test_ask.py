"""Where nothing is sent twice, what came though its acks were lost, and what parity may still make up for, is not given up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from session_pair import CLIENT, RTT, SERVER, SIZE, Pair, Sent, acks, data_shots, listed, parity_shots
from stream_ends import read

from tcsplitter import receiving
from tcsplitter._core import ASK, REPLAY_WINDOW
from tcsplitter.chunks import Control
from tcsplitter.options import Fec, Retries
from tcsplitter.recovery import GIVE_UP_SECONDS, LOST_SECONDS
from tcsplitter.shared import Handling

ONCE = Handling(size=SIZE, retries=Retries(resend=False, skip=-1), hedge=False)
COVERED = replace(ONCE, fec=Fec(3, 1))
DATA = bytes(range(250)) * 12  # three payloads
VERDICT = LOST_SECONDS + 0.01


def opened(handling: Handling = ONCE) -> Pair:
    pair = Pair(handling)
    pair.open()
    return pair


def send(pair: Pair, data: bytes = DATA) -> list[Sent]:
    """The client writes; what leaves."""
    pair.widen(CLIENT)
    next(iter(pair.client.streams)).write(data)
    return pair.flush()


def arrived(pair: Pair) -> bytes:
    return read(next(iter(pair.server.streams)))


def asked(shots: list[Sent]) -> list[int]:
    return [frame[1] for shot in shots if not shot.is_parity for frame in shot.frames if frame[0] == ASK]


def answer(pair: Pair, *numbers: int) -> list[tuple[list[tuple[int, int]], list[tuple[int, int]]]]:
    """What the acks list, of received and of rebuilt ones, with which the server answers these questions."""
    pair.settle()
    for number in numbers:
        pair.client.streams.queue_control(Control.ASK, number)
    questions = pair.flush()
    assert sorted(asked(questions)) == sorted(numbers)
    return [(frame[3], frame[4]) for frame in acks(pair.deliver(*questions) + pair.wait(RTT))]


def test_what_came_is_acknowledged_again_when_all_its_acks_were_lost() -> None:
    pair = opened()
    shots = send(pair)
    pair.deliver(*shots)
    pair.lose(*pair.wait(RTT))
    questions = pair.wait(VERDICT)
    assert sorted(asked(questions)) == [shot.number for shot in shots]
    pair.settle()
    assert not pair.client.recovery.sent
    pair.wait(2 * GIVE_UP_SECONDS)
    assert (pair.counted(CLIENT, "payloads_given_up"), pair.counted(CLIENT, "shots_lost")) == (0, 0)
    assert arrived(pair) == DATA


def test_what_did_not_come_is_not_acknowledged_however_often_it_is_asked_for() -> None:
    pair = opened()
    (shot,) = send(pair, DATA[:SIZE])
    pair.lose(shot)
    assert all(shot.number not in listed(received + rebuilt) for received, rebuilt in answer(pair, shot.number))
    pair.settle()
    pair.wait(2 * GIVE_UP_SECONDS)
    assert pair.counted(CLIENT, "payloads_given_up") == 1


def test_a_question_that_is_lost_is_asked_again() -> None:
    pair = opened()
    shots = send(pair)
    pair.deliver(*shots)
    pair.lose(*pair.wait(RTT))
    questions = [shot for shot in pair.wait(VERDICT) if asked([shot])]
    pair.lose(*questions)
    again = pair.kill(questions[0].carrier, CLIENT)
    assert asked(again) == asked(questions[:1])


def test_what_was_rebuilt_is_acknowledged_as_such_again() -> None:
    pair = opened(COVERED)
    shots = send(pair)
    lost = data_shots(shots)[0]
    pair.lose(lost)
    pair.deliver(*[shot for shot in shots if shot is not lost])
    pair.lose(*pair.wait(RTT))
    pair.settle()
    assert any(lost.number in listed(rebuilt) for _, rebuilt in answer(pair, lost.number))


@pytest.mark.parametrize("number", [5 * REPLAY_WINDOW, 2**61])
def test_numbers_that_were_never_sent_mean_nothing(number: int) -> None:
    pair = opened()
    assert all(number not in listed(received + rebuilt) for received, rebuilt in answer(pair, number))
    assert pair.server.closed is None


def test_what_found_no_room_is_not_said_to_have_come(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = opened()
    shots = send(pair)
    monkeypatch.setattr(receiving, "MAX_PIECES", 0)
    pair.deliver(shots[-1])
    assert pair.counted(SERVER, "shots_dropped") == 1
    monkeypatch.undo()
    assert all(shots[-1].number not in listed(received) for received, _ in answer(pair, shots[-1].number))


# --- a carrier breaks


def broken(pair: Pair, shots: list[Sent]) -> Sent:
    """One data shot is lost with its carrier, and both ends know at once."""
    lost = data_shots(shots)[1]
    pair.lose(lost)
    other = pair.other[lost.carrier]
    pair.kill(lost.carrier, CLIENT)
    pair.kill(other, SERVER)
    return lost


def test_what_parity_makes_up_for_is_not_given_up_when_its_carrier_breaks() -> None:
    pair = opened(COVERED)
    broken(pair, send(pair))
    pair.settle()
    pair.wait(2 * GIVE_UP_SECONDS)
    assert arrived(pair) == DATA
    assert pair.counted(CLIENT, "payloads_given_up") == 0
    assert next(iter(pair.client.streams)).unacknowledged == 0


def test_it_is_given_up_when_parity_does_not_arrive_either() -> None:
    pair = opened(COVERED)
    shots = send(pair)
    broken(pair, shots)
    pair.lose(*parity_shots(shots))
    pair.settle()
    assert pair.counted(CLIENT, "payloads_given_up") == 0
    until = pair.now + GIVE_UP_SECONDS + VERDICT
    while pair.now < until:
        pair.wait(2 * RTT)
        pair.settle()
    assert pair.counted(CLIENT, "payloads_given_up") == 1


def test_without_parity_it_is_given_up_at_once() -> None:
    pair = opened()
    broken(pair, send(pair))
    assert pair.counted(CLIENT, "payloads_given_up") == 1
