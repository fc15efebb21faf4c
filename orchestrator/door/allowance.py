"""What a request may spend: said in its body, in headers, or in the name of the model; the most specific wins. Pure.

==================  ===========================================  ==================================
body                header                                       model
==================  ===========================================  ==================================
budget.max_*        x-edgewise-max-energy-j, -max-latency-ms     auto@20J,1.5s
budget.profile      x-edgewise-profile                           auto:eco, auto:balanced, auto:best
budget.max_ttft_ms  x-slo-ttft-ms
budget.max_tpot_ms  x-slo-tpot-ms
==================  ===========================================  ==================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from orchestrator.budgets import merge
from orchestrator.door.fields import Fields
from orchestrator.errors import RequestError
from orchestrator.types import BudgetRequest, OnInfeasible
from orchestrator.units import UnitError, parse_duration_ms, parse_energy_j
from orchestrator.wire import MAX_ENERGY_J, MAX_LATENCY_MS, NO_BUDGET, PROFILES, check_budget_number

AUTO = "auto"
POLICIES = tuple(policy.value for policy in OnInfeasible)
KNOWN = ("max_energy_j", "max_latency_ms", "max_ttft_ms", "max_tpot_ms", "on_infeasible", "profile")
HEADERS = frozenset(
    {
        "x-litellm-timeout",
        "x-edgewise-max-latency-ms",
        "x-edgewise-max-energy-j",
        "x-edgewise-on-infeasible",
        "x-edgewise-profile",
        "x-slo-ttft-ms",
        "x-slo-tpot-ms",
    }
)
_NUMBER = re.compile(r"[+-]?[0-9]{1,32}(\.[0-9]{0,32})?([eE][+-]?[0-9]{1,3})?")
_ENERGY_ENDS = ("J", "Wh")


@dataclass(frozen=True)
class Allowance:
    """Joules and milliseconds of one request; None is not said."""

    budget: BudgetRequest = NO_BUDGET
    max_ttft_ms: float | None = None
    max_tpot_ms: float | None = None

    def over(self, under: Allowance) -> Allowance:
        """This where it says something, the other elsewhere."""
        if under is NO_ALLOWANCE:
            return self
        if self is NO_ALLOWANCE:
            return under
        return Allowance(
            merge(self.budget, under.budget),
            under.max_ttft_ms if self.max_ttft_ms is None else self.max_ttft_ms,
            under.max_tpot_ms if self.max_tpot_ms is None else self.max_tpot_ms,
        )


NO_ALLOWANCE = Allowance()


@lru_cache(maxsize=256)
def from_model(model: str) -> tuple[str | None, Allowance]:
    """The expert that a model's name means (None lets the gateway choose) and the budget in it.

    Raises:
        RequestError: FIELD_OUT_OF_RANGE.
    """
    if "@" not in model and ":" not in model:
        return (None if model == AUTO else model), NO_ALLOWANCE
    name, at, limits = model.partition("@")
    name, colon, profile = name.partition(":")
    if colon and profile not in PROFILES:
        raise _bad_model()
    budget = BudgetRequest(profile=profile or None)
    for limit in limits.split(",") if at else ():
        budget = _with_limit(budget, limit.strip())
    return (None if name == AUTO else name), Allowance(budget)


def _with_limit(budget: BudgetRequest, limit: str) -> BudgetRequest:
    try:
        if limit.endswith(_ENERGY_ENDS):
            return replace(budget, max_energy_j=parse_energy_j(limit))
        return replace(budget, max_latency_ms=parse_duration_ms(limit))
    except UnitError:
        raise _bad_model() from None


def _bad_model() -> RequestError:
    text = "model must be an expert or auto, with :eco, :balanced or :best, with a budget such as @20J,1.5s."
    return RequestError("FIELD_OUT_OF_RANGE", text, field="model")


def from_headers(headers: Mapping[str, str]) -> Allowance:
    """The budget in the headers.

    Raises:
        RequestError: BUDGET_NOT_FINITE, BUDGET_OUT_OF_RANGE or FIELD_OUT_OF_RANGE.
    """
    if HEADERS.isdisjoint(headers):
        return NO_ALLOWANCE
    timeout_s = _number(headers, "x-litellm-timeout", MAX_LATENCY_MS / 1e3, "s")
    latency_ms = _number(headers, "x-edgewise-max-latency-ms", MAX_LATENCY_MS, "ms")
    policy, profile = headers.get("x-edgewise-on-infeasible"), headers.get("x-edgewise-profile")
    if policy is not None and policy not in POLICIES:
        raise _bad_header("x-edgewise-on-infeasible", POLICIES)
    if profile is not None and profile not in PROFILES:
        raise _bad_header("x-edgewise-profile", PROFILES)
    budget = BudgetRequest(
        _number(headers, "x-edgewise-max-energy-j", MAX_ENERGY_J, "J"),
        timeout_s * 1e3 if latency_ms is None and timeout_s is not None else latency_ms,
        OnInfeasible(policy) if policy else None,
        profile,
    )
    ttft_ms = _number(headers, "x-slo-ttft-ms", MAX_LATENCY_MS, "ms")
    return Allowance(budget, ttft_ms, _number(headers, "x-slo-tpot-ms", MAX_LATENCY_MS, "ms"))


def _number(headers: Mapping[str, str], name: str, limit: float, unit: str) -> float | None:
    text = headers.get(name)
    if text is None:
        return None
    value = float(text) if _NUMBER.fullmatch(text) else float("nan")
    return check_budget_number(value, field=name, limit=limit, unit=unit)


def _bad_header(name: str, choices: tuple[str, ...]) -> RequestError:
    return RequestError("FIELD_OUT_OF_RANGE", f"{name} must be one of {', '.join(choices)}.", field=name)


def from_body(fields: Fields | None) -> Allowance:
    """The `budget` of a body.

    Raises:
        RequestError: BUDGET_NOT_FINITE, BUDGET_OUT_OF_RANGE or FIELD_OUT_OF_RANGE.
    """
    if fields is None:
        return NO_ALLOWANCE
    fields.only(*KNOWN)
    policy, profile = fields.choice("on_infeasible", POLICIES), fields.choice("profile", PROFILES)
    budget = BudgetRequest(
        _budget(fields, "max_energy_j", MAX_ENERGY_J, "J"),
        _budget(fields, "max_latency_ms", MAX_LATENCY_MS, "ms"),
        OnInfeasible(policy) if policy else None,
        profile,
    )
    ttft_ms = _budget(fields, "max_ttft_ms", MAX_LATENCY_MS, "ms")
    return Allowance(budget, ttft_ms, _budget(fields, "max_tpot_ms", MAX_LATENCY_MS, "ms"))


def _budget(fields: Fields, name: str, limit: float, unit: str) -> float | None:
    value = fields.value.get(name)
    if value is None:
        return None
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    # An integer may be too large for a float, and is then beyond every limit.
    number = float(min(value, 1e300)) if plain else float("nan")
    return check_budget_number(number, field=fields.path(name), limit=limit, unit=unit)
