"""Payloads that are lost and not sent again, or not waited for: what arrives, what is told, and that nothing is left over."""

from __future__ import annotations

import random
from dataclasses import dataclass
from heapq import heappop, heappush

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_ends import NOW, End, Frame, Shot

from tcsplitter._core import SKIP
from tcsplitter.options import Playout, Retries
from tcsplitter.shared import Handling
from tcsplitter.streams import GIVEN_UP, Stream

SIZE = 100
NOISE = random.Random(1).randbytes(100 * SIZE)
STEP = 0.01
BEAT = 0.04
RETRIES = [Retries(resend=resend, skip=skip) for resend in (False, True) for skip in (-1, 0, 3)]
UNREPLACED = [Retries(resend=False, skip=skip) for skip in (0, 3)]
LONGEST = 600  # steps that a conversation may take


@dataclass(frozen=True)
class Fate:
    """What becomes of a shot; times in steps."""

    arrives: int | None = 1
    judged: int | None = None
    """When its sender takes it for lost; without that its ack comes when it arrives."""


DELIVERED = Fate()
DEAD = Fate(None, 2)
fates = st.sampled_from(
    [DELIVERED] * 4 + [DEAD] * 3 + [Fate(None, 20), Fate(3), Fate(9), Fate(8, 2), Fate(40, 2), Fate(1, 3), Fate(25, 30)]
)


@dataclass(frozen=True)
class Plan:
    """How one side treats what it sends, what it sends, at which pace it forwards what comes, and what becomes of its shots."""

    retries: Retries
    count: int
    """Payloads, of which its program writes one every `pace` steps before it finishes."""
    pace: int = 2
    beat: float = 0.0
    fates: tuple[Fate, ...] = ()
    struck: frozenset[int] = frozenset()
    """Payloads of which the first sending meets this fate, whatever the list says."""
    fate: Fate = Fate(None, 2)


