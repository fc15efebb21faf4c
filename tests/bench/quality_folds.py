"""Outer and inner folds of the digits: what may be learnt from, and what is judged.

Everything that chooses (heads, routes, prices, baselines, which expert is the best single one) sees only samples
outside of the outer fold, answered by models that had not seen them; it is judged on the outer fold, answered by
models that had not seen that fold either.

Shape letters: q samples, e experts, f features, c classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nodes.energy.profile import load_profile
from nodes.zoo.catalog import load_catalog
from optimizer.deciding.model import TaskModel
from optimizer.evidence.answers import Evidence
from optimizer.evidence.replay import Costs, Outcome
from optimizer.heads.head import HeadBank
from optimizer.learning.learn import LearnSettings, learn
from optimizer.learning.simulate import baselines, run_model, run_oracle

Floats = NDArray[np.float64]

DATA = Path(__file__).parent / "data" / "digits_folds.npz"
PROFILE = "jetson-agx-orin"


@dataclass(frozen=True)
class Folds:
    """All digits with the answers of every expert.

    Args:
        experts: Names, in the order of every e axis.
        macs_e: Multiply-accumulates of one answer.
        features_qf: Pixels.
        fold_q: Outer fold of each sample.
        labels_q: The right class.
        outer_eqc: Answers by models that had not seen the sample's fold.
        inner_keqc: For each outer fold k, answers by models that had seen neither fold k nor the sample's.
    """

    experts: tuple[str, ...]
    macs_e: Floats
    features_qf: Floats
    fold_q: NDArray[np.uint8]
    labels_q: NDArray[np.int64]
    outer_eqc: Floats
    inner_keqc: Floats

    def training(self, fold: int) -> Evidence:
        """What may be learnt from for an outer fold."""
        rows = self.fold_q != fold
        outputs_eqc = self.inner_keqc[fold][:, rows]
        return Evidence(self.experts, self.features_qf[rows], self.labels_q[rows], outputs_eqc)

    def test(self, fold: int) -> Evidence:
        """What an outer fold is judged on."""
        rows = self.fold_q == fold
        return Evidence(self.experts, self.features_qf[rows], self.labels_q[rows], self.outer_eqc[:, rows])


def load_folds() -> Folds:
    """Read the committed answers; pixels come from scikit-learn's bundled digits."""
    from sklearn.datasets import load_digits

    pixels_qf, labels_q = load_digits(return_X_y=True)
    with np.load(DATA, allow_pickle=False) as data:
        arrays = dict(data)
    if not np.array_equal(arrays["labels"], labels_q):
        raise SystemExit(f"{DATA.name} is of other digits than scikit-learn's: train the experts again with --folds")
    # Experts that came later (the pruned ones) were not trained per fold: nothing unseen is known of them.
    folded = {name.removeprefix("outer_") for name in arrays if name.startswith("outer_")}
    macs_of = {card.name: card.macs for card in load_catalog().experts if card.name in folded}
    experts = tuple(sorted(macs_of, key=lambda name: macs_of[name]))
    return Folds(
        experts=experts,
        macs_e=np.array([macs_of[name] for name in experts], dtype=np.float64),
        features_qf=pixels_qf / 16.0,
        fold_q=arrays["fold"],
        labels_q=labels_q,
        outer_eqc=np.stack([arrays[f"outer_{name}"] for name in experts]).astype(np.float64),
        inner_keqc=np.stack([arrays[f"inner_{name}"] for name in experts], axis=1).astype(np.float64),
    )


def costs_of(folds: Folds, *, scale: float = 1.0, overhead_j: float = 0.0) -> Costs:
    """Joules of one answer: multiply-accumulates × the profile's constant, and a fixed part per answer.

    Latency plays no part in these figures; it is set in proportion to the work.
    """
    energy_e = folds.macs_e * load_profile(PROFILE).j_per_mac * scale + overhead_j
    return Costs(energy_e, folds.macs_e / folds.macs_e.max())


def gate_macs(model: TaskModel) -> float:
    """Multiply-accumulates of one estimate: heads, then routes and reach as functions of the heads."""
    links, heads = model.links, model.heads
    if not isinstance(heads, HeadBank):
        raise TypeError("digits have features, not texts")
    return float(heads.weights_ef.size + links.quality_re.size + links.reach_rse.size)


def evaluate(folds: Folds, costs: Costs, *, settings: LearnSettings, gate_j_per_mac: float) -> Mapping[str, Outcome]:
    """Out-of-fold outcome of every policy on every digit, in the order of the samples."""
    parts = [_fold(folds, fold, costs, settings, gate_j_per_mac) for fold in range(int(folds.fold_q.max()) + 1)]
    order = np.argsort(np.concatenate([np.flatnonzero(folds.fold_q == fold) for fold in range(len(parts))]))
    return {name: _joined([part[name] for part in parts], order) for name in parts[0]}


def _fold(
    folds: Folds, fold: int, costs: Costs, settings: LearnSettings, gate_j_per_mac: float
) -> Mapping[str, Outcome]:
    training, test = folds.training(fold), folds.test(fold)
    model = learn(training, costs, settings=settings)
    gate_j = gate_macs(model) * gate_j_per_mac
    outcomes = {name: policy.run(test, costs) for name, policy in baselines(training, costs, settings=settings).items()}
    for profile in model.prices:
        ran = run_model(model, test, costs, profile=profile)
        name = "edgewise" if profile == "balanced" else f"edgewise_{profile}"
        outcomes[name] = Outcome(ran.correct_q, ran.energy_q + gate_j, ran.latency_q)
    return {**outcomes, "oracle": run_oracle(test, costs)}


def _joined(parts: list[Outcome], order: NDArray[np.int64]) -> Outcome:
    columns = ([getattr(part, name) for part in parts] for name in ("correct_q", "energy_q", "latency_q"))
    return Outcome(*(np.concatenate(column)[order] for column in columns))
