"""The gate on the skill suites: learned from the reference as the gateway learns, replayed on the test questions.

Joules of an expert are those of its mean answer on the reference, as in an arm's profile; no milliseconds.
Shape letters: q questions, e experts, r routes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from optimizer.deciding.offer import RouteTable
from optimizer.evidence.replay import Costs, Outcome, ReplayTable
from optimizer.evidence.texts import TextEvidence
from optimizer.fitting.logistic import logit
from optimizer.heads.texts import TextHeads
from optimizer.learning.learn import learn_text, predict
from optimizer.learning.prices import decide
from tests.bench.skills_table import Table

LEAST = 0.005


def outcomes(reference: Table, test: Table) -> Mapping[str, Outcome]:
    """What each profile of the gate does to the test questions."""
    costs = Costs(reference.energy_j_qe.mean(axis=0), np.ones(len(reference.experts)))
    model = learn_text(_evidence(reference), costs)
    prompts = [question.prompt for question in test.questions]
    if not isinstance(model.heads, TextHeads):
        raise TypeError("texts have heads of texts")
    log_odds_qe = logit(np.clip(model.heads.predict_many(prompts), LEAST, 1 - LEAST))
    predictions = predict(model.links, RouteTable.of(model.routes, model.experts), costs, log_odds_qe=log_odds_qe)
    tokens_qe = test.completion_tokens_qe.astype(np.float64)
    confidence_qe = model.heads.confidence_many(prompts, test.margin_qe, tokens_qe)
    table = ReplayTable.of(model.routes, _evidence(test).as_classes(confidence_qe), costs)
    found = {}
    for name, price in model.prices.items():
        pinned_q = None if price.pinned is None else np.full(len(prompts), price.pinned)
        found[name] = table.pick(decide(predictions, price.price_per_j) if pinned_q is None else pinned_q)
    return found


def _evidence(table: Table) -> TextEvidence:
    prompts = tuple(question.prompt for question in table.questions)
    tokens_qe = table.completion_tokens_qe.astype(np.float64)
    margin_qe = np.clip(table.margin_qe, 0, 1)
    return TextEvidence(table.experts, prompts, table.correct_qe, margin_qe, table.given_eq, tokens_qe)
