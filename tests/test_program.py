"""Both programs on loopback: real sockets, real keys, real ends."""

import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from queue import Queue
from socket import SocketType
from typing import Any

import pytest
from loopback import known, read_all, reset

from tcsplitter import program, table
from tcsplitter._tcp import TcpSocket
from tcsplitter.client import ClientProgram, _Connect, run_connect
from tcsplitter.errors import ConfigError
from tcsplitter.keys import KEY_VARIABLE, generate_key
from tcsplitter.options import Address, ClientOptions, Fec, Playout, Retries, ServerOptions
from tcsplitter.program import Program, handling_of, raise_descriptor_limit
from tcsplitter.server import ServerProgram
from tcsplitter.shared import Handling

LOOPBACK = Address("127.0.0.1", 0)
KEYS = {"test": bytes(range(32))}


@contextmanager
def running(program: Program) -> Generator[None, None, None]:
    """Run it in a thread until the block ends."""
    thread = threading.Thread(target=program.run)
    thread.start()
    try:
        yield
    finally:
        program.stop()
        program.stop()
        thread.join(10)
    assert not thread.is_alive()


class Tunnel:
    """A server end, a client end, and a listening socket as the service."""

    def __init__(self) -> None:
        self.service = socket.create_server(("127.0.0.1", 0))
        self.service.settimeout(10)
        forward = Address("127.0.0.1", self.service.getsockname()[1])
        self.server = ServerProgram(ServerOptions(l_fling=LOOPBACK, keys=KEYS, forward=forward))
        self.client = ClientProgram(ClientOptions(r_fling=self.server.address, keys=KEYS, listen=LOOPBACK))

    def open(self) -> tuple[socket.socket, socket.socket]:
        """A program's connection, and the service's side of it."""
        program = socket.create_connection((self.client.address.host, self.client.address.port), timeout=10)
        program.sendall(b"\0")  # a stream begins with data
        target = self.service.accept()[0]
        target.settimeout(10)
        assert target.recv(1) == b"\0"
        return program, target


@pytest.fixture
def tunnel() -> Generator[Tunnel, None, None]:
    tunnel = Tunnel()
    with running(tunnel.server), running(tunnel.client):
        yield tunnel
    tunnel.service.close()


def test_bytes_go_both_ways_and_half_close_crosses(tunnel: Tunnel) -> None:
    program, target = tunnel.open()
    with program, target:
        question, answer = os.urandom(300_000), os.urandom(3_000_000)
        program.sendall(question)
        program.shutdown(socket.SHUT_WR)
        assert read_all(target) == question
        target.sendall(answer)
        target.close()
        assert read_all(program) == answer


def test_a_service_that_closes_first_still_hears_the_program(tunnel: Tunnel) -> None:
    program, target = tunnel.open()
    with program, target:
        target.sendall(b"last word")
        target.shutdown(socket.SHUT_WR)
        assert read_all(program) == b"last word"
        program.sendall(b"but not mine")
        program.close()
        assert read_all(target) == b"but not mine"


@pytest.mark.parametrize("side", [0, 1])
def test_a_reset_crosses_as_reset(tunnel: Tunnel, side: int) -> None:
    ends = tunnel.open()
    with ends[0], ends[1]:
        reset(ends[side])
        with pytest.raises(ConnectionResetError):
            ends[1 - side].recv(1)


def test_a_refused_service_resets_the_program_at_once(tunnel: Tunnel) -> None:
    """So soon that already connecting may be cut off."""
    tunnel.service.close()
    with pytest.raises(ConnectionResetError):
        connect_and_ask(tunnel.client.address)


def connect_and_ask(address: Address) -> bytes:
    """Any of the calls may be the one that meets a reset."""
    with socket.create_connection((address.host, address.port), timeout=10) as program:
        program.sendall(b"x")
        return program.recv(1)


