"""Shots made and opened as PROTOCOL.md section 3 says, without the core."""

import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tcsplitter._core import TAG_SIZE

AEAD = AESGCM(bytes(range(32)))


def header(flags: int, epoch: int, sealed: int, number: int) -> bytes:
    """A header as section 3 draws it, made without the core."""
    return bytes([flags, epoch]) + sealed.to_bytes(3, "big") + struct.pack(">Q", number)


def seal(body: bytes, flags: int = 0, epoch: int = 0, number: int = 0) -> bytes:
    """A shot with any body, made without the core."""
    head = header(flags, epoch, len(body) + TAG_SIZE, number)
    return head + AEAD.encrypt(bytes(4) + struct.pack(">Q", number), body, head)


def unseal(shot: bytes) -> bytes:
    return AEAD.decrypt(bytes(4) + shot[5:13], shot[13:], shot[:13])
