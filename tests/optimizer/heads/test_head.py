from __future__ import annotations

import itertools

import numpy as np
import pytest

from optimizer.errors import EvidenceError
from optimizer.fitting.judging import expected_calibration_error
from optimizer.fitting.logistic import fit_logistic, logit, sigmoid, sigmoid_of_half
from optimizer.heads.head import Head, HeadBank, cross_fit_head, fit_head
from tests.optimizer.evidence_maker import make_evidence

# A counter-example to claim A of arXiv 2501.09410: what three experts give to three labels, and how often each occurs.
EXPERTS_ec = np.array([[0.80, 0.10, 0.10], [0.70, 0.20, 0.10], [0.05, 0.05, 0.90]])
FREQUENCY_c = np.array([0.45, 0.10, 0.45])


def test_a_head_finds_what_makes_queries_hard_and_is_calibrated() -> None:
    rng = np.random.default_rng(1)
    features_qf = rng.normal(size=(4000, 3))
    truth_q = sigmoid(1.5 * features_qf[:, 0] + 1.0)
    correct_q = rng.random(4000) < truth_q
    head = fit_head(features_qf, correct_q)
    assert np.abs(head.predict(features_qf) - truth_q).mean() < 0.03
    assert head.calibration_error < 0.03


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_an_expert_that_is_always_right_or_wrong_has_a_finite_head(outcome: float) -> None:
    head = fit_head(np.random.default_rng(0).normal(size=(60, 4)), np.full(60, outcome))
    predicted_q = head.predict(np.zeros((1, 4)))
    assert np.isfinite(head.weights_f).all()
    assert abs(float(predicted_q[0]) - outcome) < 0.05


def test_constant_features_and_separable_data_do_not_break_the_fit() -> None:
    features_qf = np.column_stack([np.arange(50.0), np.ones(50)])
    head = fit_head(features_qf, np.arange(50) > 25)
    assert head.predict(features_qf)[-1] > 0.9 > 0.1 > head.predict(features_qf)[0]


def test_noise_is_not_trusted() -> None:
    rng = np.random.default_rng(3)
    features_qf, correct_q = rng.normal(size=(200, 40)), rng.random(200) < 0.9
    unseen_q = sigmoid(cross_fit_head(features_qf, correct_q).log_odds_q)
    assert np.abs(unseen_q - 0.9).max() < 0.15


def test_a_bank_says_what_its_heads_say() -> None:
    evidence = make_evidence()
    heads = [fit_head(evidence.features_qf, evidence.correct_qe[:, e]) for e in range(4)]
    bank = HeadBank.stack(heads)
    for row in range(5):
        alone = [float(head.predict(evidence.features_qf[[row]])[0]) for head in heads]
        np.testing.assert_allclose(bank.predict(evidence.features_qf[row]), alone, rtol=1e-12)


def test_leaving_experts_out_changes_nothing_about_the_rest() -> None:
    evidence = make_evidence()
    full = [fit_head(evidence.features_qf, evidence.correct_qe[:, e]) for e in range(4)]
    subsets = [list(chosen) for size in range(1, 5) for chosen in itertools.permutations(range(4), size)]
    for subset in subsets:
        refitted = HeadBank.stack([fit_head(evidence.features_qf, evidence.correct_qe[:, e]) for e in subset])
        restricted = HeadBank.stack(full).take(subset)
        np.testing.assert_array_equal(restricted.weights_ef, refitted.weights_ef)
        np.testing.assert_array_equal(restricted.bias_e, refitted.bias_e)


def cross_entropy(gate_e: np.ndarray, experts_ec: np.ndarray) -> float:
    return float(-(FREQUENCY_c * np.log(gate_e @ experts_ec)).sum())


def best_gate(experts_ec: np.ndarray) -> np.ndarray:
    """Mixture weights of least cross-entropy, by expectation maximisation (the problem is convex)."""
    gate_e = np.full(len(experts_ec), 1.0 / len(experts_ec))
    for _ in range(20_000):
        share_ec = gate_e[:, None] * experts_ec / (gate_e @ experts_ec)
        gate_e = share_ec @ FREQUENCY_c
    return gate_e


def test_a_renormalised_softmax_gate_does_not_keep_its_optimum_on_a_subset() -> None:
    gate_e = best_gate(EXPERTS_ec)
    np.testing.assert_allclose(gate_e, [0.344, 0.219, 0.438], atol=1e-3)
    restricted_e = gate_e[1:] / gate_e[1:].sum()
    assert cross_entropy(restricted_e, EXPERTS_ec[1:]) == pytest.approx(1.031, abs=1e-3)
    assert cross_entropy(best_gate(EXPERTS_ec[1:]), EXPERTS_ec[1:]) == pytest.approx(0.955, abs=1e-3)


def test_calibration_error_of_the_honest_and_of_the_boastful() -> None:
    correct_q = np.tile([1.0, 1.0, 1.0, 0.0], 100)
    assert expected_calibration_error(np.full(400, 0.75), correct_q) == pytest.approx(0.0, abs=0.03)
    assert expected_calibration_error(np.full(400, 0.95), correct_q) == pytest.approx(0.2, abs=0.03)


def test_a_known_accuracy_makes_a_constant_head() -> None:
    head = Head.constant(0.9, features=3)
    np.testing.assert_allclose(head.predict(np.eye(3)), 0.9)


@pytest.mark.parametrize(
    ("features_qf", "correct_q"),
    [
        (np.ones((3, 2)), np.ones(4)),
        (np.ones(3), np.ones(3)),
        (np.ones((1, 2)), np.ones(1)),
        (np.array([[1.0], [np.nan]]), np.ones(2)),
    ],
)
def test_malformed_input_is_refused(features_qf: np.ndarray, correct_q: np.ndarray) -> None:
    with pytest.raises(EvidenceError):
        fit_head(features_qf, correct_q)


def test_logistic_fit_is_a_stationary_point() -> None:
    rng = np.random.default_rng(0)
    x_qf, target_q = rng.normal(size=(300, 4)), (rng.random(300) < 0.3).astype(float)
    weights_f, bias = fit_logistic(x_qf, target_q, l2=2.0)
    residual_q = target_q - sigmoid(x_qf @ weights_f + bias)
    np.testing.assert_allclose(x_qf.T @ residual_q - 2.0 * weights_f, 0.0, atol=1e-6)
    assert residual_q.sum() == pytest.approx(0.0, abs=1e-6)


def test_sigmoid_takes_infinities_and_inverts_logit() -> None:
    np.testing.assert_array_equal(sigmoid(np.array([-np.inf, 0.0, np.inf])), [0.0, 0.5, 1.0])
    np.testing.assert_allclose(sigmoid(logit(np.array([0.1, 0.5, 0.99]))), [0.1, 0.5, 0.99])


def test_sigmoid_of_half_is_sigmoid_to_the_last_bit() -> None:
    log_odds = np.concatenate([np.random.default_rng(0).normal(scale=9.0, size=999), [-np.inf, 0.0, np.inf]])
    half = 0.5 * log_odds
    sigmoid_of_half(half)
    np.testing.assert_array_equal(half, sigmoid(log_odds))
