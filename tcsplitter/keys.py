"""Key files: 32 random bytes in standard base64, one key a line.

A line is a key, or a name and a key; `#` starts a comment, blank lines are skipped. A key without a name is called `default`,
further ones `default-2`, `default-3` and so on, in the order of the file. Messages never show a key.
"""

import binascii
import os
import shlex
import stat
from base64 import b64decode, b64encode
from typing import Final

from tcsplitter.errors import ConfigError
from tcsplitter.noise import KEY_SIZE

KEY_VARIABLE: Final = "TCSPLITTER_KEY"
DEFAULT_NAME: Final = "default"
MAX_KEY_FILE: Final = 1 << 20
"""Bytes that a key file may have: some 16,000 named keys."""
MAX_NAME: Final = 64
"""Characters that a key's name may have."""

UNAUTHENTICATED_PSK: Final = bytes(KEY_SIZE)
"""What an end without a key uses, on loopback or with --insecure only.

The shots are still sealed with secrets that only the two ends share, so who merely listens reads nothing. But everyone knows this
key: it authenticates nobody, and who can change what passes can stand in the middle.
"""

_ENCODED_SIZE: Final = 44
_OPEN_TO_OTHERS: Final = stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH


def load_keys(path: str) -> dict[str, bytes]:
    """Keys by name, in the order of the file; at least one. Raises ConfigError, which says where and what to do."""
    try:
        text = _read_private(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not a text file; a key file holds lines as `tcsplitter keygen` prints them") from None
    keys: dict[str, bytes] = {}
    lines_of: dict[bytes, int] = {}
    unnamed = 0
    for number, line in enumerate(text.split("\n"), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        where = f"{path}, line {number}"
        name, key = _parse_line(words, where)
        if not name:
            unnamed += 1
            name = DEFAULT_NAME if unnamed == 1 else f"{DEFAULT_NAME}-{unnamed}"
        if name in keys:
            raise ConfigError(
                f"{where}: the name {name!r} is used above, in line {lines_of[keys[name]]}; give each key a name of its own"
            )
        if key in lines_of:
            raise ConfigError(
                f"{where}: the same key as in line {lines_of[key]}; remove one, or make another with `tcsplitter keygen`"
            )
        keys[name] = key
        lines_of[key] = number
    if not keys:
        raise ConfigError(f"{path}: holds no key; add the line that `tcsplitter keygen` prints")
    return keys


def key_from_environment(value: str) -> bytes:
    """The key in the value of KEY_VARIABLE: one key in base64, without a name. Raises ConfigError."""
    if not value.strip():
        raise ConfigError(f"{KEY_VARIABLE} is empty; unset it, or set it to what `tcsplitter keygen` prints")
    return _decode_key(value.strip(), KEY_VARIABLE)


def generate_key(random_bytes: bytes) -> str:
    """The line for a key file that stands for 32 random bytes, without its end."""
    if len(random_bytes) != KEY_SIZE or not any(random_bytes):
        raise ValueError(f"a key is made of {KEY_SIZE} random bytes")
    return b64encode(random_bytes).decode("ascii")


def write_key_file(path: str, text: str) -> None:
    """Write `text` and the end of its line to a new file that only its owner may read or write.

    Raises ConfigError: a file that exists is never touched, and one that cannot be written in full is removed.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path}: exists already and is not overwritten; name another file, or remove it first") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be created: {error.strerror}") from None
    try:
        _write_all(descriptor, f"{text}\n".encode())
    except BaseException as error:
        os.unlink(path)
        if isinstance(error, OSError):
            raise ConfigError(f"{path}: cannot be written: {error.strerror}; nothing was left there") from None
        raise


def _write_all(descriptor: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_private(path: str) -> bytes:
    """What is in a regular file that is closed to group and others, checked on the very file that is read."""
    try:
        # Opening a FIFO would otherwise wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; make it with `tcsplitter keygen {shlex.quote(path)}`, or copy it from the other end"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be opened: {error.strerror}") from None
    try:
        _check_private(path, os.fstat(descriptor).st_mode)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_KEY_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(data) > MAX_KEY_FILE:
        raise ConfigError(f"{path}: has over {MAX_KEY_FILE} bytes; that is no key file")
    return data


def _check_private(path: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise ConfigError(f"{path}: is a directory; name the key file in it")
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{path}: is not a regular file; put the key into one, or into {KEY_VARIABLE}")
    if mode & _OPEN_TO_OTHERS:
        raise ConfigError(
            f"{path}: others may read or write it (mode {stat.S_IMODE(mode):o}); "
            f"run `chmod 600 {shlex.quote(path)}`, and make a new key if others use this machine"
        )


def _parse_line(words: list[str], where: str) -> tuple[str, bytes]:
    """Name ("" if there is none) and key."""
    if len(words) > 2:
        raise ConfigError(f"{where}: {len(words)} words; a line is a key, or a name without spaces and a key")
    *names, encoded = words
    name = names[0] if names else ""
    if len(name) == _ENCODED_SIZE and name.endswith("="):
        raise ConfigError(f"{where}: a key where the name should be; the name comes first")
    if len(name) > MAX_NAME or not name.isprintable():
        raise ConfigError(f"{where}: a name is at most {MAX_NAME} printable characters")
    return name, _decode_key(encoded, where)


def _decode_key(encoded: str, where: str) -> bytes:
    try:
        key = b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(f"{where}: the key is not standard base64; copy all {_ENCODED_SIZE} characters of it") from None
    if len(key) != KEY_SIZE:
        raise ConfigError(f"{where}: the key has {len(key)} bytes instead of {KEY_SIZE}; make one with `tcsplitter keygen`")
    if b64encode(key).decode("ascii") != encoded:
        raise ConfigError(f"{where}: the key's last character is mistyped; copy all {_ENCODED_SIZE} characters of it")
    if not any(key):
        raise ConfigError(f"{where}: a key of zeros protects nothing; make one with `tcsplitter keygen`")
    return key
