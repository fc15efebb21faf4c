from __future__ import annotations

import itertools

import numpy as np
import pytest

from optimizer.deciding.choose import Limits, Price, choose
from optimizer.deciding.model import TaskModel
from optimizer.deciding.offer import ExpertCosts, RouteTable
from optimizer.errors import EvidenceError
from optimizer.evidence.answers import Evidence
from optimizer.evidence.replay import Costs, replay
from optimizer.evidence.standard import Standard, Trial, best_single, figures_of
from optimizer.learning.families import Family, agreements, cascades, chain_experts, fanouts, singles
from optimizer.learning.learn import LearnSettings, learn
from optimizer.learning.simulate import POLICIES, Policy, baselines, routes_of, run_model, run_oracle
from optimizer.routes.route import Fusion, Route
from tests.optimizer.evidence_maker import make_costs, make_evidence


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return make_evidence(queries=600)


@pytest.fixture(scope="module")
def costs() -> Costs:
    return make_costs()


@pytest.fixture(scope="module")
def model(evidence: Evidence, costs: Costs) -> TaskModel:
    return learn(evidence, costs)


def test_a_replayed_cascade_pays_only_for_the_stages_that_ran(evidence: Evidence, costs: Costs) -> None:
    route = Route((("e0",), ("e2",)), (0.8,))
    ran = replay(route, evidence, costs)
    sure_q = evidence.confidence_qe[:, 0] >= 0.8
    expected_q = np.where(sure_q, evidence.correct_qe[:, 0], evidence.correct_qe[:, 2])
    np.testing.assert_array_equal(ran.outcome.correct_q, expected_q)
    np.testing.assert_allclose(ran.outcome.energy_q, np.where(sure_q, 1e-6, 1.01e-4))
    np.testing.assert_allclose(ran.outcome.latency_q, np.where(sure_q, 1.0, 5.0))
    np.testing.assert_array_equal(ran.stages_q, np.where(sure_q, 1, 2))


def test_parallel_experts_add_joules_and_wait_for_the_slowest(evidence: Evidence, costs: Costs) -> None:
    outcome = replay(Route((("e0", "e2"),), fusion=Fusion.MIXTURE), evidence, costs).outcome
    assert outcome.energy_j == pytest.approx(1.01e-4)
    assert outcome.latency_q.max() == 4.0


def families_of(trial: Trial) -> list[Family]:
    fusions = (Fusion.NONE, Fusion.GEOMETRIC, Fusion.PRODUCT)
    chains = cascades(trial, fusions=fusions, sizes=(2, 3, 4))
    return [*singles(trial), *fanouts(trial, max_experts=3), *chains, *agreements(trial)]


def test_a_familys_figures_are_those_of_its_routes_replayed(evidence: Evidence, costs: Costs) -> None:
    trial = Trial(evidence, costs, 3)
    rng = np.random.default_rng(0)
    for family in families_of(trial):
        k = int(rng.integers(len(family.figures.quality)))
        outcome = replay(family.route_of(k), evidence, costs).outcome
        assert family.figures.quality[k] == pytest.approx(outcome.quality)
        assert family.figures.energy_j[k] == pytest.approx(outcome.energy_j)
        low = figures_of(outcome.correct_q[:, None], outcome.energy_q[:, None], trial.rival_q).low[0]
        assert family.figures.low[k] <= low + 1e-12


def test_agreement_is_what_the_least_threshold_of_a_vote_of_two_asks_for(evidence: Evidence, costs: Costs) -> None:
    trial = Trial(evidence, costs, 3)
    family = next(f for f in agreements(trial) if f.route_of(0).experts == ("e0", "e1", "e3"))
    ran = replay(family.route_of(0), evidence, costs)
    agree_q = evidence.outputs_eqc[0].argmax(axis=1) == evidence.outputs_eqc[1].argmax(axis=1)
    np.testing.assert_array_equal(ran.stages_q == 1, agree_q)
    # Side by side they cost both and wait for the slower; where they disagree the third comes on top.
    both_j, both_ms = costs.energy_e[:2].sum(), costs.latency_e[:2].max()
    np.testing.assert_allclose(ran.outcome.energy_q, np.where(agree_q, both_j, both_j + costs.energy_e[3]))
    np.testing.assert_allclose(ran.outcome.latency_q, np.where(agree_q, both_ms, both_ms + costs.latency_e[3]))


def test_a_bound_is_no_better_than_the_notch_before(evidence: Evidence, costs: Costs) -> None:
    trial = Trial(evidence, costs, 3)
    (family,) = [
        f for f in cascades(trial, fusions=(Fusion.NONE,), sizes=(2,)) if f.route_of(0).experts == ("e0", "e3")
    ]
    lows = []
    for k in range(len(family.figures.quality)):
        outcome = replay(family.route_of(k), evidence, costs).outcome
        lows.append(float(figures_of(outcome.correct_q[:, None], outcome.energy_q[:, None], trial.rival_q).low[0]))
    expected = [lows[0], *(min(pair) for pair in itertools.pairwise(lows))]
    np.testing.assert_allclose(family.figures.low, expected)


