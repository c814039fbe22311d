"""The protocol takes bytes and the time, and gives bytes and events: its modules reach for no socket, clock or dice."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tcsplitter"
FORBIDDEN = {"asyncio", "os", "random", "selectors", "socket", "threading", "time"}
PURE = (
    "acks",
    "carrier",
    "chunks",
    "client_end",
    "congestion",
    "credit",
    "datagrams",
    "demand",
    "dialling",
    "errors",
    "flows",
    "handshake",
    "keyring",
    "modes",
    "newcomers",
    "noise",
    "options",
    "outbox",
    "pace",
    "playout",
    "pool",
    "recovery",
    "repair",
    "routes",
    "scheduler",
    "sending",
    "server_end",
    "session",
    "shared",
    "stats",
    "streams",
    "table",
)
CORE = ["_core.pyx", *sorted(path.name for path in PACKAGE.glob("*.pxi"))]


def imports(source: str) -> set[str]:
    """Dotted names of all modules that Python source imports, anywhere; of `from a import b` both a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, ["tcsplitter" if node.level else "", node.module]))
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


def cython_imports(source: str) -> set[str]:
    """The same of Cython source, without the names after `import`; C headers are not among them."""
    return set(re.findall(r"^\s*(?:from|c?import)\s+([\w.]+)", source, flags=re.MULTILINE))


def impurities(name: str) -> set[str]:
    """Chains of imports, such as `session > transport > socket`, that lead from a module of the package to a forbidden one."""
    chains: set[str] = set()
    seen: set[str] = set()
    waiting = [(name, name)]
    while waiting:
        module, chain = waiting.pop()
        seen.add(module)
        for imported in imports((PACKAGE / f"{module}.py").read_text()):
            top, _, rest = imported.partition(".")
            inner = rest.partition(".")[0]
            if top in FORBIDDEN:
                chains.add(f"{chain} > {top}")
            elif top == "tcsplitter" and inner not in seen and (PACKAGE / f"{inner}.py").exists():
                waiting.append((inner, f"{chain} > {inner}"))
    return chains


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_nothing_impure(name: str) -> None:
    assert not impurities(name)


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_nothing_impure(name: str) -> None:
    found = cython_imports((PACKAGE / name).read_text())
    assert not {name.split(".")[0] for name in found} & FORBIDDEN
    assert not [name for name in found if name.startswith("posix")]


def test_all_that_the_core_includes_is_read() -> None:
    included = re.findall(r'^include "(.+)"', (PACKAGE / "_core.pyx").read_text(), flags=re.MULTILINE)
    assert ["_core.pyx", *sorted(included)] == CORE


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("import socket", "socket"),
        ("import os.path as p", "os.path"),
        ("from time import monotonic", "time"),
        ("def f():\n    from random import random", "random"),
        ("from . import transport", "tcsplitter.transport"),
        ("from .transport import Link", "tcsplitter.transport"),
        ("from tcsplitter import transport", "tcsplitter.transport"),
    ],
)
def test_every_form_of_import_is_found(source: str, module: str) -> None:
    assert module in imports(source)


@pytest.mark.parametrize("source", ["import time", "cimport time", "from time import monotonic", "    from time cimport time"])
def test_every_form_of_import_is_found_in_cython(source: str) -> None:
    assert cython_imports(source) == {"time"}
