"""Which carrier takes which shot: payload by the mode, control frames on sync carriers, what was lost on retry carriers."""

from __future__ import annotations

from collections.abc import Collection
from math import inf
from typing import TYPE_CHECKING

from tcsplitter.acks import MAX_ACK_DELAY
from tcsplitter.carrier import Carrier, CarrierSet, PeerCarriers
from tcsplitter.modes import RETRY, SYNC, Mode

if TYPE_CHECKING:
    from tcsplitter.recovery import Recovery

SYNC_RTTS, SYNC_SECONDS = 2.0, MAX_ACK_DELAY + 0.005
"""A sync carrier that owes an answer for longer than both together is passed over."""

YIELD_RTTS, YIELD_SECONDS = 2.0, 0.05
"""A server that has payload waiting, and idle carriers to send it on, does not pause for longer than both together."""


class Routes:
    """The choice of carriers for one end of a session."""

    def __init__(
        self, mode: Mode, client: bool, reserve: int, carriers: CarrierSet, peer: PeerCarriers, recovery: Recovery
    ) -> None:
        self._reserve = reserve
        self._carriers = carriers
        self._peer = peer
        self._recovery = recovery
        self._yields = mode.incoming_first and client
        self._silent: set[Carrier] = set()

    def payload(self, urgent: bool, now: float) -> Carrier | None:
        """A carrier for payload; bulk leaves the reserve alone, but not in its first round trip, which it would lose waiting for
        dials."""
        line = self._recovery.congestion
        begins = not self._recovery.in_flight or now < line.began_at + line.rtt
        reserve = 0 if urgent or begins else self._reserve
        if self._yields:
            reserve = max(reserve, self._left_to_peer(now))
        return self._carriers.take(reserve, urgent)

    def repair(self, urgent: bool, now: float, without: Collection[Carrier]) -> Carrier | None:
        """One for what is sent in case something comes late, none of `without`; it takes the reserve only if it is urgent."""
        reserve = 0 if urgent else self._reserve
        return self._carriers.take(max(reserve, self._left_to_peer(now)), urgent, without)

    def _left_to_peer(self, now: float) -> int:
        return self._peer.want if now < self.yields_until else 0

    @property
    def yields_until(self) -> float:
        """Until when incoming payload has precedence: where the mode says so, while it comes."""
        return self._peer.payload_at + YIELD_RTTS * self._recovery.congestion.rtt + YIELD_SECONDS if self._yields else -inf

    def lost(self) -> Carrier | None:
        """A carrier that is there for what has to be sent again."""
        return self._carriers.take_idle(RETRY)

    def control(self, now: float) -> Carrier | None:
        """A carrier for control frames and acks: a sync carrier, one that is due anyway, an idle one."""
        sync = self.sync(now)
        if sync is not None:
            return sync
        due = self._carriers.next_due()
        return due if due is not None and not due.backlog else self._carriers.take(0)

    def sync(self, now: float) -> Carrier | None:
        """The sync carrier to use; None if there is none that the other end knows and that answers."""
        idle = self._carriers.idle[SYNC]
        if idle:
            unconfirmed = self._carriers.unconfirmed[SYNC]
            for carrier in idle:
                known = not carrier.greeting and carrier.hello not in unconfirmed
                if known and not carrier.backlog and now < carrier.asked_at + self._sync_patience:
                    return carrier
        return None

    def fell_silent(self, now: float) -> list[Carrier]:
        """Sync carriers that have owed an answer for too long since this was asked last: what they hold has to go elsewhere."""
        idle = self._carriers.idle[SYNC]
        if not idle:
            return []
        silent = {carrier for carrier in idle if now >= carrier.asked_at + self._sync_patience}
        fresh = [carrier for carrier in idle if carrier in silent - self._silent]
        self._silent = silent
        return fresh

    def deadline(self) -> float:
        """When `fell_silent` has to be called next."""
        idle = self._carriers.idle[SYNC]
        if not idle:
            return inf
        return min((c.asked_at for c in idle if c not in self._silent), default=inf) + self._sync_patience

    @property
    def _sync_patience(self) -> float:
        return SYNC_RTTS * self._recovery.congestion.rtt + SYNC_SECONDS
