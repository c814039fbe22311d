"""Key files: what is read from them, what is refused, and how they come to be."""

import errno
import os
import resource
import signal
import stat
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcsplitter.errors import ConfigError
from tcsplitter.keys import (
    MAX_KEY_FILE,
    MAX_NAME,
    UNAUTHENTICATED_PSK,
    generate_key,
    key_from_environment,
    load_keys,
    write_key_file,
)

FIRST, SECOND, THIRD = (bytes([number]) * 32 for number in (1, 2, 3))
A, B, C = (b64encode(key).decode() for key in (FIRST, SECOND, THIRD))

keys32 = st.binary(min_size=32, max_size=32).filter(any)
names = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S"), exclude_characters="#"), min_size=1, max_size=20)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def put(file: Path, content: str | bytes, mode: int = 0o600) -> str:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    file.chmod(mode)
    return str(file)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Turns a call that waits for ever into a failure."""

    def expired(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def refusal(path: str) -> str:
    """The message, which must name the file and tell no key."""
    with pytest.raises(ConfigError) as caught:
        load_keys(path)
    message = str(caught.value)
    assert path in message
    assert not any(key in message for key in (A, B, C))
    return message


# Reading.


@given(keys=st.dictionaries(names, keys32, min_size=1, max_size=8))
def test_named_keys_come_back_in_order(tmp_path_factory: pytest.TempPathFactory, keys: dict[str, bytes]) -> None:
    by_key = {key: name for name, key in keys.items()}
    lines = [f"{name} {generate_key(key)}\n" for key, name in by_key.items()]
    path = put(tmp_path_factory.mktemp("keys") / "keys", "".join(lines))
    assert list(load_keys(path).items()) == [(name, key) for key, name in by_key.items()]


def test_comments_blank_lines_and_line_ends_of_other_systems(file: Path) -> None:
    text = f"\ufeff# clients\r\n\r\nlaptop {A}\r\n  \t\n\tphone\t{B}  # Ann's\n   # gone {C}\n{C}"
    assert load_keys(put(file, text)) == {"laptop": FIRST, "phone": SECOND, "default": THIRD}


def test_keys_without_a_name_are_numbered(file: Path) -> None:
    assert load_keys(put(file, f"{A}\n{B}\n{C}\n")) == {"default": FIRST, "default-2": SECOND, "default-3": THIRD}


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700, 0o611])
def test_modes_that_keep_others_out(file: Path, mode: int) -> None:
    assert load_keys(put(file, A, mode)) == {"default": FIRST}


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o644, 0o666])
def test_modes_that_let_others_in_are_refused(file: Path, mode: int) -> None:
    message = refusal(put(file, A, mode))
    assert f"chmod 600 {file}" in message
    assert f"mode {mode:o}" in message


def test_the_fix_is_quoted_for_the_shell(tmp_path: Path) -> None:
    assert f"chmod 600 '{tmp_path}/my keys'" in refusal(put(tmp_path / "my keys", A, 0o644))


def test_a_link_to_a_private_file_is_followed(file: Path) -> None:
    put(file, A)
    link = file.with_name("link")
    link.symlink_to(file)
    assert load_keys(str(link)) == {"default": FIRST}
    file.chmod(0o644)
    assert "chmod 600" in refusal(str(link))


def test_a_missing_file(file: Path) -> None:
    assert f"tcsplitter keygen {file}" in refusal(str(file))


def test_a_directory(tmp_path: Path) -> None:
    assert "is a directory" in refusal(str(tmp_path))


def test_a_fifo_is_refused_without_waiting_for_its_writer(file: Path) -> None:
    os.mkfifo(file, 0o600)
    with at_most(seconds=5):
        assert "not a regular file" in refusal(str(file))


def test_a_path_through_a_file(file: Path) -> None:
    put(file, A)
    assert "Not a directory" in refusal(f"{file}/keys")


def test_a_file_that_cannot_be_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(file, A)

    def denied(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    assert "Permission denied" in refusal(path)


def test_no_descriptor_stays_open(file: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for path in (str(file.parent), put(file, A, 0o644), put(file.with_name("bad"), "bad")):
        refusal(path)
    with largest_file(10), pytest.raises(ConfigError):
        write_key_file(f"{file}-new", A)
    write_key_file(f"{file}-new", A)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing here\n"])
def test_a_file_without_a_key(file: Path, text: str) -> None:
    assert "holds no key" in refusal(put(file, text))


def test_a_file_of_the_largest_size_and_one_byte_more(file: Path) -> None:
    text = f"{A}\n#".ljust(MAX_KEY_FILE, ".")
    assert load_keys(put(file, text)) == {"default": FIRST}
    assert "no key file" in refusal(put(file, text + "."))


def test_a_file_that_is_no_text(file: Path) -> None:
    assert "not a text file" in refusal(put(file, FIRST + b"\xff\xfe"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (A[:-1], "base64"),
        (A[:-4], "30 bytes"),
        (b64encode(b"k" * 33).decode(), "33 bytes"),
        (b64encode(b"k" * 16).decode(), "16 bytes"),
        ("\N{LATIN SMALL LETTER E WITH ACUTE}" * 44, "base64"),
        (b64encode(b"\xff" * 32).decode().replace("/", "_"), "base64"),
        ("not-a-key", "base64"),
        (A[:-2] + "F=", "mistyped"),
        (b64encode(bytes(32)).decode(), "zeros"),
        (f"{B} laptop", "where the name should be"),
        (f"my laptop {A}", "3 words"),
        (f"{'n' * (MAX_NAME + 1)} {A}", "64 printable characters"),
        (f"lap\x1btop {A}", "64 printable characters"),
        (f"phone {A}", "the name 'phone' is used above, in line 2"),
        (f"laptop {C}", "the same key as in line 2"),
    ],
)
def test_lines_that_are_refused(file: Path, line: str, says: str) -> None:
    message = refusal(put(file, f"# clients\nphone {C}\n{line}\ntablet {B}\n"))
    assert says in message
    assert f"{file}, line 3:" in message


def test_a_numbered_name_that_is_taken(file: Path) -> None:
    assert "'default-2' is used above, in line 2" in refusal(put(file, f"{A}\ndefault-2 {B}\n{C}\n"))


def test_a_name_of_the_longest_size(file: Path) -> None:
    assert load_keys(put(file, f"{'n' * MAX_NAME} {A}")) == {"n" * MAX_NAME: FIRST}


@given(data=st.binary(max_size=200))
def test_any_bytes_are_keys_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = put(tmp_path_factory.mktemp("keys") / "keys", data)
    try:
        keys = load_keys(path)
    except ConfigError:
        return
    assert all(len(key) == 32 for key in keys.values())


# The environment.


def test_a_key_in_the_environment() -> None:
    assert key_from_environment(A) == FIRST
    assert key_from_environment(f" {A}\n") == FIRST


@pytest.mark.parametrize("value", ["", " ", "x", f"laptop {A}", A + B, b64encode(bytes(32)).decode()])
def test_environment_values_that_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^TCSPLITTER_KEY") as caught:
        key_from_environment(value)
    assert A not in str(caught.value)


# Making keys.


@given(key=keys32)
def test_a_generated_key_is_read_back(key: bytes) -> None:
    assert len(generate_key(key)) == 44
    assert key_from_environment(generate_key(key)) == key


@pytest.mark.parametrize("random_bytes", [b"", FIRST[:31], FIRST + b"1", bytes(32)])
def test_a_key_is_made_of_32_random_bytes(random_bytes: bytes) -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        generate_key(random_bytes)


def test_the_key_of_ends_without_one_is_no_key_of_a_file() -> None:
    assert bytes(32) == UNAUTHENTICATED_PSK
    with pytest.raises(ConfigError, match="zeros"):
        key_from_environment(b64encode(UNAUTHENTICATED_PSK).decode())


# Writing.


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel writes up to `size` bytes and refuses the rest, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_a_key_file_is_private_from_its_first_moment(file: Path, mask: int, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    write = os.write

    def watching(descriptor: int, data: bytes) -> int:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", watching)
    with umask(mask):
        write_key_file(str(file), A)
    assert modes == [0o600]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == f"{A}\n"
    assert load_keys(str(file)) == {"default": FIRST}


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "directory"])
def test_what_is_there_is_never_overwritten(file: Path, kind: str) -> None:
    target = file.with_name("target")
    if kind == "file":
        file.write_text("kept")
    elif kind == "link":
        target.write_text("kept")
        file.symlink_to(target)
    elif kind == "dangling link":
        file.symlink_to(target)
    else:
        file.mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        write_key_file(str(file), A)
    if kind in ("file", "link"):
        assert file.read_text() == "kept"
    assert target.exists() == (kind == "link")


def test_a_directory_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        write_key_file(str(tmp_path / "missing" / "keys"), A)


def test_dev_full_is_not_overwritten() -> None:
    with pytest.raises(ConfigError, match="exists already"):
        write_key_file("/dev/full", A)
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_full_disk_leaves_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really_open = os.open

    def full(path: str, flags: int, mode: int) -> int:
        os.close(really_open(path, flags, mode))
        return really_open("/dev/full", os.O_WRONLY)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        write_key_file(str(file), A)
    monkeypatch.undo()
    assert list(file.parent.iterdir()) == []


def test_a_write_that_stops_half_way_leaves_nothing(file: Path) -> None:
    with largest_file(10), pytest.raises(ConfigError, match="File too large"):
        write_key_file(str(file), A)
    assert list(file.parent.iterdir()) == []


def test_short_writes_are_continued(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    write_key_file(str(file), A)
    assert load_keys(str(file)) == {"default": FIRST}


def test_an_interrupt_leaves_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_key_file(str(file), A)
    assert list(file.parent.iterdir()) == []
