"""How well the text experts that ship answer the skill suites: each alone, and what choosing among them could earn.

All figures are of the test split, which no training and no evidence has seen; what is chosen, such as the expert of
each suite, is chosen on the reference. Greedy answers, exact match. Joules are modelled: multiply-accumulates times a
published constant of `skills_table.DEVICE`. `auto` is the gate with its cascades and votes, by profile; its own
arithmetic is not charged.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from nodes.zoo.skills.checking import is_right, normalised, wilson_interval
from nodes.zoo.skills.suites import NAMES
from tests.bench.harness import Bar, Row, main
from tests.bench.skills_gate import outcomes
from tests.bench.skills_table import DEVICE, Table, evidence_tables

BARS = (
    Bar("suites_won_by_specialists", 3, ">="),
    Bar("oracle_minus_best_single_points", 10.0, ">="),
    Bar("lookup_minus_best_single_points", 2.0, ">="),
    Bar("auto_minus_best_single_points", 5.0, ">="),
    Bar("auto_minus_lookup_points", 1.0, ">="),
    Bar("auto_energy_at_best_single_quality_ratio", 0.5, "<="),
)
TWO_STEP = "two-step"


def run() -> list[Row]:
    """All figures. Cost: some minutes of one core."""
    reference, test = evidence_tables()
    best = int(reference.correct_qe.mean(axis=0).argmax())
    chosen_e = _expert_of_each_suite(reference)
    lookup_q = np.array([chosen_e[question.suite] for question in test.questions])
    rows = [row for e in range(len(test.experts)) for row in _alone(test, e)]
    every_q = np.arange(len(test.questions))
    singles = np.full(len(every_q), best)
    quality = {
        "best_single": (test.correct_qe[every_q, singles], test.energy_j_qe[every_q, singles]),
        "task_lookup": (test.correct_qe[every_q, lookup_q], test.energy_j_qe[every_q, lookup_q]),
        "vote_of_all": (_votes(test, reference), test.energy_j_qe[:, _alone_columns(test)].sum(axis=1)),
        "oracle": _oracle(test),
    }
    quality |= {f"auto_{name}": (done.correct_q, done.energy_q) for name, done in outcomes(reference, test).items()}
    for name, (right_q, energy_j_q) in quality.items():
        rows += _share(name, right_q, energy_j_q, {"chosen": test.experts[best]} if name == "best_single" else {})
    shares = {name: float(right_q.mean()) for name, (right_q, _) in quality.items()}
    energy_j = {name: float(energy_j_q.mean()) for name, (_, energy_j_q) in quality.items()}
    rows += _gains(shares, test, best) + _of_auto(shares, energy_j)
    return [*rows, _fusion(test, quality)]


def _of_auto(share: dict[str, float], energy_j: dict[str, float]) -> list[Row]:
    """The gate's profiles against the best single expert and the lookup, at no more joules than these take."""
    profiles = [name for name in share if name.startswith("auto_")]

    def most_within(limit_j: float) -> float:
        return max((share[name] for name in profiles if energy_j[name] <= limit_j), default=0.0)

    as_good = [energy_j[name] for name in profiles if share[name] >= share["best_single"]]
    ratio = min(as_good, default=float("inf")) / energy_j["best_single"]
    over_single = most_within(energy_j["best_single"]) - share["best_single"]
    over_lookup = most_within(energy_j["task_lookup"]) - share["task_lookup"]
    return [
        Row("auto_minus_best_single_points", 100 * over_single, "points", {"at": "no more joules"}),
        Row("auto_minus_lookup_points", 100 * over_lookup, "points", {"at": "no more joules"}),
        Row("auto_energy_at_best_single_quality_ratio", ratio, "ratio"),
    ]


