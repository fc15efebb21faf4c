"""Ways to estimate the quality of every model for a prompt: the gate's, and those of the baselines.

Each is fitted on training prompts only and says two things: what it estimates for the training prompts by fits that
had not seen their fold (to choose prices by), and what it estimates for the prompts to be judged.

Shape letters: q training prompts, n prompts to be judged, m models, f features, c clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.gate.design import Design, make_design
from optimizer.gate.encoder import LATENTS, fit_encoder
from optimizer.gate.head import fit_head
from optimizer.gate.reference import STRUCTURE
from optimizer.gate.sentences import SentenceEncoder
from optimizer.study.table import Table

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Prompts' worth of the overall mean in the mean of a task, a cluster or a neighbourhood.
_PRIOR = 5.0
_NEIGHBOURS = (20, 60, 150)
# More prompts than this are not searched for neighbours: it would take longer than all the rest.
_SEARCHED = 4_000
_CLUSTERS = 48
_ROUNDS = 12
# Penalties of the heads, from what predicts best to what tells experts apart best: qualities of experts are wrong
# together, and choosing by small differences between them wants more shrinking than predicting each does.
PENALTIES = (None, 300.0, 1000.0)
# The gate that is steadied by the task's mean: the one that a study chooses most often.
STEADIED = "heads + task"
# Without a task, the text has to say more.
_PENALTY_BLIND = 10.0


class Estimate(NamedTuple):
    """Estimated quality: of training prompts by fits without their fold (q, m), and of others (n, m)."""

    unseen_qm: Floats
    judged_nm: Floats


@dataclass(frozen=True)
class Bench:
    """Training prompts and prompts to be judged, as every estimator sees them.

    Args:
        training: The training prompts.
        design: Their features, tasks and folds.
        raw_qf: Features as the encoder gives them.
        judged_nf: Those of the prompts to be judged.
        judged_tasks: Their tasks' rows in the design.
    """

    training: Table
    design: Design
    raw_qf: Floats
    judged_nf: Floats
    judged_tasks: Ints

    def folds(self) -> Iterator[Bools]:
        """For each fold, which training prompts are in it."""
        for fold in range(self.design.folds):
            yield self.design.fold_q == fold


def prepare(training: Table, judged: Table, *, seed: int, sentences: SentenceEncoder | None = None) -> Bench:
    """Fit the encoder on the training texts, encode both; `sentences` is an encoder from outside beside it."""
    encoder = fit_encoder(training.texts, seed=seed, sentences=sentences)
    raw_qf = encoder.encode(training.texts)
    design = make_design(raw_qf, training.tasks, seed=seed)
    row_of = {task: row for row, task in enumerate(design.tasks, start=1)}
    rows = np.array([row_of.get(task, 0) for task in judged.tasks], dtype=np.int64)
    return Bench(training, design, raw_qf, encoder.encode(judged.texts), rows)


def means_by(group_q: Ints, quality_qm: Floats, *, groups: int) -> Floats:
    """Mean quality of each model in each group, drawn towards its overall mean; (groups, m)."""
    known_qm = np.isfinite(quality_qm)
    value_qm = np.nan_to_num(quality_qm)
    overall_m = value_qm.sum(axis=0) / np.maximum(known_qm.sum(axis=0), 1)
    total, count = (np.zeros((groups, quality_qm.shape[1])) for _ in range(2))
    np.add.at(total, group_q, value_qm)
    np.add.at(count, group_q, known_qm)
    return np.asarray((total + _PRIOR * overall_m) / (count + _PRIOR))


def _looked_up(bench: Bench, group_q: Ints, group_n: Ints, groups: int) -> Estimate:
    quality_qm = bench.training.quality_qm
    unseen_qm = np.empty_like(quality_qm)
    for out in bench.folds():
        unseen_qm[out] = means_by(group_q[~out], quality_qm[~out], groups=groups)[group_q[out]]
    return Estimate(unseen_qm, means_by(group_q, quality_qm, groups=groups)[group_n])


def task_lookup(bench: Bench) -> Estimate:
    """Each model's mean quality in the prompt's task."""
    return _looked_up(bench, bench.design.task_q, bench.judged_tasks, bench.design.rows)


def expected_joules(bench: Bench) -> Estimate:
    """Each model's mean joules in the prompt's task: answers' lengths are not known before they are written."""
    joules_qm = bench.training.joules_qm
    unseen_qm = np.empty_like(joules_qm)
    for out in bench.folds():
        unseen_qm[out] = means_by(bench.design.task_q[~out], joules_qm[~out], groups=bench.design.rows)[
            bench.design.task_q[out]
        ]
    return Estimate(unseen_qm, means_by(bench.design.task_q, joules_qm, groups=bench.design.rows)[bench.judged_tasks])


def clusters(bench: Bench) -> Estimate:
    """Each model's mean quality in the prompt's k-means cluster (the rule of Avengers, arXiv 2505.19797)."""
    latent_qk = bench.raw_qf[:, :-STRUCTURE]
    centre_ck = _centres(latent_qk)
    near = [
        (-2.0 * part @ centre_ck.T + (centre_ck**2).sum(axis=1)).argmin(axis=1)
        for part in (latent_qk, bench.judged_nf[:, :-STRUCTURE])
    ]
    return _looked_up(bench, near[0], near[1], len(centre_ck))


