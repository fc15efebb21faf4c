"""A join token as a node reads it: ``K10<SHA-256 of the gateway's authority>::<id>.<secret>``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from nodes.identity.errors import IdentityProblem

PATTERN = re.compile(r"K10(?P<authority>[0-9a-f]{64})::(?P<secret>[0-9a-f]{1,64}\.[A-Za-z0-9_-]{20,128})")


@dataclass(frozen=True)
class JoinToken:
    """What a node needs to join once.

    Attributes:
        authority: SHA-256 of the authority's certificate as DER, in hex.
        secret: Goes to a gateway with this authority, and to nobody else.
    """

    authority: str
    secret: str = field(repr=False)


def parse_token(text: str) -> JoinToken:
    """Read a token.

    Raises:
        IdentityProblem: It is none; the text is never repeated.
    """
    found = PATTERN.fullmatch(text.strip())
    if found is None:
        raise IdentityProblem(
            "--token: this is no join token (K10…::….…); copy the whole line that the gateway or"
            " `edgewise token create` prints"
        )
    return JoinToken(found["authority"], found["secret"])
