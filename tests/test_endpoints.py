"""Local sockets on one side, a stream that only takes notes on the other."""

import logging
import resource
import socket
from collections.abc import Callable, Generator
from contextlib import closing
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import Clock, FakeStream, crowd, fill, read_all, reset
from loopback import Harness as LoopbackHarness

from tcsplitter import endpoints, joint, net
from tcsplitter.endpoints import Endpoints, TcpDialler
from tcsplitter.joint import Joint
from tcsplitter.log import LimitedLog
from tcsplitter.net import Target
from tcsplitter.options import Address
from tcsplitter.reactor import boot_time
from tcsplitter.streams import REFUSED


class Harness(LoopbackHarness):
    """Endpoints on a reactor, and a plain listening socket as the service."""

    def __init__(self, tick: float = 0.0, clock: Callable[[], float] = boot_time) -> None:
        super().__init__(clock)
        self.endpoints = Endpoints(self.reactor, tick)
        self.address = Address("127.0.0.1", self.port)
        self.log = LimitedLog(logging.getLogger("tcsplitter.test"))

    def join(self, stream: FakeStream) -> socket.socket:
        """A program's socket whose other side is joined to the stream."""
        program = socket.create_connection(self.service.getsockname(), timeout=10)
        self.opened.append(program)
        sock = self.service.accept()[0]
        sock.setblocking(False)
        self.endpoints.join(sock, stream, self.reactor.now)
        return program

    def close(self) -> None:
        self.endpoints.reset_all()
        super().close()


@pytest.fixture
def harness() -> Generator[Harness, None, None]:
    harness = Harness()
    yield harness
    harness.close()


def test_both_directions_and_both_ends(harness: Harness) -> None:
    stream = FakeStream()
    program = harness.join(stream)
    program.sendall(b"question")
    harness.until(lambda: stream.written == b"question")
    program.shutdown(socket.SHUT_WR)
    harness.until(lambda: stream.finished)
    stream.waiting += b"answer after the half-close"
    stream.app.update(harness.reactor.now)
    assert program.recv(100) == b"answer after the half-close"
    stream.ended = True
    stream.app.update(harness.reactor.now)
    harness.wakes(3)
    assert program.recv(100) == b""
    assert stream.finished == 1
    assert not stream.resets
    assert not harness.endpoints.open


def test_half_close_from_the_other_side(harness: Harness) -> None:
    stream = FakeStream()
    program = harness.join(stream)
    stream.waiting += b"all there is"
    stream.ended = True
    stream.app.update(harness.reactor.now)
    assert read_all(program) == b"all there is"
    program.sendall(b"but I go on")
    harness.until(lambda: stream.written == b"but I go on")
    program.close()
    harness.until(lambda: not harness.endpoints.open)
    assert stream.finished == 1
    assert not stream.resets


@given(st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=5), st.integers(1, 5000))
def test_never_reads_more_than_there_is_room_for(pieces: list[bytes], room: int) -> None:
    harness = Harness()
    stream = FakeStream(0)
    program = harness.join(stream)
    for piece in pieces:
        program.sendall(piece)
    program.shutdown(socket.SHUT_WR)
    harness.wakes(2)
    assert not stream.written
    rounds = 0
    while not stream.finished:
        stream.room = room  # FakeStream.write asserts that it is kept
        stream.app.update(harness.reactor.now)
        harness.wakes(1)
        rounds += 1
        assert rounds < 20_000
    assert bytes(stream.written) == b"".join(pieces)
    harness.close()


def test_the_kernel_keeps_much_for_one_read_and_a_single_byte_is_news(harness: Harness) -> None:
    stream = FakeStream()
    program = harness.join(stream)
    sock = stream.app._sock
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= endpoints.KEPT_SIZE
    program.sendall(b"x")
    harness.until(lambda: stream.written == b"x")


