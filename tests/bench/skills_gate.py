"""The gate on the skill suites: learned from the reference as the gateway learns, replayed on the test questions.

The gate decides by the joules of an expert's mean answer on the reference, as by an arm's profile; what is charged is
what each answer that was asked for took. No milliseconds.

Shape letters: q questions, e experts, r routes, s stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.deciding.offer import RouteTable
from optimizer.evidence.replay import Costs, ReplayTable
from optimizer.evidence.texts import TextEvidence
from optimizer.fitting.logistic import logit
from optimizer.heads.texts import TextHeads
from optimizer.learning.learn import learn_text, predict
from optimizer.learning.prices import decide
from tests.bench.skills_table import Table

Floats = NDArray[np.float64]

LEAST = 0.005


@dataclass(frozen=True)
class Auto:
    """A profile of the gate.

    Args:
        known_right: Share of right answers on the reference, by heads that had not seen the question.
        known_j: Joules there.
        right_q: 1 where the answer to a test question is right.
        energy_j_q: Joules of all answers that it asked for.
    """

    known_right: float
    known_j: float
    right_q: Floats
    energy_j_q: Floats


def outcomes(reference: Table, test: Table) -> Mapping[str, Auto]:
    """What each profile of the gate does to the test questions."""
    costs = Costs(reference.energy_j_qe.mean(axis=0), np.ones(len(reference.experts)))
    model = learn_text(_evidence(reference), costs)
    prompts = [question.prompt for question in test.questions]
    if not isinstance(model.heads, TextHeads):
        raise TypeError("texts have heads of texts")
    log_odds_qe = logit(np.clip(model.heads.predict_many(prompts), LEAST, 1 - LEAST))
    routes = RouteTable.of(model.routes, model.experts)
    predictions = predict(model.links, routes, costs, log_odds_qe=log_odds_qe)
    tokens_qe = test.completion_tokens_qe.astype(np.float64)
    confidence_qe = model.heads.confidence_many(prompts, test.margin_qe, tokens_qe)
    table = ReplayTable.of(model.routes, _evidence(test).as_classes(confidence_qe), costs)
    rows_q, found = np.arange(len(prompts)), {}
    for name, price in model.prices.items():
        route_q = decide(predictions, price.price_per_j) if price.pinned is None else np.full(len(rows_q), price.pinned)
        asked_qse = table.reached_qrs[rows_q, route_q][:, :, None] * routes.member_rse[route_q]
        energy_j_q = np.einsum("qse,qe->q", asked_qse, test.energy_j_qe)
        right_q = table.correct_qr[rows_q, route_q]
        found[name] = Auto(price.expected_quality, price.expected_energy_j, right_q, energy_j_q)
    return found


def _evidence(table: Table) -> TextEvidence:
    prompts = tuple(question.prompt for question in table.questions)
    tokens_qe = table.completion_tokens_qe.astype(np.float64)
    margin_qe = np.clip(table.margin_qe, 0, 1)
    return TextEvidence(table.experts, prompts, table.correct_qe, margin_qe, table.given_eq, tokens_qe)
