"""What leaves a session: shots are filled, numbered, sealed and put on carriers."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

from tcsplitter._core import FINAL, HEADER_SIZE, TAG_SIZE, ShotWriter
from tcsplitter.acks import ack_delay
from tcsplitter.carrier import CLOSE, TAIL, TRIM_AT, WRITE, Carrier, Op
from tcsplitter.chunks import Control
from tcsplitter.demand import MAX_WANT, Demand
from tcsplitter.errors import LocalProtocolError
from tcsplitter.hedging import Hedger
from tcsplitter.lateness import SMALL_SHOT
from tcsplitter.modes import SYNC
from tcsplitter.parity import Stripes
from tcsplitter.routes import Routes
from tcsplitter.shots import Copies, SentShot

if TYPE_CHECKING:
    from tcsplitter.acks import Acks
    from tcsplitter.carrier import CarrierSet
    from tcsplitter.config import SessionConfig
    from tcsplitter.keyring import Epoch, Keyring
    from tcsplitter.outbox import Outbox
    from tcsplitter.recovery import Recovery
    from tcsplitter.scheduler import Portion
    from tcsplitter.shared import Shared
    from tcsplitter.table import ControlFrame, StreamTable

FILL_TIMES = 2.0
"""A stripe that is being filled is given so many times what that takes at the rate of the line."""
TAIL_FROM, TAIL_JITTER = 4_000, 0.1
"""Bytes of a shot from which on a tail costs no more than a fiftieth. Where RTTs jitter by a larger share than the other segments
overtake each other: the window of RACK for that is a quarter (RFC 8985)."""
GREET_SECONDS = 0.001
"""For so long the hello of a carrier that was connected after a `flush` waits for a shot that takes it along."""
MOST_GREETING = 65_536
"""Where the RTT is next to nothing and a payload has no more bytes, the hello takes the first shot's frames along: one of its own
takes a twentieth of all CPU time there. The server keeps no longer one of somebody who has not proved a key."""
MAX_GONE = 64
"""Carriers in one shot that are said to be given up."""


class Sender:
    """One direction of a session: it takes what waits, and what the other end has to be told, to carriers."""

    def __init__(
        self,
        config: SessionConfig,
        carriers: CarrierSet,
        routes: Routes,
        recovery: Recovery,
        acks: Acks,
        keys: Keyring,
        streams: StreamTable,
        outbox: Outbox,
    ) -> None:
        self.next_number = 0
        self._config = config
        self._reserve = config.reserve
        self._parity = config.handling.fec.parity
        self._may_take_along = not config.handling.fec.used  # no parity covers a hello
        self._most = min(MAX_WANT, config.most)
        self._carriers = carriers
        self._routes = routes
        self._recovery = recovery
        self._cap = recovery.congestion.cap
        self._acks = acks
        self._keys = keys
        self._streams = streams
        self._shared: Shared = streams.shared
        self._counters = streams.shared.counters
        self._tock = streams.shared.tock
        self._actions = outbox.actions
        self._stripes = Stripes(config.handling, recovery)
        self._demand = Demand(config.client, recovery.congestion, streams)
        self._hedger = Hedger(config.handling, recovery, self._counters, self._shared.now)
        self._full_at = -inf
        """When bulk last had to wait for the line, or for carriers."""
        self._bulk_since = inf
        """Since when there is always some that waits."""
        self._writer = ShotWriter()
        self._greeters: list[Carrier] = []
        """Carriers whose hello waits for the end of the next `flush`, so that it can leave in one segment with a shot."""
        self._gone: deque[int] = deque(maxlen=MAX_WANT)
        """Server: hellos of carriers that were given up; the client may not see them reset."""

    @property
    def has_work(self) -> bool:
        """Something is under way or waits to be sent."""
        return bool(self._recovery.sent or self._streams.has_control() or self._shared.scheduler)

    def want(self) -> int:
        """Idle carriers that this end wishes to find."""
        payloads = self._demand.payloads(self._recovery.in_flight, self._shared.now)
        copies = len(self._stripes) + len(self._hedger)
        return min(self._most, self._spare() + payloads + copies + bool(self._shared.scheduler.bulk))

    def _spare(self) -> int:
        """Idle carriers that are kept for sparse streams, their twins and their parity."""
        return self._reserve + self._hedger.spare(self._reserve) + self._parity

    # ------------------------------------------------------------------------------------- a wake

    def flush(self) -> None:
        """Send what may be sent and what is due."""
        now = self._shared.now
        self._recovery.note_late(now)
        self._hedger.run(now, spare=not self._shared.scheduler)
        self._tock.run(now)
        if self._streams.has_control() and (carrier := self._routes.sync(now)) is not None:
            self._send_data(carrier, payload=False)
        self._send_lost()
        self._send_twins()
        self._stripes.run(now, self._stripe_delay())
        self._send_waiting()
        if now >= self._acks.due_at and (carrier := self._routes.sync(now)) is not None:
            self._send_ack(carrier)
        self._finish_due()
        # An ack whose carrier's half was used up goes alone when nothing took it along.
        if now >= self._acks.due_at and (carrier := self._routes.control(now)) is not None:
            self._send_ack(carrier)

    def deadline(self) -> float:
        """When `flush` must be called again at the latest."""
        due = self._carriers.next_due()
        by = min(due.ack_by if due else inf, self._tock.deadline(), self._routes.deadline())
        by = min(by, self._hedger.deadline(), self._stripes.deadline(self._stripe_delay()))
        if self._shared.scheduler and self._routes.yields_until > self._shared.now:
            by = min(by, self._routes.yields_until)
        if self._recovery.opens_at > self._shared.now and self._waits_for_pace() and self._recovery.has_room():
            by = min(by, self._recovery.opens_at)
        if self._cap.opens_at > self._shared.now:
            by = min(by, self._cap_deadline())
        if self._greeters:
            by = min(by, self._shared.now + GREET_SECONDS)
        if self._acks.due_at < by and self._routes.control(self._shared.now) is not None:
            return self._acks.due_at
        return by

    def _cap_deadline(self) -> float:
        """When the cap lets go what waits for nothing else."""
        if self._shared.scheduler.sparse and self._cap.sparse_at > self._shared.now:
            return self._cap.sparse_at
        return self._cap.opens_at if len(self._hedger) or len(self._stripes) else inf

    def _stripe_delay(self) -> float:
        """For how long a stripe waits for more shots; where bulk waits for its turn, for as long as the line takes to fill it."""
        rate = self._recovery.congestion.rate
        if not self._shared.scheduler.bulk or not rate:
            return self._ack_delay()
        return max(self._recovery.rtt, FILL_TIMES * self._config.handling.fec.data * self._shared.size.bytes / rate)

    def _waits_for_pace(self) -> bool:
        return bool(self._shared.scheduler.bulk or self._shared.scheduler.lost or len(self._stripes))

    def _send_lost(self) -> None:
        """Send again what was lost, on carriers that are there for it."""
        lost = self._shared.scheduler.lost
        while lost and not (source := next(iter(lost))).has_lost:
            del lost[source]
        while lost and self._recovery.chunks_left() > 0 and self._recovery.may_send(self._shared.now):
            carrier = self._routes.lost()
            if carrier is None or not self._send_data(carrier, payload=True, lost=True):
                return

    def _send_waiting(self) -> None:
        """Send parity, control frames, sparse streams and bulk, in that order."""
        more = True
        while more:
            if self._stripes and not self._stripes.auto:
                self._send_parity()
            more = self._send_next()
        if self._recovery.line_allows(self._shared.now):
            self._recovery.congestion.on_limited(self._recovery.under_way())
        self._notice_full_line()
        if self._stripes.auto:
            self._send_auto_parity()

    def _notice_full_line(self) -> None:
        """The line is full while bulk waits for more than its pace, or has waited for that for an RTT."""
        if not self._shared.scheduler.bulk:
            self._bulk_since = inf
            return
        self._bulk_since = min(self._bulk_since, self._shared.now)
        paced_until = min(self._recovery.congestion.opens_at, self._bulk_since + self._recovery.congestion.rtt)
        if self._shared.now >= paced_until or not self._recovery.has_room():
            self._full_at = self._shared.now

    def _send_auto_parity(self) -> None:
        """Where the line decides, parity does not wait for more shots when nothing else waits, and yields when it is full."""
        if self._full_at == self._shared.now:
            self._stripes.forget()
        elif not self._shared.scheduler.bulk:
            self._stripes.close(self._shared.now)
            self._send_parity()

    def _send_next(self) -> bool:
        """Send one shot of what waits; False if there is nothing that may go, or no carrier for it."""
        scheduler, now = self._shared.scheduler, self._shared.now
        sparse = bool(scheduler.sparse) and now >= self._cap.sparse_at and self._recovery.chunks_left() > 0
        control = self._streams.has_control()
        carrier = None
        if sparse or (scheduler.bulk and self._recovery.may_send(now)):
            carrier = self._routes.payload(sparse or control, now)
            if carrier is None:
                self._demand.starved()
        if carrier is not None:
            self._send_data(carrier)
        elif control and (carrier := self._routes.control(now)) is not None:
            self._send_data(carrier, payload=False)
        return carrier is not None

    def _send_parity(self) -> None:
        """Send the parity that waits, as far as there are carriers that its stripe does not use."""
        while (parity := self._stripes.next(self._shared.now)) is not None:
            stripe = parity.stripe
            if self._shared.now < self._cap.opens_at or not (stripe.urgent or self._recovery.may_send(self._shared.now)):
                return
            carrier = self._routes.repair(stripe.urgent, self._shared.now, stripe.carriers)
            if carrier is None:
                return
            self._begin_body(carrier)
            self._writer.parity(parity.index, len(stripe.numbers), parity.count, stripe.numbers, parity.block)
            self._seal_data(carrier, [], [])
            self._counters.parity_sent += 1
            self._stripes.sent(carrier)

    def _send_twins(self) -> None:
        """Send twins of shots that are overdue or late, as far as there are carriers."""
        while (shot := self._hedger.next()) is not None:
            if not self._send_twin(
                shot, self._for_twin(shot, shot.size <= SMALL_SHOT), payload=self._config.handling.retries.resend
            ):
                return
            self._hedger.sent()

    def _for_twin(self, shot: SentShot, urgent: bool) -> Carrier | None:
        """A carrier for a twin, if there is one, and the cap allows it."""
        return self._routes.repair(urgent, self._shared.now, _carriers(shot)) if self._shared.now >= self._cap.opens_at else None

    def _send_twin(self, shot: SentShot, carrier: Carrier | None, payload: bool = True) -> bool:
        """Send once more what a shot holds, its control frames alone or its payload too, on this carrier, if there is one."""
        if carrier is None:
            return False
        for kind, subject in shot.control:
            self._streams.queue_control(kind, subject)
        self._begin_body(carrier)
        control = self._streams.write_control(self._writer)
        chunks = [chunk for chunk in shot.chunks if payload and not chunk.acked]
        for chunk in chunks:
            chunk.write(self._writer)
        if not (chunks or control):
            return True
        self._write_ack(carrier)
        twin, data = self._seal_data(carrier, chunks, control)
        twin.is_twin = True
        twin.copies = shot.copies = shot.copies or Copies(shot)
        twin.copies.shots.append(twin)
        self._counters.hedges_sent += 1
        self._counters.hedge_bytes += len(data)
        return True

    def _finish_due(self) -> None:
        """Use the halves whose time has come: with an ack, or, where the server owes none, by closing. Those that are used again
        need not be used now where there is nothing to say."""
        while (carrier := self._carriers.next_due()) is not None and carrier.ack_by <= self._shared.now:
            if self._config.reuse != 1 and not carrier.rx_final and self._has_said_all():
                self._carriers.used(carrier, False, self._recovery.give_up_after(), self._shared.now)
            elif self._config.client or carrier.owes_ack:
                self._send_ack(carrier)
            else:
                self._carriers.drop(carrier, CLOSE)

    def _has_said_all(self) -> bool:
        """Whether what came was acknowledged as often as it should be: on short lines, where little is lost, once."""
        return self._acks.due_at == inf if self._recovery.congestion.is_short() else not self._acks.any

    # -------------------------------------------------------------------------------------- shots

    def _send_data(self, carrier: Carrier, payload: bool = True, lost: bool = False) -> bool:
        """Send one shot of control frames and payload, or of what is to be sent again; False if there was nothing after all."""
        self._begin_body(carrier)
        control = self._write_control(carrier)
        chunks = self._fill(lost) if payload else []
        if not control and not chunks:
            return False
        if self._gone:
            for _ in range(min(len(self._gone), MAX_GONE)):
                self._writer.gone(self._gone.popleft())
        self._write_ack(carrier)
        shot, data = self._seal_data(carrier, chunks, control)
        takes_parity = self._takes_parity()
        if shot.size <= SMALL_SHOT or takes_parity:
            self._protect(shot, data, takes_parity)
        else:
            self._hedger.mind(shot)
        return True

    def _protect(self, shot: SentShot, data: bytes, takes_parity: bool) -> None:
        """A shot has left: see to it that its coming late, or never, is made up for."""
        sparse = all(self._shared.scheduler.is_sparse(chunk.source) for chunk in shot.chunks)
        twinned = False
        if sparse and shot.size <= SMALL_SHOT:
            twinned = self._hedge(shot)
        elif shot.chunks:
            self._hedger.mind(shot)
        if shot.chunks and takes_parity and not twinned:
            sealed = data[-(HEADER_SIZE + shot.size + TAG_SIZE) :]  # without the hello
            self._stripes.add(shot, sealed, self._others(shot.carrier), sparse, self._shared.now)

    def _takes_parity(self) -> bool:
        """Whether there is parity for what is sent now: where the line decides, none when it was full in the last RTT."""
        if not self._stripes.auto:
            return self._stripes.used
        return self._recovery.lateness.needs_parity() and self._shared.now >= self._full_at + self._recovery.congestion.rtt

    def _hedge(self, shot: SentShot) -> bool:
        """A small shot of streams that are not busy has left: whether it got twins at once."""
        self._hedger.watch(shot)
        twins = self._hedger.twins_at_once(shot.size, self._shared.now) if shot.chunks else 0
        while twins and self._send_twin(shot, self._for_twin(shot, urgent=False)):
            twins -= 1
        return shot.copies is not None

    def _others(self, carrier: Carrier) -> float:
        """Carriers on which the parity of what went on this one could go; where they are used once there are always others."""
        if self._config.reuse == 1 or not self._config.fixed:
            return inf
        return self._carriers.count_idle() - (carrier in self._carriers.idle[carrier.kind]) - self._stripes.gathered

    def _send_ack(self, carrier: Carrier) -> None:
        """Send an ack, with what control frames wait."""
        self._begin_body(carrier)
        control = self._write_control(carrier)
        if carrier.kind is SYNC and carrier.asked_at == inf and self._acks.for_payload:
            self._acks.for_payload = False
            self._writer.ping()
            control.append((Control.PING, None))
        self._write_ack(carrier)
        if control:
            self._seal_data(carrier, [], control)
        else:
            self._seal(carrier, final=(carrier.tx_left == 1 and self._config.reuse == 1) or carrier.rx_final)

    def _fill(self, lost: bool) -> list[Portion]:
        scheduler, recovery = self._shared.scheduler, self._recovery
        if lost:
            return scheduler.fill_lost(self._writer, recovery.chunks_left())
        return scheduler.fill(self._writer, recovery.chunks_left(), recovery.may_send(self._shared.now))

    def _write_control(self, carrier: Carrier) -> list[ControlFrame]:
        """Control frames wait for a sync carrier where there is one that answers."""
        if not self._streams.has_control() or (carrier.kind is not SYNC and self._routes.sync(self._shared.now) is not None):
            return []
        return self._streams.write_control(self._writer)

    def _write_ack(self, carrier: Carrier) -> None:
        """Acks ride on whatever goes; where a sync carrier answers they go there as well."""
        now = self._shared.now
        settled = carrier.kind is SYNC or self._routes.sync(now) is None
        self._acks.write(self._writer, now, settled)

    def _begin_body(self, carrier: Carrier) -> None:
        """Begin what is to go on this carrier; with what greets, if nothing has."""
        held = len(self._carriers.idle[self._carriers.payload[0]])
        self._writer.begin(self.want(), held)
        if carrier.is_ungreeted():
            self._writer.greeting(int(carrier.kind), int(carrier.dial_seconds * 1e6))

    def _seal_data(self, carrier: Carrier, chunks: list[Portion], control: list[ControlFrame]) -> tuple[SentShot, bytes]:
        """Seal and send the body that was built as a shot that asks for an ack; the shot, and what was written."""
        final = carrier.tx_left == 1 or carrier.rx_final
        tailed = final and self._needs_tail(self._writer.size)
        carrier.tx_left -= 1
        first = not carrier.sent
        if len(carrier.sent) >= carrier.trim_at:
            carrier.sent = [n for n in carrier.sent if self._recovery.knows(n)]
            carrier.trim_at = max(TRIM_AT, 2 * len(carrier.sent))
        carrier.sent.append(self.next_number)
        if self._shared.now < carrier.asked_at:
            carrier.asked_at = self._shared.now
        if chunks and not carrier.carried:
            self._note_payload(carrier)
        shot = SentShot(self.next_number, self._shared.now, self._writer.size, carrier, chunks, control)
        shot.ends_half = final and not tailed
        carrier.outstanding += shot.size
        self._recovery.on_sent(shot)
        data = self._seal(carrier, final and not tailed)
        self._cap.spend(len(data), first, self._shared.now)
        if tailed:
            self._begin_body(carrier)
            self._cap.spend(len(self._seal(carrier, final=True, op=TAIL)), False, self._shared.now)
        elif not final:
            self._carriers.expire(carrier, self._shared.now + self._recovery.give_up_after())
        return shot, data

    def _needs_tail(self, size: int) -> bool:
        """Whether a half that ends with so many bytes should rather end with a shot that says nothing, in a segment of its own.

        Where the line loses segments the last one is missed only after two RTTs and 200 ms (RFC 8985 section 7.2), unless one
        behind it arrives. That this one may be lost itself delays nothing but the end of the carrier. Where segments overtake
        each other it would only make the kernel take more of them for lost.
        """
        line = self._recovery.congestion
        if size < TAIL_FROM or line.is_short() or self._recovery.lateness.is_clean():
            return False
        return line.jitter < TAIL_JITTER * line.rtt

    def _note_payload(self, carrier: Carrier) -> None:
        """The first payload on a carrier."""
        carrier.carried = True
        counted = self._counters.of(carrier.kind)
        counted.sent_on += 1
        counted.both_ways += carrier.brought

    def _seal(self, carrier: Carrier, final: bool, op: Op = WRITE) -> bytes:
        """Seal the body that was built and send it on this end's half, which it completes if `final`."""
        epoch = self._epoch()
        number = self._take_number(epoch)
        if carrier.is_ungreeted():
            self._carriers.greet(carrier, number)
        greeting, carrier.greeting = carrier.greeting, b""
        data = self._writer.seal(epoch.seal, FINAL if final else 0, epoch.number, number, greeting)
        epoch.volume += len(data)
        self._counters.shots_sent += 1
        self._write(carrier, data, op)
        self._carriers.used(carrier, final, self._recovery.give_up_after(), self._shared.now)
        return data

    def _ack_delay(self) -> float:
        return ack_delay(self._recovery.congestion.min_rtt)

    def _epoch(self) -> Epoch:
        if self._keys.sealing is None:
            raise LocalProtocolError("a session seals nothing before it has keys")
        return self._keys.sealing

    def _take_number(self, epoch: Epoch) -> int:
        epoch.sealed += 1
        self.next_number += 1
        return self.next_number - 1

    def _write(self, carrier: Carrier, data: bytes, op: Op = WRITE) -> None:
        self._counters.bytes_sent += len(data)
        self._actions.append((op, carrier, data))

    # ------------------------------------------------------------------------------ a carrier's ends

    def hello(self, carrier: Carrier, session_id: bytes) -> None:
        """Client: greet the server on a fresh connection, with the next `flush`: by the first shot, or before it."""
        carrier.greeting = session_id
        self._greeters.append(carrier)
        if not (self._may_take_along and self._shared.short and self._shared.size.bytes <= MOST_GREETING):
            self._greet_alone(carrier)

    def _greet_alone(self, carrier: Carrier) -> None:
        """Seal a hello of its own, if nothing greets on this carrier so far; it goes with what is written next."""
        if carrier.is_ungreeted():
            epoch = self._epoch()
            number = self._take_number(epoch)
            self._begin_body(carrier)
            carrier.greeting = self._writer.seal(epoch.seal, 0, epoch.number, number, carrier.greeting)
            self._carriers.greet(carrier, number)

    def greet(self) -> None:
        """Send the hellos that no shot took along."""
        for carrier in self._greeters:
            if carrier.greeting and not carrier.closed:
                self._greet_alone(carrier)
                self._write(carrier, carrier.greeting)
                carrier.greeting = b""
        self._greeters.clear()

    def given_up(self, carrier: Carrier) -> None:
        """Server: tell the client so, with what is sent next. Where connections freeze a reset does not come through, and what
        was used in vain looks idle to the client and takes a place in its pool."""
        if not self._config.client:
            self._gone.append(carrier.hello)

    def retire(self, carrier: Carrier) -> None:
        """Client: finish an idle carrier."""
        self._begin_body(carrier)
        self._seal(carrier, final=True)

    def close(self, code: int, reason: str) -> None:
        """Tell the other end that the session ends, if there is a carrier to do it on."""
        if self._keys.can_seal() and (carrier := self._routes.control(self._shared.now)) is not None:
            self._greet_alone(carrier)
            self._writer.begin(0, 0)
            self._writer.close(code, reason)
            self._seal(carrier, final=True)


def _carriers(shot: SentShot) -> list[Carrier]:
    """Those that carry a copy of a shot."""
    return [copy.carrier for copy in shot.copies.shots] if shot.copies else [shot.carrier]
