"""Quality heads over a text gate, and what an expert's margin says about an answer that is there.

Shape letters: q prompts, e experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.evidence.texts import TextEvidence
from optimizer.fitting.logistic import fit_logistic, logit, sigmoid
from optimizer.gate.design import Design, comparable_scale, make_design
from optimizer.gate.encoder import fit_encoder
from optimizer.gate.gate import TextGate
from optimizer.gate.head import HeadFit, fit_head
from optimizer.gate.topics import Topics, fit_topics

Floats = NDArray[np.float64]

# Topics, where unseen prompts say that they are better than none: a topic needs prompts to learn from, and for the
# questions of the shipped experts 24 and 32 are no better.
_MOST_TOPICS = 12
_PROMPTS_PER_TOPIC = 100
# Qualities closer to 0 or 1 are not told apart.
_LEAST = 0.005
_LEAST_MARGIN = 1e-4


@dataclass(frozen=True)
class TextHeads:
    """What `optimizer.heads.head.HeadBank` is for tensors.

    Args:
        gate: Quality by text; its tasks are topics.
        slope_e: Of the log odds that an answer is right in the logit of its margin.
        offset_e: Likewise.
    """

    gate: TextGate
    slope_e: Floats
    offset_e: Floats

    def log_odds(self, x_b: NDArray[Any]) -> Floats:
        """Log odds of a right answer of each expert to one prompt, given as its bytes, (e,)."""
        return bounded_logit(self.predict(x_b))

    def predict(self, x_b: NDArray[Any]) -> Floats:
        """Probability of a right answer of each expert to one prompt, (e,)."""
        return self.gate.quality(bytes(x_b).decode(errors="replace"))

    def predict_many(self, prompts: Sequence[str]) -> Floats:
        """The same for many prompts, (q, e)."""
        return self.gate.judge(self.gate.encoder.encode(prompts), [""] * len(prompts))

    def confidence(self, expert: int, margin: float) -> float:
        """Probability that an answer of this margin is right."""
        log_odds = self.slope_e[expert] * _margin_logit(np.array(margin)) + self.offset_e[expert]
        return float(sigmoid(np.asarray(log_odds)))


@dataclass(frozen=True)
class TextFit:
    """Heads and what they said about prompts and answers that they had not seen.

    Args:
        heads: Fitted on everything.
        log_odds_qe: Of the gate, out of fold.
        confidence_qe: Of the answers, by their margins.
    """

    heads: TextHeads
    log_odds_qe: Floats
    confidence_qe: Floats


def fit_text_heads(evidence: TextEvidence, *, seed: int = 0) -> TextFit:
    """Find topics, fit the gate and the meaning of the margins.

    Raises:
        NativeMissing: The compiled part is not built.

    Cost: about 3 s for 5,000 prompts and 5 experts on one core.
    """
    encoder = fit_encoder(evidence.prompts, seed=seed)
    features_qf = encoder.encode(evidence.prompts)
    most = max(1, min(_MOST_TOPICS, evidence.queries // _PROMPTS_PER_TOPIC))
    tried = [_by_topic(features_qf, evidence, count=count, seed=seed) for count in sorted({1, most})]
    topics, design, fits = min(tried, key=lambda found: _unseen_error(found[2], evidence))
    gate = TextGate(encoder, design.tasks, evidence.experts, tuple(fit.head for fit in fits), topics)
    calibrated = [_calibrate(evidence.margin_qe[:, e], evidence.correct_qe[:, e]) for e in range(len(fits))]
    slope_e, offset_e = (np.array(values) for values in zip(*calibrated, strict=True))
    heads = TextHeads(gate, slope_e, offset_e)
    confidence_qe = sigmoid(slope_e * _margin_logit(evidence.margin_qe) + offset_e)
    return TextFit(heads, bounded_logit(np.column_stack([fit.unseen_q for fit in fits])), confidence_qe)


def _by_topic(
    features_qf: Floats, evidence: TextEvidence, *, count: int, seed: int
) -> tuple[Topics, Design, list[HeadFit]]:
    """Heads of all experts with weights of their own in each of so many topics."""
    topics = fit_topics(features_qf, count, scale_f=comparable_scale(features_qf), seed=seed)
    design = make_design(features_qf, topics.of(features_qf), seed=seed)
    return topics, design, [fit_head(design, evidence.correct_qe[:, e]) for e in range(len(evidence.experts))]


def _unseen_error(fits: Sequence[HeadFit], evidence: TextEvidence) -> float:
    """Mean squared error of all heads on prompts that they had not seen."""
    unseen_qe = np.column_stack([fit.unseen_q for fit in fits])
    return float(np.mean((unseen_qe - evidence.correct_qe) ** 2))


def _calibrate(margin_q: Floats, correct_q: Floats) -> tuple[float, float]:
    """Slope and offset of the log odds in the margin's logit; a margin never counts against its answer."""
    right, wrong = float(correct_q.sum()), float(len(correct_q) - correct_q.sum())
    target_q = np.where(correct_q > 0.5, (right + 1.0) / (right + 2.0), 1.0 / (wrong + 2.0))
    slope_f, offset = fit_logistic(_margin_logit(margin_q)[:, None], target_q, l2=1e-3)
    if slope_f[0] <= 0.0:
        return 0.0, float(logit(target_q.mean()))
    return float(slope_f[0]), float(offset)


def _margin_logit(margin: Floats) -> Floats:
    kept = np.clip(margin, _LEAST_MARGIN, 1.0 - _LEAST_MARGIN)
    return np.asarray(np.log(kept / (1.0 - kept)))


def bounded_logit(quality: Floats) -> Floats:
    """Log odds of qualities, which are not told apart close to 0 and 1."""
    kept = np.clip(quality, _LEAST, 1.0 - _LEAST)
    return np.asarray(np.log(kept / (1.0 - kept)))
