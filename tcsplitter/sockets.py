"""What is done to one TCP socket, in as few calls as it takes: connecting, asking, resetting."""

import os
import socket
import struct
import sys
from collections.abc import Callable
from errno import EALREADY, EINPROGRESS
from fcntl import ioctl
from socket import IPPROTO_TCP, SO_LINGER, SOL_SOCKET, TCP_NODELAY, SocketType
from termios import TIOCOUTQ
from typing import Any

NON_BLOCKING = socket.SOCK_STREAM | socket.SOCK_NONBLOCK

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_NO_BYTES = bytes(4)
_CONNECTS = frozenset((0, EINPROGRESS, EALREADY))

Target = tuple[socket.AddressFamily, tuple[Any, ...]]  # what socket() and connect() take
Prepare = Callable[[SocketType, str], None]  # a socket, and the numeric address that it is to connect to, or to listen on


def is_of_this_machine(host: str) -> bool:
    """Whether a numeric address is one of loopback."""
    return host.startswith("127.") or host == "::1"


def abort(sock: SocketType) -> None:
    """Let the close that follows reset the connection, so that the other end learns that it was cut off."""
    sock.setsockopt(SOL_SOCKET, SO_LINGER, _RESET_ON_CLOSE)


def unacknowledged(fd: int) -> int:
    """Bytes in the kernel's send queue that the other kernel has not acknowledged (tcp(7), SIOCOUTQ)."""
    return int.from_bytes(ioctl(fd, TIOCOUTQ, _NO_BYTES), sys.byteorder)


def start_connect(target: Target, prepare: Prepare | None = None) -> tuple[SocketType, bool]:
    """A socket that is connecting, and whether it is connected already; else it becomes writable when that is decided.
    OSError if it is refused at once.

    `prepare` sees to the socket before it connects.
    """
    family, sockaddr = target
    sock = SocketType(family, NON_BLOCKING, IPPROTO_TCP)
    try:
        sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        if prepare is not None:
            prepare(sock, sockaddr[0])
        code = sock.connect_ex(sockaddr)
        if code == EINPROGRESS and is_of_this_machine(sockaddr[0]):
            code = sock.connect_ex(sockaddr)  # within the first call it was connected; only the second one says so
        if code not in _CONNECTS:
            raise OSError(code, os.strerror(code))
    except OSError:
        sock.close()
        raise
    return sock, code == 0
