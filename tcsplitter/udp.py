"""The local side of `--protocol udp`: datagrams of client programs and of the service, each peer joined to one flow.

Nothing here keeps or delays a datagram: what a local program sends goes to its flow at once, and what the kernel does not take at
once is dropped and counted. The kernel's own receive buffers are the only queues on this side.
"""

import errno
import os
import socket
import struct
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from logging import WARNING
from math import inf
from selectors import EVENT_READ
from typing import Any, Protocol

from tcsplitter._core import MAX_DATAGRAM
from tcsplitter.log import LimitedLog
from tcsplitter.net import Resolver, Target, bind_all
from tcsplitter.options import Address
from tcsplitter.reactor import Reactor
from tcsplitter.watched import Watched

READ_BATCH, READ_BYTES = 256, 65_536  # datagrams and about bytes read from one socket in one wake: less than a flow's queue holds
RECEIVE_BUFFER = 4_194_304  # bytes asked for each socket; where it may not be forced, the kernel gives up to net.core.rmem_max

_READ_SIZE = 65_536  # bytes; UDP over IPv6 carries up to 65,527, UDP over IPv4 and the tunnel MAX_DATAGRAM
_WILDCARDS = ("0.0.0.0", "::")

# Linux's numbers of what the socket module has no names for (ip(7), socket(7)).
_IP_PKTINFO = 8
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("9I")  # of sk_meminfo.h; the last one is the number of datagrams that the kernel dropped
_PKTINFO_SPACE = socket.CMSG_SPACE(20)  # in6_pktinfo, the larger one


class Flow(Protocol):
    """What the local side needs of a flow; flows.Flow."""

    app: Any
    closed: bool

    @property
    def readable(self) -> int: ...
    def send(self, data: bytes, now: float) -> None: ...
    def take(self) -> bytes: ...


