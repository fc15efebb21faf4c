"""One expert's quality head: its mean in each task, and what the text adds to it.

The text's part is a ridge regression whose weights are common to all tasks plus a task's own, both penalised: a task
with few prompts borrows, one with many differs. Then it is calibrated on prompts that the fit had not seen: the text's
part is stretched or shrunk until its scale is right, down to nothing where it says nothing.

A head sees its own expert's labels and no other's: leaving experts out, or adding some, changes no head.

Shape letters: q queries, t tasks (0 stands for "not told"), f features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import EvidenceError
from optimizer.fitting.judging import expected_calibration_error
from optimizer.gate.design import Design

Floats = NDArray[np.float64]

# Penalties on the weights that are tried when none is given: the more prompts, the less is needed.
_PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0)
# Prompts' worth of the expert's overall mean in each task's mean.
_PRIOR = 5.0
_MAX_SLOPE = 2.0


@dataclass(frozen=True)
class Head:
    """Quality of one expert: bias of the task + weights of the task · features, on raw features.

    Args:
        weights_tf: Row 0 for prompts whose task is not told or not known.
        bias_t: Likewise.
        calibration_error: Expected calibration error on prompts that the head had not seen.
    """

    weights_tf: Floats
    bias_t: Floats
    calibration_error: float

    def quality(self, features_qf: Floats, task_q: NDArray[np.int64]) -> Floats:
        """Quality of each prompt, (q,), within 0 and 1."""
        raw_q = np.einsum("qf,qf->q", features_qf, self.weights_tf[task_q]) + self.bias_t[task_q]
        return np.asarray(np.clip(raw_q, 0.0, 1.0))


@dataclass(frozen=True)
class HeadFit:
    """A head, and what fits without each prompt's fold said about it.

    Args:
        head: Fitted on everything.
        unseen_q: Calibrated quality of every prompt of the design, from fits that had not seen its fold.
    """

    head: Head
    unseen_q: Floats


def fit_head(design: Design, quality_q: Floats, *, penalty: float | None = None) -> HeadFit:
    """Fit and calibrate one expert's head.

    Args:
        design: The prompts.
        quality_q: Quality of the expert's answers, 0 to 1; NaN where there is none.
        penalty: On the weights; the one with the least error on unseen prompts when None.

    Raises:
        EvidenceError: Qualities of another length, beyond 0 to 1, or none at all.

    Cost: folds × tasks × f³ multiply-adds per penalty, shared by experts that answered everything.
    """
    quality_q = np.asarray(quality_q, dtype=np.float64)
    known_q = np.isfinite(quality_q)
    if quality_q.shape != (len(design.x_qf),) or not known_q.any():
        raise EvidenceError("A head needs one quality per prompt, NaN where it is not known, and at least one.")
    if (quality_q[known_q] < 0.0).any() or (quality_q[known_q] > 1.0).any():
        raise EvidenceError("Qualities lie between 0 and 1.")
    tried = [_Fit(design, quality_q, known_q, value) for value in ((penalty,) if penalty else _PENALTIES)]
    fit, slope, unseen_q = min((_calibrated(fit) for fit in tried), key=lambda found: _error(found[2], quality_q))
    error = expected_calibration_error(unseen_q[known_q], quality_q[known_q])
    return HeadFit(fit.final(slope, error), unseen_q)


def _calibrated(fit: _Fit) -> tuple[_Fit, float, Floats]:
    """The fit, its slope, and its calibrated estimates of unseen prompts."""
    base_q, text_q = fit.unseen()
    slope = _slope(text_q[fit.known_q], (fit.quality_q - base_q)[fit.known_q])
    return fit, slope, np.clip(base_q + slope * text_q, 0.0, 1.0)


def _error(unseen_q: Floats, quality_q: Floats) -> float:
    return float(np.nanmean((unseen_q - quality_q) ** 2))


def _slope(text_q: Floats, target_q: Floats) -> float:
    """Scale of the text's part that fits best, never negative: calibration by least squares."""
    square = float(text_q @ text_q)
    return float(np.clip(text_q @ target_q / square, 0.0, _MAX_SLOPE)) if square > 1e-12 else 0.0


