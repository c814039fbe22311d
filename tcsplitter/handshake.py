"""The two messages that open a session or renew its keys (PROTOCOL.md section 2), for both ends.

Pure: ephemerals (32 random bytes each, used once) and `now` (seconds) are arguments.
"""

import hashlib
import hmac
import struct
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tcsplitter.errors import LocalProtocolError, RemoteProtocolError
from tcsplitter.noise import KEY_SIZE, HandshakeState, NoiseError

VERSION: Final = 1
PROLOGUE: Final = b"tcsplitter 1"

REQUEST_SIZE: Final = 96
"""Bytes from client to server: tag, ephemeral, sealed request."""
ANSWER_SIZE: Final = 80
"""Bytes from server to client: ephemeral, sealed answer."""
ID_SIZE: Final = 8
"""Bytes of a session id and of a server's instance."""
NO_SESSION: Final = bytes(ID_SIZE)

STATUS_NEW: Final = 0
STATUS_CONTINUES: Final = 1
STATUS_OTHER_VERSION: Final = 2
STATUS_MODE_NOT_SUPPORTED: Final = 3
STATUS_NO_ROOM: Final = 4
STATUS_OTHER_PROTOCOL: Final = 5

_TAG_SIZE: Final = 16
_TAG_LABEL: Final = b"tcsplitter tag"
_REQUEST: Final = struct.Struct("!BBHHHH8sBH?10x")
_ANSWER: Final = struct.Struct("!BBBx8s8sH?9x")


@dataclass(frozen=True, slots=True)
class Request:
    """What the client asks for. `version` and `mode` may hold any byte: it is for the server to answer those it does not know."""

    version: int
    mode: int  # Mode.number
    reuse: int  # data shots per carrier and half; 0: no limit
    conns: int  # flings the client keeps open
    lassoes: int  # lassoes the client keeps open
    burst: int  # carriers; ceiling to which the pool may grow; 0: it stays as it is
    previous: bytes  # id of the session to continue, or NO_SESSION
    protocol: int = 0  # place in modes.PROTOCOLS
    skip: int = 0  # attempts that the server makes for lost stream data before it goes on, plus 1; 0: no end of them
    parity: bool = False  # the client may send parity

    def encode(self) -> bytes:
        """32 bytes. Raises LocalProtocolError for a value that its field cannot hold."""
        pools = self.reuse, self.conns, self.lassoes, self.burst
        previous = _id(self.previous)
        return _pack(_REQUEST, self.version, self.mode, *pools, previous, self.protocol, self.skip, self.parity)

    @classmethod
    def decode(cls, data: bytes) -> "Request":
        """From 32 bytes, of whatever version. Raises RemoteProtocolError for another length."""
        return cls(*_unpack(_REQUEST, data))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server grants. `session_id` is NO_SESSION where `status` refuses."""

    version: int
    status: int  # one of STATUS_*
    epoch: int  # of the keys that this handshake made
    session_id: bytes
    instance: bytes  # random, drawn when the server started
    skip: int = 0  # as in Request, for the client
    parity: bool = False  # the server may send parity

    @property
    def accepted(self) -> bool:
        """Whether there is a session: a new one or the one that was named."""
        return self.status in (STATUS_NEW, STATUS_CONTINUES)

    def encode(self) -> bytes:
        """32 bytes. Raises LocalProtocolError for a value that its field cannot hold, or an answer that contradicts itself."""
        if fault := self._fault():
            raise LocalProtocolError(fault)
        ids = _id(self.session_id), _id(self.instance)
        return _pack(_ANSWER, self.version, self.status, self.epoch, *ids, self.skip, self.parity)

    @classmethod
    def decode(cls, data: bytes) -> "Answer":
        """From 32 bytes. Raises RemoteProtocolError for another length, an unknown status or an id that contradicts it."""
        answer = cls(*_unpack(_ANSWER, data))
        if fault := answer._fault():
            raise RemoteProtocolError(fault)
        return answer

    def _fault(self) -> str:
        if not STATUS_NEW <= self.status <= STATUS_OTHER_PROTOCOL:
            return f"an answer with the unknown status {self.status}"
        if self.accepted and self.session_id == NO_SESSION:
            return f"an answer with status {self.status} and no session id"
        if not self.accepted and self.session_id != NO_SESSION:
            return f"an answer with status {self.status} and a session id"
        return ""


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """The two keys of an epoch, 32 bytes each, from this end's point of view."""

    seal: bytes = field(repr=False)
    open: bytes = field(repr=False)

    def sealer(self) -> AESGCM:
        """The cipher for what this end sends."""
        return AESGCM(self.seal)

    def opener(self) -> AESGCM:
        """The cipher for what this end receives."""
        return AESGCM(self.open)


