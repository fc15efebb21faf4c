"""How well the text experts that ship answer the skill suites: each alone, and what choosing among them could earn.

All figures are of the test split, which no training and no evidence has seen; what is chosen, such as the expert of
each suite, is chosen on the reference. Greedy answers, exact match. Joules are modelled: multiply-accumulates times a
published constant of `skills_table.DEVICE`, so that they do not hang on what else the machine does. `auto` is the gate
with its cascades and votes, by profile; its own arithmetic is not charged. Which profile answers for it is chosen on
the reference too. All intervals are 95 %; differences and ratios are paired by question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nodes.zoo.skills.checking import is_right, normalised, wilson_interval
from nodes.zoo.skills.suites import NAMES
from tests.bench.harness import Bar, Row, main
from tests.bench.skills_gate import Auto, outcomes
from tests.bench.skills_table import DEVICE, Table, evidence_tables

BARS = (
    Bar("suites_won_by_specialists", 3, ">="),
    Bar("oracle_minus_best_single_points", 10.0, ">="),
    Bar("lookup_minus_best_single_points", 2.0, ">="),
    Bar("auto_minus_best_single_points", 5.0, ">="),
    Bar("auto_minus_lookup_points", 1.0, ">="),
    Bar("auto_energy_of_lookup_ratio", 1.0, "<="),
    Bar("auto_energy_at_best_single_quality_ratio", 0.5, "<="),
)
TWO_STEP = "two-step"
# The profile that promises the best single expert's quality.
AS_GOOD = "balanced"
_RESAMPLED = 1_000

Floats = NDArray[np.float64]
# Right answers and joules of each question, by way of choosing.
Outcomes = dict[str, tuple[Floats, Floats]]


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
    autos = outcomes(reference, test)
    quality |= {f"auto_{name}": (auto.right_q, auto.energy_j_q) for name, auto in autos.items()}
    for name, (right_q, energy_j_q) in quality.items():
        rows += _share(name, right_q, energy_j_q, {"chosen": test.experts[best]} if name == "best_single" else {})
    rows += _gains(test, quality)
    known_q = np.arange(len(reference.questions))
    known_e = {
        "best_single": np.full(len(known_q), best),
        "task_lookup": np.array([chosen_e[question.suite] for question in reference.questions]),
    }
    known = {
        name: (float(reference.correct_qe[known_q, e_q].mean()), float(reference.energy_j_qe[known_q, e_q].mean()))
        for name, e_q in known_e.items()
    }
    return [*rows, *_of_auto(autos, quality, known), *_by_suite(test, quality), _fusion(test, quality)]


def _of_auto(autos: Mapping[str, Auto], quality: Outcomes, known: Mapping[str, tuple[float, float]]) -> list[Row]:
    """The gate against the best single expert and the lookup, at no more joules than these take.

    Args:
        autos: By profile.
        quality: Right answers and joules of every way to choose, on the test.
        known: Right answers and joules of the two rivals on the reference, where the profile is chosen.
    """

    def best_within(rival: str) -> str:
        limit_j = known[rival][1]
        return max(autos, key=lambda name: (autos[name].known_j <= limit_j, autos[name].known_right))

    against_single, against_lookup = best_within("best_single"), best_within("task_lookup")
    single_q, lookup_q = quality["best_single"], quality["task_lookup"]
    saved = _ratio("auto_energy_at_best_single_quality_ratio", autos[AS_GOOD].energy_j_q, single_q[1])
    behind = _points("auto_at_best_single_quality_points", autos[AS_GOOD].right_q - single_q[0], profile=AS_GOOD)
    if behind.value < 0.0:
        saved = replace(saved, value=float("inf"))
    return [
        _points("auto_minus_best_single_points", autos[against_single].right_q - single_q[0], profile=against_single),
        _ratio("auto_energy_of_best_single_ratio", autos[against_single].energy_j_q, single_q[1]),
        _points("auto_minus_lookup_points", autos[against_lookup].right_q - lookup_q[0], profile=against_lookup),
        _ratio("auto_energy_of_lookup_ratio", autos[against_lookup].energy_j_q, lookup_q[1]),
        behind,
        saved,
    ]


def _by_suite(test: Table, quality: Outcomes) -> list[Row]:
    """Where the gate's best profile gains on the lookup, and where it loses."""
    more_q = quality["auto_best"][0] - quality["task_lookup"][0]
    return [_points(f"auto_best_minus_lookup_{suite}_points", more_q[test.suite(suite)]) for suite in NAMES]


def _points(name: str, differ_q: Floats, **said: object) -> Row:
    """A mean difference of right answers, in points."""
    low, high = _around(differ_q)
    return Row(name, 100 * float(differ_q.mean()), "points", {"low": 100 * low, "high": 100 * high, **said})


def _ratio(name: str, mine_q: Floats, rival_q: Floats) -> Row:
    """A ratio of means; its error is that of the differences from it."""
    ratio = float(mine_q.mean() / rival_q.mean())
    low, high = _around((mine_q - ratio * rival_q) / rival_q.mean())
    return Row(name, ratio, "ratio", {"low": ratio + low, "high": ratio + high})


def _around(values_q: Floats) -> tuple[float, float]:
    """The 95 % interval of a mean."""
    mean, half = float(values_q.mean()), 1.96 * float(values_q.std(ddof=1)) / len(values_q) ** 0.5
    return mean - half, mean + half


