"""Which epoch seals, which still open, and when a new one is due."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shots import AEAD

from tcsplitter.keyring import (
    MAX_EPOCH_SHOTS,
    MAX_UNUSED,
    OLD_KEYS_SECONDS,
    REKEY_BYTES,
    REKEY_SECONDS,
    REKEY_SHOTS,
    Epoch,
    Keyring,
)

BOTH_ROLES = pytest.mark.parametrize("client", [True, False])


def make(client: bool, epochs: int) -> Keyring:
    """A ring with epochs 0, 1, … installed at 0 s, 1 s, …"""
    keys = Keyring(client)
    for number in range(epochs):
        keys.install(number, AEAD, AEAD, float(number))
    return keys


def get(keys: Keyring, number: int) -> Epoch:
    epoch = keys.get(number)
    assert epoch is not None
    return epoch


def sealing(keys: Keyring) -> int:
    assert keys.sealing is not None
    return keys.sealing.number


def known(keys: Keyring) -> list[int]:
    return [number for number in range(256) if keys.get(number) is not None]


@BOTH_ROLES
def test_without_keys_nothing_is_sealed_or_opened(client: bool) -> None:
    keys = make(client, 0)
    assert not keys.can_seal()
    assert known(keys) == []
    assert keys.check_at == inf


@BOTH_ROLES
def test_the_first_epoch_seals_at_once(client: bool) -> None:
    keys = make(client, 1)
    assert keys.can_seal()
    assert sealing(keys) == 0
    assert keys.check_at == inf


def test_a_client_seals_with_a_new_epoch_at_once() -> None:
    keys = make(True, 2)
    assert sealing(keys) == 1
    assert known(keys) == [0, 1]


def test_a_server_seals_with_a_new_epoch_when_the_client_has_used_it() -> None:
    keys = make(False, 2)
    assert sealing(keys) == 0
    keys.opened(get(keys, 0), 100, 5.0)
    assert sealing(keys) == 0
    keys.opened(get(keys, 1), 100, 6.0)
    assert sealing(keys) == 1


@BOTH_ROLES
def test_shots_of_an_old_epoch_change_nothing(client: bool) -> None:
    keys = make(client, 2)
    keys.opened(get(keys, 1), 100, 6.0)
    keys.opened(get(keys, 0), 100, 7.0)
    assert sealing(keys) == 1


def test_a_server_may_skip_an_epoch_that_was_never_used() -> None:
    keys = make(False, 3)
    keys.opened(get(keys, 2), 100, 6.0)
    assert sealing(keys) == 2
    assert [get(keys, number).expires_at for number in range(3)] == [6.0 + OLD_KEYS_SECONDS, inf, inf]


def test_an_old_epoch_opens_for_a_while() -> None:
    keys = make(True, 2)
    assert keys.check_at == 1.0 + OLD_KEYS_SECONDS
    keys.forget_old(keys.check_at - 0.001)
    assert known(keys) == [0, 1]
    keys.forget_old(keys.check_at)
    assert known(keys) == [1]
    assert keys.check_at == inf


def test_of_unused_epochs_the_oldest_makes_room() -> None:
    keys = make(False, 1 + MAX_UNUSED)
    assert known(keys) == list(range(1 + MAX_UNUSED))
    keys.install(1 + MAX_UNUSED, AEAD, AEAD, 0.0)
    assert known(keys) == [0, *range(2, 2 + MAX_UNUSED)]
    assert sealing(keys) == 0


@BOTH_ROLES
def test_a_cleared_ring_begins_again(client: bool) -> None:
    keys = make(client, 2)
    keys.clear()
    assert not keys.can_seal()
    assert known(keys) == []
    assert keys.check_at == inf
    keys.install(0, AEAD, AEAD, 9.0)
    assert sealing(keys) == 0


@pytest.mark.parametrize(
    ("sealed", "opened", "volume", "age", "worn"),
    [
        (0, 0, 0, 0.0, False),
        (REKEY_SHOTS - 1, REKEY_SHOTS - 1, REKEY_BYTES - 1, REKEY_SECONDS - 1, False),
        (REKEY_SHOTS, 0, 0, 0.0, True),
        (0, REKEY_SHOTS, 0, 0.0, True),
        (0, 0, REKEY_BYTES, 0.0, True),
        (0, 0, 0, REKEY_SECONDS, True),
    ],
)
def test_an_epoch_wears_by_shots_bytes_and_age(sealed: int, opened: int, volume: int, age: float, worn: bool) -> None:
    epoch = Epoch(0, AEAD, AEAD, 100.0)
    epoch.sealed, epoch.opened, epoch.volume = sealed, opened, volume
    assert epoch.worn(100.0 + age) is worn


def test_what_is_opened_is_counted() -> None:
    keys = make(True, 1)
    keys.opened(get(keys, 0), 100, 1.0)
    keys.opened(get(keys, 0), 50, 2.0)
    assert (get(keys, 0).opened, get(keys, 0).volume) == (2, 150)


@pytest.mark.parametrize(("sealed", "can_seal"), [(MAX_EPOCH_SHOTS - 1, True), (MAX_EPOCH_SHOTS, False)])
def test_a_worn_out_epoch_seals_nothing(sealed: int, can_seal: bool) -> None:
    keys = make(True, 1)
    get(keys, 0).sealed = sealed
    assert keys.can_seal() is can_seal


steps = st.tuples(st.sampled_from(["install", "open", "wait"]), st.integers(0, 7))


@given(st.booleans(), st.lists(steps, max_size=40))
def test_the_sealing_epoch_is_known_and_old_ones_go_in_time(client: bool, plan: list[tuple[str, int]]) -> None:
    keys, now, made, used = make(client, 1), 0.0, 1, {0: 0}
    newest = 0
    for what, number in plan:
        epoch = keys.get(number)
        if what == "install":
            keys.install(made, AEAD, AEAD, now)
            newest = made if client else newest
            made += 1
        elif what == "open" and epoch is not None:
            if not client and epoch.expires_at == inf and number not in used:
                newest = number
            used[number] = 1
            keys.opened(epoch, 1, now)
        elif what == "wait":
            now += 20.0 * number
            keys.forget_old(now)
        assert sealing(keys) == newest
        assert keys.get(newest) is keys.sealing
        expiries = [get(keys, n).expires_at for n in known(keys)]
        assert min(expiries) == keys.check_at > now
        assert all(at <= now + OLD_KEYS_SECONDS for at in expiries if at != inf)
