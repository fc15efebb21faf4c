"""A long-run budget of joules, held while the tasks change at half-time, at three loads and two latency promises.

What is measured and what is modelled: `tests/bench/pacing_world.py`. The worst case of all loads, promises and seeds
counts. Three controls go through the same test, all loads and promises of a seed, and must fail it: the price that was
right for the first half, kept (unpaced); the best random mixture of models; and pacing without a latency margin. Runs
on a virtual clock, so that the machine matters for the cost per decision alone.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from optimizer.online.pacing import Allowance, Pacer
from tests.bench.harness import Bar, Row, evaluation_data, main
from tests.bench.pacing_fleet import Fleet, Result
from tests.bench.pacing_rivals import (
    BUDGET_J,
    BUDGET_TOLERANCE,
    Case,
    play_hindsight,
    play_mixture,
    play_paced,
    play_unpaced,
)
from tests.bench.pacing_world import draw_requests, load_prompts

LOADS = (0.5, 0.9, 1.2)
ALPHAS = (0.01, 0.05)
SEEDS = (1, 2)
OF_HINDSIGHT = 0.98
# The price at which the stream as a whole spends about the budget: only says what "capacity" means.
CAPACITY_PRICE = 6e-5
BARS = (
    Bar("budget_error_fraction_worst", BUDGET_TOLERANCE, "<="),
    Bar("late_over_alpha_worst", 1.0, "<="),
    Bar("bound_missed_over_alpha_worst", 1.0, "<="),
    Bar("quality_of_hindsight_worst", OF_HINDSIGHT, ">="),
    Bar("overspent_requests_worst", Allowance(per_request_j=BUDGET_J).burst_requests, "<="),
    Bar("power_error_fraction_worst", BUDGET_TOLERANCE, "<="),
    Bar("control_unpaced_passed", 0.0, "<="),
    Bar("control_mixture_passed", 0.0, "<="),
    Bar("control_without_margins_passed", 0.0, "<="),
    Bar("decision_us", 10.0, "<="),
)


@dataclass(frozen=True)
class Verdict:
    """The three figures of the test."""

    budget_error_fraction: float
    late_over_alpha: float
    quality_of_hindsight: float

    @property
    def passed(self) -> bool:
        """Whether all bars hold."""
        return (
            self.budget_error_fraction <= BUDGET_TOLERANCE
            and self.late_over_alpha <= 1.0
            and self.quality_of_hindsight >= OF_HINDSIGHT
        )


def judge(result: Result, case: Case, hindsight: Result) -> Verdict:
    """The same test for every policy."""
    return Verdict(
        abs(result.mean_j / BUDGET_J - 1.0), result.late_fraction / case.alpha, result.quality / hindsight.quality
    )


def run_case(case: Case, seed: int) -> list[Row]:
    """One load and one promise: the paced policy, the controls, and watts."""
    hindsight = play_hindsight(case)
    if hindsight is None:
        raise SystemExit("no fixed price keeps the rules in hindsight: the case says nothing")
    paced, policy = play_paced(case)
    results = {
        "paced": paced,
        "unpaced": play_unpaced(case),
        "mixture": play_mixture(case),
        "without_margins": play_paced(case, margins=False)[0],
    }
    sizes: dict[str, object] = {"load": case.load_fraction, "alpha": case.alpha, "seed": seed}
    rows = [Row("hindsight_quality", hindsight.quality, "fraction", sizes)]
    for name, result in results.items():
        verdict = judge(result, case, hindsight)
        rows += [
            Row(f"{name}_budget_error_fraction", verdict.budget_error_fraction, "fraction", sizes),
            Row(f"{name}_late_over_alpha", verdict.late_over_alpha, "ratio", sizes),
            Row(f"{name}_quality_of_hindsight", verdict.quality_of_hindsight, "ratio", sizes),
            Row(f"{name}_passed", float(verdict.passed), "cases", sizes),
        ]
    rows += [
        Row("paced_admitted_fraction", float(paced.admitted_q.mean()), "fraction", sizes),
        Row("paced_bound_missed_over_alpha", paced.bound_missed_fraction / case.alpha, "ratio", sizes),
        Row("paced_overspent_requests", policy.overspent_j / BUDGET_J, "requests", sizes),
        Row("power_error_fraction", _power_error(case, paced), "fraction", sizes),
    ]
    return rows


def _power_error(case: Case, paced: Result) -> float:
    """The same joules as watts over the time of the stream."""
    seconds = float(case.requests.unit_s_q[-1]) / case.rate_per_s
    power_w = float(paced.energy_q.sum()) / seconds
    result, _ = play_paced(case, Allowance(power_w=power_w, burst_s=seconds / 50.0))
    return abs(float(result.energy_q.sum()) / seconds / power_w - 1.0)


def decision_us(options: int, repeats: int = 20_000) -> float:
    """Median of ten: processor microseconds that the pacer takes for one request, the curve's rebuilds included."""
    rng = np.random.default_rng(0)
    quality_qr, energy_qr = rng.random((512, options)), rng.random((512, options))
    took_us = []
    for _ in range(10):
        pacer = Pacer(Allowance(per_request_j=0.3))
        started_s = time.process_time()
        for q in range(repeats):
            pacer.arrive(float(q))
            pacer.learn(quality_qr[q % 512], energy_qr[q % 512])
            pacer.settle(pacer.charge(0.3, 0.9), 0.31)
        took_us.append((time.process_time() - started_s) / repeats * 1e6)
    return float(np.median(took_us))


def _worst(rows: list[Row], metric: str, *, least: bool = False) -> float:
    values = [row.value for row in rows if row.metric == metric]
    return min(values) if least else max(values)


def run() -> list[Row]:
    """Every case of every seed, then the worst of them."""
    data = evaluation_data()
    prompts = load_prompts(data)
    fleet, rows = Fleet(prompts), list[Row]()
    for seed in SEEDS:
        requests = draw_requests(data, prompts, seed=seed)
        capacity_per_s = fleet.capacity_per_s(requests, CAPACITY_PRICE)
        for load in LOADS:
            for alpha in ALPHAS:
                rows += run_case(Case(fleet, requests, load, load * capacity_per_s, alpha), seed)
    summary = {
        "budget_error_fraction_worst": _worst(rows, "paced_budget_error_fraction"),
        "late_over_alpha_worst": _worst(rows, "paced_late_over_alpha"),
        "bound_missed_over_alpha_worst": _worst(rows, "paced_bound_missed_over_alpha"),
        "quality_of_hindsight_worst": _worst(rows, "paced_quality_of_hindsight", least=True),
        "overspent_requests_worst": _worst(rows, "paced_overspent_requests"),
        "power_error_fraction_worst": _worst(rows, "power_error_fraction"),
        "decision_us": decision_us(20),
    }
    for control in ("unpaced", "mixture", "without_margins"):
        passed = [row for row in rows if row.metric == f"{control}_passed" and row.value]
        by_seed = Counter(row.sizes["seed"] for row in passed)
        summary[f"control_{control}_passed"] = float(sum(n == len(LOADS) * len(ALPHAS) for n in by_seed.values()))
        summary[f"cases_{control}_passed"] = float(len(passed))
    units = {"control": "tests", "cases": "cases", "overspent": "requests", "decision": "us"}
    rows += [Row(name, value, units.get(name.split("_")[0], "ratio")) for name, value in summary.items()]
    return rows


if __name__ == "__main__":
    main(stem="pacing", run=run, bars=BARS)
