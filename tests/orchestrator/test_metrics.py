"""Metric names, labels and counts: a contract with dashboards."""

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.journal import Entry
from orchestrator.metrics import Metrics
from orchestrator.routing.plan import NO_CERTIFICATE
from orchestrator.types import AttemptRecord, Energy, FusionChoice, Provenance, RoutingRecord, Timings
from tests.orchestrator.builders import limits

FAMILIES = {
    "edgewise_requests": "counter",
    "edgewise_energy_joules": "counter",
    "edgewise_budget_violations": "counter",
    "edgewise_retries": "counter",
    "edgewise_request_duration_seconds": "histogram",
    "edgewise_request_energy_joules": "histogram",
    "edgewise_prediction_error_ratio": "histogram",
    "edgewise_solver_duration_seconds": "histogram",
    "edgewise_node_up": "gauge",
    "edgewise_queue_depth": "gauge",
    "edgewise_nodes_waiting": "gauge",
}


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """Values by name and label values, these in the order of the labels' names."""
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def an_attempt(
    energy: Energy, *, outcome: str = "answered", arm: str = "small:v1@n1", predicted_j: float = 0.01
) -> AttemptRecord:
    return AttemptRecord(arm, 0, predicted_j, energy, 2.0, 3.0, outcome)


def settled(metrics: Metrics, *attempts: AttemptRecord, energy: Energy, seconds: float = 0.01) -> None:
    routing = RoutingRecord(attempts, FusionChoice.NONE, 0.0, 0.0, 0.0, 0.0, True, "", NO_CERTIFICATE)
    spent, budget = Timings(seconds * 1000.0, 0.0, 0.0, 0.0, 0.0), limits(energy_j=0.05, latency_ms=100.0)
    entry = Entry("r1", "digits", "answered", budget, None, routing, energy, spent, 0.0)
    metrics.settled(entry, attempts)


def modelled(energy_j: float) -> Energy:
    return Energy(energy_j, Provenance.MODELLED, "profile:fake")


UNKNOWN = Energy(math.nan, Provenance.UNMEASURED, "")


def test_names_and_kinds() -> None:
    families = {f.name: f.type for f in text_string_to_metric_families(Metrics().render().decode())}
    assert {name: families.get(name) for name in FAMILIES} == FAMILIES
    assert all(name.startswith("edgewise_") for name in families)


def test_an_answered_request_counts_once_with_its_joules() -> None:
    metrics = Metrics()
    settled(metrics, an_attempt(modelled(0.02)), energy=modelled(0.02))
    found = samples(metrics)
    assert found["edgewise_requests_total", ("answered",)] == 1
    assert found["edgewise_energy_joules_total", ("small", "n1", "modelled", "active")] == 0.02
    assert found["edgewise_request_energy_joules_sum", ()] == pytest.approx(0.02)
    assert found["edgewise_prediction_error_ratio_sum", ("energy",)] == pytest.approx(2.0)
    assert found["edgewise_prediction_error_ratio_sum", ("latency",)] == pytest.approx(1.5)
    assert found["edgewise_retries_total", ()] == 0
    assert metrics.totals() == ([("answered", 1)], 0.02)


def test_joules_of_failed_attempts_count_and_are_no_prediction() -> None:
    metrics = Metrics()
    failed = an_attempt(modelled(0.03), outcome="failed", arm="large:v1@n2")
    settled(metrics, failed, an_attempt(modelled(0.01)), energy=modelled(0.04))
    found = samples(metrics)
    assert found["edgewise_energy_joules_total", ("large", "n2", "modelled", "active")] == 0.03
    assert found["edgewise_retries_total", ()] == 1
    assert found["edgewise_prediction_error_ratio_count", ("energy",)] == 1


def test_only_what_failed_or_came_too_late_is_tried_again() -> None:
    metrics = Metrics()
    attempts = [an_attempt(modelled(0.01), outcome=outcome) for outcome in ("late", "failed", "cancelled", "answered")]
    settled(metrics, *attempts, an_attempt(modelled(0.01)), energy=modelled(0.05))
    assert samples(metrics)["edgewise_retries_total", ()] == 2


def test_unknown_joules_are_never_counted_as_zero() -> None:
    metrics = Metrics()
    settled(metrics, an_attempt(UNKNOWN), energy=UNKNOWN)
    found = samples(metrics)
    assert found["edgewise_request_energy_joules_count", ()] == 0
    assert found["edgewise_prediction_error_ratio_count", ("energy",)] == 0
    assert not any(name == "edgewise_energy_joules_total" for name, _ in found)


def test_violations_by_kind() -> None:
    metrics = Metrics()
    settled(metrics, an_attempt(modelled(0.06)), energy=modelled(0.06), seconds=0.2)
    settled(metrics, an_attempt(modelled(0.05)), energy=modelled(0.05), seconds=0.1)
    found = samples(metrics)
    assert found["edgewise_budget_violations_total", ("energy",)] == 1
    assert found["edgewise_budget_violations_total", ("latency",)] == 1


def test_two_gateways_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    settled(one, an_attempt(modelled(0.02)), energy=modelled(0.02))
    assert other.totals() == ([], 0.0)
