"""Pace: what `--tock` holds back and for how long, alone and between two ends, and the timers of streams."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stream_ends import NOW, SIZE, End, Pair, Shot, read

from tcsplitter.credit import INITIAL_WINDOW
from tcsplitter.pace import DEAD_BEATS, Beats, Tock
from tcsplitter.shared import Handling
from tcsplitter.streams import Stream

WAIT = 0.1


class Bytes:
    """A source that goes byte by byte, and notes what it wrote and what went."""

    def __init__(self) -> None:
        self.written = 0
        self.opened = 0

    def wrote(self, count: int) -> None:
        self.written += count

    @property
    def gated(self) -> int:
        return self.written - self.opened

    def open_gate(self, count: int) -> int:
        count = min(count, self.gated)
        assert count >= 0
        self.opened += count
        return count


class Datagrams(Bytes):
    """A source that goes datagram by datagram; only what is more than a payload may be divided later."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[int] = []

    def wrote(self, count: int) -> None:
        super().wrote(count)
        self.waiting.append(count)

    def open_gate(self, count: int) -> int:
        opened = 0
        while self.waiting and opened < count and (opened + self.waiting[0] <= count or self.waiting[0] > SIZE):
            opened += self.waiting.pop(0)
        self.opened += opened
        return opened


class Log:
    """A Tock, its sources, and all that was written, oldest first, with what of it was let go."""

    def __init__(self, kind: type[Bytes]) -> None:
        self.tock = Tock(WAIT, SIZE)
        self.now = NOW
        self.sources = [kind() for _ in range(3)]
        self.writes: list[tuple[Bytes, int, float]] = []
        """Whose, where in it the write ends, and when."""

    @property
    def held(self) -> list[tuple[Bytes, int, float]]:
        return [(source, end, at) for source, end, at in self.writes if end > source.opened]

    @property
    def gated(self) -> int:
        return sum(source.gated for source in self.sources)

    def write(self, index: int, count: int) -> int:
        """How much of it and of what waited before goes at once."""
        source = self.sources[index]
        source.wrote(count)
        self.writes.append((source, source.written, self.now))
        waiting, held = self.gated, self.held
        self.tock.wrote(source, count)
        self.tock.run(self.now)
        left = self.held
        assert left == held[len(held) - len(left) :], "something overtook what came first"
        return waiting - self.gated

    def pass_time(self, seconds: float) -> None:
        ends_at = self.now + seconds
        while self.tock.deadline() <= ends_at:
            self.now = self.tock.deadline()
            self.tock.run(self.now)
            assert not self.gated
        self.now = ends_at

    def check(self) -> None:
        held = self.held
        assert self.tock.deadline() == (held[0][2] + WAIT if held else inf)
        assert self.gated < SIZE


steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 2), st.integers(1, 2 * SIZE + SIZE // 2)),
        st.tuples(st.just("write"), st.integers(0, 2), st.integers(1, SIZE // 5)),
        st.tuples(st.just("release"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("pass"), st.integers(0, 150), st.just(0)),
    ),
    max_size=60,
)


@given(steps)
def test_bytes_go_as_full_payloads_in_order_or_when_their_time_is_up(plan: list[tuple[str, int, int]]) -> None:
    log = Log(Bytes)
    for what, which, count in plan:
        if what == "write":
            waiting = log.gated
            assert log.write(which, count) == (waiting + count) // SIZE * SIZE
        elif what == "release":
            others = log.gated - log.sources[which].gated
            log.tock.release(log.sources[which])
            assert not log.sources[which].gated
            assert log.gated == others
        else:
            log.pass_time(which / 1000)
        log.check()
        assert all(log.now < at + WAIT for _, _, at in log.held)


@given(steps)
def test_datagrams_are_not_divided_for_it(plan: list[tuple[str, int, int]]) -> None:
    log = Log(Datagrams)
    for what, which, count in plan:
        if what == "write":
            waiting = log.gated
            went = log.write(which, count)
            assert went > 0 or waiting + count < SIZE
        elif what == "release":
            log.tock.release(log.sources[which])
        else:
            log.pass_time(which / 1000)
        log.check()


def test_a_datagram_that_does_not_fit_waits_for_a_payload_of_its_own() -> None:
    log = Log(Datagrams)
    log.write(0, SIZE // 2)
    log.write(1, SIZE // 4)
    assert log.write(2, SIZE // 2) == SIZE // 2 + SIZE // 4
    assert log.write(0, SIZE // 2) == SIZE
    assert log.tock.deadline() == inf
    log.write(0, 1)
    assert log.write(1, 3 * SIZE) == 3 * SIZE + 1


def test_what_came_late_to_a_full_payload_waits_from_its_own_time() -> None:
    log = Log(Bytes)
    log.write(0, 1)
    log.pass_time(0.05)
    log.write(1, SIZE - 100)
    log.pass_time(0.04)
    assert log.write(0, 200) == SIZE
    assert log.tock.deadline() == pytest.approx(NOW + 0.09 + WAIT)


def test_what_was_released_counts_for_no_payload() -> None:
    log = Log(Bytes)
    log.write(0, SIZE - 1)
    log.tock.release(log.sources[0])
    assert log.tock.deadline() == inf
    assert log.write(1, SIZE - 1) == 0
    log.tock.release(log.sources[2])
    assert log.write(1, 1) == SIZE


# ---------------------------------------------------------------------------------------- Tock and streams


def held_back() -> Pair:
    """Two ends that hold back what does not fill a payload."""
    pair = Pair()
    pair.ends = [End(client, Handling(size=SIZE, tock=WAIT)) for client in (True, False)]
    return pair


def sizes(shots: list[Shot]) -> list[int]:
    return [sum(chunk.size for chunk in shot.chunks) for shot in shots]


def test_a_stream_is_opened_at_once_and_its_first_bytes_wait() -> None:
    end = held_back().ends[0]
    stream = end.table.open()
    assert sizes(end.shots()) == [0]
    stream.write(b"x")
    stream.write(bytes(9))
    end.shared.tock.run(NOW)
    assert end.shot() is None
    assert end.shared.tock.deadline() == NOW + WAIT
    end.shared.tock.run(NOW + WAIT)
    assert sizes(end.shots()) == [10]


def test_full_payloads_go_at_once_and_the_rest_waits() -> None:
    end = held_back().ends[0]
    stream = end.table.open()
    stream.write(bytes(2 * SIZE + 300))
    assert sizes(end.shots()) == [SIZE, SIZE]
    stream.write(bytes(SIZE - 300))
    assert sizes(end.shots()) == [SIZE]


def test_two_streams_fill_a_payload_together() -> None:
    end = held_back().ends[0]
    one, other = end.table.open(), end.table.open()
    end.shots()
    one.write(bytes(SIZE - 1))
    assert end.shot() is None
    other.write(bytes(2))
    assert sizes(end.shots()) == [SIZE]
    assert (one.gated, other.gated) == (0, 1)


def test_the_last_bytes_and_the_end_do_not_wait() -> None:
    end = held_back().ends[0]
    stream, other = end.table.open(), end.table.open()
    end.shots()
    other.write(b"waits")
    end.shared.tock.run(NOW)
    stream.write(b"last")
    stream.finish()
    (shot,) = end.shots()
    assert [(chunk.source.id, chunk.data, chunk.fin) for chunk in shot.chunks] == [(stream.id, b"last", True)]
    assert end.shared.tock.deadline() == NOW + WAIT


def test_a_reset_goes_at_once_and_what_it_drops_is_held_no_more() -> None:
    end = held_back().ends[0]
    stream = end.table.open()
    end.shots()
    stream.write(bytes(SIZE - 1))
    stream.reset()
    (shot,) = end.shots()
    assert shot.control
    assert end.shared.tock.deadline() == inf
    other = end.table.open()
    end.shots()
    other.write(bytes(SIZE - 1))
    assert end.shot() is None


def test_a_payload_that_the_window_leaves_no_room_for_does_not_wait() -> None:
    size = 2 * INITIAL_WINDOW
    end = End(True, Handling(size=size, tock=WAIT))
    stream = end.table.open()
    end.shots()
    stream.write(bytes(stream.room - 1))
    assert end.shot() is None
    stream.write(b"x")
    assert sizes(end.shots()) == [INITIAL_WINDOW]


def test_what_was_lost_is_sent_again_in_spite_of_what_is_held_back() -> None:
    end = held_back().ends[0]
    stream = end.table.open()
    stream.write(bytes(SIZE))
    (shot,) = end.shots()
    stream.write(b"waits")
    end.lost(shot)
    (again,) = end.shots()
    assert [(chunk.offset, chunk.size) for chunk in again.chunks] == [(0, SIZE)]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(0, 3), st.integers(1, 3 * SIZE)),
            st.tuples(st.just("write"), st.integers(0, 3), st.integers(1, 50)),
            st.tuples(st.sampled_from(["finish", "reset", "lose"]), st.integers(0, 3), st.just(0)),
            st.tuples(st.just("pass"), st.just(0), st.integers(1, 150)),
            st.tuples(st.just("deliver"), st.just(0), st.integers(0, 5)),
        ),
        max_size=50,
    )
)
def test_streams_arrive_whole_and_nothing_waits_longer_than_a_tock(plan: list[tuple[str, int, int]]) -> None:
    pair = held_back()
    streams = [pair.open() for _ in range(4)]
    sent = [b""] * 4
    arrived = [b""] * 4
    ended: set[int] = set()
    now = NOW

    def settle() -> None:
        pair.settle()
        for which, (_, receiver) in enumerate(streams):
            arrived[which] += read(receiver)

    for what, which, count in plan:
        sender: Stream = streams[which][0]
        if what == "write" and sender.room:
            data = bytes([which]) * min(count, sender.room)
            sender.write(data)
            sent[which] += data
        elif what == "finish":
            sender.finish()
            ended.add(which)
        elif what == "reset":
            sender.reset()
            sent[which] = b""
            ended.add(which)
        elif what == "pass":
            now += count / 1000
            pair.ends[0].shared.tock.run(now)
        elif what == "lose" and pair.under_way:
            pair.lose(which % len(pair.under_way))
        elif what == "deliver":
            settle()
        tock = pair.ends[0].shared.tock
        tock.run(now)
        pair.send()
        assert sum(stream.gated for stream, _ in streams) < SIZE
        assert now <= tock.deadline() <= now + WAIT or tock.deadline() == inf
        assert all(not streams[which][0].gated for which in ended)
    pair.ends[0].shared.tock.run(now + WAIT)
    settle()
    for which in range(4):
        if sent[which]:
            assert arrived[which] == sent[which]


# ---------------------------------------------------------------------------------------------------- Beats


class Member:
    """Notes when it was called, and asks to be called again as it is told."""

    def __init__(self, beats: Beats, order: list[Member] | None = None) -> None:
        self.beat_at = inf
        self.beats = beats
        self.order = [] if order is None else order
        self.calls: list[float] = []
        self.again = 0.0

    def on_beat(self, now: float) -> None:
        assert self.beat_at == inf
        self.calls.append(now)
        self.order.append(self)
        if self.again:
            self.beats.at(self, now + self.again)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("at"), st.integers(0, 4), st.integers(0, 20)),
            st.tuples(st.just("never"), st.integers(0, 4), st.just(0)),
            st.tuples(st.just("run"), st.integers(0, 4), st.integers(0, 10)),
        ),
        max_size=100,
    )
)
def test_each_is_called_once_at_the_time_that_was_set_last(plan: list[tuple[str, int, int]]) -> None:
    beats = Beats()
    members = [Member(beats) for _ in range(5)]
    due: dict[Member, float] = {}
    now = NOW
    for what, which, count in plan:
        if what == "run":
            now += count
            late = {member for member, when in due.items() if when <= now}
            before = {member: len(member.calls) for member in members}
            beats.run(now)
            assert {member for member in members if len(member.calls) > before[member]} == late
            assert all(len(member.calls) == before[member] + 1 for member in late)
            for member in late:
                del due[member]
            assert beats.deadline() > now
        elif what == "at":
            due[members[which]] = now + count
            beats.at(members[which], now + count)
        else:
            due.pop(members[which], None)
            beats.at(members[which], inf)
        assert {member: member.beat_at for member in members} == {member: due.get(member, inf) for member in members}
        assert beats.deadline() == min(due.values(), default=inf)


