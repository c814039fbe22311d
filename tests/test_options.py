"""options.py: what is accepted comes back as it was meant; what is not names its flag, its value and the right form."""

import ipaddress
import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tcsplitter import _core, options
from tcsplitter.errors import ConfigError
from tcsplitter.modes import MODES
from tcsplitter.options import Address, ClientOptions, Fec, Playout, Retries, ServerOptions

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


@given(st.integers(0, 10**11))
def test_a_rate_is_given_in_megabits(rate: int) -> None:
    assert options.parse_rate("--rate", str(rate)) == rate * 125_000
    assert options.parse_rate("--rate", f"{rate}.5") == rate * 125_000 + 62_500


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


@given(st.integers(0, 10**7 - 1), st.integers(0, 99_999))
def test_frags(size: int, mtu: int) -> None:
    assert options.parse_frags("--frags", f"{size}:{mtu}") == (size, mtu)
    assert options.parse_frags("--frags", f"{size}") == (size, 0)


def test_a_payload_size_may_be_left_to_the_line() -> None:
    assert options.parse_frags("--frags", "auto") == (None, 0)


def test_the_shortest_beat_is_what_the_core_takes() -> None:
    beat = options.parse_buffer("--buffer", "0.001").beat
    assert beat == options.MIN_BEAT
    _core.Playout(beat, 0, False, 0.0)
    with pytest.raises(ValueError, match="no beat"):
        _core.Playout(math.nextafter(beat, 0.0), 0, False, 0.0)


@given(st.integers(0, 10**11), st.integers(0, 99_999))
def test_a_buffer_is_a_beat_and_the_payloads_of_a_beat(milliseconds: int, payloads: int) -> None:
    assert options.parse_buffer("--buffer", f"{milliseconds}:{payloads}") == Playout(beat=milliseconds / 1000, merge=payloads)
    assert options.parse_buffer("--buffer", f"{milliseconds}.5") == Playout(beat=(milliseconds + 0.5) / 1000)


@given(st.booleans(), st.integers(-1, 99_999))
def test_retries(resend: bool, skip: int) -> None:
    assert options.parse_retries("--retries", f"{resend:d}:{skip}") == Retries(resend=resend, skip=skip)


def test_tock_may_be_left_to_the_pacer() -> None:
    assert options.parse_tock("--tock", "auto") == options.parse_tock("--tock", "0") == 0.0
    assert options.parse_tock("--tock", "83") == 0.083


@given(st.integers(0, 300), st.integers(0, 300))
@example(255, 1)
@example(1, 255)
@example(255, 2)
def test_parity_needs_payloads_and_fits_its_code(data: int, parity: int) -> None:
    fec = Fec(data, parity)
    assert str(fec) == f"{data}:{parity}"
    if data == parity == 0 or (data and parity and data + parity <= 256):
        assert options.parse_fec("--fec", str(fec)) == fec
        assert fec.used == (data > 0)
    else:
        with pytest.raises(ConfigError, match=f"^--fec '{data}:{parity}': give D:P"):
            options.parse_fec("--fec", str(fec))


def test_parity_may_be_off_or_left_to_the_line() -> None:
    off = options.parse_fec("--fec", "0")
    assert (off, off.used) == (Fec(), False)
    auto = options.parse_fec("--fec", "auto")
    assert (auto, str(auto), auto.used) == (Fec(auto=True), "auto", True)


def test_a_switch_is_on_or_off() -> None:
    assert [options.parse_switch("--hedge", text) for text in ("on", "off")] == [True, False]
    for text in ("", "On", "yes", "1", "true", "on "):
        with pytest.raises(ConfigError, match=f"^--hedge '{text}': give on or off$"):
            options.parse_switch("--hedge", text)


