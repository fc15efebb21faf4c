"""What every fault must be survived with: limits as data, and the sentences that say which does not hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.faults.history import Outcome
from tests.faults.scenarios import Restart

ANSWERED_FRACTION = 0.99
P99_RATIO = 2.5
# The ratio of a single run says little on a shared machine.
RATIO_FROM_RUNS = 3
REFUSED_FRACTION = 0.01
# A fault that struck hardly any work in progress proves nothing.
HIT_PER_RUN = 5
BACK_S = {"stop_node": 6.0, "kill_engine": 3.0}
AGENTS_BACK_S = 7.0


def missed(scenario: str, outcome: Outcome) -> list[str]:
    """One sentence per bar that does not hold for these runs."""
    runs = len(outcome.p99_ratios)
    checks = (
        (outcome.hit >= HIT_PER_RUN * runs, f"only {outcome.hit} requests were hit in {runs} runs"),
        (
            outcome.rescued_fraction >= ANSWERED_FRACTION,
            f"{outcome.rescued} of {outcome.hit} requests that were hit got an answer ({_reasons(outcome)})",
        ),
        (
            outcome.answered_fraction >= ANSWERED_FRACTION,
            f"{outcome.answered} of {outcome.accepted} accepted requests got an answer ({_reasons(outcome)})",
        ),
        (outcome.overdue == 0, f"{outcome.overdue} requests had no single end by their deadline and 100 ms"),
        (outcome.wrong == 0, f"{outcome.wrong} answers were not those of the expert to the input"),
        (outcome.late_delivered == 0, f"{outcome.late_delivered} answers came from an arm that had been given up"),
        (
            outcome.refused <= REFUSED_FRACTION * (outcome.accepted + outcome.refused),
            f"{outcome.refused} requests were refused",
        ),
        (
            runs < RATIO_FROM_RUNS or outcome.p99_ratio <= P99_RATIO,
            f"p99 of the unaffected is {outcome.p99_ratio:.2f} times that of the calm phase",
        ),
        (
            max(outcome.back_s, default=0.0) <= BACK_S.get(scenario, math.inf),
            f"the node was back after {max(outcome.back_s, default=0.0):.1f} s",
        ),
    )
    return [f"{scenario}: {sentence}" for holds, sentence in checks if not holds]


def missed_restart(restarts: Sequence[Restart]) -> list[str]:
    """The same for restarts of the gateway."""
    slowest_s = max(restart.agents_back_s for restart in restarts)
    hung = sum(restart.hung for restart in restarts)
    checks = (
        (slowest_s <= AGENTS_BACK_S, f"the agents were back {slowest_s:.1f} s after the gateway listened"),
        (hung == 0, f"{hung} calls had no end by their deadline and 100 ms"),
        (all(restart.budget_kept for restart in restarts), "a budget that had been set was forgotten"),
        (not any(restart.orphans for restart in restarts), "processes of the gateway outlived it"),
        (all(restart.answered for restart in restarts), "no request was answered after the restart"),
    )
    return [f"restart_gateway: {sentence}" for holds, sentence in checks if not holds]


def _reasons(outcome: Outcome) -> str:
    return ", ".join(outcome.reasons) or "no failure"
