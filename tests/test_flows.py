"""Two tables of flows, joined by a channel that loses, reorders and repeats: lost payloads, deadlines, the pace, and the end."""

from collections import Counter

import pytest
from flow_ends import MOST, NOW, SIZE, End, Frame, Pair, frame, noise, server
from hypothesis import example, given
from hypothesis import strategies as st

from tcsplitter._core import MAX_DATAGRAM
from tcsplitter.flows import CLOCK_SECONDS, QUEUE_SECONDS
from tcsplitter.options import Playout, Retries
from tcsplitter.scheduler import MAX_CHUNKS
from tcsplitter.shared import Handling

BOUNDARIES = (0, 1, SIZE - 1, SIZE, SIZE + 1, 2 * SIZE, MAX_DATAGRAM - 1, MAX_DATAGRAM)
STEPS = st.tuples(
    st.sampled_from(["send", "send", "ship", "deliver", "deliver", "repeat", "lose", "lose and vanish"]),
    st.integers(0, 5),
    st.integers(0, 3 * SIZE),
)


@given(st.lists(STEPS, max_size=60))
@example([("send", 0, SIZE + 1), ("ship", 0, 0), ("lose", 1, 0), ("deliver", 0, 0), ("ship", 0, 0), ("deliver", 0, 0)])
def test_each_datagram_arrives_once_and_unaltered(steps: list[tuple[str, int, int]]) -> None:
    pair = Pair()
    client, other = pair.ends
    flows = [client.open() for _ in range(3)]
    client.send(flows[0], b"hello")
    pair.settle()
    sent: list[dict[int, list[bytes]]] = [{flow.id: [] for flow in flows} for _ in pair.ends]
    under_way = []
    for what, which, size in steps:
        side, flow_id = which % 2, which // 2
        if what == "send" and any(flow.id == flow_id for flow in pair.ends[side].table):
            datagram = noise(size, len(sent[side][flow_id]))
            sent[side][flow_id].append(datagram)
            pair.ends[side].send(pair.ends[side].flow(flow_id), datagram)
        elif what == "ship":
            under_way += pair.send()
        elif under_way:
            side, shot = under_way[which % len(under_way)]
            if what in ("deliver", "repeat"):
                pair.deliver(side, shot)
            else:
                pair.ends[side].lost(shot)
            if what in ("deliver", "lose and vanish"):
                under_way.remove((side, shot))
    for side, shot in under_way:
        pair.deliver(side, shot)
    pair.settle()
    sent[0][0].append(b"hello")
    for side, end in enumerate(pair.ends):
        for flow_id, datagrams in sent[side].items():
            assert Counter(pair.ends[1 - side].came.get(flow_id, [])) == Counter(datagrams)
        assert end.balanced()
        assert set(end.counted) <= {"datagrams_sent", "datagrams_received", "payloads_resent"}
        assert end.counted.get("datagrams_sent", 0) == sum(map(len, sent[side].values()))
    assert not other.table.reassembly.deadline() < NOW + 1e9


@pytest.mark.parametrize("size", BOUNDARIES)
def test_every_size(size: int) -> None:
    pair = Pair()
    flow = pair.ends[0].open()
    pair.ends[0].send(flow, noise(size, 1))
    pair.settle()
    pair.ends[1].send(pair.ends[1].flow(), noise(size, 2))
    pair.settle()
    assert [end.came for end in pair.ends] == [{0: [noise(size, 2)]}, {0: [noise(size, 1)]}]


# ------------------------------------------------------------------------------------ payloads


def test_small_datagrams_share_a_payload_and_longer_ones_are_not_cut() -> None:
    client = End(True)
    flows = [client.open(), client.open()]
    for flow, size in ((flows[0], 300), (flows[1], 300), (flows[0], 300), (flows[1], 101)):
        client.send(flow, bytes(size))
    assert sorted(sorted(piece.size for piece in shot.pieces) for shot in client.shots()) == [[101], [300, 300, 300]]


