"""A session: one client end joined to one server end. Streams become shots, shots become streams.

Sans-IO: bytes and `now` come in, actions and news go out. Both ends run this class; what only a client does (dialling, handshakes) and
only a server does (newcomers) is in client_end.py and server_end.py. The order of a wake:

    receive(carrier, bytes) · carrier_eof · carrier_lost · carrier_progress      what happened to carriers
    Stream.write · finish · reset · consume                                      what the local programs did
    flush(now)                                                                   timers, verdicts, shots to send
    actions, news, deadline()                                                    what follows from it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag

from tcsplitter._core import (
    ACK,
    CLOSE,
    CREDIT,
    FINAL,
    FRESH,
    HELLO,
    PARITY,
    PING,
    RESET,
    SEEN,
    STREAM,
    STREAM_CREDIT,
    AckLog,
    RangeSet,
    ReplayWindow,
    ShotWriter,
    open_frames,
    open_hello,
    seal_hello,
)
from tcsplitter.carrier import Action, Carrier, CarrierSet, Kind, Op
from tcsplitter.errors import RemoteProtocolError
from tcsplitter.recovery import Recovery, SentShot
from tcsplitter.scheduler import Scheduler
from tcsplitter.stats import Counters
from tcsplitter.streams import BY_PROGRAM, TOO_MANY, Control, Stream

if TYPE_CHECKING:
    from tcsplitter._core import Aead

SESSION_WINDOW = 32 * 1024 * 1024
"""Bytes of all streams of a direction that may be granted and unread."""
MAX_STREAMS = 16_384
MAX_PIECES = 16_384
"""Separate pieces held in all reassembly buffers of a session."""
MAX_PARTIAL = 32 * 1024 * 1024
"""Bytes of shots that have not arrived whole, in all carriers of a session."""
MAX_CONTROL = 512
"""Control frames in one shot."""
MAX_ACK_DELAY = 0.025
ACK_RTT_SHARE = 8
SHORTEST_DELAY = 0.001
"""Seconds; timers are no finer."""
RESERVE = 2
"""Idle carriers kept for control frames and sparse streams."""
MAX_WANT = 1024
OLD_KEYS_SECONDS = 120.0
REKEY_SHOTS, REKEY_BYTES, REKEY_SECONDS = 2**22, 2**36, 3600.0
"""What one epoch seals and opens before the client makes a new one."""
MAX_EPOCH_SHOTS = 2**24
"""Shots that are sealed with one epoch at the very most."""
STOPPED, PROTOCOL = 0, 1
"""Codes of CLOSE."""


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How this end takes part in a session."""

    client: bool
    size: int = 10_000
    """Stream bytes that one payload carries."""
    reuse: int = 1
    """Data shots per carrier and half; 0: no limit."""
    idle: float = 25.0
    """Seconds for which a carrier may stay unused."""
    reserve: int = RESERVE


class Epoch:
    """The two keys that one handshake made, and how much they were used."""

    __slots__ = ("expires_at", "made_at", "number", "open", "opened", "seal", "sealed", "volume")

    def __init__(self, number: int, seal: Aead, open_: Aead, now: float) -> None:
        self.number = number
        self.seal = seal
        self.open = open_
        self.made_at = now
        self.sealed = 0
        self.opened = 0
        self.volume = 0
        """Bytes sealed and opened."""
        self.expires_at = inf

    def worn(self, now: float) -> bool:
        """Whether a new handshake is due."""
        used = max(self.sealed, self.opened)
        return used >= REKEY_SHOTS or self.volume >= REKEY_BYTES or now - self.made_at >= REKEY_SECONDS


class Outbox:
    """What the pure side has for the I/O side, in the order in which it came up. An end has one for all its sessions."""

    __slots__ = ("actions", "news", "touched")

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self.news: dict[Stream, None] = {}
        """Streams whose state changed for the local side."""
        self.touched: dict[Session, None] = {}
        """Sessions that need a flush."""

    def take_actions(self) -> list[Action]:
        actions = self.actions[:]
        self.actions.clear()
        return actions

    def take_news(self) -> list[Stream]:
        news = list(self.news)
        self.news.clear()
        return news