def test_names_are_those_that_exist() -> None:
    for name in ("fling", "lasso", "both", "none"):
        assert options.parse_dup("--dup", name) == name
    with pytest.raises(ConfigError, match="--dup 'flings': give one of fling, lasso, both, none"):
        options.parse_dup("--dup", "flings")
    assert [options.parse_protocol("--protocol", name) for name in ("tcp", "udp")] == ["tcp", "udp"]
    with pytest.raises(ConfigError, match="--protocol 'TCP': give tcp or udp"):
        options.parse_protocol("--protocol", "TCP")


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (options.parse_frags, text)
        for text in ("", "x", "-1", "10:", ":1400", "auto:1400", "10:0:0", "10:-1", "1e4", "10000000000")
    ]
    + [(options.parse_milliseconds, text) for text in ("", "inf", "nan", "-1", "1e3", "1.", "5s", "1,5")]
    + [(options.parse_rate, text) for text in ("", "inf", "-1", "1e3", "8M", "8 ", "auto")]
    + [(options.parse_tock, text) for text in ("", "Auto", "-1", "automatic", "1:0")]
    + [(options.parse_buffer, text) for text in ("", "x", "-1:0", "83:", ":0", "83:-1", "83:1.5", "83:0:0", "auto")]
    + [(options.parse_retries, text) for text in ("", "x", "1", "2:0", "-1:0", "1:-2", "01:0", "1:", "1:0.5", "1:0:0")]
    + [(options.parse_fec, text) for text in ("", "x", "4", "-1:1", "1:2:3", "10:3.5", "00", "Auto", "auto:1", "10:0256", "٣:1")]
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
    assert (str(client.listen), client.dup, client.reuse) == ("127.0.0.1:6000", "fling", 1)
    assert (client.conns, client.lassoes, client.burst) == (4, 0, 1024)
    assert (client.r_lasso, client.r_sync, client.r_fling_r) == (None, None, None)
    server = ServerOptions(l_fling=_SOMEWHERE, keys=_KEY)
    assert (str(server.forward), server.dup) == ("127.0.0.1:6003", None)
    assert (server.l_lasso, server.l_sync, server.l_fling_r) == (None, None, None)
    for end in (client, server):
        assert (end.tick, end.tock, end.size, end.mtu) == (0.0, 0.0, None, 0)
        assert end.playout == Playout(beat=0.0, merge=0, catch_up=False, after=0.0)
        assert end.retries == Retries(resend=True, skip=-1)
        assert (end.rate, end.polite) == (0.0, False)
        assert (end.fec, end.hedge) == (Fec(data=0, parity=0, auto=False), True)
        assert (end.protocol, end.deadline, end.flow_idle, end.idle, end.linger) == ("tcp", 0.0, 60.0, 25.0, 86_400.0)


@pytest.mark.parametrize(
    ("flag", "good", "bad"),
    [
        ("--tick", [{"tick": 0.0}, {"tick": 0.0005}], [{"tick": -0.001}, {"tick": math.inf}, {"tick": math.nan}]),
        ("--tock", [{"tock": 0.0}, {"tock": 1e6}], [{"tock": -0.001}, {"tock": math.nan}]),
        ("--rate", [{"rate": 0.0}, {"rate": 125_000.0}], [{"rate": -1.0}, {"rate": math.inf}, {"rate": math.nan}]),
        ("--deadline", [{"deadline": 0.0}, {"deadline": 0.25}], [{"deadline": -1.0}, {"deadline": math.inf}]),
        ("--after", [{"playout": Playout(after=2.0)}], [{"playout": Playout(after=-1.0)}, {"playout": Playout(after=math.nan)}]),
        (
            "--buffer",
            [{"playout": Playout(beat=1e-6, merge=65_535)}, {"playout": Playout(merge=2, catch_up=True)}],
            [{"playout": Playout(beat=beat)} for beat in (-0.001, 0.9e-6, math.inf, math.nan)]
            + [{"playout": Playout(merge=merge)} for merge in (-1, 65_536)],
        ),
        (
            "--retries",
            [{"retries": Retries(resend=False, skip=skip)} for skip in (-1, 0, 65_534)],
            [{"retries": Retries(skip=skip)} for skip in (-2, 65_535)],
        ),
        (
            "--fec",
            [{"fec": fec} for fec in (Fec(), Fec(auto=True), Fec(1, 1), Fec(255, 1), Fec(1, 255))],
            [{"fec": Fec(*numbers)} for numbers in ((1, 0), (0, 1), (-1, 1), (1, -1), (255, 2), (1, 256), (10, 3, True))],
        ),
        (
            "--frags",
            [{"size": 1}, {"size": 1_048_576}, {"mtu": 0}, {"mtu": 148}, {"mtu": 32_807}, {"size": 1, "mtu": 1400}],
            [{"size": 0}, {"size": 1_048_577}, {"mtu": -1}, {"mtu": 1}, {"mtu": 147}, {"mtu": 32_808}],
        ),
        ("--protocol", [{"protocol": "udp"}], [{"protocol": "UDP"}, {"protocol": ""}]),
        ("--flow-idle", [{"flow_idle": 0.001}], [{"flow_idle": 0.0}, {"flow_idle": math.inf}, {"flow_idle": math.nan}]),
        ("--idle", [{"idle": 0.001}, {"idle": 1e6}], [{"idle": 0.0}, {"idle": math.inf}, {"idle": math.nan}]),
        ("--linger", [{"linger": 0.5}, {"linger": 1e9}], [{"linger": 0.0}, {"linger": math.inf}, {"linger": math.nan}]),
    ],
)
def test_limits_of_both_ends(flag: str, good: list[dict[str, Any]], bad: list[dict[str, Any]]) -> None:
    for end in (_client, _server):
        for values in good:
            made = end(**values)
            assert {name: getattr(made, name) for name in values} == values
        for values in bad:
            with pytest.raises(ConfigError, match=f"^{flag} '.*: give "):
                end(**values)


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("reuse", [0, 1, 65_535], [-1, 65_536]),
        ("conns", [1, 1024], [0, -1]),
        ("lassoes", [0, 1, 65_535], [-1, 65_536]),
        ("burst", [0, 4, 65_535], [-1, 1, 3, 65_536]),
        ("dup", ["fling"], ["", "FLING", "either"]),
    ],
)
def test_limits_of_the_client(field: str, good: list[object], bad: list[object]) -> None:
    for value in good:
        assert getattr(_client(**{field: value}), field) == value
    for value in bad:
        with pytest.raises(ConfigError, match=f"--{field} '{value}'"):
            _client(**{field: value})