def test_experts_that_are_dearer_and_no_better_are_not_combined() -> None:
    evidence = make_evidence()
    worse = Evidence(
        evidence.experts,
        evidence.features_qf,
        evidence.labels_q,
        np.stack([evidence.outputs_eqc[e] for e in (0, 0, 2, 1)]),
    )
    assert chain_experts(worse, make_costs()) == [0, 2]


def test_the_table_has_every_expert_first_and_stays_small(model: TaskModel, evidence: Evidence) -> None:
    assert [route.name for route in model.routes[:4]] == list(evidence.experts)
    assert 4 < len(model.routes) <= 4 + LearnSettings().max_composites
    assert len({route.name for route in model.routes}) == len(model.routes)
    assert model.index_of(model.routes[5].name) == 5
    with pytest.raises(KeyError):
        model.index_of("nobody")


def test_estimates_are_probabilities_and_reach_never_rises(model: TaskModel, evidence: Evidence) -> None:
    for x_f in evidence.features_qf[:20]:
        estimate = model.estimate(x_f)
        assert ((estimate.quality_r >= 0) & (estimate.quality_r <= 1)).all()
        assert (np.diff(estimate.reach_rs, axis=1) <= 0).all()
        for reach_s, route in zip(estimate.reach_rs, model.routes, strict=True):
            assert reach_s[0] == 1.0
            assert (reach_s[len(route.stages) :] == 0.0).all()


def test_estimates_follow_the_query(model: TaskModel, evidence: Evidence) -> None:
    hardest, easiest = evidence.features_qf[:, 0].argmax(), evidence.features_qf[:, 0].argmin()
    hard, easy = (model.estimate(evidence.features_qf[q]) for q in (hardest, easiest))
    # The best expert errs too seldom for its head to learn more than how often.
    assert (easy.quality_r[:3] > hard.quality_r[:3]).all()
    deep = [r for r, route in enumerate(model.routes) if len(route.stages) > 1]
    assert easy.reach_rs[deep, 1].mean() < hard.reach_rs[deep, 1].mean()


def test_estimates_are_right_on_average_over_new_queries(model: TaskModel) -> None:
    fresh = make_evidence(queries=600, seed=7)
    quality_qr = np.stack([model.estimate(x_f).quality_r for x_f in fresh.features_qf])
    reach_qrs = np.stack([model.estimate(x_f).reach_rs for x_f in fresh.features_qf])
    for r, route in enumerate(model.routes):
        ran = replay(route, fresh, make_costs())
        assert quality_qr[:, r].mean() == pytest.approx(ran.outcome.quality, abs=0.05)
        if len(route.stages) > 1:
            assert reach_qrs[:, r, 1].mean() == pytest.approx((ran.stages_q > 1).mean(), abs=0.08)


def test_a_singles_estimate_is_its_own_head(model: TaskModel, evidence: Evidence) -> None:
    x_f = evidence.features_qf[0]
    np.testing.assert_allclose(model.estimate(x_f).quality_r[:4], model.heads.predict(x_f))


def test_profiles_cost_more_the_more_they_ask_for(model: TaskModel, evidence: Evidence, costs: Costs) -> None:
    eco, balanced, best = (model.prices[profile] for profile in ("eco", "balanced", "best"))
    assert eco.expected_energy_j <= balanced.expected_energy_j <= best.expected_energy_j
    rival = float(evidence.accuracy_e[model.best_single])
    assert balanced.expected_quality >= rival
    assert best.expected_quality >= balanced.expected_quality - 0.0005
    assert eco.expected_quality >= rival - 0.01
    assert balanced.expected_energy_j < costs.energy_e[model.best_single]


def test_no_static_route_that_is_as_good_is_cheaper_than_the_profile(model: TaskModel) -> None:
    balanced = model.prices["balanced"]
    if balanced.pinned is not None:
        assert model.reference.energy_r[balanced.pinned] == pytest.approx(balanced.expected_energy_j)
        assert model.reference.quality_r[balanced.pinned] == pytest.approx(balanced.expected_quality)
    lossless = (model.reference.quality_r == 1.0) & (model.reference.energy_r < balanced.expected_energy_j)
    assert not lossless.any()


def test_the_batch_decision_is_the_gateways_decision(model: TaskModel, evidence: Evidence, costs: Costs) -> None:
    table = RouteTable.of(model.routes, model.experts)
    every = np.ones(4, dtype=bool)
    now = ExpertCosts(costs.energy_e, 2 * costs.energy_e, costs.latency_e, 2 * costs.latency_e, every)
    for profile, price in model.prices.items():
        batch_q = routes_of(model, evidence, costs, profile=profile)
        for row in range(0, 60, 5):
            offer = table.offer(model.estimate(evidence.features_qf[row]), now)
            choice = choose(offer, limits=Limits(), price=Price(price.price_per_j, pinned=price.pinned))
            assert choice.index == batch_q[row]