class Session:
    """The state shared with one other end, over however many carriers."""

    def __init__(self, config: SessionConfig, name: str, outbox: Outbox, now: float) -> None:
        self.config = config
        self.name = name
        """The key's name, for logs."""
        self.id = b""
        self.outbox = outbox
        self.carriers = CarrierSet(config.client, config.reuse, outbox.actions)
        self.recovery = Recovery(config.size)
        self.counters = Counters()
        self.streams: dict[int, Stream] = {}
        self.closed: str | None = None
        """Why the session ended."""
        self.suspect = False
        """Something happened that a restart of the other end would explain."""
        self.peer_want = 0
        self.heard_at = now
        """When a shot was last opened."""
        self.data_at = now
        """When stream data came last."""
        self.waiting_since = now
        """Since when something is under way or waits to be sent."""
        self.unsent = 0
        """Bytes that streams hold and never sent."""
        self.lost_chunks = 0
        """Chunks that streams hold to be sent again."""
        self.send_total = 0
        self.send_limit = SESSION_WINDOW
        self.epoch: Epoch | None = None
        """What this end seals with."""
        self.epochs_made = 0
        """Server: how many handshakes were answered for this session."""
        self._epochs: dict[int, Epoch] = {}
        self.now = now
        self._next_number = 0
        self._next_stream = 0
        self._want_number = -1
        self._replay = ReplayWindow()
        self._acks = AckLog()
        self._answered = 0
        self._answered_at = now
        self._ack_by = inf
        self._writer = ShotWriter()
        self._control: dict[tuple[Control, Stream | None], None] = {}
        self._scheduler = Scheduler(config.size)
        self._received_total = 0
        self._received_limit = SESSION_WINDOW
        self._returned_total = 0
        self._pieces = 0
        self._closed_streams = RangeSet()
        self._keys_check_at = inf
        self._handlers: dict[int, Callable[..., None]] = {
            PING: self._on_ping,
            ACK: self._on_ack,
            CREDIT: self._on_credit,
            STREAM_CREDIT: self._on_stream_credit,
            RESET: self._on_reset,
            CLOSE: self._on_close,
            STREAM: self._on_stream,
        }

    # ------------------------------------------------------------------------------------ keys

    def install(self, number: int, seal: Aead, open_: Aead, now: float) -> None:
        """Add an epoch's keys. The client seals with them at once; the server when a shot of that epoch has opened."""
        self.now = now
        self._epochs[number] = Epoch(number, seal, open_, now)
        if self.config.client or self.epoch is None:
            self._switch_to(self._epochs[number])

    def _switch_to(self, epoch: Epoch) -> None:
        if self.epoch is not None:
            self.epoch.expires_at = self.now + OLD_KEYS_SECONDS
            self._keys_check_at = min(self._keys_check_at, self.epoch.expires_at)
        self.epoch = epoch

    def withdraw(self, number: int) -> None:
        """Forget the keys of an epoch that was not used yet."""
        epoch = self._epochs.get(number)
        if epoch is not None and epoch is not self.epoch and epoch.expires_at == inf:
            del self._epochs[number]

    def _forget_old_keys(self) -> None:
        for epoch in [e for e in self._epochs.values() if e.expires_at <= self.now]:
            del self._epochs[epoch.number]
        self._keys_check_at = min((e.expires_at for e in self._epochs.values()), default=inf)

    # -------------------------------------------------------------------------------- carriers

    def hello(self, carrier: Carrier, idle_for: float, now: float) -> None:
        """Client: greet the server on a fresh connection, which is then idle. Needs keys."""
        self.now = now
        epoch = self._sealing_epoch()
        self.carriers.adopt(carrier, self, idle_for, now)
        self.counters.carriers += 1
        rtt_us = min(int(self.recovery.min_rtt * 1e6), 2**32 - 1)
        hello = seal_hello(epoch.seal, epoch.number, self._take_number(epoch), int(carrier.kind), rtt_us, self.want())
        self._write(carrier, self.id + hello)

    def welcome(self, carrier: Carrier, record: tuple[int, int, int, bytes], now: float) -> bool:
        """Server: check the hello of a connection that names this session; adopt the carrier if it is genuine."""
        self.now = now
        _flags, epoch_number, number, sealed = record
        epoch = self._epochs.get(epoch_number)
        if epoch is None or self._replay.check(number) != FRESH:
            return False
        try:
            kind, rtt_us, want = open_hello(epoch.open, sealed)
            carrier.kind = Kind(kind)
            self._opened(epoch, number, len(sealed), want)
        except (InvalidTag, RemoteProtocolError, ValueError):
            return False
        self._acks.add(number)
        if rtt_us:
            self.recovery.hint_rtt(rtt_us * 1e-6, now)
        self.carriers.adopt(carrier, self, 2 * self.config.idle, now)
        self.counters.carriers += 1
        return True

    def receive(self, carrier: Carrier, data: bytes, now: float) -> None:
        """Take what was read from a carrier."""
        self.now = now
        try:
            records = self.carriers.feed(carrier, data)
        except RemoteProtocolError:
            self.counters.shots_refused += 1
            self._kill(carrier)
        else:
            self.receive_records(carrier, records, now)

    def receive_records(self, carrier: Carrier, records: list[tuple[int, int, int, bytes]], now: float) -> None:
        """Open the shots that arrived whole on a carrier, and act on them."""
        self.now = now
        self.outbox.touched[self] = None
        for record in records:
            if carrier.closed or self.closed:
                return
            try:
                if not self._receive_shot(carrier, *record):
                    self.counters.shots_refused += 1
                    self._kill(carrier)
            except RemoteProtocolError as error:
                self.fail(str(error))

    def _receive_shot(self, carrier: Carrier, flags: int, epoch_number: int, number: int, sealed: bytes) -> bool:
        """Act on one shot; False if the carrier cannot be trusted any more."""
        epoch = self._epochs.get(epoch_number)
        verdict = self._replay.check(number)
        if epoch is None or carrier.rx_final or verdict == SEEN:
            return False
        if verdict == FRESH:
            try:
                want, frames = open_frames(epoch.open, sealed)
            except InvalidTag:
                return False
            if flags & (HELLO | PARITY):
                raise RemoteProtocolError("sent a hello or parity where none is allowed")
            self._opened(epoch, number, len(sealed), want)
            self._act_on(carrier, number, frames)
        else:
            self.counters.shots_dropped += 1
        if flags & FINAL and not carrier.closed:
            self.carriers.finished(carrier, self._ack_delay(), self.recovery.give_up_after, self.now)
        return True

    def _opened(self, epoch: Epoch, number: int, size: int, want: int) -> None:
        """A record was genuine: from here on it is the other end that speaks."""
        self._replay.mark(number)
        epoch.opened += 1
        epoch.volume += size
        self.counters.shots_received += 1
        self.counters.bytes_received += size
        self.heard_at = self.now
        self.suspect = False
        if epoch is not self.epoch and not self.config.client and epoch.expires_at == inf:
            self._switch_to(epoch)
        if number > self._want_number:
            self._want_number = number
            self.peer_want = want

    def _act_on(self, carrier: Carrier, number: int, frames: list[tuple[Any, ...]]) -> None:
        if self._pieces >= MAX_PIECES and not all(map(self._fills_a_gap, frames)):
            self.counters.shots_dropped += 1
            return
        self._acks.add(number)
        elicits = False
        for frame in frames:
            elicits |= frame[0] != ACK
            self._handlers[frame[0]](*frame[1:])
        if elicits:
            delay = self._ack_delay()
            self._answered, self._answered_at = number, self.now
            self._ack_by = min(self._ack_by, self.now + max(delay, SHORTEST_DELAY))
            carrier.owes_ack = True
            self.carriers.make_due(carrier, self.now + delay)

    def _fills_a_gap(self, frame: tuple[Any, ...]) -> bool:
        """Whether a frame may be taken in though the limit of pieces is reached."""
        if frame[0] != STREAM:
            return True
        stream = self.streams.get(frame[1])
        return stream is not None and bool(frame[2] <= stream.incoming.read_offset + stream.incoming.readable)

    def _ack_delay(self) -> float:
        delay = min(self.recovery.min_rtt / ACK_RTT_SHARE, MAX_ACK_DELAY)
        return delay if delay >= SHORTEST_DELAY else 0.0

    def carrier_eof(self, carrier: Carrier, now: float) -> None:
        """The other end sent FIN. On a carrier that it finished, or that this end retired, that is its orderly end."""
        self.now = now
        self.outbox.touched[self] = None
        carrier.eof = True
        if not carrier.rx_final and (not carrier.tx_final or self._unacknowledged(carrier)):
            self.carrier_lost(carrier, now)
        elif carrier.tx_final:
            self.carriers.drop(carrier, Op.CLOSE)

    def carrier_lost(self, carrier: Carrier, now: float) -> None:
        """The connection broke: what was sent on it and not acknowledged goes elsewhere."""
        self.now = now
        self.outbox.touched[self] = None
        if not carrier.closed:
            self.suspect = True
            self._kill(carrier)

    def carrier_progress(self, carrier: Carrier, outstanding: int, now: float) -> None:
        """The answer to a PROBE: while the send queue shrinks, what is on the carrier is not lost."""
        self.now = now
        progress = 0 < outstanding < carrier.outstanding and not carrier.closed
        carrier.outstanding = outstanding
        for shot in self.recovery.overdue(now):
            if shot.carrier is not carrier:
                continue
            if progress:
                self.recovery.spare(shot, now)
                self.carriers.expire(carrier, now + self.recovery.give_up_after)
            else:
                self._lose(shot.number, by_time=True)

    def distrust_idle(self) -> None:
        """Reset all idle carriers: the machine slept, or the path changed."""
        for carrier in list(self.carriers.idle):
            self.carriers.drop(carrier, Op.RESET)

    def _kill(self, carrier: Carrier) -> None:
        """Reset a carrier that is dead or not to be trusted."""
        self.counters.carriers_died += 1
        self.carriers.drop(carrier, Op.RESET)
        for number in carrier.sent:
            self._lose(number, by_time=False)

    def _lose(self, number: int, by_time: bool) -> None:
        """A data shot is taken for lost: what it held is sent again."""
        shot = self.recovery.lose(number, by_time, self.now)
        if shot is None:
            return
        self.counters.shots_lost += 1
        self.carriers.suspend(shot.carrier)
        for chunk in shot.chunks:
            if chunk.stream.chunk_lost(chunk):
                self.schedule(chunk.stream)
        for kind, stream in shot.control:
            if kind != Control.PING:
                self.queue_control(kind, stream)

    def _unacknowledged(self, carrier: Carrier) -> bool:
        return any(n in self.recovery.sent or n in self.recovery.lost for n in carrier.sent)

    # ---------------------------------------------------------------------------------- frames

    def _on_ping(self) -> None:
        """A ping asks for nothing but the ack."""

    def _on_ack(self, answered: int, delay_us: int, ranges: list[tuple[int, int]], rebuilt: list[tuple[int, int]]) -> None:
        for shot in self.recovery.on_ack(answered, delay_us * 1e-6, ranges, rebuilt, self._next_number, self.now):
            self.carriers.resume(shot.carrier)
            for chunk in shot.chunks:
                chunk.stream.chunk_acked(chunk)
            for kind, stream in shot.control:
                if kind == Control.RESET and stream is not None:
                    stream.reset_acked()

    def _on_credit(self, total: int) -> None:
        if total > self.send_limit:
            self.send_limit = total
            for stream in self.streams.values():
                self.schedule(stream)
                self.tell(stream)

    def _on_stream_credit(self, stream_id: int, limit: int) -> None:
        stream = self._known_stream(stream_id)
        if stream is not None and stream.raise_send_limit(limit):
            self.schedule(stream)
            self.tell(stream)

    def _on_reset(self, stream_id: int, code: int, final_size: int) -> None:
        stream = self._known_stream(stream_id) or self._accept_stream(stream_id)
        if stream is not None:
            stream.receive_reset(code, final_size)

    def _on_stream(self, stream_id: int, offset: int, data: bytes | memoryview, fin: bool) -> None:
        self.data_at = self.now
        stream = self._known_stream(stream_id) or self._accept_stream(stream_id)
        if stream is not None:
            stream.receive(offset, data, fin)

    def _on_close(self, code: int, reason: str) -> None:
        self._end(reason or f"the other end closed the session with code {code}")

    def _opened_here(self, stream_id: int) -> bool:
        return (stream_id & 1 == 0) == self.config.client

    def _known_stream(self, stream_id: int) -> Stream | None:
        """The stream if it is open. Raises RemoteProtocolError for one of this end's that it has not opened yet."""
        stream = self.streams.get(stream_id)
        if stream is None and self._opened_here(stream_id) and stream_id >= self._next_stream:
            raise RemoteProtocolError(f"names stream {stream_id}, which this end has not opened")
        return stream

    def _accept_stream(self, stream_id: int) -> Stream | None:
        """A stream that the other end opens; None if it is closed already."""
        if self._opened_here(stream_id) or stream_id in self._closed_streams:
            return None
        if self.config.client:
            raise RemoteProtocolError("opened a stream, which only a client may")
        full = len(self.streams) >= MAX_STREAMS
        stream = self.streams[stream_id] = Stream(self, stream_id, opened=True)
        if full:
            stream.reset(TOO_MANY)
        else:
            self.counters.streams += 1
            self.tell(stream)
        return stream

    # --------------------------------------------------------------------------------- streams

    def open_stream(self) -> Stream:
        """Client: open a stream."""
        stream = self.streams[self._next_stream] = Stream(self, self._next_stream, opened=False)
        self._next_stream += 2
        self.counters.streams += 1
        self.schedule(stream)
        return stream

    def tell(self, stream: Stream) -> None:
        """The local side has to look at this stream."""
        self.outbox.news[stream] = None

    def schedule(self, stream: Stream) -> None:
        """A stream may have something to send."""
        self.outbox.touched[self] = None
        self._scheduler.schedule(stream, self.recovery.rtt, self.now)

    def queue_control(self, kind: Control, stream: Stream | None = None) -> None:
        """Have a control frame sent soon."""
        self.outbox.touched[self] = None
        self._control[(kind, stream)] = None

    @property
    def room(self) -> int:
        """Bytes that may be read from local programs, as far as the session's window goes."""
        return max(0, self.send_limit - self.send_total - self.unsent)

    def count_received(self, fresh: int, pieces: int) -> None:
        """Account for new bytes and pieces of a stream. Raises RemoteProtocolError beyond the session's credit."""
        self._received_total += fresh
        self._pieces += pieces
        if self._received_total > self._received_limit:
            raise RemoteProtocolError(f"sent {self._received_total} bytes in all with a credit of {self._received_limit}")

    def return_credit(self, count: int) -> None:
        """Bytes were consumed: grant as many more when a quarter of the window has come together."""
        self._returned_total += count
        if self._returned_total + SESSION_WINDOW - self._received_limit >= SESSION_WINDOW // 4:
            self._received_limit = self._returned_total + SESSION_WINDOW
            self.queue_control(Control.CREDIT)

    def maybe_forget(self, stream: Stream) -> None:
        """Close a stream whose two directions have ended."""
        if stream.done and self.streams.pop(stream.id, None) is not None:
            if not self._opened_here(stream.id):
                self._closed_streams.add(stream.id, stream.id | 1)
            self.tell(stream)

    @property
    def held(self) -> int:
        """Bytes received and not consumed by local programs, partial shots included."""
        return self._received_total - self._returned_total + self.carriers.partial

    @property
    def over_cap(self) -> bool:
        """Too many shots are only half there: no further ones are begun."""
        return self.carriers.partial > MAX_PARTIAL

    # --------------------------------------------------------------------------------- sending

    @property
    def has_work(self) -> bool:
        """Something is under way or waits to be sent."""
        return bool(self.recovery.sent or self._control or self._scheduler.sparse or self._scheduler.bulk)

    def want(self) -> int:
        """Idle carriers that this end wishes to find: what leaves while one is dialled, and what waits now."""
        leaving = 1.25 * self.recovery.rate * 1.5 * self.recovery.rtt
        waiting = min(self.unsent, max(0.0, self.recovery.window() - self.recovery.in_flight))
        payloads = int((leaving + waiting) / self.config.size) + self.lost_chunks + bool(self._scheduler.bulk)
        return min(MAX_WANT, self.config.reserve + payloads)

    def flush(self, now: float) -> None:
        """Serve the timers, then send what may be sent."""
        self.now = now
        if now >= self.carriers.check_at:
            self._check_carriers()
        if now >= self._keys_check_at:
            self._forget_old_keys()
        if now >= self.recovery.deadline():
            self._judge()
        if not self.has_work:
            self.waiting_since = now
        if self.epoch is not None and self.epoch.sealed < MAX_EPOCH_SHOTS and not self.closed:
            self._send_waiting()
            self._finish_due()
            self._send_late_ack()

    def deadline(self) -> float:
        """When `flush` must be called again at the latest."""
        due = self.carriers.next_due()
        by = min(self.carriers.check_at, self._keys_check_at, self.recovery.deadline(), due.ack_by if due else inf)
        return min(by, self._ack_by) if self.carriers.idle else by

    def _check_carriers(self) -> None:
        """Retire what was idle for too long, give up what does not answer."""
        self.recovery.forget_lost(self.now)
        for carrier in self.carriers.expired(self.now):
            retires_at = carrier.used_at + carrier.idle_for
            if carrier.tx_final or carrier.rx_final or self._unacknowledged(carrier):
                self._kill(carrier)
            elif self.now < retires_at:
                self.carriers.expire(carrier, retires_at)
            elif self.config.client and self.epoch is not None:
                self.counters.retired += 1
                self._writer.begin(self.want())
                self._seal_on(carrier, final=True)
            else:
                self.carriers.drop(carrier, Op.CLOSE)

    def _judge(self) -> None:
        """Ask the kernel about shots that are old enough to be lost; the answer decides."""
        for carrier in dict.fromkeys(shot.carrier for shot in self.recovery.overdue(self.now)):
            if carrier.closed:
                self.carrier_progress(carrier, 0, self.now)
            else:
                self.outbox.actions.append((Op.PROBE, carrier, b""))

    def _send_waiting(self) -> None:
        while True:
            urgent = bool(self._control or self._scheduler.sparse)
            if not urgent and not (self._scheduler.bulk and self.recovery.may_send()):
                return
            carrier = self.carriers.take(0 if urgent else self.config.reserve)
            if carrier is None:
                return
            self._send_data(carrier)

    def _send_data(self, carrier: Carrier) -> None:
        """Build one shot of control frames, sparse streams and bulk, in that order, and send it."""
        self._writer.begin(self.want())
        control = self._write_control()
        chunks = self._scheduler.fill(self._writer, self.recovery.may_send)
        if not control and not chunks:
            return
        self._write_ack()
        final = carrier.tx_left == 1 or carrier.rx_final
        carrier.tx_left -= 1
        if len(carrier.sent) >= 64:
            carrier.sent = [n for n in carrier.sent if n in self.recovery.sent or n in self.recovery.lost]
        carrier.sent.append(self._next_number)
        shot = SentShot(self._next_number, self.now, self._writer.size, carrier, chunks, control)
        carrier.outstanding += shot.size
        self.recovery.on_sent(shot, more_waits=bool(self._scheduler.bulk))
        self._seal_on(carrier, final)
        if not final:
            self.carriers.expire(carrier, self.now + self.recovery.give_up_after)
        for chunk in chunks:
            if chunk.stream.unsent < self.config.size:
                self.tell(chunk.stream)

    def _write_control(self) -> list[tuple[Control, Stream | None]]:
        """Write the control frames that wait, as things stand now."""
        control = list(self._control)[:MAX_CONTROL]
        for item in control:
            del self._control[item]
            kind, stream = item
            if kind == Control.RESET and stream is not None:
                self._writer.reset(stream.id, stream.sent_reset or BY_PROGRAM, stream.final_size)
            elif kind == Control.STREAM_CREDIT and stream is not None:
                self._writer.stream_credit(stream.id, stream.credit_limit)
            elif kind == Control.CREDIT:
                self._writer.credit(self._received_limit)
            else:
                self._writer.ping()
        return control

    def _write_ack(self) -> None:
        if self._acks:
            ranges, rebuilt = self._acks.take()
            self._writer.ack(self._answered, int((self.now - self._answered_at) * 1e6), ranges, rebuilt)
        self._ack_by = inf

    def _seal_on(self, carrier: Carrier, final: bool) -> None:
        """Seal the body that was built and send it on this end's half, which it completes if `final`."""
        epoch = self._sealing_epoch()
        data = self._writer.seal(epoch.seal, FINAL if final else 0, epoch.number, self._take_number(epoch))
        epoch.volume += len(data)
        self.counters.shots_sent += 1
        self._write(carrier, data)
        self.carriers.used(carrier, final, self.recovery.give_up_after, self.now)

    def _sealing_epoch(self) -> Epoch:
        if self.epoch is None:
            raise RuntimeError("a session seals nothing before it has keys")
        return self.epoch

    def _take_number(self, epoch: Epoch) -> int:
        epoch.sealed += 1
        self._next_number += 1
        return self._next_number - 1

    def _write(self, carrier: Carrier, data: bytes) -> None:
        self.counters.bytes_sent += len(data)
        self.outbox.actions.append((Op.WRITE, carrier, data))

    def _finish_due(self) -> None:
        """Use the halves whose time has come: with an ack, or, where the server owes none, by closing."""
        while (carrier := self.carriers.next_due()) is not None and carrier.ack_by <= self.now:
            if self.config.client or carrier.owes_ack:
                self._send_ack_on(carrier)
            else:
                self.carriers.drop(carrier, Op.CLOSE)

    def _send_late_ack(self) -> None:
        """An ack whose carrier's half was used up goes alone when nothing took it along."""
        if self.now >= self._ack_by and (carrier := self.carriers.take(0)) is not None:
            self._send_ack_on(carrier)

    def _send_ack_on(self, carrier: Carrier) -> None:
        self._writer.begin(self.want())
        self._write_ack()
        self._seal_on(carrier, final=self.config.reuse == 1 or carrier.rx_final)

    # ------------------------------------------------------------------------------------- end

    def fail(self, what: str) -> None:
        """The other end broke the protocol: say so and end the session."""
        self.close(PROTOCOL, what)
        self.closed = f"protocol error of the other end: {what}"

    def close(self, code: int, reason: str) -> None:
        """End the session; tell the other end if there is a carrier to do it on."""
        if self.closed:
            return
        if self.epoch is not None and (carrier := self.carriers.take(0)) is not None:
            self._writer.begin(0)
            self._writer.close(code, reason)
            self._seal_on(carrier, final=True)
        self._end(reason)

    def _end(self, reason: str) -> None:
        self.closed = reason
        for stream in list(self.streams.values()):
            stream.abandon(BY_PROGRAM)
            self.tell(stream)
        self.streams.clear()
        self._control.clear()
        for carrier in list(self.carriers.all):
            self.carriers.drop(carrier, Op.CLOSE)
