"""The handshake's cryptography, against published vectors and against damage of every kind."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from tcsplitter.errors import LocalProtocolError, TcsplitterError
from tcsplitter.noise import KEY_SIZE, PROTOCOL_NAME, TAG_SIZE, HandshakeState, NoiseError

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "vectors" / "noise.json").read_text())["vectors"]

PSK = bytes(range(32))
PROLOGUE = b"tcsplitter 1"
CLIENT_EPHEMERAL = b"\x11" * 32
SERVER_EPHEMERAL = b"\x22" * 32

keys32 = st.binary(min_size=32, max_size=32)

# Public keys whose order divides the cofactor: 0, 1, p - 1, p, p + 1 and the two points of order 8 (RFC 7748 section 6.1).
LOW_ORDER = [
    bytes(32),
    bytes([1]) + bytes(31),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]


def pair(psk: bytes = PSK, prologue: bytes = PROLOGUE) -> tuple[HandshakeState, HandshakeState]:
    return (
        HandshakeState(initiator=True, prologue=prologue, psk=psk),
        HandshakeState(initiator=False, prologue=prologue, psk=psk),
    )


def first_message(payload: bytes = b"request") -> tuple[HandshakeState, bytes]:
    initiator, _ = pair()
    return initiator, initiator.write_message(CLIENT_EPHEMERAL, payload)


def second_message(payload: bytes = b"answer") -> tuple[HandshakeState, bytes]:
    initiator, message = first_message()
    _, responder = pair()
    responder.read_message(message)
    return initiator, responder.write_message(SERVER_EPHEMERAL, payload)


def flipped(message: bytes, position: int, bit: int = 0) -> bytes:
    changed = bytearray(message)
    changed[position] ^= 1 << bit
    return bytes(changed)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["protocol_name"]))
def test_published_vector(vector: dict[str, Any]) -> None:
    assert vector["protocol_name"].encode() == PROTOCOL_NAME
    prologue, psk = bytes.fromhex(vector["init_prologue"]), bytes.fromhex(vector["init_psks"][0])
    initiator, responder = pair(psk, prologue)
    messages = [(bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]]

    payload, ciphertext = messages[0]
    assert initiator.write_message(bytes.fromhex(vector["init_ephemeral"]), payload) == ciphertext
    assert responder.read_message(ciphertext) == payload
    payload, ciphertext = messages[1]
    assert responder.write_message(bytes.fromhex(vector["resp_ephemeral"]), payload) == ciphertext
    assert initiator.read_message(ciphertext) == payload

    assert initiator.handshake_hash == responder.handshake_hash == bytes.fromhex(vector["handshake_hash"])
    assert initiator.split() == responder.split()
    ciphers = [AESGCM(key) for key in initiator.split()]
    for index, (payload, ciphertext) in enumerate(messages[2:]):
        nonce = bytes(4) + (index // 2).to_bytes(8, "big")
        assert ciphers[index % 2].encrypt(nonce, payload, None) == ciphertext


def test_the_vector_has_transport_messages() -> None:
    assert [len(vector["messages"]) for vector in VECTORS] == [6]


@given(psk=keys32, prologue=st.binary(max_size=64), own=keys32, other=keys32, request=st.binary(), answer=st.binary())
def test_both_ends_read_what_was_written_and_agree(
    psk: bytes, prologue: bytes, own: bytes, other: bytes, request: bytes, answer: bytes
) -> None:
    initiator, responder = pair(psk, prologue)
    first = initiator.write_message(own, request)
    assert len(first) == KEY_SIZE + len(request) + TAG_SIZE
    assert responder.read_message(first) == request
    second = responder.write_message(other, answer)
    assert len(second) == KEY_SIZE + len(answer) + TAG_SIZE
    assert initiator.read_message(second) == answer
    assert initiator.split() == responder.split()
    assert len({*initiator.split()}) == 2
    assert initiator.handshake_hash == responder.handshake_hash


@given(message=st.binary(max_size=200))
def test_garbage_never_opens(message: bytes) -> None:
    with pytest.raises(NoiseError):
        pair()[1].read_message(message)


def test_every_changed_byte_of_the_first_message_is_refused() -> None:
    _, message = first_message()
    for position in range(len(message)):
        for bit in range(8):
            with pytest.raises(NoiseError):
                pair()[1].read_message(flipped(message, position, bit))


def test_every_changed_byte_of_the_second_message_is_refused() -> None:
    for position in range(len(second_message()[1])):
        initiator, message = second_message()
        with pytest.raises(NoiseError):
            initiator.read_message(flipped(message, position, position % 8))


def test_every_truncation_and_an_extra_byte_are_refused() -> None:
    _, first = first_message()
    for message in [*(first[:length] for length in range(len(first))), first + b"\0"]:
        with pytest.raises(NoiseError):
            pair()[1].read_message(message)
    _, second = second_message()
    for message in [*(second[:length] for length in range(len(second))), second + b"\0"]:
        with pytest.raises(NoiseError):
            second_message()[0].read_message(message)


def test_wrong_psk_and_wrong_prologue_are_refused() -> None:
    _, message = first_message()
    with pytest.raises(NoiseError):
        pair(psk=flipped(PSK, 31))[1].read_message(message)
    with pytest.raises(NoiseError):
        pair(prologue=b"tcsplitter 2")[1].read_message(message)


def test_an_answer_to_another_first_message_is_refused() -> None:
    _, message = second_message()
    other, _ = pair()
    other.write_message(b"\x33" * 32, b"request")
    with pytest.raises(NoiseError):
        other.read_message(message)


class _FixedPublicKey:
    """Stands for a dishonest end's private key: it knows the PSK and sends a public key of its choice."""

    def __init__(self, public: bytes) -> None:
        self._public = public

    def public_key(self) -> "_FixedPublicKey":
        return self

    def public_bytes_raw(self) -> bytes:
        return self._public


