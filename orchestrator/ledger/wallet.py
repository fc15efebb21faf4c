"""What one gateway holds of every meter and has not assigned to a request yet. Pure; the store knows the total only.

Holding a little ahead is what keeps a disk sync out of most requests' way: a reservation takes from what is held
already, and what a request did not use goes back to it. A crash leaves at most what was held open.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.store.records import Amounts, Meter

# Reservations that are held ahead, and the largest part of a limit that may lie there.
AHEAD = 32
AHEAD_FRACTION = 0.02
# Weight of the newest reservation in the moving average of their size.
SMOOTHING = 0.1


@dataclass
class Purse:
    """One meter: `free` is held and not assigned, `typical` the size of a reservation, `limit` the meter's."""

    limit: float
    free: float = 0.0
    assigned: float = 0.0
    typical: float = 0.0

    def ahead(self) -> float:
        """What should lie free; nothing where the limit is small against the reservations."""
        return min(AHEAD * self.typical, AHEAD_FRACTION * self.limit)


@dataclass
class Wallet:
    """The purses of one gateway."""

    purses: dict[Meter, Purse] = field(default_factory=dict)

    def purse(self, meter: Meter, limit: float) -> Purse:
        """The purse of a meter, made where there is none."""
        purse = self.purses.get(meter)
        if purse is None:
            purse = self.purses[meter] = Purse(limit)
        purse.limit = limit
        return purse

    def assign(self, wants: Amounts) -> bool:
        """Take all amounts from what is free, or none."""
        purses = self.purses
        for meter, amount in wants.items():
            # Written so that NaN fits nowhere.
            if not amount <= purses[meter].free:
                return False
        for meter, amount in wants.items():
            purses[meter].free -= amount
        self.take(wants)
        return True

    def draw(self, wants: Amounts) -> dict[Meter, float]:
        """Take as much of the amounts as is free; `add` puts it back, `take` makes it a reservation's."""
        drawn = {meter: min(amount, self.purses[meter].free) for meter, amount in wants.items()}
        for meter, amount in drawn.items():
            self.purses[meter].free -= amount
        return drawn

    def missing(self, meters: Iterable[Meter]) -> dict[Meter, float]:
        """What the store must add so that enough lies ahead."""
        short = {meter: self.purses[meter].ahead() - self.purses[meter].free for meter in meters}
        return {meter: amount for meter, amount in short.items() if amount > 0.0}

    def take(self, amounts: Amounts) -> None:
        """The store holds these for one reservation."""
        for meter, amount in amounts.items():
            purse = self.purses[meter]
            purse.assigned += amount
            purse.typical += SMOOTHING * (amount - purse.typical) if purse.typical else amount

    def low(self, meters: Iterable[Meter]) -> bool:
        """Whether one of them holds less than half of what should lie ahead."""
        for meter in meters:
            purse = self.purses[meter]
            if purse.free < 0.5 * purse.ahead():
                return True
        return False

    def add(self, amounts: Amounts) -> dict[Meter, float]:
        """The store holds this much more for us; returns what came too late, because its window has ended."""
        late = {}
        for meter, amount in amounts.items():
            purse = self.purses.get(meter)
            if purse is None:
                late[meter] = amount
            else:
                purse.free += amount
        return late

    def close(self, reserved: Amounts, spent: Amounts) -> dict[Meter, float]:
        """End a reservation: what it did not use is free again. Returns what the store must give back or move.

        Of what was reserved the spent part leaves the hold, and whatever is free beyond twice what should lie ahead.
        """
        releases = {}
        for meter, amount in reserved.items():
            purse = self.purses.get(meter)
            used = min(amount, spent.get(meter, 0.0))
            if purse is None:
                releases[meter] = amount
                continue
            purse.assigned -= amount
            purse.free += amount - used
            excess = max(0.0, purse.free - 2.0 * purse.ahead())
            purse.free -= excess
            releases[meter] = used + excess
        return releases

    def drop_old(self, now_unix_s: float) -> dict[Meter, float]:
        """Forget meters whose window has ended and to which nothing is assigned; returns what was free there."""
        old = [
            meter
            for meter, purse in self.purses.items()
            if meter.resets_unix_s <= now_unix_s and purse.assigned <= 1e-12 * purse.limit
        ]
        return {meter: free for meter in old if (free := self.purses.pop(meter).free) > 0.0}

    def empty(self) -> dict[Meter, float]:
        """Take out all that is free."""
        freed = {meter: purse.free for meter, purse in self.purses.items() if purse.free > 0.0}
        for meter in freed:
            self.purses[meter].free = 0.0
        return freed
