"""The windows that all streams of a session share, against sums kept by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcsplitter.credit import FIRST_WINDOWS, INITIAL_WINDOW, SESSION_WINDOW, ReceiveWindow, SendWindow, first_windows
from tcsplitter.errors import RemoteProtocolError

QUARTER = SESSION_WINDOW // 4


# --- sending


@given(st.lists(st.tuples(st.sampled_from(["write", "send", "drop", "grant"]), st.integers(0, SESSION_WINDOW)), max_size=40))
def test_a_send_window_is_two_sums(steps: list[tuple[str, int]]) -> None:
    window = SendWindow()
    sent, unsent, limit = 0, 0, SESSION_WINDOW
    for what, wish in steps:
        count = wish
        if what == "write":
            unsent += count
            window.unsent += count
        elif what == "send":
            count = min(count, unsent, limit - sent)
            sent, unsent = sent + count, unsent - count
            window.took(count)
        elif what == "drop":
            count = min(count, unsent)
            unsent -= count
            window.unsent -= count
        else:
            assert window.raise_limit(sent + count) is (sent + count > limit)
            limit = max(limit, sent + count)
        assert window.total == sent
        assert window.left() == limit - sent
        assert window.room() == max(0, limit - sent - unsent)


@pytest.mark.parametrize(
    ("total", "news"), [(0, False), (SESSION_WINDOW - 1, False), (SESSION_WINDOW, False), (SESSION_WINDOW + 1, True)]
)
def test_only_a_larger_credit_is_news(total: int, news: bool) -> None:
    window = SendWindow()
    assert window.raise_limit(total) is news
    assert window.limit == max(total, SESSION_WINDOW)


# --- receiving


def test_the_credit_may_be_used_up_and_not_exceeded() -> None:
    window = ReceiveWindow()
    window.count(SESSION_WINDOW)
    window.count(0)
    with pytest.raises(RemoteProtocolError, match=f"{SESSION_WINDOW + 1} bytes in all with a credit of {SESSION_WINDOW}"):
        window.count(1)
    assert window.held == SESSION_WINDOW


@pytest.mark.parametrize(
    ("received", "back"),
    [(QUARTER, QUARTER), (SESSION_WINDOW // 2, SESSION_WINDOW // 6 + 1), (SESSION_WINDOW - QUARTER, QUARTER // 3 + 1)],
)
def test_credit_is_granted_by_the_quarter_of_what_is_left(received: int, back: int) -> None:
    window = ReceiveWindow()
    window.count(received)
    assert not window.give_back(back - 4)
    assert window.limit == SESSION_WINDOW
    assert window.give_back(4)
    assert window.limit == SESSION_WINDOW + back
    assert window.held == received - back


def test_where_nothing_is_left_credit_is_granted_by_the_quarter_of_a_first_window() -> None:
    window = ReceiveWindow()
    window.count(SESSION_WINDOW)
    assert not window.give_back(INITIAL_WINDOW // 4 - 1)
    assert window.give_back(1)


def test_what_is_left_shrinks_by_a_third_at_a_time() -> None:
    window = ReceiveWindow()
    window.count(SESSION_WINDOW // 3)
    assert not window.has_shrunk()
    window.count(2)
    assert window.has_shrunk()
    assert not window.has_shrunk()
    window.give_back(window.held)
    window.count(SESSION_WINDOW // 2)
    assert window.has_shrunk()


@given(st.lists(st.tuples(st.sampled_from(["comes", "read", "streams", "wider"]), st.integers(0, SESSION_WINDOW)), max_size=60))
def test_a_receive_window_holds_no_more_than_its_size_and_never_stalls(steps: list[tuple[str, int]]) -> None:
    window = ReceiveWindow()
    received = returned = most = 0
    limit, size = window.limit, SESSION_WINDOW
    for what, wish in steps:
        if what == "comes":
            count = min(wish, window.limit - received)
            window.count(count)
            received += count
        else:
            count = min(wish, received - returned) * (what == "read")
            returned += count
            if what == "streams":
                window.streams = wish % (2 * FIRST_WINDOWS)
                most = max(most, window.streams)
            elif what == "wider":
                window.widen(3 * wish)
                size = max(size, 3 * wish)
            assert window.give_back(count) is (window.limit > limit)
        assert window.held == received - returned <= size + first_windows(most)
        assert limit <= window.limit <= returned + size + first_windows(most)
        assert window.limit > returned + size + first_windows(window.streams) - size // 4
        limit = window.limit


def test_first_windows_are_granted_once_others_hold_all() -> None:
    window = ReceiveWindow()
    window.count(SESSION_WINDOW)
    window.streams = 1
    assert window.give_back(0)
    assert window.limit == SESSION_WINDOW + INITIAL_WINDOW
    window.streams = FIRST_WINDOWS + 1
    assert window.give_back(0)
    assert window.limit == SESSION_WINDOW + FIRST_WINDOWS * INITIAL_WINDOW
    window.streams += 1
    assert not window.give_back(0)
