"""What the gateway keeps of tokens and of nodes that joined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True)
class Token:
    """A secret that lets one node join, kept as a digest only.

    Attributes:
        digest: SHA-256 of the secret, in hex.
        node: The only name that may be taken with it; "" for any that is free.
        used_by: The name that was taken with it; "" while it is good.
        used_key: Fingerprint of the public key that came along.
    """

    token_id: str
    digest: str
    created_unix_s: float
    expires_unix_s: float
    node: str = ""
    used_by: str = ""
    used_key: str = ""
    revoked: bool = False

    def state(self, now_unix_s: float) -> str:
        """used, revoked, expired or good."""
        if self.used_by:
            return "used"
        if self.revoked:
            return "revoked"
        return "expired" if now_unix_s >= self.expires_unix_s else "good"


class MemberState(StrEnum):
    """Whether a node may have a certificate."""

    PENDING = "pending"
    APPROVED = "approved"
    REVOKED = "revoked"


@dataclass(frozen=True)
class Member:
    """A node that joined, or wants to.

    Attributes:
        key: Fingerprint of its public key.
        serials: When each of its certificates expires, by serial number in hex; no other one is accepted.
    """

    name: str
    state: MemberState
    key: str
    joined_unix_s: float
    serials: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Issued:
    """A certificate as it was made."""

    pem: bytes
    serial: str
    expires_unix_s: float


@dataclass(frozen=True)
class Peer:
    """Who is at the other end of a TLS connection, by its certificate."""

    name: str
    serial: str
    expires_unix_s: float


@dataclass(frozen=True)
class Objection:
    """Why a stream may not speak for a node."""

    reason: str
    message: str
    retryable: bool = False