@dataclass(slots=True)
class UdpCounters:
    """Datagrams that the local side of one end did not get or did not pass on. They only grow."""

    kernel_drops: int = 0
    """Came in, but the kernel dropped them before they were read: mostly as the receive buffer was full."""
    refused: int = 0
    """Answered by an ICMP error: mostly because nothing listens there."""
    send_drops: int = 0
    """To the local program, but the kernel did not take them, or there was no socket."""
    no_room: int = 0
    """From a new peer when there were too many flows."""
    too_long: int = 0
    """Read with more than MAX_DATAGRAM bytes, or longer than the way to the local program takes (EMSGSIZE)."""

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class _UdpSocket(Watched):
    """A socket that is read in rounds: at most one per `tick` seconds, each until nothing is left.

    The next round counts from when the last one was due: wakes that come late do not add up.
    """

    __slots__ = ("_counters", "_due", "_found_some", "_log", "_pause", "_seen_drops", "_sock", "_tick")

    def __init__(self, reactor: Reactor, sock: socket.socket, tick: float, log: LimitedLog, counters: UdpCounters) -> None:
        super().__init__(reactor, sock.fileno())
        self._sock = sock
        self._tick = tick
        self._log = log
        self._counters = counters
        self._seen_drops = 0
        self._due = -inf  # when this round was due; -inf if the socket was waited for
        self._found_some = False  # in this round
        self._pause = reactor.timer(self._go_on)
        self.watch(EVENT_READ)

    def on_ready(self, _events: int, now: float) -> None:
        """Read what waits, up to READ_BATCH datagrams or READ_BYTES."""
        size = 0
        try:
            for _ in range(READ_BATCH):
                size += self._read(now)
                if self.closed:
                    return
                self._found_some = True
                if size >= READ_BYTES:
                    break
        except BlockingIOError:
            if self._tick:
                self._end_round(now)
        except OSError as error:
            self._not_read(error, now)
        self._count_kernel_drops()

    def close(self) -> None:
        """Neither read nor write any more."""
        if not self.closed:
            self.closed = True
            self._count_kernel_drops()
            self._pause.cancel()
            self.watch(0)
            self.reactor.close_later(self._sock)

    def not_sent(self, error: OSError, where: str, now: float) -> None:
        """The kernel did not take a datagram to `where`."""
        if error.errno == errno.EMSGSIZE:
            self._counters.too_long += 1
            return
        self._counters.send_drops += 1
        if error.errno not in (errno.EAGAIN, errno.ENOBUFS):
            self._log.log(WARNING, "udp send", f"cannot send a datagram to {where}: {os.strerror(error.errno or 0)}", now)

    @abstractmethod
    def _read(self, now: float) -> int:
        """Read one datagram; returns its size. OSError of the socket."""

    @abstractmethod
    def _not_read(self, error: OSError, now: float) -> None:
        """The socket gave an error instead of a datagram."""

    def _end_round(self, now: float) -> None:
        due, self._due = self._due, -inf
        if self._found_some:
            self._found_some = False
            self._due = (due if now - due <= self._tick else now) + self._tick
            self.watch(0)
            self._pause.at(self._due)

    def _go_on(self, now: float) -> None:
        self.watch(EVENT_READ)
        self.on_ready(EVENT_READ, now)

    def _count_kernel_drops(self) -> None:
        # SO_RXQ_OVFL tells the same number, but only with the next datagram that got through: the end of a flood would be missed.
        try:
            drops = _MEMINFO.unpack(self._sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[-1]
        except OSError:
            return  # Linux before 4.12 does not tell
        self._counters.kernel_drops += (drops - self._seen_drops) % 2**32
        self._seen_drops = drops


class UdpListener(_UdpSocket):
    """Where client programs send their datagrams. Each pair of a peer's address and the local one it wrote to is a flow.

    `open_flow(now)` gives the flow of a new pair, or None if there are too many. Replies leave from the address written to.
    """

    __slots__ = ("_local_address", "_open_flow", "_peers", "port")

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        open_flow: Callable[[float], Flow | None],
        tick: float,
        log: LimitedLog,
        counters: UdpCounters,
    ) -> None:
        super().__init__(reactor, sock, tick, log, counters)
        self.port: int = sock.getsockname()[1]
        self._open_flow = open_flow
        self._peers: dict[tuple[Any, bytes], _Peer] = {}
        self._local_address = _local_ipv4 if sock.family == socket.AF_INET else _local_ipv6

    def close_all(self) -> None:
        """Let go of all flows, and close the socket."""
        for peer in list(self._peers.values()):
            peer.abort()
        self.close()

    def reply(self, data: bytes, peer: "_Peer", now: float) -> None:
        """Send a datagram to the peer."""
        try:
            self._sock.sendmsg((data,), peer.ancillary, 0, peer.address)
        except OSError as error:
            self.not_sent(error, peer.address[0], now)

    def forget(self, peer: "_Peer") -> None:
        """What the peer sends from here on is a new flow."""
        del self._peers[peer.address, peer.local]

    def _read(self, now: float) -> int:
        data, ancillary, _, address = self._sock.recvmsg(_READ_SIZE, _PKTINFO_SPACE)
        if len(data) > MAX_DATAGRAM:
            self._counters.too_long += 1
            return len(data)
        local = self._local_address(ancillary[0][2]) if ancillary else b""
        peer = self._peers.get((address, local)) or self._join(address, local, now)
        if peer:
            peer.flow.send(data, now)
        return len(data)

    def _join(self, address: Any, local: bytes, now: float) -> "_Peer | None":
        flow = self._open_flow(now)
        if flow is None:
            self._counters.no_room += 1
            self._log.log(WARNING, "udp room", f"too many flows: datagrams from {address[0]} are dropped", now)
            return None
        self._peers[address, local] = peer = _Peer(self, flow, address, local)
        return peer

    def _not_read(self, error: OSError, now: float) -> None:
        self._log.log(WARNING, "udp read", f"cannot read datagrams: {os.strerror(error.errno or 0)}", now)


