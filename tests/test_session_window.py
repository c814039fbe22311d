"""What streams share when all of them want to send: the window of the session, and who is read from ahead."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stream_ends import SIZE, End, Pair, read

from tcsplitter import credit, streams
from tcsplitter._core import CREDIT, STREAM
from tcsplitter.credit import INITIAL_WINDOW
from tcsplitter.errors import RemoteProtocolError
from tcsplitter.options import Retries
from tcsplitter.shared import MAX_UNSENT, Handling
from tcsplitter.streams import MAX_WHOLE, Stream

WINDOW = 12_000
UNREPLACED = Retries(resend=False, skip=0)


@pytest.fixture(autouse=True)
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credit, "SESSION_WINDOW", WINDOW)
    monkeypatch.setattr(credit, "SESSION_SHARE", 0)
    monkeypatch.setattr(credit, "FEW_LEFT", WINDOW // 4)


def full_end(count: int, handling: Handling | None = None) -> tuple[End, Stream, list[Stream]]:
    """An end with a stream that uses the window up, and so many others."""
    end = End(client=True, handling=handling)
    greedy = end.table.open()
    greedy.write(bytes(WINDOW))
    others = [end.table.open() for _ in range(count)]
    for shot in end.shots():
        end.acked(shot)
    end.news.clear()
    return end, greedy, others


def test_more_credit_is_told_in_the_order_in_which_streams_found_no_room() -> None:
    end, _, others = full_end(4)
    order = [others[at] for at in (2, 0, 3, 1)]
    assert [stream.room for stream in order] == [0] * 4
    end.take((CREDIT, 2 * WINDOW))
    assert list(end.news) == order


def test_more_credit_does_not_wake_who_does_not_wait_for_it() -> None:
    end, _, _ = full_end(4)
    end.take((CREDIT, 2 * WINDOW))
    assert not end.news


def test_who_was_told_and_found_no_room_again_waits_behind_the_others() -> None:
    end, _, (first, second) = full_end(2)
    assert first.room == second.room == 0
    end.take((CREDIT, 2 * WINDOW))
    first.write(bytes(WINDOW))
    end.news.clear()
    assert second.room == first.room == 0
    end.take((CREDIT, 3 * WINDOW))
    assert list(end.news) == [second, first]


def test_what_is_dropped_unsent_makes_room_for_others() -> None:
    end = End(client=True)
    greedy, other = end.table.open(), end.table.open()
    greedy.write(bytes(WINDOW))
    assert other.room == 0
    end.news.clear()
    greedy.reset()
    assert other in end.news
    assert other.room == WINDOW


def test_less_than_a_payload_is_no_room_where_payloads_are_kept_whole() -> None:
    end = End(client=True, handling=Handling(size=SIZE, retries=UNREPLACED))
    greedy, other = end.table.open(), end.table.open()
    greedy.write(bytes(WINDOW - SIZE + 1))
    assert other.room == 0
    end.news.clear()
    end.take((CREDIT, WINDOW + SIZE))
    assert other in end.news


def test_what_was_written_beyond_the_window_goes_when_there_is_more() -> None:
    end, greedy, _ = full_end(0)
    greedy.write(b"x")
    assert not end.shots()
    end.take((CREDIT, WINDOW + 1))
    assert [frame[3] for shot in end.shots() for frame in shot.frames] == [b"x"]


def test_who_waits_for_room_is_forgotten_with_its_stream() -> None:
    end, _, (stream,) = full_end(1)
    assert stream.room == 0
    stream.finish()
    end.take((STREAM, stream.id, 0, b"", True))
    for shot in end.shots():
        end.acked(shot)
    assert end.table.get(stream.id) is None
    assert not end.shared.sending.held


def test_programs_that_send_whatever_they_may_all_get_on() -> None:
    pair = Pair()
    opened = [pair.open() for _ in range(10)]
    sending = pair.ends[0]
    ready = [stream for stream, _ in opened]
    written = dict.fromkeys(ready, 0)
    for _ in range(100):
        for stream in ready:
            written[stream] += (count := stream.room)
            stream.write(bytes(count))
        sending.news.clear()
        pair.settle()
        for _, at_server in opened:
            read(at_server)
        pair.settle()
        ready = list(sending.news)
    assert min(written.values()) > max(written.values()) / 2


def test_while_much_is_unsent_each_stream_is_read_ahead_by_a_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MANY_UNSENT", WINDOW // 2)
    end = End(client=True)
    first, second = end.table.open(), end.table.open()
    first.write(bytes(WINDOW // 2))
    assert second.room == WINDOW // 2
    first.write(b"x")
    assert (first.room, second.room) == (0, SIZE)
    second.write(bytes(SIZE))
    assert second.room == 0
    end.shots()
    assert first.room == second.room == WINDOW // 2 - SIZE - 1


# --- readers that stop after their windows have grown

LARGE = 40 * INITIAL_WINDOW


@pytest.fixture
def large_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credit, "SESSION_WINDOW", LARGE)
    monkeypatch.setattr(credit, "FEW_LEFT", LARGE // 4)


def write_all(stream: Stream, pair: Pair) -> int:
    """As much as there is room for."""
    written = 0
    while count := stream.room:
        stream.write(bytes(count))
        pair.settle()
        written += count
    return written


@pytest.mark.usefixtures("large_window")
@pytest.mark.parametrize("stopped", range(1, 5))
def test_however_much_readers_hold_those_that_read_go_on(stopped: int) -> None:
    pair = Pair()
    pairs = [pair.open() for _ in range(stopped)]
    for sender, at_server in pairs:  # each of them has read before it stops
        for _ in range(4):
            write_all(sender, pair)
            read(at_server)
            pair.settle()
    for sender, _ in pairs:
        write_all(sender, pair)
    held = pair.ends[1].shared.receiving.held
    assert LARGE * (0.7 - 0.6**stopped) < held
    going_on, at_server = pair.open()
    got = 0
    for _ in range(100):
        assert write_all(going_on, pair)
        got += len(read(at_server))
        pair.settle()
    assert got > LARGE


@pytest.mark.usefixtures("large_window")
@pytest.mark.parametrize("stopped", [2, 5, 10])
def test_readers_that_stop_with_much_under_way_hold_up_nobody(stopped: int) -> None:
    pair = Pair()
    pairs = [pair.open() for _ in range(stopped)]
    for _ in range(8):
        for reads in (True, False):  # what is sent meanwhile is not read when the credit comes
            for sender, _ in pairs:
                sender.write(bytes(sender.room))
            pair.send()
            while data := [at for at, (side, _) in enumerate(pair.under_way) if side == 0]:
                pair.deliver(data[0])
            for _, at_server in pairs if reads else ():
                read(at_server)
            pair.send()
        pair.settle()
    for sender, _ in pairs:
        write_all(sender, pair)
    going_on, at_server = pair.open()
    for _ in range(100):
        assert write_all(going_on, pair)
        read(at_server)
        pair.settle()


@pytest.mark.usefixtures("large_window")
@pytest.mark.parametrize("read_at_first", [False, True])
@pytest.mark.parametrize("whole", [0, MAX_WHOLE])
def test_readers_that_stop_hold_up_nobody_however_many_they_are(read_at_first: bool, whole: int) -> None:
    pair = Pair(Handling(size=whole, retries=UNREPLACED) if whole else None)
    for _ in range(2 * LARGE // INITIAL_WINDOW):
        sender, at_server = pair.open()
        for _ in range(3 * read_at_first):
            write_all(sender, pair)
            read(at_server)
            pair.settle()
        assert write_all(sender, pair)
    assert pair.ends[1].shared.receiving.held > LARGE
    ways = pair.open(), pair.open()
    for size in (1, 1_000, INITIAL_WINDOW // 4 - 1, 50_000):
        for _ in range(40):
            for going_on, at_server in ways:
                room = going_on.room
                assert room
                going_on.write(bytes(min(room, size)))
                pair.settle()
                read(at_server)
                pair.settle()


@pytest.mark.usefixtures("large_window")
@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)  # it sets a constant
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 300_000), st.booleans()), max_size=40))
def test_who_reads_gets_room_whatever_others_do(steps: list[tuple[int, int, bool]]) -> None:
    """Streams 0 to 2 read no more once the steps are over; 3 to 5 do."""
    pair = Pair()
    opened = [pair.open() for _ in range(6)]
    for which, most, reads in steps:
        sender, at_server = opened[which]
        sender.write(bytes(min(most, sender.room)))
        pair.settle()
        if reads:
            read(at_server)
            pair.settle()
    for sender, _ in opened[:3]:
        write_all(sender, pair)
    for _ in range(3):
        for _, at_server in opened[3:]:
            read(at_server)
            pair.settle()
        for sender, _ in opened[3:]:
            assert sender.room
            sender.write(bytes(sender.room))
            pair.settle()
    receiving = pair.ends[1].shared.receiving
    for sender, _ in opened:
        sender.reset()
    pair.settle()
    assert receiving.held == 0


@pytest.mark.usefixtures("large_window")
def test_a_large_stream_leaves_to_others_what_it_takes() -> None:
    end = End(client=True)
    greedy, keystrokes = end.table.open(), end.table.open()
    end.take((CREDIT, LARGE + 2 * INITIAL_WINDOW))  # what two streams make the window larger
    greedy.raise_send_limit(2**40, 0)
    while count := greedy.room:
        greedy.write(bytes(count))
        end.shots()
    taken = end.shared.sending.total
    assert taken == pytest.approx(3 * LARGE / 8, abs=2 * SIZE)  # as much as it leaves beyond FEW_LEFT
    assert greedy in end.shared.sending.held
    assert keystrokes.room == INITIAL_WINDOW
    greedy.raise_send_limit(2**41, 3 * SIZE)
    assert SIZE <= greedy.room <= 3 * SIZE  # what was sent is not what was read
    greedy.raise_send_limit(2**42, taken)
    assert greedy.room == MAX_UNSENT
    with pytest.raises(RemoteProtocolError, match="read"):
        greedy.raise_send_limit(2**43, taken + 1)