def test_many_empty_datagrams_keep_to_the_limit_of_a_body() -> None:
    client, other = End(True), End(False)
    client.send(client.open(), *[b""] * (MOST + 10))
    shots = client.shots()
    assert max(len(shot.pieces) for shot in shots) == MAX_CHUNKS
    for shot in shots:
        other.take(*shot.frames)
    assert other.came[0] == [b""] * (MOST + 10)


def test_a_longer_datagram_fills_what_is_left_of_a_payload() -> None:
    client = End(True)
    client.send(client.open(), bytes(900), bytes(SIZE + 1), bytes(99))
    assert [[piece.size for piece in shot.pieces] for shot in client.shots()] == [[900, 100], [901, 99]]


# -------------------------------------------------------------------------------- lost payloads


def lose(end: End, flow_id: int = 0) -> list[Frame]:
    """Take all that is to be sent for lost; the frames of what is sent again."""
    for shot in end.shots():
        end.lost(shot)
    return [each for shot in end.shots() for each in shot.frames if each[1] == flow_id]


@pytest.mark.parametrize(
    ("retries", "beat", "after", "again"),
    [
        (Retries(), 0.0, 3600.0, True),
        (Retries(resend=False), 0.0, 0.0, False),
        (Retries(resend=False, skip=5), 0.0, 0.0, False),
        (Retries(skip=5), 0.0, 0.05, True),
        (Retries(skip=5), 0.0, 0.0505, False),
        (Retries(skip=5), 0.25, 1.25, True),
        (Retries(skip=5), 0.25, 1.2505, False),
        (Retries(skip=0), 0.0, 0.0005, False),
    ],
)
def test_what_is_sent_again(retries: Retries, beat: float, after: float, again: bool) -> None:
    client = End(True, Handling(size=SIZE, retries=retries, playout=Playout(beat=beat), flow_idle=1e9))
    client.send(client.open(), b"datagram")
    (shot,) = client.shots()
    client.shared.now = NOW + after
    client.lost(shot)
    assert [each[7] for shot in client.shots() for each in shot.frames] == [b"datagram"] * again
    assert client.counted == {"datagrams_sent": 1} | ({"payloads_resent": 1} if again else {"payloads_given_up": 1})
    assert client.flow().unacknowledged == 8 * again


def test_what_became_old_while_it_waited_to_be_sent_again() -> None:
    client = End(True, Handling(size=SIZE, deadline=0.1))
    client.send(client.open(), b"datagram")
    (shot,) = client.shots()
    client.lost(shot)
    client.shared.now += 0.2
    assert not client.shots()
    assert client.counted == {"datagrams_sent": 1, "payloads_given_up": 1}
    assert client.balanced()


def test_what_was_acknowledged_meanwhile_is_not_sent_again() -> None:
    client = End(True)
    client.send(client.open(), b"datagram")
    (shot,) = client.shots()
    client.lost(shot)
    client.acked(shot)
    client.lost(shot)
    assert not client.shots()
    assert client.balanced()
    assert client.counted == {"datagrams_sent": 1}


def test_one_that_is_lost_holds_up_no_other() -> None:
    pair = Pair()
    client, other = pair.ends
    client.send(client.open(), b"first")
    (lost,) = client.shots()
    client.send(client.flow(), b"second")
    pair.settle()
    assert other.came[0] == [b"second"]
    client.lost(lost)
    pair.settle()
    assert other.came[0] == [b"second", b"first"]


# ------------------------------------------------------------------------------------ deadline


def test_deadline_at_the_sender() -> None:
    """What is older when its turn comes is not sent."""
    client = End(True, Handling(size=SIZE, deadline=0.125))
    flow = client.open()
    client.send(flow, b"old")
    client.shared.now += 0.0625
    client.send(flow, b"young")
    client.shared.now += 0.125
    assert [each[7] for shot in client.shots() for each in shot.frames] == [b"young"], "neither older nor at the deadline"
    assert client.counted == {"datagrams_sent": 1, "datagrams_dropped": 1}


