"""Synthetic evidence: experts that get better and dearer, and queries that are easy or hard in a visible way."""

from __future__ import annotations

import numpy as np

from optimizer.evidence.answers import Evidence
from optimizer.evidence.replay import Costs


def make_evidence(*, queries: int = 400, experts: int = 4, classes: int = 5, seed: int = 0) -> Evidence:
    """Evidence whose first feature is how hard the query is; confidence tells right from wrong, but not always."""
    rng = np.random.default_rng(seed)
    hardness_q = rng.normal(size=queries)
    labels_q = rng.integers(0, classes, queries)
    outputs = []
    for e in range(experts):
        margin_q = 2.0 + 1.5 * e - 1.5 * hardness_q + rng.normal(size=queries)
        logits_qc = rng.normal(size=(queries, classes))
        logits_qc[np.arange(queries), labels_q] += margin_q
        scores_qc = np.exp(logits_qc)
        outputs.append(scores_qc / scores_qc.sum(axis=1, keepdims=True))
    features_qf = np.column_stack([hardness_q, rng.normal(size=(queries, 3)), np.ones(queries)])
    return Evidence(tuple(f"e{e}" for e in range(experts)), features_qf, labels_q, np.stack(outputs))


def make_costs(experts: int = 4) -> Costs:
    """Each expert ten times as dear and twice as slow as the one before."""
    return Costs(np.array([10.0 ** (e - 6) for e in range(experts)]), np.array([2.0**e for e in range(experts)]))
