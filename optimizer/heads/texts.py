"""Quality heads over a text gate, and what an answer that is there says of itself.

Shape letters: q prompts, e experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.evidence.texts import TextEvidence
from optimizer.fitting.logistic import logit
from optimizer.gate.design import Design, comparable_scale, make_design
from optimizer.gate.encoder import fit_encoder
from optimizer.gate.gate import TextGate
from optimizer.gate.head import HeadFit, fit_head
from optimizer.gate.topics import Topics, fit_topics
from optimizer.heads.confidence import Answered, Confidence, fit_confidence

Floats = NDArray[np.float64]

# Topics, where unseen prompts say that they are better than none: a topic needs prompts to learn from, and for the
# questions of the shipped experts 24 and 36 are no better.
_MOST_TOPICS = 16
_PROMPTS_PER_TOPIC = 100
# Penalty on the directions in which prompts are looked at to find topics, and margins that are not told apart.
_VIEW_PENALTY = 3.0
_LEAST_MARGIN = 1e-3
# Qualities closer to 0 or 1 are not told apart.
_LEAST = 0.005


@dataclass(frozen=True)
class Foreseen:
    """What the gate knows of a prompt before there is an answer.

    Args:
        log_odds_e: Of a right answer of each expert.
        topic: Row of the prompt's topic.
    """

    log_odds_e: Floats
    topic: int


@dataclass(frozen=True)
class TextHeads:
    """What `optimizer.heads.head.HeadBank` is for tensors.

    Args:
        gate: Quality by text; its tasks are topics.
        confidences: What each expert's answers say of themselves.
    """

    gate: TextGate
    confidences: tuple[Confidence, ...]

    def log_odds(self, x_b: NDArray[Any]) -> Floats:
        """Log odds of a right answer of each expert to one prompt, given as its bytes, (e,)."""
        return bounded_logit(self.predict(x_b))

    def predict(self, x_b: NDArray[Any]) -> Floats:
        """Probability of a right answer of each expert to one prompt, (e,)."""
        return self.gate.quality(bytes(x_b).decode(errors="replace"))

    def predict_many(self, prompts: Sequence[str]) -> Floats:
        """The same for many prompts, (q, e)."""
        return self.gate.judge(self.gate.encoder.encode(prompts), [""] * len(prompts))

    def foreseen(self, prompt: str) -> Foreseen:
        """What `confidence` needs to know of a prompt."""
        features_qf = self.gate.encoder.encode([prompt])
        log_odds_qe = bounded_logit(self.gate.judge(features_qf, [""]))
        return Foreseen(log_odds_qe[0], int(self.gate.rows_of(features_qf, [""])[0]))

    def confidence(self, expert: int, margin: float, tokens: float | None, *, foreseen: Foreseen) -> float:
        """Probability that an answer of this margin and length is right."""
        odds = float(foreseen.log_odds_e[expert])
        return self.confidences[expert].chance(margin, tokens, foreseen=odds, topic=foreseen.topic)

    def confidence_many(self, prompts: Sequence[str], margin_qe: Floats, tokens_qe: Floats) -> Floats:
        """The same for all experts' answers to many prompts, (q, e)."""
        features_qf, untold = self.gate.encoder.encode(prompts), [""] * len(prompts)
        log_odds_qe = bounded_logit(self.gate.judge(features_qf, untold))
        topic_q = self.gate.rows_of(features_qf, untold)
        columns = [
            one.chances(margin_qe[:, e], tokens_qe[:, e], foreseen_q=log_odds_qe[:, e], topic_q=topic_q)
            for e, one in enumerate(self.confidences)
        ]
        return np.column_stack(columns)


@dataclass(frozen=True)
class TextFit:
    """Heads and what they said about prompts and answers that they had not seen.

    Args:
        heads: Fitted on everything.
        log_odds_qe: Of the gate, out of fold.
        confidence_qe: Of the answers, by what they say of themselves, out of fold.
    """

    heads: TextHeads
    log_odds_qe: Floats
    confidence_qe: Floats


