"""A ServerEnd on a clock of the test's own, and a client that knows a key and sends whatever a test has it send."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from lending import lent
from shots import seal_hello

from tcsplitter._core import FINAL, ShotReader, ShotWriter, open_frames
from tcsplitter.carrier import Carrier, Op
from tcsplitter.handshake import ANSWER_SIZE, NO_SESSION, VERSION, Answer, Initiator, Request
from tcsplitter.server_end import ServerConfig, ServerEnd
from tcsplitter.streams import Stream

KEY = bytes(range(1, 33))
ELSEWHERE = "192.0.2.66"
_SERIAL = itertools.count()
Build = Callable[[ShotWriter], object]


class Server:
    """The server end, what it wrote to whom, and whom it closed when."""

    def __init__(self, seed: int = 1, keys: dict[str, bytes] | None = None, config: ServerConfig | None = None) -> None:
        self.now = 1000.0
        self.end = ServerEnd(config or ServerConfig(), keys or {"peer": KEY}, random.Random(seed), self.now)
        self.written: defaultdict[Carrier, bytearray] = defaultdict(bytearray)
        self.ended: dict[Carrier, tuple[Op, float]] = {}
        self.opened: list[Stream] = []
        self.lines: list[str] = []

    def connect(self, host: str = ELSEWHERE) -> Carrier:
        carrier = self.end.accepted(host, self.now)
        self.settle()
        return carrier

    def feed(self, carrier: Carrier, data: bytes) -> None:
        with lent(data) as view:
            self.end.carrier_received(carrier, view, self.now)
        self.settle()

    def eof(self, carrier: Carrier) -> None:
        self.end.carrier_eof(carrier, self.now)
        self.settle()

    def settle(self) -> None:
        """What the program does at the end of a wake; every new stream gets a program that reads nothing."""
        while True:
            news = self.end.outbox.take_news()
            for stream in news:
                if stream.app is None:
                    assert isinstance(stream, Stream)
                    stream.app = self
                    self.opened.append(stream)
            self.end.flush(self.now)
            actions = self.end.outbox.take_actions()
            for op, carrier, data in actions:
                if op in (Op.WRITE, Op.TAIL):
                    self.written[carrier] += data
                elif op in (Op.CLOSE, Op.RESET):
                    self.ended[carrier] = (op, self.now)
                elif op is Op.PROBE:
                    self.end.carrier_progress(carrier, 0, self.now)
            if not news and not actions:
                break
        self.lines += [note.text for note in self.end.outbox.take_notes()]

    def wait(self, seconds: float) -> None:
        """Let that much time pass, waking up whenever the end asks for it."""
        until = self.now + seconds
        while (due := max(self.end.deadline(), self.now + 1e-3)) <= until:
            self.now = due
            self.settle()
        self.now = until
        self.settle()


def request(previous: bytes = NO_SESSION) -> Request:
    """With reuse 0: a carrier takes any number of shots."""
    return Request(VERSION, 0, 0, 4, 0, 1024, previous)


def fresh_ephemeral() -> bytes:
    """32 bytes that were not used before."""
    return hashlib.sha256(b"ephemeral %d" % next(_SERIAL)).digest()


class Peer:
    """A client with a session of its own."""

    def __init__(self, server: Server, psk: bytes = KEY, previous: bytes = NO_SESSION) -> None:
        self.server = server
        self.initiator = Initiator(psk, fresh_ephemeral(), request(previous))
        self.first_message = self.initiator.message
        carrier = server.connect()
        server.feed(carrier, self.first_message)
        assert len(server.written[carrier]) == ANSWER_SIZE
        answer, keys = self.initiator.read_answer(bytes(server.written[carrier]))
        self.answer: Answer = answer
        self.keys = keys
        self.session = server.end.sessions[answer.session_id]
        self.sealer, self.opener = keys.sealer(), keys.opener()
        self.number = 0
        self.writer = ShotWriter()

    def hello(self, number: int | None = None) -> bytes:
        """The first bytes of a carrier."""
        return self.answer.session_id + seal_hello(self.sealer, self.answer.epoch, self._take(number), 0, 0)

    def carrier(self) -> Carrier:
        carrier = self.server.connect()
        self.server.feed(carrier, self.hello())
        assert carrier.session is not None
        return carrier

    def shot(self, *frames: Build, number: int | None = None, final: bool = False) -> bytes:
        """A shot with these frames, properly sealed."""
        self.writer.begin(0, 0)
        for frame in frames:
            frame(self.writer)
        return self.writer.seal(self.sealer, FINAL if final else 0, self.answer.epoch, self._take(number))

    def send(self, carrier: Carrier, *frames: Build) -> None:
        self.server.feed(carrier, self.shot(*frames))

    def read(self, carrier: Carrier) -> list[tuple[Any, ...]]:
        """The frames that the server has sent on this carrier since the last call."""
        data = bytes(self.server.written.pop(carrier, b""))
        return [frame for record in ShotReader().feed(data) for frame in open_frames(self.opener, record[3])[2]]

    def stream(self, stream_id: int) -> Stream:
        """The server's side of an open stream."""
        found = self.session.streams.get(stream_id)
        assert found is not None
        return found

    @property
    def alive(self) -> bool:
        """The server still has the session."""
        return self.answer.session_id in self.server.end.sessions

    def _take(self, number: int | None) -> int:
        taken = self.number if number is None else number
        self.number = taken + 1
        return taken


def stream(stream_id: int, offset: int = 0, data: bytes = b"", fin: bool = False) -> Build:
    return lambda writer: writer.stream(stream_id, offset, data, fin)


def reset(stream_id: int, code: int = 0, final_size: int = 0) -> Build:
    return lambda writer: writer.reset(stream_id, code, final_size)


def ping() -> Build:
    return lambda writer: writer.ping()


def credit(total: int) -> Build:
    return lambda writer: writer.credit(total)


def stream_credit(stream_id: int, limit: int, read: int = 0) -> Build:
    return lambda writer: writer.stream_credit(stream_id, limit, read)


def ack(number: int) -> Build:
    return lambda writer: writer.ack(number, 0, [(number, number)], [])
