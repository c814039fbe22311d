"""The attacks of hostile.py against a server end as a process, and servers that are none against a client end as a process."""

from __future__ import annotations

import logging
import random
import resource
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress

import pytest
from hostile import Attack, Wiretap, attacks
from peer import fresh_ephemeral, request
from shots import seal_hello
from tunnel import LIMIT, MEGABYTE, End, Service, Tunnel, connect, echo, exchange, receive_exactly, reset, traffic

from tcsplitter._core import FINAL, ShotWriter
from tcsplitter.handshake import ANSWER_SIZE, REQUEST_SIZE, STATUS_NEW, VERSION, Answer, Gate, Initiator
from tcsplitter.keys import generate_key, key_from_environment
from tcsplitter.newcomers import MAX_NEWCOMERS, MAX_PER_ADDRESS

FIGURES = logging.getLogger("figures")  # pytest --log-cli-level=INFO shows them
SILENCE = 2.0  # seconds in which nothing may come
SIZE = 20 * MEGABYTE


@pytest.fixture(autouse=True)
def show_figures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, FIGURES.name)


class Stranger:
    """Somebody on the other side of the server's port, from an address of its own."""

    def __init__(self, tunnel: Tunnel, number: int = 2) -> None:
        host, _, port = tunnel.server_address.rpartition(":")
        self.sock = socket.create_connection((host, int(port)), timeout=LIMIT, source_address=(f"127.0.0.{number}", 0))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def play(self, attack: Attack) -> None:
        pause = threading.Event()
        for step in attack:
            if step is None:
                self.sock.shutdown(socket.SHUT_WR)
            elif isinstance(step, float):
                pause.wait(step)
            else:
                self.sock.sendall(step)


class Insider:
    """Somebody who knows the key and speaks the protocol by hand."""

    def __init__(self, tunnel: Tunnel) -> None:
        self.tunnel = tunnel
        initiator = Initiator(key_from_environment(tunnel.key), fresh_ephemeral(), request())
        self.handshake = initiator.message
        with Stranger(tunnel).sock as sock:
            sock.sendall(self.handshake)
            self.answer, keys = initiator.read_answer(receive_exactly(sock, ANSWER_SIZE))
        self.sealer = keys.sealer()
        self.number = -1

    def hello(self) -> bytes:
        self.number += 1
        return self.answer.session_id + seal_hello(self.sealer, 0, self.number, 0, 0)

    def shot(self, data: bytes, final: bool = True) -> bytes:
        self.number += 1
        writer = ShotWriter()
        writer.begin(0, 0)
        writer.stream(0, 0, data, False)
        return writer.seal(self.sealer, FINAL if final else 0, 0, self.number)

    def wiretap(self) -> Wiretap:
        """Use one carrier as a client would, and record it."""
        carrier = self.hello() + self.shot(b"recorded")
        with Stranger(self.tunnel).sock as sock:
            sock.sendall(carrier)
            assert sock.recv(1000)
        return Wiretap(self.handshake, carrier, self.hello())


@contextmanager
def honest_transfer(tunnel: Tunnel) -> Generator[None, None, None]:
    """Twenty megabytes each way, verified, beside whatever the block does."""
    results: list[object] = []

    def use() -> None:
        try:
            with connect(tunnel.address) as program:
                program.sendall(b"honest")
                results.append(exchange(program, SIZE, 1))
        except (OSError, AssertionError) as error:
            results.append(error)

    program = threading.Thread(target=use)
    program.start()
    try:
        yield
    finally:
        program.join(LIMIT)
    assert results == [traffic(SIZE, 2)]


@contextmanager
def honest_tunnel() -> Generator[Tunnel, None, None]:
    """A tunnel to a service that checks what honest programs send, and serves others as an echo."""

    def serve(sock: socket.socket) -> None:
        if sock.recv(6, socket.MSG_PEEK) == b"honest":
            receive_exactly(sock, 6)
            assert exchange(sock, SIZE, 2) == traffic(SIZE, 1)
        else:
            with suppress(ConnectionError):
                echo(sock)

    with Service(serve) as service, Tunnel(service.address) as tunnel:
        yield tunnel


