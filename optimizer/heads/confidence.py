"""What an answer says of itself: the chance that it is right by its margin and its length.

Calibrated per task and expert on the task's evidence. The margin is how sure the expert was, token by token. The length
counts from the quantile on beyond which answers are wrong more often, if there is one: an expert that does not know
tends to go on. Neither a margin nor brevity ever counts against an answer. What the head foresaw of the query was tried
as a third reading and left out: the best profile then paid half as many joules again for a tenth of a point.

Shape letters: q prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.fitting.judging import folds_of
from optimizer.fitting.logistic import fit_logistic, logit, sigmoid

Floats = NDArray[np.float64]

_LEAST_MARGIN = 1e-4
_L2 = 1e-3
_FOLDS = 5
# Quantiles of an expert's lengths beyond which they may count.
_QUANTILES = (0.5, 0.75, 0.9)
# Standard errors by which reading the length must predict better on unseen prompts.
_HURDLE = 1.0


@dataclass(frozen=True)
class Confidence:
    """Of one expert's answers: log odds linear in two readings.

    Args:
        margin: Weight of the margin's logit.
        length: Weight of brevity: minus the log of how far an answer exceeds `usual_tokens`.
        offset: Log odds where both readings are 0.
        usual_tokens: Length up to which an answer is not long; infinite where lengths say nothing.
    """

    margin: float
    length: float
    offset: float
    usual_tokens: float = np.inf

    def chance(self, margin: float, tokens: float | None) -> float:
        """Probability that an answer is right.

        Args:
            margin: Its margin, 0 to 1.
            tokens: Its length; None where nobody told.
        """
        return float(self.chances(np.array(margin), None if tokens is None else np.array(tokens)))

    def chances(self, margin_q: Floats, tokens_q: Floats | None) -> Floats:
        """The same for many answers."""
        odds_q = self.margin * _margin_logit(margin_q) + self.offset
        if tokens_q is not None and self.length > 0.0:
            odds_q = odds_q + self.length * _brevity(tokens_q, self.usual_tokens)
        return sigmoid(odds_q)


def fit_confidence(margin_q: Floats, tokens_q: Floats | None, correct_q: Floats) -> tuple[Confidence, Floats]:
    """The meaning of one expert's margins and lengths, and what it says of each answer by fits that had not seen it.

    Args:
        margin_q: 0 to 1.
        tokens_q: Lengths; None where they are not known.
        correct_q: 1 where the answer was right.
    """
    fold_q = folds_of(len(correct_q), folds=min(_FOLDS, len(correct_q)), seed=0)
    usual = [np.inf] if tokens_q is None else [np.inf, *np.unique(np.quantile(tokens_q, _QUANTILES)).tolist()]
    readings = [_readings(margin_q, tokens_q, usual_tokens) for usual_tokens in usual]
    unseen = [_unseen(x_q2, correct_q, fold_q) for x_q2 in readings]
    base_q = _loss(unseen[0], correct_q)
    gains = [_sure(base_q - _loss(unseen_q, correct_q)) for unseen_q in unseen]
    best = int(np.argmax(gains))
    weights_2, offset = _fit(readings[best], correct_q)
    margin, length = weights_2.tolist()
    return Confidence(margin, length, offset, usual[best]), unseen[best]


def _sure(gain_q: Floats) -> float:
    """A mean, less the hurdle; 0 for what gains nothing anywhere."""
    return float(gain_q.mean() - _HURDLE * gain_q.std() / np.sqrt(len(gain_q)))


def _readings(margin_q: Floats, tokens_q: Floats | None, usual_tokens: float) -> Floats:
    brevity_q = np.zeros(len(margin_q)) if tokens_q is None else _brevity(tokens_q, usual_tokens)
    return np.column_stack([_margin_logit(margin_q), brevity_q])


def _unseen(x_q2: Floats, correct_q: Floats, fold_q: NDArray[np.int64]) -> Floats:
    out_q = np.empty(len(correct_q))
    for fold in range(int(fold_q.max()) + 1):
        inside = fold_q == fold
        weights_2, offset = _fit(x_q2[~inside], correct_q[~inside])
        out_q[inside] = sigmoid(x_q2[inside] @ weights_2 + offset)
    return out_q


def _fit(x_q2: Floats, correct_q: Floats) -> tuple[Floats, float]:
    """Weights, none of them below 0, and the offset, with Platt's smoothed targets."""
    right, wrong = float(correct_q.sum()), float(len(correct_q) - correct_q.sum())
    target_q = np.where(correct_q > 0.5, (right + 1.0) / (right + 2.0), 1.0 / (wrong + 2.0))
    kept = np.ptp(x_q2, axis=0) > 1e-12
    while True:
        weights_2 = np.zeros(x_q2.shape[1])
        if not kept.any():
            return weights_2, float(logit(target_q.mean()))
        weights_2[kept], offset = fit_logistic(x_q2[:, kept], target_q, l2=_L2)
        wrong_way = weights_2 < 0.0
        if not wrong_way.any():
            return weights_2, float(offset)
        kept &= ~wrong_way


def _loss(chance_q: Floats, correct_q: Floats) -> Floats:
    kept_q = np.clip(chance_q, 1e-6, 1.0 - 1e-6)
    return -np.where(correct_q > 0.5, np.log(kept_q), np.log(1.0 - kept_q))


def _margin_logit(margin: Floats) -> Floats:
    kept = np.clip(margin, _LEAST_MARGIN, 1.0 - _LEAST_MARGIN)
    return np.asarray(np.log(kept / (1.0 - kept)))


def _brevity(tokens: Floats, usual_tokens: float) -> Floats:
    """0 up to the usual length, falling beyond it."""
    return -np.log(np.maximum(1.0, (1.0 + tokens) / (1.0 + usual_tokens)))
