"""What comes to a server's port from those who know no key, as lists of steps: bytes to send, seconds to wait, None for FIN."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from peer import fresh_ephemeral, request
from shots import header, seal_hello

from tcsplitter._core import HEADER_SIZE, HELLO, MAX_HELLO_SEALED
from tcsplitter.handshake import ID_SIZE, Initiator

Attack = Sequence[bytes | float | None]
HELLO_SIZE = 39  # of a hello without the session id


@dataclass(frozen=True)
class Wiretap:
    """What can be recorded between a client and a server."""

    handshake: bytes
    """A first message that the server has answered."""
    carrier: bytes
    """All that a client sent on a carrier: session id, hello and shots."""
    unused_hello: bytes
    """A hello with its session id that never reached the server."""

    @property
    def session_id(self) -> bytes:
        return self.carrier[:ID_SIZE]


def attacks(tap: Wiretap, seed: int = 1) -> dict[str, Attack]:
    """By name. None of them may tell the others apart by what the server does."""
    rng = random.Random(seed)
    another_key = rng.randbytes(32)
    own_hello = seal_hello(AESGCM(another_key), 0, 2, 0, 0)
    fresh = tap.unused_hello[ID_SIZE:]
    cases: dict[str, Attack] = {f"{size} bytes of garbage": [rng.randbytes(size)] for size in GARBAGE}
    cases |= {
        "silence": [],
        "FIN": [None],
        "garbage and FIN": [rng.randbytes(500), None],
        "garbage in drops": [piece for _ in range(200) for piece in (rng.randbytes(1), 0.005)],
        "a web browser": [b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"],
        "zeros": [bytes(4096)],
        "a handshake with another key": [Initiator(another_key, fresh_ephemeral(), request()).message],
        "a replayed handshake": [tap.handshake],
        "a replayed handshake in drops": [step for byte in tap.handshake for step in (bytes([byte]), 0.005)],
        "a handshake cut short": [tap.handshake[:-1]],
        "a handshake cut short and FIN": [tap.handshake[:40], None],
        "a handshake and a byte more": [tap.handshake + b"\0"],
        "a handshake whose tag alone is right": [tap.handshake[:60] + rng.randbytes(36)],
        "a replayed connection": [tap.carrier],
        "a replayed connection and FIN": [tap.carrier, None],
        "a replayed hello": [tap.carrier[: ID_SIZE + HELLO_SIZE]],
        "a session id": [tap.session_id],
        "a session id and FIN": [tap.session_id, None],
        "a session id and garbage": [tap.session_id + rng.randbytes(1000)],
        "a session id and a hello of another key": [tap.session_id + own_hello],
        "another session id": [rng.randbytes(ID_SIZE) + fresh],
        "no session id": [bytes(ID_SIZE) + fresh],
        "a hello cut short": [tap.unused_hello[:-1]],
        "a hello changed": [tap.unused_hello[:-1] + bytes([tap.unused_hello[-1] ^ 1])],
        "a hello of a far number": [tap.session_id + forge(fresh, 2**40)],
        "a hello of an unknown epoch": [tap.session_id + fresh[:1] + b"\xc8" + fresh[2:]],
        "a hello too long": [tap.session_id + bytes([HELLO, 0]) + (MAX_HELLO_SEALED + 1).to_bytes(3, "big") + bytes(200)],
        "the beginning of a long hello": [tap.session_id + header(HELLO, 0, MAX_HELLO_SEALED, 9) + rng.randbytes(20_000)],
        "the beginning of a long hello and FIN": [tap.session_id + header(HELLO, 0, MAX_HELLO_SEALED, 9) + bytes(99), None],
        "a long hello": [tap.session_id + header(HELLO, 0, MAX_HELLO_SEALED, 9) + rng.randbytes(MAX_HELLO_SEALED)],
        "a hello without its flag": [tap.session_id + bytes([0]) + fresh[1:]],
        "a hello with flags unheard of": [tap.session_id + bytes([HELLO | 0x80]) + fresh[1:]],
        "a hello that is final": [tap.session_id + bytes([HELLO | 0x01]) + fresh[1:] + rng.randbytes(50)],
    }
    return cases


GARBAGE = (1, 7, 8, 9, 44, 95, 96, 97, 104, 1_000, 65_536, 1_000_000)


def forge(shot: bytes, number: int) -> bytes:
    """The same shot with another number in its header, which the tag does not fit."""
    return shot[:5] + number.to_bytes(8, "big") + shot[HEADER_SIZE:]
