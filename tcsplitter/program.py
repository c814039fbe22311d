"""What the programs of both ends have in common: the order of a wake, and how they end."""

import logging
import resource
import signal
import threading
from math import inf
from typing import Protocol

# cryptography loads this when it first makes a key; by then descriptors may have run out.
import cryptography.hazmat.backends.openssl.backend  # noqa: F401

from tcsplitter.endpoints import Endpoints
from tcsplitter.log import LimitedLog
from tcsplitter.net import Listener
from tcsplitter.outbox import Outbox
from tcsplitter.reactor import Reactor
from tcsplitter.streams import REFUSED, Stream
from tcsplitter.transport import Carriers, Dialler, End

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # ssh sends SIGHUP to a ProxyCommand when it is done
DRAIN_SECONDS = 2.5  # for open streams to end, after the first SIGTERM
LAST_SECONDS = 0.25  # for the last shots to leave, after that
SETTLE_ROUNDS = 32  # of asking the protocol what is next, in one wake


class RunnableEnd(End, Protocol):
    """An end as a program runs it; ClientEnd and ServerEnd."""

    outbox: Outbox

    @property
    def idle(self) -> bool: ...
    def flush(self, now: float) -> None: ...
    def deadline(self) -> float: ...
    def stop(self, now: float) -> None: ...
    def clock_jumped(self, now: float) -> None: ...


class Program:
    """An end with its sockets. `run` serves until a signal of ENDING, or `stop`: the first drains, a second ends it at once."""

    def __init__(self, name: str, reactor: Reactor) -> None:
        self.logger = logging.getLogger(f"tcsplitter.{name}")
        self.log = LimitedLog(self.logger)
        self.reactor = reactor
        self.endpoints = Endpoints(reactor)
        self.exit_code = 0
        self.draining = False
        self.end: RunnableEnd
        self.carriers: Carriers
        self._listeners: list[Listener] = []
        self._deadline = reactor.timer(_nothing)
        self._drained = reactor.timer(self._finish)
        self._left = reactor.timer(self._leave)
        reactor.before_sleep = self._settle

    def serve(self, end: RunnableEnd, dialler: Dialler | None = None) -> None:
        """Run this end, on carriers that `dialler` opens, or else on those that are accepted."""
        self.end = end
        self.carriers = Carriers(self.reactor, end, dialler)
        self.reactor.on_jump = end.clock_jumped
        self._deadline.at(self.reactor.now)

    def run(self) -> int:
        """Serve until stopped; returns the exit code."""
        try:
            if threading.current_thread() is threading.main_thread():
                heeded = [each for each in ENDING if signal.getsignal(each) is not signal.SIG_IGN]  # nohup ignores SIGHUP
                self.reactor.catch_signals(heeded, self._asked_to_stop)
            self.reactor.run()
        finally:
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

    def stop_accepting(self) -> None:
        """The drain begins: take no new work on."""

    def settled(self, now: float) -> None:
        """The end of a wake, after the protocol was served."""

    def _asked_to_stop(self, now: float) -> None:
        if self.draining:
            self.reactor.stop()
            return
        self.draining = True
        self.stop_accepting()
        self._drained.at(now if self.end.idle else now + DRAIN_SECONDS)

    def _settle(self, now: float) -> None:
        end, outbox = self.end, self.end.outbox
        for _ in range(SETTLE_ROUNDS):
            news = outbox.take_news()
            for stream in news:
                if stream.app is None:
                    self.open_stream(stream, now)
                else:
                    stream.app.update(now)
            end.flush(now)
            actions = outbox.take_actions()
            if actions:
                self.carriers.execute(actions, now)
            elif not news and not outbox.news:
                self._deadline.at(end.deadline())
                break
        else:
            self._deadline.at(now)
        for note in outbox.take_notes():
            if note.key:
                self.log.log(note.level, note.key, note.text, now)
            else:
                self.logger.log(note.level, note.text)
        self.carriers.settle(now)
        if self.draining:
            self._drain(now)
        self.settled(now)

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


def _nothing(_now: float) -> None:
    """The end is flushed at the end of every wake; this timer only ends the wait."""
