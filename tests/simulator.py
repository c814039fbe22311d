"""Two ends over a seeded bad network on a virtual clock.

The network carries bytes as TCP does: in order, late when segments are lost, or not at all when a connection freezes or is cut.
It drives ClientEnd and ServerEnd as client.py and server.py do, with programs at both sides that write, read, finish and reset.
All randomness comes from one seed, so a failing seed can be run again.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from lending import lent

from tcsplitter.carrier import Carrier, Op
from tcsplitter.client_end import ClientConfig, ClientEnd
from tcsplitter.outbox import Note
from tcsplitter.server_end import ServerConfig, ServerEnd
from tcsplitter.streams import Stream

FIRST_WINDOW = 14_600
HELLO = 47  # bytes of a session id and a hello
PIECE = 2_920  # two segments: what is acknowledged at a time; writes within the first window go in one piece, to save time
KEY = hashlib.sha256(b"a key of the simulator").digest()
End = ClientEnd | ServerEnd


@dataclass
class Line:
    """What the network does to connections. Times in seconds, probabilities per connection or per write."""

    delay: float = 0.02
    jitter: float = 0.0
    late: float = 0.0
    """Probability that a write is delivered late, by 0.2 s, 0.4 s, … as after lost segments; what follows waits behind it."""
    dial_late: float = 0.0
    dial_fail: float = 0.0
    freeze: float = 0.0
    """Probability that a connection goes silent for ever at some byte."""
    swallow: float = 0.0
    """Probability that a connection goes silent for ever at the first byte behind the client's hello."""
    cut: float = 0.0
    """Probability that a connection is reset at some byte."""
    split: bool = False
    """Deliver in pieces of random sizes."""
    outages: list[tuple[float, float]] = field(default_factory=list)
    """From, to: nothing arrives."""
    rate: float = 0.0
    """Bytes per second and direction; 0: no limit."""
    replay: float = 0.0
    """Probability that what a client sent on a connection is recorded and sent again on another one."""


class Pipe:
    """One direction of a connection."""

    def __init__(self, doom: int | None, freezes: bool) -> None:
        self.free_at = 0.0
        self.waiting: deque[bytes] = deque()
        """The send queue, in pieces; an empty one is the FIN."""
        self.under_way = 0
        self.window = FIRST_WINDOW
        self.carried = 0
        self.doom = doom
        self.freezes = freezes
        self.frozen = False
        self.undelivered = 0
        """Bytes that the other side has not acknowledged."""


