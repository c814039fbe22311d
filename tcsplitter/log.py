"""What the user reads on stderr: one line per event, and repeated lines held back."""

import logging
import sys
from collections import OrderedDict

REPEAT_AFTER = 10.0  # seconds for which a line of the same key is only counted
_MAX_KEYS = 256


class LimitedLog:
    """Logs a line of one key at most once in REPEAT_AFTER; the next one tells how many were held back."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger
        self._recent: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def log(self, level: int, key: str, text: str, now: float) -> None:
        """Log `text` unless a line of the same key was logged less than REPEAT_AFTER ago."""
        last, held_back = self._recent.get(key, (-REPEAT_AFTER, 0))
        if now - last < REPEAT_AFTER:
            self._recent[key] = (last, held_back + 1)
            return
        self._recent[key] = (now, 0)
        self._recent.move_to_end(key)
        if len(self._recent) > _MAX_KEYS:
            self._recent.popitem(last=False)
        self.logger.log(level, f"{text} ({held_back} more held back)" if held_back else text)


def setup_logging(level: int = logging.INFO) -> None:
    """Send the lines of this package to stderr, each under the name of the program that wrote it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logger = logging.getLogger("tcsplitter")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """`tcsplitter client: listening on ...` for a record of the logger tcsplitter.client."""
        return f"{record.name.replace('.', ' ')}: {super().format(record)}"
