"""What flows hold at most, and for how long: each cap at its value and one beyond it."""

import pytest
from flow_ends import End, Pair, frame, noise, server

from tcsplitter import datagrams, flows
from tcsplitter.datagrams import DATAGRAM_WEIGHT, MAX_PARTIAL_BYTES, MAX_PARTIALS, PIECE_WEIGHT
from tcsplitter.flows import FORWARD_BYTES, MAX_FLOWS, MAX_QUEUED, QUEUE_BYTES, QUEUE_SECONDS
from tcsplitter.options import Playout
from tcsplitter.shared import Handling


def sent(end: End) -> list[bytes]:
    """What leaves, each datagram as a whole."""
    return [each[7] for shot in end.shots() for each in shot.frames]


def test_bytes_of_a_queue() -> None:
    client = End(True, Handling(size=65_536))
    flow = client.open()
    load = [noise(QUEUE_BYTES // 8 - DATAGRAM_WEIGHT, seed) for seed in range(8)]
    client.send(flow, *load)
    assert flow.weight == QUEUE_BYTES == client.table.waiting
    assert client.counted == {}
    client.send(flow, b"")
    assert client.counted == {"datagrams_dropped": 1}
    assert sent(client) == load[1:] + [b""], "the oldest one"
    assert flow.weight == client.table.waiting == flow.unsent == client.shared.sending.unsent == 0


def test_empty_datagrams_fill_a_queue_too() -> None:
    client = End(True)
    client.send(client.open(), *[b""] * (QUEUE_BYTES // DATAGRAM_WEIGHT + 1))
    assert client.counted == {"datagrams_dropped": 1}


def test_a_datagram_of_which_a_part_was_sent_is_not_dropped() -> None:
    pair = Pair(Handling(size=60_000))
    client, other = pair.ends
    flow = client.open()
    load = [noise(65_000, seed) for seed in range(6)]
    client.send(flow, load[0])
    first = client.shot()
    assert first is not None
    client.send(flow, *load[1:])
    pair.deliver(0, first)
    pair.settle()
    assert other.came[0] == [load[0], *load[3:]]
    assert client.counted == {"datagrams_sent": 4, "datagrams_dropped": 2}


def test_what_tock_holds_back_is_bounded_as_well() -> None:
    client = End(True, Handling(size=1_000_000, tock=5.0))
    flow = client.open()
    load = [noise(QUEUE_BYTES // 5, seed) for seed in range(6)]
    client.send(flow, *load)
    assert client.counted == {"datagrams_dropped": 2}
    client.pass_time(5.0)
    assert sent(client) == load[2:]
    assert not flow.gated


@pytest.mark.parametrize(("late", "dropped"), [(0.0, 0), (0.001, 1)])
def test_seconds_in_a_queue(late: float, dropped: int) -> None:
    client = End(True)
    flow = client.open()
    client.send(flow, b"while the session is made")
    client.pass_time(30.0)
    assert sent(client) == [b"while the session is made"], "what waits for that waits for as long as it takes"
    client.send(flow, b"datagram")
    client.pass_time(QUEUE_SECONDS + late)
    assert sent(client) == [b"datagram"] * (not dropped)
    assert client.counted.get("datagrams_dropped", 0) == dropped


def test_bytes_of_all_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "MAX_QUEUED", 100_000)
    client = End(True)
    first, second, third = (client.open() for _ in range(3))
    client.send(first, bytes(50_000 - DATAGRAM_WEIGHT))
    client.send(second, bytes(25_000 - DATAGRAM_WEIGHT), bytes(25_000 - DATAGRAM_WEIGHT))
    assert client.counted == {}
    client.send(second, b"")
    assert client.counted == {"datagrams_dropped": 1}, "the oldest of the flow that wants more"
    client.send(third, bytes(30_000))
    assert client.counted == {"datagrams_dropped": 2}
    assert (first.weight, third.weight) == (50_000, 0)
    assert MAX_QUEUED == 32 * 1024 * 1024


def test_bytes_that_wait_to_be_forwarded(monkeypatch: pytest.MonkeyPatch) -> None:
    other = server(playout=Playout(beat=1.0))
    weight = 32_768
    count = FORWARD_BYTES // weight
    other.take(*(frame(number, b"%05d" % number + bytes(weight - DATAGRAM_WEIGHT - 5)) for number in range(count)))
    assert (other.table.came, other.counted) == (FORWARD_BYTES, {"datagrams_received": count})
    other.take(frame(count, b""))
    assert other.counted == {"datagrams_received": count + 1, "datagrams_dropped": 1}
    other.pass_time(1.0)
    assert other.came[0][0][:5] == b"00001"
    monkeypatch.setattr(flows, "MAX_QUEUED", other.table.came + DATAGRAM_WEIGHT)
    other.take(frame(0, b"", flow=1), frame(1, b"", flow=1))
    assert other.counted == {"datagrams_received": count + 3, "datagrams_dropped": 2}
    assert other.table.came == flows.MAX_QUEUED, "the oldest of the flow that got more gave way"


def test_beats_after_a_drop_let_go_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "FORWARD_BYTES", 3 * DATAGRAM_WEIGHT)
    other = server(playout=Playout(beat=1.0))
    other.take(*(frame(number, b"") for number in range(5)))
    for count in (1, 2, 3, 3, 3):
        other.pass_time(1.0)
        assert len(other.came[0]) == count
    other.take(frame(5, b"last"))
    other.pass_time(1.0)
    assert other.came[0][3:] == [b"last"]


def test_flows_of_a_client() -> None:
    client = End(True)
    opened = [client.open() for _ in range(MAX_FLOWS)]
    assert client.table.open() is None
    client.shared.now += 60.0
    client.table.used(opened[0], client.shared.now)
    client.pass_time(0.0)
    assert len(client.table) == 1
    assert client.open().id == MAX_FLOWS


def test_flows_of_a_server() -> None:
    other = server()
    other.take(*(frame(0, flow=flow_id) for flow_id in range(MAX_FLOWS)))
    other.take(frame(0, flow=MAX_FLOWS))
    assert len(other.table) == len(other.came) == MAX_FLOWS
    assert other.counted == {"datagrams_received": MAX_FLOWS, "datagrams_dropped": 1}


def test_flows_that_ended_and_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "MAX_FLOWS", 3)
    other = server()
    for flow_id in range(4):
        other.take(frame(0, flow=flow_id))
        other.pass_time(60.0)
    other.take(frame(0, flow=1))
    assert other.came[1] == [b"x"]
    other.take(frame(0, flow=0))
    assert other.came[0] == [b"x", b"x"], "the one that ended first is forgotten"


def test_how_many_datagrams_may_be_there_in_part() -> None:
    other = server()
    other.take(*(frame(number, b"a", 2) for number in range(MAX_PARTIALS)))
    assert other.counted == {}
    other.take(frame(MAX_PARTIALS, b"a", 2))
    assert other.counted == {"datagrams_lost": 1}
    other.take(frame(0, b"b", 2, 1), frame(1, b"b", 2, 1))
    assert other.came[0] == [b"ab"]
    assert other.counted == {"datagrams_lost": 1, "datagrams_received": 1}, "the oldest gave way, for good"
    other.pass_time(60.0)
    assert other.counted["datagrams_lost"] == MAX_PARTIALS
    assert other.balanced()


def test_bytes_of_datagrams_that_are_there_in_part() -> None:
    other = server()
    size = 65_536 - PIECE_WEIGHT
    count = MAX_PARTIAL_BYTES // 65_536
    other.take(*(frame(number, b"a", size, flow=number % 2) for number in range(count)))
    assert other.counted == {}
    other.take(frame(count - 1, b"b", size, 7, flow=(count - 1) % 2))
    assert other.counted == {"datagrams_lost": 1}, "each separate piece counts"
    assert 0 in other.flow(0).numbers


def test_ranges_of_numbers_of_all_flows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "MAX_RANGES", 20)
    other = server()
    other.take(*(frame(number, flow=0) for number in range(0, 20, 2)))
    other.take(*(frame(number, flow=1) for number in range(0, 20, 2)))
    assert [len(flow.numbers) for flow in other.table] == [10, 10]
    other.take(frame(20, flow=1))
    assert [len(flow.numbers) for flow in other.table] == [10, 1]
    assert other.table.ranges == 11
    other.pass_time(60.0)
    assert other.table.ranges == 0
    assert datagrams.MAX_RANGES == 65_536