def test_all_four_kinds_of_socket_have_nodelay(tunnel: Tunnel) -> None:
    program, target = tunnel.open()
    with program, target:
        for end in (tunnel.client, tunnel.server):
            wait(lambda: len(nodelay_flags(end)) >= 3)  # noqa: B023
            assert all(nodelay_flags(end))


def nodelay(sock: SocketType | TcpSocket) -> int:
    with known(sock) as same:
        return same.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def nodelay_flags(end: Program) -> list[int]:
    """Of the sockets that an end has open."""
    found: Queue[list[int]] = Queue()

    def look(_now: float) -> None:
        socks = [each._sock for each in end.endpoints.open] + [each._sock for each in end.carriers.open]
        found.put([nodelay(sock) for sock in socks if sock and sock.fileno() >= 0])

    end.reactor.call(look)
    return found.get(timeout=10)


def test_a_busy_port_is_said_plainly(tunnel: Tunnel) -> None:
    with pytest.raises(ConfigError, match=f"--lFling {tunnel.server.address}: the address is in use"):
        ServerProgram(ServerOptions(l_fling=tunnel.server.address, keys=KEYS))
    with pytest.raises(ConfigError, match=f"--listen {tunnel.client.address}: the address is in use"):
        ClientProgram(ClientOptions(r_fling=tunnel.server.address, keys=KEYS, listen=tunnel.client.address))


def test_for_a_stream_that_is_refused_the_service_is_not_connected_to(tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer are refused than may be: a refusal counts until the client's acknowledgement of it has come."""
    monkeypatch.setattr(table, "MAX_STREAMS", 4)
    opened = [tunnel.open() for _ in range(4)]
    for _ in range(3):
        with pytest.raises(ConnectionResetError):
            connect_and_ask(tunnel.client.address)
    program, target = opened[0]
    program.sendall(b"still here")  # and by the time it is answered, all that was refused is settled
    assert target.recv(100) == b"still here"
    tunnel.service.settimeout(0.2)
    with pytest.raises(TimeoutError):
        tunnel.service.accept()
    for pair in opened:
        for sock in pair:
            sock.close()


def test_connect_joins_two_descriptors_to_a_stream(tunnel: Tunnel) -> None:
    options = ClientOptions(r_fling=tunnel.server.address, keys=KEYS)
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run_connect(options, in_read, out_write)))
    thread.start()
    os.write(in_write, b"question")
    os.close(in_write)
    target = tunnel.service.accept()[0]
    assert read_all(target) == b"question"
    target.sendall(b"answer")
    target.close()
    assert os.read(out_read, 100) == b"answer"
    assert os.read(out_read, 100) == b""
    thread.join(10)
    assert codes == [0]
    for fd in (in_read, out_read, out_write):
        os.close(fd)


def test_connect_reports_a_reset(tunnel: Tunnel, caplog: pytest.LogCaptureFixture) -> None:
    options = ClientOptions(r_fling=tunnel.server.address, keys=KEYS)
    tunnel.service.close()
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    os.write(in_write, b"anyone?")
    assert run_connect(options, in_read, out_write) == 1
    assert caplog.messages[-1] == "refused: the server end cannot reach its --forward"
    for fd in (in_read, in_write, out_read, out_write):
        os.close(fd)