def test_what_the_program_does_not_take_stays_in_the_stream(harness: Harness) -> None:
    stream = FakeStream()
    program = harness.join(stream)
    stream.waiting += bytes(20_000_000)
    stream.app.update(harness.reactor.now)
    harness.wakes(5)
    assert 0 < stream.readable < 20_000_000
    before = stream.readable
    harness.wakes(5)
    assert stream.readable == before
    received = 0
    program.setblocking(False)

    def taken() -> bool:
        nonlocal received
        try:
            received += len(program.recv(1_000_000))
        except BlockingIOError:
            return False
        return received == 20_000_000

    harness.until(taken)
    assert not stream.readable


def test_one_wake_writes_a_bounded_amount(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint, "WRITE_LIMIT", 10_000)
    stream = FakeStream()
    harness.join(stream)
    stream.waiting += bytes(100_000)
    stream.app.update(harness.reactor.now)
    assert stream.readable == 100_000 - 10_000
    harness.until(lambda: not stream.readable)


def test_what_was_released_together_is_given_in_one_write() -> None:
    stream = FakeStream()
    stream.waiting += bytes(joint.WRITE_LIMIT)
    writes: list[int] = []

    def take(buffers: list[bytes | memoryview]) -> int:
        writes.append(sum(map(len, buffers)))
        return writes[-1]

    assert Joint(stream, bytes, take).write(0.0)
    assert writes == [joint.WRITE_LIMIT]


def test_one_wake_reads_a_bounded_amount(harness: Harness) -> None:
    stream = FakeStream(10_000_000)
    program = harness.join(stream)
    sent = fill(program)
    assert sent > joint.READ_SIZE
    harness.reactor.wake()
    assert 0 < len(stream.written) <= joint.READ_SIZE
    harness.until(lambda: len(stream.written) == sent)


def test_a_reset_by_the_program(harness: Harness) -> None:
    stream = FakeStream()
    reset(harness.join(stream))
    harness.until(lambda: stream.resets)
    assert stream.resets == [0]
    assert not harness.endpoints.open


def is_noticed(harness: Harness, stream: FakeStream) -> None:
    """The stream is reset within a second, and the processor idle until then."""
    started = harness.reactor.clock()
    wakes = 0
    while not stream.resets:
        harness.reactor.wake()
        wakes += 1
        assert wakes < 10, "it spins"
    assert harness.reactor.clock() - started < 1.0


@pytest.mark.parametrize("half_closed", [False, True])
def test_a_reset_is_noticed_within_a_second_though_nothing_is_waited_for(harness: Harness, half_closed: bool) -> None:
    stream = FakeStream()
    program = harness.join(stream)
    if half_closed:
        program.shutdown(socket.SHUT_WR)
        harness.until(lambda: stream.finished)
    else:
        stream.room = 0
        stream.app.update(harness.reactor.now)
        program.sendall(b"unread")
    reset(program)
    is_noticed(harness, stream)
    assert stream.resets == [0]
    assert endpoints.CHECK_EVERY < 1.0


def test_endpoints_that_wait_for_nothing_cost_no_timer_when_they_are_gone(harness: Harness) -> None:
    stream = FakeStream(0)
    reset(harness.join(stream))
    harness.until(lambda: stream.resets)
    harness.wakes(2)
    assert harness.endpoints._check.when == inf


def test_a_write_that_fails_resets_the_stream_once(harness: Harness) -> None:
    stream = FakeStream(0)
    reset(harness.join(stream))
    stream.waiting += b"too late"
    stream.app.update(harness.reactor.now)
    stream.app.update(harness.reactor.now)
    assert stream.resets == [0]


def test_a_reset_from_the_other_side_resets_the_program(harness: Harness) -> None:
    stream = FakeStream()
    program = harness.join(stream)
    stream.waiting += b"not to be delivered"
    stream.reset_code = 0
    stream.app.update(harness.reactor.now)
    harness.wakes(1)
    with pytest.raises(ConnectionResetError):
        program.recv(1)
    assert not stream.resets


# ------------------------------------------------------------------------------------------------- tick


