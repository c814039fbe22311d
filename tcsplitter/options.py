"""What the user asked for: parsed, checked, immutable. Times are kept in seconds, sizes in bytes."""

import ipaddress
import math
import re
from dataclasses import dataclass, field

from tcsplitter.errors import ConfigError
from tcsplitter.modes import MODES, PROTOCOLS, Kind

MAX_PAYLOAD = 1_048_576  # bytes: PROTOCOL.md section 3 leaves room for this much data and its frames in one shot
MIN_MTU, MAX_MTU = 148, 32_807  # Linux takes a TCP_MAXSEG of 88 to 32,767; headers are 40 to 60 bytes
MAX_SKIP = 65_534  # SKIP + 1 is two bytes in the request and its answer (PROTOCOL.md section 2)
MIN_BEAT = 1e-6  # seconds: beats are counted, and the core takes none that is shorter
_MAX_UINT16 = 65_535  # reuse, conns, lassoes and burst are two bytes each in the request (PROTOCOL.md section 2)
_MAX_MERGE = 65_535
_MBIT = 125_000  # bytes
_MAX_GROUP = 256  # payloads and their parity: the code's field is GF(2**8) (PROTOCOL.md section 6)

_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,9})?|\.[0-9]{1,9}"
_ADDRESS_FORM = "HOST:PORT or [IPv6]:PORT, for example 192.0.2.7:443 or [2001:db8::7]:443"
_FRAGS_FORM = "SIZE or SIZE:MTU in bytes, for example 10000 or 10000:1400, or auto"
_BUFFER_FORM = f"T:N or T, T 0 or at least 0.001 milliseconds, N payloads of 0 to {_MAX_MERGE}, for example 83:0 or 0.5"
_RETRIES_FORM = f"R:SKIP, R 0 or 1, SKIP -1 (never) or 0 to {MAX_SKIP}, for example 1:-1"
_FEC_FORM = f"D:P, 1 or more of each and {_MAX_GROUP} together at most, for example 10:3, or auto, or 0 (none)"
_RATE_FORM = "Mbit/s, for example 20 or 0.5, or 0 (no cap)"
_PROTOCOL_FORM = " or ".join(PROTOCOLS)
_DUP_FORM = "one of " + ", ".join(MODES)


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP or UDP address. Port 0 lets the kernel choose, where an end listens."""

    host: str  # IPv4, IPv6 (without brackets) or a name
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Only programs on this machine can be reached there, or reach it. Of the names only `localhost` counts."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Playout:
    """How a stream is forwarded to the local program."""

    beat: float = 0.0  # seconds between two writes; 0: no beat, as soon as in order
    merge: int = 0  # payloads of a beat; 0: one
    catch_up: bool = False  # after a beat that was skipped, forward what piled up at once
    after: float = 0.0  # first seconds of a stream without a beat; the pool is dialled over the same time


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """What becomes of a lost payload."""

    resend: bool = True
    skip: int = -1  # attempts after which the receiver goes past a missing payload; -1: never


@dataclass(frozen=True, slots=True)
class Fec:
    """How much parity goes with what is sent."""

    data: int = 0  # payloads of a full group; 0: no parity, or `auto`
    parity: int = 0  # parity payloads that a group gets
    auto: bool = False  # as much as the line needs

    def __str__(self) -> str:
        return "auto" if self.auto else f"{self.data}:{self.parity}"

    @property
    def used(self) -> bool:
        """Some may be sent."""
        return self.auto or self.data > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """What both ends have. Each end uses its own for what it sends, `playout` for what it receives."""

    tick: float = 0.0  # seconds: least time between two reads of a local socket; 0: whenever readable
    tock: float = 0.0  # seconds that a payload which is not full waits for more; 0: goes at once
    playout: Playout = Playout()
    size: int | None = None  # bytes of stream data in a payload; None: payload.SMALL, and more where the line takes many
    mtu: int = 0  # bytes of a packet on the line; 0: what the kernel finds
    retries: Retries = Retries()
    fec: Fec = Fec()
    hedge: bool = True  # late payloads are sent again, on another connection
    deadline: float = 0.0  # seconds after which a datagram is dropped; 0: never
    protocol: str = "tcp"  # what is tunnelled, one of PROTOCOLS
    flow_idle: float = 60.0  # seconds without a datagram after which a UDP flow ends
    rate: float = 0.0  # bytes per second that payload takes on the line at most; 0: any
    polite: bool = False  # yield to others' traffic, however long
    idle: float = 25.0  # seconds an unused connection lives at the client; at the server twice as long
    linger: float = 86_400.0  # seconds without contact after which open streams are given up


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions(Knobs):
    """The client end. ConfigError if the values do not go together."""

    r_fling: Address  # where the server end listens; so for the other three, which None shares with this one
    r_lasso: Address | None = None
    r_sync: Address | None = None
    r_fling_r: Address | None = None
    keys: dict[str, bytes] = field(repr=False)  # exactly one: name and 32 bytes
    listen: Address = Address("127.0.0.1", 6000)  # where local programs connect
    dup: str = "fling"  # a name of MODES
    reuse: int = 1  # data shots per connection and direction; 0: no limit
    conns: int = 4  # flings kept open, dialled ahead
    lassoes: int = 0  # lassoes kept open, dialled ahead
    burst: int = 1024  # connections to which each pool may grow; 0: it does not grow

    def __post_init__(self) -> None:
        remote = {"--rFling": self.r_fling, "--rLasso": self.r_lasso, "--rSync": self.r_sync, "--rFlingR": self.r_fling_r}
        for flag, address in remote.items():
            _require(address is None or address.port != 0, flag, address, "a port of 1 to 65535")
        _check_knobs(self)
        _require(0 <= self.reuse <= _MAX_UINT16, "--reuse", self.reuse, "0 (no limit) to 65535, for example 1")
        _check_pools(self)
        if len(self.keys) != 1:
            names = ", ".join(self.keys) or "none"
            raise ConfigError(
                f"--key-file: a client uses exactly one key, these were given: {names}. Give it a file with only its own line."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions(Knobs):
    """The server end. ConfigError if the values do not go together. Pools and reuse are stated by the client."""

    l_fling: Address  # where client ends connect; so for the other three, which None shares with this one
    l_lasso: Address | None = None
    l_sync: Address | None = None
    l_fling_r: Address | None = None
    keys: dict[str, bytes] = field(repr=False)  # at least one: name and 32 bytes, one per client
    forward: Address = Address("127.0.0.1", 6003)  # the service
    dup: str | None = None  # the only name of MODES that is not refused; None: whatever the client asks for

    def __post_init__(self) -> None:
        _require(self.forward.port != 0, "--forward", self.forward, "a port of 1 to 65535")
        _check_knobs(self)
        _require(self.dup is None or self.dup in MODES, "--dup", self.dup, _DUP_FORM)
        if not self.keys:
            raise ConfigError("--key-file: a server needs at least one key")


def parse_address(flag: str, text: str) -> Address | None:
    """HOST:PORT, IPv4:PORT or [IPv6]:PORT; `0` (not used) gives None. `flag` is named in the ConfigError."""
    if text == "0":
        return None
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        valid = _is_ip(host, 6)
    else:
        valid = _is_ip(host, 4) or _is_name(host)
    if not (colon and valid and re.fullmatch(r"[0-9]{1,5}", port) and int(port) <= 65_535):
        raise _wrong(flag, text, _ADDRESS_FORM)
    return Address(host, int(port))


def parse_needed_address(flag: str, text: str) -> Address:
    """As `parse_address`, where `0` is not possible."""
    address = parse_address(flag, text)
    if address is None:
        raise _wrong(flag, text, _ADDRESS_FORM)
    return address


def parse_frags(flag: str, text: str) -> tuple[int | None, int]:
    """SIZE or SIZE:MTU, or `auto`. Returns both in bytes, SIZE None for `auto`, MTU 0 where it is not given."""
    if text == "auto":
        return None, 0
    match = re.fullmatch(r"([0-9]{1,7})(?::([0-9]{1,5}))?", text)
    if not match:
        raise _wrong(flag, text, _FRAGS_FORM)
    return int(match[1]), int(match[2] or 0)


def parse_buffer(flag: str, text: str) -> Playout:
    """T:N or T, the beat in milliseconds and the payloads of a beat."""
    match = re.fullmatch(rf"({_NUMBER})(?::([0-9]{{1,9}}))?", text)
    if not match:
        raise _wrong(flag, text, _BUFFER_FORM)
    return Playout(beat=float(match[1]) / 1000, merge=int(match[2] or 0))


def parse_retries(flag: str, text: str) -> Retries:
    """R:SKIP."""
    match = re.fullmatch(r"([01]):(-1|[0-9]{1,9})", text)
    if not match:
        raise _wrong(flag, text, _RETRIES_FORM)
    return Retries(resend=match[1] == "1", skip=int(match[2]))


def parse_tock(flag: str, text: str) -> float:
    """Milliseconds, or `auto`. Returns seconds, 0 for `auto`."""
    return 0.0 if text == "auto" else _parse_number(flag, text, "milliseconds or auto, for example 40 or 0.5") / 1000


def parse_fec(flag: str, text: str) -> Fec:
    """D:P, `auto`, or `0` for none."""
    match = re.fullmatch(r"([0-9]{1,3}):([0-9]{1,3})", text)
    if not (match or text in ("0", "auto")):
        raise _wrong(flag, text, _FEC_FORM)
    fec = Fec(int(match[1]), int(match[2])) if match else Fec(auto=text == "auto")
    _require(_is_possible(fec), flag, text, _FEC_FORM)
    return fec


def parse_switch(flag: str, text: str) -> bool:
    """`on` or `off`."""
    if text not in ("on", "off"):
        raise _wrong(flag, text, "on or off")
    return text == "on"


def parse_dup(flag: str, text: str) -> str:
    """The name of a mode."""
    if text not in MODES:
        raise _wrong(flag, text, _DUP_FORM)
    return text


def parse_protocol(flag: str, text: str) -> str:
    """One of PROTOCOLS."""
    if text not in PROTOCOLS:
        raise _wrong(flag, text, _PROTOCOL_FORM)
    return text


def parse_milliseconds(flag: str, text: str) -> float:
    """Milliseconds, fractions accepted. Returns seconds."""
    return _parse_number(flag, text, "milliseconds, for example 250 or 0.5") / 1000


def parse_seconds(flag: str, text: str) -> float:
    """Seconds, fractions accepted."""
    return _parse_number(flag, text, "seconds, for example 86400")


def parse_rate(flag: str, text: str) -> float:
    """Mbit/s, fractions accepted. Returns bytes per second."""
    return _parse_number(flag, text, _RATE_FORM) * _MBIT


def parse_count(flag: str, text: str) -> int:
    """A whole number."""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise _wrong(flag, text, "a whole number, for example 4")
    return int(text)


def _parse_number(flag: str, text: str, form: str) -> float:
    if not re.fullmatch(_NUMBER, text):
        raise _wrong(flag, text, form)
    return float(text)


def _check_knobs(knobs: Knobs) -> None:
    _check_times(knobs)
    _require(
        (knobs.size is None or 1 <= knobs.size <= MAX_PAYLOAD) and (knobs.mtu == 0 or MIN_MTU <= knobs.mtu <= MAX_MTU),
        "--frags",
        f"{knobs.size}:{knobs.mtu}" if knobs.mtu else knobs.size,
        f"{_FRAGS_FORM}: a SIZE of 1 to {MAX_PAYLOAD}, an MTU of 0 (the kernel's) or {MIN_MTU} to {MAX_MTU}",
    )
    beat, merge = knobs.playout.beat, knobs.playout.merge
    _require(
        (beat == 0 or MIN_BEAT <= beat < math.inf) and 0 <= merge <= _MAX_MERGE,
        "--buffer",
        f"{beat * 1000:g}:{merge}",
        _BUFFER_FORM,
    )
    resend, skip = knobs.retries.resend, knobs.retries.skip
    _require(-1 <= skip <= MAX_SKIP, "--retries", f"{resend:d}:{skip}", _RETRIES_FORM)
    _require(_is_possible(knobs.fec), "--fec", knobs.fec, _FEC_FORM)
    _require(0 <= knobs.rate < math.inf, "--rate", f"{knobs.rate / _MBIT:g}", _RATE_FORM)
    _require(knobs.protocol in PROTOCOLS, "--protocol", knobs.protocol, _PROTOCOL_FORM)


def _is_possible(fec: Fec) -> bool:
    """A full group has payloads and parity; without parity, and with `auto`, no group is given."""
    if fec.data == fec.parity == 0:
        return True
    return not fec.auto and fec.data >= 1 and fec.parity >= 1 and fec.data + fec.parity <= _MAX_GROUP


def _check_times(knobs: Knobs) -> None:
    from_0 = {"--tick": knobs.tick, "--tock": knobs.tock, "--after": knobs.playout.after, "--deadline": knobs.deadline}
    for flag, seconds in from_0.items():
        _require(0 <= seconds < math.inf, flag, f"{seconds * 1000:g}", "milliseconds, 0 or more, for example 50")
    for flag, seconds in {"--idle": knobs.idle, "--flow-idle": knobs.flow_idle}.items():
        _require(0 < seconds < math.inf, flag, f"{seconds * 1000:g}", "milliseconds above 0, for example 25000")
    _require(0 < knobs.linger < math.inf, "--linger", f"{knobs.linger:g}", "seconds above 0, for example 86400")


def _check_pools(client: ClientOptions) -> None:
    """Pools that the mode dials have connections, and a burst has room for them; the other pools may be empty."""
    _require(client.dup in MODES, "--dup", client.dup, _DUP_FORM)
    pools = {Kind.FLING: ("--conns", client.conns), Kind.LASSO: ("--lassoes", client.lassoes)}
    for kind, (flag, count) in pools.items():
        _require(0 <= count <= _MAX_UINT16, flag, count, f"0 to {_MAX_UINT16}, for example 4")
        if kind in MODES[client.dup].pools:
            _require(count > 0, flag, count, f"1 to {_MAX_UINT16}; --dup {client.dup} needs at least one")
            _require(
                client.burst == 0 or count <= client.burst <= _MAX_UINT16,
                "--burst",
                client.burst,
                f"0 (a fixed pool), or from {flag} ({count}) to {_MAX_UINT16}",
            )


def _require(holds: bool, flag: str, value: object, form: str) -> None:
    if not holds:
        raise _wrong(flag, str(value), form)


def _wrong(flag: str, value: str, form: str) -> ConfigError:
    return ConfigError(f"{flag} {value!r}: give {form}")


def _is_ip(host: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(host).version == version
    except ValueError:
        return False


def _is_name(host: str) -> bool:
    """A host name as in RFC 1123, underscores allowed; all digits and dots is a mistyped IPv4 address instead."""
    labels = host.split(".")
    return (
        len(host) <= 253
        and not re.fullmatch(r"[0-9.]+", host)
        and all(re.fullmatch(r"[^\W_]([\w-]{0,61}[^\W_])?|_[\w-]{1,62}", label) for label in labels)
    )
