"""utils/tcs-server.sh and utils/tcs-client.sh, the quick start: they find the program, make and share a key, become an end."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from tunnel import LIMIT, MEGABYTE, STOP_LIMIT, Process, Service, blocks, connect, echo, receive_exactly

from tcsplitter.cli import main
from tcsplitter.keys import load_keys

UTILS = Path(__file__).parent.parent / "utils"
ROLES = ("server", "client")
TOOLS = "/usr/bin:/bin"
KEY_FILE = ".config/tcsplitter/key"

BOTH = {
    "--protocol": "TCS_PROTOCOL",
    "--frags": "TCS_FRAGS",
    "--tick": "TCS_TICK",
    "--tock": "TCS_TOCK",
    "--buffer": "TCS_BUFFER",
    "--after": "TCS_AFTER",
    "--retries": "TCS_RETRIES",
    "--dup": "TCS_DUP",
    "--fec": "TCS_FEC",
    "--hedge": "TCS_HEDGE",
}
VARIABLES = {
    "server": {
        "--key-file": "TCS_KEY_FILE",
        "--lFling": "TCS_LFLING",
        "--lLasso": "TCS_LLASSO",
        "--lSync": "TCS_LSYNC",
        "--lFlingR": "TCS_LFLINGR",
        "--forward": "TCS_FORWARD",
        **BOTH,
    },
    "client": {
        "--key-file": "TCS_KEY_FILE",
        "--rFling": "TCS_RFLING",
        "--rLasso": "TCS_RLASSO",
        "--rSync": "TCS_RSYNC",
        "--rFlingR": "TCS_RFLINGR",
        "--listen": "TCS_LISTEN",
        "--conns": "TCS_CONNS",
        "--lassoes": "TCS_LASSOES",
        "--burst": "TCS_BURST",
        **BOTH,
    },
}
# What the scripts themselves say where nothing is set.
DEFAULTS = {
    "server": ["--lFling", "127.0.0.1:6091", "--forward", "127.0.0.1:6003"],
    "client": ["--rFling", "127.0.0.1:6091", "--listen", "127.0.0.1:6000"],
}


class Machine:
    """An empty home, and a folder on PATH with a `tcsplitter` of the test's choice."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.key_file = self.home / KEY_FILE
        self.install(f'exec "{sys.executable}" -m tcsplitter "$@"')

    def install(self, text: str) -> None:
        """Make these lines of shell the program."""
        write_program(self.bin / "tcsplitter", text)

    def environment(self, **settings: str) -> dict[str, str]:
        """Nothing of the test's own environment but where Python looks for modules."""
        kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        return {"HOME": str(self.home), "PATH": f"{self.bin}:{TOOLS}", **kept, **settings}

    def start(self, role: str, *arguments: str, **settings: str) -> Process:
        """One end by its script."""
        name = f"tcs-{role}.sh"
        return Process(name, [UTILS / name, *arguments], self.environment(**settings))

    def run(self, script: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """A script, to its end."""
        return subprocess.run(
            [script, *arguments], env=self.environment(**settings), capture_output=True, text=True, timeout=LIMIT, check=False
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def write_program(path: Path, text: str) -> None:
    """A shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def script_of(role: str) -> Path:
    return UTILS / f"tcs-{role}.sh"


def command_line(end: Process) -> list[str]:
    """What the process was started with, by whatever it became last."""
    return Path(f"/proc/{end.process.pid}/cmdline").read_text().split("\0")[:-1]


def port_of(end: Process) -> str:
    """Where it listens; waits until it does."""
    return end.wait_for(r"listening on 127\.0\.0\.1:([0-9]+)")[1]


def stop(end: Process) -> None:
    """SIGTERM reaches the end itself, and it leaves in order."""
    end.process.send_signal(signal.SIGTERM)
    assert end.process.wait(STOP_LIMIT) == 0


def test_both_scripts_make_a_tunnel_with_one_key_and_the_settings_given(machine: Machine) -> None:
    with (
        Service(echo) as service,
        machine.start("server", TCS_PORT="0", TCS_FORWARD=service.address, TCS_FRAGS="2000") as server,
        machine.start("client", "--verbose", TCS_PORT=port_of(server), TCS_LISTEN="127.0.0.1:0", TCS_CONNS="7") as client,
    ):
        with connect(f"127.0.0.1:{port_of(client)}") as program:
            for block in blocks(MEGABYTE, seed=1):
                program.sendall(block)
                assert receive_exactly(program, len(block)) == block
        client.wait_for("session established")

        assert machine.key_file.stat().st_mode & 0o777 == 0o600
        assert len(load_keys(str(machine.key_file))) == 1
        assert [path.name for path in machine.key_file.parent.iterdir()] == ["key"]
        assert server.wait_for("made a new key, ([^ ]*[^. ])")[1] == str(machine.key_file)
        assert not [line for line in client.lines if "made a new key" in line]
        key = ["--key-file", str(machine.key_file)]
        expected = ["server", *key, "--lFling", "127.0.0.1:0", "--forward", service.address, "--frags", "2000"]
        assert command_line(server)[-len(expected) :] == expected
        assert command_line(client)[-3:] == ["--conns", "7", "--verbose"]
        stop(client)
        stop(server)


def test_another_start_uses_the_key_that_is_there(machine: Machine) -> None:
    seen = set()
    for _ in range(2):
        with machine.start("server", TCS_PORT="0") as server:
            port_of(server)
            seen.add(machine.key_file.read_text())
    assert len(seen) == 1
    assert not [line for line in server.lines if "new key" in line]


def test_started_at_once_on_one_machine_both_have_the_same_key(machine: Machine, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    machine.install(f"""
        if [ "$1" != keygen ]; then echo "$1 has $(cat {machine.key_file})"; exit; fi
        echo "asked for a key" >&2
        read -r line <{gate}
        exec "{sys.executable}" -m tcsplitter keygen
    """)
    with machine.start("server") as server, machine.start("client") as client, gate.open("r+b", buffering=0) as opened:
        server.wait_for("asked for a key")
        client.wait_for("asked for a key")
        opened.write(b"go\ngo\n")
        keys = {server.wait_for("server has (.+)")[1], client.wait_for("client has (.+)")[1]}
        said = [line for line in server.lines + client.lines if "made a new key" in line]
    assert keys == {machine.key_file.read_text().strip()}
    assert len(said) == 1
    assert [path.name for path in machine.key_file.parent.iterdir()] == ["key"]


@pytest.mark.parametrize("role", ROLES)
class TestArguments:
    def passed(self, machine: Machine, role: str, *arguments: str, **settings: str) -> list[str]:
        """What the program is given."""
        machine.install('[ "$1" = keygen ] && exec echo "a key"; printf "%s\\n" "$@"')
        done = machine.run(script_of(role), *arguments, **settings)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def test_what_is_not_set_is_left_to_the_program(self, machine: Machine, role: str) -> None:
        empty = dict.fromkeys(VARIABLES[role].values(), "")
        expected = [role, "--key-file", str(machine.key_file), *DEFAULTS[role]]
        assert self.passed(machine, role) == self.passed(machine, role, **empty) == expected

    def test_every_variable_becomes_its_flag(self, machine: Machine, role: str, tmp_path: Path) -> None:
        settings = {name: f"a value: of {name}" for name in VARIABLES[role].values()}
        settings["TCS_KEY_FILE"] = str(tmp_path / "a folder" / "that is new" / "a key")
        expected = [word for flag, name in VARIABLES[role].items() for word in (flag, settings[name])]
        given = self.passed(machine, role, "--verbose", "--idle", "1 000", **settings)
        assert given == [role, *expected, "--verbose", "--idle", "1 000"]

    def test_host_and_port_make_the_address(self, machine: Machine, role: str) -> None:
        flag = DEFAULTS[role][0]
        given = self.passed(machine, role, TCS_HOST="[::1]", TCS_PORT="17")
        assert given[given.index(flag) + 1] == "[::1]:17"

    def test_a_key_in_the_environment_needs_no_file(self, machine: Machine, role: str) -> None:
        assert self.passed(machine, role, TCSPLITTER_KEY="a key") == [role, *DEFAULTS[role]]
        assert not machine.key_file.exists()

    def test_a_folder_for_settings_is_where_the_key_goes(self, machine: Machine, role: str, tmp_path: Path) -> None:
        given = self.passed(machine, role, XDG_CONFIG_HOME=str(tmp_path / "settings"))
        assert given[2] == str(tmp_path / "settings/tcsplitter/key")
        assert Path(given[2]).exists()

    def test_without_a_place_for_the_key_nothing_starts(self, machine: Machine, role: str, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        machine.install('echo "started $1"')
        done = machine.run(script_of(role), TCS_KEY_FILE=str(tmp_path / "file" / "key"))
        assert done.returncode != 0
        assert "started" not in done.stdout
        assert str(tmp_path / "file") in done.stderr


@pytest.mark.parametrize("role", ROLES)
def test_every_flag_is_one_that_the_program_knows(role: str) -> None:
    assert isinstance(main, click.Group)
    known = {flag for param in main.commands[role].params for flag in param.opts}
    assert not VARIABLES[role].keys() - known


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_is_explained_at_the_top(role: str) -> None:
    top = script_of(role).read_text().partition("\nset -eu\n")[0]
    for name in (*VARIABLES[role].values(), "TCS_HOST", "TCS_PORT"):
        assert re.search(rf"^# .*\b{name} ", top, re.MULTILINE), name


@pytest.mark.parametrize("role", ROLES)
def test_the_program_is_found_in_the_checkout_or_asked_for(machine: Machine, role: str, tmp_path: Path) -> None:
    checkout = tmp_path / "a checkout"
    shutil.copytree(UTILS, checkout / "utils")
    (tmp_path / "by another name").symlink_to(checkout / "utils" / f"tcs-{role}.sh")
    (machine.bin / "tcsplitter").unlink()

    done = machine.run(tmp_path / "by another name")
    assert done.returncode == 2
    assert f"make -C '{checkout}' venv" in done.stderr

    write_program(checkout / ".venv/bin/tcsplitter", 'echo "$1 from the checkout"')
    done = machine.run(tmp_path / "by another name", TCSPLITTER_KEY="a key")
    assert done.stdout == f"{role} from the checkout\n"
