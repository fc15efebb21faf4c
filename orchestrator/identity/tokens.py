"""The text of a join token: ``K10<SHA-256 of the authority>::<id>.<secret>``, as k3s has it.

The first part lets a node check whom it talks to before it gives the second part away. The secret is 256 random bits,
kept as its SHA-256 and compared in constant time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping

from orchestrator.identity.errors import token_invalid
from orchestrator.identity.records import Token

PREFIX = "K10"
ID_BYTES, SECRET_BYTES = 6, 32
DEFAULT_TTL_S = 900.0
MAX_TTL_S = 86_400.0
MAX_TOKEN_CHARS = 256
# Compared with when the id is unknown, so that this takes as long as a wrong secret.
NO_DIGEST = "0" * 64


def mint(
    authority: str, *, node: str, ttl_s: float, now_unix_s: float, random: Callable[[int], bytes]
) -> tuple[Token, str]:
    """A new token and the text that is shown once.

    Args:
        authority: Fingerprint of the gateway's authority.
        node: The only name it is good for; "" for any.
        ttl_s: How long it is good.
        now_unix_s: Wall time.
        random: Makes so many random bytes.
    """
    token_id = random(ID_BYTES).hex()
    secret = base64.urlsafe_b64encode(random(SECRET_BYTES)).rstrip(b"=").decode()
    token = Token(token_id, _digest(secret), now_unix_s, now_unix_s + ttl_s, node)
    return token, f"{PREFIX}{authority}::{token_id}.{secret}"


def authenticate(text: str, tokens: Mapping[str, Token]) -> Token:
    """The token whose secret this is, whatever its state.

    Raises:
        IdentityError: CREDENTIAL_INVALID.
    """
    token_id, _, secret = text[:MAX_TOKEN_CHARS].rpartition("::")[2].partition(".")
    token = tokens.get(token_id)
    same = hmac.compare_digest(_digest(secret), token.digest if token else NO_DIGEST)
    if token is None or not same or len(text) > MAX_TOKEN_CHARS:
        raise token_invalid()
    return token


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
