"""Long-run budgets of tasks: one account each, kept across restarts, never in the way of a request.

Whatever goes wrong in here is logged once and switches pacing off for the task until its budget is set again; requests
go on at the profile's price.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import structlog

from optimizer.online.pacing import Allowance, Charge, Pacer, PacerState
from orchestrator.budgets import Budgets
from orchestrator.durable import save_json
from orchestrator.longrun import NO_LONG_RUN, LongRun, PacingRecord
from orchestrator.routing.pace import Pace
from orchestrator.routing.route import Decision

log = structlog.get_logger("pacing")

# Accounts are written down this often at most; a crash forgets what came since.
KEEP_S = 5.0
BROKEN = "broken"

Result = TypeVar("Result")


class Pacing:
    """Accounts by task.

    Args:
        budgets: What operators set.
        file: Where accounts are kept; None keeps them in memory only.
    """

    def __init__(self, budgets: Budgets, file: Path | None) -> None:
        self._budgets = budgets
        self._file = file
        self._pacers: dict[str, tuple[LongRun, Pacer]] = {}
        self._broken: dict[str, LongRun] = {}
        self._kept_s = -math.inf
        self._written = _load(file)

    def arrive(self, task: str, now_s: float) -> Pace | None:
        """A request of a task comes; None where it has no long-run budget."""
        budget = self._budgets.long_run(task)
        if budget is NO_LONG_RUN or not budget.limits or self._broken.get(task) == budget:
            return None
        return self._safely(task, lambda: self._arrive(task, budget, now_s))

    def _arrive(self, task: str, budget: LongRun, now_s: float) -> Pace:
        pacer = self._pacer(task, budget)
        pacer.arrive(now_s)
        return Pace(pacer.price_per_j, pacer.headroom_j, self._record(task, budget, pacer))

    def _pacer(self, task: str, budget: LongRun) -> Pacer:
        known = self._pacers.get(task)
        if known is not None and known[0] == budget:
            return known[1]
        self._broken.pop(task, None)
        allowance = Allowance(budget.average_energy_j or None, budget.average_power_w or None)
        if known is None or (known[0].average_energy_j is None) != (budget.average_energy_j is None):
            pacer = Pacer(allowance, state=self._written.pop(task, None) if known is None else None)
        else:
            pacer = known[1]
            pacer.change(allowance)
        self._pacers[task] = budget, pacer
        return pacer

    def routed(self, task: str, decision: Decision) -> Charge | None:
        """What a request was routed on and where; the charge is settled when it ends."""
        known = self._pacers.get(task)
        if decision.pace is None or known is None:
            return None
        return self._safely(task, lambda: _charge(known[1], decision))

    def settle(self, task: str, charge: Charge, energy_j: float) -> None:
        """A charged request has ended with these joules; NaN where nobody knows them."""
        known = self._pacers.get(task)
        if known is not None:
            self._safely(task, lambda: known[1].settle(charge, energy_j))

    def correct(self, task: str, joules: float) -> None:
        """What was settled before took so many joules more, or fewer."""
        known = self._pacers.get(task)
        if known is not None:
            self._safely(task, lambda: known[1].correct(joules))

    def record(self, task: str) -> PacingRecord | None:
        """How a task's long-run budget stands; None where it has none or was not asked since it was set."""
        budget, known = self._budgets.long_run(task), self._pacers.get(task)
        if not budget.limits:
            return None
        if self._broken.get(task) == budget:
            return PacingRecord(budget, BROKEN, 0.0, math.nan, math.nan, math.nan, 0)
        return None if known is None or known[0] != budget else self._record(task, budget, known[1])

    def _record(self, task: str, budget: LongRun, pacer: Pacer) -> PacingRecord:
        return PacingRecord(
            budget=budget,
            status=pacer.status.value,
            price_per_j=pacer.price_per_j,
            burn_ratio=pacer.burn_ratio,
            left_j=pacer.headroom_j,
            cheapest_j=pacer.cheapest_j,
            requests=pacer.state.requests,
            share=self._budgets.share_of(task),
        )

    def records(self) -> dict[str, PacingRecord]:
        """Of all tasks that have one."""
        found = {task: self.record(task) for task in (*self._pacers, *self._broken)}
        return {task: record for task, record in found.items() if record is not None}

    def keep(self, now_s: float, *, force: bool = False) -> None:
        """Write the accounts down, if it is time to."""
        if self._file is None or not self._pacers or (now_s - self._kept_s < KEEP_S and not force):
            return
        self._kept_s = now_s
        try:
            save_json(self._file, {task: _document(pacer.state) for task, (_, pacer) in self._pacers.items()})
        except OSError as error:
            log.warning("pacing.not_kept", why=str(error))

    def _safely(self, task: str, work: Callable[[], Result]) -> Result | None:
        try:
            return work()
        except Exception as error:  # the rim: requests keep flowing without their long-run budget
            self._broken[task] = self._budgets.long_run(task)
            self._pacers.pop(task, None)
            log.error("pacing.broken", task=task, why=f"{type(error).__name__}: {error}")
            return None


def _charge(pacer: Pacer, decision: Decision) -> Charge | None:
    """Charge what was chosen, and learn what could have been."""
    offer, promise = decision.offer, decision.promise
    if promise is None:
        pacer.decline()
        return None
    known_r = decision.choice.feasible_r & np.isfinite(offer.energy_bound_r)
    quality_r = np.where(known_r, offer.quality_r, -np.inf)
    pacer.learn(*decision.table.cheapest_by_model(quality_r, offer.energy_r), decision.floor_per_j)
    return pacer.charge(promise.energy_j, promise.energy_bound_j)


# ---- what is written down: numbers that are not finite become null


def _document(state: PacerState) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in state.numbers().items()}


def _state(document: dict[str, float | None]) -> PacerState:
    state = PacerState(**{name: math.nan if value is None else value for name, value in document.items()})  # type: ignore[arg-type]
    # What was under way has ended, and the clock of another life says nothing.
    state.in_flight_j, state.seen_s, state.requests = 0.0, math.nan, int(state.requests)
    return state


def _load(file: Path | None) -> dict[str, PacerState]:
    """Accounts of an earlier life; a file that cannot be read opens new ones and is told of."""
    if file is None or not file.exists():
        return {}
    try:
        return {str(task): _state(entry) for task, entry in json.loads(file.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.warning("pacing.not_read", file=str(file), why=str(error))
        return {}
