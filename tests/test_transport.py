"""Carriers' sockets on loopback, with an end that only takes notes."""

import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Generator
from selectors import EVENT_READ, EVENT_WRITE

import pytest
from loopback import CarrierHarness as Harness
from loopback import crowd, fill, known, read_all, reset, socket_of
from shots import seal

from tcsplitter import awaiting, transport
from tcsplitter._tcp import MOST_RECEIVED
from tcsplitter.carrier import Carrier, Op
from tcsplitter.modes import Kind
from tcsplitter.payload import LARGE, REUSED
from tcsplitter.program import SHOT_OVERHEAD


@pytest.fixture(params=[True, False], ids=["client", "server"])
def either(request: pytest.FixtureRequest) -> Generator[Harness, None, None]:
    harness = Harness(request.param)
    yield harness
    harness.close()


@pytest.fixture
def client() -> Generator[Harness, None, None]:
    harness = Harness(True)
    yield harness
    harness.close()


@pytest.fixture
def server() -> Generator[Harness, None, None]:
    harness = Harness(False)
    yield harness
    harness.close()


def tcp_info(sock: socket.socket, offset: int) -> int:
    """A 32-bit field of struct tcp_info (linux/tcp.h)."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int(struct.unpack_from("I", info, offset)[0])


def wait_readable(carrier: Carrier) -> None:
    """Wait until the carrier's kernel has something to read."""
    assert select.select([socket_of(carrier)], [], [], 10)[0]


def segments_in(sock: socket.socket) -> int:
    return tcp_info(sock, 140)


def is_reset(peer: socket.socket) -> bool:
    try:
        read_all(peer)
    except ConnectionResetError:
        return True
    return False


# --------------------------------------------------------------------------------------------- dialling


def test_a_reset_while_dialling_is_final(client: Harness) -> None:
    carrier = Carrier(Kind.FLING, 0.0)
    client.opened += crowd(client.service)
    client.do((Op.DIAL, carrier), (Op.RESET, carrier))
    client.wakes(5)
    assert not client.end.events
    assert not client.carriers.open


def test_what_is_written_while_dialling_goes_out_once_connected(client: Harness) -> None:
    carrier = Carrier(Kind.FLING, 0.0)
    waiting = crowd(client.service)
    client.do((Op.DIAL, carrier), (Op.WRITE, carrier, b"hello"), (Op.WRITE, carrier, b" shot"), (Op.SHUT, carrier))
    assert carrier.backlog == 10
    assert not client.end.events
    for sock in waiting:
        client.service.accept()[0].close()
        sock.close()
    with client.service.accept()[0] as peer:
        client.until(lambda: carrier.backlog == 0)
        assert read_all(peer) == b"hello shot"


def test_on_this_machine_a_dial_is_done_at_once(client: Harness) -> None:
    carrier = Carrier(Kind.FLING, 0.0)
    client.do((Op.DIAL, carrier), (Op.WRITE, carrier, b"shot"))
    assert client.end.events == [("connected", carrier)]
    with client.service.accept()[0] as peer:
        assert peer.recv(100) == b"shot"  # no wake in between


# ---------------------------------------------------------------------------------------------- writing


def test_the_last_write_before_a_close_leaves_at_once(either: Harness) -> None:
    carrier, peer = either.connect()
    either.do((Op.WRITE, carrier, b"shot"), (Op.CLOSE, carrier))
    assert read_all(peer) == b"shot"  # no wake in between
    assert not either.carriers.open


def test_a_write_is_tried_at_once(either: Harness) -> None:
    carrier, peer = either.connect()
    either.do((Op.WRITE, carrier, b"shot"))
    assert peer.recv(100) == b"shot"  # no wake in between
    assert carrier.backlog == 0


def test_what_the_kernel_does_not_take_is_queued_in_order(either: Harness) -> None:
    carrier, peer = either.connect()
    shots = [bytes([number]) * 1_000_000 for number in range(20)]
    either.do(*[(Op.WRITE, carrier, shot) for shot in shots], (Op.SHUT, carrier))
    assert 0 < carrier.backlog < 20_000_000
    received = bytearray()
    peer.setblocking(False)

    def drained() -> bool:
        try:
            piece = peer.recv(1_000_000)
        except BlockingIOError:
            return False
        received.extend(piece)
        return not piece

    either.until(drained)
    assert bytes(received) == b"".join(shots)
    assert carrier.backlog == 0


