"""Shots made and opened as PROTOCOL.md section 3 says, without the core."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tcsplitter._core import TAG_SIZE

if TYPE_CHECKING:
    from tcsplitter._core import Aead

AEAD = AESGCM(bytes(range(32)))


def header(flags: int, epoch: int, sealed: int, number: int) -> bytes:
    """A header as section 3 draws it, made without the core."""
    return bytes([flags, epoch]) + sealed.to_bytes(3, "big") + struct.pack(">Q", number)


def seal(body: bytes, flags: int = 0, epoch: int = 0, number: int = 0, aead: AESGCM | Aead = AEAD) -> bytes:
    """A shot with any body, made without the core."""
    head = header(flags, epoch, len(body) + TAG_SIZE, number)
    sealed = bytearray(len(body) + TAG_SIZE)
    aead.encrypt_into(bytes(4) + struct.pack(">Q", number), body, head, sealed)
    return head + sealed


def seal_hello(aead: AESGCM | Aead = AEAD, epoch: int = 0, number: int = 0, kind: int = 0, connect_us: int = 0) -> bytes:
    """A hello that takes nothing along, without the session id."""
    return seal(bytes(4) + struct.pack(">BBI", 0x0F, kind, connect_us), 0x02, epoch, number, aead)


def unseal(shot: bytes) -> bytes:
    return AEAD.decrypt(bytes(4) + shot[5:13], shot[13:], shot[:13])
