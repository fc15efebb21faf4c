"""What an answer says of itself: the chance that it is right by its margin, its length, and what was foreseen of it.

Calibrated per task and expert on the task's evidence, with a line of its own in each topic, drawn towards the line of
all. The margin is how sure the expert was, token by token. The length counts from the quantile on beyond which answers
are wrong more often, if there is one: an expert that does not know tends to go on. What the expert's head foresaw of
the prompt counts because a small model is sure of itself also where it is known to be bad. None of the three ever
counts against an answer.

Shape letters: q prompts, t topics (0 stands for "none of its own").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.fitting.judging import folds_of
from optimizer.fitting.logistic import fit_logistic, logit, sigmoid

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_LEAST_MARGIN = 1e-4
# On readings of equal spread, and on what a topic adds to each.
_L2 = 1.0
_FOLDS = 5
# Quantiles of an expert's lengths beyond which they may count.
_QUANTILES = (0.5, 0.75, 0.9)
# Standard errors by which reading the length must predict better on unseen prompts.
_HURDLE = 1.0


@dataclass(frozen=True)
class Confidence:
    """Of one expert's answers: log odds linear in three readings.

    Args:
        weights_t3: Of the margin's logit; of brevity, which is minus the log of how far an answer exceeds
            `usual_tokens`; of the log odds that the expert's head gave the prompt.
        offset_t: Log odds where all readings are 0.
        usual_tokens: Length up to which an answer is not long; infinite where lengths say nothing.
    """

    weights_t3: Floats
    offset_t: Floats
    usual_tokens: float = np.inf

    def chance(self, margin: float, tokens: float | None, *, foreseen: float, topic: int) -> float:
        """Probability that an answer is right.

        Args:
            margin: Its margin, 0 to 1.
            tokens: Its length; None where nobody told.
            foreseen: Log odds that the expert's head gave the prompt.
            topic: Row of the prompt's topic.
        """
        tokens_q = None if tokens is None else np.array([tokens])
        chance_q = self.chances(
            np.array([margin]), tokens_q, foreseen_q=np.array([foreseen]), topic_q=np.array([topic])
        )
        return float(chance_q[0])

    def chances(self, margin_q: Floats, tokens_q: Floats | None, *, foreseen_q: Floats, topic_q: Ints) -> Floats:
        """The same for many answers."""
        x_q3 = _readings(margin_q, tokens_q, foreseen_q, self.usual_tokens)
        return sigmoid(np.einsum("qi,qi->q", x_q3, self.weights_t3[topic_q]) + self.offset_t[topic_q])


@dataclass(frozen=True)
class Answered:
    """One expert's answers to the reference prompts.

    Args:
        correct_q: 1 where the answer was right.
        margin_q: 0 to 1.
        tokens_q: Lengths; None where they are not known.
        foreseen_q: Log odds by the expert's head while it had not seen the prompt.
        topic_q: Row of each prompt's topic.
        topics: Number of rows.
    """

    correct_q: Floats
    margin_q: Floats
    tokens_q: Floats | None
    foreseen_q: Floats
    topic_q: Ints
    topics: int

    def readings(self, usual_tokens: float) -> Floats:
        """What is read of each answer, (q, 3)."""
        return _readings(self.margin_q, self.tokens_q, self.foreseen_q, usual_tokens)


def fit_confidence(answered: Answered) -> tuple[Confidence, Floats]:
    """The meaning of one expert's answers, and what it says of each of them by fits that had not seen it."""
    usual_tokens = _usual_tokens(answered)
    x_q3 = answered.readings(usual_tokens)
    weights_t3, offset_t = _fit(x_q3, answered.correct_q, answered.topic_q, answered.topics)
    unseen_q = _unseen(x_q3, answered.correct_q, answered.topic_q, answered.topics)
    return Confidence(weights_t3, offset_t, usual_tokens), unseen_q


def _usual_tokens(answered: Answered) -> float:
    """The length beyond which answers are wrong more often; infinite where none tells, on unseen prompts."""
    if answered.tokens_q is None:
        return np.inf
    one_q = np.zeros(len(answered.correct_q), dtype=np.int64)
    tried = [np.inf, *np.unique(np.quantile(answered.tokens_q, _QUANTILES)).tolist()]
    losses = [
        _loss(_unseen(answered.readings(usual), answered.correct_q, one_q, 1), answered.correct_q) for usual in tried
    ]
    return float(tried[int(np.argmax([_sure(losses[0] - loss_q) for loss_q in losses]))])


