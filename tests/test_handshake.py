"""The handshake's two messages: what they hold, who can read them, and what a server does with everything else."""

import hashlib
import hmac
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from tcsplitter.errors import LocalProtocolError, RemoteProtocolError
from tcsplitter.handshake import (
    ANSWER_SIZE,
    MAX_SEEN,
    NO_SESSION,
    NOISE_TRIALS,
    PROLOGUE,
    REQUEST_SIZE,
    STATUS_CONTINUES,
    STATUS_MODE_NOT_SUPPORTED,
    STATUS_NEW,
    STATUS_NO_ROOM,
    STATUS_OTHER_PROTOCOL,
    STATUS_OTHER_VERSION,
    TRIAL_BURST,
    TRIALS_PER_SECOND,
    VERSION,
    Answer,
    Gate,
    Initiator,
    Request,
    Responder,
    SeenEphemerals,
    SessionKeys,
    TrialBudget,
    tag_key,
)
from tcsplitter.modes import MODES
from tcsplitter.noise import HandshakeState, NoiseError

PSK = bytes(range(32))
OTHER_PSK = bytes(range(1, 33))
CLIENT_EPHEMERAL = b"\x11" * 32
SERVER_EPHEMERAL = b"\x22" * 32
SESSION = b"session1"
INSTANCE = b"instance"
REQUEST = Request(VERSION, MODES["fling"].number, reuse=1, conns=4, lassoes=0, burst=1024, previous=NO_SESSION)
ANSWER = Answer(VERSION, STATUS_NEW, epoch=0, session_id=SESSION, instance=INSTANCE)

octets = st.integers(0, 255)
shorts = st.integers(0, 65_535)
ids = st.binary(min_size=8, max_size=8)
keys32 = st.binary(min_size=32, max_size=32)
flags = st.booleans()
requests = st.builds(Request, octets, octets, shorts, shorts, shorts, shorts, ids, octets, shorts, flags)
grants = st.builds(Answer, octets, st.just(STATUS_NEW), octets, ids.filter(any), ids, shorts, flags)
refusals = st.builds(Answer, octets, st.integers(STATUS_OTHER_VERSION, STATUS_OTHER_PROTOCOL), octets, st.just(NO_SESSION), ids)


def gate(**keys: bytes) -> Gate:
    return Gate(keys or {"laptop": PSK}, now=0.0)


def initiator(request: Request = REQUEST, psk: bytes = PSK, ephemeral: bytes = CLIENT_EPHEMERAL) -> Initiator:
    return Initiator(psk, ephemeral, request)


def flipped(message: bytes, position: int) -> bytes:
    changed = bytearray(message)
    changed[position] ^= 1 << position % 8
    return bytes(changed)


# What the messages hold.


@given(request=requests)
def test_request_survives_the_wire(request: Request) -> None:
    data = request.encode()
    assert len(data) == 32
    assert Request.decode(data) == request
    assert Request.decode(data[:22] + b"\xff" * 10) == request


@given(answer=grants | refusals)
def test_answer_survives_the_wire(answer: Answer) -> None:
    data = answer.encode()
    assert len(data) == 32
    assert Answer.decode(data) == answer
    assert Answer.decode(data[:23] + b"\xff" * 9) == answer
    assert answer.accepted == (answer.status in (STATUS_NEW, STATUS_CONTINUES))


@pytest.mark.parametrize("parity", [False, True])
def test_the_layouts_are_those_of_the_protocol(parity: bool) -> None:
    may_send = bytes([parity])
    request = Request(1, 3, 0x0203, 0x0405, 0x0607, 0x0809, b"previous", 0x0A, 0x0B0C, parity)
    assert request.encode() == b"\x01\x03\x02\x03\x04\x05\x06\x07\x08\x09previous\x0a\x0b\x0c" + may_send + bytes(10)
    answer = Answer(1, STATUS_CONTINUES, 7, b"session1", b"instance", 0x0809, parity)
    assert answer.encode() == b"\x01\x01\x07\x00session1instance\x08\x09" + may_send + bytes(9)


@pytest.mark.parametrize("byte", [1, 2, 255])
def test_whoever_says_anything_but_0_may_send_parity(byte: int) -> None:
    request, answer = bytearray(REQUEST.encode()), bytearray(ANSWER.encode())
    assert Request.decode(bytes(request)).parity is Answer.decode(bytes(answer)).parity is False
    request[21] = answer[22] = byte
    assert Request.decode(bytes(request)).parity is Answer.decode(bytes(answer)).parity is True


@given(data=st.binary(max_size=80))
def test_any_bytes_decode_or_are_the_other_ends_fault(data: bytes) -> None:
    if len(data) == 32:
        assert Request.decode(data).encode()[:21] == data[:21]
    else:
        with pytest.raises(RemoteProtocolError):
            Request.decode(data)
    try:
        answer = Answer.decode(data)
    except RemoteProtocolError:
        return
    assert answer.encode()[:3] == data[:3]


