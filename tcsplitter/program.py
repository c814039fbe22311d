"""What the programs of both ends have in common: the order of a wake, and how they end."""

import gc
import logging
import os
import random
import resource
import signal
import threading
from math import inf
from typing import Protocol

# cryptography loads this when it first makes a key; by then descriptors may have run out.
import cryptography.hazmat.backends.openssl.backend  # noqa: F401

from tcsplitter.endpoints import Endpoints
from tcsplitter.flows import Flow
from tcsplitter.log import LimitedLog
from tcsplitter.net import Listener
from tcsplitter.options import Address, Knobs
from tcsplitter.outbox import Outbox
from tcsplitter.payload import SMALL
from tcsplitter.reactor import Reactor
from tcsplitter.shared import Handling
from tcsplitter.stats import counted_line
from tcsplitter.streams import REFUSED, Stream
from tcsplitter.transport import Carriers, Dialler, End
from tcsplitter.udp import UdpCounters

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # ssh sends SIGHUP to a ProxyCommand when it is done
DRAIN_SECONDS = 2.5  # for open streams to end, after the first SIGTERM
LAST_SECONDS = 0.25  # for the last shots to leave, after that
COUNTING = (signal.SIGUSR1,)  # asks for the counters
PACKET_OVERHEAD, PACKET_OVERHEAD_V6 = 52, 72  # bytes of a packet that carry no data: headers of IP and TCP, with time stamps
SHOT_OVERHEAD = 120  # bytes that a shot adds to one payload, with an ack and the hello in front
SETTLE_ROUNDS = 32  # of asking the protocol what is next, in one wake
KEPT_MEMORY = 4_194_304  # bytes that glibc does not give back at once, only to be given them anew in the next wake


class Chance(random.Random):
    """What is left to chance: keys and ids by the system's generator, times by one that costs no system call."""

    def randbytes(self, n: int) -> bytes:
        return os.urandom(n)


class RunnableEnd(End, Protocol):
    """An end as a program runs it; ClientEnd and ServerEnd."""

    outbox: Outbox

    @property
    def idle(self) -> bool: ...
    def flush(self, now: float) -> None: ...
    def deadline(self) -> float: ...
    def stop(self, now: float) -> None: ...
    def counted(self) -> list[tuple[str, dict[str, int]]]: ...
    def clock_jumped(self, now: float) -> None: ...


