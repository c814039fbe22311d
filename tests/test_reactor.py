"""The event loop on real descriptors: timers, stale keys, deferred closes, wake-ups."""

import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from functools import partial
from math import inf
from selectors import EVENT_READ, EpollSelector
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import Clock

from tcsplitter.reactor import _DEAD_TIMERS, JUMP, Reactor, _Poller
from tcsplitter.watched import Watched

pytestmark = pytest.mark.alone


class Listening(Watched):
    """Calls a function when its descriptor is readable."""

    def __init__(self, reactor: Reactor, fd: int, callback: Callable[["Listening"], None]) -> None:
        super().__init__(reactor, fd)
        self._callback = callback
        self.watch(EVENT_READ)

    def on_ready(self, events: int, now: float) -> None:
        assert events & EVENT_READ
        assert now == self.reactor.now
        self._callback(self)


@pytest.fixture(params=[False, True], ids=["coarse", "fine"])
def reactor(request: pytest.FixtureRequest) -> Generator[Reactor, None, None]:
    reactor = Reactor(fine=request.param)
    yield reactor
    reactor.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stepped(clock: Clock) -> Generator[Reactor, None, None]:
    """A reactor on the clock that the test moves."""
    reactor = Reactor(clock)
    yield reactor
    reactor.close()


@given(
    st.lists(st.tuples(st.integers(0, 9), st.floats(0, 20)), max_size=60), st.lists(st.floats(0.1, 4.9), min_size=1, max_size=20)
)
def test_timers_fire_once_in_order_and_never_early(moves: list[tuple[int, float]], steps: list[float]) -> None:
    clock = Clock()
    reactor = Reactor(clock)
    fired: list[int] = []
    expected: dict[int, float] = {}

    def fire(index: int) -> Callable[[float], None]:
        def callback(now: float) -> None:
            assert expected.pop(index) <= now
            fired.append(index)

        return callback

    timers = [reactor.timer(fire(index)) for index in range(10)]
    for index, delay in moves:
        timers[index].at(clock.now + delay)
        expected[index] = clock.now + delay
    for step in steps:
        reactor.call(lambda _now: None)  # so that the wake does not wait
        clock.now += step
        reactor.wake()
        assert all(when > clock.now for when in expected.values())
    assert len(fired) + len(expected) == len({index for index, _ in moves})
    reactor.close()


def test_a_timer_on_the_real_clock_is_not_early(reactor: Reactor) -> None:
    times: list[float] = []
    due = [reactor.clock() + delay for delay in (0.0, 0.0004, 0.0031, 0.01)]
    for when in due:
        reactor.timer(times.append).at(when)
    while len(times) < len(due):
        reactor.wake()
    assert all(fired >= when for fired, when in zip(times, due, strict=True))
    assert times[-1] - due[-1] < 1.0


def overshoots(reactor: Reactor, delays: Sequence[float]) -> list[float]:
    """How late timers are, in seconds; `delays` are in milliseconds."""
    late: list[float] = []
    for milliseconds in delays:
        due = reactor.clock() + milliseconds / 1000
        timer = reactor.timer(lambda now, due=due: late.append(now - due))  # type: ignore[misc]
        timer.at(due)
        while timer.when != inf:
            reactor.wake()
    return late


@pytest.mark.parametrize("delays", [(0.2, 1.1, 4.1), (11.1, 13.1, 25.1)], ids=["short", "long"])
def test_fine_timers_are_late_by_far_less_than_a_millisecond(delays: tuple[float, ...]) -> None:
    """They would be by some 0.8 ms if waits ended at whole milliseconds."""
    reactor = Reactor(fine=True)
    rounds = [overshoots(reactor, delays * 5) for _ in range(3)]
    assert min(map(min, rounds)) >= 0
    assert min(map(median, rounds)) < 0.0004
    reactor.close()


def test_without_fine_timers_waits_take_one_system_call() -> None:
    reactor = Reactor()
    assert type(reactor._selector) is _Poller
    reactor.close()