class Connection:
    """A TCP connection between the two ends."""

    def __init__(self, net: Network, client: Carrier) -> None:
        self.net = net
        self.sides: list[Carrier | None] = [client, None]
        self.gone = [False, False]
        rng, line = net.rng, net.line
        fate = rng.random()
        doom = rng.choice([0, rng.randrange(200), rng.randrange(12_000)]) if fate < line.freeze + line.cut else None
        freezes = fate < line.freeze
        self.pipes = [Pipe(doom, freezes), Pipe(doom, freezes)]
        if line.swallow and rng.random() < line.swallow:
            self.pipes = [Pipe(HELLO, True), Pipe(0, True)]
        self.recorded = b""

    def send(self, side: int, data: bytes) -> None:
        pipe = self.pipes[side]
        if self.gone[side] or self.gone[1 - side] or pipe.frozen:
            pipe.undelivered += len(data)
            return
        pipe.undelivered += len(data)
        if pipe.doom is not None and pipe.carried + len(data) > pipe.doom:
            data = data[: pipe.doom - pipe.carried]
            self._doom(pipe)
        pipe.carried += len(data)
        pipe.waiting += self._pieces(data)
        self._pump(side)

    def _pump(self, side: int) -> None:
        """Put on the line what the window allows: it starts at ten segments and grows by what arrives, as in slow start."""
        pipe = self.pipes[side]
        while pipe.waiting and (not pipe.under_way or pipe.under_way + len(pipe.waiting[0]) <= pipe.window):
            piece = pipe.waiting.popleft()
            pipe.under_way += len(piece)
            act = partial(self._arrive, 1 - side, piece) if piece else partial(self._eof, 1 - side)
            self._deliver(side, act, len(piece) or 40)

    def _doom(self, pipe: Pipe) -> None:
        pipe.doom = None
        if pipe.freezes:
            for each in self.pipes:
                each.frozen = True
        else:
            for side in (0, 1):
                self.net.after(self.net.line.delay, partial(self._break, side))

    def _pieces(self, data: bytes) -> list[bytes]:
        if len(data) > FIRST_WINDOW:
            return [data[at : at + PIECE] for at in range(0, len(data), PIECE)]
        if not self.net.line.split or len(data) < 2:
            return [data] if data else []
        at = self.net.rng.randrange(1, len(data))
        return [data[:at], data[at:]]

    def _deliver(self, side: int, act: Callable[[], object], size: int) -> None:
        """Schedule an arrival at the other side, behind all that was sent before."""
        pipe, net = self.pipes[side], self.net
        if pipe.frozen:
            return
        at = net.now + net.line.delay + net.rng.random() * net.line.jitter + net.queue(side, size)
        while net.rng.random() < net.line.late:
            at += net.rng.choice([0.2, 0.2, 0.4, 1.0])
        pipe.free_at = max(pipe.free_at, net.alive_at(at))
        net.at(pipe.free_at, act)

    def _arrive(self, side: int, data: bytes) -> None:
        pipe = self.pipes[1 - side]
        pipe.undelivered -= len(data)
        pipe.under_way -= len(data)
        pipe.window += len(data)
        if pipe.waiting:
            self.net.after(self.net.line.delay, partial(self._pump, 1 - side))
        carrier = self.sides[side]
        if carrier is not None and not self.gone[side]:
            if side == 1 and self.net.line.replay:
                self.recorded += data
            with lent(data) as view:
                self.net.ends[side].carrier_received(carrier, view, self.net.now)
            self.net.settle(side)

    def fin(self, side: int) -> None:
        if not self.gone[1 - side]:
            self.pipes[side].waiting.append(b"")
            self._pump(side)

    def _eof(self, side: int) -> None:
        carrier = self.sides[side]
        if carrier is not None and not self.gone[side]:
            self.net.ends[side].carrier_eof(carrier, self.net.now)
            self.net.settle(side)

    def _break(self, side: int) -> None:
        carrier = self.sides[side]
        if carrier is not None and not self.gone[side]:
            self.gone[side] = True
            self.net.ends[side].carrier_lost(carrier, self.net.now)
            self.net.settle(side)

    def close(self, side: int, reset: bool) -> None:
        if not self.gone[side]:
            if reset:
                self.pipes[side].waiting.clear()
                self._deliver(side, lambda: self._break(1 - side), 40)
            else:
                self.fin(side)
            self.gone[side] = True
            if side == 0 and self.net.rng.random() < self.net.line.replay:
                self.net.after(self.net.rng.random() * 3, partial(self.net.replay, self.recorded))


class Replay:
    """A connection of somebody who has nothing but a recording: it must be answered by nothing."""

    def __init__(self, net: Network) -> None:
        self.net = net

    def send(self, _side: int, _data: bytes) -> None:
        raise AssertionError(f"seed {self.net.seed}: a replayed connection was answered")

    def fin(self, _side: int) -> None:
        raise AssertionError(f"seed {self.net.seed}: a replayed connection was half-closed")

    def close(self, _side: int, reset: bool) -> None:
        assert not reset, f"seed {self.net.seed}: a replayed connection was reset"


class Program:
    """One side's local program of one stream: writes a pattern, checks the other side's pattern, finishes, or resets."""

    def __init__(self, net: Network, side: int, stream: Stream, plan: Plan) -> None:
        self.net, self.side, self.stream, self.plan = net, side, stream, plan
        self.sent = 0
        self.received = hashlib.sha256()
        self.count = 0
        self.finished = False
        self.ended = False
        self.was_reset: int | None = None
        stream.app = self
        self.wait = False

    def update(self, _now: float) -> None:
        if self.stream.reset_code is not None:
            self.was_reset = self.stream.reset_code
            self.ended = True
            return
        self._read()
        self._write()

    def _read(self) -> None:
        if self.wait or self.plan.stopped[self.side]:
            return
        while self.stream.readable:
            for buffer in self.stream.peek(1 << 16):
                self.received.update(buffer)
                self.count += len(buffer)
                self.stream.consume(len(buffer), self.net.now)
            if self.net.rng.random() < self.plan.slow:
                self._pause()
                return
        if self.stream.at_end:
            self.ended = True

    def _pause(self) -> None:
        self.wait = True

        def resume() -> None:
            self.wait = False
            self.update(self.net.now)
            self.net.settle(self.side)

        self.net.after(self.net.rng.random() * 0.5, resume)

    def _write(self) -> None:
        if self.wait:
            return
        total = self.plan.sizes[self.side]
        while self.sent < total and self.stream.room > 0:
            n = min(self.stream.room, total - self.sent, self.net.rng.choice(self.plan.writes))
            self.stream.write(pattern(self.plan.name, self.side, self.sent, n))
            self.sent += n
            if self.net.rng.random() < self.plan.chatty:
                self._pause()
                return
        if self.plan.resets == self.side:
            if self.sent >= total // 2:
                self.stream.reset()
                self.ended = True
        elif self.sent == total and not self.finished:
            self.finished = True
            self.stream.finish()


