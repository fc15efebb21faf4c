from __future__ import annotations

import numpy as np
import pytest

from optimizer.errors import EvidenceError
from optimizer.routes.fusion import confident, fuse
from optimizer.routes.route import Fusion, Route
from optimizer.routes.texts import Ballot

A = np.array([0.6, 0.3, 0.1])
B = np.array([0.2, 0.7, 0.1])
C = np.array([0.55, 0.05, 0.40])


def test_none_takes_the_last_answer() -> None:
    route = Route((("a",), ("b",)), (0.9,))
    np.testing.assert_array_equal(fuse(route, [("a", A), ("b", B)]).probabilities_c, B)


def test_mixture_weighs_the_experts_that_answered() -> None:
    route = Route((("a", "b", "c"),), fusion=Fusion.MIXTURE, weights=(3.0, 1.0, 4.0))
    np.testing.assert_allclose(fuse(route, [("a", A), ("b", B)]).probabilities_c, 0.75 * A + 0.25 * B)
    np.testing.assert_array_equal(fuse(route, [("b", B)]).probabilities_c, B)


def test_vote_follows_the_majority_and_breaks_ties_by_probability() -> None:
    route = Route((("a", "b", "c"),), fusion=Fusion.VOTE)
    majority = fuse(route, [("a", A), ("b", np.array([0.0, 1.0, 0.0])), ("c", C)])
    assert majority.label == 0
    tie = fuse(route, [("a", A), ("b", B)])
    assert tie.label == 1
    assert tie.probabilities_c.sum() == pytest.approx(1.0)


def test_of_several_answers_the_surest_stands_and_a_ballot_of_texts_says_the_same() -> None:
    route = Route((("a",), ("b",)), (0.9,), Fusion.SUREST)
    np.testing.assert_array_equal(fuse(route, [("a", A), ("b", B)]).probabilities_c, B)
    np.testing.assert_array_equal(fuse(route, [("a", B), ("b", A)]).probabilities_c, B)
    many = fuse(route, [("a", np.stack([A, C])), ("b", np.stack([B, A]))])
    np.testing.assert_array_equal(many.probabilities_c, np.stack([B, A]))
    ballot = Ballot(route)
    ballot.add("a", "four", 0.7)
    ballot.add("b", "five", 0.6)
    # The control: without it the last answer stands.
    last = Ballot(Route(route.stages, (0.9,)), [*ballot.answers])
    assert ballot.result() == ("a", 0.7)
    assert last.result() == ("b", 0.6)


def test_agreement_raises_the_product_and_not_the_geometric_mean() -> None:
    stages = (("a",), ("b",))
    answers = [("a", A), ("b", A)]
    geometric = fuse(Route(stages, (0.9,), Fusion.GEOMETRIC), answers)
    product = fuse(Route(stages, (0.9,), Fusion.PRODUCT), answers)
    np.testing.assert_allclose(geometric.probabilities_c, A, atol=1e-3)
    assert float(product.confidence) > float(geometric.confidence) + 0.1


def test_no_expert_can_veto_a_class() -> None:
    route = Route((("a",), ("b",)), (0.9,), Fusion.PRODUCT)
    fused = fuse(route, [("a", np.array([1.0, 0.0])), ("b", np.array([0.0, 1.0]))])
    np.testing.assert_allclose(fused.probabilities_c, 0.5)


@pytest.mark.parametrize("fusion", list(Fusion))
def test_a_batch_is_fused_as_each_of_its_queries_would_be(fusion: Fusion) -> None:
    route = Route((("a",), ("b", "c")), (0.9,), fusion)
    batch = fuse(route, [("a", np.stack([A, B])), ("b", np.stack([B, C])), ("c", np.stack([C, A]))])
    first = fuse(route, [("a", A), ("b", B), ("c", C)])
    np.testing.assert_allclose(batch.probabilities_c[0], first.probabilities_c)
    assert float(batch.confidence[0]) == pytest.approx(float(first.confidence))
    assert float(first.confidence) == pytest.approx(first.probabilities_c.max())


def test_confident_at_the_threshold_and_always_at_the_end() -> None:
    route = Route((("a",), ("b",)), (0.9,))
    assert confident(route, 0, 0.9)
    assert not confident(route, 0, 0.8999)
    assert confident(route, 1, 0.0)


def test_nothing_and_strangers_are_refused() -> None:
    with pytest.raises(EvidenceError, match="nothing"):
        fuse(Route.single("a"), [])
    with pytest.raises(EvidenceError, match="not on the route"):
        fuse(Route.single("a"), [("b", B)])


@pytest.mark.parametrize(
    "arguments",
    [
        {"stages": ()},
        {"stages": ((),)},
        {"stages": (("a", "a"),)},
        {"stages": (("a",), ("b",))},
        {"stages": (("a", "b"),), "weights": (1.0,)},
        {"stages": (("a", "b"),), "weights": (1.0, 0.0)},
    ],
)
def test_a_route_that_cannot_run_is_refused(arguments: dict[str, tuple[object, ...]]) -> None:
    with pytest.raises(EvidenceError):
        Route(**arguments)  # type: ignore[arg-type]


def test_names_tell_routes_apart() -> None:
    routes = [
        Route.single("a"),
        Route((("a", "b"),), fusion=Fusion.MIXTURE),
        Route((("a",), ("b",)), (0.9,)),
        Route((("a",), ("b",)), (0.95,)),
        Route((("a",), ("b",)), (0.9,), Fusion.PRODUCT),
    ]
    assert [route.name for route in routes][:3] == ["a", "a+b (mixture)", "a >0.9> b"]
    assert len({route.name for route in routes}) == len(routes)