def says_anything(socks: Iterable[socket.socket], seconds: float) -> list[socket.socket]:
    """The sockets on which bytes, an end or a reset came within that time."""
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            selector.register(sock, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(seconds) if isinstance(key.fileobj, socket.socket)]


def test_no_attack_is_answered_and_nobody_honest_notices() -> None:
    with honest_tunnel() as tunnel, ExitStack() as stack:
        cases = attacks(Insider(tunnel).wiretap())
        with honest_transfer(tunnel):
            strangers = {name: Stranger(tunnel) for name in cases}
            for stranger in strangers.values():
                stack.enter_context(stranger.sock)
            actors = [threading.Thread(target=strangers[name].play, args=(attack,)) for name, attack in cases.items()]
            for actor in actors:
                actor.start()
            for actor in actors:
                actor.join()
            loud = says_anything((stranger.sock for stranger in strangers.values()), SILENCE)
            assert [name for name, stranger in strangers.items() if stranger.sock in loud] == []


def test_a_crowd_of_half_open_connections() -> None:
    addresses = MAX_NEWCOMERS // MAX_PER_ADDRESS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with honest_tunnel() as tunnel, ExitStack() as stack:
        with honest_transfer(tunnel):
            pass
        before = tunnel.server.memory
        crowd = []
        with honest_transfer(tunnel):
            for number in range(addresses):
                for _ in range(MAX_PER_ADDRESS + 4):
                    crowd.append(Stranger(tunnel, 10 + number).sock)
                    stack.enter_context(crowd[-1])
            for sock in crowd[::2]:
                with suppress(ConnectionError):
                    sock.send(b"half a hello")
        pushed_out = says_anything(crowd, 0.5)
        growth = tunnel.server.memory - before
        FIGURES.info("%d half-open: %d pushed out; %.1f MB more", len(crowd), len(pushed_out), growth / MEGABYTE)
        assert 4 * addresses <= len(pushed_out) <= 4 * addresses + 200  # those of the honest client count for a moment, too
        assert tunnel.server.descriptors < MAX_NEWCOMERS + 200
        assert growth < 40 * MEGABYTE
        with honest_transfer(tunnel):
            pass
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_flood_of_garbage_costs_no_memory_and_few_lines() -> None:
    rng = random.Random(1)
    with honest_tunnel() as tunnel:
        with honest_transfer(tunnel):
            pass
        before = tunnel.server.memory
        with honest_transfer(tunnel):
            for number in range(500):
                stranger = Stranger(tunnel)
                stranger.sock.sendall(rng.randbytes(96))
                if number % 10 == 0:
                    stranger.sock.sendall(bytes(MEGABYTE))
                reset(stranger.sock)
        tunnel.server.wait_for(r"127\.0\.0\.2")
        growth = tunnel.server.memory - before
        about = [line for line in tunnel.server.lines if "127.0.0.2" in line]
        FIGURES.info("500 refused: %d lines; %.1f MB more", len(about), growth / MEGABYTE)
        assert growth < 15 * MEGABYTE
        assert 1 <= len(about) <= 5


def send_until_reset(sock: socket.socket, data: bytes) -> None:
    sock.sendall(data)
    while sock.recv(1000):
        pass


def test_a_carrier_that_turns_to_garbage_ends_alone() -> None:
    rng = random.Random(1)
    with honest_tunnel() as tunnel, honest_transfer(tunnel):
        insider = Insider(tunnel)
        for size in (0, 1, 12, 13, 100, 4000):
            with Stranger(tunnel).sock as sock:
                sock.sendall(insider.hello() + insider.shot(bytes(5000), final=False))
                assert sock.recv(1000)  # the acknowledgement
                with pytest.raises(ConnectionError):
                    send_until_reset(sock, insider.shot(bytes(5000))[:size] + rng.randbytes(2_000_000))
        with Stranger(tunnel).sock as sock:
            sock.sendall(insider.hello() + insider.shot(bytes(5000)))
            assert sock.recv(1000)


# ------------------------------------------------------------------------------- servers that are none


