"""The client's pools, one for each kind of carriers, and what they are asked for: how many of each kind to dial now."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import inf
from typing import TYPE_CHECKING

from tcsplitter.carrier import Carrier
from tcsplitter.modes import RETRY, Kind, Mode
from tcsplitter.pool import DialBudget, Pool, Random

if TYPE_CHECKING:
    from tcsplitter.session import Session


TOLD_RTTS, TOLD_SECONDS = 2.0, 0.1
"""A carrier greeted the larger of these before the other end last said what it has is in that, or something is wrong."""

OFFERS_FOR = 20
"""Where the RTT is next to nothing, carriers that the server wants are not dialled in a wake that takes payload to it on so many
times fewer: it has those to answer on, and what it still lacks the next wake dials. What is dialled beside payload greets alone;
the server uses that before payload comes, and it takes three steps instead of two."""


class Dialling:
    """Sees to it that there are as many idle carriers of each kind as the pools keep and both ends want."""

    def __init__(
        self, mode: Mode, pools: Mapping[Kind, tuple[int, int]], idle: float, after: float, random: Random, now: float
    ) -> None:
        """`pools`: how many to keep, and the ceiling, by kind; `idle`, `after`: seconds, as Pool has them."""
        self._up, self._down = mode.up[0], mode.down[0]
        """The kinds that each end takes first."""
        self._missing_since = inf
        """Since when the server has lacked idle carriers that this end takes for idle."""
        self._budget = budget = DialBudget(now, len(pools))
        self._pools = {kind: Pool(size, burst, idle, budget, random, now, after) for kind, (size, burst) in pools.items()}

    def connected(self, carrier: Carrier, rtt: float, now: float) -> bool:
        """A dial succeeded: whether the connection is of use."""
        return self._pools[carrier.kind].connected(carrier, rtt, now)

    def failed(self, carrier: Carrier, now: float) -> None:
        """A dial failed."""
        self._pools[carrier.kind].failed(carrier, now)

    def broke(self, carrier: Carrier, session: Session, now: float) -> None:
        """A connection broke. If nothing was heard since it was used, the next one may well fare the same."""
        if session.heard_at <= carrier.used_at:
            self._pools[carrier.kind].failed(carrier, now, cut_off=True)

    def revive(self, now: float) -> None:
        """There is contact again."""
        self._missing_since = inf
        for pool in self._pools.values():
            pool.revive(now)

    def idle_for(self, carrier: Carrier) -> float:
        """Seconds for which this carrier may stay idle."""
        return self._pools[carrier.kind].idle_for()

    def too_slow(self, rtt: float, now: float) -> list[Carrier]:
        """Dials that are given up here and now."""
        if not self._budget.dialing:
            return []
        slow = [(pool, carrier) for pool in self._pools.values() for carrier in pool.too_slow(rtt, now)]
        for pool, carrier in slow:
            pool.failed(carrier, now)
        return [carrier for _, carrier in slow]

    def due(self, session: Session, waiting: Collection[Carrier], now: float) -> list[Carrier]:
        """New carriers to be dialled; `waiting`: those that are connected and not yet of the session."""
        rtt, carriers, peer, up, down = session.recovery.rtt, session.carriers, session.peer, self._up, self._down
        since = now - session.recovery.give_up_after()
        said_lately = peer.said_at > since  # it would still say so
        known = self._known(session, since, now) if said_lately else len(carriers.idle[down])
        dialled: list[Carrier] = []
        for kind, pool in self._pools.items():
            if pool.cut_off and session.heard_at > pool.failed_at:
                pool.revive(now)
            ready = sum(carrier.kind is kind for carrier in waiting) if waiting else 0
            idle = ready + (known if kind is down else len(carriers.idle[kind]))
            want = session.want() if kind is up and session.id else 0
            if kind is down and said_lately and not self._is_offered(session, now):
                want += peer.want
            elif kind is RETRY:
                want = session.shared.sending.lost_chunks
            if due := pool.dials_due(idle, ready + carriers.alive[kind], want, rtt, now):
                fresh = [Carrier(kind, now) for _ in range(due)]
                pool.dialled(fresh, now)
                dialled += fresh
        return dialled

    def _is_offered(self, session: Session, now: float) -> bool:
        """Whether payload of this wake brings the server carriers, so that those it wants can wait for the next one."""
        return session.shared.short and OFFERS_FOR * session.carriers.offers(now) >= session.peer.want

    def put_off(self) -> None:
        """Nothing is to be dialled until `due` is asked again."""
        for pool in self._pools.values():
            pool.put_off()

    def deadline(self, rtt: float, now: float) -> float:
        """When `due` or `too_slow` may say something new though nothing happened."""
        by = inf
        for pool in self._pools.values():
            by = min(by, pool.deadline(rtt, now))
        return by

    def _known(self, session: Session, since: float, now: float) -> int:
        """Idle carriers of those that the server takes first: no more than it said it has, or will have in a moment. What was
        greeted before `since` is not on its way any more."""
        kind, carriers, peer = self._down, session.carriers, session.peer
        # What a hello should have told of by the time of the last statement, and did not, is late or dead if it was overtaken.
        told = max(since, peer.said_at - max(TOLD_RTTS * session.recovery.rtt, TOLD_SECONDS))
        known = peer.held + carriers.on_their_way(kind, since, told)
        if known >= len(carriers.idle[kind]):
            self._missing_since = inf
        elif session.id:
            self._free_places(session, now)
        return min(len(carriers.idle[kind]), known)

    def _free_places(self, session: Session, now: float) -> None:
        """Carriers that the server should have, and has not for long, froze: they must not hold places in the pool."""
        kind, carriers, said_at = self._down, session.carriers, session.peer.said_at
        self._missing_since = min(self._missing_since, said_at)
        if max(self._missing_since, session.data_at) > said_at - session.recovery.give_up_after():
            return
        for carrier in list(carriers.idle[kind]):
            if carrier.hello not in carriers.unconfirmed[kind] and not carrier.reader.pending:
                session.give_up(carrier, now)
        self._missing_since = inf