@pytest.mark.parametrize("public", LOW_ORDER, ids=lambda public: str(public.hex()[:8]))
def test_an_all_zero_shared_secret_is_refused(public: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    initiator, responder = pair()
    with monkeypatch.context() as patch:
        patch.setattr("tcsplitter.noise.X25519PrivateKey.from_private_bytes", lambda _: _FixedPublicKey(public))
        message = initiator.write_message(CLIENT_EPHEMERAL, b"request")
    assert message[:KEY_SIZE] == public
    assert responder.read_message(message) == b"request"
    with pytest.raises(NoiseError, match="low order"):
        responder.write_message(SERVER_EPHEMERAL, b"answer")
    with pytest.raises(LocalProtocolError):
        responder.split()


def test_a_low_order_answer_is_refused() -> None:
    for public in LOW_ORDER:
        initiator, message = second_message()
        with pytest.raises(NoiseError, match="low order"):
            initiator.read_message(public + message[KEY_SIZE:])


def test_a_failed_handshake_cannot_go_on() -> None:
    initiator, message = second_message()
    with pytest.raises(NoiseError):
        initiator.read_message(flipped(message, 40))
    with pytest.raises(LocalProtocolError):
        initiator.read_message(message)
    with pytest.raises(LocalProtocolError):
        initiator.split()


def test_calls_out_of_turn_are_refused() -> None:
    initiator, responder = pair()
    with pytest.raises(LocalProtocolError):
        initiator.read_message(bytes(96))
    with pytest.raises(LocalProtocolError):
        responder.write_message(SERVER_EPHEMERAL, b"")
    message = initiator.write_message(CLIENT_EPHEMERAL, b"")
    with pytest.raises(LocalProtocolError):
        initiator.write_message(CLIENT_EPHEMERAL, b"")
    responder.read_message(message)
    with pytest.raises(LocalProtocolError):
        responder.split()
    responder.write_message(SERVER_EPHEMERAL, b"")
    with pytest.raises(LocalProtocolError):
        responder.read_message(message)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_keys_of_another_size_are_a_callers_mistake(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        HandshakeState(initiator=True, prologue=PROLOGUE, psk=bytes(size))
    with pytest.raises(ValueError, match="32 bytes"):
        pair()[0].write_message(bytes(size), b"")


def test_the_error_is_one_of_the_package() -> None:
    assert issubclass(NoiseError, TcsplitterError)
