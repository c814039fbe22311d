"""Stands in for a session where carriers are tested without one."""

from tcsplitter.carrier import Carrier, Lent


class Owner:
    """Stands for a session, of which a set of carriers asks nothing."""

    held = 0
    over_cap = False

    def receive(self, carrier: Carrier, data: Lent, now: float) -> None:
        raise NotImplementedError

    def carrier_eof(self, carrier: Carrier, now: float) -> None:
        raise NotImplementedError

    def carrier_lost(self, carrier: Carrier, now: float) -> None:
        raise NotImplementedError

    def carrier_progress(self, carrier: Carrier, outstanding: int, now: float) -> None:
        raise NotImplementedError