def test_connect_that_is_stopped_says_that_its_stream_had_not_ended(
    tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(program, "DRAIN_SECONDS", 0.05)
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    connect = _Connect(ClientOptions(r_fling=tunnel.server.address, keys=KEYS), in_read, out_write)
    os.write(in_write, b"hello")
    with running(connect):
        target = tunnel.service.accept()[0]
        assert target.recv(100) == b"hello"
        connect.stop()
        wait(lambda: connect.reactor.stopped)
    assert connect.exit_code == 1
    assert caplog.messages[-1:] == ["stopped before the stream had ended"]
    target.close()
    for fd in (in_read, in_write, out_read, out_write):
        os.close(fd)


def test_a_drain_lets_open_streams_end_and_takes_no_new_ones(tunnel: Tunnel) -> None:
    program, target = tunnel.open()
    with program, target:
        tunnel.client.stop()
        wait(lambda: refused(tunnel.client.address))
        program.sendall(b"still here")
        assert target.recv(100) == b"still here"
        target.close()
        assert read_all(program) == b""


@pytest.mark.parametrize(("name", "who"), [("client", "counted"), ("server", "counted for test")])
@pytest.mark.parametrize("stops", [1, 2], ids=["in order", "at once"])
def test_an_end_that_is_stopped_says_what_it_counted(name: str, who: str, stops: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tcsplitter")
    tunnel = Tunnel()
    with tunnel.service, running(tunnel.server), running(tunnel.client):
        program, target = tunnel.open()
        with program, target:
            target.sendall(b"answer")
            assert program.recv(100) == b"answer"
        end: Program = getattr(tunnel, name)
        for _ in range(stops):
            end.stop()
        wait(lambda: end.reactor.stopped)
    said = counters(f"tcsplitter.{name}", caplog)
    assert list(said) == [who]
    counted = said[who]
    assert counted["fling dialled"] >= counted["fling sent on"] >= 1
    assert counted["shots sent"] >= 1
    assert not [item for item in counted if "_" in item or item.startswith("lasso")]


def counters(logger: str, caplog: pytest.LogCaptureFixture) -> dict[str, dict[str, int]]:
    """What a logger said at DEBUG of its counters, by what is in front of the colon."""
    lines = [record.getMessage() for record in caplog.records if record.name == logger and record.levelno == logging.DEBUG]
    split = [line.split(": ") for line in lines if line.startswith("counted")]
    return {name: dict(map(_item, said.split(", "))) for name, said in split}


def _item(said: str) -> tuple[str, int]:
    name, _, count = said.rpartition(" ")
    return name, int(count)


def refused(address: Address) -> bool:
    try:
        socket.create_connection((address.host, address.port), timeout=10).close()
    except OSError as error:
        return isinstance(error, ConnectionRefusedError)  # a reset: it came while the listener was being closed
    return False


def wait(condition: Callable[[], bool]) -> None:
    """Ask again and again, for 10 s at the most."""
    ends = time.monotonic() + 10
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < ends, "it never came"
        pause.wait(0.01)


# ---------------------------------------------------------------------------------------------- processes


class Process:
    """`tcsplitter` with one of its commands, and the address that it says it listens on. Killed at the end of the block."""

    def __init__(self, *arguments: str, limit: int | None = None) -> None:
        command = [sys.executable, "-m", "tcsplitter", *arguments]
        if limit is not None:
            command = ["prlimit", f"--nofile={limit}:{limit}", *command]
        environment = os.environ | {KEY_VARIABLE: generate_key(KEYS["test"])}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.stderr = self.process.stderr
        self.address = self.next_line("listening on").split("listening on ")[1].split(",")[0]
        self.port = int(self.address.rpartition(":")[2])

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.stderr.close()

    def next_line(self, what: str) -> str:
        """The next line of its log that contains this."""
        lines: list[str] = []
        while not lines or what not in lines[-1]:
            lines.append(self.stderr.readline())
            assert lines[-1], lines
        return lines[-1]

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)


@contextmanager
def processes(service: socket.socket, limit: int | None = None) -> Generator[tuple[Process, Process], None, None]:
    """A server and a client, each a process of its own."""
    with (
        Process("server", "--lFling", "127.0.0.1:0", "--forward", f"127.0.0.1:{service.getsockname()[1]}", limit=limit) as server,
        Process("client", "--rFling", server.address, "--listen", "127.0.0.1:0", limit=limit) as client,
    ):
        yield server, client


@pytest.fixture
def service() -> Generator[socket.socket, None, None]:
    with socket.create_server(("127.0.0.1", 0), backlog=200) as service:
        service.settimeout(10)
        yield service


@contextmanager
def open_stream(client: Process, service: socket.socket) -> Generator[socket.socket, None, None]:
    """The program's side of a stream that reached the service."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as program:
        program.sendall(b"x")
        with service.accept()[0] as target:
            target.settimeout(10)
            assert target.recv(1) == b"x"
            yield program


def test_sigterm_with_an_open_stream_ends_within_three_seconds(service: socket.socket) -> None:
    with processes(service) as (server, client), open_stream(client, service) as program:
        started = time.monotonic()
        assert client.terminate() == 0
        assert 2.0 < time.monotonic() - started < 3.0
        with pytest.raises(ConnectionResetError):
            program.recv(1)
        assert server.terminate() == 0


def test_sigusr1_asks_for_the_counters(service: socket.socket) -> None:
    with processes(service) as (server, client), open_stream(client, service):
        for end, who in ((server, "counted for default"), (client, "counted")):
            for _ in range(2):
                end.process.send_signal(signal.SIGUSR1)
                said = end.next_line("counted")
                assert f" {who}: " in said
                counted = dict(map(_item, said.strip().split(": ")[-1].split(", ")))
                assert counted["fling dialled"] == counted["carriers"] > 0
                assert counted["payloads resent"] == 0


def test_a_second_sigterm_ends_at_once(service: socket.socket) -> None:
    with processes(service) as (_, client), open_stream(client, service):
        started = time.monotonic()
        client.process.send_signal(signal.SIGTERM)
        wait(lambda: refused(Address("127.0.0.1", client.port)))
        client.terminate()
        assert time.monotonic() - started < 1.5


def test_with_few_descriptors_the_tunnel_is_slow_but_not_dead(service: socket.socket) -> None:
    with processes(service, limit=64) as (server, client):
        programs = [socket.create_connection(("127.0.0.1", client.port), timeout=10) for _ in range(100)]
        for program in programs:
            with suppress(ConnectionResetError):  # as if the service had been refused
                program.sendall(b"x")
        targets = [service.accept()[0] for _ in range(10)]  # though programs would take all descriptors of the client
        for target in targets:
            target.close()
        for program in programs:
            program.close()
        wait(lambda: echoes(client.port, service))
        for end in (client, server):
            assert end.terminate() == 0


def echoes(port: int, service: socket.socket) -> bool:
    """Whether a connection through the tunnel carries bytes both ways."""
    token = os.urandom(16)
    service.settimeout(1)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as program:
        program.sendall(token)
        while True:
            try:
                target = service.accept()[0]
            except TimeoutError:
                return False
            with target:
                target.settimeout(1)
                try:
                    if target.recv(16) != token:
                        continue
                    target.sendall(token)
                    return program.recv(16) == token
                except OSError:
                    continue


def test_the_protocol_is_told_what_was_asked_for() -> None:
    asked: dict[str, Any] = {
        "size": 1400,
        "tock": 0.083,
        "playout": Playout(beat=0.04),
        "retries": Retries(resend=False, skip=100),
        "fec": Fec(10, 3),
        "hedge": False,
        "deadline": 0.25,
        "flow_idle": 30.0,
        "rate": 1e6,
        "polite": True,
    }
    address = Address("127.0.0.1", 1)
    for knobs in (ClientOptions(r_fling=address, keys=KEYS, **asked), ServerOptions(l_fling=address, keys=KEYS, **asked)):
        assert asdict(handling_of(knobs, address)) == asdict(Handling(**asked))


def test_the_descriptor_limit_is_raised_as_far_as_it_goes(caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        log = logging.getLogger("tcsplitter.test")
        assert raise_descriptor_limit(1000, 900, log) == 1000
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (1000, hard)
        assert raise_descriptor_limit(500, 900, log) == 1000
        assert not caplog.text
        assert raise_descriptor_limit(hard + 2, hard + 1, log) == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        assert f"only {hard} files may be open and {hard + 1} may be needed" in caplog.text
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
