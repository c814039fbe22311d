"""Ends that have flows and no session: shots are made, taken in, repeated, acknowledged and lost as a test says."""

from __future__ import annotations

import heapq
import random
from typing import Any, cast

from shots import AEAD

from tcsplitter._core import DATAGRAM, ShotWriter, open_frames
from tcsplitter.datagrams import Piece
from tcsplitter.flows import Flow, FlowTable
from tcsplitter.payload import PayloadSize
from tcsplitter.shared import Handling, Shared

SIZE = 1_000
NOW = 100.0
MOST = 2_048
Frame = tuple[Any, ...]


class Shot:
    """What a shot carries: frames for the other end, and the pieces that its sender remembers."""

    def __init__(self, frames: list[Frame], pieces: list[Piece]) -> None:
        self.frames = frames
        self.pieces = pieces


class End:
    """The flows of one end. What comes of them is in `came`, by flow."""

    def __init__(self, client: bool, handling: Handling | None = None) -> None:
        self.news: dict[Any, None] = {}
        handling = handling or Handling(size=SIZE)
        self.shared = Shared(handling, PayloadSize(handling.size), self.news, lambda: None)
        self.shared.now = NOW
        self.table = FlowTable(client, self.shared)
        self.came: dict[int, list[bytes]] = {}

    @property
    def counted(self) -> dict[str, int]:
        """What is not 0 of the counters of datagrams and payloads."""
        counted = self.shared.counters.as_dict()
        return {name: count for name, count in counted.items() if count and name.startswith(("datagrams", "payloads"))}

    def shot(self) -> Shot | None:
        """The next shot, if there is anything to send."""
        writer = ShotWriter()
        writer.begin(0, 0)
        pieces = cast("list[Piece]", self.shared.scheduler.fill(writer, MOST, True))
        if not pieces:
            return None
        return Shot(open_frames(AEAD, writer.seal(AEAD, 0, 0, 0))[2], pieces)

    def shots(self) -> list[Shot]:
        self.shared.tock.run(self.shared.now)
        found = []
        while (shot := self.shot()) is not None:
            found.append(shot)
        return found

    def take(self, *frames: Frame) -> None:
        """Frames arrived; what may be forwarded is."""
        for frame in frames:
            self.table.receive(*frame[1:])
            self.forward()

    def forward(self) -> None:
        """What a local side does: take all that is readable."""
        for flow in self.news:
            while flow.readable:
                self.came.setdefault(flow.id, []).append(flow.take())
        self.news.clear()

    def pass_time(self, seconds: float) -> None:
        """Serve what is new, and what becomes due meanwhile, each at its time."""
        until = self.shared.now + seconds
        self._serve(self.shared.now)
        while (due := self.deadline()) <= until:
            self._serve(max(due, self.shared.now))
        self._serve(until)

    def deadline(self) -> float:
        return min(self.shared.beats.deadline(), self.table.deadline(), self.shared.tock.deadline())

    def _serve(self, now: float) -> None:
        self.shared.now = now
        self.shared.tock.run(now)
        self.shared.beats.run(now)
        self.table.run(now)
        self.forward()

    def acked(self, shot: Shot) -> None:
        for piece in shot.pieces:
            piece.source.chunk_acked(piece)

    def lost(self, shot: Shot) -> None:
        for piece in shot.pieces:
            if piece.source.chunk_lost(piece):
                self.shared.schedule(piece.source)

    def send(self, flow: Flow, *datagrams: bytes) -> None:
        for datagram in datagrams:
            flow.send(datagram, self.shared.now)
        self.shared.tock.run(self.shared.now)

    def open(self) -> Flow:
        """Client: a new flow."""
        flow = self.table.open()
        assert flow is not None
        return flow

    def flow(self, flow_id: int = 0) -> Flow:
        """The open flow of this id."""
        return next(flow for flow in self.table if flow.id == flow_id)

    def balanced(self) -> bool:
        """Nothing waits anywhere."""
        table, sending = self.table, self.shared.sending
        flows = [flow for flow in table if flow.weight or flow.unsent or flow.gated or flow.unacknowledged or flow.partials]
        return not (flows or table.waiting or table.came or sending.unsent or sending.lost_chunks)


class Pair:
    """A client and a server with one clock; each shot arrives when and as often as a test says."""

    def __init__(self, client: Handling | None = None, server: Handling | None = None) -> None:
        self.ends = [End(True, client), End(False, server)]
        self._under_way: list[tuple[float, int, int, Shot]] = []
        self._serial = 0

    def send(self) -> list[tuple[int, Shot]]:
        """All shots that the ends have to send, with the side that they are of."""
        return [(side, shot) for side in (0, 1) for shot in self.ends[side].shots()]

    def deliver(self, side: int, shot: Shot) -> None:
        """A shot arrives, and so does its ack."""
        self.ends[1 - side].take(*shot.frames)
        self.ends[side].acked(shot)

    def settle(self) -> None:
        """Deliver all, at once."""
        while shots := self.send():
            for side, shot in shots:
                self.deliver(side, shot)

    def later(self, seconds: float, side: int, shot: Shot) -> None:
        """A shot is on its way for so long."""
        self._serial += 1
        heapq.heappush(self._under_way, (self.ends[0].shared.now + seconds, self._serial, side, shot))

    def pass_time(self, seconds: float) -> None:
        """What is due in the meantime happens, and what is on its way arrives."""
        until = self.ends[0].shared.now + seconds
        while self._under_way and self._under_way[0][0] <= until:
            at, _, side, shot = heapq.heappop(self._under_way)
            self._pass_to(at)
            self.deliver(side, shot)
        self._pass_to(until)

    def _pass_to(self, at: float) -> None:
        for end in self.ends:
            end.pass_time(max(0.0, at - end.shared.now))


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def frame(number: int, data: bytes = b"x", size: int = -1, offset: int = 0, flow: int = 0, stamp: int = -1) -> Frame:
    """A DATAGRAM frame as it is opened; timed with a deadline of 100 ms if a stamp is given."""
    return (DATAGRAM, flow, number, stamp, 100 if stamp >= 0 else -1, len(data) if size < 0 else size, offset, data)


def server(**more: object) -> End:
    return End(False, Handling(size=SIZE, **more))  # type: ignore[arg-type]