@pytest.mark.parametrize("size", [8, 2 * SIZE + 1])
def test_deadline_at_the_receiver(size: int) -> None:
    pair = Pair(Handling(size=SIZE, deadline=0.1), Handling(size=SIZE))
    client, other = pair.ends
    other.shared.rtt = 0.04
    flow = client.open()
    for delay in (0.3, 0.35, 0.3795, 0.3805, 0.9):
        client.send(flow, noise(size, int(delay * 10_000)))
        for side, shot in pair.send():
            pair.later(delay, side, shot)
        pair.pass_time(1.0)
    assert other.came[0] == [noise(size, seed) for seed in (3000, 3500, 3795)], "the line's own 300 ms do not count"
    assert other.counted == {"datagrams_received": 3, "datagrams_late": 2}
    assert other.balanced()


def test_one_late_fragment_drops_all_of_them() -> None:
    other = server()
    other.shared.rtt = 0.0
    other.take(frame(0, b"quick", stamp=0))
    other.shared.now += 1.0
    other.take(frame(1, b"ab", 4, 0, stamp=950), frame(1, b"cd", 4, 2, stamp=100), frame(1, b"ab", 4, 0, stamp=950))
    assert other.came[0] == [b"quick"]
    assert other.counted == {"datagrams_received": 1, "datagrams_late": 1}
    assert other.balanced()


def test_what_is_quick_is_forgotten_in_time() -> None:
    """A line that became slower by 500 ms does not lose all of its datagrams for ever."""
    other = server()
    other.shared.rtt = 0.0
    arrived = []
    for second in range(100):
        other.shared.now = NOW + second + (0.5 if second > 5 else 0.0)
        other.take(frame(second, b"%d" % second, stamp=second * 1000))
        arrived.append(b"%d" % second in other.came[0])
    again = arrived.index(True, 7)
    assert arrived == [True] * 6 + [False] * (again - 6) + [True] * (100 - again)
    assert CLOCK_SECONDS <= again <= 2 * CLOCK_SECONDS + 2


def test_without_a_deadline_nothing_is_timed() -> None:
    client = End(True)
    client.send(client.open(), b"datagram")
    (shot,) = client.shots()
    assert shot.frames[0][3:5] == (-1, -1)


# ------------------------------------------------------------------------- tock, and the beat


def test_tock_holds_back_what_does_not_fill_a_payload() -> None:
    client = End(True, Handling(size=SIZE, tock=0.5))
    flows = [client.open(), client.open()]
    client.send(flows[0], bytes(400), b"")
    client.pass_time(0.25)
    client.send(flows[1], bytes(400))
    assert not client.shots()
    client.pass_time(0.25)
    assert [sorted(piece.size for piece in shot.pieces) for shot in client.shots()] == [[0, 400, 400]]
    assert not flows[0].gated + flows[1].gated + flows[0].weight + flows[1].weight


def test_a_full_payload_goes_at_once_and_takes_along_what_fits() -> None:
    client = End(True, Handling(size=SIZE, tock=0.5))
    flow = client.open()
    client.send(flow, bytes(400), bytes(400), bytes(400))
    assert [[piece.size for piece in shot.pieces] for shot in client.shots()] == [[400, 400]]
    assert flow.gated == 400
    client.send(flow, bytes(SIZE + 500))
    assert sum(piece.size for shot in client.shots() for piece in shot.pieces) == SIZE + 900
    assert flow.gated == 0


def test_the_age_of_what_tock_held_back_counts_from_when_it_may_go() -> None:
    client = End(True, Handling(size=SIZE, tock=0.5))
    flow = client.open()
    for waits, goes in ((0.0, True), (QUEUE_SECONDS, True), (QUEUE_SECONDS + 0.001, False)):
        client.send(flow, b"datagram")
        client.pass_time(0.5 + waits)
        assert len(client.shots()) == goes
    assert client.counted == {"datagrams_sent": 2, "datagrams_dropped": 1}


