"""Several answers into one. The gateway and the simulation call the same functions.

Shape letters: c classes; ``...`` any leading axes (none for one query, q for a reference set).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import EvidenceError
from optimizer.routes.route import Fusion, Route

Floats = NDArray[np.float64]

# Keeps the logarithm of an expert that rules a class out finite: it can lower a class, never veto it.
_FLOOR = 1e-4
# The newest answer stands for all.
_LAST_ALONE = (Fusion.NONE, Fusion.JUDGE, Fusion.TOKEN, Fusion.BYTES)


@dataclass(frozen=True, slots=True)
class Fused:
    """One answer.

    Args:
        probabilities_c: (..., c), sums to 1 over the classes.
        confidence: (...), the largest of them.
    """

    probabilities_c: Floats
    confidence: Floats

    @property
    def label(self) -> NDArray[np.int64]:
        """(...), index of the most probable class; the lower index where two are equal."""
        return np.asarray(self.probabilities_c.argmax(axis=-1))


def fuse(route: Route, answers: Sequence[tuple[str, NDArray[np.floating]]]) -> Fused:
    """Combine the answers that a route has so far.

    Args:
        route: The route that runs.
        answers: (expert, probabilities (..., c)) in the order of the stages. Experts that failed are left out.

    Raises:
        EvidenceError: No answers, or an expert that is not on the route.
    """
    if not answers:
        raise EvidenceError("There is nothing to fuse.")
    for expert, _ in answers:
        if expert not in route.experts:
            raise EvidenceError(f"Expert {expert!r} is not on the route {route.name!r}.")
    if route.fusion in _LAST_ALONE or len(answers) == 1:
        probabilities_c = np.asarray(answers[-1][1], dtype=np.float64)
    else:
        outputs_nc = np.stack([np.asarray(answer, dtype=np.float64) for _, answer in answers])
        probabilities_c = _combine(route, [expert for expert, _ in answers], outputs_nc)
    return Fused(probabilities_c, np.asarray(probabilities_c.max(axis=-1)))


def confident(route: Route, stage: int, confidence: float) -> bool:
    """Whether the route may stop after this stage (counted from 0). After the last one it always may."""
    return stage >= len(route.continue_below) or confidence >= route.continue_below[stage]


def _combine(route: Route, experts: list[str], outputs_nc: Floats) -> Floats:
    if route.fusion is Fusion.MIXTURE:
        return _mixture(outputs_nc, _weights_of(route, experts))
    if route.fusion is Fusion.VOTE:
        return _vote(outputs_nc)
    if route.fusion is Fusion.SUREST:
        return _surest(outputs_nc)
    return _log_mean(outputs_nc, 1.0 if route.fusion is Fusion.PRODUCT else 1.0 / len(outputs_nc))


def _weights_of(route: Route, experts: list[str]) -> Floats:
    weight_of = dict(zip(route.experts, route.weights, strict=True)) if route.weights else {}
    weights_n = np.array([weight_of.get(expert, 1.0) for expert in experts])
    shares_n: Floats = weights_n / weights_n.sum()
    return shares_n


def _mixture(outputs_nc: Floats, weights_n: Floats) -> Floats:
    return np.asarray(np.tensordot(weights_n, outputs_nc, axes=1))


def _surest(outputs_nc: Floats) -> Floats:
    surest_1c = outputs_nc.max(axis=-1).argmax(axis=0)[None, ..., None]
    return np.asarray(np.take_along_axis(outputs_nc, surest_1c, axis=0)[0])


def _vote(outputs_nc: Floats) -> Floats:
    """Votes plus one share of the mean distribution: less than one vote, so that it decides ties alone."""
    votes_nc = np.eye(outputs_nc.shape[-1])[outputs_nc.argmax(axis=-1)]
    total_c: Floats = votes_nc.sum(axis=0) + outputs_nc.mean(axis=0)
    return _normalised(total_c)


def _log_mean(outputs_nc: Floats, power: float) -> Floats:
    logs_c = np.log(outputs_nc + _FLOOR).sum(axis=0) * power
    scores_c: Floats = np.exp(logs_c - logs_c.max(axis=-1, keepdims=True))
    return _normalised(scores_c)


def _normalised(scores_c: Floats) -> Floats:
    normalised_c: Floats = scores_c / scores_c.sum(axis=-1, keepdims=True)
    return normalised_c