@pytest.mark.parametrize(
    ("status", "session"), [(6, NO_SESSION), (255, SESSION), (STATUS_NEW, NO_SESSION), (STATUS_CONTINUES, NO_SESSION)]
    + [(status, SESSION) for status in (STATUS_OTHER_VERSION, STATUS_MODE_NOT_SUPPORTED, STATUS_NO_ROOM, STATUS_OTHER_PROTOCOL)],
)  # fmt: skip
def test_an_answer_that_contradicts_itself_is_refused(status: int, session: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Answer.decode(bytes([VERSION, status, 0, 0]) + session + INSTANCE + bytes(12))
    with pytest.raises(LocalProtocolError):
        Answer(VERSION, status, 0, session, INSTANCE).encode()


@pytest.mark.parametrize(
    "request_",
    [
        replace(REQUEST, version=256),
        replace(REQUEST, reuse=-1),
        replace(REQUEST, conns=65_536),
        replace(REQUEST, protocol=256),
        replace(REQUEST, skip=-1),
        replace(REQUEST, previous=b"short"),
    ],
)
def test_a_request_that_does_not_fit_is_a_fault_of_this_end(request_: Request) -> None:
    with pytest.raises(LocalProtocolError):
        request_.encode()


def test_an_answer_that_does_not_fit_is_a_fault_of_this_end() -> None:
    faults: list[dict[str, Any]] = [{"epoch": 256}, {"session_id": b"longer than 8"}, {"instance": b""}, {"skip": 65_536}]
    for answer in (replace(ANSWER, **fault) for fault in faults):
        with pytest.raises(LocalProtocolError):
            answer.encode()


# Both ends together.


@given(psk=keys32, own=keys32, other=keys32, request=requests, answer=grants | refusals)
def test_both_ends_agree(psk: bytes, own: bytes, other: bytes, request: Request, answer: Answer) -> None:
    client = Initiator(psk, own, request)
    assert len(client.message) == REQUEST_SIZE
    responder = gate(laptop=psk).respond(client.message, now=0.0)
    assert (responder.key_name, responder.request) == ("laptop", request)
    message, server_keys = responder.answer(answer, other)
    assert len(message) == ANSWER_SIZE
    received, client_keys = client.read_answer(message)
    assert received == answer
    assert (client_keys.seal, client_keys.open) == (server_keys.open, server_keys.seal)
    assert client_keys.seal != client_keys.open
    assert {len(client_keys.seal), len(client_keys.open)} == {32}


def test_the_first_key_of_split_seals_client_to_server() -> None:
    client = initiator()
    noise = HandshakeState(initiator=False, prologue=PROLOGUE, psk=PSK)
    noise.read_message(client.message[16:])
    _, keys = client.read_answer(noise.write_message(SERVER_EPHEMERAL, ANSWER.encode()))
    assert (keys.seal, keys.open) == noise.split()


def test_ciphers_of_the_two_ends_fit() -> None:
    client = initiator()
    message, server = gate().respond(client.message, 0.0).answer(ANSWER, SERVER_EPHEMERAL)
    _, mine = client.read_answer(message)
    nonce = bytes(12)
    assert server.opener().decrypt(nonce, mine.sealer().encrypt(nonce, b"up", None), None) == b"up"
    assert mine.opener().decrypt(nonce, server.sealer().encrypt(nonce, b"down", None), None) == b"down"
    with pytest.raises(InvalidTag):
        mine.opener().decrypt(nonce, mine.sealer().encrypt(nonce, b"reflected", None), None)


def test_fresh_ephemerals_of_either_end_give_fresh_keys() -> None:
    made: set[bytes] = set()
    for own, other in ((b"a", b"b"), (b"c", b"b"), (b"a", b"d")):
        responder = gate().respond(initiator(ephemeral=own * 32).message, 0.0)
        keys = responder.answer(ANSWER, other * 32)[1]
        made |= {keys.seal, keys.open}
    assert len(made) == 6


def test_keys_do_not_show_in_logs() -> None:
    keys = SessionKeys(seal=b"s" * 32, open=b"o" * 32)
    assert repr(keys) == "SessionKeys()"
    with pytest.raises(FrozenInstanceError):
        keys.seal = b""  # type: ignore[misc]


def test_a_session_that_was_asked_for_continues() -> None:
    client = initiator(replace(REQUEST, previous=SESSION))
    responder = gate().respond(client.message, 0.0)
    message, _ = responder.answer(replace(ANSWER, status=STATUS_CONTINUES, epoch=3), SERVER_EPHEMERAL)
    answer, _ = client.read_answer(message)
    assert (answer.status, answer.epoch, answer.session_id) == (STATUS_CONTINUES, 3, SESSION)


@pytest.mark.parametrize("previous", [NO_SESSION, b"another!"])
def test_a_session_that_was_not_asked_for_does_not_continue(previous: bytes) -> None:
    client = initiator(replace(REQUEST, previous=previous))
    continued = replace(ANSWER, status=STATUS_CONTINUES)
    with pytest.raises(LocalProtocolError):
        gate().respond(client.message, 0.0).answer(continued, SERVER_EPHEMERAL)
    noise = HandshakeState(initiator=False, prologue=PROLOGUE, psk=PSK)
    noise.read_message(client.message[16:])
    with pytest.raises(RemoteProtocolError, match="not asked for"):
        client.read_answer(noise.write_message(SERVER_EPHEMERAL, continued.encode()))


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (replace(REQUEST, version=2, mode=200, burst=0), STATUS_OTHER_VERSION),
        (replace(REQUEST, mode=MODES["none"].number), STATUS_MODE_NOT_SUPPORTED),
        (REQUEST, STATUS_NO_ROOM),
        (replace(REQUEST, protocol=1), STATUS_OTHER_PROTOCOL),
    ],
)
def test_a_request_that_cannot_be_granted_is_answered(request_: Request, status: int) -> None:
    client = initiator(request_)
    responder = gate().respond(client.message, 0.0)
    assert (responder.request.version, responder.request.mode) == (request_.version, request_.mode)
    message, _ = responder.answer(Answer(VERSION, status, 0, NO_SESSION, INSTANCE), SERVER_EPHEMERAL)
    answer, _ = client.read_answer(message)
    assert (answer.version, answer.status, answer.accepted) == (VERSION, status, False)