def fit_text_heads(evidence: TextEvidence, *, seed: int = 0) -> TextFit:
    """Find topics, fit the gate, and what answers say of themselves.

    Raises:
        NativeMissing: The compiled part is not built.

    Cost: about 3 s for 5,000 prompts and 5 experts on one core.
    """
    encoder = fit_encoder(evidence.prompts, seed=seed)
    features_qf = encoder.encode(evidence.prompts)
    most = max(1, min(_MOST_TOPICS, evidence.queries // _PROMPTS_PER_TOPIC))
    ways = [(1, None), (most, None), (most, _view(features_qf, evidence))] if most > 1 else [(1, None)]
    tried = [_by_topic(features_qf, evidence, count=count, seed=seed, view_fv=view_fv) for count, view_fv in ways]
    topics, design, fits = min(tried, key=lambda found: _unseen_error(found[2], evidence))
    gate = TextGate(encoder, design.tasks, evidence.experts, tuple(fit.head for fit in fits), topics)
    log_odds_qe = bounded_logit(np.column_stack([fit.unseen_q for fit in fits]))
    known = [
        fit_confidence(
            Answered(
                evidence.correct_qe[:, e],
                evidence.margin_qe[:, e],
                None if evidence.tokens_qe is None else evidence.tokens_qe[:, e],
                log_odds_qe[:, e],
                design.task_q,
                design.rows,
            )
        )
        for e in range(len(fits))
    ]
    heads = TextHeads(gate, tuple(one for one, _ in known))
    return TextFit(heads, log_odds_qe, np.column_stack([unseen_q for _, unseen_q in known]))


def _by_topic(
    features_qf: Floats, evidence: TextEvidence, *, count: int, seed: int, view_fv: Floats | None = None
) -> tuple[Topics, Design, list[HeadFit]]:
    """Heads of all experts with weights of their own in each of so many topics."""
    topics = fit_topics(features_qf, count, scale_f=comparable_scale(features_qf), seed=seed, view_fv=view_fv)
    design = make_design(features_qf, topics.of(features_qf), seed=seed)
    return topics, design, [fit_head(design, evidence.correct_qe[:, e]) for e in range(len(evidence.experts))]


def _view(features_qf: Floats, evidence: TextEvidence) -> Floats:
    """Directions of the scaled features along which answers change: whether they are right, sure, and long, (f, v).

    Prompts that look alike there are alike for the experts, whatever words they begin with.
    """
    margin_qe = logit(evidence.margin_qe, floor=_LEAST_MARGIN)
    told = [evidence.correct_qe, margin_qe, *([] if evidence.tokens_qe is None else [np.log1p(evidence.tokens_qe)])]
    said_qv = np.hstack(told)
    said_qv = (said_qv - said_qv.mean(axis=0)) / np.maximum(said_qv.std(axis=0), 1e-9)
    x_qf = features_qf / comparable_scale(features_qf)
    x_qf = x_qf - x_qf.mean(axis=0)
    return np.asarray(np.linalg.solve(x_qf.T @ x_qf + _VIEW_PENALTY * np.eye(x_qf.shape[1]), x_qf.T @ said_qv))


def _unseen_error(fits: Sequence[HeadFit], evidence: TextEvidence) -> float:
    """Mean squared error of all heads on prompts that they had not seen."""
    unseen_qe = np.column_stack([fit.unseen_q for fit in fits])
    return float(np.mean((unseen_qe - evidence.correct_qe) ** 2))


def bounded_logit(quality: Floats) -> Floats:
    """Log odds of qualities, which are not told apart close to 0 and 1."""
    kept = np.clip(quality, _LEAST, 1.0 - _LEAST)
    return np.asarray(np.log(kept / (1.0 - kept)))
