"""Carriers: the TCP connections as the protocol sees them, and what it may ask of the side that holds the sockets."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from enum import IntEnum
from math import inf
from typing import Any, Protocol

from tcsplitter._core import ShotReader
from tcsplitter.modes import SYNC, Kind

TRIM_AT = 64


class Op(IntEnum):
    """What the pure side asks of the I/O side, in an Action."""

    DIAL = 0
    """Open a connection; report it connected or failed, unless it is RESET before that."""
    WRITE = 1
    """Send these bytes."""
    SHUT = 2
    """When all is sent, shut down the write side and read on."""
    CLOSE = 3
    """When all is sent, close; report nothing more."""
    RESET = 4
    """Drop what is queued and reset the connection, or stop dialling; report nothing more."""
    PROBE = 5
    """Report how many bytes the other kernel has not acknowledged."""
    DISCARD = 6
    """Read and throw away from now on; report nothing more."""
    TAIL = 7
    """Send these bytes in a segment of their own, behind what was sent before."""


DIAL, WRITE, SHUT, CLOSE, RESET, PROBE, DISCARD, TAIL = Op
"""For what every carrier meets: an enum takes longer to find its member than the rest of the question does."""

Action = tuple[Op, "Carrier", bytes]


Lent = bytes | memoryview
"""What came on a carrier. A view shows it during the call alone: who keeps it copies it."""


class Owner(Protocol):
    """Who acts on what happens to a carrier; Session."""

    @property
    def held(self) -> int: ...
    @property
    def over_cap(self) -> bool: ...
    def receive(self, carrier: Carrier, data: Lent, now: float) -> None: ...
    def carrier_eof(self, carrier: Carrier, now: float) -> None: ...
    def carrier_lost(self, carrier: Carrier, now: float) -> None: ...
    def carrier_progress(self, carrier: Carrier, outstanding: int, now: float) -> None: ...


class Carrier:
    """One TCP connection: two halves, each of which ends with a shot marked FINAL.

    | sent FINAL | read FINAL | the server                       | the client                        |
    |------------|------------|----------------------------------|-----------------------------------|
    | no         | no         | idle, or an ack is due on it     | idle, or an ack is due on it      |
    | yes        | no         | shuts down, reads on until EOF   | waits for the ack and EOF         |
    | no         | yes        | owes an ack, or closes           | finishes its half, then closes    |
    | yes        | yes        | closes                           | closes after EOF                  |
    """

    __slots__ = (
        "ack_by", "asked_at", "backlog", "brought", "carried", "closed", "delivered", "dial_seconds", "eof", "expires_at",
        "greeting", "hello", "idle_for", "io", "kind", "outstanding", "owes_ack", "reader", "rx_final", "sent", "session",
        "trim_at", "tx_final", "tx_left", "used_at",
    )  # fmt: skip

    def __init__(self, kind: Kind, now: float) -> None:
        self.kind = kind
        self.used_at = now
        """When it was dialled or accepted, or last used by this end."""
        self.idle_for = inf
        """Seconds without use after which this end finishes it."""
        self.io: Any = None
        """The I/O side's own object; nothing here looks at it."""
        self.backlog = 0
        """Bytes that the I/O side could not hand to the kernel yet; kept by the I/O side."""
        self.session: Owner | None = None
        self.greeting = b""
        """Client: what goes before the first shot, until it is sent: the session's id, and a hello that takes nothing along."""
        self.dial_seconds = 0.0
        """Client: how long it took to connect."""
        self.hello = -1
        """Number of its hello; negative until that is sealed."""
        self.reader = ShotReader()
        self.closed = False
        """The protocol has no more use for it."""
        self.tx_left = 1
        """Data shots this end may still send; negative: no limit."""
        self.tx_final = False
        self.delivered = False
        """The other end has said that the shot that ends this half arrived, and with it all before."""
        self.rx_final = False
        self.eof = False
        self.owes_ack = False
        """A data shot came and this half has not answered it."""
        self.ack_by = inf
        """When this half has to be used at the latest."""
        self.expires_at = inf
        """When the carrier is given up or retired."""
        self.sent: list[int] = []
        """Numbers of data shots sent here and, as far as known, unacknowledged."""
        self.trim_at = TRIM_AT
        """How many there may be until those that are known are taken out."""
        self.outstanding = 0
        """Bytes in its send queue, as far as known: what was sent, or what the last probe found."""
        self.asked_at = inf
        """Since when something that was sent here waits for its ack."""
        self.carried = False
        """Payload was sent on it."""
        self.brought = False
        """Payload came on it."""

    def is_ungreeted(self) -> bool:
        """Client: the hello that it is to begin with is not sealed yet."""
        return bool(self.greeting) and self.hello < 0