@given(
    st.lists(
        st.tuples(st.sampled_from(["quiet", "readable", "full", "closed"]), st.lists(st.integers(1, 3), min_size=1)), max_size=8
    )
)
def test_the_poller_finds_what_the_selector_of_the_library_finds(cases: list[tuple[str, list[int]]]) -> None:
    """Sockets in several states, whose interest is changed a few times; in the end half of them are forgotten, and closed."""
    with ExitStack() as stack, EpollSelector() as reference, _Poller() as poller:
        for state, interests in cases:
            near, far = socket.socketpair()
            stack.callback(near.close)
            stack.callback(far.close)
            near.setblocking(False)
            if state == "readable":
                far.send(b"x")
            elif state == "closed":
                far.close()
            while state == "full":
                try:
                    near.send(bytes(65_536))
                except BlockingIOError:
                    break
            for each in (reference, poller):
                each.register(near.fileno(), interests[0], near)
                for events in interests[1:]:
                    each.modify(near.fileno(), events, near)
        assert poller.select(0) == reference.select(0)
        assert dict(poller.get_map()) == {key.fd: key for key in reference.get_map().values()}
        for number, key in enumerate(list(poller.get_map().values())):
            if number % 2:
                poller.unregister(key.fd)
            else:
                poller.forget(key.fd)
                key.data.close()
        assert poller.select(0) == []
        assert not poller.get_map()


@pytest.mark.parametrize("moment", [0.002, 0.03], ids=["in the last stretch", "before it"])
def test_a_call_ends_a_fine_wait_at_once(moment: float) -> None:
    reactor = Reactor(fine=True)
    reactor.timer(lambda _now: None).at(reactor.clock() + (0.009 if moment < 0.009 else 2.0))
    woken: list[float] = []
    started = reactor.clock()
    caller = threading.Timer(moment, reactor.call, [woken.append])
    caller.start()
    while not woken:
        reactor.wake()
    caller.join()
    assert woken[0] - started < 1.0
    reactor.close()


def test_fine_waits_are_coarse_where_select_cannot_wait() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        with ExitStack() as stack:
            for _ in range(1100):
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
            reactor = Reactor(fine=True)
            stack.callback(reactor.close)
            fired: list[float] = []
            due = reactor.clock() + 0.0012
            reactor.timer(fired.append).at(due)
            while not fired:
                reactor.wake()
            assert fired[0] >= due
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_timer_can_be_moved_and_cancelled(stepped: Reactor, clock: Clock) -> None:
    fired: list[str] = []

    def note(name: str, _now: float) -> None:
        fired.append(name)

    kept, moved, cancelled = (stepped.timer(partial(note, name)) for name in ("kept", "moved", "cancelled"))
    for timer in (kept, moved, cancelled):
        timer.at(clock.now + 1)
    moved.at(clock.now + 3)
    cancelled.cancel()
    assert cancelled.when == inf
    clock.now += 2
    stepped.wake()
    assert fired == ["kept"]
    clock.now += 2
    stepped.wake()
    assert fired == ["kept", "moved"]


def test_a_timer_armed_by_a_timer_waits_for_the_next_wake(stepped: Reactor, clock: Clock) -> None:
    fired: list[float] = []

    def again(now: float) -> None:
        fired.append(now)
        timer.at(now)

    timer = stepped.timer(again)
    timer.at(clock.now)
    stepped.wake()
    assert len(fired) == 1
    stepped.wake()
    assert len(fired) == 2


def test_dead_timers_are_bounded(stepped: Reactor, clock: Clock) -> None:
    fired: list[float] = []
    timer = stepped.timer(fired.append)
    for count in range(10_000):
        timer.at(clock.now + 1 + count)
    assert len(stepped._timers) <= 2 * _DEAD_TIMERS + 2
    clock.now += 10_000
    stepped.call(lambda _now: None)
    stepped.wake()
    assert fired == [clock.now]


@pytest.mark.parametrize(("late", "jumps"), [(JUMP - 0.1, 0), (JUMP + 0.1, 1)])
def test_a_clock_jump_is_reported_first(stepped: Reactor, clock: Clock, late: float, jumps: int) -> None:
    seen: list[str] = []
    stepped.on_jump = lambda _now: seen.append("jump")
    stepped.timer(lambda _now: seen.append("timer")).at(clock.now + 0.001)
    before = clock.now

    def select(timeout: float) -> list[object]:
        clock.now = before + timeout + late
        return []

    stepped._selector.select = select  # type: ignore[method-assign, assignment]
    stepped.wake()
    assert seen == ["jump"] * jumps + ["timer"]


