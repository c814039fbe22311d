"""Programs that people run, through the tunnel: OpenSSH, scp, git, and curl against an HTTP server."""

import getpass
import hashlib
import logging
import os
import pty
import queue
import random
import select
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from loopback import free_port
from tunnel import LIMIT, MEGABYTE, Process, Service, Tunnel, blocks, receive_exactly

FIGURES = logging.getLogger("figures")  # pytest --log-cli-level=INFO shows them
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
PRIVILEGE_SEPARATION = Path("/run/sshd")  # compiled into Debian's sshd


@pytest.fixture(autouse=True)
def show_figures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, FIGURES.name)


def program(name: str) -> str:
    """The program's path; skips the test where it is missing."""
    path = shutil.which(name, path=PATH)
    if path is None:
        pytest.skip(f"{name} is missing")
    return path


def run(command: Sequence[str | Path], tunnel: Tunnel, limit: float = LIMIT) -> bytes:
    """What it prints on stdout; AssertionError with its stderr if it fails or takes longer than `limit` seconds."""
    done = subprocess.run(
        command, env=tunnel.environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit, check=False
    )
    assert done.returncode == 0, f"{command[0]} left with exit code {done.returncode}: {done.stderr.decode()}"
    return done.stdout


def write_file(path: Path, size: int, seed: int) -> str:
    """Fill the file; its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in blocks(size, seed):
            file.write(block)
            digest.update(block)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    """The file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(MEGABYTE):
            digest.update(piece)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------ OpenSSH


class Ssh(NamedTuple):
    """An sshd on loopback, and what its clients need."""

    address: str
    config: Path
    daemon: Process

    def command(self, name: str, *arguments: str) -> list[str]:
        """ssh, scp or sftp with the user's key and the host's."""
        return [program(name), "-F", str(self.config), *arguments]


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Generator[Ssh, None, None]:
    """An sshd of its own, with fresh keys."""
    sshd, keygen = program("sshd"), program("ssh-keygen")
    folder = tmp_path_factory.mktemp("ssh")
    for name in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    if os.geteuid() == 0:
        PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
    port = free_port()
    (folder / "sshd_config").write_text(f"""
        ListenAddress 127.0.0.1
        Port {port}
        HostKey {folder}/host
        AuthorizedKeysFile {folder}/user.pub
        StrictModes no
        PasswordAuthentication no
        PidFile none
        Subsystem sftp internal-sftp
    """)
    (folder / "known_hosts").write_text(f"the-host {(folder / 'host.pub').read_text()}")
    (folder / "ssh_config").write_text(f"""
        User {getpass.getuser()}
        IdentityFile {folder}/user
        IdentitiesOnly yes
        UserKnownHostsFile {folder}/known_hosts
        HostKeyAlias the-host
        StrictHostKeyChecking yes
        BatchMode yes
        LogLevel ERROR
    """)
    with Process("sshd", [sshd, "-D", "-e", "-f", folder / "sshd_config"]) as daemon:
        daemon.wait_for(f"Server listening on 127.0.0.1 port {port}")
        yield Ssh(f"127.0.0.1:{port}", folder / "ssh_config", daemon)


@pytest.mark.ssh
def test_ssh_runs_a_command_over_the_forwarded_port(ssh: Ssh) -> None:
    with Tunnel(ssh.address) as tunnel:
        shell = ssh.command("ssh", "-p", str(tunnel.port), "127.0.0.1")
        assert run([*shell, "echo from the other side"], tunnel) == b"from the other side\n"
        assert subprocess.run([*shell, "exit 7"], timeout=LIMIT, check=False).returncode == 7


@pytest.mark.ssh
def test_ssh_runs_commands_over_connect_as_its_proxy_command(ssh: Ssh) -> None:
    with Tunnel(ssh.address) as tunnel:
        shell = ssh.command("ssh", "-o", f"ProxyCommand={shlex.join(tunnel.connect_command)}", "the-host")
        started = time.monotonic()
        assert run([*shell, "echo from the other side"], tunnel) == b"from the other side\n"
        FIGURES.info("ssh over connect: %.2f s for one command", time.monotonic() - started)
        size = 10 * MEGABYTE
        assert run([*shell, f"head -c {size} /dev/zero"], tunnel) == bytes(size)