def test_they_are_called_in_the_order_of_their_times() -> None:
    beats = Beats()
    order: list[Member] = []
    members = [Member(beats, order) for _ in range(4)]
    for member, when in zip(members, (3.0, 1.0, 2.0, 1.0), strict=True):
        beats.at(member, when)
    beats.run(10.0)
    assert [members.index(member) for member in order] == [1, 3, 2, 0]


def test_who_asks_again_in_its_call_is_called_then() -> None:
    beats = Beats()
    member = Member(beats)
    member.again = 0.5
    beats.at(member, NOW)
    for step in range(11):
        beats.run(NOW + step / 4)
    assert member.calls == [NOW, NOW + 0.5, NOW + 1.0, NOW + 1.5, NOW + 2.0, NOW + 2.5]


def test_timers_that_were_moved_do_not_pile_up() -> None:
    beats = Beats()
    members = [Member(beats) for _ in range(10)]
    for step in range(10_000):
        beats.at(members[step % 10], NOW + 1000 + step)
        if step % 3:
            beats.at(members[step % 10], inf)
    assert len(beats._heap) <= 2 * 10 + DEAD_BEATS
    for member in members:
        beats.at(member, NOW + 1)
    beats.run(NOW + 1)
    assert [member.calls for member in members] == [[NOW + 1]] * 10
