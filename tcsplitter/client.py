"""The client end as a program: local programs connect to it, it dials the server end."""

from logging import ERROR

from tcsplitter._tcp import TcpSocket
from tcsplitter.client_end import ClientConfig, ClientEnd
from tcsplitter.endpoints import as_local
from tcsplitter.modes import MODES, Kind
from tcsplitter.net import Listener, listen_on
from tcsplitter.options import Address, ClientOptions
from tcsplitter.program import Chance, Program, handling_of, raise_descriptor_limit
from tcsplitter.stdio import StdioEndpoint
from tcsplitter.streams import REFUSED
from tcsplitter.transport import Dialler
from tcsplitter.tuning import Tuning, unpaced
from tcsplitter.udp import UdpListener, bind_udp

LISTEN_BACKLOG = 1024
_LOCAL_DESCRIPTORS = 16_384  # for connections of local programs
_SPARE_DESCRIPTORS = 64  # for what is neither a carrier nor a local program


class _Client(Program):
    """A client end without anything on the local side."""

    end: ClientEnd

    def __init__(self, options: ClientOptions, name: str) -> None:
        super().__init__(name, options)
        config = ClientConfig(
            handling=handling_of(options, options.r_fling),
            mode=MODES[options.dup],
            reuse=options.reuse,
            conns=options.conns,
            lassoes=options.lassoes,
            burst=options.burst,
            sync=options.r_sync is not None,
            retry=options.r_fling_r is not None,
            protocol=options.protocol,
            after=options.playout.after,
            idle=options.idle,
            linger=options.linger,
        )
        # Carriers that are closing overlap with those that take their place.
        for_carriers = 2 * sum(max(pool) for pool in config.pools.values()) + _SPARE_DESCRIPTORS
        limit = raise_descriptor_limit(for_carriers + _LOCAL_DESCRIPTORS, for_carriers, self.logger)
        self.max_programs = limit - min(limit // 2, for_carriers)
        """Local connections that leave descriptors to carriers."""
        ((name_of_key, psk),) = options.keys.items()
        end = ClientEnd(config, name_of_key, psk, Chance(), self.reactor.now)
        addresses = {
            Kind.FLING: options.r_fling,
            Kind.LASSO: options.r_lasso or options.r_fling,
            Kind.SYNC: options.r_sync or options.r_fling,
            Kind.RETRY: options.r_fling_r or options.r_fling,
        }
        self.serve(end, Dialler(self.reactor, addresses, end, Tuning(options.mtu, options.size or 0, options.reuse != 1)))

    def tend(self, now: float) -> None:
        """Dial, and whatever else can wait; who is connected at once greets at once."""
        end = self.end
        end.tend(now)
        if end.outbox.actions:
            self._act(now)
        end.session.greet()
        if end.outbox.actions:
            self._act(now)

    def settled(self, _now: float) -> None:
        """Stop if the server end refused for good."""
        if self.end.failed is not None and not self.reactor.stopped:
            self.logger.log(ERROR, self.end.failed)
            self.exit_code = 1
            self.reactor.stop()


class ClientProgram(_Client):
    """Listens on `options.listen` from the moment it is made; ConfigError if it cannot. `run` serves."""

    def __init__(self, options: ClientOptions) -> None:
        datagrams = options.protocol == "udp"
        if datagrams:
            sockets = bind_udp("--listen", options.listen)
        else:
            sockets = listen_on("--listen", options.listen, LISTEN_BACKLOG, unpaced)
        super().__init__(options, "client")
        self._udp_listeners: list[UdpListener] = []
        for sock in sockets:
            if datagrams:
                flows = UdpListener(self.reactor, sock, self.end.open_flow, options.tick, self.log, self.udp)
                self._udp_listeners.append(flows)
            else:
                self._listeners.append(Listener(self.reactor, sock, self._accepted, self._has_room, self.log))
        self.address = Address(options.listen.host, (self._udp_listeners or self._listeners)[0].port)
        """Where local programs connect; with the port that was chosen where port 0 was asked for."""
        self.ready = f"listening on {self.address}, server {options.r_fling}"

    def stop_accepting(self) -> None:
        """Take no new programs on."""
        for listener in self._listeners:
            listener.close()

    def close(self) -> None:
        """Cut off the flows, too."""
        for listener in self._udp_listeners:
            listener.close_all()
        super().close()

    def _has_room(self) -> bool:
        return len(self.endpoints.open) < self.max_programs

    def _accepted(self, sock: TcpSocket, _host: str, now: float) -> None:
        self.endpoints.join(as_local(sock), self.end.open_stream(now), now)


class _Connect(_Client):
    """A client end for one stream, joined to two descriptors."""

    def __init__(self, options: ClientOptions, fd_in: int, fd_out: int) -> None:
        super().__init__(options, "connect")
        self.exit_code = 1  # until the stream ends in order
        self._over = False
        self._stream = self.end.open_stream(self.reactor.now)
        self._stdio = StdioEndpoint(self.reactor, self._stream, fd_in, fd_out, self._ended, options.tick)
        self._stdio.update(self.reactor.now)

    def close(self) -> None:
        """Give the descriptors back as they were, too."""
        self._stdio.close()
        super().close()

    def settled(self, now: float) -> None:
        """Leave when the stream has ended; after a clean end only once the other end has everything."""
        super().settled(now)
        if self._over and not self.draining and (self.exit_code or self.end.idle):
            self.stop()

    def _ended(self, clean: bool) -> None:
        self._over = True
        if clean:
            self.exit_code = 0
        elif self._stdio.failure:
            self.logger.warning(self._stdio.failure)
        elif self.draining:
            self.logger.warning("stopped before the stream had ended")
        elif self._stream.reset_code == REFUSED:
            self.logger.warning("refused: the server end cannot reach its --forward")
        else:
            self.logger.warning("the stream was reset")


def run_connect(options: ClientOptions, fd_in: int = 0, fd_out: int = 1) -> int:
    """Join stdin and stdout to one stream. Returns 0 when both directions ended in order, else 1."""
    return _Connect(options, fd_in, fd_out).run()
