"""The gate on public tables of prompts × models, beside what others would do: quality, joules, and its own time.

Every prompt is judged by what had not seen it; prices, lotteries and what stands behind the gate are chosen on the
training folds. Energy is *modelled* (`routing_arms`); lengths of answers are the table's (zeroeval) or typical ones of
zeroeval's tasks (elsewhere). ``best_single`` is the cheapest model within 0.3 points of the most accurate.

2026-11-27: the penalties of the heads and the four candidates behind the gate were chosen by looking at cross-fitted
results on these same four files, which hold 70 % of each table's prompts. Per-fold choices are honest; the design is
not untouched by the data. The other 30 % were not seen.

``--reach`` studies llmrouter_uiuc alone and tells what the bar on its joules asks (`routing_reach`).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from optimizer.gate.gate import TextGate, fit_gate
from optimizer.study.record import POLICIES
from optimizer.study.study import run_study
from optimizer.study.summary import Held, summarise
from optimizer.study.table import Table
from orchestrator.study.arms import read_arms
from orchestrator.study.tables import Traffic, join_arms, read_traffic
from tests.bench.harness import Bar, Row, evaluation_data, main
from tests.bench.routing_arms import TABLES, arms_file, joules_per_billion_token
from tests.bench.routing_reach import reach_rows

BARS = (
    Bar("llmrouter_uiuc.joules_vs_best_single", 0.16, "<="),
    Bar("llmrouter_uiuc.quality_difference_low", -0.003, ">="),
    Bar("llmrouter_uiuc.joules_vs_task_lookup", 0.95, "<="),
    Bar("openllm_v2.joules_vs_best_single", 0.76, "<="),
    Bar("openllm_v2.quality_difference_low", -0.003, ">="),
    Bar("openllm_v2.joules_vs_task_lookup", 0.95, "<="),
    *(Bar(f"{table}.budgets_worse_than_best_baseline", 0, "<=") for table in TABLES),
    Bar("gate_decision_vs_tfidf_ridge", 0.05, "<="),
)
# Tasks whose prompts the public files hold.
_WITH_TEXT = {"openllm_v2": ("bbh", "mmlu_pro")}
_QUERIES = 400
_TRAINED_ON = 3_000


def run() -> list[Row]:
    """Study every table, print what its policies do, time a decision."""
    data = evaluation_data()
    if "--reach" in sys.argv:
        return reach_rows("llmrouter_uiuc", run_study(load(data, "llmrouter_uiuc")), BARS[0].limit)
    constant, measured = joules_per_billion_token(data)
    rows: list[Row] = []
    for name in TABLES:
        table = load(data, name)
        sizes = {"prompts": len(table.texts), "models": len(table.models), "energy": "modelled"}
        sizes |= {"j_per_billion_token": constant, "constant_from_rows": measured}
        rows += [replace(row, sizes={**sizes, **row.sizes}) for row in _table_rows(name, table)]
    return rows + _decision_rows(load(data, "openllm_v2"))


def load(data: Path, name: str) -> Table:
    """A public table with its committed arms; of some, only the tasks whose prompts are there."""
    traffic = read_traffic(data / "llm_quality" / f"{name}.parquet", note=lambda _: None)
    if name in _WITH_TEXT:
        traffic = _kept(traffic, lambda q: traffic.tasks[q] in _WITH_TEXT[name] and bool(traffic.texts[q].strip()))
    return join_arms(traffic, read_arms(arms_file(name)), note=lambda text: print(f"{name}: {text}"))


def _kept(traffic: Traffic, wanted: Callable[[int], bool]) -> Traffic:
    rows = [q for q in range(len(traffic.texts)) if wanted(q)]
    texts, tasks = tuple(traffic.texts[q] for q in rows), tuple(traffic.tasks[q] for q in rows)
    return Traffic(texts, tasks, traffic.models, traffic.quality_qm[rows], traffic.tokens_qm[rows])


def _table_rows(name: str, table: Table) -> list[Row]:
    start = time.perf_counter()
    study = run_study(table)
    summary = summarise(study)
    seconds = time.perf_counter() - start
    _print(name, summary)
    found = [*_bar_rows(name, summary), Row(f"{name}.study", seconds, "s"), *_policy_rows(name, summary)]
    if name == "llmrouter_uiuc":
        found += reach_rows(name, study, BARS[0].limit)
    return found + _sensitivity_rows(name, table)


def _bar_rows(name: str, summary: Mapping[str, Any]) -> list[Row]:
    proven: dict[str, Held] = summary["surely_at_best_single_quality"]
    ours, task = proven["edgewise"], proven["task_lookup"]
    worst = min(summary["against_best_baseline"], key=lambda row: row.low)
    worse = summary["budgets_significantly_worse"]
    return [
        Row(f"{name}.joules_vs_best_single", ours.ratio, "ratio", {"best_single": summary["best_single"]["model"]}),
        Row(f"{name}.quality_difference_low", ours.low, "fraction"),
        Row(f"{name}.quality_difference", ours.difference, "fraction"),
        Row(f"{name}.joules_vs_task_lookup", ours.ratio / task.ratio, "ratio", {"gate_earns": summary["gate_earns"]}),
        Row(
            f"{name}.budgets_worse_than_best_baseline", worse, "budgets", {"of": len(summary["against_best_baseline"])}
        ),
        Row(
            f"{name}.least_difference_to_best_baseline",
            worst.difference,
            "fraction",
            {"low": worst.low, "p": worst.p_worse},
        ),
    ]


def _policy_rows(name: str, summary: Mapping[str, Any]) -> list[Row]:
    rows = [
        Row(f"{name}.joules_at_best_single_quality.{policy}", ratio, "ratio")
        for policy, ratio in summary["joules_at_best_single_quality"].items()
        if ratio is not None
    ]
    rows += [
        Row(f"{name}.oracle_gap_closed.{policy}", share, "fraction")
        for policy, share in summary["oracle_gap_closed"].items()
        if share is not None
    ]
    for row in summary["rows"]:
        sizes = {
            "budget_j": row.budget_j,
            "low": row.quality_low,
            "high": row.quality_high,
            "j_per_query": row.j_per_query,
        }
        rows.append(Row(f"{name}.quality.{row.policy}", row.quality, "fraction", sizes))
    return rows


def _sensitivity_rows(name: str, table: Table) -> list[Row]:
    """The constant halved and doubled beside a fixed part per answer: a quarter of the cheapest model's joules."""
    if name not in ("llmrouter_uiuc", "openllm_v2"):
        return []
    fixed_j = float(table.joules_qm.mean(axis=0).min()) / 4.0
    rows = []
    for scale in (0.5, 1.0, 2.0):
        scaled = replace(table, joules_qm=table.joules_qm * scale + fixed_j)
        proven = summarise(run_study(scaled))["surely_at_best_single_quality"]
        sizes = {"fixed_j": fixed_j, "quality_difference_low": proven["edgewise"].low}
        rows.append(Row(f"{name}.joules_vs_best_single.constant_x{scale:g}", proven["edgewise"].ratio, "ratio", sizes))
    return rows