def _sure(gain_q: Floats) -> float:
    """A mean, less the hurdle; 0 for what gains nothing anywhere."""
    return float(gain_q.mean() - _HURDLE * gain_q.std() / np.sqrt(len(gain_q)))


def _readings(margin_q: Floats, tokens_q: Floats | None, foreseen_q: Floats, usual_tokens: float) -> Floats:
    brevity_q = np.zeros(len(margin_q)) if tokens_q is None else _brevity(tokens_q, usual_tokens)
    return np.column_stack([logit(margin_q, floor=_LEAST_MARGIN), brevity_q, foreseen_q])


def _unseen(x_q3: Floats, correct_q: Floats, topic_q: Ints, topics: int) -> Floats:
    out_q = np.empty(len(correct_q))
    fold_q = folds_of(len(correct_q), folds=min(_FOLDS, len(correct_q)), seed=0)
    for fold in range(int(fold_q.max()) + 1):
        inside, outside = fold_q == fold, fold_q != fold
        weights_t3, offset_t = _fit(x_q3[outside], correct_q[outside], topic_q[outside], topics)
        row_q = topic_q[inside]
        out_q[inside] = sigmoid(np.einsum("qi,qi->q", x_q3[inside], weights_t3[row_q]) + offset_t[row_q])
    return out_q


def _fit(x_q3: Floats, correct_q: Floats, topic_q: Ints, topics: int) -> tuple[Floats, Floats]:
    """Weights of each topic, none of them below 0, and offsets, with Platt's smoothed targets."""
    right, wrong = float(correct_q.sum()), float(len(correct_q) - correct_q.sum())
    target_q = np.where(correct_q > 0.5, (right + 1.0) / (right + 2.0), 1.0 / (wrong + 2.0))
    mean_3, spread_3 = x_q3.mean(axis=0), x_q3.std(axis=0)
    scale_3 = np.where(spread_3 > 1e-9, spread_3, np.inf)
    z_q3 = (x_q3 - mean_3) / scale_3
    common_3, offset = _line(z_q3, target_q, None)
    lines = [(common_3, offset)] * topics
    for topic in np.unique(topic_q).tolist() if topics > 1 else []:
        rows_q = topic_q == topic
        lines[topic] = _line(z_q3[rows_q], target_q[rows_q], (common_3, offset))
    weights_t3 = np.stack([weights_3 for weights_3, _ in lines]) / scale_3
    return weights_t3, np.array([one for _, one in lines]) - weights_t3 @ mean_3


def _line(z_q3: Floats, target_q: Floats, common: tuple[Floats, float] | None) -> tuple[Floats, float]:
    """Weights and offset; with a line of all, what is added to it is penalised: few answers borrow.

    What would count against answers is not read, and the rest is fitted again.
    """
    kept_3 = np.ones(z_q3.shape[1], dtype=bool)
    base_3, base = common or (np.zeros(z_q3.shape[1]), 0.0)
    while True:
        read_q3 = np.where(kept_3, z_q3, 0.0)
        added_3, offset = fit_logistic(
            read_q3, target_q, l2=_L2, standing_q=None if common is None else read_q3 @ base_3 + base
        )
        weights_3 = np.where(kept_3, base_3 + added_3, 0.0)
        if not (weights_3 < 0.0).any():
            return weights_3, base + offset
        kept_3 &= weights_3 >= 0.0


def _loss(chance_q: Floats, correct_q: Floats) -> Floats:
    kept_q = np.clip(chance_q, 1e-6, 1.0 - 1e-6)
    return -np.where(correct_q > 0.5, np.log(kept_q), np.log(1.0 - kept_q))


def _brevity(tokens: Floats, usual_tokens: float) -> Floats:
    """0 up to the usual length, falling beyond it."""
    return -np.log(np.maximum(1.0, (1.0 + tokens) / (1.0 + usual_tokens)))