def test_an_offer_expects_by_reach_and_bounds_the_whole_chain(model: TaskModel, evidence: Evidence) -> None:
    routes = (Route((("e0",), ("e1", "e2")), (0.9,), Fusion.MIXTURE), Route.single("e3"))
    estimate = type(model.estimate(evidence.features_qf[0]))(np.array([0.9, 0.95]), np.array([[1.0, 0.25], [1.0, 0.0]]))
    four = np.array([1.0, 2.0, 4.0, 8.0])
    costs = ExpertCosts(four, 2 * four, 10 * four, 20 * four, np.array([True, True, False, True]))
    offer = RouteTable.of(routes, model.experts).offer(estimate, costs)
    np.testing.assert_allclose(offer.energy_r, [1.0 + 0.25 * 6.0, 8.0])
    np.testing.assert_allclose(offer.energy_bound_r, [14.0, 16.0])
    np.testing.assert_allclose(offer.latency_r, [10.0 + 0.25 * 40.0, 80.0])
    np.testing.assert_allclose(offer.latency_bound_r, [20.0 + 80.0, 160.0])
    np.testing.assert_array_equal(offer.available_r, [False, True])


def test_learning_is_deterministic(model: TaskModel, evidence: Evidence, costs: Costs) -> None:
    again = learn(evidence, costs)
    assert again.routes == model.routes
    assert again.prices == model.prices


def test_one_expert_alone_is_a_task_too() -> None:
    evidence = make_evidence(experts=1)
    model = learn(evidence, make_costs(1))
    assert [route.name for route in model.routes] == ["e0"]
    assert model.prices["balanced"].expected_quality == evidence.accuracy_e[0]


def test_experts_that_cost_nothing_do_not_break_the_prices(evidence: Evidence) -> None:
    model = learn(evidence, Costs(np.zeros(4), np.zeros(4)))
    assert all(np.isfinite(price.price_per_j) for price in model.prices.values())


def test_best_single_is_the_cheapest_that_is_nearly_as_good(evidence: Evidence, costs: Costs) -> None:
    strictly, loosely = (best_single(evidence, costs, tolerance=t) for t in (0.0, 1.0))
    assert strictly == int(evidence.accuracy_e.argmax())
    assert loosely == 0


def test_what_never_differs_passes_and_what_trades_wins_for_losses_does_not() -> None:
    rival_q = np.tile([1.0, 1.0, 1.0, 0.0], 250)
    same, swapped = rival_q.copy(), rival_q.copy()
    swapped[:20] = 1.0 - swapped[:20]
    swapped[3:43:4] = 1.0
    figures = figures_of(np.column_stack([same, swapped]), np.ones((1000, 2)), rival_q)
    assert figures.quality[1] >= figures.quality[0] - 0.01
    accepted = Standard(gain=-0.01, margin=0.002).accepts(figures, 0.75)
    np.testing.assert_array_equal(accepted, [True, False])


def test_every_policy_runs_and_the_oracle_is_out_of_reach(model: TaskModel, evidence: Evidence, costs: Costs) -> None:
    policies = baselines(evidence, costs)
    assert tuple(policies) == POLICIES
    oracle = run_oracle(evidence, costs)
    for policy in policies.values():
        assert policy.run(evidence, costs).quality <= oracle.quality + 0.05
    edgewise, best = run_model(model, evidence, costs), policies["best_single"].run(evidence, costs)
    assert edgewise.energy_j < best.energy_j
    assert edgewise.energy_j <= policies["cascade"].run(evidence, costs).energy_j * (1 + 1e-9)


def test_a_lottery_gives_the_expectation_and_draws_in_its_shares(evidence: Evidence, costs: Costs) -> None:
    policy = Policy((Route.single("e0"), Route.single("e1")), (0.25, 0.75))
    assert policy.run(evidence, costs).energy_j == pytest.approx(0.25e-6 + 0.75e-5)
    drawn = [policy.draw(u).name for u in np.linspace(0.0, 0.999, 1000)]
    assert drawn.count("e0") == pytest.approx(250, abs=2)


@pytest.mark.parametrize(
    "changes",
    [
        {"experts": ("a", "a", "b", "c")},
        {"labels_q": np.full(400, 9)},
        {"features_qf": np.ones((3, 2))},
        {"outputs_eqc": np.ones((4, 399, 5))},
        {"outputs_eqc": np.full((4, 400, 5), np.nan)},
        {"outputs_eqc": np.full((4, 400, 5), -0.1)},
    ],
)
def test_malformed_evidence_is_refused(changes: dict[str, object]) -> None:
    whole = make_evidence()
    fields = {name: getattr(whole, name) for name in ("experts", "features_qf", "labels_q", "outputs_eqc")}
    with pytest.raises(EvidenceError):
        Evidence(**{**fields, **changes})


def test_costs_and_standards_that_cannot_be_meant_are_refused(evidence: Evidence) -> None:
    with pytest.raises(EvidenceError):
        learn(evidence, make_costs(3))
    with pytest.raises(EvidenceError):
        Costs(np.array([-1.0]), np.array([1.0]))
    with pytest.raises(EvidenceError):
        LearnSettings(balanced=Standard(gain=0.01, margin=0.0))
    with pytest.raises(EvidenceError):
        replay(Route.single("nobody"), evidence, make_costs())
