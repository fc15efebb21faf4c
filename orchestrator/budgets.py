"""What a request may spend when it does not say: configured defaults, what operators set, and the profile's name.

What operators set survives a restart: it is written to one small JSON file, atomically, before the change is
acknowledged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.durable import save_json
from orchestrator.errors import RequestError
from orchestrator.longrun import NO_LONG_RUN, LongRun, Share
from orchestrator.types import BudgetRequest, Limits, OnInfeasible
from orchestrator.wire import NO_BUDGET, PROFILES

ALL_TASKS = ""


@dataclass(frozen=True)
class TaskBudget:
    """The budget in force for a task ('' for every task) and where it comes from: set, config or default."""

    task: str
    budget: BudgetRequest
    origin: str
    long_run: LongRun = NO_LONG_RUN


@dataclass(frozen=True)
class Setting:
    """What an operator set for a task."""

    budget: BudgetRequest = field(default_factory=BudgetRequest)
    long_run: LongRun = NO_LONG_RUN


def merge(over: BudgetRequest, under: BudgetRequest) -> BudgetRequest:
    """`over` where it says something, `under` elsewhere."""
    return BudgetRequest(
        max_energy_j=under.max_energy_j if over.max_energy_j is None else over.max_energy_j,
        max_latency_ms=under.max_latency_ms if over.max_latency_ms is None else over.max_latency_ms,
        on_infeasible=over.on_infeasible or under.on_infeasible,
        profile=over.profile or under.profile,
    )


def _limits(wanted: BudgetRequest, most_ms: float) -> Limits:
    """What a whole budget lets a request spend that has so many milliseconds at most."""
    return Limits(
        max_energy_j=math.inf if wanted.max_energy_j is None else wanted.max_energy_j,
        max_latency_ms=most_ms if wanted.max_latency_ms is None else min(most_ms, wanted.max_latency_ms),
        on_infeasible=wanted.on_infeasible or OnInfeasible.ERROR,
        profile=wanted.profile or "balanced",
    )


class Budgets:
    """Budgets by task. Precedence: request > set for the task > set for all > configured for the task > configured for
    texts > default.

    Args:
        default: Configured for every task; complete but for joules, where None means no limit.
        by_task: Configured per task.
        text: Configured for all tasks of text.
        is_text: Whether a task is one.
        file: Where settings are kept; None keeps them in memory only.

    Raises:
        RequestError: INPUT_INVALID when the file exists and cannot be read.
    """

    def __init__(
        self,
        default: BudgetRequest,
        by_task: Mapping[str, BudgetRequest],
        file: Path | None,
        *,
        text: BudgetRequest | None = None,
        is_text: Callable[[str], bool] = lambda _task: False,
    ) -> None:
        self._default = default
        self._text = text or BudgetRequest()
        self._is_text = is_text
        self._configured = dict(by_task)
        self._file = file
        self._merged: dict[tuple[str, bool], tuple[BudgetRequest, Limits]] = {}
        self._long_run: dict[str, LongRun] = {}
        self._shares: Mapping[str, Share] = {}
        self._set: dict[str, Setting] = _load(file) if file is not None and file.exists() else {}

    def configure(self, default: BudgetRequest, by_task: Mapping[str, BudgetRequest], text: BudgetRequest) -> None:
        """The configuration has changed; what operators set stays above it."""
        self._default, self._text, self._configured = default, text, dict(by_task)
        self._merged.clear()

    def resolve(self, task: str, request: BudgetRequest, deadline_s: float) -> Limits:
        """The limits that hold for one request; the call's deadline bounds the milliseconds."""
        standing, limits = self._for(task)
        latency_ms = deadline_s * 1000.0
        if request is not NO_BUDGET:
            return _limits(merge(request, standing), latency_ms)
        return limits if limits.max_latency_ms <= latency_ms else _limits(standing, latency_ms)

    def _for(self, task: str) -> tuple[BudgetRequest, Limits]:
        """The budget in force for a task, and the limits of a request that says none and has time enough."""
        key = task, self._is_text(task)
        found = self._merged.get(key)
        if found is None:
            merged = self._merge(task)
            found = self._merged[key] = merged, _limits(merged, math.inf)
        return found

    def _merge(self, task: str) -> BudgetRequest:
        nothing = BudgetRequest()
        default = merge(self._text, self._default) if self._is_text(task) else self._default
        configured = merge(self._configured.get(task, nothing), default)
        return merge(self._setting(task).budget, merge(self._setting(ALL_TASKS).budget, configured))

    def _setting(self, task: str) -> Setting:
        return self._set.get(task, Setting())

    def long_run(self, task: str) -> LongRun:
        """What a task may spend over many requests: set for it, else its part of what tasks share, else set for all
        (each task for itself)."""
        found = self._long_run.get(task)
        if found is None:
            share = self.share_of(task)
            shared = self._setting(ALL_TASKS).long_run if share is None else LongRun(average_energy_j=share.energy_j)
            found = self._long_run[task] = self._setting(task).long_run if self.has_own_long_run(task) else shared
        return found

    def has_own_long_run(self, task: str) -> bool:
        """Whether an operator set a long-run budget for this task alone, or that it has none."""
        return self._setting(task).long_run.said

    @property
    def shares(self) -> Mapping[str, Share]:
        """Tasks' parts of the budget that they share."""
        return self._shares

    def share(self, parts: Mapping[str, Share]) -> None:
        """Other parts from now on."""
        if parts or self._shares:
            self._shares = dict(parts)
            self._long_run.clear()

    def share_of(self, task: str) -> Share | None:
        """A task's part; None where it has none, or a long-run budget of its own."""
        return None if self.has_own_long_run(task) else self._shares.get(task)

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
        return TaskBudget(task, self._for(task)[0], origin, self.long_run(task))

    def set(self, task: str, budget: BudgetRequest, long_run: LongRun = NO_LONG_RUN) -> TaskBudget:
        """Change what a task (or every task, '') may spend; fields that are None keep what was set before."""
        before = self._setting(task)
        after = Setting(merge(budget, before.budget), long_run if long_run.said else before.long_run)
        self._store({**self._set, task: after})
        return self.of(task)

    def reset(self, task: str) -> TaskBudget:
        """Forget what was set."""
        self._store({name: setting for name, setting in self._set.items() if name != task})
        return self.of(task)

    def _store(self, settings: dict[str, Setting]) -> None:
        if self._file is not None:
            save_json(self._file, {task: _document(setting) for task, setting in settings.items()})
        self._set = settings
        self._merged.clear()
        self._long_run.clear()