@pytest.mark.parametrize(("merge", "catch_up"), [(0, False), (2, False), (0, True)])
def test_the_beat_lets_datagrams_go_one_by_one(merge: int, catch_up: bool) -> None:
    other = server(playout=Playout(beat=0.5, merge=merge, catch_up=catch_up))
    other.take(frame(0, b"0"))
    assert not other.came
    times: list[int] = []
    for step in range(1, 13):
        if step == 8:
            other.take(*(frame(number, b"%d" % number) for number in range(1, 5)))
        other.pass_time(0.25)
        times += [step] * (len(other.came.get(0, [])) - len(times))
    assert other.came[0] == [b"0", b"1", b"2", b"3", b"4"][: len(times)]
    assert times == {(0, False): [2, 8, 10, 12], (2, False): [2, 8, 8, 10, 10], (0, True): [2, 8, 8, 8, 8]}[merge, catch_up]


# -------------------------------------------------------------------------------------- expiry


def test_a_flow_ends_by_silence_at_each_end() -> None:
    pair = Pair(Handling(flow_idle=1.0), Handling(flow_idle=2.0))
    client, other = pair.ends
    flow = client.open()
    for _ in range(5):
        client.send(flow, b"up")
        pair.settle()
        pair.pass_time(0.75)
    at_server = other.flow()
    other.send(at_server, b"down")
    pair.settle()
    pair.pass_time(0.999)
    assert not flow.closed, "what comes counts as well"
    pair.pass_time(0.001)
    assert (flow.closed, at_server.closed) == (True, False)
    other.send(at_server, b"too late")
    pair.settle()
    assert client.came[0] == [b"down"]
    assert client.counted["datagrams_dropped"] == 1
    pair.pass_time(2.0)
    assert at_server.closed
    assert len(client.table) == len(other.table) == 0
    assert client.deadline() == other.deadline() == float("inf")


def test_numbers_go_on_where_only_one_end_forgot_a_flow() -> None:
    pair = Pair(Handling(flow_idle=60.0), Handling(flow_idle=1.0))
    client, other = pair.ends
    flow = client.open()
    for _ in range(3):
        client.send(flow, b"up", b"up")
        (up,) = client.shots()
        pair.deliver(0, up)
        for word in (b"a", b"b", b"c"):
            other.send(other.flow(), word)
        pair.settle()
        ended = other.flow()
        pair.pass_time(2.0)
        assert ended.closed
        pair.deliver(0, up)
    assert other.came[0] == [b"up"] * 6, "nothing comes twice either"
    assert client.came[0] == [b"a", b"b", b"c"] * 3


def test_what_waits_in_a_flow_that_ends_is_dropped_and_counted() -> None:
    other = server(flow_idle=1.0, tock=9.0, playout=Playout(beat=5.0))
    other.take(frame(0), frame(1), frame(2, b"half", 8))
    flow = other.flow()
    other.send(flow, bytes(SIZE), bytes(SIZE), b"held")
    lost, under_way = other.shots()
    other.lost(lost)
    other.pass_time(1.0)
    assert flow.closed
    assert not other.shots()
    other.send(flow, b"too late")
    other.lost(under_way)
    assert not other.shots()
    assert other.balanced()
    assert not flow.readable
    expected = {"datagrams_received": 2, "datagrams_sent": 2, "datagrams_dropped": 3, "datagrams_lost": 1, "payloads_given_up": 2}
    assert other.counted == expected


def test_what_an_ended_flow_missed_does_not_come_any_more() -> None:
    other = server(flow_idle=1.0)
    other.take(frame(0), frame(2))
    other.pass_time(1.0)
    other.take(frame(1, b"late"), frame(4, b"four"), frame(3, b"three"))
    assert other.came[0] == [b"x", b"x", b"four", b"three"]
    assert len(other.table) == 1


def test_the_end_of_a_session_ends_all_flows() -> None:
    client = End(True)
    flows = [client.open() for _ in range(3)]
    client.send(flows[0], b"waits")
    client.table.abandon()
    assert all(flow.closed and flow in client.news for flow in flows)
    assert client.balanced()
