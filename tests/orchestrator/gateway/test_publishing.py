"""What is counted of requests that have ended, and when."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.execution.run import Progress
from orchestrator.gateway.publishing import Publishing
from orchestrator.journal import Entry
from orchestrator.metrics import Metrics
from orchestrator.routing.plan import NO_CERTIFICATE
from orchestrator.types import AttemptRecord, Energy, FusionChoice, Provenance, RoutingRecord, Timings
from tests.orchestrator.builders import limits
from tests.orchestrator.test_metrics import an_attempt, modelled, samples


def an_entry(outcome: str, *attempts: AttemptRecord) -> Entry:
    routing = RoutingRecord(attempts, FusionChoice.NONE, 0.0, 0.0, 0.0, 0.0, True, "", NO_CERTIFICATE)
    spent, budget = Timings(10.0, 0.0, 0.0, 0.0, 0.0), limits(energy_j=0.05, latency_ms=100.0)
    energy = Energy(0.01, Provenance.MODELLED, "profile:fake")
    return Entry("r1", "digits", outcome, budget, None, routing, energy, spent, 0.0)


@pytest.fixture
async def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def publishing(metrics: Metrics) -> Publishing:
    return Publishing(metrics, lambda: None)


async def test_a_request_that_was_never_on_its_way_is_counted_by_its_reason(
    metrics: Metrics, publishing: Publishing
) -> None:
    publishing.add(an_entry("EXPERT_NOT_FOUND"), None)
    publishing.flush()
    found = samples(metrics)
    assert found["edgewise_requests_total", ("EXPERT_NOT_FOUND",)] == 1
    assert found["edgewise_request_duration_seconds_count", ()] == 0


async def test_what_unanswered_work_took_counts_though_it_is_told_after_the_end(
    metrics: Metrics, publishing: Publishing
) -> None:
    progress = Progress(limits(energy_j=0.05, latency_ms=100.0), 0.0, None)  # type: ignore[arg-type]
    publishing.add(an_entry("DEADLINE_EXCEEDED"), progress)
    await asyncio.sleep(0)
    progress.attempts.append(an_attempt(modelled(0.03), outcome="cancelled"))
    publishing.flush()
    found = samples(metrics)
    assert found["edgewise_requests_total", ("DEADLINE_EXCEEDED",)] == 1
    assert found["edgewise_energy_joules_total", ("small", "n1", "modelled", "active")] == 0.03


async def test_everything_is_counted_once(metrics: Metrics, publishing: Publishing) -> None:
    answered = an_attempt(modelled(0.02))
    publishing.add(an_entry("answered", answered), Progress(limits(), 0.0, None))  # type: ignore[arg-type]
    publishing.flush()
    publishing.flush()
    found = samples(metrics)
    assert found["edgewise_requests_total", ("answered",)] == 1
    assert found["edgewise_energy_joules_total", ("small", "n1", "modelled", "active")] == 0.02