class Impostor:
    """What listens where the client end expects its server: each connection is handled in a thread of its own."""

    def __init__(self, behave: Callable[[socket.socket], None], port: int = 0) -> None:
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.port = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.connections = 0
        self._socks: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for sock in self._socks:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._socks.append(sock)
            threading.Thread(target=self._handle, args=(sock,), daemon=True).start()

    def _handle(self, sock: socket.socket) -> None:
        with suppress(OSError):
            self._behave(sock)


KEY = secrets.token_bytes(32)


def say_nothing(sock: socket.socket) -> None:
    while sock.recv(1000):
        pass


def answer_garbage(sock: socket.socket) -> None:
    sock.recv(1000)
    sock.sendall(random.Random(1).randbytes(5000))
    say_nothing(sock)


def answer_a_little(sock: socket.socket) -> None:
    sock.recv(1000)
    sock.sendall(bytes(ANSWER_SIZE - 1))
    say_nothing(sock)


def close_at_once(sock: socket.socket) -> None:
    sock.close()


def reset_at_once(sock: socket.socket) -> None:
    reset(sock)


def close_when_asked(sock: socket.socket) -> None:
    sock.recv(1000)
    sock.close()


def web_server(sock: socket.socket) -> None:
    sock.recv(1000)
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    sock.close()


def another_key(sock: socket.socket) -> None:
    sock.recv(1000)
    sock.sendall(random.Random(2).randbytes(ANSWER_SIZE))
    say_nothing(sock)


def answer_then_garbage(sock: socket.socket) -> None:
    """It knows the key, or stands in the middle and spoils all but handshakes."""
    if not answer(sock):
        sock.sendall(random.Random(1).randbytes(5000))
    say_nothing(sock)


def answer_then_silence(sock: socket.socket) -> None:
    answer(sock)
    say_nothing(sock)


def answer(sock: socket.socket) -> bool:
    """Whether this was a handshake, and is answered now."""
    message = sock.recv(1000)
    if len(message) != REQUEST_SIZE:
        return False
    granted = Answer(VERSION, STATUS_NEW, 0, b"a" * 8, b"b" * 8)
    sock.sendall(Gate({"it": KEY}, 0.0).respond(message, 0.0).answer(granted, fresh_ephemeral())[0])
    sock.shutdown(socket.SHUT_WR)
    return True


THOSE_WITH_THE_KEY = (answer_then_garbage, answer_then_silence)


@pytest.mark.parametrize(
    "behave",
    [
        say_nothing, answer_garbage, answer_a_little, close_at_once, reset_at_once, close_when_asked, web_server, another_key,
        *THOSE_WITH_THE_KEY,
    ],
)  # fmt: skip
def test_a_client_says_what_is_wrong_and_recovers(behave: Callable[[socket.socket], None]) -> None:
    key = generate_key(KEY)
    impostor = Impostor(behave)
    client = End("client", "--rFling", impostor.address, "--listen", "127.0.0.1:0", key=key)
    with client, Service(echo) as service, ExitStack() as stack:
        program = stack.enter_context(connect(client.address))
        program.sendall(b"hello?")
        began = time.monotonic()
        pause = threading.Event()
        while time.monotonic() < began + 6 and not any("still trying" in line for line in client.lines):
            pause.wait(0.05)
        said_after = time.monotonic() - began
        pause.wait(1.5)
        warnings = [line for line in client.lines if "still trying" in line]
        dials = impostor.connections
        impostor.close()
        with End("server", "--lFling", impostor.address, "--forward", service.address, key=key):
            began = time.monotonic()
            if behave in THOSE_WITH_THE_KEY:  # to the client this is a server that was restarted
                with pytest.raises(ConnectionResetError):
                    program.recv(1)
                program = stack.enter_context(connect(client.address))
                program.sendall(b"hello?")
            assert receive_exactly(program, 6) == b"hello?"
            FIGURES.info(
                "%s: said after %.1f s %s; %d connections; well again after %.1f s",
                behave.__name__, said_after, warnings, dials, time.monotonic() - began,
            )  # fmt: skip
            assert len(warnings) == 1
            assert len(client.lines) <= 6  # listening, contact, what is wrong (two lines), well again, and the stream
