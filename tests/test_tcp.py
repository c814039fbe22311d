"""TCP sockets of carriers: what they do, and what they say where it cannot be done."""

import os
import select
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
from loopback import known

from tcsplitter._core import ROOM_AROUND
from tcsplitter._tcp import MOST_RECEIVED, ReadBuffer, TcpSocket, accept, is_of_this_machine, receive, start_connect
from tcsplitter.endpoints import as_local
from tcsplitter.net import Target


@pytest.fixture(params=["127.0.0.1", "::1"])
def listening(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        sock = socket.create_server((request.param, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {request.param}")
    with sock:
        sock.setblocking(False)
        yield sock


def target(listening: socket.socket) -> Target:
    return listening.family, listening.getsockname()


@pytest.fixture
def pair(listening: socket.socket) -> Iterator[tuple[TcpSocket, TcpSocket]]:
    """What dialled, and what was accepted."""
    near, done = start_connect(target(listening))
    assert done
    far, _host = accept(listening.fileno())
    yield near, far
    near.close()
    far.close()


def test_an_address_that_was_accepted_is_named(listening: socket.socket) -> None:
    """Also where the one before came from elsewhere."""
    host = listening.getsockname()[0]
    others = ["127.0.0.2", "127.0.0.1", "127.0.0.2"] if listening.family == socket.AF_INET else [host]
    for source in others:
        with socket.create_connection((host, listening.getsockname()[1]), source_address=(source, 0)):
            sock, named = accept(listening.fileno())
            assert (named, sock.family) == (source, listening.family)
            sock.close()


def test_much_is_received_with_room_around_it(pair: tuple[TcpSocket, TcpSocket]) -> None:
    """And little as bytes, which keep nothing else alive."""
    near, far = pair
    for size, kind in [(1, bytes), (4_096, bytes), (4_097, memoryview), (50_000, memoryview)]:
        sent = os.urandom(size)
        assert near.send(sent) == size
        got = receive(far.fd, 100_000)
        assert (bytes(got), type(got)) == (sent, kind)
        if isinstance(got, memoryview):
            whole = got.obj
            assert isinstance(whole, bytearray)
            assert len(whole) == size + 2 * ROOM_AROUND
            assert whole[ROOM_AROUND:-ROOM_AROUND] == sent
    near.send(bytes(100))
    assert len(receive(far.fd, 60)) == 60
    assert len(receive(far.fd, 60)) == 40
    with pytest.raises(BlockingIOError):
        receive(far.fd, 100)
    near.close()
    assert receive(far.fd, 100) == b""
    far.close()
    with pytest.raises(OSError, match="descriptor"):
        receive(far.fd, 100)


def test_what_is_waited_for_comes_together_unless_the_stream_ends(pair: tuple[TcpSocket, TcpSocket]) -> None:
    near, far = pair

    def readable(seconds: float) -> bool:
        return bool(select.select([far], [], [], seconds)[0])

    far.wait_for(10_000)
    near.send(bytes(9_999))
    assert not readable(0.05)
    near.send(b"x")
    assert readable(10)
    assert len(far.recv(ReadBuffer())) == 10_000
    near.send(b"last")
    assert not readable(0.05)
    near.shutdown()
    assert readable(10)
    assert bytes(far.recv(ReadBuffer())) == b"last"
    far.close()
    with pytest.raises(OSError, match="descriptor"):
        far.wait_for(1)


def test_where_nobody_waits_accepting_blocks(listening: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        accept(listening.fileno())


def test_a_listening_socket_that_is_closed_accepts_nothing(listening: socket.socket) -> None:
    listening.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        accept(listening.fileno())


def test_both_sides_know_each_other(listening: socket.socket, pair: tuple[TcpSocket, TcpSocket]) -> None:
    with known(pair[0]) as near, known(pair[1]) as far:
        assert near.getpeername() == far.getsockname() == listening.getsockname()
        assert near.getsockname() == far.getpeername()
        assert not os.get_blocking(near.fileno())
        assert not os.get_inheritable(near.fileno())


def test_bytes_come_as_they_were_sent(pair: tuple[TcpSocket, TcpSocket]) -> None:
    near, far = pair
    with pytest.raises(BlockingIOError):
        far.recv(ReadBuffer())
    assert near.send(b"abc") == 3
    assert bytes(far.recv(ReadBuffer())) == b"abc"
    assert far.send(memoryview(b"0123456789")[2:5], more=True) == 3
    assert far.send(b"!") == 1
    assert bytes(near.recv(ReadBuffer())) == b"234!"
    near.shutdown()
    assert bytes(far.recv(ReadBuffer())) == b""


def test_a_read_changes_what_came_before_in_the_same_buffer(pair: tuple[TcpSocket, TcpSocket]) -> None:
    near, far = pair
    ours, theirs = ReadBuffer(), ReadBuffer()
    far.send(b"12345")
    near.send(b"abc")
    first, other = near.recv(ours), far.recv(theirs)
    assert first.readonly
    far.send(b"67")
    assert bytes(near.recv(ours)) == b"67"
    assert (bytes(first), bytes(other)) == (b"67345", b"abc")
    assert bytes(memoryview(ours)) == b"67"


def test_one_read_takes_so_much_and_no_more(pair: tuple[TcpSocket, TcpSocket]) -> None:
    near, far = pair
    sent = bytes(range(256)) * 1024
    taken = near.send(sent)
    came = b""
    while len(came) < taken:
        try:
            piece = far.recv(ReadBuffer())
        except BlockingIOError:
            continue
        assert 0 < len(piece) <= MOST_RECEIVED
        came += piece
    assert came == sent[:taken]


def test_a_full_socket_takes_no_more_until_it_is_read(pair: tuple[TcpSocket, TcpSocket]) -> None:
    near, far = pair
    taken = 0
    with suppress(BlockingIOError):
        while True:
            taken += near.send(bytes(65_536))
    assert near.unacknowledged() > 0
    while taken > 0:
        try:
            taken -= len(far.recv(ReadBuffer()))
        except BlockingIOError:
            continue
    assert near.send(b"x") == 1


def test_an_aborted_socket_resets_the_other_one(pair: tuple[TcpSocket, TcpSocket]) -> None:
    near, far = pair
    near.abort()
    near.close()
    with pytest.raises(ConnectionResetError):
        far.recv(ReadBuffer())
    with pytest.raises(BrokenPipeError):
        far.send(b"x")


def test_one_that_nobody_holds_is_closed(listening: socket.socket) -> None:
    near, _done = start_connect(target(listening))
    fd = near.fd
    del near
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_closed_one_does_nothing_more(pair: tuple[TcpSocket, TcpSocket]) -> None:
    near, _far = pair
    near.close()
    near.close()
    assert near.fd == near.fileno() == -1
    for call in (
        lambda: near.recv(ReadBuffer()),
        near.error,
        near.unacknowledged,
        near.abort,
        near.shutdown,
        lambda: near.send(b"x"),
    ):
        with pytest.raises(OSError, match="Bad file descriptor"):
            call()
    with pytest.raises(OSError, match="Bad file descriptor"):
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def test_options_are_numbers_or_bytes(pair: tuple[TcpSocket, TcpSocket]) -> None:
    near, _far = pair
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    with known(near) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == b"reno"
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
    with pytest.raises(OSError, match="Protocol not available"):
        near.setsockopt(socket.IPPROTO_TCP, 9999, 1)
    with pytest.raises(TypeError):
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, "1")  # type: ignore[arg-type]


def test_a_port_that_refuses_says_so_at_once(listening: socket.socket) -> None:
    where = target(listening)
    listening.close()
    with pytest.raises(ConnectionRefusedError):
        start_connect(where)


@pytest.mark.parametrize(
    ("family", "sockaddr"),
    [
        (socket.AF_INET, ("localhost", 80)),
        (socket.AF_INET, ("::1", 80)),
        (socket.AF_INET6, ("127.0.0.1", 80, 0, 0)),
    ],
)
def test_only_numeric_addresses_of_the_family_are_dialled(family: socket.AddressFamily, sockaddr: tuple[object, ...]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="no numeric address"):
        start_connect((family, sockaddr))
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_prepares_a_socket_sees_it_before_it_connects(listening: socket.socket) -> None:
    seen: list[str] = []

    def prepare(sock: TcpSocket, host: str) -> None:
        with known(sock) as unconnected, pytest.raises(OSError, match="not connected"):
            unconnected.getpeername()
        seen.append(host)

    start_connect(target(listening), prepare)[0].close()
    assert seen == [listening.getsockname()[0]]


def test_a_socket_for_local_programs_is_the_same_connection(pair: tuple[TcpSocket, TcpSocket]) -> None:
    near, far = pair
    fd = near.fd
    local = as_local(near)
    assert (near.fd, local.fileno(), local.gettimeout()) == (-1, fd, 0.0)
    local.sendmsg([b"a", b"b"])
    assert bytes(far.recv(ReadBuffer())) == b"ab"
    local.close()
    assert bytes(far.recv(ReadBuffer())) == b""


@pytest.mark.parametrize(("host", "is_it"), [("127.0.0.1", True), ("127.8.9.10", True), ("::1", True), ("10.0.0.1", False)])
def test_loopback_is_this_machine(host: str, is_it: bool) -> None:
    assert is_of_this_machine(host) is is_it
