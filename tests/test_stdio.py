"""Stdin and stdout of every kind, joined to a stream that only takes notes."""

import os
import select
import socket
import struct
from collections.abc import Generator
from pathlib import Path

import pytest
from loopback import Clock, FakeStream, Harness, read_all

from tcsplitter.stdio import StdioEndpoint


@pytest.fixture
def harness() -> Generator[Harness, None, None]:
    harness = Harness()
    yield harness
    harness.close()


class Stdio:
    """A StdioEndpoint on two descriptors."""

    def __init__(self, harness: Harness, fd_in: int, fd_out: int, tick: float = 0.0) -> None:
        self.stream = FakeStream()
        self.ends: list[bool] = []
        self.endpoint = StdioEndpoint(harness.reactor, self.stream, fd_in, fd_out, self.ends.append, tick)
        self.now = harness.reactor.now
        self.update()

    def update(self) -> None:
        self.endpoint.update(self.now)


def test_stdio_on_pipes(harness: Harness) -> None:
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    stdio = Stdio(harness, in_read, out_write)
    os.write(in_write, b"typed")
    harness.until(lambda: stdio.stream.written == b"typed")
    os.close(in_write)
    harness.until(lambda: stdio.stream.finished)
    stdio.stream.waiting += b"shown"
    stdio.update()
    assert os.read(out_read, 100) == b"shown"
    stdio.stream.ended = True
    stdio.update()
    assert os.read(out_read, 100) == b""  # though its number stays taken
    assert os.get_blocking(out_write)
    assert os.get_blocking(in_read)
    assert stdio.ends == [True]
    for fd in (in_read, out_read, out_write):
        os.close(fd)


def test_stdio_on_one_socket(harness: Harness) -> None:
    """OpenSSH gives its ProxyCommand one socket as both."""
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    fd_in, fd_out = os.dup(theirs.fileno()), theirs.detach()
    stdio = Stdio(harness, fd_in, fd_out)
    ours.sendall(b"question")
    harness.until(lambda: stdio.stream.written == b"question")
    stdio.stream.waiting += b"answer"
    stdio.stream.ended = True
    stdio.update()
    assert read_all(ours) == b"answer"
    ours.sendall(b"more")
    harness.until(lambda: stdio.stream.written == b"questionmore")
    ours.close()
    harness.until(lambda: stdio.ends == [True])
    os.close(fd_in)
    os.close(fd_out)


def test_stdio_on_files(harness: Harness, tmp_path: Path) -> None:
    """A selector refuses files; they are read and written all the same, at no cost while nothing is to be done."""
    (tmp_path / "in").write_bytes(b"x" * 1_000_000)
    fd_in = os.open(tmp_path / "in", os.O_RDONLY)
    fd_out = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    stdio = Stdio(harness, fd_in, fd_out)
    harness.until(lambda: len(stdio.stream.written) == 1_000_000)
    assert stdio.stream.room == 0
    assert not stdio.stream.finished
    harness.wakes(3)
    stdio.stream.room = 100
    stdio.update()
    harness.until(lambda: stdio.stream.finished)
    stdio.stream.waiting += b"y" * 1_000_000
    stdio.stream.ended = True
    stdio.update()
    harness.until(lambda: stdio.ends == [True])
    assert (tmp_path / "out").read_bytes() == b"y" * 1_000_000
    os.close(fd_in)
    os.close(fd_out)


def test_stdin_is_read_once_in_a_tick() -> None:
    clock = Clock()
    harness = Harness(clock)
    in_read, in_write = os.pipe()
    null = os.open(os.devnull, os.O_WRONLY)
    stdio = Stdio(harness, in_read, null, tick=0.1)
    os.write(in_write, b"first ")
    harness.wakes(2)
    for piece in (b"second ", b"third"):
        os.write(in_write, piece)
        clock.now += 0.04
        harness.wakes(2)
        assert stdio.stream.written == b"first "
    os.close(in_write)
    clock.now += 0.03
    harness.wakes(2)
    assert stdio.stream.written == b"first second third"
    assert stdio.stream.finished
    stdio.endpoint.close()
    os.close(in_read)
    os.close(null)
    harness.close()


def test_a_file_as_stdin_is_read_once_in_a_tick_as_far_as_there_is_room(tmp_path: Path) -> None:
    clock = Clock()
    harness = Harness(clock)
    (tmp_path / "in").write_bytes(b"x" * 1000)
    fd_in, fd_out = os.open(tmp_path / "in", os.O_RDONLY), os.open(os.devnull, os.O_WRONLY)
    stdio = Stdio(harness, fd_in, fd_out, tick=0.1)
    stdio.stream.room = 600
    harness.wakes(2)
    stdio.stream.room = 600
    stdio.update()
    harness.wakes(2)
    assert len(stdio.stream.written) == 600
    clock.now += 0.11
    harness.wakes(2)
    assert len(stdio.stream.written) == 1000
    assert stdio.stream.finished
    stdio.endpoint.close()
    os.close(fd_in)
    os.close(fd_out)
    harness.close()