def test_the_queue_is_bounded(either: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "QUEUE_LIMIT", 1_000_000)
    carrier, peer = either.connect()
    while carrier.backlog == 0:
        either.do((Op.WRITE, carrier, bytes(100_000)))
    either.do((Op.WRITE, carrier, bytes(1_000_000 - carrier.backlog)))
    assert carrier.backlog == 1_000_000
    assert ("lost", carrier) not in either.end.events
    either.do((Op.WRITE, carrier, b"x"))
    assert ("lost", carrier) in either.end.events
    assert carrier.io is None
    peer.close()


@pytest.mark.parametrize(("op", "segments"), [(Op.WRITE, 1), (Op.TAIL, 2)])
def test_the_last_write_and_fin_share_a_segment_and_a_tail_has_one_of_its_own(either: Harness, op: Op, segments: int) -> None:
    carrier, peer = either.connect()
    before = segments_in(peer)
    either.do((Op.WRITE, carrier, b"shot"), (op, carrier, b"last"), (Op.SHUT, carrier))
    assert read_all(peer) == b"shotlast"
    assert segments_in(peer) == before + segments


def test_a_progress_report_counts_the_queue_and_the_kernel(either: Harness) -> None:
    carrier, peer = either.connect()
    either.do((Op.PROBE, carrier))
    assert either.end.events[-1] == ("progress", carrier, 0)
    while carrier.backlog < 100_000:
        either.do((Op.WRITE, carrier, bytes(100_000)))
    either.do((Op.PROBE, carrier))
    outstanding = either.end.events[-1][2]
    assert outstanding > carrier.backlog
    peer.close()


def test_a_write_to_a_broken_carrier_reports_it_lost_once(either: Harness) -> None:
    carrier, peer = either.connect()
    reset(peer)
    either.do((Op.WRITE, carrier, b"shot"), (Op.WRITE, carrier, b"shot"), (Op.SHUT, carrier))
    either.wakes(3)
    assert either.end.events.count(("lost", carrier)) == 1
    assert not either.carriers.open


# ---------------------------------------------------------------------------------------------- reading


def test_data_then_eof_in_one_wake_on_a_client_that_read_final(client: Harness) -> None:
    carrier, peer = client.connect()
    client.end.on_receive = lambda each: setattr(each, "rx_final", True)
    peer.sendall(b"shot")
    peer.shutdown(socket.SHUT_WR)
    client.reactor.wake()
    assert client.end.received[carrier] == b"shot"
    assert ("eof", carrier) in client.end.events


def test_eof_is_reported_once_and_writing_goes_on(either: Harness) -> None:
    carrier, peer = either.connect()
    peer.sendall(b"shot")
    peer.shutdown(socket.SHUT_WR)
    either.until(lambda: ("eof", carrier) in either.end.events)
    either.wakes(3)
    assert either.end.events.count(("eof", carrier)) == 1
    either.do((Op.WRITE, carrier, b"answer"))
    assert peer.recv(100) == b"answer"


def test_one_wake_reads_a_bounded_amount_of_a_carrier(either: Harness) -> None:
    carrier, peer = either.connect()
    sent = fill(peer)
    most = transport.RECV_ROUNDS * MOST_RECEIVED
    assert sent > most
    either.reactor.wake()
    assert 0 < len(either.end.received[carrier]) <= most
    either.until(lambda: len(either.end.received[carrier]) == sent)


def test_what_is_read_later_in_a_wake_is_not_taken_for_what_came_before_it(either: Harness) -> None:
    """Else its RTT would look shorter than the line's, and as long as that counts the line as if it had a queue."""
    pairs = [either.connect() for _ in range(2)]
    for carrier, peer in pairs:
        peer.sendall(b"shot")
        wait_readable(carrier)
    served: list[float] = []
    either.end.on_receive = lambda _carrier: served.append(either.reactor.clock())
    either.reactor.wake()
    first, second = either.end.times
    assert first <= served[0] <= second <= served[1]


@pytest.mark.parametrize("payload", [LARGE, REUSED])
def test_a_grown_payload_comes_in_one_read(payload: int) -> None:
    # What is left of a shot takes another read, and the whole is copied to put it together.
    assert payload + SHOT_OVERHEAD < MOST_RECEIVED


def test_a_carrier_that_the_protocol_closed_is_not_read_on(either: Harness) -> None:
    carrier, peer = either.connect()
    either.end.on_receive = lambda each: setattr(each, "closed", True)
    fill(peer)
    either.reactor.wake()
    assert len(either.end.received[carrier]) <= MOST_RECEIVED


def test_a_reset_is_reported_as_lost(either: Harness) -> None:
    carrier, peer = either.connect()
    reset(peer)
    either.until(lambda: ("lost", carrier) in either.end.events)
    assert carrier.io is None


