"""The keys of a session: one pair for each handshake, which is called an epoch (PROTOCOL.md section 2)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tcsplitter._core import Aead

OLD_KEYS_SECONDS = 120.0
"""How long an epoch still opens shots after the other end has moved on."""
REKEY_SHOTS, REKEY_BYTES, REKEY_SECONDS = 2**22, 2**36, 3600.0
"""What one epoch seals and opens, and how old it grows, before the client makes a new one."""
MAX_UNUSED = 8
"""Epochs that were made and that the client has not used yet; its answer may still be on the way."""
MAX_EPOCH_SHOTS = 2**24
"""Shots that are sealed with one epoch at the very most."""


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


class Keyring:
    """The epochs of a session, of which one seals and all open.

    The client seals with a new epoch at once. The server seals with it when a shot of that epoch has opened, which proves that
    the client has it.
    """

    def __init__(self, client: bool) -> None:
        self.sealing: Epoch | None = None
        self.check_at = inf
        """When an old epoch is to be forgotten."""
        self._client = client
        self._epochs: dict[int, Epoch] = {}

    def get(self, number: int) -> Epoch | None:
        return self._epochs.get(number)

    def can_seal(self) -> bool:
        return self.sealing is not None and self.sealing.sealed < MAX_EPOCH_SHOTS

    def install(self, number: int, seal: Aead, open_: Aead, now: float) -> None:
        """Add an epoch; of those that are not used yet, the oldest makes room."""
        epoch = self._epochs[number] = Epoch(number, seal, open_, now)
        if self._client or self.sealing is None:
            self._switch_to(epoch, now)
        unused = [e.number for e in self._epochs.values() if e is not self.sealing and e.expires_at == inf]
        for old in unused[:-MAX_UNUSED]:
            del self._epochs[old]

    def opened(self, epoch: Epoch, size: int, now: float) -> None:
        """A shot of this epoch has opened."""
        epoch.opened += 1
        epoch.volume += size
        if epoch is not self.sealing and epoch.expires_at == inf:
            self._switch_to(epoch, now)

    def _switch_to(self, epoch: Epoch, now: float) -> None:
        if self.sealing is not None:
            self.sealing.expires_at = now + OLD_KEYS_SECONDS
            self.check_at = min(self.check_at, self.sealing.expires_at)
        self.sealing = epoch

    def clear(self) -> None:
        self._epochs.clear()
        self.sealing = None
        self.check_at = inf

    def forget_old(self, now: float) -> None:
        """Forget the epochs whose time is up."""
        for number in [n for n, epoch in self._epochs.items() if epoch.expires_at <= now]:
            del self._epochs[number]
        self.check_at = min((epoch.expires_at for epoch in self._epochs.values()), default=inf)
