"""Given heads in the place of learned ones: only theirs change, and nothing is pinned that was found with others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from optimizer.deciding.model import TaskModel
from optimizer.learning.learn import learn
from orchestrator.routing.combined import CombinedModel
from orchestrator.routing.gated import gated
from orchestrator.routing.model import AnnouncedModel
from tests.optimizer.evidence_maker import make_costs, make_evidence

X_F = make_evidence().features_qf[0]


@dataclass(frozen=True)
class Says:
    """A gate that always says the same; None of a query that it cannot read."""

    experts: tuple[str, ...]
    quality_g: tuple[float, ...] | None

    def quality(self, x_f: NDArray[Any]) -> NDArray[np.float64] | None:
        return None if self.quality_g is None else np.array(self.quality_g)


@pytest.fixture(scope="module")
def learned() -> TaskModel:
    return learn(make_evidence(), make_costs())


def singles(model: Any) -> list[float]:
    return [float(quality) for quality in model.estimate(X_F).quality_r[:4]]


def test_known_experts_take_the_given_heads_and_others_keep_theirs(learned: TaskModel) -> None:
    mixed = gated(learned, Says(("stranger", "e2", "e0"), (0.99, 0.3, 0.8)))
    before, after = singles(learned), singles(mixed)
    assert after[0] == pytest.approx(0.8)
    assert after[2] == pytest.approx(0.3)
    assert (after[1], after[3]) == pytest.approx((before[1], before[3]), abs=1e-12)


def test_nothing_stays_pinned(learned: TaskModel) -> None:
    mixed = gated(learned, Says(("e0",), (0.5,)))
    assert {price.pinned for price in mixed.prices.values()} == {None}
    assert [price.price_per_j for price in mixed.prices.values()] == [p.price_per_j for p in learned.prices.values()]


def test_a_gate_that_knows_nobody_leaves_the_model_alone(learned: TaskModel) -> None:
    assert gated(learned, Says(("stranger",), (0.5,))) is learned
    announced = AnnouncedModel({"e0": 0.5}, {"e0": 1.0})
    assert gated(announced, Says(("stranger",), (0.5,))) is announced


def test_a_query_that_cannot_be_read_takes_what_was_learned(learned: TaskModel) -> None:
    assert singles(gated(learned, Says(("e0",), None))) == pytest.approx(singles(learned), abs=1e-12)


def test_votes_follow_the_heads_of_their_experts() -> None:
    quality = {"e0": 0.5, "e1": 0.6, "e2": 0.7}
    model = CombinedModel(AnnouncedModel(quality, dict.fromkeys(quality, 1.0)), quality)
    mixed = gated(model, Says(("e0",), (0.95,)))
    assert mixed.routes == model.routes
    assert mixed.estimate(X_F).quality_r.tolist() == pytest.approx([0.95, 0.6, 0.7, 0.95, 0.95])
    assert model.estimate(X_F).quality_r.tolist() == pytest.approx([0.5, 0.6, 0.7, 0.7, 0.7])
