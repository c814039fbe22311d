"""The server end as a program: client ends connect to it, it connects their streams to the service."""

import socket

from tcsplitter._tcp import TcpSocket
from tcsplitter.endpoints import TcpDialler
from tcsplitter.errors import ConfigError
from tcsplitter.flows import Flow
from tcsplitter.modes import MODES, Kind
from tcsplitter.net import Listener, listen_on
from tcsplitter.options import Address, ServerOptions
from tcsplitter.program import Chance, Program, handling_of, raise_descriptor_limit
from tcsplitter.server_end import ServerConfig, ServerEnd
from tcsplitter.streams import REFUSED, Stream
from tcsplitter.tuning import Tuning
from tcsplitter.udp import UdpForwarder

CARRIER_BACKLOG = 4096
_DESCRIPTORS = 65_536  # for carriers of many clients, newcomers, and connections to the service
_LEAST_DESCRIPTORS = 4_096  # for one busy client


class ServerProgram(Program):
    """Listens on the `l_` addresses from the moment it is made; ConfigError if it cannot. `run` serves."""

    end: ServerEnd

    def __init__(self, options: ServerOptions) -> None:
        listening = _listen(options)
        super().__init__("server", options)
        self.max_carriers = raise_descriptor_limit(_DESCRIPTORS, _LEAST_DESCRIPTORS, self.logger) * 3 // 4
        """Carriers that leave descriptors to connections to the service."""
        config = ServerConfig(
            handling=handling_of(options, options.l_fling),
            mode=MODES[options.dup] if options.dup else None,
            protocol=options.protocol,
            idle=options.idle,
            linger=options.linger,
        )
        self.serve(ServerEnd(config, options.keys, Chance(), self.reactor.now))
        self._dialler: TcpDialler | None = None
        self._forwarder: UdpForwarder | None = None
        if options.protocol == "udp":
            self._forwarder = UdpForwarder(self.reactor, options.forward, options.tick, self.log, self.udp)
        else:
            self._dialler = TcpDialler(self.endpoints, options.forward, self.log)
        self.addresses: dict[Kind, Address] = {}
        """Where client ends connect; with the ports that were chosen where port 0 was asked for."""
        for kind, (address, sockets) in listening.items():
            listeners = [Listener(self.reactor, sock, self._accepted, self._has_room, self.log) for sock in sockets]
            self.addresses[kind] = Address(address.host, listeners[0].port)
            self._listeners += listeners
        self.address = self.addresses[Kind.FLING]
        """The flings' address."""
        others = [f", {kind.name.lower()} {address}" for kind, address in self.addresses.items() if kind is not Kind.FLING]
        self.ready = f"listening on {self.address}{''.join(others)}, forwarding to {options.forward}"

    def open_stream(self, stream: Stream, now: float) -> None:
        """Connect to the service; while draining that is refused, though carriers are still accepted."""
        if self.draining or self._dialler is None:
            stream.reset(REFUSED)
        else:
            self._dialler.open(stream, now)

    def open_flow(self, flow: Flow, now: float) -> None:
        """Forward the datagrams of a new flow."""
        if self._forwarder is not None and not (self.draining or flow.closed):
            self._forwarder.open(flow, now)

    def close(self) -> None:
        """Cut off the flows, too."""
        if self._forwarder is not None:
            self._forwarder.close_all()
        super().close()

    def _has_room(self) -> bool:
        return len(self.carriers.open) < self.max_carriers

    def _accepted(self, sock: TcpSocket, host: str, now: float) -> None:
        self.carriers.accepted(sock, self.end.accepted(host, now), now)


def _listen(options: ServerOptions) -> dict[Kind, tuple[Address, list[socket.socket]]]:
    """Sockets on every address that was given; carriers of every kind are welcome on each."""
    asked = {
        Kind.FLING: ("--lFling", options.l_fling),
        Kind.LASSO: ("--lLasso", options.l_lasso),
        Kind.SYNC: ("--lSync", options.l_sync),
        Kind.RETRY: ("--lFlingR", options.l_fling_r),
    }
    tuning = Tuning(options.mtu, options.size or 0)
    listening: dict[Kind, tuple[Address, list[socket.socket]]] = {}
    try:
        for kind, (flag, address) in asked.items():
            taken = {other for other, _ in listening.values() if other.port}
            if address is not None and address not in taken:
                listening[kind] = address, listen_on(flag, address, CARRIER_BACKLOG, tuning.listening)
    except ConfigError:
        for _, sockets in listening.values():
            for sock in sockets:
                sock.close()
        raise
    return listening
