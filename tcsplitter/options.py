"""What the user asked for: parsed, checked, immutable. Times are kept in seconds, sizes in bytes."""

import ipaddress
import math
import re
from dataclasses import dataclass, field

from tcsplitter.errors import ConfigError

MAX_PAYLOAD = 1_048_576  # bytes: PROTOCOL.md section 3 leaves room for this much data and its frames in one shot
_MAX_UINT16 = 65_535  # reuse, conns and burst are two bytes each in the request (PROTOCOL.md section 2)
_ADDRESS_FORM = "HOST:PORT or [IPv6]:PORT, for example 192.0.2.7:443 or [2001:db8::7]:443"


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address. Port 0 lets the kernel choose, where an end listens."""

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
class ClientOptions:
    """The client end. ConfigError if the values do not go together."""

    r_fling: Address  # where the server end listens
    keys: dict[str, bytes] = field(repr=False)  # exactly one: name and 32 bytes
    listen: Address = Address("127.0.0.1", 6000)  # where local programs connect
    size: int = 10_000  # bytes of stream data in a payload
    reuse: int = 1  # data shots per connection and direction; 0: no limit
    conns: int = 4  # connections kept open, dialled ahead
    burst: int = 1024  # connections to which the pool may grow; 0: it does not grow
    idle: float = 25.0  # seconds an unused connection lives
    linger: float = 86_400.0  # seconds without contact after which open streams are given up

    def __post_init__(self) -> None:
        _require(self.r_fling.port != 0, "--rFling", self.r_fling, "a port of 1 to 65535")
        _check_shared(self.size, self.idle, self.linger)
        _require(0 <= self.reuse <= _MAX_UINT16, "--reuse", self.reuse, "0 (no limit) to 65535, for example 1")
        _require(1 <= self.conns <= _MAX_UINT16, "--conns", self.conns, "1 to 65535, for example 4")
        _require(
            self.burst == 0 or self.conns <= self.burst <= _MAX_UINT16,
            "--burst",
            self.burst,
            f"0 (a fixed pool), or from --conns ({self.conns}) to 65535",
        )
        if len(self.keys) != 1:
            names = ", ".join(self.keys) or "none"
            raise ConfigError(
                f"--key-file: a client uses exactly one key, these were given: {names}. Give it a file with only its own line."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """The server end. ConfigError if the values do not go together. Pools and reuse are stated by the client."""

    l_fling: Address  # where client ends connect
    keys: dict[str, bytes] = field(repr=False)  # at least one: name and 32 bytes, one per client
    forward: Address = Address("127.0.0.1", 6003)  # the service
    size: int = 10_000  # bytes of stream data in a payload
    idle: float = 25.0  # seconds an unused connection lives at the client; here twice as long
    linger: float = 86_400.0  # seconds without contact after which open streams are given up

    def __post_init__(self) -> None:
        _require(self.forward.port != 0, "--forward", self.forward, "a port of 1 to 65535")
        _check_shared(self.size, self.idle, self.linger)
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


def parse_frags(flag: str, text: str) -> int:
    """SIZE or SIZE:0 in bytes. An MTU other than 0 is refused: segment sizes are not set in this version."""
    match = re.fullmatch(r"([0-9]{1,7})(:0)?", text)
    if not match:
        raise _wrong(flag, text, "SIZE or SIZE:0 with SIZE in bytes, for example 10000")
    return int(match[1])


def parse_milliseconds(flag: str, text: str) -> float:
    """Milliseconds, fractions accepted. Returns seconds."""
    return _parse_number(flag, text, "milliseconds above 0, for example 25000 or 0.5") / 1000


def parse_seconds(flag: str, text: str) -> float:
    """Seconds, fractions accepted."""
    return _parse_number(flag, text, "seconds above 0, for example 86400")


def parse_count(flag: str, text: str) -> int:
    """A whole number."""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise _wrong(flag, text, "a whole number, for example 4")
    return int(text)


def _parse_number(flag: str, text: str, form: str) -> float:
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?|\.[0-9]{1,9}", text):
        raise _wrong(flag, text, form)
    return float(text)


def _check_shared(size: int, idle: float, linger: float) -> None:
    _require(1 <= size <= MAX_PAYLOAD, "--frags", size, f"a SIZE of 1 to {MAX_PAYLOAD} bytes, for example 10000")
    _require(0 < idle < math.inf, "--idle", f"{idle * 1000:g}", "milliseconds above 0, for example 25000")
    _require(0 < linger < math.inf, "--linger", f"{linger:g}", "seconds above 0, for example 86400")


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
