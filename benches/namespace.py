"""A benchmark in a network namespace of its own, so that ports, counters and connections are its alone. Needs root and Linux."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

_INSIDE = "TCSPLITTER_BENCH_NAMESPACE"  # set in the environment of the run inside the namespace


def fail(reason: str) -> NoReturn:
    """Leave with the script's name and a reason."""
    sys.exit(f"{Path(sys.argv[0]).stem}: {reason}")


def enter_namespace() -> None:
    """Run the script anew inside a namespace; in that run, bring up loopback, and let SIGTERM leave as an error does, tidily."""
    if os.geteuid() != 0:
        fail("needs root: it makes a network namespace of its own")
    if _INSIDE not in os.environ:
        os.environ[_INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    signal.signal(signal.SIGTERM, lambda *_: fail("stopped"))
