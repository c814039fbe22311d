"""Tick, tock and buffer through both ends as processes: when what a program wrote arrives, and in how many payloads."""

import logging
import socket
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import pytest
from tunnel import LIMIT, Service, Tunnel, connect, receive_exactly

pytestmark = pytest.mark.alone

FIGURES = logging.getLogger("figures")  # pytest --log-cli-level=INFO shows them
SIZE = 1000
SMALL_PAYLOADS = "--frags", str(SIZE)
TOCK = "--tock", "100"
BEAT = 0.05
SOON = 0.04  # seconds that are less than a beat or a tock, and more than a busy machine needs


@pytest.fixture(autouse=True)
def show_figures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, FIGURES.name)


class Arrivals:
    """What each reading of a program brought, and when."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.sizes: list[int] = []
        self.ended_at = 0.0
        self._came = threading.Condition()

    def read_from(self, sock: socket.socket) -> None:
        """Read until the end."""
        while piece := sock.recv(1_000_000):
            with self._came:
                self.times.append(time.monotonic())
                self.sizes.append(len(piece))
                self._came.notify_all()
        with self._came:
            self.ended_at = time.monotonic()
            self._came.notify_all()

    @property
    def total(self) -> int:
        return sum(self.sizes)

    def wait_for(self, total: int) -> float:
        """When this many bytes were there."""
        with self._came:
            assert self._came.wait_for(lambda: self.total >= total, LIMIT), f"{self.total} of {total} bytes came"
            come = 0
            for at, size in zip(self.times, self.sizes, strict=True):
                come += size
                if come >= total:
                    return at
        raise AssertionError("not reached: they are there")

    def wait_for_end(self) -> float:
        with self._came:
            assert self._came.wait_for(lambda: self.ended_at > 0, LIMIT), "the end did not come"
        return self.ended_at

    def since(self, count: int) -> tuple[list[float], list[int]]:
        """Times and sizes of the readings from this one on."""
        return self.times[count:], self.sizes[count:]


class Way:
    """One direction of a stream that is open: what `write` sends is noted in `came`."""

    def __init__(self, tunnel: Tunnel, writer: socket.socket, came: Arrivals) -> None:
        self.tunnel = tunnel
        self.came = came
        self.writer = writer
        self.sent = came.total

    def write(self, count: int) -> float:
        """When it was begun."""
        began = time.monotonic()
        self.writer.sendall(bytes(count))
        self.sent += count
        return began

    def delay(self, count: int) -> float:
        """How long it took so many bytes to arrive, all of them."""
        return -self.write(count) + self.came.wait_for(self.sent)


@contextmanager
def upload(client: tuple[str, ...] = (), server: tuple[str, ...] = ()) -> Iterator[Way]:
    """From a program at the client end to the service; the first byte is through."""
    came = Arrivals()
    with (
        Service(came.read_from) as service,
        Tunnel(service.address, client_options=client, server_options=server) as tunnel,
        connect(tunnel.address) as program,
    ):
        way = Way(tunnel, program, came)
        way.delay(1)
        yield way


@contextmanager
def download(client: tuple[str, ...] = (), server: tuple[str, ...] = ()) -> Iterator[Way]:
    """From the service to a program at the client end; the first byte is through."""
    came = Arrivals()
    connected = threading.Event()
    done = threading.Event()
    writers: list[socket.socket] = []

    def serve(sock: socket.socket) -> None:
        writers.append(sock)
        connected.set()
        assert done.wait(LIMIT)

    with (
        Service(serve) as service,
        Tunnel(service.address, client_options=client, server_options=server) as tunnel,
        connect(tunnel.address) as program,
    ):
        reader = threading.Thread(target=came.read_from, args=(program,), daemon=True)
        reader.start()
        assert connected.wait(LIMIT)
        try:
            way = Way(tunnel, writers[0], came)
            way.delay(1)
            yield way
        finally:
            done.set()
        reader.join(LIMIT)


def pause(seconds: float) -> None:
    """Let time pass, where that is what is measured."""
    threading.Event().wait(seconds)


def payloads(way: Way) -> int:
    """Payloads that the client end sent: each goes on a fling of its own, and so does the twin of one whose ack is late."""
    counted = way.tunnel.client.counted()
    return counted["fling sent on"] - counted["hedges sent"]


def show(what: str, delays: Sequence[float]) -> None:
    low, middle, high = min(delays), statistics.median(delays), max(delays)
    FIGURES.info("%s: %.2f to %.2f ms, median %.2f", what, 1000 * low, 1000 * high, 1000 * middle)


# ----------------------------------------------------------------------------------------------------- tock


@pytest.mark.parametrize("silence", [0.0, 0.15], ids=["at once", "later"])
@pytest.mark.parametrize("end", ["client", "server"])
def test_a_byte_waits_for_the_tock(end: str, silence: float) -> None:
    """However long nothing happened before."""
    delays = []
    with upload(client=TOCK) if end == "client" else download(server=TOCK) as way:
        for _ in range(3):
            pause(silence)
            delays.append(way.delay(1))
    show(f"a byte under --tock 100 at the {end}, after {silence:g} s", delays)
    assert min(delays) >= 0.1
    assert statistics.median(delays) <= 0.15


@pytest.mark.parametrize("tock", ["0", "auto"])
def test_without_a_tock_a_byte_goes_at_once(tock: str) -> None:
    with upload(("--tock", tock)) as way:
        delays = [way.delay(1) for _ in range(50)]
    show(f"a byte under --tock {tock}", delays)
    assert statistics.median(delays) < 0.02


def test_a_tock_may_be_a_part_of_a_millisecond() -> None:
    with upload(("--tock", "0.5")) as way:
        delays = [way.delay(1) for _ in range(100)]
    show("a byte under --tock 0.5", delays)
    assert min(delays) >= 0.0005
    assert statistics.median(delays) < 0.005


def test_writes_within_a_tock_share_a_payload() -> None:
    with upload(TOCK) as way:
        before, readings = payloads(way), len(way.came.sizes)
        began = way.write(1)
        for _ in range(9):
            pause(0.005)
            way.write(1)
        written = time.monotonic() - began
        way.came.wait_for(way.sent)
        if written < 0.09:  # the machine was not too busy for it
            assert payloads(way) - before == 1
            assert way.came.sizes[readings:] == [10]
        for _ in range(3):
            way.delay(1)
        assert payloads(way) - before >= 4


def test_writes_without_a_tock_have_payloads_of_their_own() -> None:
    with upload() as way:
        before = payloads(way)
        for _ in range(10):
            way.delay(1)
        assert payloads(way) - before == 10


def test_a_full_payload_does_not_wait_for_the_tock() -> None:
    with upload(TOCK) as way:
        full = [way.delay(10_000) for _ in range(9)]
        before = payloads(way)
        began = way.write(25_000)
        went = way.came.wait_for(way.sent - 5_000) - began
        rest = way.came.wait_for(way.sent) - began
        assert payloads(way) - before == 3
    show("10,000 bytes under --tock 100", full)
    FIGURES.info("25,000 bytes under --tock 100: 20,000 after %.2f ms, the rest after %.1f ms", 1000 * went, 1000 * rest)
    assert statistics.median(full) < 0.02
    assert went < 0.09
    assert rest >= 0.1


def test_a_payload_that_is_larger_than_a_window_is_no_reason_to_wait() -> None:
    """What the other end grants may never come together to a full payload."""
    with upload(("--tock", "200", "--frags", "200000")) as way:
        took = way.delay(2_000_000)
    FIGURES.info("2 MB under --tock 200 and --frags 200000: %.1f ms", 1000 * took)
    assert took < 1.0


def test_the_last_bytes_and_the_end_do_not_wait_for_the_tock() -> None:
    delays = []
    ended: list[tuple[float, bytes]] = []

    def serve(sock: socket.socket) -> None:
        said = b""
        while piece := sock.recv(100):
            said += piece
        ended.append((time.monotonic(), said))
        sock.sendall(b"!")

    with Service(serve) as service, Tunnel(service.address, client_options=TOCK) as tunnel:
        for _ in range(9):
            with connect(tunnel.address) as program:
                began = time.monotonic()
                program.sendall(b"bye")
                program.shutdown(socket.SHUT_WR)
                assert receive_exactly(program, 1) == b"!"
                at, said = ended.pop()
                assert said == b"bye"
                delays.append(at - began)
    show("the last bytes and the end under --tock 100", delays)
    assert statistics.median(delays) < SOON


# --------------------------------------------------------------------------------------------------- buffer


def beats(way: Way, count: int) -> list[float]:
    """Intervals at which so many payloads, written at once, arrive; each in a reading of its own."""
    before = len(way.came.times)
    way.write(count * SIZE)
    way.came.wait_for(way.sent)
    times, sizes = way.came.since(before)
    assert sizes == [SIZE] * count
    return [later - earlier for earlier, later in pairwise(times)]


def check_beat(what: str, intervals: list[float]) -> None:
    off = sorted(abs(interval - BEAT) for interval in intervals)
    p95 = off[int(0.95 * len(off))]
    FIGURES.info(
        "%s: %d intervals, median %.3f ms; off by p50 %.3f, p95 %.3f, at most %.3f ms",
        what, len(intervals), 1000 * statistics.median(intervals), 1000 * statistics.median(off), 1000 * p95, 1000 * off[-1],
    )  # fmt: skip
    assert abs(statistics.median(intervals) - BEAT) <= 0.002
    assert p95 < 0.01
    # Beats that come late do not move those that follow.
    assert abs(sum(intervals) - len(intervals) * BEAT) < 0.03


def test_the_server_forwards_a_payload_every_beat() -> None:
    with upload(SMALL_PAYLOADS, ("--buffer", "50:0")) as way:
        check_beat("--buffer 50:0 at the server", beats(way, 25))


def test_the_client_forwards_a_payload_every_beat() -> None:
    with download(("--buffer", "50:0"), SMALL_PAYLOADS) as way:
        check_beat("--buffer 50:0 at the client", beats(way, 25))


@pytest.mark.slow
def test_the_beat_is_steady_for_a_minute() -> None:
    with upload(SMALL_PAYLOADS, ("--buffer", "50:0")) as way:
        intervals = []
        for _ in range(20):
            intervals += beats(way, 60)
        check_beat("--buffer 50:0 for a minute", intervals)


def test_a_beat_forwards_so_many_payloads_in_one_write() -> None:
    with upload(SMALL_PAYLOADS, ("--buffer", "50:4")) as way:
        before = len(way.came.times)
        way.write(30 * SIZE)
        way.came.wait_for(way.sent)
        times, sizes = way.came.since(before)
    intervals = [later - earlier for earlier, later in pairwise(times)]
    show("--buffer 50:4", intervals)
    # The first beat may come while they still arrive.
    assert len(sizes) in (8, 9)
    assert sizes[1:7] == [4 * SIZE] * 6
    assert abs(statistics.median(intervals) - BEAT) <= 0.002


@pytest.mark.parametrize("catch_up", [False, True])
def test_what_piled_up_over_a_skipped_beat_comes_at_once_only_on_request(catch_up: bool) -> None:
    with upload(SMALL_PAYLOADS, ("--buffer", "50:0", *(["--catch-up"] if catch_up else []))) as way:
        beats(way, 3)
        pause(2.5 * BEAT)  # two beats find nothing, and the next one is not near
        before = len(way.came.times)
        way.write(6 * SIZE)
        way.came.wait_for(way.sent)
        times, sizes = way.came.since(before)
        assert sizes == ([6 * SIZE] if catch_up else [SIZE] * 6)
        if not catch_up:
            assert statistics.median(later - earlier for earlier, later in pairwise(times)) == pytest.approx(BEAT, abs=0.005)
        # On time again, one goes with each beat.
        before = len(way.came.times)
        way.write(4 * SIZE)
        way.came.wait_for(way.sent)
        assert way.came.sizes[before:] == [SIZE] * 4 or catch_up


@pytest.mark.parametrize("after", [1.0, pytest.param(2.0, marks=pytest.mark.slow)])
def test_a_new_stream_is_forwarded_at_once_for_a_while(after: float) -> None:
    options = ("--buffer", "50:0", "--after", str(int(1000 * after)))
    with upload(SMALL_PAYLOADS, options) as way:
        began = way.came.times[0]
        delays = []
        while time.monotonic() < began + after - 0.3:
            delays.append(way.delay(5 * SIZE))
            pause(0.1)
        pause(began + after + 0.1 - time.monotonic())
        check_beat(f"after the first {after:g} s", beats(way, 20))
    show(f"five payloads in the first {after:g} s", delays)
    assert len(delays) >= 3
    assert statistics.median(delays) < 0.02
    assert max(delays) < 4 * BEAT


# ----------------------------------------------------------------------------------------------------- tick


def test_a_stream_is_read_ten_times_a_second() -> None:
    seconds = 2.0
    with upload(("--tick", "100")) as way:
        before, readings = payloads(way), len(way.came.times)
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            way.write(1)
            pause(0.01)
        way.came.wait_for(way.sent)
        count = payloads(way) - before
        times, sizes = way.came.since(readings)
    rate = (len(times) - 1) / (times[-1] - times[0])
    FIGURES.info("--tick 100: %d payloads in %g s, %.2f a second; %d to %d bytes", count, seconds, rate, min(sizes), max(sizes))
    assert 9 * seconds <= count <= 11 * seconds
    assert 9 <= rate <= 11


def test_what_comes_after_a_pause_does_not_wait_for_the_tick() -> None:
    with upload(("--tick", "100")) as way:
        delays = []
        for _ in range(3):
            pause(0.11)
            delays.append(way.delay(1))
    show("a byte under --tick 100, after a pause", delays)
    assert statistics.median(delays) < 0.02
