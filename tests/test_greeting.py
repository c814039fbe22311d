"""When the hello of a fresh carrier leaves: with a shot where one can take it along, and soon in any case."""

from session_pair import CLIENT, NOW, SIZE, Pair

from tcsplitter.carrier import Carrier, Op
from tcsplitter.modes import Kind
from tcsplitter.sending import GREET_SECONDS

HELLO = 42  # bytes with the session's id


def connected(pair: Pair) -> Carrier:
    """A carrier that was connected after the last flush."""
    carrier = Carrier(Kind.FLING, NOW)
    pair.client.hello(carrier, 25.0, pair.now)
    return carrier


def written(pair: Pair, carrier: Carrier) -> list[bytes]:
    return [data for op, where, data in pair.outboxes[CLIENT].take_actions() if op is Op.WRITE and where is carrier]


def test_where_nothing_waits_it_leaves_at_once() -> None:
    pair = Pair()
    carrier = connected(pair)
    assert not written(pair, carrier)
    pair.client.greet()
    (hello,) = written(pair, carrier)
    assert len(hello) == HELLO
    pair.client.flush(pair.now)
    assert not written(pair, carrier)


def test_where_something_waits_a_shot_takes_it_along() -> None:
    pair = Pair(carriers=0)
    pair.client.streams.open().write(bytes(SIZE // 2))
    carrier = connected(pair)
    pair.client.greet()
    assert not written(pair, carrier)
    pair.client.flush(pair.now)
    (both,) = written(pair, carrier)
    assert len(both) > HELLO + SIZE // 2


def test_it_does_not_wait_for_long() -> None:
    pair = Pair()
    assert pair.client.deadline() > pair.now + GREET_SECONDS
    carrier = connected(pair)
    assert pair.client.deadline() <= pair.now + GREET_SECONDS
    pair.client.flush(pair.now + GREET_SECONDS)
    assert len(written(pair, carrier)) == 1
