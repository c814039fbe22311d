"""options.py: what is accepted comes back as it was meant; what is not names its flag, its value and the right form."""

import ipaddress
import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcsplitter import options
from tcsplitter.errors import ConfigError
from tcsplitter.options import Address, ClientOptions, ServerOptions

_KEY = {"laptop": b"k" * 32}
_SOMEWHERE = Address("192.0.2.7", 443)

_names = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{2,5})?", fullmatch=True)
_hosts = st.one_of(_names, st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str))


@given(_hosts, st.integers(0, 65_535))
def test_an_address_survives_its_text(host: str, port: int) -> None:
    address = Address(host, port)
    assert options.parse_address("--listen", str(address)) == address


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_config_error_that_names_flag_and_value(text: str) -> None:
    try:
        address = options.parse_address("--listen", text)
    except ConfigError as error:
        assert str(error).startswith(f"--listen {text!r}: give ")
        assert "192.0.2.7:443" in str(error)
    else:
        assert address is None or str(address) == text or int(text.rpartition(":")[2]) == address.port


@given(st.integers(1, 10**11))
def test_milliseconds_become_seconds(milliseconds: int) -> None:
    assert options.parse_milliseconds("--idle", str(milliseconds)) == milliseconds / 1000
    assert options.parse_seconds("--linger", str(milliseconds)) == milliseconds


def test_fractions_of_milliseconds_are_kept() -> None:
    assert options.parse_milliseconds("--idle", "0.25") == 0.00025
    assert options.parse_milliseconds("--idle", ".5") == 0.0005


def test_zero_means_not_used() -> None:
    assert options.parse_address("--rFling", "0") is None


@pytest.mark.parametrize(
    "text",
    ["", "localhost", ":6000", "::1:6000", "[::1]", "[::1:6000", "[1.2.3.4]:1", "1.2.3:4", "1.2.3.456:1", "a..b:1", "a b:1"]
    + ["h:-1", "h:+1", "h:65536", "h:1e3", "h:٣", "h:", "h:1 ", "-h:1", "00"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--forward .*HOST:PORT"):
        options.parse_address("--forward", text)


def test_a_needed_address_cannot_be_unused() -> None:
    assert options.parse_needed_address("--listen", "[::1]:6000") == Address("::1", 6000)
    with pytest.raises(ConfigError, match="--listen '0'"):
        options.parse_needed_address("--listen", "0")


@pytest.mark.parametrize("text", ["10000", "10000:0"])
def test_frags(text: str) -> None:
    assert options.parse_frags("--frags", text) == 10_000


@pytest.mark.parametrize(
    ("parse", "text"),
    [(options.parse_frags, text) for text in ("", "x", "-1", "10:", "10:1400", "10:0:0", "1e4", "10000000000")]
    + [(options.parse_milliseconds, text) for text in ("", "inf", "nan", "-1", "1e3", "1.", "5s", "1,5")]
    + [(options.parse_seconds, text) for text in ("", "inf", "-0.5")]
    + [(options.parse_count, text) for text in ("", "1.0", "-1", "+1", "٣", "9" * 10)],
)
def test_malformed_numbers_are_refused_with_an_example(parse: Callable[[str, str], float], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse("--flag", text)
    assert str(caught.value).startswith(f"--flag {text!r}: give ")
    assert "for example" in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "LocalHost"])
def test_loopback(host: str) -> None:
    assert Address(host, 1).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "localhost.example.org", "128.0.0.1"])
def test_not_loopback(host: str) -> None:
    assert not Address(host, 1).is_loopback


@given(st.ip_addresses())
def test_loopback_is_what_the_standard_library_says(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert Address(str(address), 1).is_loopback == address.is_loopback


def test_the_defaults() -> None:
    client = ClientOptions(r_fling=_SOMEWHERE, keys=_KEY)
    assert (str(client.listen), client.size, client.reuse, client.conns, client.burst) == ("127.0.0.1:6000", 10_000, 1, 4, 1024)
    assert (client.idle, client.linger) == (25.0, 86_400.0)
    server = ServerOptions(l_fling=_SOMEWHERE, keys=_KEY)
    assert (str(server.forward), server.size, server.idle, server.linger) == ("127.0.0.1:6003", 10_000, 25.0, 86_400.0)


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("size", [1, 1_048_576], [0, 1_048_577]),
        ("reuse", [0, 1, 65_535], [-1, 65_536]),
        ("conns", [1, 1024], [0, -1]),
        ("burst", [0, 4, 65_535], [-1, 1, 3, 65_536]),
        ("idle", [0.001, 1e6], [0.0, math.inf, math.nan]),
        ("linger", [0.5, 1e9], [0.0, math.inf, math.nan]),
    ],
)
def test_limits_of_the_client(field: str, good: list[float], bad: list[float]) -> None:
    flag = {"size": "--frags"}.get(field, f"--{field}")
    for value in good:
        assert getattr(_client(**{field: value}), field) == value
    for value in bad:
        with pytest.raises(ConfigError, match=flag):
            _client(**{field: value})


@pytest.mark.parametrize(("field", "flag"), [("size", "--frags"), ("idle", "--idle"), ("linger", "--linger")])
def test_limits_of_the_server(field: str, flag: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        _server(**{field: 0})


def test_a_fixed_pool_may_be_larger_than_the_default_burst() -> None:
    assert _client(conns=2000, burst=0).conns == 2000
    with pytest.raises(ConfigError, match=r"--burst '1024'.*--conns \(2000\)"):
        _client(conns=2000)


def test_port_0_is_for_listening_only() -> None:
    anywhere = Address("127.0.0.1", 0)
    assert _client(listen=anywhere).listen == anywhere
    assert _server(l_fling=anywhere).l_fling == anywhere
    with pytest.raises(ConfigError, match="--rFling"):
        _client(r_fling=anywhere)
    with pytest.raises(ConfigError, match="--forward"):
        _server(forward=anywhere)


def test_a_client_has_exactly_one_key() -> None:
    with pytest.raises(ConfigError, match="--key-file.*laptop, phone"):
        _client(keys=_KEY | {"phone": b"p" * 32})
    with pytest.raises(ConfigError, match="--key-file"):
        _client(keys={})
    with pytest.raises(ConfigError, match="--key-file"):
        _server(keys={})
    assert len(_server(keys=_KEY | {"phone": b"p" * 32}).keys) == 2


def test_options_do_not_change_and_do_not_print_keys() -> None:
    client = _client()
    with pytest.raises(FrozenInstanceError):
        client.size = 5  # type: ignore[misc]
    assert "kkkk" not in repr(client) + repr(_server())


def _client(**changed: Any) -> ClientOptions:
    fields: dict[str, Any] = {"r_fling": _SOMEWHERE, "keys": _KEY}
    return ClientOptions(**(fields | changed))


def _server(**changed: Any) -> ServerOptions:
    fields: dict[str, Any] = {"l_fling": _SOMEWHERE, "keys": _KEY}
    return ServerOptions(**(fields | changed))
