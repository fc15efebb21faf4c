"""Keys of clients: made once, shown once, kept as a digest, checked in constant time.

A secret is 256 random bits, so guessing it is hopeless at any speed and one SHA-256 suffices. A slow hash protects
*chosen* passwords; here it would only let anybody who can send requests burn the gateway's CPU.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum

from orchestrator.errors import EdgewiseError
from orchestrator.ledger.spenders import Spender
from orchestrator.store.records import Key

PREFIX = "ewk"
ID_BYTES, SECRET_BYTES = 6, 32
SCHEME = "bearer "
MAX_CREDENTIAL_CHARS = 128
# Compared with when the key is unknown, so that an unknown id takes as long as a wrong secret.
NO_DIGEST = bytes(32)


class Role(Enum):
    """What a key is for."""

    CLIENT = "client"
    ADMIN = "admin"
    NODE = "node"


class CredentialError(EdgewiseError):
    """The caller is not who they must be; never says which part is wrong."""


@dataclass(frozen=True)
class Caller:
    """Whoever calls: anonymous where no key was shown and none is required."""

    spender: Spender
    role: Role
    anonymous: bool = False


class Shown:
    """What a caller shows, and whose key it was found to be: who shows it again need not be looked up again.

    Args:
        authorization: The header's value.
    """

    __slots__ = ("authorization", "caller", "key")

    def __init__(self, authorization: str | bytes) -> None:
        self.authorization = authorization
        self.key: Key | None = None
        self.caller: Caller | None = None


# On this machine only: whoever can reach the loopback address is trusted unless keys are required.
ANONYMOUS = Caller(Spender(), Role.ADMIN, anonymous=True)


def mint(
    tenant: str, role: Role, *, now_unix_s: float, expires_unix_s: float | None, random: Callable[[int], bytes]
) -> tuple[Key, str]:
    """A new key and the text that its owner keeps: it cannot be made again from the key."""
    key_id = random(ID_BYTES).hex()
    secret = random(SECRET_BYTES)
    text = base64.urlsafe_b64encode(secret).rstrip(b"=").decode()
    key = Key(key_id, hashlib.sha256(secret).digest(), tenant, role.value, now_unix_s, expires_unix_s)
    return key, f"{PREFIX}_{key_id}_{text}"


class KeyRing:
    """The keys in force, by id. Cost of a check: 4 µs.

    Args:
        keys: From the store.
        required: Whether a call without a key is refused.
        clock_unix_s: Wall time.
    """

    def __init__(self, keys: Iterable[Key], *, required: bool, clock_unix_s: Callable[[], float]) -> None:
        self.required = required
        self._now = clock_unix_s
        self._keys = {key.key_id: key for key in keys}

    def replace(self, keys: Iterable[Key]) -> None:
        """Take what the store has now."""
        self._keys = {key.key_id: key for key in keys}

    def put(self, key: Key) -> None:
        """A new or changed key; holds from the next call on."""
        self._keys[key.key_id] = key

    def all(self) -> list[Key]:
        """All keys, the oldest first."""
        return sorted(self._keys.values(), key=lambda key: key.created_unix_s)

    def revoked(self, key_id: str) -> Key:
        """The key as it is once revoked now; it is not put back.

        Raises:
            CredentialError: KEY_NOT_FOUND.
        """
        key = self._keys.get(key_id)
        if key is None:
            raise CredentialError("KEY_NOT_FOUND", "There is no key of this id; `edgewise key list` tells all.")
        return key if key.revoked_unix_s is not None else replace(key, revoked_unix_s=self._now())

    def identify(self, authorization: str | bytes | None) -> Caller:
        """Who calls, by the value of the authorization header.

        Raises:
            CredentialError: CREDENTIAL_INVALID or CREDENTIAL_EXPIRED.
        """
        if authorization is not None:
            return self.recognise(Shown(authorization))
        if self.required:
            raise _invalid()
        return ANONYMOUS

    def recognise(self, shown: Shown) -> Caller:
        """Who calls, by what may have been shown before; raises as `identify`."""
        # A key that was found before is in force as long as the ring has that very object.
        key, caller = shown.key, shown.caller
        if key is None or caller is None or self._keys.get(key.key_id) is not key:
            key = self._found(shown.authorization)
            caller = Caller(Spender(key.tenant, key.key_id), Role(key.role))
            shown.key, shown.caller = key, caller
        if key.expires_unix_s is not None and self._now() >= key.expires_unix_s:
            raise CredentialError("CREDENTIAL_EXPIRED", "The key has expired; ask for a new one.")
        return caller

    def _found(self, authorization: str | bytes) -> Key:
        """The key that is shown, revoked by nobody; it may have expired."""
        key_id, secret = _parts(authorization)
        key = self._keys.get(key_id)
        same = hmac.compare_digest(hashlib.sha256(secret).digest(), key.digest if key else NO_DIGEST)
        if key is None or not same or key.revoked_unix_s is not None:
            raise _invalid()
        return key


def _parts(authorization: str | bytes) -> tuple[str, bytes]:
    """Id and secret of a header; ("", b"") of anything that is none, so that the check fails like any other."""
    if len(authorization) > MAX_CREDENTIAL_CHARS:
        return "", b""
    text = authorization.decode("latin-1") if isinstance(authorization, bytes) else authorization
    if text[: len(SCHEME)].lower() != SCHEME:
        return "", b""
    prefix, _, rest = text[len(SCHEME) :].partition("_")
    key_id, _, secret = rest.partition("_")
    try:
        raw = base64.b64decode(secret + "=" * (-len(secret) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return "", b""
    return (key_id, raw) if prefix == PREFIX else ("", b"")


def _invalid() -> CredentialError:
    return CredentialError(
        "CREDENTIAL_INVALID", "A valid key is required: authorization: Bearer ewk_...; `edgewise key create` makes one."
    )