def _centres(latent_qk: Floats) -> Floats:
    rng = np.random.default_rng(0)
    count = min(_CLUSTERS, max(2, len(latent_qk) // 20))
    centre_ck = latent_qk[rng.choice(len(latent_qk), count, replace=False)].copy()
    for _ in range(_ROUNDS):
        near_q = (-2.0 * latent_qk @ centre_ck.T + (centre_ck**2).sum(axis=1)).argmin(axis=1)
        size_c = np.bincount(near_q, minlength=count)
        total_ck = np.zeros_like(centre_ck)
        np.add.at(total_ck, near_q, latent_qk)
        filled = size_c > 0
        centre_ck[filled] = total_ck[filled] / size_c[filled, None]
    return centre_ck


def neighbours(bench: Bench) -> Estimate:
    """Each model's mean quality over the most similar training prompts; how many is chosen on the training folds."""
    quality_qm = bench.training.quality_qm
    latent_qk = bench.raw_qf[:, :-STRUCTURE]
    unseen = {k: np.empty_like(quality_qm) for k in _NEIGHBOURS}
    for out in bench.folds():
        for k, part in _nearest(latent_qk[~out], quality_qm[~out], latent_qk[out]).items():
            unseen[k][out] = part
    best = min(_NEIGHBOURS, key=lambda k: float(np.nanmean((unseen[k] - quality_qm) ** 2)))
    return Estimate(unseen[best], _nearest(latent_qk, quality_qm, bench.judged_nf[:, :-STRUCTURE])[best])


def _nearest(known_qk: Floats, quality_qm: Floats, asked_nk: Floats) -> Mapping[int, Floats]:
    step = -(-len(known_qk) // _SEARCHED)
    known_qk, quality_qm = known_qk[::step].astype(np.float32), quality_qm[::step]
    overall_m = np.nan_to_num(np.nanmean(np.vstack([quality_qm, np.full(quality_qm.shape[1], 0.5)]), axis=0))
    out = {k: np.empty((len(asked_nk), quality_qm.shape[1])) for k in _NEIGHBOURS}
    most = min(max(_NEIGHBOURS), len(known_qk))
    for start in range(0, len(asked_nk), 1024):
        rows = slice(start, start + 1024)
        similar = asked_nk[rows].astype(np.float32) @ known_qk.T
        near = np.argpartition(-similar, most - 1, axis=1)[:, :most]
        order = np.argsort(-np.take_along_axis(similar, near, axis=1), axis=1, kind="stable")
        values = quality_qm[np.take_along_axis(near, order, axis=1)]
        for k in _NEIGHBOURS:
            found = np.isfinite(values[:, :k])
            total = np.where(found, values[:, :k], 0.0).sum(axis=1)
            out[k][rows] = (total + _PRIOR * overall_m) / (found.sum(axis=1) + _PRIOR)
    return out


def heads(penalty: float | None) -> Callable[[Bench], Estimate]:
    """The gate's heads."""
    return lambda bench: _heads(bench, bench.design, bench.judged_tasks, penalty)


def ridge(bench: Bench) -> Estimate:
    """TF-IDF and ridge regression: the same hashed latents and counts, without the task and any other encoder."""
    own = slice(-LATENTS - STRUCTURE, None)
    design = bench.design
    blind = replace(
        design,
        x_qf=design.x_qf[:, own],
        scale_f=design.scale_f[own],
        task_q=np.zeros_like(design.task_q),
        tasks=(),
    )
    hashed = replace(bench, judged_nf=bench.judged_nf[:, own])
    return _heads(hashed, blind, np.zeros_like(bench.judged_tasks), _PENALTY_BLIND)


def _heads(bench: Bench, design: Design, task_n: Ints, penalty: float | None) -> Estimate:
    fits = []
    for quality_q in bench.training.quality_qm.T:
        known = np.isfinite(quality_q).any()
        fits.append(fit_head(design, quality_q if known else np.zeros_like(quality_q), penalty=penalty))
    judged = [fit.head.quality(bench.judged_nf, task_n) for fit in fits]
    return Estimate(np.column_stack([fit.unseen_q for fit in fits]), np.column_stack(judged))


def blend(*parts: Estimate) -> Estimate:
    """The mean of estimates: where the text says little, the task's mean steadies it."""
    unseen_qm = np.mean([part.unseen_qm for part in parts], axis=0)
    return Estimate(unseen_qm, np.mean([part.judged_nm for part in parts], axis=0))


def gates(bench: Bench, looked_up: Estimate) -> dict[str, Estimate]:
    """What may stand behind the gate; each is itself a gate's heads, or their mean with the task's."""
    weak, middle, strong = (heads(penalty)(bench) for penalty in PENALTIES)
    return {
        "task": looked_up,
        "heads": strong,
        STEADIED: blend(middle, looked_up),
        "all": blend(weak, middle, looked_up, looked_up),
    }