@dataclass(frozen=True)
class _System:
    """The normal equations of some prompts, centred within each task and solved as far as no label is needed.

    A task's own weights are eliminated: own_t = (S_t + p)⁻¹ (m_t - S_t common), which leaves one system for the common
    ones, (p + Σ p S_t (S_t + p)⁻¹) common = Σ p (S_t + p)⁻¹ m_t.
    """

    count_t: Floats
    centre_tf: Floats
    square_tff: Floats
    inverse_tff: Floats
    common_ff: Floats

    @classmethod
    def of(cls, count_t: Floats, total_tf: Floats, raw_tff: Floats, *, penalty: float) -> _System:
        centre_tf = total_tf / np.maximum(count_t, 1.0)[:, None]
        square_tff = raw_tff - count_t[:, None, None] * centre_tf[:, :, None] * centre_tf[:, None, :]
        width = square_tff.shape[1]
        inverse_tff = np.asarray(np.linalg.inv(square_tff + penalty * np.eye(width)), dtype=np.float64)
        system_ff = np.eye(width) + (square_tff @ inverse_tff).sum(axis=0)
        return cls(count_t, centre_tf, square_tff, inverse_tff, np.asarray(np.linalg.inv(system_ff)))

    def weights(self, moment_tf: Floats) -> Floats:
        """Weights common + own_t that minimise the squared error + p·(|common|² + Σ |own_t|²); row 0 has the common."""
        solved_tf = (self.inverse_tff @ moment_tf[:, :, None])[:, :, 0]
        common_f = self.common_ff @ solved_tf.sum(axis=0)
        own_tf = solved_tf - (self.inverse_tff @ (self.square_tff @ common_f)[:, :, None])[:, :, 0]
        own_tf[0] = 0.0
        return np.asarray(common_f + own_tf)


@dataclass(frozen=True)
class _Fit:
    design: Design
    quality_q: Floats
    known_q: NDArray[np.bool_]
    penalty: float

    @cached_property
    def _sums(self) -> tuple[Floats, Floats, Floats, Floats]:
        """By fold and task: prompts, qualities, features, features × quality."""
        y_q1 = np.where(self.known_q, self.quality_q, 0.0)[:, None]
        known_q1 = self.known_q[:, None].astype(np.float64)
        sums = self.design.sums
        x_qf = self.design.x_qf
        return sums(known_q1)[..., 0], sums(y_q1)[..., 0], sums(x_qf * known_q1), sums(x_qf * y_q1)

    @cached_property
    def _squares(self) -> Floats:
        return self.design.squares_gtff if self.known_q.all() else self.design.squares(self.known_q)

    def unseen(self) -> tuple[Floats, Floats]:
        """Task mean and text part of each prompt from fits without its fold."""
        base_q, text_q = np.empty(len(self.quality_q)), np.empty(len(self.quality_q))
        for fold in range(self.design.folds):
            rows = self.design.fold_q == fold
            task_q = self.design.task_q[rows]
            mean_t, weights_tf, centre_tf = self._solve(fold)
            base_q[rows] = mean_t[task_q]
            text_q[rows] = np.einsum("qf,qf->q", self.design.x_qf[rows] - centre_tf[task_q], weights_tf[task_q])
        return base_q, text_q

    def final(self, slope: float, error: float) -> Head:
        """The head of all prompts, on raw features."""
        mean_t, weights_tf, centre_tf = self._solve(-1)
        bias_t = mean_t - slope * np.einsum("tf,tf->t", centre_tf, weights_tf)
        return Head(slope * weights_tf / self.design.scale_f, bias_t, error)

    def _solve(self, without: int) -> tuple[Floats, Floats, Floats]:
        """Means, weights and centres of the tasks from all folds but one."""
        kept = np.arange(self.design.folds) != without
        count_t, quality_t, total_tf, product_tf = (part[kept].sum(axis=0) for part in self._sums)
        system = self._system(without, count_t, total_tf)
        mean_t = _means(count_t, quality_t)
        moment_tf = product_tf - mean_t[:, None] * total_tf
        moment_tf -= system.centre_tf * (quality_t - mean_t * count_t)[:, None]
        centre_tf = system.centre_tf.copy()
        centre_tf[0] = total_tf.sum(axis=0) / max(count_t.sum(), 1.0)
        return mean_t, system.weights(moment_tf), centre_tf

    def _system(self, without: int, count_t: Floats, total_tf: Floats) -> _System:
        found = self.design.solved.get((self.penalty, without)) if self.known_q.all() else None
        if found is None:
            kept = np.arange(self.design.folds) != without
            found = _System.of(count_t, total_tf, self._squares[kept].sum(axis=0), penalty=self.penalty)
            if self.known_q.all():
                self.design.solved[self.penalty, without] = found
        return found


def _means(count_t: Floats, quality_t: Floats) -> Floats:
    """Mean quality of each task, drawn towards the overall mean, which row 0 takes."""
    overall = quality_t.sum() / count_t.sum() if count_t.sum() else 0.5
    mean_t = (quality_t + _PRIOR * overall) / (count_t + _PRIOR)
    mean_t[0] = overall
    return np.asarray(mean_t)
