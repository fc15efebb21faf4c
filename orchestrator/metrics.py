"""Prometheus metrics of the gateway. Names and labels are a contract: see the reference in deploy/docs."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from orchestrator.execution.run import Progress
from orchestrator.types import AttemptRecord, Energy, Limits, Provenance

LATENCY_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
ENERGY_BUCKETS_J = tuple(10.0**power for power in range(-7, 5))
ERROR_BUCKETS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2, 3, 5, 10)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters, histograms and gauges on a registry of their own, so that several gateways fit in one process."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter("edgewise_requests", "Requests by outcome.", ["outcome"], registry=registry)
        self.energy = Counter(
            "edgewise_energy_joules",
            "Joules by node, expert and source.",
            ["node", "expert", "source", "state"],
            registry=registry,
        )
        self.violations = Counter(
            "edgewise_budget_violations", "Admitted requests beyond their budget.", ["kind"], registry=registry
        )
        self.retries = Counter("edgewise_retries", "Attempts after a failed one.", registry=registry)
        self.duration = Histogram(
            "edgewise_request_duration_seconds",
            "Time in the gateway, admission to reply.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.request_energy = Histogram(
            "edgewise_request_energy_joules", "Joules per request.", buckets=ENERGY_BUCKETS_J, registry=registry
        )
        self.prediction_error = Histogram(
            "edgewise_prediction_error_ratio",
            "Actual over predicted, per attempt.",
            ["kind"],
            buckets=ERROR_BUCKETS,
            registry=registry,
        )
        self._energy_by_arm: dict[tuple[str, Provenance], Counter] = {}
        self._energy_error = self.prediction_error.labels("energy")
        self._latency_error = self.prediction_error.labels("latency")
        self.solver = Histogram("edgewise_solver_duration_seconds", "Time to plan a task.", registry=registry)
        self.node_up = Gauge(
            "edgewise_node_up", "1 while a node is connected and routable.", ["node"], registry=registry
        )
        self.queue_depth = Gauge("edgewise_queue_depth", "Requests that wait for admission.", registry=registry)

    def settled(self, progress: Progress, energy: Energy, outcome: str, seconds: float) -> None:
        """Count one finished request that was routed."""
        self.requests.labels(outcome).inc()
        self.duration.observe(seconds)
        if math.isfinite(energy.energy_j):
            self.request_energy.observe(energy.energy_j)
        for attempt in progress.attempts:
            self._attempt(attempt)
        if len(progress.attempts) > len(progress.answers):
            self.retries.inc(len(progress.attempts) - len(progress.answers))
        self._violations(progress.limits, energy, seconds)

    def _attempt(self, attempt: AttemptRecord) -> None:
        energy = attempt.energy
        if energy.provenance is not Provenance.UNMEASURED:
            self._energy_of(attempt.arm, energy.provenance).inc(energy.energy_j)
        if attempt.outcome != "answered":
            return
        if attempt.predicted_energy_j > 0 and math.isfinite(energy.energy_j):
            self._energy_error.observe(energy.energy_j / attempt.predicted_energy_j)
        if attempt.predicted_ms > 0:
            self._latency_error.observe(attempt.ms / attempt.predicted_ms)

    def _energy_of(self, arm: str, provenance: Provenance) -> Counter:
        """The counter of an arm's joules; looking labels up by name costs more than counting does."""
        counter = self._energy_by_arm.get((arm, provenance))
        if counter is None:
            expert, _, node = arm.partition("@")
            counter = self.energy.labels(node, expert.partition(":")[0], provenance.value, "active")
            self._energy_by_arm[arm, provenance] = counter
        return counter

    def _violations(self, limits: Limits, energy: Energy, seconds: float) -> None:
        if energy.energy_j > limits.max_energy_j:
            self.violations.labels("energy").inc()
        if seconds * 1000.0 > limits.max_latency_ms:
            self.violations.labels("latency").inc()

    def totals(self) -> tuple[list[tuple[str, int]], float]:
        """Requests by outcome, and all known joules."""
        outcomes = [
            (sample.labels["outcome"], int(sample.value))
            for metric in self.requests.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        ]
        joules = [
            sample.value
            for metric in self.energy.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        ]
        return sorted(outcomes), math.fsum(joules)

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)
