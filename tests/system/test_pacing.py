"""A long-run budget on a running fleet: one gateway and two agents as processes, real digits, the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from nodes.zoo.catalog import load_catalog
from orchestrator.client import Budget, Client, LongRun
from tests.fakes.processes import Fleet, NodePlan

pytestmark = pytest.mark.system

NODES = (
    NodePlan("orin", "jetson-agx-orin", ("digits-linear", "digits-mlp", "digits-tinyconv", "digits-lenet5")),
    NodePlan("laptop", "laptop-cpu", ("digits-linear", "digits-tinyconv", "digits-conv8")),
)
BEST = Budget(max_latency_ms=5000.0, profile="best")
REQUESTS = 3000
TOLERANCE = 0.05


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("paced")) as fleet:
        yield fleet.start(*NODES)


def mean_j(client: Client, requests: int) -> float:
    """What digits that no expert has seen cost on average."""
    inputs = load_catalog().held_out.inputs.astype(np.float32)
    return float(
        np.mean([client.infer(inputs[n % len(inputs)][None], budget=BEST).energy.energy_j for n in range(requests)])
    )


def test_an_average_of_joules_is_held_by_a_running_fleet(fleet: Fleet) -> None:
    with fleet.client() as client:
        free_j = mean_j(client, 200)
        budget_j = 0.3 * free_j
        client.set_budget(None, task="digits", long_run=LongRun(average_energy_j=budget_j))
        assert mean_j(client, REQUESTS) == pytest.approx(budget_j, rel=TOLERANCE)
        pacing = client.status().tasks[0].pacing
        assert pacing is not None
        assert pacing.status == "held"
        assert pacing.burn_ratio == pytest.approx(1.0, abs=TOLERANCE)
        shown = json.loads(fleet.cli("budget", "show", "-o", "json").stdout)
        assert [entry["long_run"]["average_energy_j"] for entry in shown if entry["task"] == "digits"] == [budget_j]
