"""The policies that the demo compares: Edgewise, and the obvious alternatives chosen on the reference evidence.

An alternative runs through the same gateway as Edgewise: each expert on its route is asked for by name, and the
policy pays for all of them. What it has to choose (thresholds, shares, which expert) was chosen by Edgewise's own
rule on the evidence that ships with the experts; the queries of the demo are in no evidence.

Shape letters: q reference queries, f features, e experts, c classes.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

import numpy as np

from nodes.zoo.catalog import Catalog
from optimizer.evidence.answers import Evidence
from optimizer.evidence.replay import Costs
from optimizer.learning.simulate import POLICIES, Policy, baselines
from orchestrator.client.types import ArmStatus, FleetStatus

EDGEWISE = "edgewise"
TASK = "digits"

__all__ = ["EDGEWISE", "POLICIES", "Policy", "cheapest_arms", "choose_baselines"]


def cheapest_arms(status: FleetStatus) -> tuple[ArmStatus, ...]:
    """The arm with the fewest joules of each expert, by rising joules."""
    arms: dict[str, ArmStatus] = {}
    for arm in (arm for node in status.nodes for arm in node.arms if arm.task == TASK):
        best = arms.get(arm.expert)
        if best is None or arm.predicted_energy_j < best.predicted_energy_j:
            arms[arm.expert] = arm
    return tuple(sorted(arms.values(), key=lambda arm: arm.predicted_energy_j))


def choose_baselines(catalog: Catalog, status: FleetStatus) -> Mapping[str, Policy]:
    """The alternatives, each expert at the cost of its cheapest arm."""
    arm_of = {arm.expert: arm for arm in cheapest_arms(status)}
    evidence = _evidence(catalog, arm_of)
    arms = [arm_of[expert] for expert in evidence.experts]
    costs = Costs(np.array([arm.predicted_energy_j for arm in arms]), np.array([arm.predicted_ms for arm in arms]))
    return baselines(evidence, costs)


def _evidence(catalog: Catalog, offered: Container[str]) -> Evidence:
    reference = catalog.reference
    cards = sorted((card for card in catalog.experts if card.name in offered), key=lambda card: card.name)
    return Evidence(
        experts=tuple(card.name for card in cards),
        features_qf=reference.inputs.reshape(len(reference.inputs), -1),
        labels_q=reference.labels_n.astype(np.int64),
        outputs_eqc=np.stack([catalog.evidence(card) for card in cards]),
    )