class Program:
    """An end with its sockets. `run` serves until a signal of ENDING, or `stop`: the first drains, a second ends it at once."""

    def __init__(self, name: str, knobs: Knobs) -> None:
        self.logger = logging.getLogger(f"tcsplitter.{name}")
        self.log = LimitedLog(self.logger)
        self.reactor = reactor = Reactor(fine=bool(knobs.tick or knobs.tock or knobs.playout.beat))
        self.endpoints = Endpoints(reactor, knobs.tick)
        self.udp = UdpCounters()
        self.exit_code = 0
        self.ready = ""
        """What `run` says when it has begun, and signals are heeded."""
        self.draining = False
        self.end: RunnableEnd
        self.carriers: Carriers
        self._listeners: list[Listener] = []
        self._drained = reactor.timer(self._finish)
        self._left = reactor.timer(self._leave)
        reactor.before_sleep = self._settle

    def serve(self, end: RunnableEnd, dialler: Dialler | None = None) -> None:
        """Run this end, on carriers that `dialler` opens, or else on those that are accepted."""
        self.end = end
        self.carriers = Carriers(self.reactor, end, dialler)
        self.reactor.on_jump = end.clock_jumped
        self.reactor.wake_by = self.reactor.now

    def run(self) -> int:
        """Serve until stopped; returns the exit code."""
        try:
            if threading.current_thread() is threading.main_thread():
                heeded = [each for each in ENDING if signal.getsignal(each) is not signal.SIG_IGN]  # nohup ignores SIGHUP
                self.reactor.catch_signals(heeded, self._asked_to_stop)
                self.reactor.catch_signals(COUNTING, lambda _now: self._log_counters(self._asked_level))
            if self.ready:
                self.logger.log(logging.INFO, self.ready)
            gc.freeze()  # modules and classes stay for good: to look through them takes milliseconds
            bytes(KEPT_MEMORY)  # freeing so much at once is what tells it (mallopt(3), M_MMAP_THRESHOLD)
            self.reactor.run()
        finally:
            self._log_counters(logging.DEBUG)
            self.close()
        return self.exit_code

    def stop(self) -> None:
        """What SIGTERM does. May be called from any thread."""
        self.reactor.call(self._asked_to_stop)

    def close(self) -> None:
        """Cut off whatever is open. `run` does this at its end."""
        for listener in self._listeners:
            listener.close()
        self.endpoints.reset_all()
        self.carriers.close_all()
        self.reactor.close()

    def open_stream(self, stream: Stream, _now: float) -> None:
        """The other end opened a stream; who serves none refuses it."""
        stream.reset(REFUSED)

    def open_flow(self, flow: Flow, now: float) -> None:
        """The other end opened a flow; who serves none leaves it to its end."""

    def stop_accepting(self) -> None:
        """The drain begins: take no new work on."""

    def tend(self, now: float) -> None:
        """What can wait until all that is to be sent was sent; a server end has nothing of that kind."""

    def settled(self, now: float) -> None:
        """The end of a wake, after the protocol was served."""

    def _asked_to_stop(self, now: float) -> None:
        if self.draining:
            self.reactor.stop()
            return
        self.draining = True
        self.stop_accepting()
        self._drained.at(now if self.end.idle else now + DRAIN_SECONDS)

    def _settle(self, now: float) -> float:
        """The end of a wake: let the protocol say what is next, and do it. Returns when it has to be asked again."""
        deadline = now
        for _ in range(SETTLE_ROUNDS):
            by = self._ask_protocol(now)
            if by is not None:
                deadline = by
                break
        if self.end.outbox.notes:
            self._tell_user(now)
        self.carriers.settle(now)
        if self.draining:
            self._drain(now)
        self.settled(now)
        return deadline

    def _ask_protocol(self, now: float) -> float | None:
        """One round; None if there has to be another one at once."""
        end, outbox = self.end, self.end.outbox
        if outbox.news:
            self._pass_news(now)
        end.flush(now)
        if outbox.actions:
            self._act(now)
        self.tend(now)
        deadline = end.deadline()
        return None if deadline == -inf or outbox.news or outbox.actions else deadline

    def _pass_news(self, now: float) -> None:
        """Let the local side look at the streams and flows whose state changed."""
        for member in self.end.outbox.take_news():
            if member.app is not None:
                member.app.update(now)
            elif isinstance(member, Flow):
                if not member.closed:
                    self.open_flow(member, now)
            elif member.reset_code is None and member.sent_reset is None:
                self.open_stream(member, now)

    def _tell_user(self, now: float) -> None:
        for note in self.end.outbox.take_notes():
            if note.key:
                self.log.log(note.level, note.key, note.text, now)
            else:
                self.logger.log(note.level, note.text)

    def _act(self, now: float) -> None:
        """Do what the protocol has asked for so far."""
        self.carriers.execute(self.end.outbox.take_actions(), now)

    @property
    def _asked_level(self) -> int:
        """For what the user asked for: it is said however little is said otherwise."""
        return max(logging.INFO, self.logger.getEffectiveLevel())

    def _log_counters(self, level: int) -> None:
        """Say what was counted, a line for each session; who asked is told also that there is none."""
        udp = {f"udp_{name}": count for name, count in self.udp.as_dict().items() if count}
        counted = self.end.counted()
        for name, of_session in counted:
            self.logger.log(level, counted_line(name, of_session | udp))
        if not counted and level >= logging.INFO:
            self.logger.log(level, "counted: no session")

    def _drain(self, now: float) -> None:
        if self._left.when != inf:
            if not self.carriers.open:
                self.reactor.stop()
        elif self.end.idle:
            self._drained.at(now)

    def _finish(self, now: float) -> None:
        self.end.stop(now)
        self._left.at(now + LAST_SECONDS)

    def _leave(self, _now: float) -> None:
        self.reactor.stop()


def handling_of(knobs: Knobs, carriers: Address) -> Handling:
    """What of the options is for the protocol to act on; `carriers`: where they lead, or come in."""
    return Handling(
        size=payload_size(knobs.size or SMALL, knobs.mtu, ":" in carriers.host),
        grows=knobs.size is None and not knobs.mtu,
        tock=knobs.tock,
        playout=knobs.playout,
        retries=knobs.retries,
        fec=knobs.fec,
        hedge=knobs.hedge,
        deadline=knobs.deadline,
        flow_idle=knobs.flow_idle,
        rate=knobs.rate,
        polite=knobs.polite,
    )


def payload_size(size: int, mtu: int, ipv6: bool) -> int:
    """`size`, or where segments are set by the user so much less that a shot fills whole ones, if it fills one at all."""
    segment = mtu - (PACKET_OVERHEAD_V6 if ipv6 else PACKET_OVERHEAD)
    whole = (size + SHOT_OVERHEAD) // segment * segment - SHOT_OVERHEAD if mtu else size
    return whole if whole > 0 else size


def raise_descriptor_limit(wanted: int, least: int, log: logging.Logger) -> int:
    """Raise the soft limit of open files to `wanted`, as far as the hard limit goes; warn below `least`. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY:
        return wanted
    if soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if max(soft, limit) < least:
        log.warning("only %d files may be open and %d may be needed; raise the hard limit (ulimit -Hn)", limit, least)
    return max(soft, limit)
