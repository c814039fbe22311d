"""The server end as a program: client ends connect to it, it connects their streams to the service."""

import random
import socket
from logging import INFO

from tcsplitter.endpoints import TcpDialler
from tcsplitter.net import Listener, listen_on
from tcsplitter.options import Address, ServerOptions
from tcsplitter.program import Program, raise_descriptor_limit
from tcsplitter.reactor import Reactor
from tcsplitter.server_end import ServerConfig, ServerEnd
from tcsplitter.streams import REFUSED, Stream

CARRIER_BACKLOG = 4096
_DESCRIPTORS = 65_536  # for carriers of many clients, newcomers, and connections to the service
_LEAST_DESCRIPTORS = 4_096  # for one busy client


class ServerProgram(Program):
    """Listens on `options.l_fling` from the moment it is made; ConfigError if it cannot. `run` serves."""

    end: ServerEnd

    def __init__(self, options: ServerOptions) -> None:
        sockets = listen_on("--lFling", options.l_fling, CARRIER_BACKLOG)
        super().__init__("server", Reactor())
        self.max_carriers = raise_descriptor_limit(_DESCRIPTORS, _LEAST_DESCRIPTORS, self.logger) * 3 // 4
        """Carriers that leave descriptors to connections to the service."""
        config = ServerConfig(size=options.size, idle=options.idle, linger=options.linger)
        self.serve(ServerEnd(config, options.keys, random.SystemRandom(), self.reactor.now))
        self._dialler = TcpDialler(self.endpoints, options.forward, self.log)
        self._listeners = [Listener(self.reactor, sock, self._accepted, self._has_room, self.log) for sock in sockets]
        self.address = Address(options.l_fling.host, self._listeners[0].port)
        """Where client ends connect; with the port that was chosen where port 0 was asked for."""
        self.logger.log(INFO, "listening on %s, forwarding to %s", self.address, options.forward)

    def open_stream(self, stream: Stream, now: float) -> None:
        """Connect to the service; while draining that is refused, though carriers are still accepted."""
        if self.draining:
            stream.reset(REFUSED)
        else:
            self._dialler.open(stream, now)

    def _has_room(self) -> bool:
        return len(self.carriers.open) < self.max_carriers

    def _accepted(self, sock: socket.socket, host: str, now: float) -> None:
        self.carriers.accepted(sock, self.end.accepted(host, now))