def test_stdin_from_dev_null_ends_at_once(harness: Harness) -> None:
    fd_in, fd_out = os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_WRONLY)
    stdio = Stdio(harness, fd_in, fd_out)
    harness.until(lambda: stdio.stream.finished)
    stdio.endpoint.close()
    os.close(fd_in)
    os.close(fd_out)


def test_stdio_on_a_terminal_is_left_as_it_was(harness: Harness) -> None:
    main, sub = os.openpty()
    fd_out = os.dup(sub)
    stdio = Stdio(harness, sub, fd_out)
    os.write(main, b"line\n")
    harness.until(lambda: stdio.stream.written == b"line\n")
    assert not os.get_blocking(sub)
    stdio.endpoint.close()
    assert os.get_blocking(sub)
    for fd in (main, sub, fd_out):
        os.close(fd)


def test_a_terminal_is_read_without_blocking_after_the_other_side_ended() -> None:
    """With a tick it is read until nothing is left, which on a blocking descriptor would be for ever."""
    clock = Clock()
    harness = Harness(clock)
    main, sub = os.openpty()
    fd_out = os.dup(sub)
    stdio = Stdio(harness, sub, fd_out, tick=0.01)
    stdio.stream.ended = True
    stdio.update()
    assert not os.get_blocking(sub)
    os.write(main, b"line\n")
    clock.now += 0.02
    harness.wakes(2)
    assert stdio.stream.written == b"line\n"
    stdio.endpoint.close()
    assert os.get_blocking(sub)
    for fd in (main, sub, fd_out):
        os.close(fd)
    harness.close()


def test_a_socket_that_broke_before_the_other_side_ended(harness: Harness) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listening.getsockname())
    theirs, _ = listening.accept()
    fd_in, fd_out = os.dup(theirs.fileno()), theirs.detach()
    stdio = Stdio(harness, fd_in, fd_out)
    ours.shutdown(socket.SHUT_WR)
    harness.until(lambda: stdio.stream.finished)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ours.close()
    stdio.stream.ended = True
    stdio.update()
    assert stdio.ends == [False]
    assert stdio.stream.resets == [0]
    assert stdio.endpoint.failure == "cannot write to standard output: Transport endpoint is not connected"
    for fd in (fd_in, fd_out):
        os.close(fd)
    listening.close()


def test_what_cannot_be_read_is_said(harness: Harness, tmp_path: Path) -> None:
    fd_in, fd_out = os.open(tmp_path, os.O_RDONLY), os.open(os.devnull, os.O_WRONLY)
    stdio = Stdio(harness, fd_in, fd_out)
    harness.until(lambda: stdio.ends == [False])
    assert stdio.endpoint.failure == "cannot read standard input: Is a directory"
    for fd in (fd_in, fd_out):
        os.close(fd)


def test_a_reader_that_leaves_resets_the_stream(harness: Harness) -> None:
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    stdio = Stdio(harness, in_read, out_write)
    os.close(out_read)
    stdio.stream.waiting += b"nobody reads this"
    stdio.update()
    assert stdio.stream.resets == [0]
    assert stdio.ends == [False]
    assert stdio.endpoint.failure == "cannot write to standard output: Broken pipe"
    stdio.update()
    assert stdio.ends == [False]
    for fd in (in_read, in_write, out_write):
        os.close(fd)


def test_a_reset_stream_ends_stdio_unclean(harness: Harness) -> None:
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    stdio = Stdio(harness, in_read, out_write)
    stdio.stream.reset_code = 0
    stdio.update()
    assert stdio.ends == [False]
    for fd in (in_read, in_write, out_read, out_write):
        os.close(fd)


def test_a_slow_reader_of_stdout_is_waited_for(harness: Harness) -> None:
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    stdio = Stdio(harness, in_read, out_write)
    stdio.stream.waiting += bytes(1_000_000)
    stdio.update()
    assert stdio.stream.readable
    received = 0

    def taken() -> bool:
        nonlocal received
        if select.select([out_read], [], [], 0)[0]:
            received += len(os.read(out_read, 65_536))
        return received == 1_000_000

    harness.until(taken)
    stdio.endpoint.close()
    for fd in (in_read, in_write, out_read, out_write):
        os.close(fd)
