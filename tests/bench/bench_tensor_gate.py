"""Heads for tensors that look through an encoder's eyes, beside heads on sketches and on the numbers themselves.

Everything goes through the seam that serves: an encoder trained by `nodes.zoo.tensor_encoder`, written as ONNX, opened
by `orchestrator.study.tensors`, heads from `fit_tensor_gate`. Five outer folds of the digits; the encoder learns from
half of the training samples and the heads from the other half, and nothing is judged that either has seen. Two
questions: do heads predict better, and does it pay where every query goes to one expert, which is asked once (cascades,
which ask the experts themselves how sure they are, are measured by `bench_image_encoder`). Every kind has a curve over
prices of a joule, of which the point is read where accuracy is first within 0.3 points of the best single expert's.
Joules are *modelled*, the encoder's own multiply-accumulates charged.

Shape letters: q digits, e experts.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nodes.energy.profile import load_profile
from nodes.zoo.tensor_encoder import Weights, export_encoder, train_encoder
from optimizer.evidence.answers import Evidence
from optimizer.gate.feedback import TensorGate, fit_tensor_gate
from optimizer.gate.recorded import sketch_tensor
from optimizer.gate.tensors import TensorEncoder
from optimizer.heads.given import GivenTensors
from orchestrator.study.tensors import load_tensor_encoder
from tests.bench.harness import Bar, Row, main
from tests.bench.quality_folds import PROFILE, Folds, costs_of, load_folds

Floats = NDArray[np.float64]

KINDS = ("sketch", "pixels", "encoder")
BARS = (
    Bar("squared_error_vs_mean.encoder", 0.9, "<="),
    Bar("joules_of_encoder_vs_sketch", 0.9, "<="),
    Bar("decision.encoder", 150.0, "<="),
)
_TASK = "digits"
_LEVEL = 0.003
_PRICES = 60
_CALLS = 2_000


def run() -> list[Row]:
    """Errors, routes and the time of a decision."""
    folds = load_folds()
    judged = {kind: [_fold(folds, kind, fold) for fold in range(5)] for kind in KINDS}
    best = np.concatenate([one.best_q for one in judged["sketch"]])
    sizes: dict[str, object] = {"samples": len(best), "experts": len(folds.experts), "energy": "modelled"}
    rows, least = [Row("accuracy.best_single", float(best.mean()), "fraction")], dict[str, float]()
    for kind, parts in judged.items():
        right_pq, joules_pq = (
            np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("right_pq", "ratio_pq")
        )
        level_p = right_pq.mean(axis=1) >= best.mean() - _LEVEL
        least[kind] = float(joules_pq.mean(axis=1)[level_p].min())
        rows += [
            Row(f"squared_error_vs_mean.{kind}", float(np.mean([part.error for part in parts])), "ratio"),
            Row(f"joules_vs_best_single.{kind}", least[kind], "ratio", {"points_below": 100.0 * _LEVEL}),
        ]
    rows.append(Row("joules_of_encoder_vs_sketch", least["encoder"] / least["sketch"], "ratio"))
    return [replace(row, sizes={**sizes, **row.sizes}) for row in [*rows, *_decisions(folds)]]


class _Judged:
    """What one fold's gate did at every price to digits that nothing had seen."""

    def __init__(self, gate: TensorGate, training: Evidence, test: Evidence, joules_e: Floats) -> None:
        said_qe, right_qe = _said(gate, test), test.correct_qe.astype(np.float64)
        mean_e = training.correct_qe.mean(axis=0)
        self.error = float(((said_qe - right_qe) ** 2).mean() / ((mean_e - right_qe) ** 2).mean())
        best = int(mean_e.argmax())
        prices = [0.0, *np.geomspace(1e-4 / joules_e.max(), 1.0 / joules_e.min(), _PRICES).tolist()]
        chosen_pq = np.stack([(said_qe - price * joules_e).argmax(axis=1) for price in prices])
        self.right_pq = right_qe[np.arange(test.queries), chosen_pq]
        self.best_q = right_qe[:, best]
        self.ratio_pq = joules_e[chosen_pq] / joules_e[best]


def _said(gate: TensorGate, evidence: Evidence) -> Floats:
    features_qf = np.array([gate.features(x_f) for x_f in evidence.features_qf])
    return np.column_stack([gate.quality(features_qf, _TASK, expert) for expert in evidence.experts])


def _fold(folds: Folds, kind: str, fold: int) -> _Judged:
    training, test = folds.training(fold), folds.test(fold)
    mine_q = np.random.default_rng(fold).permutation(training.queries) < training.queries // 2
    heads = training.take(~mine_q)
    encoder, macs = _encoder(training.take(mine_q), kind)
    features_qf = (
        np.array([sketch_tensor(x_f) for x_f in heads.features_qf])
        if encoder is None
        else encoder.features(heads.features_qf)
    )
    experts, queries = heads.experts, heads.queries
    gate = fit_tensor_gate(
        np.tile(features_qf, (len(experts), 1)),
        [_TASK] * (queries * len(experts)),
        np.repeat(experts, queries).tolist(),
        heads.correct_qe.T.astype(np.float64).ravel(),
        encoder=encoder,
    )
    joules_e = costs_of(folds).energy_e + macs * load_profile(PROFILE).j_per_mac
    return _Judged(gate, heads, test, joules_e)


def _encoder(evidence: Evidence, kind: str) -> tuple[TensorEncoder | None, int]:
    """What heads look through, and its multiply-accumulates."""
    if kind == "sketch":
        return None, 32 * evidence.features_qf.shape[1]
    if kind == "pixels":
        return TensorEncoder(lambda x_qn: x_qn.astype(np.float64), "pixels"), 0
    weights = train_encoder(evidence.features_qf, evidence.labels_q)
    return _opened(weights), weights.macs


def _opened(weights: Weights) -> TensorEncoder:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        export_encoder(weights, (8, 8), path)
        return load_tensor_encoder(path)


def _decisions(folds: Folds) -> list[Row]:
    """Quality of every expert for one digit, as the gateway asks for it; kinds take turns."""
    training = folds.training(0)
    given = {}
    for kind in ("sketch", "encoder"):
        encoder, _ = _encoder(training, kind)
        made = np.array([sketch_tensor(x) for x in training.features_qf]) if encoder is None else None
        features_qf = encoder.features(training.features_qf) if encoder else made
        assert features_qf is not None
        quality_q = training.correct_qe[:, 0].astype(np.float64)
        tasks = [_TASK] * training.queries
        gate = fit_tensor_gate(features_qf, tasks, [training.experts[0]] * training.queries, quality_q, encoder=encoder)
        given[kind] = GivenTensors(gate, _TASK)
    spent: dict[str, list[float]] = {kind: [] for kind in given}
    for call in range(_CALLS):
        x_f = training.features_qf[call % training.queries]
        for kind, one in given.items():
            start = time.perf_counter()
            one.quality(x_f)
            spent[kind].append(time.perf_counter() - start)
    return [Row(f"decision.{kind}", statistics.median(times) * 1e6, "us") for kind, times in spent.items()]


if __name__ == "__main__":
    main(stem="tensor_gate", run=run, bars=BARS)
