"""What a carrier brings, as carriers' sockets lend it: a view that changes as soon as it has been looked at."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lent(data: bytes) -> Iterator[memoryview]:
    buffer = bytearray(data)
    yield memoryview(buffer).toreadonly()
    buffer[:] = b"\xee" * len(buffer)
