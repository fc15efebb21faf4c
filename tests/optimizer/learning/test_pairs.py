"""Pairs that are worth having for some queries only, and the gate that takes them where they pay."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.evidence.answers import Evidence
from optimizer.evidence.replay import Costs
from optimizer.evidence.standard import Trial
from optimizer.evidence.texts import TextEvidence
from optimizer.fitting.logistic import logit
from optimizer.learning.learn import learn_text
from optimizer.learning.pairs import pairs
from optimizer.routes.route import Fusion, Route
from tests.optimizer.gate.needed import needs_native
from tests.optimizer.gate.test_topics import prompts

EXPERTS = ("few", "wide")
COSTS = Costs(np.array([1.0, 4.0]), np.array([1.0, 4.0]))
ALONE = tuple(Route.single(expert) for expert in EXPERTS)
QUERIES = 3_000


def trial(*, telling: bool, seed: int = 0) -> tuple[Trial, np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """A specialist of a quarter of the queries, there right nine times of ten, and a generalist; and their log odds.

    Args:
        telling: Whether the specialist's confidence says where it is wrong.
        seed: Of everything.
    """
    rng = np.random.default_rng(seed)
    known_q = rng.random(QUERIES) < 0.25
    chance_qe = np.column_stack([np.where(known_q, 0.9, 0.02), np.full(QUERIES, 0.8)])
    right_qe = rng.random((QUERIES, 2)) < chance_qe
    sure_q = np.where(right_qe[:, 0], 0.95, 0.1)
    outputs_eqc = np.zeros((2, QUERIES, 3))
    for e, confidence_q in enumerate((sure_q if telling else rng.permutation(sure_q), np.full(QUERIES, 0.8))):
        outputs_eqc[e, np.arange(QUERIES), np.where(right_qe[:, e], 0, e + 1)] = confidence_q
    found = Evidence(EXPERTS, np.zeros((QUERIES, 1)), np.zeros(QUERIES, dtype=np.int64), outputs_eqc)
    return Trial(found, COSTS, 1), logit(chance_qe)


def test_a_specialist_with_a_generalist_behind_it_is_worth_having_for_what_the_specialist_knows() -> None:
    judged, log_odds_qe = trial(telling=True)
    found = pairs(judged, log_odds_qe, beside=ALONE, most=24, seed=0)
    assert found
    assert all(route.stages == (("few",), ("wide",)) and route.fusion is Fusion.SUREST for route in found)
    assert pairs(judged, log_odds_qe, beside=[*ALONE, *found], most=24, seed=0) == []


def test_no_pair_is_taken_where_confidence_says_nothing() -> None:
    judged, log_odds_qe = trial(telling=False)
    assert pairs(judged, log_odds_qe, beside=ALONE, most=24, seed=0) == []


@pytest.mark.parametrize("most", [-1, 0, 1])
def test_no_more_pairs_than_there_is_room_for(most: int) -> None:
    judged, log_odds_qe = trial(telling=True)
    assert len(pairs(judged, log_odds_qe, beside=ALONE, most=most, seed=0)) == max(0, most)


def test_one_expert_has_no_pair_and_free_experts_are_no_error() -> None:
    judged, log_odds_qe = trial(telling=True)
    alone = Evidence(("few",), judged.evidence.features_qf, judged.evidence.labels_q, judged.evidence.outputs_eqc[:1])
    free = Costs(np.zeros(1), np.zeros(1))
    assert pairs(Trial(alone, free, 0), log_odds_qe[:, :1], beside=ALONE[:1], most=5, seed=0) == []
    nothing = Trial(judged.evidence, Costs(np.zeros(2), np.zeros(2)), 1)
    assert len(pairs(nothing, log_odds_qe, beside=ALONE, most=1, seed=0)) == 1


@needs_native
def test_a_specialist_that_is_bad_on_the_whole_gets_its_pair_in_a_learned_table() -> None:
    """By accuracy alone it is on no chain: others are better, and cheaper."""
    texts, field_q, _ = prompts(1_600)
    rng = np.random.default_rng(3)
    chance_qe = np.column_stack([np.full(1_600, 0.3), np.where(field_q == 2, 0.8, 0.0), np.full(1_600, 0.7)])
    correct_qe = (rng.random(chance_qe.shape) < chance_qe).astype(np.float64)
    margin_qe = np.clip(0.5 + 0.8 * (correct_qe - 0.5) + rng.normal(scale=0.03, size=correct_qe.shape), 0.0, 1.0)
    given = tuple(tuple("yes" if right else f"no {e}" for right in column) for e, column in enumerate(correct_qe.T))
    found = TextEvidence(("cheap", "sailor", "wide"), texts, correct_qe, margin_qe, given)
    model = learn_text(found, Costs(np.array([1.0, 2.0, 5.0]), np.ones(3)))
    assert any(route.experts[:2] == ("sailor", "wide") for route in model.routes)
    assert len(model.routes) == len(model.reference.quality_r) == len(model.links.quality_bias_r) <= 3 + 24
    assert model.prices["best"].expected_quality > 0.7 + 0.25 * 0.2