def _fusion(test: Table, quality: Outcomes) -> Row:
    """Fused answers against the best single expert and the gate on questions of two steps, paired."""
    part = test.suite(TWO_STEP)
    alone = {test.experts[e]: test.correct_qe[:, e] for e in _alone_columns(test)}
    routes = alone | {name: right_q for name, (right_q, _) in quality.items() if name.startswith("auto_")}
    fused = {"vote_of_all": quality["vote_of_all"][0]}
    fused |= {name: test.correct_qe[:, e] for e, name in enumerate(test.experts) if name not in alone}
    best_route = max(routes, key=lambda name: float(routes[name][part].mean()))
    best_fused = max(fused, key=lambda name: float(fused[name][part].mean()))
    differ_q = np.asarray(fused[best_fused][part], np.float64) - np.asarray(routes[best_route][part], np.float64)
    low, high = _around(differ_q)
    if low <= 0.0:
        print(f"fusion does not pay: {best_fused} against {best_route} on {TWO_STEP}: {low:+.1%} to {high:+.1%}")
    return _points("fused_minus_best_route_on_two_step_points", differ_q, fused=best_fused, route=best_route)


def _alone(test: Table, e: int) -> list[Row]:
    name = test.experts[e]
    rows = _share(name, test.correct_qe[:, e], test.energy_j_qe[:, e], {})
    tokens_q = test.completion_tokens_qe[:, e].astype(np.float64)
    low, high = _around(tokens_q)
    rows.append(Row(f"{name}_completion_tokens", float(tokens_q.mean()), "tokens", {"low": low, "high": high}))
    for suite in NAMES:
        of_suite = test.suite(suite)
        rows += _share(f"{name}_{suite}", test.correct_qe[of_suite, e], test.energy_j_qe[of_suite, e], {})
    return rows


def _share(name: str, right_q: Floats, energy_j_q: Floats, said: dict[str, object]) -> list[Row]:
    low, high = wilson_interval(int(right_q.sum()), len(right_q))
    low_j, high_j = _around(energy_j_q)
    sizes = {"questions": len(right_q), "low": round(low, 4), "high": round(high, 4), **said}
    return [
        Row(f"{name}_right", float(right_q.mean()), "fraction", sizes),
        Row(
            f"{name}_energy",
            float(energy_j_q.mean()),
            "J per question, modelled",
            {"device": DEVICE, "low": low_j, "high": high_j},
        ),
    ]


def _expert_of_each_suite(reference: Table) -> dict[str, int]:
    return {suite: int(reference.correct_qe[reference.suite(suite)].mean(axis=0).argmax()) for suite in NAMES}


def _alone_columns(table: Table) -> list[int]:
    """Experts that are no mixture of the others."""
    return [e for e, name in enumerate(table.experts) if not name.endswith("mixture")]


def _votes(test: Table, reference: Table) -> Floats:
    """Most frequent answer; a tie goes to the expert that is best on the reference."""
    by_quality = sorted(_alone_columns(test), key=lambda e: -float(reference.correct_qe[:, e].mean()))
    right = []
    for q, question in enumerate(test.questions):
        said = [normalised(test.given_eq[e][q]) for e in by_quality]
        counts = Counter(said)
        right.append(is_right(max(said, key=lambda answer: (counts[answer], -said.index(answer))), question.answer))
    return np.array(right, np.float64)


def _oracle(test: Table) -> tuple[Floats, Floats]:
    """The cheapest expert that is right; the cheapest of all where none is."""
    cost_qe = np.where(test.correct_qe > 0, test.energy_j_qe, np.inf)
    right_q: NDArray[np.bool_] = np.asarray(np.isfinite(cost_qe).any(axis=1))
    energy_j_q: Floats = np.where(right_q, cost_qe.min(axis=1), test.energy_j_qe.min(axis=1))
    return right_q.astype(np.float64), energy_j_q


def _gains(test: Table, quality: Outcomes) -> list[Row]:
    single_q = quality["best_single"][0]
    return [
        _suites_won(test),
        *(
            _points(
                f"{name.removeprefix('task_').removesuffix('_of_all')}_minus_best_single_points", right_q - single_q
            )
            for name, (right_q, _) in quality.items()
            if name != "best_single"
        ),
    ]


def _suites_won(test: Table) -> Row:
    """In how many suites a specialist is best; the interval is that of resampled questions."""
    alone = _alone_columns(test)
    general = next(place for place, e in enumerate(alone) if test.experts[e].endswith("general"))
    parts = [test.correct_qe[test.suite(suite)][:, alone] for suite in NAMES]
    rng = np.random.default_rng(0)

    def won(draws: list[Floats]) -> float:
        return float(sum(int(part.mean(axis=0).argmax()) != general for part in draws))

    resampled = [won([part[rng.integers(0, len(part), len(part))] for part in parts]) for _ in range(_RESAMPLED)]
    low, high = np.quantile(resampled, (0.025, 0.975)).tolist()
    return Row("suites_won_by_specialists", won(parts), "suites", {"of": len(NAMES), "low": low, "high": high})


if __name__ == "__main__":
    main(stem="skills", run=run, bars=BARS)