def test_paused_carriers_are_not_read_except_those_that_may(either: Harness) -> None:
    stopped, stopped_peer = either.connect()
    allowed, allowed_peer = either.connect()
    either.end.reading_paused = True
    either.carriers.settle(either.reactor.now)
    either.end.readable = {allowed}
    for peer in (stopped_peer, allowed_peer):
        peer.sendall(b"shot")
    either.until(lambda: allowed in either.end.received)
    either.wakes(5)
    assert stopped not in either.end.received
    either.end.reading_paused = False
    either.carriers.settle(either.reactor.now)
    either.until(lambda: stopped in either.end.received)


def test_a_paused_carrier_that_may_be_read_later_is_read(either: Harness) -> None:
    carrier, peer = either.connect()
    either.end.reading_paused = True
    either.carriers.settle(either.reactor.now)
    peer.sendall(b"shot")
    either.wakes(5)
    assert not either.end.received
    either.end.readable = {carrier}
    either.until(lambda: either.end.received)


def test_a_paused_carrier_that_is_being_closed_is_not_read_when_there_is_room(server: Harness) -> None:
    """Nobody would take what there is to read, so it would stay readable for as long as the queue lasts."""
    carrier, peer = server.connect()
    server.do((Op.WRITE, carrier, bytes(20_000_000)))
    assert carrier.backlog
    server.end.reading_paused = True
    server.carriers.settle(server.reactor.now)
    peer.sendall(b"more")
    server.until(lambda: not carrier.io.events & EVENT_READ)
    server.do((Op.CLOSE, carrier, b""))
    server.end.reading_paused = False
    server.carriers.settle(server.reactor.now)
    assert carrier.io.events == EVENT_WRITE


def test_caps_are_looked_at_within_a_wake(either: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "CAP_CHECK", 10_000)
    pairs = [either.connect() for _ in range(10)]
    either.end.on_receive = lambda _carrier: setattr(either.end, "reading_paused", True)
    for _, peer in pairs:
        peer.sendall(bytes(5000))
    for carrier, _ in pairs:
        wait_readable(carrier)
    either.reactor.wake()
    assert 1 <= len(either.end.received) <= 2
    either.end.reading_paused = False
    either.end.on_receive = lambda _carrier: None
    either.carriers.settle(either.reactor.now)
    either.until(lambda: len(either.end.received) == 10)


def test_discarding_reports_nothing(server: Harness) -> None:
    carrier, peer = server.connect()
    server.do((Op.DISCARD, carrier))
    peer.sendall(bytes(200_000))
    peer.shutdown(socket.SHUT_WR)
    server.wakes(20)
    assert not server.end.received
    assert not server.end.events
    server.do((Op.CLOSE, carrier))
    server.wakes(1)
    assert read_all(peer) == b""


def feeding(harness: Harness) -> list[int]:
    """Let what comes be cut into shots, as sessions do; the sizes in which it comes."""
    sizes: list[int] = []
    fed: Counter[Carrier] = Counter()

    def feed(carrier: Carrier) -> None:
        fresh = harness.end.received[carrier][fed[carrier] :]
        sizes.append(len(fresh))
        fed[carrier] += len(fresh)
        carrier.reader.feed(fresh)

    harness.end.on_receive = feed
    return sizes


def dribble(harness: Harness, peer: socket.socket, data: bytes) -> None:
    """Send it in small segments, and serve after each what is ready."""
    for start in range(0, len(data), 500):
        peer.sendall(data[start : start + 500])
        harness.wakes(1)


def test_a_shot_that_comes_in_segments_is_read_when_it_is_whole(either: Harness) -> None:
    """And what follows on the same carrier when it comes, however short."""
    _carrier, peer = either.connect()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sizes = feeding(either)
    first, second, short = seal(bytes(10_000)), seal(bytes(9_000)), seal(bytes(10))
    dribble(either, peer, first)
    either.until(lambda: sum(sizes) == len(first))
    assert len(sizes) <= 3
    dribble(either, peer, second[:-1])
    either.wakes(2)
    assert sum(sizes) < len(first + second[:-1])
    peer.sendall(second[-1:] + short)
    either.until(lambda: sum(sizes) == len(first + second + short))
    peer.sendall(short)
    either.until(lambda: sum(sizes) == len(first + second + short + short))


def test_what_comes_of_a_long_shot_is_heard_of_now_and_then(either: Harness) -> None:
    """A carrier from which nothing is heard for seconds is given up; this one is only slow."""
    _carrier, peer = either.connect()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sizes = feeding(either)
    shot = seal(bytes(200_000))
    dribble(either, peer, shot)
    either.until(lambda: sum(sizes) == len(shot))
    assert len(shot) / transport.MOST_AWAITED <= len(sizes) <= len(shot) / transport.MOST_AWAITED + 4
    assert max(sizes) < 2 * transport.MOST_AWAITED


