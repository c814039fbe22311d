"""The floor program, floor.c: what one payload per TCP connection costs at the least. It is compiled when it is needed."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
PROGRAM = SOURCE.parents[1] / "build" / "floor"
_FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]


def floor_program() -> Path:
    """Its path, after compiling it with $CC, or else cc, if that was not done since the source changed.

    CalledProcessError if it does not compile, FileNotFoundError without a compiler.
    """
    if not PROGRAM.exists() or PROGRAM.stat().st_mtime < SOURCE.stat().st_mtime:
        PROGRAM.parent.mkdir(exist_ok=True)
        compile_floor(PROGRAM)
    return PROGRAM


def compile_floor(program: Path) -> None:
    """Put it there as a whole: others may be running or compiling it."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        made = Path(folder) / program.name
        subprocess.run([*compiler, *_FLAGS, str(SOURCE), "-o", str(made)], check=True)
        made.replace(program)


def floor_command(payload: int, reply: int, secs: float) -> str:
    """A command for --floor of loopback.py."""
    return shlex.join([str(floor_program()), "--payload", str(payload), "--reply", str(reply), "--secs", str(secs)])
