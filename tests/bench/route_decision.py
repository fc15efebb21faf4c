"""Time of the pure route decision over the shipped experts on enough nodes to make a given number of arms."""

from __future__ import annotations

import time

import numpy as np

from nodes.zoo.catalog import load_catalog
from optimizer.evidence.answers import Evidence
from optimizer.evidence.replay import Costs
from optimizer.learning.learn import learn
from orchestrator.fleet.arms import ArmBoard
from orchestrator.routing.plan import NO_CERTIFICATE, Plan
from orchestrator.routing.route import Wish, route
from orchestrator.types import Arm, Energy, Limits, OnInfeasible, Provenance

DECISIONS = 3000
J_PER_MAC = (7e-12, 18e-12, 185e-12, 200e-12, 50e-12)


def route_us(*, arms: int) -> list[float]:
    """Microseconds of each of many decisions, every one for another query."""
    catalog = load_catalog()
    reference = catalog.reference
    features_qf = reference.inputs.reshape(len(reference.inputs), -1).astype(np.float64)
    # Without the self-pruning ones, which came later: decisions stay comparable with those recorded before.
    cards = [card for card in catalog.experts if card.engine == "onnx"]
    names = tuple(card.name for card in cards)
    outputs_eqc = np.stack([catalog.evidence(card) for card in cards]).astype(np.float64)
    macs_e = np.array([float(card.macs) for card in cards])
    costs = Costs(macs_e * J_PER_MAC[0], np.ones(len(names)))
    model = learn(Evidence(names, features_qf, reference.labels_n.astype(np.int64), outputs_eqc), costs)
    board = ArmBoard(energy_quantile=0.99, latency_quantile=0.99)
    for number, placed in enumerate(np.array_split(np.arange(arms), -(-arms // len(names)))):
        node = f"node-{number}"
        macs_of = {names[e]: int(macs_e[e]) for e in range(len(placed))}
        board.announce(node, [_arm(name, node, macs, number) for name, macs in macs_of.items()], 1)
    plan = Plan("bench", model, None, NO_CERTIFICATE)
    table = plan.table(board.arms("digits"), board)
    limits = Limits(1e-3, 100.0, OnInfeasible.ERROR, "balanced")
    times = []
    for q in range(DECISIONS):
        x_f = features_qf[q % len(features_qf)]
        # Under load the predictions change between any two decisions; what routing caches must not flatter it.
        board.dispatched(q % arms)
        started_s = time.perf_counter()
        route(x_f, plan=plan, table=table, limits=limits, wish=Wish())
        times.append((time.perf_counter() - started_s) * 1e6)
    return times


def _arm(expert: str, node: str, macs: int, number: int) -> Arm:
    energy = Energy(macs * J_PER_MAC[number % len(J_PER_MAC)], Provenance.MODELLED, "bench")
    return Arm(
        expert, "onnx", node, "digits", "onnx", "", macs, 1, 0.1, 0.2, Provenance.MEASURED, energy, 0.97, 360, ""
    )