def _fusion(test: Table, quality: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Row:
    """Fused answers against the best single expert and the gate on questions of two steps, paired."""
    part = test.suite(TWO_STEP)
    alone = {test.experts[e]: test.correct_qe[:, e] for e in _alone_columns(test)}
    routes = alone | {name: right_q for name, (right_q, _) in quality.items() if name.startswith("auto_")}
    fused = {"vote_of_all": quality["vote_of_all"][0]}
    fused |= {name: test.correct_qe[:, e] for e, name in enumerate(test.experts) if name not in alone}
    best_route = max(routes, key=lambda name: float(routes[name][part].mean()))
    best_fused = max(fused, key=lambda name: float(fused[name][part].mean()))
    differ_q = np.asarray(fused[best_fused][part], np.float64) - np.asarray(routes[best_route][part], np.float64)
    half = 1.96 * float(differ_q.std(ddof=1)) / len(differ_q) ** 0.5
    low, high = float(differ_q.mean()) - half, float(differ_q.mean()) + half
    if low <= 0.0:
        print(f"fusion does not pay: {best_fused} against {best_route} on {TWO_STEP}: {low:+.1%} to {high:+.1%}")
    sizes: dict[str, object] = {"fused": best_fused, "route": best_route, "low": low, "high": high}
    return Row("fused_minus_best_route_on_two_step_points", 100 * float(differ_q.mean()), "points", sizes)


def _alone(test: Table, e: int) -> list[Row]:
    name = test.experts[e]
    rows = _share(name, test.correct_qe[:, e], test.energy_j_qe[:, e], {})
    rows.append(Row(f"{name}_completion_tokens", float(test.completion_tokens_qe[:, e].mean()), "tokens"))
    for suite in NAMES:
        of_suite = test.suite(suite)
        rows += _share(f"{name}_{suite}", test.correct_qe[of_suite, e], test.energy_j_qe[of_suite, e], {})
    return rows


def _share(
    name: str, right_q: NDArray[np.float64], energy_j_q: NDArray[np.float64], said: dict[str, object]
) -> list[Row]:
    low, high = wilson_interval(int(right_q.sum()), len(right_q))
    sizes = {"questions": len(right_q), "low": round(low, 4), "high": round(high, 4), **said}
    return [
        Row(f"{name}_right", float(right_q.mean()), "fraction", sizes),
        Row(f"{name}_energy", float(energy_j_q.mean()), "J per question, modelled", {"device": DEVICE}),
    ]


def _expert_of_each_suite(reference: Table) -> dict[str, int]:
    return {suite: int(reference.correct_qe[reference.suite(suite)].mean(axis=0).argmax()) for suite in NAMES}


def _alone_columns(table: Table) -> list[int]:
    """Experts that are no mixture of the others."""
    return [e for e, name in enumerate(table.experts) if not name.endswith("mixture")]


def _votes(test: Table, reference: Table) -> NDArray[np.float64]:
    """Most frequent answer; a tie goes to the expert that is best on the reference."""
    by_quality = sorted(_alone_columns(test), key=lambda e: -float(reference.correct_qe[:, e].mean()))
    right = []
    for q, question in enumerate(test.questions):
        said = [normalised(test.given_eq[e][q]) for e in by_quality]
        counts = Counter(said)
        right.append(is_right(max(said, key=lambda answer: (counts[answer], -said.index(answer))), question.answer))
    return np.array(right, np.float64)


def _oracle(test: Table) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The cheapest expert that is right; the cheapest of all where none is."""
    cost_qe = np.where(test.correct_qe > 0, test.energy_j_qe, np.inf)
    right_q: NDArray[np.bool_] = np.asarray(np.isfinite(cost_qe).any(axis=1))
    energy_j_q: NDArray[np.float64] = np.where(right_q, cost_qe.min(axis=1), test.energy_j_qe.min(axis=1))
    return right_q.astype(np.float64), energy_j_q


def _gains(share: dict[str, float], test: Table, best: int) -> list[Row]:
    alone = _alone_columns(test)
    general = next(e for e in alone if test.experts[e].endswith("general"))
    winners = [max(alone, key=lambda e: float(test.correct_qe[test.suite(suite), e].mean())) for suite in NAMES]
    points = {name: 100 * (value - share["best_single"]) for name, value in share.items() if name != "best_single"}
    return [
        Row("suites_won_by_specialists", float(sum(e != general for e in winners)), "suites", {"of": len(NAMES)}),
        Row("oracle_minus_best_single_points", points["oracle"], "points"),
        Row("lookup_minus_best_single_points", points["task_lookup"], "points"),
        Row("vote_minus_best_single_points", points["vote_of_all"], "points"),
        Row("auto_balanced_minus_best_single_points", points["auto_balanced"], "points"),
        Row("auto_best_minus_best_single_points", points["auto_best"], "points"),
        Row("best_single_is_the_mixture", float(test.experts[best].endswith("mixture")), "truth value"),
    ]


if __name__ == "__main__":
    main(stem="skills", run=run, bars=BARS)
