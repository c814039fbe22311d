"""What comes into a session: shots are opened, checked, rebuilt where parity allows it, and their frames acted on."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag

from tcsplitter._core import (
    ACK,
    ASK,
    CLOSE,
    CREDIT,
    DATAGRAM,
    FINAL,
    FRESH,
    GONE,
    GREETING,
    HELLO,
    PARITY,
    PING,
    RESET,
    SEEN,
    SKIP,
    STREAM,
    STREAM_CREDIT,
    ReplayWindow,
    open_frames,
    open_parity,
)
from tcsplitter.acks import ack_delay
from tcsplitter.carrier import Lent
from tcsplitter.chunks import Control
from tcsplitter.errors import RemoteProtocolError
from tcsplitter.lateness import SMALL_SHOT
from tcsplitter.modes import SYNC, Kind
from tcsplitter.rebuild import Rebuilder
from tcsplitter.streams import Stream

if TYPE_CHECKING:
    from tcsplitter.acks import Acks
    from tcsplitter.carrier import Carrier, CarrierSet, PeerCarriers
    from tcsplitter.config import SessionConfig
    from tcsplitter.flows import FlowTable
    from tcsplitter.keyring import Epoch, Keyring
    from tcsplitter.recovery import Recovery
    from tcsplitter.repair import Repair
    from tcsplitter.sending import Sender
    from tcsplitter.shots import SentShot
    from tcsplitter.table import StreamTable

MAX_PIECES = 16_384
"""Separate pieces held in all reassembly buffers of a session."""

Record = tuple[int, int, int, Lent]
"""Flags, epoch, number, and the sealed shot with its header."""

Body = tuple[int, int, list[tuple[Any, ...]]]
"""What was sealed in a shot: want, held and frames."""

_KINDS = tuple(Kind)


class Receiver:
    """One direction of a session: from sealed shots to what they mean for streams, flows, acks and carriers."""

    def __init__(
        self,
        config: SessionConfig,
        carriers: CarrierSet,
        peer: PeerCarriers,
        recovery: Recovery,
        acks: Acks,
        keys: Keyring,
        streams: StreamTable,
        flows: FlowTable,
        sender: Sender,
        repair: Repair,
        on_close: Callable[[int, str], None],
    ) -> None:
        self.heard_at = streams.shared.now
        """When a shot was last opened."""
        self.data_at = self.heard_at
        """When stream data came last."""
        self.suspect = False
        """Something happened that a restart of the other end would explain."""
        self._carriers = carriers
        self._peer = peer
        self._recovery = recovery
        self._acks = acks
        self._keys = keys
        self._streams = streams
        self._flows = flows
        self._shared = streams.shared
        self._counters = streams.shared.counters
        self._sender = sender
        self._repair = repair
        self._replay = ReplayWindow()
        self.rebuilder = Rebuilder(self._counters, self._has)
        self._payload_came = False
        """The shot that is being acted on holds payload."""
        self._takes_streams = not config.datagrams
        # By kind; `_act_on` itself sees to the two of which nearly all shots are made.
        self._handlers: dict[int, Callable[..., None]] = {
            PING: self._on_ping,
            CREDIT: streams.raise_limit,
            STREAM_CREDIT: streams.raise_stream_limit,
            RESET: self._on_reset,
            CLOSE: on_close,
            SKIP: streams.pass_by,
            ASK: self._on_ask,
            GREETING: self._on_greeting,
            GONE: self._on_gone if config.client else self._on_foreign,
            STREAM: self._on_foreign,
            DATAGRAM: self._on_datagram if config.datagrams else self._on_foreign,
        }

    # ------------------------------------------------------------------------------------ shots

    def hello(self, record: Record) -> Body | None:
        """What is in a hello; None if it is not genuine. `greeted` acts on it, once its carrier is one.

        Raises RemoteProtocolError for a genuine one that breaks the protocol.
        """
        _flags, epoch_number, number, sealed = record
        epoch = self._keys.get(epoch_number)
        if epoch is None or self._replay.check(number) != FRESH:
            return None
        try:
            body = open_frames(epoch.open, sealed)
        except InvalidTag:
            return None
        self._replay.mark(number)
        self._opened(epoch, len(sealed), self._shared.now)
        return body

    def greeted(self, carrier: Carrier, record: Record, body: Body) -> None:
        """Act on a hello and what it took along.

        Raises RemoteProtocolError for what breaks the protocol though it is genuine.
        """
        flags, _, number, sealed = record
        want, held, frames = body
        self._peer.state(number, want, held, self._shared.now)
        if self._has_room(frames):
            self._act(carrier, number, sealed, frames, self._shared.now)
        self._end_half(carrier, flags)

    def shot(self, carrier: Carrier, record: Record) -> bool:
        """Act on a shot that came on a carrier; False if the carrier cannot be trusted any more.

        Raises RemoteProtocolError for what breaks the protocol though it is genuine.
        """
        flags, epoch_number, number, sealed = record
        epoch = self._keys.get(epoch_number)
        verdict = self._replay.check(number)
        if epoch is None or carrier.rx_final or (verdict == SEEN and number not in self.rebuilder.rebuilt):
            return False
        try:
            if verdict == SEEN:
                self._take_late(carrier, epoch, number, sealed)
            elif verdict != FRESH:
                self._counters.shots_dropped += 1
            elif flags & PARITY:
                self._take_parity(carrier, epoch, number, sealed)
            else:
                self._take(carrier, epoch, number, sealed)
        except InvalidTag:
            return False
        self._end_half(carrier, flags)
        return True

    def _end_half(self, carrier: Carrier, flags: int) -> None:
        """The other end's half is complete, if these flags say so."""
        if flags & FINAL and not carrier.closed:
            self._carriers.finished(carrier, self._ack_delay(), self._recovery.give_up_after(), self._shared.now)

    def _opened(self, epoch: Epoch, size: int, now: float) -> None:
        """A record was genuine: from here on it is the other end that speaks."""
        self._keys.opened(epoch, size, now)
        counters = self._counters
        counters.shots_received += 1
        counters.bytes_received += size
        self.heard_at = now
        self.suspect = False

    def _take(self, carrier: Carrier, epoch: Epoch, number: int, sealed: Lent) -> None:
        """A shot with frames."""
        want, held, frames = open_frames(epoch.open, sealed)
        if sealed[0] & HELLO:
            raise RemoteProtocolError("sent a hello where none is allowed")
        now = self._shared.now
        self._opened(epoch, len(sealed), now)
        self._peer.state(number, want, held, now)
        if self._has_room(frames):
            self._replay.mark(number)
            self._act(carrier, number, sealed, frames, now)

    def _act(self, carrier: Carrier, number: int, sealed: Lent, frames: list[tuple[Any, ...]], now: float) -> None:
        """Act on the frames of a shot that is taken in."""
        self._acks.add(number)
        elicits = self._act_on(frames)
        if self._payload_came:
            self._note_payload(carrier, now)
        if elicits:
            self._owe_ack(carrier, number, len(sealed), now)
            if self.rebuilder.keeping:
                self.rebuilder.arrived(number, bytes(sealed), now)

    def _take_parity(self, carrier: Carrier, epoch: Epoch, number: int, sealed: Lent) -> None:
        """A shot with parity."""
        want, held, index, count, numbers, block = open_parity(epoch.open, sealed)
        now = self._shared.now
        self._replay.mark(number)
        self._opened(epoch, len(sealed), now)
        self._counters.parity_received += 1
        self._peer.state(number, want, held, now)
        self._acks.add(number)
        self._owe_ack(carrier, number, len(sealed), now)
        self._note_payload(carrier, now)
        self.rebuilder.parity(number, index, count, numbers, block, now)

    def _take_late(self, carrier: Carrier, epoch: Epoch, number: int, sealed: Lent) -> None:
        """A shot that was rebuilt before it came: only its carrier is news."""
        _, _, frames = open_frames(epoch.open, sealed)
        now = self._shared.now
        del self.rebuilder.rebuilt[number]
        self._opened(epoch, len(sealed), now)
        self._acks.add(number)
        self._note_payload(carrier, now)
        if any(frame[0] != ACK for frame in frames):
            self._owe_ack(carrier, number, len(sealed), now)

    def rebuilt(self, number: int, sealed: bytes) -> None:
        """Act on a shot that parity gave. One that does not open, or should not have been in a stripe, is as good as lost.

        Raises RemoteProtocolError for what breaks the protocol though it is genuine.
        """
        epoch = self._keys.get(sealed[1])
        try:
            if epoch is None or self._replay.check(number) != FRESH:
                raise RemoteProtocolError("a rebuilt shot has unknown keys, or came twice")
            want, held, frames = open_frames(epoch.open, sealed)
        except (InvalidTag, RemoteProtocolError):
            self._counters.stripes_lost += 1
            return
        if self._has_room(frames):
            self._replay.mark(number)
            self.rebuilder.took_in(number)
            self._peer.state(number, want, held, self._shared.now)
            self._acks.add_rebuilt(number, self._ack_delay(), self._shared.now)
            self._act_on(frames)

    def _has(self, number: int) -> bool:
        """Whether a shot was taken in, or is too old to be."""
        return self._replay.check(number) != FRESH

    def _ack_delay(self) -> float:
        return ack_delay(self._recovery.congestion.min_rtt)

    def _owe_ack(self, carrier: Carrier, number: int, size: int, now: float) -> None:
        """A data shot of so many bytes came on a carrier: its other half is to be used. No payload could keep an ack company
        where none may go."""
        delay = ack_delay(self._recovery.congestion.min_rtt, size <= SMALL_SHOT)
        self._acks.elicited(number, delay, now)
        carrier.owes_ack = True
        if carrier.kind is not SYNC:
            self._carriers.make_due(carrier, now + delay if carrier.kind in self._carriers.payload else now)

    def _note_payload(self, carrier: Carrier, now: float) -> None:
        """A carrier brought payload."""
        self._acks.for_payload = True
        self._peer.payload_at = now
        if not carrier.brought:
            carrier.brought = True
            counted = self._counters.of(carrier.kind)
            counted.received_on += 1
            counted.both_ways += carrier.carried

    # ----------------------------------------------------------------------------------- frames

    def _has_room(self, frames: list[tuple[Any, ...]]) -> bool:
        """Whether a shot can be taken in; one that cannot is treated as if it had not come."""
        if self._streams.pieces + len(frames) > MAX_PIECES and not all(map(self._fills_a_gap, frames)):
            self._counters.shots_dropped += 1
            return False
        return True

    def _fills_a_gap(self, frame: tuple[Any, ...]) -> bool:
        """Whether a frame may be taken in though the limit of pieces is reached."""
        if frame[0] != STREAM:
            return True
        stream = self._streams.get(frame[1])
        return stream is not None and bool(frame[2] <= stream.incoming.read_offset + stream.incoming.readable)

    def _act_on(self, frames: list[tuple[Any, ...]]) -> bool:
        """Whether they ask for an ack."""
        elicits = self._payload_came = False
        for frame in frames:
            kind = frame[0]
            if kind == ACK:
                _, answered, delay_us, ranges, rebuilt = frame
                self._on_ack(answered, delay_us, ranges, rebuilt)
            elif kind == STREAM and self._takes_streams:
                elicits = True
                _, stream_id, offset, data, fin = frame
                self._on_stream(stream_id, offset, data, fin)
            else:
                elicits |= kind != GREETING
                self._handlers[kind](*frame[1:])
                if kind == CLOSE:  # what stands behind it is for nobody
                    break
        return elicits

    def _on_greeting(self, _kind: int, _connect_us: int) -> None:
        """The carrier is what it says (`Session.welcome`)."""

    def _on_ping(self) -> None:
        """A ping asks for nothing but the ack."""

    def _on_ack(self, answered: int, delay_us: int, ranges: list[tuple[int, int]], rebuilt: list[tuple[int, int]]) -> None:
        self._carriers.confirm(ranges)
        next_number, now = self._sender.next_number, self._shared.now
        arrived, repaired = self._recovery.on_ack(answered, delay_us * 1e-6, ranges, rebuilt, next_number, now)
        for shot in arrived:
            carrier = shot.carrier
            if not carrier.tx_final:
                self._carriers.resume(carrier)
            elif shot.ends_half:
                carrier.delivered = True
            if carrier.kind is SYNC:
                carrier.asked_at = now if self._repair.outstanding(carrier) else inf
            self._settle(shot)
        for shot in repaired:
            self._settle(shot)

    def _settle(self, shot: SentShot) -> None:
        """The other end has what a shot held."""
        if shot.copies is not None and not shot.copies.arrived:
            shot.copies.arrived = True
            self._counters.hedges_won += shot.is_twin
        for chunk in shot.chunks:
            chunk.source.chunk_acked(chunk)
        for kind, subject in shot.control:
            if kind == Control.RESET and isinstance(subject, Stream):
                subject.reset_acked()

    def _on_ask(self, number: int) -> None:
        """All acks of a shot that arrived were lost, or it did not arrive."""
        if number in self.rebuilder.rebuilt:
            self._acks.add_rebuilt(number, self._ack_delay(), self._shared.now)
        elif self._replay.check(number) == SEEN:
            self._acks.add(number)

    def _on_gone(self, hello: int) -> None:
        carrier = self._carriers.greeted.get(hello)
        if carrier is not None:
            self._repair.kill(carrier, self._shared.now)

    def _on_reset(self, stream_id: int, code: int, final_size: int) -> None:
        stream = self._streams.known(stream_id) or self._streams.accept(stream_id)
        if stream is not None:
            stream.receive_reset(code, final_size)

    def _on_stream(self, stream_id: int, offset: int, data: bytes | memoryview, fin: bool) -> None:
        self.data_at = self._shared.now
        if data:
            self._payload_came = True
        stream = self._streams.known(stream_id) or self._streams.accept(stream_id)
        if stream is not None:
            stream.receive(offset, data, fin)

    def _on_datagram(
        self, flow_id: int, number: int, stamp: int, deadline: int, size: int, offset: int, data: bytes | memoryview
    ) -> None:
        self.data_at = self._shared.now
        self._payload_came = True
        self._flows.receive(flow_id, number, stamp, deadline, size, offset, data)

    def _on_foreign(self, *_frame: Any) -> None:
        raise RemoteProtocolError("sent frames of the other kind of session, or of a server")


def greeting_of(body: Body) -> tuple[Kind, int]:
    """What a hello says: the carrier's kind, and how long it took to connect in µs; 0: not known."""
    _, kind, connect_us = body[2][0]
    return _KINDS[kind], connect_us
