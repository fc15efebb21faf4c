"""Prometheus metrics of the gateway. Names and labels are a contract: see the reference in deploy/docs.

Counting happens thousands of times a second, reading once in a while: counts are plain numbers, and
`prometheus_client` only renders them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from orchestrator.journal import Entry
from orchestrator.longrun import PacingRecord
from orchestrator.store.records import Balance
from orchestrator.types import AttemptRecord, Provenance

LATENCY_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
TOKEN_BUCKETS_S = tuple(edge / 10.0 for edge in LATENCY_BUCKETS_S)
ENERGY_BUCKETS_J = tuple(10.0**power for power in range(-9, 5))
ERROR_BUCKETS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Tally:
    """A histogram: how many observations fell into each bucket, and their sum.

    Args:
        edges: Upper bounds of the buckets, ascending; a last one without bound is added.
    """

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges = tuple(edges)
        self._counts = [0] * (len(edges) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation; what is not finite is not counted."""
        if math.isfinite(value):
            self._counts[bisect_left(self._edges, value)] += 1
            self._sum += value

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts by upper bound, and the sum, as Prometheus wants them."""
        total, cumulative = 0, []
        for edge, count in zip((*self._edges, math.inf), self._counts, strict=True):
            total += count
            cumulative.append(("+Inf" if math.isinf(edge) else repr(edge), float(total)))
        return cumulative, self._sum


class Metrics:
    """Counts of one gateway, on a registry of its own, so that several gateways fit in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.queue_depth = 0
        self.nodes_waiting: Callable[[], int] = lambda: 0
        self.balances: list[Balance] = []
        self.overshoot_j = 0.0
        self.config_good = True
        self.snapshot_unix_s = 0.0
        self.store_recovered = False
        self.node_up: dict[str, bool] = {}
        self.pacing: dict[str, PacingRecord] = {}
        self.handshakes: Mapping[tuple[str, str], int] = {}
        self._requests: defaultdict[str, int] = defaultdict(int)
        self._energy_j: defaultdict[tuple[str, Provenance], float] = defaultdict(float)
        self._idle_j: defaultdict[tuple[str, Provenance], float] = defaultdict(float)
        self._violations: defaultdict[str, int] = defaultdict(int)
        self._reloads: defaultdict[str, int] = defaultdict(int)
        self._retries = 0
        self._duration_s = Tally(LATENCY_BUCKETS_S)
        self._first_token_s, self._token_s = Tally(LATENCY_BUCKETS_S), Tally(TOKEN_BUCKETS_S)
        self._request_j = Tally(ENERGY_BUCKETS_J)
        self._solver_s = Tally(LATENCY_BUCKETS_S)
        self._error = {"energy": Tally(ERROR_BUCKETS), "latency": Tally(ERROR_BUCKETS)}

    # ---- counting

    def refused(self, outcome: str) -> None:
        """Count a request that ended before it was routed."""
        self._requests[outcome] += 1

    def settled(self, entry: Entry, attempts: Sequence[AttemptRecord]) -> None:
        """Count one finished request that was routed, and what it attempted."""
        energy_j, limits, timings = entry.energy.energy_j, entry.limits, entry.timings
        self._requests[entry.outcome] += 1
        self._duration_s.observe(timings.total_ms / 1000.0)
        self._request_j.observe(energy_j)
        for attempt in attempts:
            self._count_attempt(attempt)
        if limits is not None and energy_j > limits.max_energy_j:
            self._violations["energy"] += 1
        if limits is not None and timings.total_ms > limits.max_latency_ms:
            self._violations["latency"] += 1
        # How soon a text began and how fast it went on; nothing for what was sent whole.
        if timings.first_token_ms is not None:
            self._first_token_s.observe(timings.first_token_ms / 1000.0)
        if timings.token_ms is not None:
            self._token_s.observe(timings.token_ms / 1000.0)

    def reloaded(self, outcome: str, *, good: bool) -> None:
        """Count one reading of the configuration; `good` says whether what the file holds is in force."""
        self._reloads[outcome] += 1
        self.config_good = good

    def planned(self, seconds: float) -> None:
        """Count one plan."""
        self._solver_s.observe(seconds)

    def _count_attempt(self, attempt: AttemptRecord) -> None:
        # A counter never falls: joules that may still be corrected are counted once they are final.
        if not attempt.energy.preliminary:
            self.measured(attempt)
        if attempt.outcome == "answered":
            if attempt.predicted_ms > 0:
                self._error["latency"].observe(attempt.ms / attempt.predicted_ms)
        elif attempt.outcome != "cancelled":
            # What nobody waits for any more is not tried again.
            self._retries += 1

    def measured(self, attempt: AttemptRecord) -> None:
        """Count the joules of one attempt."""
        energy_j = attempt.energy.energy_j
        if attempt.energy.provenance is Provenance.UNMEASURED:
            return
        self._energy_j[attempt.arm, attempt.energy.provenance] += energy_j
        if attempt.outcome == "answered" and attempt.predicted_energy_j > 0:
            self._error["energy"].observe(energy_j / attempt.predicted_energy_j)

    def idled(self, node: str, provenance: Provenance, energy_j: float) -> None:
        """Count joules of a node's idle power."""
        self._idle_j[node, provenance] += energy_j

    # ---- reading

    def totals(self) -> tuple[list[tuple[str, int]], float]:
        """Requests by outcome, and all known joules."""
        return sorted(self._requests.items()), math.fsum(self._energy_j.values())

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """All metrics; called by `prometheus_client`."""
        yield _counter("edgewise_requests", "Requests by outcome.", ("outcome",), self._by_label(self._requests))
        text = "Joules by node, expert and source; idle power's have no expert."
        labels = ("node", "expert", "source", "state")
        yield _counter("edgewise_energy_joules", text, labels, self._energy_by_labels())
        text = "Admitted requests beyond their budget, by kind: energy or latency."
        yield _counter("edgewise_budget_violations", text, ("kind",), self._by_label(self._violations))
        yield _counter(
            "edgewise_retries",
            "Attempts that failed or came too late, so that another may follow.",
            (),
            {(): float(self._retries)},
        )
        yield _histogram("edgewise_request_duration_seconds", "Admission to reply.", {"": self._duration_s})
        text = "Texts sent in pieces: admission to the first one."
        yield _histogram("edgewise_time_to_first_token_seconds", text, {"": self._first_token_s})
        text = "Texts sent in pieces: mean time of a token after the first."
        yield _histogram("edgewise_time_per_output_token_seconds", text, {"": self._token_s})
        yield _histogram("edgewise_request_energy_joules", "Joules per request.", {"": self._request_j})
        yield _histogram("edgewise_prediction_error_ratio", "Actual over predicted, per attempt.", self._error, "kind")
        yield _histogram("edgewise_solver_duration_seconds", "Time to plan a task.", {"": self._solver_s})
        up = GaugeMetricFamily("edgewise_node_up", "1 while a node is connected and routable.", labels=["node"])
        for node, is_up in self.node_up.items():
            up.add_metric([node], float(is_up))
        yield up
        text = "Nodes that wait to be let in: many came at once."
        yield GaugeMetricFamily("edgewise_nodes_waiting", text, float(self.nodes_waiting()))
        yield from self._paced()
        yield self._budgets()
        text = "Joules that requests took beyond their reservation, by a step that could not be interrupted."
        yield _counter("edgewise_budget_overshoot_joules", text, (), {(): self.overshoot_j})
        text = "Readings of the configuration at run time, by outcome: applied, unchanged or the error's reason."
        yield _counter("edgewise_config_reloads", text, ("outcome",), self._by_label(self._reloads))
        text = "1 while what the configuration said when it was read last is in force."
        yield GaugeMetricFamily("edgewise_config_good", text, float(self.config_good))
        text = "When the last snapshot of the store was made; 0 where there is none."
        yield GaugeMetricFamily("edgewise_store_snapshot_timestamp_seconds", text, self.snapshot_unix_s)
        text = "1 where this gateway found its store damaged and restored a snapshot: something was forgotten."
        yield GaugeMetricFamily("edgewise_store_recovered", text, float(self.store_recovered))
        text = "Handshakes of TLS that failed, by port (grpc, https) and reason."
        failed: dict[tuple[str, ...], float] = {labels: float(n) for labels, n in list(self.handshakes.items())}
        yield _counter("edgewise_tls_failures", text, ("port", "reason"), failed)
        yield GaugeMetricFamily("edgewise_queue_depth", "Requests that wait for admission.", float(self.queue_depth))

    def _paced(self) -> Iterator[Metric]:
        text = "Quality that one joule must buy under the task's long-run budget."
        price = GaugeMetricFamily("edgewise_pacing_price", text, labels=["task"])
        burn = GaugeMetricFamily(
            "edgewise_budget_burn_ratio", "Spent over accrued of the long-run budget.", labels=["task"]
        )
        for task, record in self.pacing.items():
            price.add_metric([task], record.price_per_j)
            burn.add_metric([task], record.burn_ratio)
        yield price
        yield burn

    def _budgets(self) -> Metric:
        text = "Budgets over time in their present window: limit, spent, held and assumed, by scope and unit."
        family = GaugeMetricFamily("edgewise_budget", text, labels=["scope", "unit", "kind"])
        for balance in self.balances:
            amounts = {
                "limit": balance.limit,
                "spent": balance.spent,
                "held": balance.held,
                "assumed": balance.assumed,
            }
            for kind, amount in amounts.items():
                family.add_metric([balance.meter.scope, balance.meter.unit, kind], amount)
        return family

    def _by_label(self, counts: dict[str, int]) -> dict[tuple[str, ...], float]:
        return {(label,): float(count) for label, count in counts.items()}

    def _energy_by_labels(self) -> dict[tuple[str, ...], float]:
        sums: defaultdict[tuple[str, ...], float] = defaultdict(float)
        for (arm, provenance), energy_j in self._energy_j.items():
            variant, _, node = arm.partition("@")
            sums[node, variant.partition(":")[0], provenance.value, "active"] += energy_j
        for (node, provenance), energy_j in self._idle_j.items():
            sums[node, "", provenance.value, "idle"] += energy_j
        return sums


def _counter(name: str, text: str, labels: tuple[str, ...], counts: dict[tuple[str, ...], float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family


def _histogram(name: str, text: str, tallies: dict[str, Tally], label: str | None = None) -> Metric:
    family = HistogramMetricFamily(name, text, labels=[label] if label else [])
    for value, tally in tallies.items():
        buckets, total = tally.buckets()
        family.add_metric([value] if label else [], buckets, total)
    return family
