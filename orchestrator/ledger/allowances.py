"""What limits a spender's requests for a task, worked out once per window instead of for every request."""

from __future__ import annotations

import math
from collections.abc import Mapping

from optimizer.frozen import frozen
from orchestrator.ledger.spenders import Spender, metered, request_limit_j
from orchestrator.store.records import WINDOW_S, Meter, Quota

# More spenders and tasks than this at once are worked out anew.
MOST_KEPT = 4096


@frozen
class Allowance:
    """What limits requests of one spender for one task.

    Args:
        request_j: Joules of one request; infinite where nobody says.
        meters: The meters of the open windows that it counts for, each with its limit.
        names: Their names, as ``scope/unit``.
        since_unix_s: When the last of these windows began.
        until_unix_s: When the first of them ends.
    """

    request_j: float
    meters: tuple[tuple[Meter, float], ...]
    names: tuple[str, ...]
    since_unix_s: float
    until_unix_s: float


NO_LIMITS = Allowance(math.inf, (), (), -math.inf, math.inf)


class Allowances:
    """Allowances under the quotas of this moment."""

    def __init__(self) -> None:
        self._quotas: Mapping[str, Quota] = {}
        self._kept: dict[tuple[str, str, str], Allowance] = {}

    def of(self, quotas: Mapping[str, Quota], spender: Spender, task: str, now_unix_s: float) -> Allowance:
        """The allowance at this wall time.

        Args:
            quotas: By scope; another object wherever anything has changed.
            spender: Who asks.
            task: For what.
            now_unix_s: Wall time; may go back.
        """
        if not quotas:
            return NO_LIMITS
        if quotas is not self._quotas or len(self._kept) > MOST_KEPT:
            self._quotas, self._kept = quotas, {}
        name = (spender.tenant, spender.key_id, task)
        kept = self._kept.get(name)
        if kept is None or not kept.since_unix_s <= now_unix_s < kept.until_unix_s:
            kept = self._kept[name] = _allowance(quotas, spender.scopes(task), now_unix_s)
        return kept


def _allowance(quotas: Mapping[str, Quota], scopes: tuple[str, ...], now_unix_s: float) -> Allowance:
    meters = tuple(metered(quotas, scopes, now_unix_s))
    return Allowance(
        request_limit_j(quotas, scopes),
        meters,
        tuple(f"{meter.scope}/{meter.unit}" for meter, _ in meters),
        max((meter.window * WINDOW_S[meter.unit] for meter, _ in meters), default=-math.inf),
        min((meter.resets_unix_s for meter, _ in meters), default=math.inf),
    )
