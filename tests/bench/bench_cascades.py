"""What cascades earn beside a gate over models: on the answers of the text experts that ship, and on a public table.

``skills``: the 5,040 reference questions, all of one task, with margins, lengths and answers as the experts gave them;
joules *modelled* from the tokens of each answer. ``zeroeval`` (with ``--zeroeval`` and the evaluation data): a public
table whose only signal is the length of answers. Everything is cross-fitted by `optimizer.study`:
cascades are found, calibrated and priced on training folds and judged on prompts that nothing had seen.

``models_alone`` is the same gate without cascades, ``static_cascades`` the best lottery of models and cascades that
looks at no prompt. ``drawn`` is the control: the table with every signal dealt anew among the prompts.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np

from optimizer.routes.texts import normalised
from optimizer.study.outcome import bootstrap, interval
from optimizer.study.record import Study, StudySettings
from optimizer.study.study import run_study
from optimizer.study.summary import summarise
from optimizer.study.table import Table
from tests.bench.bench_routing_quality import load
from tests.bench.harness import Bar, Row, evaluation_data, main
from tests.bench.skills_table import Table as Answers
from tests.bench.skills_table import evidence_tables

BARS = (
    Bar("skills.gain_points", 0.0, ">="),
    Bar("skills.gain_points_low", -0.3, ">="),
    Bar("skills.drawn.gain_points_low", -0.3, ">="),
    Bar("skills.drawn.cascades", 0, "<="),
)
_SHOWN = ("edgewise", "models_alone", "static_cascades", "static_mixture", "oracle")


def run() -> list[Row]:
    """Study the answers as they are, and with their signals dealt anew; or the public table alone."""
    if "--zeroeval" in sys.argv:
        return _studied("zeroeval", load(evaluation_data(), "zeroeval"))
    table = skills(evidence_tables()[0])
    return _studied("skills", table) + _studied("skills.drawn", drawn(table))


def skills(answers: Answers) -> Table:
    """The reference questions with what every expert's answer says of itself."""
    queries, experts = answers.correct_qe.shape
    codes_qe = np.zeros((queries, experts), dtype=np.int64)
    for q in range(queries):
        seen: dict[str, int] = {}
        for e in range(experts):
            codes_qe[q, e] = seen.setdefault(normalised(answers.given_eq[e][q]), len(seen))
    return Table(
        texts=tuple(question.prompt for question in answers.questions),
        tasks=("questions",) * queries,
        models=answers.experts,
        quality_qm=answers.correct_qe,
        joules_qm=answers.energy_j_qe,
        ms_qm=np.ones_like(answers.energy_j_qe),
        signals={
            "confidence": np.clip(answers.margin_qe, 0.0, 1.0),
            "length": answers.completion_tokens_qe.astype(np.float64),
        },
        answers_qm=codes_qe,
    )


def drawn(table: Table) -> Table:
    """The table with signals and answers of other prompts: they say nothing any more."""
    rows = np.random.default_rng(0).permutation(len(table.texts))
    signals = {name: value_qm[rows] for name, value_qm in table.signals.items()}
    answers_qm = None if table.answers_qm is None else table.answers_qm[rows]
    return replace(table, signals=signals, answers_qm=answers_qm)


def _studied(name: str, table: Table) -> list[Row]:
    study = run_study(table, StudySettings(cascades=True))
    summary = summarise(study)
    sizes: dict[str, object] = {
        "prompts": len(table.texts),
        "models": table.plain,
        "signals": sorted(table.signals),
        "answers": table.answers_qm is not None,
        "cascades": len(summary["cascades"]),
    }
    rows = [*_gains(name, study), *_proven(name, summary)]
    rows.append(Row(f"{name}.cascades", len(summary["cascades"]), "cascades"))
    rows += [
        Row(f"{name}.quality.{row.policy}", row.quality, "fraction", _at(row))
        for row in summary["rows"]
        if row.policy in _SHOWN
    ]
    print(f"{name}: {', '.join(list(summary['cascades'])[:8]) or 'no cascade'}")
    return [replace(row, sizes={**sizes, **row.sizes}) for row in rows]


def _gains(name: str, study: Study) -> list[Row]:
    """The gate with cascades against the gate without, at the best single model's joules, in points."""
    best_j = study.proven["best_single"].energy_j
    b = int(np.argmin([abs(budget_j - best_j) for budget_j in study.budgets_j]))
    ours, theirs = (study.at_budget[policy, b] for policy in ("edgewise", "models_alone"))
    low, high = interval(bootstrap((ours.quality_q - theirs.quality_q)[:, None])[:, 0])
    sizes: dict[str, object] = {"high": 100.0 * high, "j_per_query": ours.energy_j, "j_models_alone": theirs.energy_j}
    gain = 100.0 * (ours.quality - theirs.quality)
    return [Row(f"{name}.gain_points", gain, "points", sizes), Row(f"{name}.gain_points_low", 100.0 * low, "points")]


def _proven(name: str, summary: dict[str, Any]) -> list[Row]:
    return [
        Row(f"{name}.joules_vs_best_single.{policy}", held.ratio, "ratio", {"low": held.low, "holds": held.holds})
        for policy, held in summary["surely_at_best_single_quality"].items()
        if policy in _SHOWN
    ]


def _at(row: Any) -> dict[str, object]:
    return {"budget_j": row.budget_j, "low": row.quality_low, "high": row.quality_high, "j_per_query": row.j_per_query}


if __name__ == "__main__":
    main(stem="cascades", run=run, bars=BARS)
