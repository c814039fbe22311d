"""cli.py: every command line becomes the options that were meant, or exit code 2 and a line that names the flag."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

import tcsplitter.client
import tcsplitter.server
from tcsplitter import keys
from tcsplitter.cli import main
from tcsplitter.errors import TcsplitterError
from tcsplitter.options import Address, ClientOptions, Fec, Playout, Retries, ServerOptions
from tcsplitter.stats import Counters

_KEY = bytes(range(32))
_KEY_TEXT = keys.generate_key(_KEY)
_COMMANDS = ("server", "client", "connect", "keygen", "demo")


class _Started:
    """Stands in for the programs: keeps the options that would have been run."""

    def __init__(self) -> None:
        self.options: list[tuple[str, Any]] = []
        self.exit_code = 0
        self.error: BaseException | None = None

    def run(self, what: str, options: Any) -> int:
        self.options.append((what, options))
        if self.error:
            raise self.error
        return self.exit_code


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> _Started:
    started = _Started()

    def program(what: str) -> type:
        class Program:
            def __init__(self, options: Any) -> None:
                self._options = options
                self.end = SimpleNamespace(session=SimpleNamespace(counters=Counters()))

            def run(self) -> int:
                return started.run(what, self._options)

        return Program

    monkeypatch.delenv(keys.KEY_VARIABLE, raising=False)
    monkeypatch.setattr(tcsplitter.server, "ServerProgram", program("server"))
    monkeypatch.setattr(tcsplitter.client, "ClientProgram", program("client"))
    monkeypatch.setattr(tcsplitter.client, "run_connect", lambda options: started.run("connect", options))
    return started


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "a.key"
    keys.write_key_file(str(path), _KEY_TEXT)
    return str(path)


def _run(line: str, *more: str) -> Result:
    return CliRunner().invoke(main, [*line.split(), *more])


_KNOBS = (
    "--tick .5 --tock 83 --buffer 40:2 --catch-up --after 1500 --rate 2.5 --polite --frags 1400:1308 --retries 0:100"
    " --fec 10:3 --hedge off --deadline 250 --protocol udp --flow-idle 30000 --idle 1500 --linger 60"
)
_SET_KNOBS: dict[str, Any] = {
    "tick": 0.0005,
    "tock": 0.083,
    "playout": Playout(beat=0.04, merge=2, catch_up=True, after=1.5),
    "rate": 312_500.0,
    "polite": True,
    "size": 1400,
    "mtu": 1308,
    "retries": Retries(resend=False, skip=100),
    "fec": Fec(10, 3),
    "hedge": False,
    "deadline": 0.25,
    "protocol": "udp",
    "flow_idle": 30.0,
    "idle": 1.5,
    "linger": 60.0,
}


def test_a_server_with_every_flag(started: _Started, key_file: str) -> None:
    addresses = "--lFling 0.0.0.0:4430 --lLasso 0.0.0.0:4431 --lSync [::]:4432 --lFlingR 0.0.0.0:4433 --forward [::1]:22"
    assert _run(f"server {addresses} {_KNOBS} --dup both --verbose --key-file", key_file).exit_code == 0
    assert started.options == [
        (
            "server",
            ServerOptions(
                l_fling=Address("0.0.0.0", 4430),
                l_lasso=Address("0.0.0.0", 4431),
                l_sync=Address("::", 4432),
                l_fling_r=Address("0.0.0.0", 4433),
                forward=Address("::1", 22),
                keys={keys.DEFAULT_NAME: _KEY},
                dup="both",
                **_SET_KNOBS,
            ),
        )
    ]


@pytest.mark.parametrize("command", ["client", "connect"])
def test_a_client_with_every_flag(started: _Started, key_file: str, command: str) -> None:
    addresses = "--rFling example.org:4430 --rLasso example.org:4431 --rSync [::1]:4432 --rFlingR example.org:4433"
    pools = "--dup none --conns 8 --lassoes 9 --burst 0 --reuse 5"
    knobs, set_knobs = _KNOBS + " --listen 127.0.0.1:1", _SET_KNOBS | {"listen": Address("127.0.0.1", 1)}
    if command == "connect":
        knobs = _KNOBS.replace("--deadline 250", "").replace("--protocol udp --flow-idle 30000", "--protocol tcp")
        set_knobs = {name: _SET_KNOBS[name] for name in _SET_KNOBS.keys() - {"deadline", "flow_idle", "protocol"}}
    assert _run(f"{command} {addresses} {pools} {knobs} --verbose --key-file", key_file).exit_code == 0
    [(what, options)] = started.options
    assert what == command
    assert options == ClientOptions(
        r_fling=Address("example.org", 4430),
        r_lasso=Address("example.org", 4431),
        r_sync=Address("::1", 4432),
        r_fling_r=Address("example.org", 4433),
        keys={keys.DEFAULT_NAME: _KEY},
        dup="none",
        reuse=5,
        conns=8,
        lassoes=9,
        burst=0,
        **set_knobs,
    )


def test_defaults_are_those_of_the_options(started: _Started) -> None:
    local = Address("127.0.0.1", 4430)
    nothing = {keys.DEFAULT_NAME: keys.UNAUTHENTICATED_PSK}
    assert _run("server --lFling 127.0.0.1:4430").exit_code == 0
    assert _run("client --rFling 127.0.0.1:4430").exit_code == 0
    assert started.options == [
        ("server", ServerOptions(l_fling=local, keys=nothing)),
        ("client", ClientOptions(r_fling=local, keys=nothing)),
    ]


@pytest.mark.parametrize(
    ("line", "role"),
    [
        ("--lFling localhost:1", "server"),
        ("--lFling=localhost:1", "server"),
        ("--forward localhost:2 --lFling localhost:1 --rFling 0", "server"),
        ("--rFling localhost:1", "client"),
        ("--listen [::1]:0 --lFling=0 --conns 2 --rFling localhost:1", "client"),
    ],
)
def test_without_a_command_the_fling_address_tells_the_role(started: _Started, line: str, role: str) -> None:
    result = _run(line)
    assert (result.exit_code, [what for what, _ in started.options]) == (0, [role]), result.output


_ORIGINAL_SERVER = (
    "--frags 1292:1308 --conns 12 --buffer 83:0 --tick 41 --tock 83 --listen localhost:6001 --forward 127.0.0.1:22 "
    "--lFling localhost:10900 --lSync localhost:30902"
)
_ORIGINAL_CLIENT = (
    "--frags 1292:1308 --conns 12 --buffer 83:0 --tick 41 --tock 83 --listen localhost:6000 "
    "--rFling 127.0.0.1:10900 --rSync 127.0.0.1:30902"
)
_ORIGINAL_SERVER_IN_FULL = (
    "--protocol tcp --dup fling --fec 0 --retries 0:10000 --tick 50 --tock 250 --buffer 0:0 --after 0 --conns 1 "
    "--frags 10000:1308 --listen 127.0.0.1:6001 --forward 127.0.0.1:6003 --lFling 127.0.0.1:6091 --rFling 0 "
    "--lSync 127.0.0.1:5998 --lLasso 127.0.0.1:6899 --rLasso 0 --rFlingR 0 --lFlingR 127.0.0.1:6989"
)
_ORIGINAL_CLIENT_IN_FULL = (
    "--protocol tcp --dup fling --fec 0 --retries 0:1000 --tick 50 --tock 250 --buffer 0:0 --conns 40 --lassoes 0 "
    "--rFling 127.0.0.1:6091 --rSync 127.0.0.1:5998 --lLasso 0 --rLasso 127.0.0.1:6899 --lFlingR 0 --rFlingR 127.0.0.1:6989"
)


def _local(port: int) -> Address:
    return Address("127.0.0.1", port)


@pytest.mark.parametrize("with_key", [True, False])
@pytest.mark.parametrize(
    ("line", "kind", "fields"),
    [
        (
            _ORIGINAL_SERVER,
            ServerOptions,
            {"l_fling": Address("localhost", 10_900), "l_sync": Address("localhost", 30_902), "forward": _local(22)}
            | {"size": 1292, "mtu": 1308, "tick": 0.041, "tock": 0.083, "playout": Playout(beat=0.083)},
        ),
        (
            _ORIGINAL_CLIENT,
            ClientOptions,
            {"r_fling": _local(10_900), "r_sync": _local(30_902), "listen": Address("localhost", 6000), "conns": 12}
            | {"size": 1292, "mtu": 1308, "tick": 0.041, "tock": 0.083, "playout": Playout(beat=0.083)},
        ),
        (
            _ORIGINAL_SERVER_IN_FULL,
            ServerOptions,
            {"l_fling": _local(6091), "l_lasso": _local(6899), "l_sync": _local(5998), "l_fling_r": _local(6989), "dup": "fling"}
            | {"size": 10_000, "mtu": 1308, "tick": 0.05, "tock": 0.25, "retries": Retries(resend=False, skip=10_000)},
        ),
        (
            _ORIGINAL_CLIENT_IN_FULL,
            ClientOptions,
            {"r_fling": _local(6091), "r_lasso": _local(6899), "r_sync": _local(5998), "r_fling_r": _local(6989), "conns": 40}
            | {"tick": 0.05, "tock": 0.25, "retries": Retries(resend=False, skip=1000)},
        ),
    ],
)
def test_the_command_lines_of_the_original_still_work(
    started: _Started, monkeypatch: pytest.MonkeyPatch, line: str, kind: type, fields: dict[str, Any], with_key: bool
) -> None:
    if with_key:
        monkeypatch.setenv(keys.KEY_VARIABLE, _KEY_TEXT)
    result = _run(line) if with_key else _run(line, "--insecure")
    assert result.exit_code == 0, result.stderr
    key = _KEY if with_key else keys.UNAUTHENTICATED_PSK
    assert [asked for _, asked in started.options] == [kind(keys={keys.DEFAULT_NAME: key}, **fields)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (_ORIGINAL_SERVER, "server: --conns, --listen: the client"),
        (
            "server --lFling localhost:1 --listen 0 --reuse 2 --lassoes 3 --burst=9",
            "server: --burst, --lassoes, --listen, --reuse: the client",
        ),
        ("client --rFling localhost:1 --forward localhost:2", "client: --forward: the server"),
    ],
)
def test_what_is_the_other_ends_affair_is_said_once(started: _Started, line: str, said: str) -> None:
    result = _run(line)
    assert (result.exit_code, len(started.options)) == (0, 1)
    assert result.stderr == f"tcsplitter {said} end's affair; not used here\n"


@pytest.mark.parametrize(("line", "other"), [("server --lFling localhost:1", "--r"), ("client --rFling localhost:1", "--l")])
def test_addresses_of_the_other_side_can_be_0_only(started: _Started, line: str, other: str) -> None:
    own = {"--r": "--l", "--l": "--r"}[other]
    for name in ("Fling", "Lasso", "Sync", "FlingR"):
        assert _run(f"{line} {other}{name} 0").exit_code == 0
        refused = _run(f"{line} {other}{name} localhost:2")
        assert refused.exit_code == 2
        assert f"{other}{name} 'localhost:2'" in refused.stderr
        assert f"{own}{name}, " in refused.stderr
    assert len(started.options) == 4


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("--lFling localhost:1 --rFling localhost:2", ["two roles at once", "--lFling", "--rFling"]),
        ("server --lFling localhost:1 --rFling localhost:2", ["--lFling", "--rFling"]),
        ("--rFling localhost:1 --rFling=localhost:2", ["--rFling", "more than once"]),
        ("--listen localhost:1", ["--lFling", "--rFling"]),
        ("--lFling 0 --rFling 0", ["--lFling", "--rFling"]),
        ("--rFling", ["--rFling", "argument"]),
        ("server", ["--lFling"]),
        ("client", ["--rFling"]),
        ("connect", ["--rFling"]),
        ("server --lFling 0", ["--lFling", "HOST:PORT"]),
        ("server --lFling localhost", ["--lFling", "'localhost'", "HOST:PORT"]),
        ("server --lFling localhost:1 --forward localhost:0", ["--forward", "localhost:0"]),
        ("server --lFling localhost:1 --conns x", ["--conns", "'x'"]),
        ("server --lFling localhost:1 --dup all", ["--dup", "'all'", "fling, lasso, both, none"]),
        ("client --rFling localhost:1 --conns x", ["--conns", "'x'"]),
        ("client --rFling localhost:1 --conns 0", ["--conns", "'0'", "--dup fling needs at least one"]),
        ("client --rFling localhost:1 --dup lasso", ["--lassoes", "'0'", "--dup lasso needs at least one"]),
        ("client --rFling localhost:1 --frags 0", ["--frags", "'0'", "SIZE:MTU"]),
        ("client --rFling localhost:1 --frags 10000:147", ["--frags", "'10000:147'", "148 to 32807"]),
        ("client --rFling localhost:1 --tick -1", ["--tick", "'-1'", "milliseconds"]),
        ("client --rFling localhost:1 --tock -1", ["--tock", "'-1'", "auto"]),
        ("client --rFling localhost:1 --buffer -1:0", ["--buffer", "'-1:0'", "T:N"]),
        ("client --rFling localhost:1 --rate -1", ["--rate", "'-1'", "Mbit/s"]),
        ("server --lFling localhost:1 --rate 8M", ["--rate '8M': give Mbit/s"]),
        ("connect --rFling localhost:1 --polite=1", ["--polite"]),
        ("client --rFling localhost:1 --retries 2:0", ["--retries", "'2:0'", "R:SKIP"]),
        ("client --rFling localhost:1 --fec x", ["--fec 'x': give D:P", "auto"]),
        ("server --lFling localhost:1 --fec 10:0", ["--fec '10:0': give D:P", "auto"]),
        ("connect --rFling localhost:1 --fec 250:7", ["--fec '250:7': give D:P", "256 together"]),
        ("client --rFling localhost:1 --hedge yes", ["--hedge 'yes': give on or off"]),
        ("server --lFling localhost:1 --hedge", ["--hedge", "argument"]),
        ("client --rFling localhost:1 --protocol sctp", ["--protocol", "'sctp'", "tcp or udp"]),
        ("connect --rFling localhost:1 --protocol udp", ["--protocol", "'udp'", "connect carries one TCP stream"]),
        ("connect --rFling localhost:1 --listen localhost:2", ["--listen"]),
        ("connect --rFling localhost:1 --deadline 5", ["--deadline"]),
        ("client --rFling localhost:1 surplus", ["surplus"]),
        ("client --rFling localhost:1 --key-file", ["--key-file"]),
        ("client --rFling localhost:1 --key-file /nowhere/a.key", ["/nowhere/a.key", "keygen"]),
        ("nonsense", ["nonsense"]),
        ("keygen a b", ["b"]),
    ],
)
def test_what_is_wrong_exits_2_and_is_named(started: _Started, line: str, named: list[str]) -> None:
    result = _run(line)
    assert result.exit_code == 2
    assert not started.options
    for part in named:
        assert part in result.stderr


@pytest.mark.parametrize("line", ["server --lFling 0.0.0.0:1", "client --rFling example.org:1", "connect --rFling 192.0.2.1:1"])
class TestBeyondLoopback:
    def test_an_end_without_key_does_not_start_and_says_what_to_do(self, started: _Started, line: str) -> None:
        result = _run(line)
        assert result.exit_code == 2
        assert not started.options
        assert line.split()[1] in result.stderr
        assert "tcsplitter keygen FILE" in result.stderr
        assert "--key-file FILE" in result.stderr

    def test_insecure_starts_with_the_key_that_everyone_knows_and_warns(self, started: _Started, line: str) -> None:
        result = _run(line, "--insecure")
        assert result.exit_code == 0
        assert started.options[0][1].keys == {keys.DEFAULT_NAME: keys.UNAUTHENTICATED_PSK}
        assert "--insecure" in result.stderr

    def test_a_key_from_the_environment_is_used(self, started: _Started, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(keys.KEY_VARIABLE, _KEY_TEXT)
        assert _run(line).exit_code == 0
        assert started.options[0][1].keys == {keys.DEFAULT_NAME: _KEY}

    def test_the_key_file_is_preferred(
        self, started: _Started, line: str, key_file: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(keys.KEY_VARIABLE, keys.generate_key(b"o" * 32))
        assert _run(line, "--key-file", key_file).exit_code == 0
        assert started.options[0][1].keys == {keys.DEFAULT_NAME: _KEY}

    def test_a_key_and_insecure_contradict_each_other(
        self, started: _Started, line: str, key_file: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        by_file = _run(line, "--insecure", "--key-file", key_file)
        monkeypatch.setenv(keys.KEY_VARIABLE, _KEY_TEXT)
        by_environment = _run(line, "--insecure")
        assert not started.options
        assert by_file.exit_code == by_environment.exit_code == 2
        assert "--insecure" in by_file.stderr
        assert "--key-file" in by_file.stderr
        assert keys.KEY_VARIABLE in by_environment.stderr

    def test_an_empty_key_in_the_environment_is_no_permission(
        self, started: _Started, line: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(keys.KEY_VARIABLE, "")
        result = _run(line)
        assert result.exit_code == 2
        assert not started.options
        assert keys.KEY_VARIABLE in result.stderr


@pytest.mark.parametrize(
    "line",
    [f"server --lFling localhost:1 --l{name} 0.0.0.0:2" for name in ("Lasso", "Sync", "FlingR")]
    + [f"client --rFling localhost:1 --r{name} example.org:2" for name in ("Lasso", "Sync", "FlingR")]
    + [f"connect --rFling localhost:1 --r{name} [2001:db8::7]:2" for name in ("Lasso", "Sync", "FlingR")],
)
def test_one_address_beyond_loopback_is_enough_to_need_a_key(started: _Started, line: str) -> None:
    flag, address = line.split()[-2:]
    refused = _run(line)
    assert (refused.exit_code, started.options) == (2, [])
    assert f"{flag} {address}: beyond loopback a key is needed" in refused.stderr
    assert _run(line, "--insecure").exit_code == 0


def test_loopback_needs_no_warning(started: _Started) -> None:
    result = _run("server --lFling localhost:1")
    assert (result.exit_code, result.stderr, len(started.options)) == (0, "", 1)


def test_a_file_of_several_keys_is_for_servers(started: _Started, tmp_path: Path) -> None:
    path = tmp_path / "all.keys"
    keys.write_key_file(str(path), f"laptop {_KEY_TEXT}\nphone {keys.generate_key(b'p' * 32)}")
    assert _run("server --lFling 0.0.0.0:1 --key-file", str(path)).exit_code == 0
    assert list(started.options[0][1].keys) == ["laptop", "phone"]
    result = _run("client --rFling example.org:1 --key-file", str(path))
    assert result.exit_code == 2
    assert "--key-file" in result.stderr
    assert "laptop, phone" in result.stderr


def test_errors_while_running_are_one_line_with_their_exit_code(started: _Started) -> None:
    started.error = TcsplitterError("the address is in use")
    result = _run("server --lFling localhost:1")
    assert (result.exit_code, result.stderr) == (1, "tcsplitter: the address is in use\n")


def test_the_exit_code_of_the_program_is_ours(started: _Started) -> None:
    started.exit_code = 1
    assert _run("client --rFling localhost:1").exit_code == 1


def test_ctrl_c_is_quiet(started: _Started) -> None:
    started.error = KeyboardInterrupt()
    result = _run("client --rFling localhost:1")
    assert (result.exit_code, result.output) == (130, "")


def test_keygen_prints_a_new_key_each_time() -> None:
    first, second = _run("keygen"), _run("keygen")
    assert first.exit_code == second.exit_code == 0
    assert len(keys.key_from_environment(first.stdout)) == 32
    assert first.stdout != second.stdout


@pytest.mark.parametrize("arguments", [["keygen"], ["--version"], ["client", "--help"]])
def test_no_room_for_what_is_printed_is_one_line(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # what is buffered is printed once more at the end
    command = [sys.executable, "-m", "tcsplitter", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "tcsplitter: cannot print: No space left on device\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_connect_needs_both_descriptors(closed: str) -> None:
    command = f"exec '{sys.executable}' -m tcsplitter connect --rFling 127.0.0.1:1 {closed}"
    done = subprocess.run(
        ["sh", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("tcsplitter: connect: standard input or output is closed; ")


def test_keygen_writes_a_private_file_and_never_over_another(tmp_path: Path) -> None:
    path = tmp_path / "new.key"
    assert _run("keygen", str(path)).exit_code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    before = keys.load_keys(str(path))
    again = _run("keygen", str(path))
    assert again.exit_code == 2
    assert str(path) in again.stderr
    assert keys.load_keys(str(path)) == before


@pytest.mark.parametrize("command", _COMMANDS)
def test_each_command_has_help_with_an_example(command: str) -> None:
    result = _run(f"{command} --help")
    assert result.exit_code == 0
    assert f"tcsplitter {command}" in result.stdout.partition("Example: ")[2]


def test_help_shows_every_flag_with_its_default() -> None:
    text = " ".join(_run("client --help").stdout.split())
    defaults = "127.0.0.1:6000] 4] 1024] auto] 1:-1] 25000] 60000] 86400]"
    for shown in (
        "[required]",
        "--rFlingR",
        "--key-file",
        "--insecure",
        *(f"default: {default}" for default in defaults.split()),
    ):
        assert shown in text
    assert "127.0.0.1:6003" in _run("server --help").stdout


@pytest.mark.parametrize("line", ["server --lFling localhost:1", "client --rFling localhost:1", "connect --rFling localhost:1"])
def test_parity_may_be_left_to_the_line(started: _Started, line: str) -> None:
    assert _run(f"{line} --fec auto --hedge on").exit_code == 0
    [(_, options)] = started.options
    assert (options.fec, options.hedge) == (Fec(auto=True), True)


@pytest.mark.parametrize("command", ["server", "client", "connect"])
def test_help_shows_the_forms_of_parity_and_hedging(command: str) -> None:
    text = " ".join(_run(f"{command} --help").stdout.split())
    parity, _, hedging = text.partition(" --fec D:P|auto ")[2].partition(" --hedge on|off ")
    assert parity.endswith("[default: 0:0]")
    assert hedging.partition("]")[0].endswith("[default: on")


def test_help_shows_what_an_end_uses_in_sections() -> None:
    server, client, connect = (_run(f"{command} --help").stdout for command in ("server", "client", "connect"))
    for text in (server, client, connect):
        places = [text.index(f"\n{section}:\n") for section in ("Addresses", "Keys", "Pace", "Payloads and connections", "Other")]
        assert places == sorted(places)
    assert "\n  --conns" not in server
    assert "\n  --rFling" not in server
    assert "\n  --lFling" not in client
    assert "\n  --flow-idle" not in connect


def test_help_of_the_program_lists_the_commands() -> None:
    result = _run("--help")
    assert result.exit_code == 0
    for command in _COMMANDS:
        assert f"\n  {command} " in result.stdout
    assert _run("--verbose --help").exit_code == 0


def test_processes_have_the_same_exit_codes() -> None:
    assert _process("--version").stdout == f"tcsplitter {tcsplitter.__version__}\n"
    assert _process("--help").returncode == 0
    wrong = _process("client", "--rFling", "nowhere")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("tcsplitter: --rFling 'nowhere': give HOST:PORT")
    assert "Traceback" not in wrong.stderr


def test_an_address_in_use_is_told_with_its_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for line in (f"--lFling {address}", f"--rFling 127.0.0.1:9 --listen {address}"):
            refused = _process(*line.split())
            assert refused.returncode == 2
            assert refused.stderr.startswith("tcsplitter: --l")
            assert address in refused.stderr
            assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("line", ["--help", "-h", "--conns 5 -h", "client --help", "client -h", "keygen --help"])
def test_help_does_not_load_what_only_running_needs(line: str) -> None:
    shown = _process(*line.split(), python=("-X", "importtime"))
    assert shown.returncode == 0
    loaded = {entry.rpartition("|")[2].strip() for entry in shown.stderr.splitlines()}
    assert "tcsplitter.cli" in loaded
    assert not loaded & {"tcsplitter._core", "tcsplitter.session", "cryptography", "zfec", "asyncio"}


def _process(*arguments: str, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != keys.KEY_VARIABLE}
    return subprocess.run(
        [sys.executable, *python, "-m", "tcsplitter", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