class _Peer:
    """A program that sent datagrams to one of the local addresses, joined to a flow."""

    __slots__ = ("_listener", "address", "ancillary", "closed", "flow", "local")

    def __init__(self, listener: UdpListener, flow: Flow, address: Any, local: bytes) -> None:
        self.flow = flow
        self.address = address
        self.local = local
        """What tells the local addresses of a wildcard socket apart; empty if the kernel chooses the one to reply from."""
        self.ancillary = _reply_from(local)
        self.closed = False
        self._listener = listener
        flow.app = self

    def update(self, now: float) -> None:
        """Forward what the flow has, and let go of it if it ended."""
        if self.closed:
            return
        while self.flow.readable:
            self._listener.reply(self.flow.take(), self, now)
        if self.flow.closed:
            self.abort()

    def abort(self) -> None:
        """Let go of the flow."""
        if not self.closed:
            self.closed = True
            self._listener.forget(self)


class UdpForwarder:
    """Where the datagrams of clients go: each flow has a connected socket of its own to the service."""

    def __init__(self, reactor: Reactor, address: Address, tick: float, log: LimitedLog, counters: UdpCounters) -> None:
        self.reactor = reactor
        self.address = address
        self.tick = tick
        self.log = log
        self.counters = counters
        self.open_flows: set[_Forwarded] = set()
        self.resolver = Resolver(reactor, address)
        self.resolver.refresh()
        self._first = 0  # which of the targets is tried first; counts on, modulo their number

    def open(self, flow: Flow, now: float) -> None:
        """Forward the datagrams of `flow`. Those that come before the service's name is looked up stay in it."""
        flow.app = forwarded = _Forwarded(self, flow)
        if self.resolver.targets:
            forwarded.update(now)
        else:
            forwarded.wait()

    def close_all(self) -> None:
        """Let go of all flows, and close their sockets."""
        for forwarded in list(self.open_flows):
            forwarded.abort()

    def connect(self, now: float) -> tuple[socket.socket, Target] | None:
        """A socket connected to the first target that can be; None, with a line in the log, if there is none."""
        targets = self.resolver.targets
        reason = self.resolver.error
        for i in range(len(targets)):
            target = targets[(self._first + i) % len(targets)]
            try:
                return _connected(target), target
            except OSError as error:
                reason = os.strerror(error.errno or 0)
        self.failed(reason, now)
        return None

    def failed(self, reason: str, now: float) -> None:
        """Datagrams do not reach the service."""
        self.log.log(WARNING, "forward", f"cannot reach --forward {self.address}: {reason}", now)
        self.resolver.refresh()

    def avoid(self, target: Target) -> bool:
        """A target refused what it never answered. Whether there is another one to try from here on."""
        targets = self.resolver.targets
        if len(targets) > 1 and targets[self._first % len(targets)] == target:
            self._first += 1
        return len(targets) > 1


