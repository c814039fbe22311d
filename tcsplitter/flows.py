"""Flows: tunnelled UDP peers. Datagrams keep their boundaries, wait for no other one, and arrive once and whole or not at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING, Any

from tcsplitter._core import Playout
from tcsplitter.datagrams import DATAGRAM_WEIGHT, MAX_RANGES, MAX_RANGES_OF_FLOW, Datagram, Numbers, Piece, Reassembly
from tcsplitter.errors import RemoteProtocolError
from tcsplitter.playout import ATTEMPT_SECONDS

if TYPE_CHECKING:
    from tcsplitter.shared import Shared

MAX_FLOWS = 16_384
"""Flows of a session; as many that have ended are remembered."""
QUEUE_BYTES, QUEUE_SECONDS = 262_144, 0.25
"""What waits of a flow to be sent, and for how long; the oldest datagrams beyond that are dropped."""
FORWARD_BYTES = 4 * 1024 * 1024
"""What waits of a flow to be forwarded: more, as all that arrived on many carriers is taken in before anything is forwarded."""
MAX_QUEUED = 32 * 1024 * 1024
"""What waits of all flows of a session, in each direction."""
CLOCK_SECONDS = 30.0
"""The quickest of this span and of the one before tells what is late."""


class Flow:
    """Both directions of one flow. It ends by silence, at each end by itself."""

    __slots__ = (
        "_came", "_came_weight", "_held", "_held_share", "_playout", "_queue", "_released", "_resend", "_shared", "_table",
        "_unsent", "app", "beat_at", "closed", "deficit", "id", "numbers", "partials", "queue", "unacknowledged", "used_at",
        "weight",
    )  # fmt: skip

    def __init__(self, table: FlowTable, flow_id: int, numbers: Numbers) -> None:
        self.id = flow_id
        self.app: Any = None
        """The local side's endpoint; nothing here looks at it."""
        self.closed = False
        """It has ended: the local side lets go of it."""
        self.numbers = numbers
        self.used_at = table.shared.now
        self.queue: Any = None
        """The scheduler's list that this flow waits in."""
        self.deficit = 0
        self.unacknowledged = 0
        """Bytes that were sent and neither acknowledged nor given up."""
        self.beat_at = inf
        """When `on_beat` is called; kept by Beats."""
        self.partials: set[int] = set()
        """Numbers of the datagrams of which some fragments have come; kept by Reassembly."""
        self.weight = 0
        """What the datagrams to be sent take of the queue."""
        self._table = table
        self._shared = table.shared
        self._queue: deque[Datagram] = deque()
        """To be sent, in this order."""
        self._held: deque[Datagram] = deque()
        """Behind those, what `--tock` holds back."""
        self._held_share = 0
        self._unsent = 0
        self._resend: deque[Piece] = deque()
        self._came: deque[bytes] = deque()
        self._came_weight = 0
        self._released = 0
        """How many of those that came the beat has let go."""
        setting = table.shared.handling.playout
        self._playout: Playout | None = None
        if setting.beat:
            self._playout = Playout(setting.beat, setting.merge, setting.catch_up, self.used_at + setting.after)

    # ------------------------------------------------------------------ the local side: sending

    def send(self, data: bytes, now: float) -> None:
        """The local program sent a datagram. Where too much waits the oldest are dropped."""
        if self.closed:
            return
        self._table.used(self, now)
        datagram = Datagram(self.numbers.next, data, now, *self._table.stamp(now))
        self.numbers.next += 1
        self._count(len(data), datagram.weight)
        tock = self._shared.tock
        if tock.wait:
            self._held.append(datagram)
            self._held_share += datagram.share
            tock.wrote(self, datagram.share)
        else:
            self._queue.append(datagram)
        while self.weight > QUEUE_BYTES or self._table.waiting > MAX_QUEUED:
            if not self._drop_oldest():
                break
        self._shared.schedule(self)

    @property
    def gated(self) -> int:
        """Bytes of payload that `--tock` holds back."""
        return self._held_share

    def open_gate(self, count: int) -> int:
        """Let so many of them go, or fewer where the next datagram is to be in one payload and would be too much."""
        opened = 0
        while self._held and opened < count:
            share = self._held[0].share
            if opened + share > count and share <= self._shared.size.bytes:
                break
            self._queue.append(self._held.popleft())
            opened += share
        self._held_share -= opened
        self._shared.schedule(self)
        return opened

    def _count(self, unsent: int, weight: int) -> None:
        """So much more waits to be sent."""
        self.weight += weight
        self._table.waiting += weight
        self._unsent += unsent
        self._shared.sending.unsent += unsent

    def _drop_oldest(self) -> bool:
        """Drop the oldest datagram of which nothing was sent; False if there is none."""
        if not self._queue or self._queue[0].cut:
            self._shared.tock.release(self)
        begun = bool(self._queue and self._queue[0].cut)
        if len(self._queue) == begun:
            return False
        datagram = self._queue[begun]
        del self._queue[begun]
        self._count(-datagram.left, -datagram.weight)
        self._shared.counters.datagrams_dropped += 1
        return True

    # ---------------------------------------------------------------- the local side: receiving

    @property
    def readable(self) -> int:
        """Datagrams that may be forwarded now."""
        return len(self._came) if self._playout is None else self._released

    def take(self) -> bytes:
        """The next of them."""
        if self._playout is not None:
            self._released -= 1
        return self._take_oldest()

    def _take_oldest(self) -> bytes:
        data = self._came.popleft()
        self._count_came(-len(data) - DATAGRAM_WEIGHT)
        return data

    def _count_came(self, weight: int) -> None:
        """So much more waits to be forwarded."""
        self._came_weight += weight
        self._table.came += weight

    # ---------------------------------------------------------------- the session's side: sending

    @property
    def unsent(self) -> int:
        """Bytes that were never sent."""
        return self._unsent

    @property
    def wants_to_send(self) -> bool:
        """Whether `cut` may have something to give."""
        return bool(self._resend or self._queue)

    needs_room = wants_to_send

    @property
    def has_lost(self) -> bool:
        """A piece waits to be sent again."""
        return bool(self._resend)

    def cut(self, limit: int) -> Piece | None:
        """The next piece of at most `limit` bytes; None if there is none, or if it needs a payload of its own."""
        return self.cut_lost(limit) or (None if self._resend else self._cut_new(limit))

    def cut_lost(self, limit: int) -> Piece | None:
        """The next piece that has to be sent again, if it has at most `limit` bytes or could not have fewer."""
        while self._resend:
            piece = self._resend[0]
            live = not piece.acked and not self._is_old(piece.datagram)
            if live and piece.size > limit != self._shared.size.bytes:
                return None
            self._resend.popleft()
            self._shared.sending.lost_chunks -= 1
            if live:
                self._shared.counters.payloads_resent += 1
                return piece
            self._give_up(piece)
        return None

    def _cut_new(self, limit: int) -> Piece | None:
        self._table.ready_at = min(self._table.ready_at, self._shared.now)
        while self._queue:
            datagram = self._queue[0]
            if datagram.cut or not self._waited_too_long(datagram):
                return self._cut_from(datagram, limit)
            self._drop_oldest()
        return None

    def _cut_from(self, datagram: Datagram, limit: int) -> Piece | None:
        """A fragment of a datagram that is longer than a payload, or all of one that is not, if there is room for that."""
        if limit < datagram.left <= self._shared.size.bytes and not datagram.cut:
            return None
        piece = Piece(self, datagram, datagram.cut, datagram.data[datagram.cut : datagram.cut + limit])
        datagram.cut += piece.size
        self._count(-piece.size, -piece.size)
        if not datagram.left:
            self._queue.popleft()
            self._count(0, -DATAGRAM_WEIGHT)
            self._shared.counters.datagrams_sent += 1
        self.unacknowledged += piece.size
        return piece

    def _waited_too_long(self, datagram: Datagram) -> bool:
        """Whether it waited for its turn for longer than a datagram may."""
        since = max(datagram.born, self._table.ready_at)
        return self._shared.now - since > QUEUE_SECONDS + self._shared.tock.wait or self._past_deadline(datagram)

    def _past_deadline(self, datagram: Datagram) -> bool:
        deadline = self._shared.handling.deadline
        return bool(deadline) and self._shared.now - datagram.born > deadline

    def _is_old(self, datagram: Datagram) -> bool:
        """Whether it is not worth sending again: nobody waits for it any more."""
        handling = self._shared.handling
        if handling.retries.skip >= 0:
            lifetime = handling.retries.skip * (handling.playout.beat or ATTEMPT_SECONDS)
            if self._shared.now - datagram.born > lifetime:
                return True
        return self._past_deadline(datagram)

    def chunk_acked(self, piece: Piece) -> None:
        """It arrived."""
        if not piece.acked:
            piece.acked = True
            self.unacknowledged -= piece.size

    def chunk_lost(self, piece: Piece) -> bool:
        """Whether the piece has to be sent again."""
        if piece.acked:
            return False
        if self.closed or not self._shared.handling.retries.resend or self._is_old(piece.datagram):
            self._give_up(piece)
            return False
        self._resend.append(piece)
        self._shared.sending.lost_chunks += 1
        return True

    def _give_up(self, piece: Piece) -> None:
        if not piece.acked:
            self._shared.counters.payloads_given_up += 1
            self.chunk_acked(piece)

    # -------------------------------------------------------------- the session's side: receiving

    def receive(self, number: int, size: int, offset: int, data: bytes | memoryview, late: bool) -> None:
        """Take a datagram, or a fragment of one, in. Raises RemoteProtocolError for fragments that contradict each other."""
        if number in self.numbers:
            return
        whole: bytes | None = None
        if late:
            if number in self.partials:
                self._table.reassembly.drop(self, number)
            self._shared.counters.datagrams_late += 1
        elif len(data) == size and number not in self.partials:
            whole = bytes(data)
        else:
            whole = self._table.reassembly.add(self, number, size, offset, data, self._shared.now)
            if whole is None:
                return
        self.see(number)
        if whole is not None:
            self._arrived(whole)

    def see(self, number: int) -> None:
        """What else comes of this datagram is not waited for."""
        table = self._table
        table.ranges += self.numbers.add(number, MAX_RANGES_OF_FLOW if table.ranges < MAX_RANGES else 1)

    def _arrived(self, data: bytes) -> None:
        self._shared.counters.datagrams_received += 1
        self._came.append(data)
        self._count_came(len(data) + DATAGRAM_WEIGHT)
        while self._came_weight > FORWARD_BYTES or self._came and self._table.came > MAX_QUEUED:
            self._take_oldest()
            self._released = max(0, self._released - 1)
            self._shared.counters.datagrams_dropped += 1
        self._shared.tell(self)
        if self._playout is not None:
            self._playout.push(1, self._shared.now)
            self.on_beat(self._shared.now)

    def on_beat(self, now: float) -> None:
        """Release what the beat allows."""
        if self._playout is None:
            return
        released = self._playout.release(now)
        if released:
            self._released = min(self._released + released, len(self._came))
            self._shared.tell(self)
        self._shared.beats.at(self, self._playout.deadline())

    # ------------------------------------------------------------------------------------- end

    def close(self) -> None:
        """It has ended: what waits is dropped."""
        self.closed = True
        shared = self._shared
        shared.tock.release(self)
        shared.counters.datagrams_dropped += len(self._queue) + len(self._came)
        shared.counters.datagrams_lost += len(self.partials)
        for number in list(self.partials):
            self._table.reassembly.drop(self, number)
        self._count(-self._unsent, -self.weight)
        self._count_came(-self._came_weight)
        self._queue.clear()
        self._came.clear()
        self._released = 0
        shared.sending.lost_chunks -= len(self._resend)
        for piece in self._resend:
            self._give_up(piece)
        self._resend.clear()
        shared.beats.at(self, inf)
        shared.tell(self)