@dataclass
class Plan:
    """What the programs of one stream do; index 0 the client's, 1 the server's."""

    name: int
    sizes: tuple[int, int]
    writes: list[int]
    slow: float = 0.0
    chatty: float = 0.0
    resets: int | None = None
    stopped: list[bool] = field(default_factory=lambda: [False, False])


def pattern(name: int, side: int, offset: int, count: int) -> bytes:
    """`count` bytes of an endless sequence that depends on stream and direction."""
    base = hashlib.sha256(f"{name}/{side}".encode()).digest() * 8
    start = offset % 251
    rows = (start + count) // 251 + 1
    return (base[:251] * rows)[start : start + count]


def digest(name: int, side: int, total: int) -> str:
    return hashlib.sha256(pattern(name, side, 0, total)).hexdigest()


class Network:
    """The virtual clock, the two ends and what lies between them."""

    def __init__(self, seed: int, line: Line, client: ClientConfig | None = None, server: ServerConfig | None = None) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.line = line
        self.now = 1000.0
        self.steps = 0
        self.idle_wakes = 0
        """How often a timer woke an end that then found nothing to do."""
        self.dials = 0
        self.peak_held = 0
        self.recorded: list[bytes] = []
        self.notes: tuple[list[Note], list[Note]] = ([], [])
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._serial = 0
        self._wake_at = [float("inf"), float("inf")]
        self._line_free = [0.0, 0.0]
        self._server_config = server or ServerConfig()
        self.client = ClientEnd(client or ClientConfig(), "sim", KEY, random.Random(seed + 1), self.now)
        self.server = ServerEnd(self._server_config, {"sim": KEY}, random.Random(seed + 2), self.now)
        self.ends: list[End] = [self.client, self.server]
        self.plans: deque[Plan] = deque()
        self.by_stream: dict[int, Plan] = {}
        self.programs: list[dict[int, Program]] = [{}, {}]
        self.server_up = True
        self.after(0.0, lambda: self.settle(0))

    # clock -------------------------------------------------------------------

    def at(self, when: float, act: Callable[[], object]) -> None:
        self._serial += 1
        heapq.heappush(self._events, (max(when, self.now), self._serial, act))

    def after(self, delay: float, act: Callable[[], object]) -> None:
        self.at(self.now + delay, act)

    def alive_at(self, when: float) -> float:
        """The first moment from `when` on that lies in no outage: TCP tries again and again."""
        for start, end in self.line.outages:
            if 1000 + start <= when < 1000 + end:
                when = 1000 + end + self.rng.random()
        return when

    def queue(self, side: int, size: int) -> float:
        """How long a write waits for the line."""
        if not self.line.rate:
            return 0.0
        self._line_free[side] = max(self._line_free[side], self.now) + size / self.line.rate
        return self._line_free[side] - self.now

    def run(self, until: Callable[[], bool], seconds: float, max_steps: int = 2_000_000) -> None:
        """Run until the condition holds; AssertionError when time or steps run out."""
        limit = self.now + seconds
        while not until():
            assert self._events, f"seed {self.seed}: nothing left to happen at {self.now - 1000:.3f} s"
            when, _, act = heapq.heappop(self._events)
            assert when <= limit, f"seed {self.seed}: not done after {seconds} s; {self.describe()}"
            self.now = when
            self.steps += 1
            assert self.steps < max_steps, f"seed {self.seed}: too many steps; {self.describe()}"
            act()

    def describe(self) -> str:
        rows = [
            f"{'cs'[side]}{sid}: sent {p.sent} got {p.count} ended {p.ended} readable {p.stream.readable} room {p.stream.room}"
            for side in (0, 1)
            for sid, p in self.programs[side].items()
            if not (p.ended and p.finished)
        ]
        return "; ".join(rows[:6])

    # the drive loop of an end --------------------------------------------------

    def settle(self, side: int) -> bool:
        """Drive an end until it comes to rest; whether it did anything."""
        end = self.ends[side]
        acted = False
        for _ in range(1000):
            news = end.outbox.take_news()
            for stream in news:
                if stream.app is None and side == 1:
                    assert isinstance(stream, Stream)
                    self._serve(stream)
                if stream.app is not None:
                    stream.app.update(self.now)
            end.flush(self.now)
            if isinstance(end, ClientEnd):
                end.tend(self.now)
            self.notes[side].extend(end.outbox.take_notes())
            actions = end.outbox.take_actions()
            for op, carrier, data in actions:
                self._perform(side, op, carrier, data)
            if not (news or actions or end.outbox.news):
                break
            acted = True
        else:
            raise AssertionError(f"seed {self.seed}: an end does not come to rest")
        self._note_memory()
        self._arm(side, end.deadline())
        return acted

    def _arm(self, side: int, when: float) -> None:
        end = self.ends[side]
        if when == float("inf") or (self.now < self._wake_at[side] <= when):
            return
        when = max(when, self.now + 1e-6)
        self._wake_at[side] = when

        def wake() -> None:
            if self.ends[side] is end and self._wake_at[side] <= self.now:
                self._wake_at[side] = float("inf")
                self.idle_wakes += not self.settle(side)

        self.at(when, wake)

    def _note_memory(self) -> None:
        held = sum(s.held for s in self.server.sessions.values())
        self.peak_held = max(self.peak_held, held, self.client.session.held)

    def _perform(self, side: int, op: Op, carrier: Carrier, data: bytes) -> None:
        connection = carrier.io
        if op == Op.DIAL:
            self._dial(carrier)
        elif op in (Op.WRITE, Op.TAIL):
            connection.send(side, data)
        elif op == Op.SHUT:
            connection.fin(side)
        elif op == Op.CLOSE:
            connection.close(side, reset=False)
        elif op == Op.RESET:
            if connection is not None:
                connection.close(side, reset=True)
        elif op == Op.PROBE:
            self.ends[side].carrier_progress(carrier, connection.pipes[side].undelivered, self.now)

    def _dial(self, carrier: Carrier) -> None:
        self.dials += 1
        began = self.now
        connection = Connection(self, carrier)
        carrier.io = connection
        took = 2 * self.line.delay + self.rng.random() * self.line.jitter + self.queue(0, 60) + self.queue(1, 60)
        if self.rng.random() < self.line.dial_late:
            took += 1.0
        ready = self.alive_at(began + took)
        if self.rng.random() < self.line.dial_fail or not self.server_up:
            self.at(ready, lambda: self._refuse(carrier))
        else:
            self.at(ready, lambda: self._connect(carrier, connection, began))

    def _refuse(self, carrier: Carrier) -> None:
        if not carrier.closed:
            self.client.carrier_dial_failed(carrier, "there: refused", self.now)
            self.settle(0)

    def _connect(self, carrier: Carrier, connection: Connection, began: float) -> None:
        if carrier.closed:
            return
        if not self.server_up:
            self._refuse(carrier)
            return
        accepted = self.server.accepted("192.0.2.1", self.now)
        accepted.io = connection
        connection.sides[1] = accepted
        self.client.carrier_connected(carrier, self.now - began, self.now)
        self.settle(0)
        self.settle(1)

    def replay(self, recorded: bytes) -> None:
        """Somebody sends again what the server has read before."""
        carrier = self.server.accepted("198.51.100.1", self.now)
        carrier.io = Replay(self)
        self.server.carrier_received(carrier, recorded, self.now)
        self.settle(1)

    # programs ---------------------------------------------------------------------

    def open(self, plan: Plan) -> None:
        """The client's local program connects."""
        stream = self.client.open_stream(self.now)
        self.by_stream[stream.id] = plan
        program = Program(self, 0, stream, plan)
        self.programs[0][plan.name] = program
        program.update(self.now)
        self.settle(0)

    def _serve(self, stream: Stream) -> None:
        plan = self.by_stream[stream.id]
        self.programs[1][plan.name] = Program(self, 1, stream, plan)

    def restart_server(self) -> None:
        """The server process dies and comes back without memory; its connections are reset."""
        self.server = ServerEnd(self._server_config, {"sim": KEY}, random.Random(self.seed + 3), self.now)
        self.ends[1] = self.server
        self._wake_at[1] = float("inf")

    def done(self) -> bool:
        """All programs ended, and both ends have forgotten all streams."""
        return (
            len(self.programs[0]) == len(self.by_stream) + 0
            and all(p.ended and (p.finished or p.was_reset is not None or p.plan.resets == 0) for p in self.programs[0].values())
            and self.client.idle
            and self.server.idle
        )

    def verify(self) -> None:
        """Every stream that was not reset arrived whole, in both directions."""
        for plan in self.by_stream.values():
            for side in (0, 1):
                program = self.programs[side].get(plan.name)
                if plan.resets is None:
                    assert program is not None, f"seed {self.seed}: stream {plan.name} never arrived"
                    assert program.was_reset is None, f"seed {self.seed}: stream {plan.name} was reset"
                    assert program.count == plan.sizes[1 - side], f"seed {self.seed}: stream {plan.name} is short"
                    expected = digest(plan.name, 1 - side, plan.sizes[1 - side])
                    assert program.received.hexdigest() == expected, f"seed {self.seed}: stream {plan.name} is corrupt"
