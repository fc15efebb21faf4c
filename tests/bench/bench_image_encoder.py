"""Would a small image encoder make the gate for digits better than pixels do?

Only the training folds of `bench_quality` take part (all but outer fold 0), so nothing that is judged there is seen.
The encoder is a network of one hidden layer, trained on the labels of the folds that a row does not belong to; what the
gate sees of it is how sure it is: the logarithm of its doubt, the entropy, and the distance between its two highest
scores. Its multiply-accumulates are charged to every request. Two questions: do heads predict better, cross-fitted; and
do routes that are learnt with them spend less or answer better, on a fold that neither they nor the encoder had seen.

2026-11-27: heads are far better and nothing is earned by it: cascades look at the experts' own confidence, which tells
the same. The gate therefore keeps its pixels.

Shape letters: q digits, f features, e experts.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from nodes.energy.profile import load_profile
from optimizer.evidence.answers import Evidence
from optimizer.evidence.replay import Costs
from optimizer.heads.head import cross_fit_head
from optimizer.learning.learn import learn
from optimizer.learning.simulate import run_model
from tests.bench.harness import Row, main
from tests.bench.quality_folds import PROFILE, Folds, costs_of, gate_macs, load_folds

Floats = NDArray[np.float64]

_HIDDEN = 32
_CLASSES = 10
_OUT = 0
_ENCODER_MACS = 64 * _HIDDEN + _HIDDEN * _CLASSES
KINDS = ("pixels", "encoder")


def run() -> list[Row]:
    """Heads and routes on both kinds of features."""
    folds = load_folds()
    sizes: dict[str, object] = {"samples": int((folds.fold_q != _OUT).sum()), "encoder_macs": _ENCODER_MACS}
    rows = [*_head_rows(folds), *_route_rows(folds, costs_of(folds))]
    return [replace(row, sizes=sizes) for row in rows]


@cache
def _network(left_out: frozenset[int]) -> tuple[Floats, Floats, Floats, Floats]:
    """Weights and biases of an encoder trained without some folds."""
    from sklearn.neural_network import MLPClassifier

    folds = load_folds()
    seen_q = ~np.isin(folds.fold_q, [*left_out])
    network = MLPClassifier((_HIDDEN,), alpha=1e-2, max_iter=80, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that 80 rounds do not converge is meant: it is as sure as it should be
        network.fit(folds.features_qf[seen_q], folds.labels_q[seen_q])
    return (*network.coefs_, *network.intercepts_)


def _sureness(folds: Folds, rows_q: NDArray[np.bool_], left_out: set[int]) -> Floats:
    """What the gate would see of the encoder, (q, 3)."""
    first, second, bias, offset = _network(frozenset(left_out))
    score_qc = np.maximum(folds.features_qf[rows_q] @ first + bias, 0.0) @ second + offset
    score_qc = np.sort(score_qc - score_qc.max(axis=1, keepdims=True), axis=1)
    share_qc = np.exp(score_qc) / np.exp(score_qc).sum(axis=1, keepdims=True)
    entropy_q = -(share_qc * np.log(share_qc + 1e-12)).sum(axis=1)
    doubt_q = np.log(1e-4 + 1.0 - share_qc[:, -1])
    return np.column_stack([doubt_q, entropy_q, score_qc[:, -1] - score_qc[:, -2]])


def _features(folds: Folds, kind: str, unseen: set[int]) -> Floats:
    """Features of all digits; every row's encoder saw neither its fold nor the unseen ones."""
    if kind == "pixels":
        return folds.features_qf
    out_qf = np.zeros((len(folds.labels_q), 3))
    for fold in set(range(int(folds.fold_q.max()) + 1)) - {_OUT}:
        rows_q = folds.fold_q == fold
        out_qf[rows_q] = _sureness(folds, rows_q, {_OUT, fold} | unseen)
    return out_qf


def _head_rows(folds: Folds) -> list[Row]:
    """Cross-fitted log loss and area under the curve, the mean over experts."""
    kept_q = folds.fold_q != _OUT
    rows = []
    for kind in KINDS:
        features_qf = _features(folds, kind, set())[kept_q]
        scores = [_scored(features_qf, correct_q) for correct_q in _correct(folds, kept_q)]
        loss, area = np.mean(scores, axis=0)
        rows += [Row(f"log_loss.{kind}", float(loss), "nat"), Row(f"area_under_curve.{kind}", float(area), "fraction")]
    shares = [correct_q.mean() for correct_q in _correct(folds, kept_q)]
    constant = np.mean([-p * np.log(p) - (1.0 - p) * np.log(1.0 - p) for p in shares])
    return [*rows, Row("log_loss.mean", float(constant), "nat")]


def _correct(folds: Folds, kept_q: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    answers_eq = folds.inner_keqc[_OUT][:, kept_q].argmax(axis=2)
    return [answer_q == folds.labels_q[kept_q] for answer_q in answers_eq]


def _scored(features_qf: Floats, correct_q: NDArray[np.bool_]) -> tuple[float, float]:
    log_odds_q = cross_fit_head(features_qf, correct_q).log_odds_q
    loss = np.logaddexp(0.0, np.where(correct_q, -log_odds_q, log_odds_q)).mean()
    rank_q = log_odds_q.argsort().argsort() + 1.0
    right, wrong = int(correct_q.sum()), int((~correct_q).sum())
    return float(loss), float((rank_q[correct_q].sum() - right * (right + 1) / 2) / (right * wrong))


def _route_rows(folds: Folds, costs: Costs) -> list[Row]:
    """Accuracy and joules of routes that were learnt on three folds and run on the fourth, each in turn."""
    rows, best_j = [], float(costs.energy_e.max())
    for kind in KINDS:
        ran = defaultdict(list)
        for fold in set(range(int(folds.fold_q.max()) + 1)) - {_OUT}:
            for profile, outcome in _ran(folds, kind, fold, costs).items():
                ran[profile].append(outcome)
        for profile, parts in ran.items():
            correct_q, energy_q = (np.concatenate(column) for column in zip(*parts, strict=True))
            rows.append(Row(f"accuracy.{profile}.{kind}", float(correct_q.mean()), "fraction"))
            rows.append(Row(f"joules_vs_dearest.{profile}.{kind}", float(energy_q.mean()) / best_j, "ratio"))
    return rows


def _ran(folds: Folds, kind: str, fold: int, costs: Costs) -> dict[str, tuple[Floats, Floats]]:
    features_qf = _features(folds, kind, {fold})
    outputs_eqc = folds.inner_keqc[_OUT]

    def evidence(rows_q: NDArray[np.bool_]) -> Evidence:
        return Evidence(folds.experts, features_qf[rows_q], folds.labels_q[rows_q], outputs_eqc[:, rows_q])

    model = learn(evidence((folds.fold_q != _OUT) & (folds.fold_q != fold)), costs)
    macs = gate_macs(model) + (_ENCODER_MACS if kind == "encoder" else 0)
    gate_j, test = macs * load_profile(PROFILE).j_per_mac, evidence(folds.fold_q == fold)
    outcomes = {profile: run_model(model, test, costs, profile=profile) for profile in model.prices}
    return {name: (ran.correct_q.astype(np.float64), ran.energy_q + gate_j) for name, ran in outcomes.items()}


if __name__ == "__main__":
    main(stem="image_encoder", run=run, bars=())