class _Forwarded:
    """A flow and its socket to the service. The socket is made when there is something to send."""

    __slots__ = ("_answered", "_forwarder", "_socket", "_target", "_waits", "closed", "flow")

    def __init__(self, forwarder: UdpForwarder, flow: Flow) -> None:
        self.flow = flow
        self.closed = False
        self._forwarder = forwarder
        self._socket: _ServiceSocket | None = None
        self._target: Target | None = None
        self._answered = False
        self._waits = False
        forwarder.open_flows.add(self)

    def wait(self) -> None:
        """Leave all datagrams in the flow until the service's name is looked up."""
        self._waits = True
        self._forwarder.resolver.look_up(self._looked_up)

    def update(self, now: float) -> None:
        """Forward what the flow has, and let go of it if it ended."""
        if self.closed:
            return
        while self.flow.readable and not self._waits:
            self._forward(self.flow.take(), now)
        if self.flow.closed:
            self.abort()

    def received(self, data: bytes, now: float) -> None:
        """The service sent a datagram."""
        self._answered = True
        if len(data) > MAX_DATAGRAM:
            self._forwarder.counters.too_long += 1
        else:
            self.flow.send(data, now)

    def refused(self, error: OSError, now: float) -> None:
        """An ICMP error answered an earlier datagram. Another target is tried only if this one never sent anything."""
        self._forwarder.counters.refused += 1
        self._forwarder.failed(os.strerror(error.errno or 0), now)
        if not self._answered and self._target and self._forwarder.avoid(self._target):
            self._unplug()

    def abort(self) -> None:
        """Let go of the flow, and close its socket."""
        if not self.closed:
            self.closed = True
            self._unplug()
            self._forwarder.open_flows.discard(self)

    def _looked_up(self, now: float) -> None:
        self._waits = False
        self.update(now)

    def _forward(self, data: bytes, now: float) -> None:
        for _ in range(2):  # the kernel may tell of the refusal of an earlier datagram instead of sending this one
            if self._socket is None:
                self._plug(now)
            if self._socket is not None and self._socket.send(data, now):
                return
        self._forwarder.counters.send_drops += 1

    def _plug(self, now: float) -> None:
        made = self._forwarder.connect(now)
        if made:
            sock, self._target = made
            self._socket = _ServiceSocket(self._forwarder, sock, self)

    def _unplug(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _ServiceSocket(_UdpSocket):
    """A socket connected to the service, for one flow."""

    __slots__ = ("_forwarded", "_where")

    def __init__(self, forwarder: UdpForwarder, sock: socket.socket, forwarded: _Forwarded) -> None:
        super().__init__(forwarder.reactor, sock, forwarder.tick, forwarder.log, forwarder.counters)
        self._where = f"--forward {forwarder.address}"
        self._forwarded = forwarded

    def send(self, data: bytes, now: float) -> bool:
        """Send a datagram to the service; False if the kernel told of a refusal instead."""
        try:
            self._sock.send(data)
        except ConnectionRefusedError as error:
            self._forwarded.refused(error, now)
            return False
        except OSError as error:
            self.not_sent(error, self._where, now)
        return True

    def _read(self, now: float) -> int:
        data = self._sock.recv(_READ_SIZE)
        self._forwarded.received(data, now)
        return len(data)

    def _not_read(self, error: OSError, now: float) -> None:
        self._forwarded.refused(error, now)


def bind_udp(flag: str, address: Address) -> list[socket.socket]:
    """UDP sockets on every target of the address, all on one port. ConfigError names the flag and says what to do."""
    return bind_all(flag, address, _bound, "ss -lunp")


def _bound(family: socket.AddressFamily, sockaddr: tuple[Any, ...]) -> socket.socket:
    sock = _udp_socket(family)
    try:
        if sockaddr[0] in _WILDCARDS:
            if family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        sock.bind(sockaddr)
    except OSError:
        sock.close()
        raise
    return sock


def _connected(target: Target) -> socket.socket:
    family, sockaddr = target
    sock = _udp_socket(family)
    try:
        sock.connect(sockaddr)
    except OSError:
        sock.close()
        raise
    return sock


def _udp_socket(family: socket.AddressFamily) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.IPPROTO_UDP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return sock


def _local_ipv4(pktinfo: bytes) -> bytes:
    """Of in_pktinfo (ip(7)): the local address, which for a broadcast or multicast is not the address in its header."""
    return pktinfo[4:8]


def _local_ipv6(pktinfo: bytes) -> bytes:
    """Of in6_pktinfo (RFC 3542, section 6): the address, with the interface only where that is part of it; none if multicast."""
    if pktinfo[0] == 0xFF:
        return b""
    is_link_local = pktinfo[0] == 0xFE and pktinfo[1] & 0xC0 == 0x80
    return pktinfo[:20] if is_link_local else pktinfo[:16]


def _reply_from(local: bytes) -> list[tuple[int, int, bytes]]:
    """The ancillary data that makes a datagram leave from the local address."""
    if not local:
        return []
    if len(local) == 4:
        return [(socket.IPPROTO_IP, _IP_PKTINFO, bytes(4) + local + bytes(4))]
    return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, local.ljust(20, b"\0"))]