def test_a_slow_shot_is_heard_of_however_little_comes(either: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaiting, "LOOK_EVERY", 0.05)
    carrier, peer = either.connect()
    sizes = feeding(either)
    shot = seal(bytes(10_000))
    for end in (3_000, 3_001, 4_000):
        peer.sendall(shot[sum(sizes) : end])
        either.until(lambda: sum(sizes) == end)  # noqa: B023
    other, other_peer = either.connect()
    other_peer.sendall(shot[:100])  # beside one that is cut off while it waits
    either.do((Op.RESET, carrier))
    peer.close()
    either.until(lambda: other in either.end.received)
    assert sum(sizes) == 4_100
    assert list(either.carriers.awaiting._all) == [other.io]


def test_what_a_shot_lacks_after_a_full_read_is_waited_for_anew(either: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaiting, "LOOK_EVERY", 60.0)
    carrier, peer = either.connect()
    sizes = feeding(either)
    pieces = [3_000, MOST_RECEIVED, 5_000]
    shot = seal(bytes(sum(pieces) - len(seal(b""))))
    with known(socket_of(carrier)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 400_000)
        for size in pieces:
            start = sum(sizes)
            peer.sendall(shot[start : start + size])
            limit = time.monotonic() + 10
            while len(sock.recv(size, socket.MSG_PEEK)) < size:
                assert time.monotonic() < limit
            either.until(lambda: sum(sizes) == start + size)  # noqa: B023
    assert sizes == pieces


def test_the_end_of_a_half_that_is_cut_short_is_noticed_at_once(either: Harness) -> None:
    carrier, peer = either.connect()
    sizes = feeding(either)
    shot = seal(bytes(10_000))
    peer.sendall(shot[:3_000])
    either.until(lambda: sum(sizes) == 3_000)
    peer.sendall(shot[3_000:4_000])
    peer.shutdown(socket.SHUT_WR)
    either.until(lambda: ("eof", carrier) in either.end.events)
    assert sum(sizes) == 4_000


# ---------------------------------------------------------------------------------------------- closing


def test_close_sends_what_is_queued_first(server: Harness) -> None:
    carrier, peer = server.connect()
    total = 0
    while carrier.backlog < 1_000_000:
        server.do((Op.WRITE, carrier, bytes(500_000)))
        total += 500_000
    server.do((Op.CLOSE, carrier))
    assert server.carriers.open
    received = 0
    peer.setblocking(False)

    def ended() -> bool:
        nonlocal received
        try:
            piece = peer.recv(1_000_000)
        except BlockingIOError:
            return False
        received += len(piece)
        return not piece

    server.until(ended)
    assert received == total
    assert not server.carriers.open
    assert not server.end.events


def test_the_server_closes_in_order(server: Harness) -> None:
    carrier, peer = server.connect()
    server.do((Op.WRITE, carrier, b"shot"), (Op.CLOSE, carrier))
    server.wakes(1)
    assert read_all(peer) == b"shot"
    assert carrier.io is None


def test_the_client_resets_what_the_other_kernel_has_taken(client: Harness) -> None:
    carrier, peer = client.connect()
    client.do((Op.WRITE, carrier, b"shot"))
    assert peer.recv(100) == b"shot"
    client.until(lambda: socket_of(carrier).unacknowledged() == 0)
    client.do((Op.CLOSE, carrier))
    client.wakes(1)
    assert is_reset(peer)


def test_the_client_does_not_reset_while_data_is_under_way(client: Harness) -> None:
    carrier, peer = client.connect()
    while not carrier.backlog:
        client.do((Op.WRITE, carrier, bytes(100_000)))
    client.do((Op.CLOSE, carrier))
    peer.setblocking(False)
    ended = False

    def read() -> bool:
        nonlocal ended
        try:
            ended = not peer.recv(1_000_000)
        except BlockingIOError:
            return False
        return ended

    client.until(read)
    assert ended


def test_reset_drops_the_queue_and_resets(either: Harness) -> None:
    carrier, peer = either.connect()
    while not carrier.backlog:
        either.do((Op.WRITE, carrier, bytes(100_000)))
    either.do((Op.RESET, carrier))
    either.wakes(1)
    assert carrier.backlog == 0
    assert is_reset(peer)
    assert not either.carriers.open


def test_nothing_is_reported_after_close(either: Harness) -> None:
    carrier, peer = either.connect()
    peer.sendall(b"late")
    either.do((Op.CLOSE, carrier))
    either.wakes(3)
    assert not either.end.received
    assert [event for event in either.end.events if event[0] != "connected"] == []
