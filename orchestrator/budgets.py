"""What a request may spend when it does not say: configured defaults, what operators set, and the profile's name.

What operators set survives a restart: it is written to one small JSON file, atomically, before the change is
acknowledged.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import RequestError
from orchestrator.types import BudgetRequest, Limits, OnInfeasible
from orchestrator.wire import PROFILES

ALL_TASKS = ""


@dataclass(frozen=True)
class TaskBudget:
    """The budget in force for a task ('' for every task) and where it comes from: set, config or default."""

    task: str
    budget: BudgetRequest
    origin: str


def merge(over: BudgetRequest, under: BudgetRequest) -> BudgetRequest:
    """`over` where it says something, `under` elsewhere."""
    return BudgetRequest(
        max_energy_j=under.max_energy_j if over.max_energy_j is None else over.max_energy_j,
        max_latency_ms=under.max_latency_ms if over.max_latency_ms is None else over.max_latency_ms,
        on_infeasible=over.on_infeasible or under.on_infeasible,
        profile=over.profile or under.profile,
    )


class Budgets:
    """Budgets by task. Precedence: request > set for the task > set for all > configured for the task > default.

    Args:
        default: Configured for every task; complete but for joules, where None means no limit.
        by_task: Configured per task.
        file: Where settings are kept; None keeps them in memory only.

    Raises:
        RequestError: INPUT_INVALID when the file exists and cannot be read.
    """

    def __init__(self, default: BudgetRequest, by_task: Mapping[str, BudgetRequest], file: Path | None) -> None:
        self._default = default
        self._configured = dict(by_task)
        self._file = file
        self._merged: dict[str, BudgetRequest] = {}
        self._set: dict[str, BudgetRequest] = _load(file) if file is not None and file.exists() else {}

    def resolve(self, task: str, request: BudgetRequest, deadline_s: float) -> Limits:
        """The limits that hold for one request; the call's deadline bounds the milliseconds."""
        wanted = merge(request, self._for(task))
        latency_ms = deadline_s * 1000.0
        if wanted.max_latency_ms is not None:
            latency_ms = min(latency_ms, wanted.max_latency_ms)
        return Limits(
            max_energy_j=math.inf if wanted.max_energy_j is None else wanted.max_energy_j,
            max_latency_ms=latency_ms,
            on_infeasible=wanted.on_infeasible or OnInfeasible.ERROR,
            profile=wanted.profile or "balanced",
        )

    def _for(self, task: str) -> BudgetRequest:
        merged = self._merged.get(task)
        if merged is None:
            merged = self._merged[task] = self._merge(task)
        return merged

    def _merge(self, task: str) -> BudgetRequest:
        nothing = BudgetRequest()
        configured = merge(self._configured.get(task, nothing), self._default)
        return merge(self._set.get(task, nothing), merge(self._set.get(ALL_TASKS, nothing), configured))

    def show(self, tasks: list[str]) -> list[TaskBudget]:
        """The budget in force for all tasks, then for each of these and every task that has one of its own."""
        names = sorted({*tasks, *self._configured, *self._set} - {ALL_TASKS})
        return [self.of(name) for name in (ALL_TASKS, *names)]

    def of(self, task: str) -> TaskBudget:
        """The budget in force for one task."""
        if task in self._set:
            origin = "set"
        else:
            origin = "config" if task in self._configured else "default"
        return TaskBudget(task, self._for(task), origin)

    def set(self, task: str, budget: BudgetRequest) -> TaskBudget:
        """Change what a task (or every task, '') may spend; fields that are None keep what was set before."""
        self._store({**self._set, task: merge(budget, self._set.get(task, BudgetRequest()))})
        return self.of(task)

    def reset(self, task: str) -> TaskBudget:
        """Forget what was set."""
        self._store({name: budget for name, budget in self._set.items() if name != task})
        return self.of(task)

    def _store(self, settings: dict[str, BudgetRequest]) -> None:
        if self._file is not None:
            _save(self._file, settings)
        self._set = settings
        self._merged.clear()


def _save(file: Path, settings: Mapping[str, BudgetRequest]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    document = {
        task: {
            "max_energy_j": budget.max_energy_j,
            "max_latency_ms": budget.max_latency_ms,
            "on_infeasible": budget.on_infeasible.value if budget.on_infeasible else None,
            "profile": budget.profile,
        }
        for task, budget in settings.items()
    }
    draft = file.with_suffix(".tmp")
    with draft.open("w") as stream:
        json.dump(document, stream, indent=2, allow_nan=False)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)


def _read(entry: Mapping[str, Any]) -> BudgetRequest:
    for name in ("max_energy_j", "max_latency_ms"):
        value = entry[name]
        if value is not None and not (type(value) in (int, float) and 0.0 <= value < math.inf):
            raise ValueError(f"{name} must be a finite number that is not negative")
    if entry["profile"] not in (None, *PROFILES):
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}")
    return BudgetRequest(
        max_energy_j=entry["max_energy_j"],
        max_latency_ms=entry["max_latency_ms"],
        on_infeasible=OnInfeasible(entry["on_infeasible"]) if entry["on_infeasible"] else None,
        profile=entry["profile"],
    )


def _load(file: Path) -> dict[str, BudgetRequest]:
    try:
        document = json.loads(file.read_text())
        return {task: _read(entry) for task, entry in document.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            "INPUT_INVALID", f"The budgets in {file} cannot be read ({error}); mend or remove the file."
        ) from error
