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
from tcsplitter.options import Address, ClientOptions, ServerOptions
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


def test_a_server_with_every_flag(started: _Started, key_file: str) -> None:
    line = "server --lFling 0.0.0.0:4430 --forward [::1]:22 --frags 1400:0 --idle 1500 --linger 60 --verbose --key-file"
    assert _run(line, key_file).exit_code == 0
    assert started.options == [
        (
            "server",
            ServerOptions(
                l_fling=Address("0.0.0.0", 4430),
                forward=Address("::1", 22),
                keys={keys.DEFAULT_NAME: _KEY},
                size=1400,
                idle=1.5,
                linger=60.0,
            ),
        )
    ]


@pytest.mark.parametrize("command", ["client", "connect"])
def test_a_client_with_every_flag(started: _Started, key_file: str, command: str) -> None:
    listen = "--listen 127.0.0.1:1 " if command == "client" else ""
    line = f"{command} --rFling example.org:4430 {listen}--conns 8 --burst 0 --reuse 5 --frags 1 --idle .5 --linger 1 --key-file"
    assert _run(line, key_file).exit_code == 0
    [(what, options)] = started.options
    assert what == command
    assert options == ClientOptions(
        r_fling=Address("example.org", 4430),
        listen=Address("127.0.0.1", 1 if listen else 6000),
        keys={keys.DEFAULT_NAME: _KEY},
        size=1,
        reuse=5,
        conns=8,
        burst=0,
        idle=0.0005,
        linger=1.0,
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


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("--lFling localhost:1 --rFling localhost:2", ["--lFling", "--rFling"]),
        ("--rFling localhost:1 --rFling localhost:2", ["--lFling", "--rFling"]),
        ("--listen localhost:1", ["--lFling", "--rFling"]),
        ("--lFling 0 --rFling 0", ["--lFling", "--rFling"]),
        ("--rFling", ["--rFling", "HOST:PORT"]),
        ("server", ["--lFling"]),
        ("client", ["--rFling"]),
        ("connect", ["--rFling"]),
        ("server --lFling 0", ["--lFling", "HOST:PORT"]),
        ("server --lFling localhost", ["--lFling", "'localhost'", "HOST:PORT"]),
        ("server --lFling localhost:1 --forward localhost:0", ["--forward", "localhost:0"]),
        ("server --lFling localhost:1 --conns 3", ["--conns"]),
        ("client --rFling localhost:1 --forward localhost:2", ["--forward"]),
        ("connect --rFling localhost:1 --listen localhost:2", ["--listen"]),
        ("client --rFling localhost:1 --conns x", ["--conns", "'x'"]),
        ("client --rFling localhost:1 --conns 0", ["--conns", "'0'"]),
        ("client --rFling localhost:1 --conns 8 --burst 7", ["--burst", "'7'"]),
        ("client --rFling localhost:1 --idle 0", ["--idle", "'0'"]),
        ("client --rFling localhost:1 --frags 10000:1400", ["--frags", "'10000:1400'"]),
        ("client --rFling localhost:1 --tick 5", ["--tick"]),
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
    for shown in (
        "[required]",
        "127.0.0.1:6000",
        "default: 4]",
        "1024]",
        "10000]",
        "25000]",
        "86400]",
        "--key-file",
        "--insecure",
    ):
        assert shown in text
    assert "127.0.0.1:6003" in _run("server --help").stdout


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


@pytest.mark.parametrize("line", ["--help", "client --help", "keygen --help"])
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
