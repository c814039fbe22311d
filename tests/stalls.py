"""How long this machine stood still while a test measured: what it adds to any time, whoever is measured. Needs root."""

import os
import subprocess
import sys
from types import TracebackType

LIMIT = 10.0
STEP = 0.001
_SLEEPER = f"""if True:
    import select, sys, time
    print(flush=True)
    longest, slept_at = 0.0, time.monotonic()
    while not select.select([sys.stdin], [], [], {STEP})[0]:
        now = time.monotonic()
        longest, slept_at = max(longest, now - slept_at - {STEP}), now
    print(longest)
"""


class Stalls:
    """A process on each processor that does nothing but wake every STEP, before any other: the load of the test delays it not.

    with Stalls() as stalls:
        ...
    assert took < 0.01 + stalls.added
    """

    def __init__(self) -> None:
        self.added = 0.0
        """Seconds that what waits twice may have lost: twice the longest by which one of them woke too late; known at the end
        of the block."""
        self._sleepers: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "Stalls":
        for processor in os.sched_getaffinity(0):
            sleeper = subprocess.Popen([sys.executable, "-c", _SLEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self._sleepers.append(sleeper)
            os.sched_setaffinity(sleeper.pid, {processor})
            os.sched_setscheduler(sleeper.pid, os.SCHED_FIFO, os.sched_param(1))
        for sleeper in self._sleepers:
            assert sleeper.stdout is not None
            sleeper.stdout.readline()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for sleeper in self._sleepers:
            if kind is not None:
                sleeper.kill()
            out, _ = sleeper.communicate(timeout=LIMIT)
            if kind is None:
                self.added = max(self.added, 2 * float(out))
