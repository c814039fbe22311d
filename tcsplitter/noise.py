"""Noise_NNpsk0_25519_AESGCM_SHA256 (Noise Protocol Framework, revision 34), and nothing else of Noise.

Names and order follow the specification's sections 5.2 (SymmetricState) and 5.3 (HandshakeState). There is no randomness in here:
who writes a message brings the ephemeral private key.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tcsplitter.errors import LocalProtocolError, TcsplitterError

PROTOCOL_NAME: Final = b"Noise_NNpsk0_25519_AESGCM_SHA256"
KEY_SIZE: Final = 32
"""Bytes of a PSK, of a private or public X25519 key and of each key that `split` gives."""
TAG_SIZE: Final = 16
"""Bytes that sealing a payload adds."""

# NNpsk0 (section 9.4): the tokens of each message, the initiator's first.
_PATTERN: Final = (("psk", "e"), ("e", "ee"))


class NoiseError(TcsplitterError):
    """A handshake message that does not verify: another key, another prologue, damaged, cut short or forged."""


class _SymmetricState:
    """Section 5.2, with the CipherState of section 5.1 inside."""

    def __init__(self, prologue: bytes) -> None:
        self._hash = PROTOCOL_NAME  # exactly HASHLEN bytes, which stand for themselves
        self._chaining_key = PROTOCOL_NAME
        self._cipher: AESGCM | None = None
        self._nonce = 0
        self.mix_hash(prologue)

    @property
    def hash(self) -> bytes:
        return self._hash

    def mix_hash(self, data: bytes) -> None:
        digest = Hash(SHA256())
        digest.update(self._hash)
        digest.update(data)
        self._hash = digest.finalize()

    def mix_key(self, material: bytes) -> None:
        self._chaining_key, key = _hkdf(self._chaining_key, material, 2)
        self._set_key(key)

    def mix_key_and_hash(self, material: bytes) -> None:
        self._chaining_key, hashed, key = _hkdf(self._chaining_key, material, 3)
        self.mix_hash(hashed)
        self._set_key(key)

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        cipher, nonce = self._next_use()
        ciphertext = cipher.encrypt(nonce, plaintext, self._hash)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        cipher, nonce = self._next_use()
        try:
            plaintext = cipher.decrypt(nonce, ciphertext, self._hash)
        except InvalidTag:
            raise NoiseError("the handshake message does not open: another key, or it was changed on its way") from None
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        first, second = _hkdf(self._chaining_key, b"", 2)
        return first, second

    def _set_key(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._nonce = 0

    def _next_use(self) -> tuple[AESGCM, bytes]:
        if self._cipher is None:
            raise LocalProtocolError("no key was mixed in before a payload")
        nonce = bytes(4) + self._nonce.to_bytes(8, "big")
        self._nonce += 1
        return self._cipher, nonce


class HandshakeState:
    """One handshake, seen from one end: the initiator writes, then reads; the responder reads, then writes; then both `split`.

    A message that fails ends the object: every later call raises LocalProtocolError, and so does a call out of turn.
    """

    def __init__(self, *, initiator: bool, prologue: bytes, psk: bytes) -> None:
        if len(psk) != KEY_SIZE:
            raise ValueError(f"a PSK is {KEY_SIZE} bytes, not {len(psk)}")
        self._parity = 0 if initiator else 1
        self._psk = psk
        self._symmetric = _SymmetricState(prologue)
        self._next: int | None = 0
        self._own: X25519PrivateKey | None = None
        self._remote: X25519PublicKey | None = None

    @property
    def handshake_hash(self) -> bytes:
        """32 bytes that name the handshake so far (section 11.2: channel binding)."""
        return self._symmetric.hash

    def write_message(self, ephemeral: bytes, payload: bytes) -> bytes:
        """This end's message: its public key (32 bytes) and the sealed payload (16 bytes longer than it).

        `ephemeral` is an X25519 private key, 32 random bytes used for this message only. Raises NoiseError where the other end's
        public key is of low order, so that the shared secret would be all zeros (RFC 7748 section 6.1).
        """
        number = self._begin(self._parity)
        self._own = X25519PrivateKey.from_private_bytes(ephemeral)
        public = self._own.public_key().public_bytes_raw()
        self._mix_tokens(number, public)
        sealed = self._symmetric.encrypt_and_hash(payload)
        self._next = number + 1
        return public + sealed

    def read_message(self, message: bytes) -> bytes:
        """The payload of the other end's message. Raises NoiseError for any message that does not verify."""
        number = self._begin(1 - self._parity)
        if len(message) < KEY_SIZE + TAG_SIZE:
            raise NoiseError(f"a handshake message has {KEY_SIZE + TAG_SIZE} bytes at the least, not {len(message)}")
        public = message[:KEY_SIZE]
        self._remote = X25519PublicKey.from_public_bytes(public)
        self._mix_tokens(number, public)
        payload = self._symmetric.decrypt_and_hash(message[KEY_SIZE:])
        self._next = number + 1
        return payload

    def split(self) -> tuple[bytes, bytes]:
        """The two session keys, 32 bytes each: the first seals what the initiator sends, the second what the responder sends."""
        if self._next != len(_PATTERN):
            raise LocalProtocolError("the handshake is not complete")
        return self._symmetric.split()

    def _begin(self, parity: int) -> int:
        """Number of the message that is due; until it is done there is no next one."""
        number = self._next
        if number is None or number >= len(_PATTERN) or number % 2 != parity:
            raise LocalProtocolError("this handshake message is not due, or the handshake has failed")
        self._next = None
        return number

    def _mix_tokens(self, number: int, public: bytes) -> None:
        for token in _PATTERN[number]:
            if token == "psk":
                self._symmetric.mix_key_and_hash(self._psk)
            elif token == "e":
                # In patterns with a PSK the ephemeral goes into the key as well (section 9.2).
                self._symmetric.mix_hash(public)
                self._symmetric.mix_key(public)
            else:
                self._symmetric.mix_key(self._shared_secret())

    def _shared_secret(self) -> bytes:
        if self._own is None or self._remote is None:
            raise LocalProtocolError("the shared secret needs both public keys")
        try:
            return self._own.exchange(self._remote)
        except ValueError:  # the primitive refuses an all-zero result
            raise NoiseError("the other end's public key is of low order") from None


def _hkdf(chaining_key: bytes, material: bytes, outputs: int) -> list[bytes]:
    """Section 4.3's HKDF, which is RFC 5869's with the chaining key as salt and no info."""
    okm = HKDF(algorithm=SHA256(), length=KEY_SIZE * outputs, salt=chaining_key, info=b"").derive(material)
    return [okm[start : start + KEY_SIZE] for start in range(0, len(okm), KEY_SIZE)]
