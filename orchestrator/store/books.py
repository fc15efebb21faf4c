"""The arithmetic of budgets: what is held by whom, what is spent, and whether one more reservation fits. Pure.

The invariant, at every instant: for every meter, spent + held <= limit, except for what a request took beyond its
reservation before it could be interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from orchestrator.store.records import Amounts, Balance, Meter, Quota, Short

# A hold that is smaller than this part of what was just given back is a rounding error.
DUST_FRACTION = 1e-9


class Books:
    """Balances of all meters.

    `touched_*` name what changed since a store last wrote it down.
    """

    def __init__(self) -> None:
        self.quotas: dict[str, Quota] = {}
        self.spent: dict[Meter, float] = {}
        self.assumed: dict[Meter, float] = {}
        self.held: dict[Meter, dict[str, float]] = {}
        self.leases: dict[str, float] = {}
        self.touched_spent: set[Meter] = set()
        self.touched_held: set[tuple[str, Meter]] = set()

    def limit(self, meter: Meter) -> float:
        """The meter's limit; infinite where its scope has none."""
        quota = self.quotas.get(meter.scope)
        return math.inf if quota is None else quota.limit(meter.unit)

    def left(self, meter: Meter) -> float:
        """What could still be reserved; negative after an overshoot."""
        return self.limit(meter) - self.spent.get(meter, 0.0) - sum(self.held.get(meter, {}).values())

    def reserve(self, holder: str, wants: Amounts) -> Short | None:
        """Hold all the amounts for `holder`, or none of them and say which meter is short."""
        for meter, amount in wants.items():
            left = self.left(meter)
            if not amount <= left:
                return Short(meter, self.limit(meter), left)
        for meter, amount in wants.items():
            self._hold(holder, meter, amount)
        return None

    def post(self, holder: str, releases: Amounts, spends: Amounts) -> None:
        """Give holds back and spend; a release beyond what is held gives back what there is."""
        for meter, amount in releases.items():
            self._unhold(holder, meter, amount)
        for meter, amount in spends.items():
            self._spend(meter, amount)

    def renew(self, holder: str, until_unix_s: float) -> None:
        """The holder lives at least until then."""
        self.leases[holder] = until_unix_s

    def expire(self, now_unix_s: float, *, charge: bool) -> dict[Meter, float]:
        """End the holds of holders whose lease ran out.

        Args:
            now_unix_s: Wall time.
            charge: Count what they held as spent, since it may have been; False gives it back.

        Returns:
            What was held, by meter.
        """
        holders = self.leases.keys() | {holder for held in self.held.values() for holder in held}
        dead = {holder for holder in holders if self.leases.get(holder, -math.inf) <= now_unix_s}
        ended: dict[Meter, float] = {}
        for meter, held in list(self.held.items()):
            for holder in dead & held.keys():
                amount = held[holder]
                ended[meter] = ended.get(meter, 0.0) + amount
                self._unhold(holder, meter, amount)
                if charge:
                    self._spend(meter, amount)
                    self.assumed[meter] = self.assumed.get(meter, 0.0) + amount
        for holder in dead:
            self.leases.pop(holder, None)
        return ended

    def prune(self, now_unix_s: float) -> list[Meter]:
        """Forget meters whose window ended more than a window ago and that nobody holds."""
        old = [meter for meter in self.spent if meter.resets_unix_s <= now_unix_s and meter not in self.held]
        for meter in old:
            del self.spent[meter]
            self.assumed.pop(meter, None)
            self.touched_spent.discard(meter)
        return old

    def balances(self) -> Iterator[Balance]:
        """All meters that have counted something."""
        for meter in sorted(self.spent.keys() | self.held.keys()):
            held = sum(self.held.get(meter, {}).values())
            spent, assumed = self.spent.get(meter, 0.0), self.assumed.get(meter, 0.0)
            yield Balance(meter, self.limit(meter), spent, held, assumed)

    def _hold(self, holder: str, meter: Meter, amount: float) -> None:
        holders = self.held.setdefault(meter, {})
        holders[holder] = holders.get(holder, 0.0) + amount
        self.touched_held.add((holder, meter))

    def _unhold(self, holder: str, meter: Meter, amount: float) -> None:
        holders = self.held.get(meter, {})
        if holder not in holders:
            return
        left = holders[holder] - amount
        if left > DUST_FRACTION * amount:
            holders[holder] = left
        else:
            del holders[holder]
            if not holders:
                del self.held[meter]
        self.touched_held.add((holder, meter))

    def _spend(self, meter: Meter, amount: float) -> None:
        self.spent[meter] = self.spent.get(meter, 0.0) + amount
        self.touched_spent.add(meter)