def test_all_that_follows_in_a_wake_has_the_time_at_which_the_clock_was_read_last(stepped: Reactor, clock: Clock) -> None:
    seen: list[float] = []
    with ExitStack() as stack:
        for _ in range(3):
            inner, outer = map(stack.enter_context, socket.socketpair())

            def read(source: Listening) -> None:
                seen.append(source.reactor.now)
                clock.now += 0.25
                assert source.reactor.read_clock() == clock.now

            Listening(stepped, inner.fileno(), read)
            outer.send(b"x")
        began = clock.now

        def before_sleep(now: float) -> float:
            seen.append(now)
            return inf

        stepped.before_sleep = before_sleep
        stepped.timer(seen.append).at(began + 0.6)
        stepped.wake()
    assert seen == [began + 0.25 * step for step in (0, 1, 2, 3, 3)]


def test_time_that_passed_in_a_wake_is_a_jump_for_the_next(stepped: Reactor, clock: Clock) -> None:
    seen: list[float] = []
    stepped.on_jump = seen.append

    def sleep(_now: float) -> None:
        clock.now += 3 * JUMP  # the next wait is one of JUMP at the most
        stepped.read_clock()

    stepped.call(sleep)
    stepped.wake()
    assert not seen
    stepped.call(lambda _now: None)
    stepped.wake()
    assert seen == [clock.now]


def test_a_stale_key_of_a_closed_object_is_skipped(reactor: Reactor) -> None:
    """Two sockets are ready; whichever is served first closes the other, whose number then goes to a new socket."""
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(2)]
        for pair in pairs:
            for sock in pair:
                stack.callback(sock.close)
            pair[1].send(b"x")
        served: list[Listening] = []

        def serve(source: Listening) -> None:
            served.append(source)
            other = next(each for each in sources if each is not source)
            other.closed = True
            other.watch(0)
            reused = os.dup2(source.fd, other.fd)
            Listening(reactor, reused, lambda each: each.watch(0)).closed = False
            source.watch(0)

        sources = [Listening(reactor, pair[0].fileno(), serve) for pair in pairs]
        reactor.wake()
        assert len(served) == 1


def test_deferred_closes_come_last_in_the_wake(reactor: Reactor) -> None:
    inner, outer = socket.socketpair()
    open_at: list[tuple[str, bool]] = []

    def close(source: Listening) -> None:
        source.closed = True
        source.watch(0)
        reactor.close_later(inner)
        open_at.append(("served", inner.fileno() >= 0))

    Listening(reactor, inner.fileno(), close)

    def before_sleep(_now: float) -> float:
        open_at.append(("before sleep", inner.fileno() >= 0))
        return inf

    reactor.before_sleep = before_sleep
    with outer:
        outer.send(b"x")
        reactor.wake()
    assert open_at == [("served", True), ("before sleep", True)]
    assert inner.fileno() == -1


@pytest.mark.parametrize("sooner", ["the hook", "a timer"])
def test_it_wakes_when_the_hook_asked_for_that_or_a_timer_is_due(reactor: Reactor, sooner: str) -> None:
    """Whichever comes first; what the hook said before that counts no more."""
    hook, timer = (0.02, 0.2) if sooner == "the hook" else (0.2, 0.02)
    fired: list[float] = []
    began = reactor.clock()
    asked = iter([began + 0.01, began + hook, inf])
    reactor.before_sleep = lambda _now: next(asked)
    reactor.timer(fired.append).at(began + timer)
    reactor.wake_by = began
    for due in (0.0, 0.01, 0.02):
        reactor.wake()
        assert due <= reactor.now - began < due + 0.1
    assert bool(fired) == (sooner == "a timer")


def test_what_a_call_closes_is_closed_without_another_wake(reactor: Reactor) -> None:
    inner, outer = socket.socketpair()
    reactor.call(lambda _now: reactor.close_later(inner))
    reactor.wake()
    assert inner.fileno() == -1
    outer.close()


