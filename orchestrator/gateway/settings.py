"""What parts of the gateway are told, out of its configuration; at the start and whenever it is read again. Pure."""

from __future__ import annotations

from orchestrator.config import GatewayConfig
from orchestrator.planning.planner import PlanLimits
from orchestrator.types import BudgetRequest, OnInfeasible


def configured_budgets(config: GatewayConfig) -> tuple[BudgetRequest, dict[str, BudgetRequest], BudgetRequest]:
    """Budgets of requests that bring none: for every task, by task, and for tasks of text."""
    by_task = {name: _budget(budget.model_dump()) for name, budget in config.budgets.tasks.items()}
    return _budget(config.budgets.default.model_dump()), by_task, _budget(config.budgets.text.model_dump())


def _budget(fields: dict[str, object]) -> BudgetRequest:
    policy = fields["on_infeasible"]
    energy, latency, profile = fields["max_energy_j"], fields["max_latency_ms"], fields["profile"]
    return BudgetRequest(
        max_energy_j=energy if isinstance(energy, float) else None,
        max_latency_ms=latency if isinstance(latency, float) else None,
        on_infeasible=OnInfeasible(policy) if policy else None,
        profile=profile if isinstance(profile, str) else None,
    )


def plan_limits(config: GatewayConfig) -> PlanLimits:
    """What active sets may cost."""
    plan = config.plan
    return PlanLimits(plan.max_active_energy_j, plan.max_active, plan.mean_energy_j, plan.drift_fraction)


def max_attempts(config: GatewayConfig) -> int:
    """Attempts per request, the first included."""
    return config.retries.max_attempts if config.retries.enabled else 1
