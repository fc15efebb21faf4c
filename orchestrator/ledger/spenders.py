"""Who spends, and which meters that touches."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from optimizer.frozen import frozen
from orchestrator.store.records import DAY_TOKENS, FLEET, WINDOW_S, Amounts, Claim, Meter, Quota


@frozen
class Spender:
    """Who pays for a request: "" where no key was shown."""

    tenant: str = ""
    key_id: str = ""

    def scopes(self, task: str) -> tuple[str, ...]:
        """All scopes that a request of this spender counts for."""
        own = []
        if self.tenant:
            own.append(f"tenant:{self.tenant}")
        if self.key_id:
            own.append(f"key:{self.key_id}")
        return (FLEET, f"task:{task}", *own)


NOBODY = Spender()


@dataclass(slots=True)
class Reservation:
    """What one request may take at most.

    Args:
        spender: Who pays.
        task: The task class.
        energy_j: Joules at most; infinite where no budget limits them.
        tokens: Tokens at most.
        amounts: What is held for it, by meter; empty where no budget limits it.
        budgets: Names of these meters, as ``scope/unit``.
        claim: Its request id, where the client chose one.
    """

    spender: Spender
    task: str
    energy_j: float = math.inf
    tokens: int = 0
    amounts: dict[Meter, float] = field(default_factory=dict)
    budgets: tuple[str, ...] = ()
    claim: Claim | None = None

    @property
    def limited(self) -> bool:
        """Whether any budget is charged."""
        return bool(self.amounts)


def metered(quotas: Mapping[str, Quota], scopes: tuple[str, ...], now_unix_s: float) -> Iterator[tuple[Meter, float]]:
    """The meters of the current windows that these scopes have limits for, each with its limit."""
    for scope in scopes:
        quota = quotas.get(scope)
        if quota is not None:
            for unit, limit in quota.limits():
                yield Meter(scope, unit, int(now_unix_s // WINDOW_S[unit])), limit


def amount_of(meter: Meter, energy_j: float, tokens: int) -> float:
    """What a request counts for on a meter."""
    return float(tokens) if meter.unit == DAY_TOKENS else energy_j


def request_limit_j(quotas: Mapping[str, Quota], scopes: tuple[str, ...]) -> float:
    """Joules that one request of these scopes may take; infinite where nobody says."""
    limits = (quotas[scope].request_j for scope in scopes if scope in quotas)
    return min((limit_j for limit_j in limits if limit_j is not None), default=math.inf)


def spends(amounts: Amounts, energy_j: float, tokens: int) -> dict[Meter, float]:
    """What a settled request adds to the meters it was reserved on."""
    return {meter: amount_of(meter, energy_j, tokens) for meter in amounts}


def fingerprint(tenant: str, method: str, canonical: bytes) -> bytes:
    """SHA-256 of who asks for what: two requests of one id must have the same.

    Args:
        tenant: Who asks.
        method: The call, since two may have equal bodies.
        canonical: The request without its id, serialised deterministically.
    """
    digest = hashlib.sha256()
    for part in (tenant.encode(), method.encode(), canonical):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