class Ticking(Harness):
    """A stream that notes the size and time of each reading, joined to a program, on a clock that the test moves."""

    TICK = 0.1

    def __init__(self) -> None:
        self.time = Clock()
        super().__init__(self.TICK, self.time)
        self.stream = NotingStream()
        self.program = self.join(self.stream)

    def step(self, seconds: float) -> bool:
        """Let so much time pass, and serve what came of it; whether something was read."""
        self.time.now += seconds
        before = len(self.stream.written)
        self.wakes(2)
        if len(self.stream.written) == before:
            return False
        self.stream.readings.append((self.time.now, len(self.stream.written) - before))
        return True


class NotingStream(FakeStream):
    def __init__(self) -> None:
        super().__init__()
        self.readings: list[tuple[float, int]] = []


@pytest.fixture
def ticking() -> Generator[Ticking, None, None]:
    harness = Ticking()
    yield harness
    harness.close()


@given(st.lists(st.tuples(st.floats(0.0, 0.25), st.integers(0, 50)), max_size=40))
def test_a_reading_a_tick_takes_all_there_is(steps: list[tuple[float, int]]) -> None:
    with closing(Ticking()) as harness:
        readings = harness.stream.readings
        began, sent = harness.time.now, 0
        for seconds, count in steps:
            if count:
                harness.program.send(bytes(count))
                sent += count
            has_read = harness.step(seconds)
            waits = bool(readings) and harness.time.now - readings[-1][0] < harness.TICK + 1e-9
            assert len(harness.stream.written) == sent or (waits and not has_read)
            assert len(readings) <= (harness.time.now - began) / harness.TICK + 1


def test_a_stream_written_every_10_ms_is_read_ten_times_a_second(ticking: Ticking) -> None:
    for step in range(300):
        ticking.program.send(b"x")
        ticking.step(0.0137 if step % 2 else 0.0063)
    assert 29 <= len(ticking.stream.readings) <= 31
    assert all(8 <= size <= 12 for _, size in ticking.stream.readings[1:])


def test_what_comes_after_a_pause_is_read_at_once_and_a_tick_apart(ticking: Ticking) -> None:
    ticking.program.send(b"x")
    ticking.step(0.0)
    ticking.step(0.15)
    ticking.program.send(b"x")
    assert ticking.step(0.0)
    ticking.program.send(b"x")
    assert not ticking.step(0.09)
    assert ticking.step(0.02)


def test_one_reading_takes_more_than_one_read_and_no_more_than_there_is_room_for(
    ticking: Ticking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint, "READ_SIZE", 1000)
    ticking.stream.room = 4500
    ticking.program.send(bytes(6000))
    ticking.step(0.0)
    ticking.stream.room = 10_000
    ticking.stream.app.update(ticking.time.now)
    ticking.step(0.09)
    assert [size for _, size in ticking.stream.readings] == [4500]
    ticking.step(0.02)
    assert [size for _, size in ticking.stream.readings] == [4500, 1500]


def test_room_that_comes_after_the_tick_is_used_at_once(ticking: Ticking) -> None:
    ticking.stream.room = 10
    ticking.program.send(bytes(30))
    ticking.step(0.0)
    ticking.step(0.5)
    ticking.stream.room = 100
    ticking.stream.app.update(ticking.time.now)
    ticking.step(0.0)
    assert [size for _, size in ticking.stream.readings] == [10, 20]


def test_the_end_is_read_at_the_same_rhythm(ticking: Ticking) -> None:
    ticking.program.send(b"x")
    ticking.step(0.0)
    ticking.program.shutdown(socket.SHUT_WR)
    ticking.step(0.09)
    assert not ticking.stream.finished
    ticking.step(0.02)
    assert ticking.stream.finished
    ticking.stream.ended = True
    ticking.stream.app.update(ticking.time.now)
    assert not ticking.endpoints.open


def test_writing_does_not_wait_for_the_tick(ticking: Ticking) -> None:
    ticking.program.send(b"x")
    ticking.step(0.0)
    ticking.stream.waiting += b"answer"
    ticking.stream.app.update(ticking.time.now)
    assert ticking.program.recv(100) == b"answer"


def test_a_closed_endpoint_waits_for_no_tick(ticking: Ticking) -> None:
    ticking.program.send(b"x")
    ticking.step(0.0)
    timer = ticking.stream.app._joint._timer
    assert timer.when == pytest.approx(ticking.time.now + ticking.TICK)
    ticking.stream.app.abort()
    assert timer.when == inf


