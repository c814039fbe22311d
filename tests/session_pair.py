"""Two sessions that share keys and carriers, without sockets, handshakes or a clock of their own.

Shots that leave wait until a test delivers, delays, loses or repeats them; everything else that ends ask of the network happens
at once.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

from shots import AEAD

from tcsplitter._core import ACK, PARITY, STREAM, ShotReader, open_frames, open_parity
from tcsplitter.carrier import Carrier, Op
from tcsplitter.config import SessionConfig
from tcsplitter.flows import Flow
from tcsplitter.modes import MODES
from tcsplitter.outbox import Outbox
from tcsplitter.session import Session
from tcsplitter.shared import Handling
from tcsplitter.shots import SentShot
from tcsplitter.streams import Stream

NOW = 100.0
RTT = 0.1
SIZE = 1_000
IDLE = 25.0
CLIENT, SERVER = 0, 1
Frame = tuple[Any, ...]


class Sent:
    """A shot that left."""

    def __init__(self, side: int, carrier: Carrier, sealed: bytes, now: float) -> None:
        self.side = side
        self.left_at = now
        self.carrier = carrier
        self.sealed = sealed
        self.is_parity = bool(sealed[0] & PARITY)
        self.number = int.from_bytes(sealed[5:13], "big")

    @property
    def frames(self) -> list[Frame]:
        """What it holds, where it is no parity."""
        return open_frames(AEAD, self.sealed)[2]

    @property
    def covers(self) -> list[int]:
        """The numbers of the shots that parity covers."""
        return open_parity(AEAD, self.sealed)[4]

    @property
    def payload(self) -> bool:
        """Whether it holds stream data or datagrams."""
        return not self.is_parity and any(frame[0] >= STREAM for frame in self.frames)


class Pair:
    """A client's and a server's session with so many carriers of each kind that the mode dials."""

    def __init__(
        self, handling: Handling | None = None, mode: str = "fling", datagrams: bool = False, carriers: int = 40, **config: Any
    ) -> None:
        self.now = NOW
        both = SessionConfig(True, MODES[mode], handling or Handling(size=SIZE), reserve=0, datagrams=datagrams, **config)
        self.outboxes = [Outbox(), Outbox()]
        self.sessions = [
            Session(replace(both, client=side == CLIENT), "pair", self.outboxes[side], {}, self.now) for side in (CLIENT, SERVER)
        ]
        self.wire: list[Sent] = []
        """What left and was not delivered, in order."""
        self.other: dict[Carrier, Carrier] = {}
        """The same connection as the other end sees it."""
        self.reset: list[Carrier] = []
        """Carriers that one of the ends has reset."""
        for session in self.sessions:
            session.id = b"sessions"
            session.keys.install(0, AEAD, AEAD, self.now)
            session.expect_parity(both.handling.fec.used)
            session.recovery.sample_rtt(RTT, self.now)
            session.recovery.lateness.doubt = 0.0  # the line is known, and clean until a test says otherwise
        for kind in MODES[mode].pools:
            for _ in range(carriers):
                self.connect(Carrier(kind, self.now))
        self.flush()
        assert not self.wire
        self._before = [session.counters.as_dict() for session in self.sessions]

    @property
    def client(self) -> Session:
        return self.sessions[CLIENT]

    @property
    def server(self) -> Session:
        return self.sessions[SERVER]

    def connect(self, carrier: Carrier) -> Carrier:
        """One more carrier; its hello arrives at once."""
        self.client.hello(carrier, IDLE, self.now)
        accepted = Carrier(carrier.kind, self.now)
        self.other |= {carrier: accepted, accepted: carrier}
        (record,) = ShotReader(expect_hello=True).feed(carrier.greeting[8:])
        assert self.server.welcome(accepted, record, self.now)
        self.client.carriers.confirm([(record[2], record[2])])
        carrier.greeting = b""
        return carrier

    def widen(self, side: int) -> None:
        """The line takes at once what this end sends next."""
        congestion = self.sessions[side].recovery.congestion
        congestion.rate, congestion.opens_at = 1e9, -inf

    # ------------------------------------------------------------------------------ what happens

    def flush(self) -> list[Sent]:
        """Let both ends do what they have to; the shots that left because of it."""
        first = len(self.wire)
        busy = True
        while busy:
            busy = False
            for side, session in enumerate(self.sessions):
                session.flush(self.now)
                for op, carrier, data in self.outboxes[side].take_actions():
                    busy = True
                    if op in (Op.WRITE, Op.TAIL):
                        self.wire.append(Sent(side, carrier, data, self.now))
                    elif op is Op.PROBE:
                        session.carrier_progress(carrier, 0, self.now)
                    elif op is Op.RESET:
                        self.reset.append(carrier)
        return self.wire[first:]

    def wait(self, seconds: float) -> list[Sent]:
        """Let so much time pass, in which nothing arrives; the shots that left."""
        until = self.now + seconds
        found = self.flush()
        while (due := max(min(session.deadline() for session in self.sessions), self.now + 1e-4)) <= until:
            self.now = due
            found += self.flush()
        self.now = until
        return found + self.flush()

    def deliver(self, *shots: Sent, on: Carrier | None = None) -> list[Sent]:
        """These arrive, on the carriers that they left on or on another one of the sender's; the shots that left then."""
        for shot in shots:
            if shot in self.wire:
                self.wire.remove(shot)
            carrier = self.other[on or shot.carrier]
            receiver = self.sessions[1 - shot.side]
            if not carrier.closed:
                receiver.receive_records(carrier, [(shot.sealed[0], shot.sealed[1], shot.number, shot.sealed)], self.now)
        return self.flush()

    def lose(self, *shots: Sent) -> None:
        """These never arrive, and nobody knows."""
        for shot in shots:
            self.wire.remove(shot)

    def kill(self, carrier: Carrier, side: int) -> list[Sent]:
        """The end of this side learns that a carrier broke; the shots that left because of it."""
        self.sessions[side].carrier_lost(carrier, self.now)
        return self.flush()

    def settle(self) -> None:
        """All that is on its way arrives half an RTT after it left, or now if that is past, and so does what follows from it."""
        for _ in range(10_000):
            self.flush()
            arrives_at = min((shot.left_at + RTT / 2 for shot in self.wire), default=inf)
            if arrives_at <= self.now + 1e-9:
                self.deliver(*[shot for shot in self.wire if shot.left_at + RTT / 2 <= self.now + 1e-9])
                continue
            due = max(min(session.deadline() for session in self.sessions), self.now + 1e-4)
            if min(due, arrives_at) > self.now + RTT / 2:
                return
            self.now = min(due, arrives_at)
        raise AssertionError("the ends do not come to rest")

    # ---------------------------------------------------------------------------- what is looked at

    def open(self) -> tuple[Stream, Stream]:
        """A stream that both ends know, and that has nothing under way."""
        stream = self.client.streams.open()
        self.settle()
        found = self.server.streams.get(stream.id)
        assert found is not None
        self._before = [session.counters.as_dict() for session in self.sessions]
        return stream, found

    def counted(self, side: int, name: str) -> int:
        """A counter of an end, since the stream was opened."""
        return self.sessions[side].counters.as_dict()[name] - self._before[side][name]

    def flow(self, side: int) -> Flow:
        """The one flow of an end."""
        (flow,) = self.sessions[side].flows
        return flow

    def sent(self, shot: Sent) -> SentShot | None:
        """What its sender remembers of it, unless it knows that it arrived."""
        recovery = self.sessions[shot.side].recovery
        return recovery.sent.get(shot.number) or recovery.lost.get(shot.number)


def data_shots(shots: list[Sent]) -> list[Sent]:
    """Those with payload."""
    return [shot for shot in shots if shot.payload]


def parity_shots(shots: list[Sent]) -> list[Sent]:
    return [shot for shot in shots if shot.is_parity]


def acks(shots: list[Sent]) -> list[Frame]:
    return [frame for shot in shots if not shot.is_parity for frame in shot.frames if frame[0] == ACK]


def listed(ranges: list[tuple[int, int]]) -> set[int]:
    """The numbers of ranges."""
    return {number for low, high in ranges for number in range(low, high + 1)}