def _decision_rows(table: Table) -> list[Row]:
    """One decision, features included, against TF-IDF (words: the fastest kind) + ridge, taking turns on each query."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    kept = np.random.default_rng(0).permutation(len(table.texts))
    trained = table.rows(kept[:_TRAINED_ON])
    peer = make_pipeline(TfidfVectorizer(), Ridge(alpha=1.0))
    peer.fit(trained.texts, trained.earned_qm)
    gate = fit_gate(trained.texts, trained.tasks, dict(zip(trained.models, trained.quality_qm.T, strict=True)))
    joules_m = table.joules_qm.mean(axis=0)
    ours, theirs = [], []
    for q in kept[_TRAINED_ON : _TRAINED_ON + _QUERIES].tolist():
        theirs.append(_timed(lambda q: np.argmax(peer.predict([table.texts[q]])[0] - 1e-4 * joules_m), q))
        ours.append(_timed(lambda q: _decide(gate, table, q, joules_m), q))
    sizes: dict[str, object] = {
        "experts": len(table.models),
        "characters": float(np.mean([len(text) for text in trained.texts])),
    }
    return [
        Row("gate_decision", statistics.median(ours) * 1e6, "us", sizes),
        Row("tfidf_ridge_decision", statistics.median(theirs) * 1e6, "us", sizes),
        Row("gate_decision_vs_tfidf_ridge", statistics.median(ours) / statistics.median(theirs), "ratio", sizes),
    ]


def _decide(gate: TextGate, table: Table, q: int, joules_m: Any) -> int:
    return int(np.argmax(gate.quality(table.texts[q], table.tasks[q]) - 1e-4 * joules_m))


def _timed(call: Callable[[int], object], query: int) -> float:
    start = time.perf_counter()
    call(query)
    return time.perf_counter() - start


def _print(name: str, summary: Mapping[str, Any]) -> None:
    best = summary["best_single"]
    print(f"\n{name}: {summary['prompts']} prompts, {summary['models']} models")
    print(f"best single {best['model']} at {best['quality']:.2%} and {best['j_per_query']:.4g} J")
    print(f"{'quality % (joules modelled)':<28}" + "".join(f"{policy[:13]:>15}" for policy in POLICIES))
    budgets = sorted({row.budget_j for row in summary["rows"]})
    of = {(row.policy, row.budget_j): row for row in summary["rows"]}
    for budget_j in budgets:
        values = (f"{of[policy, budget_j].quality * 100:>15.2f}" for policy in POLICIES)
        print(f"{budget_j:>12.4g} J {budget_j / best['j_per_query']:>9.3f} ×  " + "".join(values))
    for policy, held in summary["surely_at_best_single_quality"].items():
        level = summary["joules_at_best_single_quality"][policy]
        first = "never as good" if level is None else f"as good from {level:.3f} ×"
        span = f"[{held.low * 100:+.2f}, {held.high * 100:+.2f}] points"
        word = "surely" if held.holds else "NOT surely"
        print(f"  {policy:<16}{first}; {word} at {held.ratio:.3f} × {span}")
    if not summary["gate_earns"]:
        print("  the gate earns nothing here")


if __name__ == "__main__":
    main(stem="routing_quality", run=run, bars=BARS)
