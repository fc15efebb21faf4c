"""What can be wrong with an identity; how each reason looks from outside stands in `orchestrator.errors`."""

from __future__ import annotations

from orchestrator.errors import EdgewiseError

RETRY_S = 30.0


class IdentityError(EdgewiseError):
    """A token, a certificate or a request for one is not accepted, or there is no TLS here."""


def token_invalid() -> IdentityError:
    """Unknown, wrong, used, revoked or meant for another node: nobody is told which."""
    return IdentityError(
        "CREDENTIAL_INVALID", "This token is not valid; `edgewise token create` on the gateway makes another."
    )


def token_expired() -> IdentityError:
    """Told only to those who know the secret."""
    return IdentityError(
        "CREDENTIAL_EXPIRED", "This token has expired; `edgewise token create` on the gateway makes another."
    )


def tls_off() -> IdentityError:
    """The gateway has no authority because it speaks plaintext."""
    return IdentityError(
        "TLS_OFF", "This gateway runs without TLS, so nodes need no token; set tls.mode to on, or listen remotely."
    )


def revoked() -> IdentityError:
    """Somebody had the node put out."""
    return IdentityError(
        "IDENTITY_REVOKED", "This node was revoked; it may come back with a token that is made for its name."
    )


def node_exists() -> IdentityError:
    """A name that somebody has already is given away by an operator only."""
    return IdentityError(
        "NODE_EXISTS", "A node of this name has joined; take another, or a token that was made with --name for it."
    )


def node_unknown() -> IdentityError:
    """No node of this name has joined."""
    return IdentityError("NODE_NOT_FOUND", "No node of this name has joined; see `edgewise node identities`.")


def too_many_attempts() -> IdentityError:
    """Failed too often of late."""
    return IdentityError(
        "TOO_MANY_ATTEMPTS",
        f"Too many joins failed from this address; wait {RETRY_S:g} s.",
        retry_after_s=RETRY_S,
    )
