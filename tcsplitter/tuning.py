"""What the kernel is told of the sockets of carriers, and of others that bulk passes."""

import socket
from contextlib import suppress
from socket import IPPROTO_TCP, SO_RCVLOWAT, SOL_SOCKET, TCP_CONGESTION, TCP_MAXSEG, TCP_QUICKACK, SocketType

from tcsplitter._tcp import TcpSocket, is_of_this_machine

FIRST_WINDOW = 65_536  # bytes that a connection of Linux may receive before it is read from (tcp(7), tcp_rmem)
_BESIDE_PAYLOAD = 4_096  # bytes that may come with a payload: hello, other frames, tag
_HEADERS: dict[int, int] = {socket.AF_INET: 40, socket.AF_INET6: 60}  # bytes of a packet's IP and TCP headers without options


class Tuning:
    """Options of the sockets of one end's carriers."""

    def __init__(self, mtu: int = 0, payload: int = 0, lasting: bool = False) -> None:
        """`mtu`: bytes of the largest packets, in both directions; 0: what the kernel finds out. `payload`: bytes of the payloads
        that are to arrive without a wait for the kernel to open the window, taken to be as large as this end's; 0: no more than
        the first window takes. `lasting`: carriers are used again, so that what is set once for each costs nothing."""
        self._mtu = mtu
        self._lasting = lasting
        brought = payload + _BESIDE_PAYLOAD
        self._window = brought if brought > FIRST_WINDOW else 0

    def dialled(self, sock: SocketType | TcpSocket, host: str) -> None:
        """Set those of a carrier before it connects."""
        if self._lasting:
            unpaced(sock, host)
        if self._mtu or self._window:
            self._set_sizes(sock)
        # The last step of TCP's handshake waits for the first data and goes with it.
        sock.setsockopt(IPPROTO_TCP, TCP_QUICKACK, 0)

    def listening(self, sock: SocketType | TcpSocket, host: str) -> None:
        """Set those of a socket before it listens; Linux hands them down to what is accepted."""
        unpaced(sock, host)
        self._set_sizes(sock)

    def _set_sizes(self, sock: SocketType | TcpSocket) -> None:
        if self._mtu:
            sock.setsockopt(IPPROTO_TCP, TCP_MAXSEG, self._mtu - _HEADERS[sock.family])
        if self._window:
            widen(sock, self._window)


def unpaced(sock: SocketType | TcpSocket, host: str) -> None:
    """Send to `host` without pacing if that is this machine, whatever the kernel does elsewhere: BBR has nothing to find there,
    and its timers take a tenth of the CPU time of a transfer, or more. To be called before the socket connects or listens: what
    was connected under BBR stays paced, whatever is chosen later. Linux hands it down to what is accepted."""
    if is_of_this_machine(host):
        with suppress(OSError):  # of the kernels that have BBR, few lack this one
            sock.setsockopt(IPPROTO_TCP, TCP_CONGESTION, b"reno")


def widen(sock: SocketType | TcpSocket, size: int) -> None:
    """Let the kernel keep `size` bytes of what arrives.

    To be told to wait for so much makes the buffer that large, and it goes on to adapt itself, unlike after SO_RCVBUF.
    """
    for least in (size, 1):
        sock.setsockopt(SOL_SOCKET, SO_RCVLOWAT, least)