def tag_key(psk: bytes) -> bytes:
    """The 32-byte key of the tag by which a server knows which PSK a request was made with."""
    return hashlib.sha256(_TAG_LABEL + psk).digest()


class Initiator:
    """The client's side of one handshake: send `message`, give what comes back to `read_answer`, once."""

    message: bytes
    """The REQUEST_SIZE bytes to be sent."""

    def __init__(self, psk: bytes, ephemeral: bytes, request: Request) -> None:
        self._request = request
        self._noise = HandshakeState(initiator=True, prologue=PROLOGUE, psk=psk)
        sealed = self._noise.write_message(ephemeral, request.encode())
        self.message = _tag(tag_key(psk), sealed[:KEY_SIZE]) + sealed

    def read_answer(self, data: bytes) -> tuple[Answer, SessionKeys]:
        """The answer, and the keys of its epoch, which are of use only if it is `accepted`.

        Raises NoiseError for what the holder of the key did not write, RemoteProtocolError for an answer that breaks the rules.
        """
        answer = Answer.decode(self._noise.read_message(data))
        if answer.status == STATUS_CONTINUES and answer.session_id != self._request.previous:
            raise RemoteProtocolError("the server continues a session that was not asked for")
        first, second = self._noise.split()
        return answer, SessionKeys(seal=first, open=second)


class Responder:
    """The server's side of one handshake that proved a key: `request` waits to be answered, once."""

    def __init__(self, noise: HandshakeState, key_name: str, request: Request) -> None:
        self._noise = noise
        self.key_name = key_name
        self.request = request

    def answer(self, answer: Answer, ephemeral: bytes) -> tuple[bytes, SessionKeys]:
        """The ANSWER_SIZE bytes to be sent, and the keys.

        Raises NoiseError where the client's ephemeral is of low order: such a request is to be treated as garbage.
        """
        if answer.status == STATUS_CONTINUES and answer.session_id != self.request.previous:
            raise LocalProtocolError("an answer continues a session that was not asked for")
        message = self._noise.write_message(ephemeral, answer.encode())
        first, second = self._noise.split()
        return message, SessionKeys(seal=second, open=first)