class PeerCarriers:
    """What the other end said last about its idle carriers; the highest shot number stands."""

    __slots__ = ("_number", "held", "payload_at", "said_at", "want")

    def __init__(self) -> None:
        self.want = 0
        """How many it wishes to find."""
        self.held = 0
        """How many it has: those that froze on their way it does not count, and this end would."""
        self.said_at = -inf
        self.payload_at = -inf
        """When payload came from it last."""
        self._number = -1

    def state(self, number: int, want: int, held: int, now: float) -> None:
        """A shot of this number says so."""
        if number > self._number:
            self._number = number
            self.want, self.held, self.said_at = want, held, now


class CarrierSet:
    """The carriers of a session, and which of their halves this end may use.

    A carrier is *idle* while this end's half is open and nothing is due on it, and *due* from a data shot or a FINAL of the
    other end until this end has answered on its half.
    """

    def __init__(self, client: bool, reuse: int, payload: tuple[Kind, ...], actions: list[Action]) -> None:
        self.all: dict[Carrier, None] = {}
        self.alive = dict.fromkeys(Kind, 0)
        """How many of each kind there are."""
        self.idle: dict[Kind, dict[Carrier, None]] = {kind: {} for kind in Kind}
        """The newest last."""
        self.unconfirmed: dict[Kind, dict[int, Carrier]] = {kind: {} for kind in Kind}
        """Client: idle ones whose hello the other end has not confirmed, by its number, oldest first."""
        self.greeted: dict[int, Carrier] = {}
        """Client: all of them, by the number of the hello."""
        self.payload = payload
        """Kinds that may carry this end's payload, in the order in which they are taken."""
        self.due: deque[Carrier] = deque()
        """Those that may carry payload, in the order of `ack_by`, but for those that were used or closed meanwhile."""
        self.answers: deque[Carrier] = deque()
        """The same of the others."""
        self.partial = 0
        """Bytes of shots that have not arrived whole."""
        self.check_at = inf
        """When the first carrier expires, at the earliest."""
        self._client = client
        self._reuse = reuse
        self._actions = actions
        self._offers = 0
        self._offered_at = -inf
        self._highest_confirmed = -1

    def adopt(self, carrier: Carrier, session: Owner, idle_for: float, now: float) -> None:
        """A carrier whose hello was sent or opened: both halves are open."""
        carrier.session = session
        carrier.tx_left = -1 if carrier.kind is SYNC else self._reuse or -1
        carrier.used_at = now
        carrier.idle_for = idle_for
        self.all[carrier] = None
        self.alive[carrier.kind] += 1
        self.idle[carrier.kind][carrier] = None
        self.partial += carrier.reader.pending
        self.expire(carrier, now + idle_for)

    def greet(self, carrier: Carrier, number: int) -> None:
        """Client: the hello got this number."""
        carrier.hello = number
        self.greeted[number] = self.unconfirmed[carrier.kind][number] = carrier

    def confirm(self, ranges: list[tuple[int, int]]) -> None:
        """The other end has the shots and hellos of these numbers, the highest first."""
        if ranges:
            self._highest_confirmed = max(self._highest_confirmed, ranges[0][1])
        for unconfirmed in self.unconfirmed.values():
            for low, high in ranges if unconfirmed else ():
                known = unconfirmed if high - low > len(unconfirmed) else range(low, high + 1)
                for number in [n for n in known if low <= n <= high and n in unconfirmed]:
                    del unconfirmed[number]

    def count_idle(self) -> int:
        """Idle carriers that may carry payload."""
        count = 0
        for kind in self.payload:
            count += len(self.idle[kind])
        return count

    def on_their_way(self, kind: Kind, since: float, overtaken_since: float) -> int:
        """Idle carriers of this kind that were dialled after `since` and that the other end may not know yet; one whose hello was
        overtaken only if it was dialled after `overtaken_since`: what nothing has overtaken may wait in a full line."""
        unconfirmed = self.unconfirmed[kind]
        while unconfirmed:
            number, carrier = next(iter(unconfirmed.items()))
            if carrier.used_at > (overtaken_since if number < self._highest_confirmed else since):
                break
            del unconfirmed[number]
        return len(unconfirmed)

    def feed(self, carrier: Carrier, data: Lent) -> list[tuple[int, int, int, Lent]]:
        """The shots that are whole now. Raises RemoteProtocolError for what cannot be a shot."""
        reader = carrier.reader
        before = reader.pending
        try:
            return reader.feed(data)
        finally:
            self.partial += reader.pending - before

    def make_due(self, carrier: Carrier, by: float) -> None:
        """This end's half is to be used until `by`, if it is still open."""
        if carrier.ack_by == inf and not (carrier.tx_final or carrier.closed):
            carrier.ack_by = by
            self.suspend(carrier)
            (self.due if carrier.kind in self.payload else self.answers).append(carrier)

    def next_due(self) -> Carrier | None:
        """The carrier whose half has to be used first."""
        due = _first(self.due) if self.due else None
        answer = _first(self.answers) if self.answers else None
        if due is None or answer is None:
            return due or answer
        return due if due.ack_by <= answer.ack_by else answer

    def take(self, reserve: int, sure: bool = False, without: Collection[Carrier] = ()) -> Carrier | None:
        """One for payload: one that is due anyway, else an idle one beyond `reserve`; `sure` and `without` as in `take_idle`."""
        if self.due:
            _prune(self.due)
            for due in self.due:
                if _is_due(due) and not due.backlog and due not in without:
                    return due
        if self.count_idle() > reserve:
            for kind in self.payload:
                if (idle := self.take_idle(kind, sure, without)) is not None:
                    return idle
        return None

    def take_idle(self, kind: Kind, sure: bool = False, without: Collection[Carrier] = ()) -> Carrier | None:
        """An idle one of this kind, none of `without`: the newest; with reuse each in turn.

        `sure`: rather one that the other end has; else one whose hello was not sent yet, so that nothing has to wait behind that.
        """
        idle, unconfirmed = self.idle[kind], self.unconfirmed[kind]
        unsure = None
        for carrier in reversed(idle) if self._reuse == 1 else idle:
            if carrier.backlog or carrier in without:
                continue
            if not sure or not (carrier.greeting or carrier.hello in unconfirmed):
                return carrier
            if unsure is None or (not unsure.greeting and (carrier.greeting or carrier.hello < unsure.hello)):
                unsure = carrier
        return unsure

    def used(self, carrier: Carrier, final: bool, give_up_after: float, now: float) -> None:
        """A shot was written to this end's half, or what it was due for was said elsewhere; a `final` one completes it."""
        carrier.used_at = now
        carrier.ack_by = inf
        carrier.owes_ack = False
        if not final:
            self.idle[carrier.kind].pop(carrier, None)
            self.idle[carrier.kind][carrier] = None
            return
        self.suspend(carrier)
        carrier.tx_final = True
        if not carrier.rx_final:
            self._count_offer(now)
        if carrier.rx_final if not self._client else carrier.eof:
            self.drop(carrier, CLOSE)
            return
        if not self._client:
            self._actions.append((SHUT, carrier, b""))
        self.expire(carrier, now + give_up_after)

    def _count_offer(self, now: float) -> None:
        if now > self._offered_at:
            self._offered_at, self._offers = now, 0
        self._offers += 1

    def offers(self, now: float) -> int:
        """Carriers whose half this end has used up in the wake of this time, and left the other half to the other end."""
        return self._offers if now == self._offered_at else 0

    def suspend(self, carrier: Carrier) -> None:
        """It is no longer idle: it is used, or due, or not to be trusted for now."""
        self.idle[carrier.kind].pop(carrier, None)
        self.unconfirmed[carrier.kind].pop(carrier.hello, None)

    def resume(self, carrier: Carrier) -> None:
        """A shot on it was acknowledged: it works."""
        if carrier.ack_by == inf and not (carrier.tx_final or carrier.closed):
            self.idle[carrier.kind].setdefault(carrier)

    def is_silent(self, carrier: Carrier) -> bool:
        """This end's half is used up, or suspended, and the other end has said nothing since."""
        return carrier.ack_by == inf and carrier not in self.idle[carrier.kind]

    def finished(self, carrier: Carrier, ack_delay: float, give_up_after: float, now: float) -> None:
        """The other end's half is complete: finish this one too."""
        carrier.rx_final = True
        if not self._client and carrier.tx_final:
            self.drop(carrier, CLOSE)
        else:
            self.make_due(carrier, now + ack_delay if self._client else now)
            self.expire(carrier, now + give_up_after)

    def drop(self, carrier: Carrier, op: Op) -> None:
        """Take a carrier out of service by CLOSE or RESET."""
        if not carrier.closed:
            carrier.closed = True
            self.partial -= carrier.reader.pending
            if carrier in self.all:
                del self.all[carrier]
                self.alive[carrier.kind] -= 1
                self.greeted.pop(carrier.hello, None)
            self.suspend(carrier)
            self._actions.append((op, carrier, b""))

    def expire(self, carrier: Carrier, at: float) -> None:
        carrier.expires_at = at
        if at < self.check_at:
            self.check_at = at

    def expired(self, now: float) -> list[Carrier]:
        """Carriers whose time is up; each must be dropped or given a new time."""
        self.check_at = min((c.expires_at for c in self.all if c.expires_at > now), default=inf)
        return [c for c in self.all if c.expires_at <= now]


def _first(due: deque[Carrier]) -> Carrier | None:
    """The first that is still due."""
    _prune(due)
    return due[0] if due else None


def _prune(due: deque[Carrier]) -> None:
    """Let go of those in front that are not due any more."""
    while due and not _is_due(due[0]):
        due.popleft()


def _is_due(carrier: Carrier) -> bool:
    """Whether it was neither used nor closed since it was made due."""
    return carrier.ack_by != inf and not carrier.closed
