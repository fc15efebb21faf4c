"""The rows that every store keeps, as frozen values, and how a row proves that it is the one that was written.

A *scope* is who a budget is for: ``fleet``, ``tenant:NAME``, ``key:ID`` or ``task:NAME``. A *meter* counts one unit for
one scope in one window of wall time; windows are aligned, so that a clock that is set back finds its old counts again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import NamedTuple

from optimizer.frozen import frozen

DAY_S = 86_400.0
# Average power is held over windows of this length: joules of a window at most watts times it.
MEAN_WINDOW_S = 60.0
FLEET = "fleet"
CHECKSUM_BYTES = 8

# Outcomes of rows that are no request's end: final joules that differ from those that were settled, and idle power.
CORRECTED, IDLE = "corrected", "idle"
NO_REQUEST = frozenset((CORRECTED, IDLE))

DAY_J, MEAN_J, DAY_TOKENS = "day_j", "mean_j", "day_tokens"
WINDOW_S: Mapping[str, float] = {DAY_J: DAY_S, MEAN_J: MEAN_WINDOW_S, DAY_TOKENS: DAY_S}


class Meter(NamedTuple):
    """One counter: `window` is wall time divided by the unit's window length, rounded down."""

    scope: str
    unit: str
    window: int

    @property
    def resets_unix_s(self) -> float:
        """When the next window begins."""
        return (self.window + 1) * WINDOW_S[self.unit]


Amounts = Mapping[Meter, float]


@dataclass(frozen=True)
class Quota:
    """What a scope may spend; None is no limit.

    Args:
        request_j: Joules of one request.
        day_j: Joules of a UTC day.
        mean_w: Average watts over `MEAN_WINDOW_S`.
        day_tokens: Tokens of a UTC day, prompt and completion.
    """

    request_j: float | None = None
    day_j: float | None = None
    mean_w: float | None = None
    day_tokens: int | None = None

    def limits(self) -> Iterator[tuple[str, float]]:
        """The units that have a limit, each with its amount per window."""
        if self.day_j is not None:
            yield DAY_J, self.day_j
        if self.mean_w is not None:
            yield MEAN_J, self.mean_w * MEAN_WINDOW_S
        if self.day_tokens is not None:
            yield DAY_TOKENS, float(self.day_tokens)

    def limit(self, unit: str) -> float:
        """The amount per window; infinite where there is no limit."""
        return self._by_unit.get(unit, math.inf)

    @cached_property
    def _by_unit(self) -> Mapping[str, float]:
        return dict(self.limits())


@dataclass(frozen=True)
class Short:
    """A reservation that does not fit: the meter that refused, what is left of it, and when it starts anew."""

    meter: Meter
    limit: float
    left: float


@dataclass(frozen=True)
class Balance:
    """One meter as it stands. `assumed` is the part of `spent` that a crash left open: charged as it was held."""

    meter: Meter
    limit: float
    spent: float
    held: float
    assumed: float = 0.0


class Settlement(NamedTuple):
    """What one request cost, once and for all.

    Args:
        at_unix_s: When it was settled.
        request_id: As told to the client.
        tenant: Whose request; "" where no key was shown.
        key_id: The key; "" where none was shown.
        task: The task class.
        outcome: "answered" or the error's reason; "corrected" for a difference that follows a settlement, "idle" for
            a node's idle power.
        arms: Arms that were tried, joined by commas.
        energy_j: All attempts together: retries, cascades and cancelled losers as well; 0 where nobody knows.
        provenance: The worst among the attempts; "unmeasured" says that `energy_j` means nothing.
        reserved_j: What was reserved for it at most.
        tokens: Prompt and completion.
    """

    at_unix_s: float
    request_id: str
    tenant: str
    key_id: str
    task: str
    outcome: str
    arms: str
    energy_j: float
    provenance: str
    reserved_j: float
    tokens: int

    @property
    def overshoot_j(self) -> float:
        """Joules beyond the reservation: at most one step that could not be interrupted."""
        return max(0.0, self.energy_j - self.reserved_j)


@dataclass(frozen=True)
class Key:
    """A client's key. The secret itself is nowhere: `digest` is the SHA-256 of its 256 random bits.

    Args:
        key_id: Public part.
        digest: Of the secret.
        tenant: Whom it speaks for.
        role: "client", "admin" or "node".
        created_unix_s: When it was made.
        expires_unix_s: None for never.
        revoked_unix_s: None while it is good.
    """

    key_id: str
    digest: bytes
    tenant: str
    role: str
    created_unix_s: float
    expires_unix_s: float | None = None
    revoked_unix_s: float | None = None


class Claimed(Enum):
    """What a request id turned out to be."""

    NEW = "new"
    RUNNING = "running"
    DONE = "done"
    REUSED = "reused"


@frozen
class Claim:
    """A request id of a tenant, taken for one payload; after `until_unix_s` a claim without a result is void."""

    tenant: str
    request_id: str
    fingerprint: bytes
    until_unix_s: float


class Posting(NamedTuple):
    """One step of a holder's books, all of it or nothing: holds given back, amounts spent, what is written down.

    `noted` is written down after `record`: what no budget is charged, of many requests together. `result` is kept under
    `claim` for whoever calls again; a claim without a result is dropped, so that its id may be tried again.
    """

    holder: str
    releases: Amounts
    spends: Amounts
    record: Settlement | None = None
    claim: Claim | None = None
    result: bytes | None = None
    noted: Sequence[Settlement] = ()

    @property
    def records(self) -> Sequence[Settlement]:
        """All that is written down."""
        return self.noted if self.record is None else (self.record, *self.noted)


def checksum(*fields: object) -> bytes:
    """Eight bytes that tell a row that was altered on its way through the disk; no protection against an attacker.

    Cost: 5 µs for a settlement.
    """
    return hashlib.blake2b(repr(fields).encode(), digest_size=CHECKSUM_BYTES).digest()
