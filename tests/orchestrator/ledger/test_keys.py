"""Keys: shown once, kept as a digest, refused without a hint at what is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from orchestrator.ledger.keys import ANONYMOUS, CredentialError, KeyRing, Role, Shown, mint
from orchestrator.ledger.spenders import Spender
from orchestrator.store.records import Key


def minted(role: Role = Role.CLIENT, expires_unix_s: float | None = None) -> tuple[Key, str]:
    return mint("anne", role, now_unix_s=100.0, expires_unix_s=expires_unix_s, random=os.urandom)


def ring(*keys: Key, required: bool = True, now: Callable[[], float] = lambda: 200.0) -> KeyRing:
    return KeyRing(keys, required=required, clock_unix_s=now)


def test_a_good_key_says_who_calls() -> None:
    key, text = minted(Role.ADMIN)
    for header in (f"Bearer {text}", f"bearer {text}", f"BEARER {text}".encode()):
        caller = ring(key).identify(header)
        assert (caller.spender, caller.role) == (Spender("anne", key.key_id), Role.ADMIN)


def test_the_secret_is_in_nothing_that_is_kept() -> None:
    key, text = minted()
    assert text.rpartition("_")[2] not in repr(key)
    assert text.startswith(f"ewk_{key.key_id}_")
    assert len(text) < 80
    assert minted()[1] != text


def test_without_a_key_only_loopback_may_call() -> None:
    assert ring(required=False).identify(None) is ANONYMOUS
    with pytest.raises(CredentialError) as told:
        ring().identify(None)
    assert told.value.reason == "CREDENTIAL_INVALID"


KEY, TEXT = minted()
REVOKED = Key(KEY.key_id, KEY.digest, "anne", "client", 1.0, None, 150.0)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {TEXT}",
        TEXT,
        f"Bearer {TEXT[:-1]}",
        f"Bearer {TEXT}A",
        f"Bearer {TEXT}\0",
        f"Bearer {TEXT.replace('ewk', 'xxx')}",
        f"Bearer ewk_000000000000_{TEXT.rpartition('_')[2]}",
        f"Bearer {minted()[1]}",
        "Bearer ewk_' OR 1=1 --_x",
        "Bearer " + "A" * 10_000,
        b"Bearer \xff\xfe\x00",
        "Bearer ewk__",
        f"Bearer {TEXT} {TEXT}",
    ],
)
@pytest.mark.parametrize("required", [True, False])
def test_bad_credentials_are_all_refused_alike(header: str | bytes, required: bool) -> None:
    with pytest.raises(CredentialError) as told:
        ring(KEY, required=required).identify(header)
    assert told.value.reason == "CREDENTIAL_INVALID"
    assert told.value.metadata == {}
    with pytest.raises(CredentialError) as revoked:
        ring(REVOKED).identify(f"Bearer {TEXT}")
    assert revoked.value.message == told.value.message


def test_an_expired_key_says_so_to_its_owner_only() -> None:
    key, text = minted(expires_unix_s=150.0)
    assert ring(key, now=lambda: 149.0).identify(f"Bearer {text}").role is Role.CLIENT
    with pytest.raises(CredentialError) as told:
        ring(key).identify(f"Bearer {text}")
    assert told.value.reason == "CREDENTIAL_EXPIRED"
    with pytest.raises(CredentialError) as guessed:
        ring(key).identify(f"Bearer ewk_{key.key_id}_{minted()[1].rpartition('_')[2]}")
    assert guessed.value.reason == "CREDENTIAL_INVALID"


def test_revoking_holds_from_the_next_call() -> None:
    key, text = minted()
    keys = ring(key)
    keys.identify(f"Bearer {text}")
    revoked = keys.revoked(key.key_id)
    assert revoked.revoked_unix_s == 200.0
    keys.put(revoked)
    with pytest.raises(CredentialError):
        keys.identify(f"Bearer {text}")
    assert keys.revoked(key.key_id) is revoked
    with pytest.raises(CredentialError) as told:
        keys.revoked("nobody")
    assert told.value.reason == "KEY_NOT_FOUND"


def test_keys_are_listed_by_age_and_replaced_together() -> None:
    old, young = Key("z", b"", "a", "client", 1.0), Key("a", b"", "a", "client", 2.0)
    keys = ring(young, old)
    assert keys.all() == [old, young]
    keys.replace([young])
    assert keys.all() == [young]


def test_what_was_recognised_before_holds_no_longer_than_the_key() -> None:
    key, text = minted(expires_unix_s=250.0)
    now = [200.0]
    keys = ring(key, now=lambda: now[0])
    shown = Shown(f"Bearer {text}".encode())
    caller = keys.recognise(shown)
    assert (caller.spender, caller.role) == (Spender("anne", key.key_id), Role.CLIENT)
    assert keys.recognise(shown) is caller
    keys.put(replace(key, role="admin", tenant="bob"))
    assert keys.recognise(shown).role is Role.ADMIN
    assert keys.recognise(shown).spender.tenant == "bob"
    now[0] = 250.0
    with pytest.raises(CredentialError) as told:
        keys.recognise(shown)
    assert told.value.reason == "CREDENTIAL_EXPIRED"
    now[0] = 200.0
    for left in ([], [keys.revoked(key.key_id)]):
        keys.put(key)
        keys.recognise(shown)
        keys.replace(left)
        with pytest.raises(CredentialError) as told:
            keys.recognise(shown)
        assert told.value.reason == "CREDENTIAL_INVALID"


def test_what_was_refused_before_is_looked_at_again() -> None:
    key, text = minted()
    keys, shown = ring(), Shown(f"Bearer {text}")
    with pytest.raises(CredentialError):
        keys.recognise(shown)
    keys.put(key)
    assert keys.recognise(shown).role is Role.CLIENT