class Side(End):
    """An end whose program does as planned, and reads what comes."""

    def __init__(self, client: bool, plan: Plan) -> None:
        super().__init__(client, Handling(size=SIZE, retries=plan.retries, playout=Playout(beat=plan.beat)))
        self.plan = plan
        self.fates = list(plan.fates)
        self.struck = set(plan.struck)
        self.stream: Stream | None = None
        self.written = 0
        self.judged = 0
        """Payloads that were taken for lost."""
        self.cut: dict[int, int] = {}
        """Where payloads that were sent begin, and where they end."""
        self.received: dict[int, int] = {}
        """The same of what its program read, which need not have the same borders."""
        self.ended = False
        self.most_pieces = 0

    def shots(self) -> list[Shot]:
        found = super().shots()
        self.cut |= {chunk.offset: chunk.end for shot in found for chunk in shot.chunks if chunk.size}
        return found

    def fate_of(self, shot: Shot) -> Fate:
        sent = {chunk.offset // SIZE for chunk in shot.chunks if chunk.size}
        if sent & self.struck:
            self.struck -= sent
            return self.plan.fate
        return self.fates.pop(0) if self.fates else DELIVERED

    def take(self, frame: Frame) -> None:
        if frame[0] == SKIP:
            self.table.pass_by(*frame[1:])
        else:
            super().take(frame)
        self.most_pieces = max(self.most_pieces, self.table.pieces)

    def lost(self, shot: Shot) -> None:
        for chunk in shot.chunks:
            assert isinstance(chunk.source, Stream)
            self.judged += chunk.size > 0 and not chunk.acked and chunk.source.sent_reset is None
            super().lost(Shot([], [chunk], []))
        super().lost(Shot([], [], shot.control))

    @property
    def reset_code(self) -> int | None:
        return self.stream.reset_code if self.stream is not None else None

    @property
    def over(self) -> bool:
        """The stream is closed, and nothing is left of it."""
        return self.stream is not None and self.stream.done and self.balanced()

    def act(self, step: int) -> None:
        stream = self.stream
        self.shared.now = now = NOW + step * STEP
        self.shared.beats.run(now)
        if stream is None:
            return
        while stream.readable:
            data = b"".join(bytes(view) for view in stream.peek(1 << 20))
            offset = stream.incoming.read_offset
            assert data == NOISE[offset : offset + len(data)]
            self.received[offset] = offset + len(data)
            stream.consume(len(data), now)
        self.ended = stream.at_end or self.ended
        if stream.reset_code is None and self.written < self.plan.count and step >= self.written * self.plan.pace:
            stream.write(NOISE[self.written * SIZE : (self.written + 1) * SIZE])
            self.written += 1
            if self.written == self.plan.count:
                stream.finish()
        self.shared.beats.run(now)


class Conversation:
    """A stream between two sides, on a network that does to each shot what its sender's list says, then delivers."""

    def __init__(self, up: Plan, down: Plan) -> None:
        self.client, self.server = Side(True, up), Side(False, down)
        self.client.table.set_peer_skip(down.retries.skip)
        self.server.table.set_peer_skip(up.retries.skip)
        self.client.stream = self.client.table.open()
        self._events: list[tuple[int, int, Side, Shot, bool]] = []
        self._serial = 0

    @property
    def sides(self) -> list[Side]:
        return [self.client, self.server]

    def run(self) -> None:
        for step in range(LONGEST):
            for side in self.sides:
                self._post(step, side)
            while self._events and self._events[0][0] <= step:
                _, _, sender, shot, arrives = heappop(self._events)
                self._happen(sender, shot, arrives)
            for side in self.sides:
                side.act(step)
            if not self._events and all(side.over for side in self.sides):
                return
        raise AssertionError("the conversation does not come to its end")

    def _post(self, step: int, sender: Side) -> None:
        for shot in sender.shots():
            fate = sender.fate_of(shot)
            for after, arrives in ((fate.arrives, True), (fate.judged, False)):
                if after is not None:
                    self._serial += 1
                    heappush(self._events, (step + after, self._serial, sender, shot, arrives))

    def _happen(self, sender: Side, shot: Shot, arrives: bool) -> None:
        if not arrives:
            sender.lost(shot)
            return
        receiver = self.server if sender is self.client else self.client
        for frame in shot.frames:
            receiver.take(frame)
        if self.server.stream is None:
            self.server.stream = self.server.table.get(0)
        if not any(event[3] is shot for event in self._events):
            sender.acked(shot)


retries = st.sampled_from(RETRIES)


plans = st.builds(Plan, retries, st.integers(1, 12), st.integers(0, 6), st.sampled_from([0.0, BEAT]), st.lists(fates).map(tuple))


@settings(max_examples=3 * settings().max_examples)
@given(plans, plans)
def test_what_arrives_is_what_was_sent_minus_whole_payloads(up: Plan, down: Plan) -> None:
    talk = Conversation(up, down)
    talk.run()
    check_direction(talk.client, talk.server)
    check_direction(talk.server, talk.client)


def check_direction(sender: Side, receiver: Side) -> None:
    """One direction of a conversation that is over."""
    retries, counted, skipped = sender.plan.retries, sender.shared.counters, receiver.shared.counters.payloads_skipped
    was_reset = any(not side.plan.retries.resend and side.plan.retries.skip < 0 and side.judged for side in (sender, receiver))
    missing = missed(sender.cut, receiver.received)
    if was_reset:
        # One that had all by then is not told, having closed the stream.
        assert GIVEN_UP in (sender.reset_code, receiver.reset_code)
        assert sender.reset_code == receiver.reset_code or sender.ended or receiver.ended
    else:
        assert sender.reset_code is receiver.reset_code is None
        assert receiver.ended
        assert sender.written == sender.plan.count
        assert (skipped > 0) == (missing > 0)
        if all(end - start == SIZE for start, end in sender.cut.items()):
            assert skipped == missing
    # What was sent was counted by its receiver, and is granted again.
    assert receiver.shared.receiving._received == sender.shared.sending.total
    if retries.skip < 0:
        assert skipped == 0
        assert was_reset or not missing
    if retries.resend:
        assert counted.payloads_resent + counted.payloads_given_up <= sender.judged
        assert not counted.payloads_given_up or skipped
    else:
        assert counted.payloads_resent == 0
        assert counted.payloads_given_up == sender.judged


def missed(cut: dict[int, int], received: dict[int, int]) -> int:
    """How many payloads did not arrive; AssertionError if a part of one did."""
    offsets = [offset for start, end in received.items() for offset in range(start, end)]
    assert offsets == sorted(set(offsets))
    came = set(offsets)
    parts = [len(came & set(range(start, end))) / (end - start) for start, end in cut.items()]
    assert set(parts) <= {0.0, 1.0}
    return parts.count(0.0)


# --- every setting, and losses anywhere


COUNT = 6
LOSSES = [{0}, {COUNT - 1}, {2}, {2, 3, 4}, {0, 1, 2}, {3, 4, 5}, {0, 2, 4}, set(range(COUNT))]
OTHERS = {True: Retries(), False: Retries(resend=False, skip=3)}


def talk_of(retries: Retries, beat: float, struck: set[int], fate: Fate, up: bool) -> tuple[Side, Side]:
    """Sender and receiver of a conversation in which these payloads meet a fate; the other direction is treated otherwise."""
    this = Plan(retries, COUNT, 4, struck=frozenset(struck), fate=fate)
    other = Plan(OTHERS[not retries.resend], 3, 4, beat)
    talk = Conversation(this, other) if up else Conversation(other, this)
    talk.run()
    sender, receiver = talk.sides if up else talk.sides[::-1]
    check_direction(sender, receiver)
    if sender.reset_code is None:
        check_direction(receiver, sender)
        assert missed(receiver.cut, sender.received) == 0
    return sender, receiver


def behind(struck: set[int]) -> set[int]:
    """Those of them that have none behind them that is not."""
    return {number for number in struck if set(range(number, COUNT)) <= struck}


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("beat", [0.0, BEAT])
@pytest.mark.parametrize("struck", LOSSES, ids=str)
@pytest.mark.parametrize("retries", RETRIES, ids=str)
class TestEverySetting:
    def test_lost(self, retries: Retries, struck: set[int], beat: float, up: bool) -> None:
        sender, receiver = talk_of(retries, beat, struck, Fate(None, 60), up)
        counted, skipped = sender.shared.counters, receiver.shared.counters.payloads_skipped
        waited_for = struck if retries.skip < 0 else behind(struck)
        if retries.resend:
            assert skipped == counted.payloads_given_up == len(struck - waited_for)
            assert counted.payloads_resent == len(waited_for)
        elif retries.skip < 0:
            assert sender.reset_code == receiver.reset_code == GIVEN_UP
        else:
            assert skipped == counted.payloads_given_up == len(struck)

    def test_late(self, retries: Retries, struck: set[int], beat: float, up: bool) -> None:
        sender, receiver = talk_of(retries, beat, struck, Fate(60), up)
        counted, skipped = sender.shared.counters, receiver.shared.counters.payloads_skipped
        assert sender.reset_code is None
        assert counted.payloads_resent == counted.payloads_given_up == 0
        assert skipped == (0 if retries.skip < 0 else len(struck - behind(struck)))


def test_a_long_stream_with_many_losses_leaves_nothing_behind() -> None:
    plan = Plan(UNREPLACED[0], 80, 1, struck=frozenset(range(1, 80, 2)))
    talk = Conversation(plan, Plan(Retries(), 1))
    talk.run()
    check_direction(talk.client, talk.server)
    assert talk.server.shared.counters.payloads_skipped == 40
    assert talk.server.most_pieces <= 2
    assert len(talk.server.shared.beats._heap) <= 2