class FlowTable:
    """The flows of a session, those used last at the end."""

    def __init__(self, client: bool, shared: Shared) -> None:
        self.shared = shared
        self.ready_at = inf
        """When a datagram could first be sent: the session is established."""
        self.waiting = 0
        """What waits to be sent, of all flows."""
        self.came = 0
        """What waits to be forwarded, of all flows."""
        self.ranges = 0
        """Ranges of numbers that are remembered of open flows."""
        self.reassembly = Reassembly(shared.counters)
        self._client = client
        self._open: dict[int, Flow] = {}
        self._next_id = 0
        self._ended: dict[int, Numbers] = {}
        """Server: of flows that ended here, and with which the client may go on."""
        self._began_at = shared.now
        self._quickest = [inf, inf]
        self._span_since = -inf

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Flow]:
        return iter(self._open.values())

    def open(self) -> Flow | None:
        """Client: a new flow; None where there are too many."""
        if len(self._open) >= MAX_FLOWS:
            return None
        self._next_id += 1
        return self._add(self._next_id - 1, Numbers())

    def _add(self, flow_id: int, numbers: Numbers) -> Flow:
        flow = self._open[flow_id] = Flow(self, flow_id, numbers)
        self.ranges += len(numbers)
        return flow

    def used(self, flow: Flow, now: float) -> None:
        """A datagram of an open flow came or went."""
        flow.used_at = now
        self._open[flow.id] = self._open.pop(flow.id)

    def receive(
        self, flow_id: int, number: int, stamp: int, deadline: int, size: int, offset: int, data: bytes | memoryview
    ) -> None:
        """A DATAGRAM frame came. Raises RemoteProtocolError for what the other end may not send."""
        flow = self._open.get(flow_id) or self._accept(flow_id)
        if flow is None:
            self.shared.counters.datagrams_dropped += 1
            return
        self.used(flow, self.shared.now)
        late = stamp >= 0 and self._age(stamp) * 1000 > deadline
        flow.receive(number, size, offset, data, late)

    def _accept(self, flow_id: int) -> Flow | None:
        """Server: a flow that the client opens; None where there are too many, or at a client, where it has ended."""
        if self._client:
            if flow_id >= self._next_id:
                raise RemoteProtocolError(f"names flow {flow_id}, which this end has not opened")
            return None
        if len(self._open) >= MAX_FLOWS:
            return None
        flow = self._add(flow_id, self._ended.pop(flow_id, Numbers()))
        self.shared.tell(flow)
        return flow

    def stamp(self, born: float) -> tuple[int, int]:
        """What the other end needs to drop a datagram when it is too old: ms, -1 where there is no deadline."""
        deadline = self.shared.handling.deadline
        return (max(0, int((born - self._began_at) * 1000)), max(1, int(deadline * 1000))) if deadline else (-1, -1)

    def _age(self, stamp: int) -> float:
        """Seconds since a datagram with this stamp was read: how much later it came than the quickest, and half an RTT."""
        now = self.shared.now
        took = now - stamp / 1000
        if now > self._span_since + CLOCK_SECONDS:
            self._quickest = [self._quickest[1], inf]
            self._span_since = now
        self._quickest[1] = min(self._quickest[1], took)
        return took - min(self._quickest) + self.shared.rtt / 2

    def run(self, now: float) -> None:
        """End the flows that were silent for too long, and give up what does not become whole."""
        self.reassembly.run(now)
        while now >= self._ends_at():
            self._close(next(iter(self._open.values())))

    def deadline(self) -> float:
        """When `run` has something to do."""
        return min(self.reassembly.deadline(), self._ends_at())

    def _ends_at(self) -> float:
        """When the flow that was silent for longest ends."""
        return next(iter(self._open.values())).used_at + self.shared.handling.flow_idle if self._open else inf

    def abandon(self) -> None:
        """The session ended."""
        for flow in list(self._open.values()):
            self._close(flow)

    def _close(self, flow: Flow) -> None:
        del self._open[flow.id]
        flow.close()
        self.ranges -= len(flow.numbers)
        if not self._client:
            flow.numbers.fold()
            self._ended[flow.id] = flow.numbers
            if len(self._ended) > MAX_FLOWS:
                del self._ended[next(iter(self._ended))]