def test_every_changed_byte_of_the_answer_is_refused() -> None:
    for position in range(ANSWER_SIZE):
        client = initiator()
        message, _ = gate().respond(client.message, 0.0).answer(ANSWER, SERVER_EPHEMERAL)
        with pytest.raises(NoiseError):
            client.read_answer(flipped(message, position))


@pytest.mark.parametrize("size", [0, 47, 48, 79])
def test_an_answer_of_another_length_is_refused(size: int) -> None:
    client = initiator()
    message, _ = gate().respond(client.message, 0.0).answer(ANSWER, SERVER_EPHEMERAL)
    with pytest.raises(NoiseError):
        client.read_answer(message[:size])


def test_each_side_goes_once() -> None:
    client = initiator()
    responder = gate().respond(client.message, 0.0)
    message, _ = responder.answer(ANSWER, SERVER_EPHEMERAL)
    with pytest.raises(LocalProtocolError):
        responder.answer(ANSWER, b"\x33" * 32)
    client.read_answer(message)
    with pytest.raises(LocalProtocolError):
        client.read_answer(message)


# The server's gate.


def test_the_tag_is_that_of_the_protocol() -> None:
    message = initiator().message
    assert tag_key(PSK) == hashlib.sha256(b"tcsplitter tag" + PSK).digest()
    assert message[:16] == hashlib.blake2s(message[16:48], digest_size=16, key=tag_key(PSK)).digest()


def test_each_key_is_found_among_several() -> None:
    keys = {f"client-{number}": bytes([number]) * 32 for number in range(1, 20)}
    server = Gate(keys, now=0.0)
    for number, (name, psk) in enumerate(keys.items(), 100):
        assert server.respond(initiator(psk=psk, ephemeral=bytes([number]) * 32).message, 0.0).key_name == name