def _document(setting: Setting) -> dict[str, Any]:
    budget, long_run = setting.budget, setting.long_run
    return {
        "max_energy_j": budget.max_energy_j,
        "max_latency_ms": budget.max_latency_ms,
        "on_infeasible": budget.on_infeasible.value if budget.on_infeasible else None,
        "profile": budget.profile,
        "average_energy_j": long_run.average_energy_j,
        "average_power_w": long_run.average_power_w,
    }


# Files written before there were long-run budgets do not have these.
_OPTIONAL = ("average_energy_j", "average_power_w")


def _read(entry: Mapping[str, Any]) -> Setting:
    for name in ("max_energy_j", "max_latency_ms", *_OPTIONAL):
        value = entry.get(name) if name in _OPTIONAL else entry[name]
        if value is not None and not (type(value) in (int, float) and 0.0 <= value < math.inf):
            raise ValueError(f"{name} must be a finite number that is not negative")
    if entry["profile"] not in (None, *PROFILES):
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}")
    budget = BudgetRequest(
        max_energy_j=entry["max_energy_j"],
        max_latency_ms=entry["max_latency_ms"],
        on_infeasible=OnInfeasible(entry["on_infeasible"]) if entry["on_infeasible"] else None,
        profile=entry["profile"],
    )
    return Setting(budget, LongRun(entry.get("average_energy_j"), entry.get("average_power_w")))


def _load(file: Path) -> dict[str, Setting]:
    try:
        document = json.loads(file.read_text())
        return {task: _read(entry) for task, entry in document.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            "INPUT_INVALID", f"The budgets in {file} cannot be read ({error}); mend or remove the file."
        ) from error
