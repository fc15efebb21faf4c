"""What a text costs that several experts write, against adding up what each does."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.routes.route import Fusion
from orchestrator.fleet.text_arms import HOP_MS
from orchestrator.routing.turns import TurnRates, byte_routes, turn_routes

WEIGHTS = np.array([[0.75, 0.25, 0.0]])
ARMS = np.array([[2, 1, 0]])
IN_TURNS = np.array([False])


def rates(*, everyone: bool = False) -> TurnRates:
    found = TurnRates.empty(3, everyone=everyone)
    found.fixed_kn[:] = [[100.0, 2.0, 1.0], [900.0, 20.0, 10.0]]
    found.heard_kn[:] = [[1.0, 0.02, 0.01], [1.0, 0.2, 0.1]]
    found.written_kn[:] = [[1.0, 0.2, 0.1], [1.0, 2.0, 1.0]]
    found.excess_kn[:] = 2.0
    found.excess_kn[:, 0] = np.inf
    found.tokens_bn[:] = [[5.0, 40.0, 40.0], [9.0, 80.0, 80.0]]
    return found


def test_everybody_reads_everything_and_writes_its_share() -> None:
    typical_kr, bound_kr = rates().price(ARMS, WEIGHTS, IN_TURNS)
    assert typical_kr[0, 0] == pytest.approx(3.0 + 30 * 0.1 + 10 * 0.01 + 10 * 0.2 + 30 * 0.02)
    turns = 1.0 + 40.0 * (1.0 - 0.75**2 - 0.25**2)
    assert typical_kr[1, 0] == pytest.approx(30.0 + 30 * 1.0 + 10 * 0.1 + 10 * 2.0 + 30 * 0.2 + HOP_MS * turns)
    # At most the longest answer at the bound of every rate, with more than its share for each.
    assert bound_kr[0, 0] > 2.0 * (3.0 + 60 * 0.1 + 20 * 0.01 + 20 * 0.2 + 60 * 0.02)
    assert bound_kr[0, 0] < 2.0 * (3.0 + 80 * 0.1 + 80 * 0.2)


def test_a_greedy_text_takes_a_step_of_everybody_side_by_side() -> None:
    typical_kr, _ = rates(everyone=True).price(ARMS, WEIGHTS, IN_TURNS)
    assert typical_kr[0, 0] == pytest.approx(3.0 + 40 * 0.1 + 40 * 0.2)
    assert typical_kr[1, 0] == pytest.approx(20.0 + 40 * 2.0 + HOP_MS * 41.0)


def test_in_several_vocabularies_everybody_steps_as_often_as_the_finest() -> None:
    found = rates()
    found.tokens_bn[0, 2] = 10.0
    typical_kr, bound_kr = found.price(ARMS, WEIGHTS, np.array([True]))
    assert typical_kr[0, 0] == pytest.approx(3.0 + 40 * 0.1 + 40 * 0.2)
    assert typical_kr[1, 0] == pytest.approx(20.0 + 40 * 2.0 + HOP_MS * 41.0)
    assert bound_kr[0, 0] == pytest.approx(2.0 * (3.0 + 80 * 0.1 + 80 * 0.2))
    # Beside a text in turns each is priced by itself.
    both = found.price(np.repeat(ARMS, 2, axis=0), np.repeat(WEIGHTS, 2, axis=0), np.array([True, False]))
    assert both[0][:, :1] == pytest.approx(typical_kr)
    assert both[0][:, 1:] == pytest.approx(found.price(ARMS, WEIGHTS, IN_TURNS)[0])


def test_unknown_joules_cannot_be_promised_and_later_arms_cost_nothing_yet() -> None:
    _, bound_kr = rates().price(np.array([[0, 1, 2]]), np.array([[0.5, 0.5, 0.0]]), IN_TURNS)
    assert bound_kr[0, 0] == np.inf
    grown = rates().grown(2)
    assert grown.fixed_kn.shape == (2, 5)
    assert grown.price(ARMS, WEIGHTS, IN_TURNS)[0] == pytest.approx(rates().price(ARMS, WEIGHTS, IN_TURNS)[0])


def test_experts_of_each_vocabulary_make_their_own_routes() -> None:
    digests = {"a": "x", "b": "x", "c": "y", "d": "y", "e": "z"}
    routes = turn_routes(["d", "c", "b", "a", "e"], digests, {expert: 0.1 + (expert == "d") for expert in digests})
    assert [(route.experts, route.weights) for route in routes] == [(("b", "a"), (0.1, 0.1)), (("d", "c"), (1.1, 0.1))]
    assert {route.fusion for route in routes} == {Fusion.TOKEN}


def test_experts_that_hear_bytes_make_routes_whatever_their_vocabularies() -> None:
    weights = {expert: 0.1 * place for place, expert in enumerate("abcdef", start=1)}
    routes = byte_routes(["f", "e", "d", "c", "b", "a"], {"a", "c", "d", "f", "b"}, weights)
    assert [route.experts for route in routes] == [("f", "d"), ("f", "d", "c"), ("f", "d", "c", "b")]
    assert routes[0].weights == (weights["f"], weights["d"])
    assert {route.fusion for route in routes} == {Fusion.BYTES}
    assert byte_routes(["a", "b"], {"a"}, weights) == []
