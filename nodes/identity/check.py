"""What `doctor` says of the identities that were saved here."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from nodes.identity import folder as kept
from nodes.identity import keys
from nodes.identity.diagnosis import describe_span
from nodes.identity.errors import IdentityProblem
from nodes.identity.keeper import Keeper


def check_identities(
    environment: Mapping[str, str] = os.environ, *, clock_unix_s: Callable[[], float] = time.time
) -> str:
    """Whose gateways know this machine, and for how long. Makes a handshake with each. Blocks.

    Raises:
        IdentityProblem: One of them is not accepted; says why.
    """
    root = kept.default_root(environment)
    found = [_check(root / name, clock_unix_s) for name in kept.saved_names(root)]
    return "; ".join(found) or "none; gateways without TLS need none"


def _check(folder: Path, clock_unix_s: Callable[[], float]) -> str:
    identity = kept.load(folder)
    trouble = asyncio.run(Keeper(folder, clock_unix_s=clock_unix_s).trouble(identity.gateway))
    if trouble is not None:
        raise IdentityProblem(f"{identity.name}: {trouble.cause.value}: {trouble.text}")
    left_s = keys.validity(identity.certificate_pem).until_unix_s - clock_unix_s()
    return f"{identity.name} at {identity.gateway}, good for {describe_span(left_s)}"