def test_a_server_refuses_all_modes_but_one_or_none() -> None:
    assert [_server(dup=name).dup for name in (*MODES, None)] == [*MODES, None]
    with pytest.raises(ConfigError, match="--dup 'some': give one of fling, "):
        _server(dup="some")


@pytest.mark.parametrize(
    ("dup", "needed", "not_needed"),
    [
        ("fling", {"conns"}, {"lassoes"}),
        ("lasso", {"lassoes"}, {"conns"}),
        ("both", {"conns", "lassoes"}, set()),
        ("none", {"conns", "lassoes"}, set()),
    ],
)
def test_pools_that_a_mode_dials_have_connections(dup: str, needed: set[str], not_needed: set[str]) -> None:
    pools = dict.fromkeys(needed | not_needed, 8)
    assert _client(dup=dup, **pools).dup == dup
    for pool in needed:
        with pytest.raises(ConfigError, match=f"--{pool} '0'.*--dup {dup} needs at least one"):
            _client(dup=dup, **pools | {pool: 0})
        with pytest.raises(ConfigError, match=rf"--burst '8'.*--{pool} \(9\)"):
            _client(dup=dup, burst=8, **pools | {pool: 9})
    for pool in not_needed:
        assert _client(dup=dup, burst=8, **pools | {pool: 9}).burst == 8
        assert _client(dup=dup, **pools | {pool: 0}).dup == dup


def test_a_fixed_pool_may_be_larger_than_the_default_burst() -> None:
    assert _client(conns=2000, burst=0).conns == 2000
    with pytest.raises(ConfigError, match=r"--burst '1024'.*--conns \(2000\)"):
        _client(conns=2000)


def test_port_0_is_for_listening_only() -> None:
    anywhere = Address("127.0.0.1", 0)
    assert _client(listen=anywhere).listen == anywhere
    assert _server(l_fling=anywhere).l_fling == anywhere
    assert _server(l_lasso=anywhere, l_sync=anywhere, l_fling_r=anywhere).l_sync == anywhere
    for name, flag in (("r_fling", "--rFling"), ("r_lasso", "--rLasso"), ("r_sync", "--rSync"), ("r_fling_r", "--rFlingR")):
        with pytest.raises(ConfigError, match=f"{flag} '127.0.0.1:0'"):
            _client(**{name: anywhere})
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