@pytest.mark.ssh
def test_ssh_over_connect_takes_leave_of_sshd(ssh: Ssh) -> None:
    """ssh hangs its proxy command up when it is done; what it said last has to arrive, or the far side stays logged in."""
    with Tunnel(ssh.address) as tunnel:
        shell = ssh.command("ssh", "-o", f"ProxyCommand={shlex.join(tunnel.connect_command)}", "the-host")
        for _ in range(3):
            start = len(ssh.daemon.lines)
            run([*shell, "true"], tunnel)
            ssh.daemon.wait_for("Received disconnect from", start)


def test_connect_delivers_what_was_said_before_the_hangup() -> None:
    heard: queue.Queue[bytes] = queue.Queue()

    def serve(sock: socket.socket) -> None:
        sock.sendall(receive_exactly(sock, 5))
        heard.put(receive_exactly(sock, 3))
        assert not sock.recv(1)

    with Service(serve) as service, Tunnel(service.address) as tunnel:
        connect = subprocess.Popen(
            tunnel.connect_command, env=tunnel.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        with connect:
            assert connect.stdin is not None
            assert connect.stdout is not None
            connect.stdin.write(b"hello")
            assert connect.stdout.read(5) == b"hello"
            connect.stdin.write(b"bye")
            connect.stdin.close()
            connect.send_signal(signal.SIGHUP)
            assert connect.wait(LIMIT) == 0
        assert heard.get(timeout=LIMIT) == b"bye"


class Terminal:
    """A program on a terminal of its own. Killed at the end of the block."""

    def __init__(self, command: Sequence[str]) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        self._seen = b""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def expect(self, text: str) -> None:
        """Wait until the screen shows `text`, and forget what came up to there."""
        ends_at = time.monotonic() + LIMIT
        while text.encode() not in self._seen:
            ready = select.select([self._master], [], [], max(0.0, ends_at - time.monotonic()))[0]
            assert ready, f"{text!r} never came; last seen: {self._seen[-500:]!r}"
            try:
                self._seen += os.read(self._master, 65_536)
            except OSError:  # how Linux says that the other side of a terminal is closed
                raise AssertionError(f"ended before {text!r} came; last seen: {self._seen[-500:]!r}") from None
        self._seen = self._seen.partition(text.encode())[2]

    def wait(self) -> int:
        """The exit code."""
        return self._process.wait(LIMIT)


# The longest pauses outlive whole pools: in the short session a connection that is idle for 2 s is retired.
@pytest.mark.ssh
@pytest.mark.parametrize(
    ("seconds", "idle", "longest"),
    [(10.0, ("--idle", "2000"), 3.0), pytest.param(180.0, (), 36.0, marks=pytest.mark.slow)],
)
def test_an_interactive_session_goes_on(ssh: Ssh, seconds: float, idle: tuple[str, ...], longest: float) -> None:
    dice = random.Random(22)
    pause = threading.Event()
    took = []
    with Tunnel(ssh.address, client_options=idle, server_options=idle, limit=seconds + LIMIT) as tunnel:
        shell = ssh.command("ssh", "-tt", "-p", str(tunnel.port), "127.0.0.1")
        with Terminal([*shell, "exec sh -c 'echo begun; while read word; do echo [$word]; done; exit 9'"]) as terminal:
            terminal.expect("begun")
            ends_at = time.monotonic() + seconds
            while time.monotonic() < ends_at:
                word = f"{dice.randrange(10**9):09}"
                started = time.monotonic()
                terminal.type(word)
                terminal.expect(word)  # the far terminal's echo
                took.append(time.monotonic() - started)
                terminal.type("\n")
                terminal.expect(f"[{word}]")
                pause.wait(dice.choice([0.01, 0.1, longest]))
            terminal.type("\x04")
            assert terminal.wait() == 9
        FIGURES.info(
            "%d echoes in %.0f s of ssh: median %.1f ms, worst %.1f ms; %s",
            len(took), seconds, statistics.median(took) * 1000, max(took) * 1000, tunnel.usage(),
        )  # fmt: skip


@pytest.mark.ssh
def test_scp_copies_both_ways(ssh: Ssh, tmp_path: Path) -> None:
    size = 100 * MEGABYTE
    here, there, back = (tmp_path / name for name in ("here", "there", "back"))
    expected = write_file(here, size, seed=1)
    with Tunnel(ssh.address) as tunnel:
        copy = ssh.command("scp", "-q", "-P", str(tunnel.port))
        for source, target, arrived in ((here, f"127.0.0.1:{there}", there), (f"127.0.0.1:{there}", back, back)):
            started = time.monotonic()
            run([*copy, source, target], tunnel, limit=2 * LIMIT)
            elapsed = time.monotonic() - started
            assert digest_of(arrived) == expected
            FIGURES.info("scp of %d MB: %.0f MB/s; %s", size // MEGABYTE, size / MEGABYTE / elapsed, tunnel.usage())


# ---------------------------------------------------------------------------------------------------- git


class Repository(NamedTuple):
    """A bare repository with some history."""

    path: Path
    head: str

    def check(self, clone: Path) -> None:
        """AssertionError unless the clone is sound and has the same head."""
        assert git("-C", clone, "rev-parse", "HEAD") == self.head
        git("-C", clone, "fsck", "--full", "--strict")


def git(*arguments: str | Path, given: bytes = b"") -> str:
    """Run git with `given` on its stdin; what it prints."""
    command = [program("git"), *arguments]
    done = subprocess.run(command, input=given, capture_output=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, f"git {arguments} left with exit code {done.returncode}: {done.stderr.decode()}"
    return done.stdout.decode().strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """200 commits, 4 MB that do not compress."""
    path = tmp_path_factory.mktemp("git") / "project.git"
    git("init", "-q", "--bare", "--initial-branch=main", path)
    dice = random.Random(200)
    history = bytearray()
    for number in range(200):
        who = f"A U Thor <author@example.org> {1_600_000_000 + number} +0000"
        history += f"commit refs/heads/main\ncommitter {who}\ndata 2\n{number % 10}\n\n".encode()
        history += f"M 100644 inline file-{number % 50}\ndata 20000\n".encode() + dice.randbytes(20_000) + b"\n"
    git("-C", path, "fast-import", "--quiet", given=bytes(history))
    return Repository(path, git("-C", path, "rev-parse", "main"))


def test_git_clones_from_its_daemon(repository: Repository, tmp_path: Path) -> None:
    port = free_port()
    folder = repository.path.parent
    where = [f"--base-path={folder}", "--listen=127.0.0.1", f"--port={port}"]
    command: list[str | Path] = [program("git"), "daemon", *where, "--verbose", "--export-all", folder]
    with Process("git daemon", command) as daemon, Tunnel(f"127.0.0.1:{port}") as tunnel:
        daemon.wait_for("Ready to rumble")
        started = time.monotonic()
        run([program("git"), "clone", "-q", f"git://{tunnel.address}/project.git", tmp_path / "clone"], tunnel)
        FIGURES.info("git clone from git daemon: %.2f s", time.monotonic() - started)
        repository.check(tmp_path / "clone")


@pytest.mark.ssh
def test_git_clones_and_pushes_over_ssh(ssh: Ssh, repository: Repository, tmp_path: Path) -> None:
    with Tunnel(ssh.address) as tunnel:
        over_ssh = ["-c", f"core.sshCommand={shlex.join(ssh.command('ssh'))}"]
        host = f"ssh://{tunnel.address}"
        run([program("git"), *over_ssh, "clone", "-q", f"{host}{repository.path}", tmp_path / "clone"], tunnel)
        repository.check(tmp_path / "clone")
        git("init", "-q", "--bare", tmp_path / "copy")
        run([program("git"), "-C", tmp_path / "clone", *over_ssh, "push", "-q", f"{host}{tmp_path}/copy", "HEAD:main"], tunnel)
        git("-C", tmp_path / "copy", "symbolic-ref", "HEAD", "refs/heads/main")
        repository.check(tmp_path / "copy")


# --------------------------------------------------------------------------------------------------- HTTP


def test_curl_downloads_twenty_files_at_once(tmp_path: Path) -> None:
    site, got = tmp_path / "site", tmp_path / "got"
    site.mkdir()
    expected = {f"file-{number}": write_file(site / f"file-{number}", number * 123_457, number) for number in range(20)}
    server = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(site), "0"]
    with Process("http.server", server) as daemon, Tunnel(f"127.0.0.1:{daemon.wait_for('port ([0-9]+)')[1]}") as tunnel:
        started = time.monotonic()
        url = f"http://{tunnel.address}/file-[0-19]"
        curl = [program("curl"), "-sSf", "--parallel", "--parallel-immediate", "--parallel-max", "20", "--create-dirs"]
        run([*curl, "-o", got / "file-#1", url], tunnel)
        total = sum(path.stat().st_size for path in site.iterdir())
        FIGURES.info("20 downloads at once, %.0f MB in %.2f s; %s", total / MEGABYTE, time.monotonic() - started, tunnel.usage())
    assert {path.name: digest_of(path) for path in got.iterdir()} == expected