@pytest.mark.parametrize("fitting", [0, 500, 999, None])
def test_all_keys_are_tried_whichever_fits(fitting: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {str(number): number.to_bytes(32, "big") for number in range(1000)}
    psk = PSK if fitting is None else keys[str(fitting)]
    server, message = Gate(keys, now=0.0), initiator(psk=psk).message
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    if fitting is None:
        with pytest.raises(NoiseError):
            server.respond(message, 0.0)
    else:
        server.respond(message, 0.0)
    assert len(compared) == 1000


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(NoiseError, match="no key"):
        gate(laptop=OTHER_PSK).respond(initiator().message, 0.0)


def test_a_tag_of_one_key_before_a_message_of_another_is_refused() -> None:
    honest, other = initiator().message, initiator(psk=OTHER_PSK).message
    with pytest.raises(NoiseError):
        gate(laptop=PSK, phone=OTHER_PSK).respond(honest[:48] + other[48:], 0.0)


def test_every_changed_byte_of_the_request_is_refused_and_the_true_one_still_accepted() -> None:
    server, message = gate(), initiator().message
    for position in range(REQUEST_SIZE):
        with pytest.raises(NoiseError):
            server.respond(flipped(message, position), 0.0)
    assert isinstance(server.respond(message, 0.0), Responder)


@pytest.mark.parametrize("size", [0, 16, 48, 95, 97])
def test_a_request_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(NoiseError, match="96 bytes"):
        gate().respond((initiator().message + b"\0")[:size], 0.0)


@given(message=st.binary(max_size=120) | st.binary(min_size=REQUEST_SIZE, max_size=REQUEST_SIZE))
def test_garbage_is_refused(message: bytes) -> None:
    with pytest.raises(NoiseError):
        gate().respond(message, 0.0)


def test_a_repeated_request_is_refused() -> None:
    server, message = gate(), initiator().message
    server.respond(message, 0.0)
    with pytest.raises(NoiseError, match="repeated"):
        server.respond(message, 1e9)


class _LowOrderKey:
    """Stands for the private key of a client that holds the PSK and sends a public key of low order."""

    def public_key(self) -> "_LowOrderKey":
        return self

    def public_bytes_raw(self) -> bytes:
        return bytes(32)


def test_a_request_of_low_order_ends_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("tcsplitter.noise.X25519PrivateKey.from_private_bytes", lambda _: _LowOrderKey())
        message = initiator().message
    responder = gate().respond(message, 0.0)
    with pytest.raises(NoiseError, match="low order"):
        responder.answer(ANSWER, SERVER_EPHEMERAL)


def test_seen_ephemerals_at_the_cap_and_one_above() -> None:
    seen = SeenEphemerals()
    for number in range(MAX_SEEN):
        seen.add(number.to_bytes(32, "big"))
    assert len(seen) == MAX_SEEN == 65_536
    assert bytes(32) in seen
    seen.add(bytes(32))  # known: keeps its age, pushes nothing out
    assert len(seen) == MAX_SEEN
    seen.add(MAX_SEEN.to_bytes(32, "big"))
    assert len(seen) == MAX_SEEN
    assert bytes(32) not in seen
    assert (1).to_bytes(32, "big") in seen
    assert MAX_SEEN.to_bytes(32, "big") in seen


# The budget of failed trials.


def test_the_budget_is_spent_at_its_burst_and_fills_again() -> None:
    budget = TrialBudget(now=5.0)
    budget.failed(TRIAL_BURST - 1)
    assert budget.allows(5.0)
    budget.failed(1)
    assert not budget.allows(5.0)
    budget.failed(TRIALS_PER_SECOND)
    assert not budget.allows(6.0)
    assert budget.allows(6.001)


def test_the_budget_never_holds_more_than_its_burst() -> None:
    budget = TrialBudget(now=0.0)
    assert budget.allows(1e9)
    budget.failed(TRIAL_BURST)
    assert not budget.allows(1e9)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    budget = TrialBudget(now=10.0)
    budget.failed(TRIAL_BURST)
    assert not budget.allows(0.0)
    assert not budget.allows(10.0)
    assert budget.allows(10.1)


@given(failures=st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 20_000)), max_size=60))
def test_the_trials_allowed_are_bounded(failures: list[tuple[float, int]]) -> None:
    budget, now, spent = TrialBudget(now=0.0), 0.0, 0
    for pause, trials in failures:
        now += pause
        if budget.allows(now):
            budget.failed(trials)
            spent += trials
    assert spent <= TRIAL_BURST + TRIALS_PER_SECOND * now + 20_000


def test_a_flood_stops_trials_until_the_budget_recovers() -> None:
    server = Gate({str(number): number.to_bytes(32, "big") for number in range(1, 1001)}, now=0.0)
    for _ in range(TRIAL_BURST // 1000):
        with pytest.raises(NoiseError, match="no key"):
            server.respond(bytes(REQUEST_SIZE), 0.0)
    honest = initiator(psk=(7).to_bytes(32, "big")).message
    with pytest.raises(NoiseError, match="not tried"):
        server.respond(honest, 0.0)
    assert server.respond(honest, 0.01).key_name == "7"


def test_a_copied_tag_before_garbage_costs_more() -> None:
    server, message = gate(), initiator().message
    for _ in range(-(-TRIAL_BURST // (NOISE_TRIALS + 1))):
        with pytest.raises(NoiseError, match="does not open"):
            server.respond(flipped(message, 95), 0.0)
    with pytest.raises(NoiseError, match="not tried"):
        server.respond(message, 0.0)


def test_requests_that_open_cost_nothing() -> None:
    server = Gate({str(number): number.to_bytes(32, "big") for number in range(1, 1001)}, now=0.0)
    for _ in range(TRIAL_BURST // 1000 - 1):
        with pytest.raises(NoiseError, match="no key"):
            server.respond(bytes(REQUEST_SIZE), 0.0)
    for number in range(1, 10):
        server.respond(initiator(psk=(7).to_bytes(32, "big"), ephemeral=bytes([number]) * 32).message, 0.0)
