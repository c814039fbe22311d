"""Types of the compiled TCP sockets."""

from socket import AddressFamily
from typing import Final, final

from tcsplitter.net import Prepare, Target

MOST_RECEIVED: Final[int]  # 135,168 bytes of one read: the largest payload without --frags, with all that a shot adds

@final
class ReadBuffer:
    """What all sockets of an end are read into, one after the other, so that it stays in the processor's cache. As a buffer it
    has what the last read brought, and is not to be written to."""

    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class TcpSocket:
    """A socket that does not block: what it cannot do at once raises BlockingIOError. Closed when nobody holds it any more."""

    def __init__(self, fd: int, family: int) -> None:
        """Take a descriptor over."""

    @property
    def fd(self) -> int:
        """The descriptor; -1 once it is closed."""

    @property
    def family(self) -> AddressFamily: ...
    def fileno(self) -> int:
        """`fd`."""

    def close(self) -> None:
        """Close it; what was written still goes, unless `abort` was called."""

    def detach(self) -> int:
        """Let go of the descriptor, which is the caller's from here on."""

    def recv(self, into: ReadBuffer) -> memoryview:
        """A view of what has come, up to MOST_RECEIVED bytes; none at the end of the stream. The next read into this buffer
        changes it."""

    def send(self, data: bytes | memoryview, more: bool = False) -> int:
        """Give it as much of `data` as it takes; how many bytes. `more`: something follows at once."""

    def setsockopt(self, level: int, name: int, value: int | bytes) -> None: ...
    def error(self) -> int:
        """The number of the error that is pending, and none from here on; 0 without one."""

    def unacknowledged(self) -> int:
        """Bytes in the send queue that the other kernel has not acknowledged (tcp(7), SIOCOUTQ)."""

    def wait_for(self, count: int) -> None:
        """Let it become readable when so many bytes have come, or when the stream has ended (socket(7), SO_RCVLOWAT)."""

    def abort(self) -> None:
        """Let the close that follows reset the connection, so that the other end learns that it was cut off."""

    def shutdown(self) -> None:
        """Say that nothing follows what was written."""

def receive(fd: int, most: int) -> bytes | memoryview:
    """Up to `most` bytes of what has come at a socket that does not block; none at the end of the stream.

    Where they are many it is a view, with _core.ROOM_AROUND bytes to both sides of it, of something that nobody else has.
    """

def accept(fd: int) -> tuple[TcpSocket, str]:
    """A connection that waits at a listening socket, and the numeric address it came from. BlockingIOError where none does."""

def start_connect(target: Target, prepare: Prepare | None = None) -> tuple[TcpSocket, bool]:
    """A socket that is connecting, and whether it is connected already; else it becomes writable when that is decided.
    OSError if it is refused at once.

    `prepare` sees to the socket before it connects.
    """

def is_of_this_machine(host: str) -> bool:
    """Whether a numeric address is one of loopback."""