@pytest.mark.parametrize("leaves", [False, True])
def test_what_rests_is_not_served_whether_it_leaves_or_stays(reactor: Reactor, leaves: bool) -> None:
    """The descriptor of one that leaves in the same wake is another's by the next one, and is served for that."""
    heard: list[str] = []
    near, far = socket.socketpair()
    with near, far:
        far.send(b"x")

        def rest(source: Listening) -> None:
            heard.append("first")
            source.rest(0)
            if leaves:
                source.closed = True
                source.leave(near)

        first = Listening(reactor, near.fileno(), rest)
        reactor.wake()
        number = first.fd
        reactor.call(lambda _now: None)
        if leaves:
            other, its_peer = socket.socketpair()
            with other, its_peer:
                assert number in (other.fileno(), its_peer.fileno())
                its_peer.send(b"x")
                other.send(b"x")
                named = other if other.fileno() == number else its_peer
                second = Listening(reactor, named.fileno(), lambda _source: heard.append("second"))
                reactor.wake()
                second.watch(0)
        else:
            reactor.wake()
        reactor.call(lambda _now: None)
        reactor.wake()
    assert heard == (["first", "second"] if leaves else ["first"])


def test_watch_can_pause_and_go_on(reactor: Reactor) -> None:
    inner, outer = socket.socketpair()
    with inner, outer:
        seen: list[bytes] = []
        source = Listening(reactor, inner.fileno(), lambda _source: seen.append(inner.recv(10)))
        source.watch(0)
        outer.send(b"x")
        reactor.call(lambda _now: None)
        reactor.wake()
        assert not seen
        source.watch(EVENT_READ)
        reactor.wake()
        assert seen == [b"x"]
        source.watch(0)


def test_a_call_from_another_thread_wakes_it_at_once(reactor: Reactor) -> None:
    threads: list[str] = []

    def stop(_now: float) -> None:
        threads.append(threading.current_thread().name)
        reactor.stop()

    caller = threading.Thread(target=reactor.call, args=(stop,))
    started = reactor.clock()
    caller.start()
    reactor.run()
    caller.join()
    assert threads == [threading.current_thread().name]
    assert reactor.clock() - started < JUMP / 2


def test_thousands_of_calls_are_neither_lost_nor_blocked(reactor: Reactor) -> None:
    calls: list[int] = []
    for number in range(5000):
        reactor.call(lambda _now, number=number: calls.append(number))  # type: ignore[misc]
    reactor.wake()
    assert calls == list(range(5000))


def test_signals_wake_it_and_handlers_are_restored() -> None:
    reactor = Reactor()
    before = signal.getsignal(signal.SIGTERM)
    caught: list[float] = []

    def count(now: float) -> None:
        caught.append(now)
        if len(caught) == 2:
            reactor.stop()

    reactor.catch_signals((signal.SIGTERM, signal.SIGINT), count)
    reactor.timer(lambda _now: os.kill(os.getpid(), signal.SIGTERM)).at(reactor.now)
    reactor.timer(lambda _now: os.kill(os.getpid(), signal.SIGINT)).at(reactor.now + 0.01)
    reactor.run()
    reactor.close()
    assert len(caught) == 2
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_more_than_1100_descriptors(reactor: Reactor) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        with ExitStack() as stack:
            pairs = [socket.socketpair() for _ in range(1150)]
            for pair in pairs:
                for sock in pair:
                    stack.callback(sock.close)
            seen: set[int] = set()
            sources = []
            for inner, outer in pairs:
                sources.append(Listening(reactor, inner.fileno(), lambda source: seen.add(source.fd)))
                outer.send(b"x")
            reactor.wake()
            assert len(seen) == 1150
            assert max(seen) > 1024
            for source in sources:
                source.watch(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_failing_callback_is_not_hidden(reactor: Reactor) -> None:
    def fail(_now: float) -> None:
        raise ZeroDivisionError

    reactor.timer(fail).at(0.0)
    with pytest.raises(ZeroDivisionError):
        reactor.run()