class Gate:
    """Tells handshakes from garbage, for all keys of a server; one for the life of the process."""

    def __init__(self, keys: Mapping[str, bytes], now: float) -> None:
        """`keys` are the PSKs by name."""
        self._psks = dict(keys)
        self._tag_keys = {name: tag_key(psk) for name, psk in keys.items()}
        self._seen = SeenEphemerals()
        self._budget = TrialBudget(now)

    def respond(self, message: bytes, now: float) -> Responder:
        """The handshake that `message`, REQUEST_SIZE bytes, begins.

        Raises NoiseError for everything else, and its text is for logs only: whoever sent it must learn nothing.
        """
        if len(message) != REQUEST_SIZE:
            raise NoiseError(f"a request has {REQUEST_SIZE} bytes, not {len(message)}")
        if not self._budget.allows(now):
            raise NoiseError("too many requests failed of late: not tried")
        try:
            return self._try(message)
        except NoiseError:
            self._budget.failed(len(self._tag_keys))
            raise

    def _try(self, message: bytes) -> Responder:
        ephemeral = message[_TAG_SIZE : _TAG_SIZE + KEY_SIZE]
        name = self._find_key(message[:_TAG_SIZE], ephemeral)
        if name is None:
            raise NoiseError("a request that was made with no key known here")
        if ephemeral in self._seen:
            raise NoiseError(f"a repeated request of key {name!r}")
        noise = HandshakeState(initiator=False, prologue=PROLOGUE, psk=self._psks[name])
        try:
            payload = noise.read_message(message[_TAG_SIZE:])
        except NoiseError:
            self._budget.failed(NOISE_TRIALS)
            raise
        # Only what opened is remembered: else a copied tag in front of garbage would lock out the client that it was copied from.
        self._seen.add(ephemeral)
        return Responder(noise, name, Request.decode(payload))

    def _find_key(self, tag: bytes, ephemeral: bytes) -> str | None:
        """Name of the key that made the tag. All keys are tried, so the time tells nothing of which one fits."""
        found = None
        for name, key in self._tag_keys.items():
            if hmac.compare_digest(tag, _tag(key, ephemeral)):
                found = name
        return found


MAX_SEEN: Final = 65_536
"""Ephemerals that a server remembers."""


class SeenEphemerals:
    """The newest MAX_SEEN ephemerals, oldest forgotten first. Every operation is O(1)."""

    def __init__(self) -> None:
        self._members: set[bytes] = set()
        self._order: deque[bytes] = deque()

    def __contains__(self, ephemeral: bytes) -> bool:
        return ephemeral in self._members

    def __len__(self) -> int:
        return len(self._order)

    def add(self, ephemeral: bytes) -> None:
        """Remember it; one that is remembered keeps its age."""
        if ephemeral in self._members:
            return
        if len(self._order) == MAX_SEEN:
            self._members.remove(self._order.popleft())
        self._members.add(ephemeral)
        self._order.append(ephemeral)


TRIALS_PER_SECOND: Final = 100_000
"""Failed trials that are paid for: a trial is one keyed BLAKE2s, about 1 µs, so a tenth of a core."""
TRIAL_BURST: Final = 50_000
"""Failed trials that may come at once, about 50 ms of a core."""
NOISE_TRIALS: Final = 30
"""Trials' worth of a Noise message that does not open behind a tag that fits, about 30 µs."""


class TrialBudget:
    """A token bucket on `now` that bounds the CPU which requests that prove nothing can use; those that open cost none.

    Trials are booked after they were made, so the bucket may fall below zero and a server with more keys than TRIAL_BURST still
    tries them. While it is empty nobody's request is tried: an honest client's next attempt comes soon (PROTOCOL.md section 2).
    """

    def __init__(self, now: float) -> None:
        self._tokens = float(TRIAL_BURST)
        self._filled = now

    def allows(self, now: float) -> bool:
        """Whether another request may be tried."""
        elapsed = max(0.0, now - self._filled)
        self._tokens = min(float(TRIAL_BURST), self._tokens + elapsed * TRIALS_PER_SECOND)
        self._filled = max(self._filled, now)
        return self._tokens > 0

    def failed(self, trials: int) -> None:
        """Book trials that led to nothing."""
        self._tokens -= trials


def _tag(key: bytes, ephemeral: bytes) -> bytes:
    return hashlib.blake2s(ephemeral, key=key, digest_size=_TAG_SIZE).digest()


def _id(value: bytes) -> bytes:
    if len(value) != ID_SIZE:
        raise LocalProtocolError(f"an id has {ID_SIZE} bytes, not {len(value)}")
    return value


def _pack(layout: struct.Struct, *values: int | bytes) -> bytes:
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise LocalProtocolError(f"a value does not fit its field: {error}") from None


def _unpack(layout: struct.Struct, data: bytes) -> tuple[Any, ...]:
    if len(data) != layout.size:
        raise RemoteProtocolError(f"a request or answer has {layout.size} bytes, not {len(data)}")
    return layout.unpack(data)