def test_a_reset_is_noticed_long_before_the_tick() -> None:
    harness = Harness(tick=3600.0)
    stream = FakeStream()
    program = harness.join(stream)
    program.send(b"x")
    harness.until(lambda: stream.written)
    program.send(b"not before the tick")
    reset(program)
    is_noticed(harness, stream)
    assert stream.written == b"x"
    harness.close()


# ------------------------------------------------------------------------------------------- TcpDialler


def test_the_service_is_dialled_with_nodelay_and_early_data_waits(harness: Harness) -> None:
    dialler = TcpDialler(harness.endpoints, harness.address, harness.log)
    stream = FakeStream()
    stream.waiting += b"early"
    waiting = crowd(harness.service)
    dialler.open(stream, harness.reactor.now)
    stream.app.update(harness.reactor.now)
    assert stream.readable == 5
    for sock in waiting:
        harness.service.accept()[0].close()
        sock.close()
    target = harness.service.accept()[0]
    harness.opened.append(target)
    harness.until(lambda: not stream.readable)
    assert target.recv(100) == b"early"
    assert stream.app._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert not stream.app._sock.getblocking()


def test_a_service_on_this_machine_is_reached_at_once(harness: Harness) -> None:
    stream = FakeStream()
    stream.waiting += b"early"
    TcpDialler(harness.endpoints, harness.address, harness.log).open(stream, harness.reactor.now)
    stream.app.update(harness.reactor.now)
    with closing(harness.service.accept()[0]) as target:
        assert target.recv(100) == b"early"  # no wake in between


def test_a_refused_service_resets_the_stream_at_once(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    harness.service.close()
    dialler = TcpDialler(harness.endpoints, harness.address, harness.log)
    streams = [FakeStream() for _ in range(3)]
    for stream in streams:
        dialler.open(stream, harness.reactor.now)
    harness.until(lambda: all(stream.resets for stream in streams))
    assert [stream.resets for stream in streams] == [[REFUSED]] * 3
    assert not harness.endpoints.open
    assert caplog.text.count(f"cannot reach --forward {harness.address}: Connection refused") == 1


def test_every_target_of_a_name_is_tried(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = socket.create_server(("127.0.0.1", 0))
    targets = [(socket.AF_INET, closed.getsockname()), (socket.AF_INET, harness.service.getsockname())]
    closed.close()

    def look_up(_address: Address, flags: int) -> list[Target]:
        if flags:
            raise socket.gaierror(socket.EAI_NONAME, "not numeric")
        return targets

    monkeypatch.setattr(net, "_look_up", look_up)
    dialler = TcpDialler(harness.endpoints, Address("two.example", 1), harness.log)
    stream = FakeStream()
    stream.waiting += b"x"
    dialler.open(stream, harness.reactor.now)
    harness.until(lambda: not stream.readable)
    assert not stream.resets


def test_a_service_whose_name_is_unknown_refuses(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(_address: Address, _flags: int) -> list[Target]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(net, "_look_up", look_up)
    dialler = TcpDialler(harness.endpoints, Address("no.example", 1), harness.log)
    stream = FakeStream()
    dialler.open(stream, harness.reactor.now)
    harness.until(lambda: stream.resets)
    assert stream.resets == [REFUSED]


def test_a_stream_reset_while_connecting_ends_that(harness: Harness) -> None:
    dialler = TcpDialler(harness.endpoints, harness.address, harness.log)
    stream = FakeStream()
    dialler.open(stream, harness.reactor.now)
    stream.reset_code = 0
    stream.app.update(harness.reactor.now)
    harness.wakes(5)
    assert not harness.endpoints.open
    assert not stream.resets


def test_out_of_descriptors_the_stream_is_refused(harness: Harness) -> None:
    dialler = TcpDialler(harness.endpoints, harness.address, harness.log)
    stream = FakeStream()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        dialler.open(stream, harness.reactor.now)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert stream.resets == [REFUSED]
