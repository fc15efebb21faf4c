"""64 clients against a small shared budget, with joules that stray from what was predicted.

The ledger and its store are real; the engine is played: it takes its joules step by step and, unless told not to,
stops at the first step that has reached its reservation. The truth is counted here, at every step.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import BudgetExhausted
from orchestrator.ledger.ledger import Ledger, Terms
from orchestrator.ledger.spenders import Reservation, Spender
from orchestrator.store.records import FLEET, Quota, Settlement
from orchestrator.store.service import GroupCommitStore
from orchestrator.store.sqlite import SqliteDesk

CLIENTS = 64
PREDICTED_J = 1.0
# The 95 % quantile of a lognormal of sigma 0.3; outliers and one in twenty others go beyond it.
RESERVED_J = PREDICTED_J * math.exp(0.3 * 1.645)
SIGMA = 0.3
OUTLIER_FRACTION, OUTLIER_FACTOR = 0.05, 3.0
STEPS = 20
STEP_J = PREDICTED_J / STEPS
STEP_S = 0.002
# Joules that may be spent per second of the run: about half of what the clients would like to spend.
LIMIT_J_PER_S = 250.0


@dataclass
class Tally:
    """What was really spent."""

    limit_j: float
    run_j: float = 0.0
    running: int = 0
    answered: int = 0
    refused: int = 0
    stopped: int = 0
    excess_j: float = 0.0
    step_bound_j: float = 0.0
    overshoot_max_j: float = 0.0
    settled_j: float = 0.0

    @property
    def utilisation_fraction(self) -> float:
        """Of the limit."""
        return self.run_j / self.limit_j

    def spend(self, energy_j: float) -> None:
        """One step; how far the budget is exceeded, and how far it may be at this moment."""
        self.run_j += energy_j
        excess_j = self.run_j - self.limit_j
        self.excess_j = max(self.excess_j, excess_j)
        if excess_j > 0.0:
            self.step_bound_j = max(self.step_bound_j, self.running * STEP_J)


async def overspend(folder: Path, *, seconds: float, seed: int, stop: bool = True) -> Tally:
    """Spend for so long; without `stop` the engine runs on beyond its reservation."""
    ledger = Ledger(
        GroupCommitStore(SqliteDesk(folder / "ledger.db"), in_place=True),
        Terms(),
        holder="one",
        clock_unix_s=lambda: 86_400.0 * 9e3,
    )
    await ledger.start()
    tally, chance = Tally(LIMIT_J_PER_S * seconds), random.Random(seed)
    await ledger.put_quota(FLEET, Quota(day_j=tally.limit_j))
    end_s = time.monotonic() + seconds
    await asyncio.gather(*(_client(ledger, tally, chance, end_s=end_s, stop=stop) for _ in range(CLIENTS)))
    (balance,) = await ledger.balances()
    tally.settled_j, tally.overshoot_max_j = balance.spent, ledger.overshoot_max_j
    await ledger.close()
    return tally


async def _client(ledger: Ledger, tally: Tally, chance: random.Random, *, end_s: float, stop: bool) -> None:
    while time.monotonic() < end_s:
        try:
            reservation = await ledger.reserve(Spender(), "chat", energy_j=RESERVED_J)
        except BudgetExhausted:
            tally.refused += 1
            await asyncio.sleep(0.01)
            continue
        await _run(ledger, reservation, tally, wanted_j=_wanted_j(chance), stop=stop)


def _wanted_j(chance: random.Random) -> float:
    outlier = OUTLIER_FACTOR if chance.random() < OUTLIER_FRACTION else 1.0
    return PREDICTED_J * chance.lognormvariate(0.0, SIGMA) * outlier


async def _run(ledger: Ledger, reservation: Reservation, tally: Tally, *, wanted_j: float, stop: bool) -> None:
    spent_j = 0.0
    tally.running += 1
    while spent_j < wanted_j:
        if stop and spent_j >= reservation.energy_j:
            tally.stopped += 1
            break
        spent_j += STEP_J
        tally.spend(STEP_J)
        await asyncio.sleep(STEP_S)
    row = Settlement(1.0, "r", "", "", "chat", "answered", "x:y@z", spent_j, "modelled", reservation.energy_j, 0)
    kept = ledger.settle(reservation, row, charge_j=spent_j)
    tally.running -= 1
    if kept is not None:
        await kept
    tally.answered += 1


def wrong(tally: Tally) -> list[str]:
    """What does not hold."""
    checks = (
        (tally.excess_j <= tally.step_bound_j + 1e-9, f"exceeded by {tally.excess_j:.3f} J"),
        (
            tally.overshoot_max_j <= STEP_J + 1e-9,
            f"a request took {tally.overshoot_max_j:.3f} J beyond its reservation",
        ),
        (tally.utilisation_fraction >= 0.9, f"only {tally.utilisation_fraction:.1%} of the limit was used"),
        (math.isclose(tally.settled_j, tally.run_j, rel_tol=1e-9), "the books differ from what was spent"),
    )
    return [sentence for holds, sentence in checks if not holds]
