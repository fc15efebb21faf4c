"""In which form local experts are served, measured on the node: folded into weights, or as inputs of one graph.

Small nets feel every node of a graph, so that weights of the user's own are faster; large nets do not, and there a copy
of the weights for every user is what costs. Source: bench_personalize, ``speed.*``.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np

from nodes.engines.contract import Job
from nodes.personal import graph, shared
from nodes.personal.choosing import Host
from nodes.personal.gate import closed
from nodes.personal.network import Network, Weights, parameters

BLOCKS = 15
WARM_UP = 3
# One engine that serves everybody is worth so much more time.
WORTH_FRACTION = 0.1
# Weights of one user's own, above which folding is no choice: a node holds up to 64 users in memory.
FOLDED_BYTES = 8 << 20
FOLDED, SHARED = "personal/form/folded", "personal/form/shared"


@dataclass(frozen=True)
class Form:
    """What was measured; milliseconds of one sample, None where folding was no choice."""

    shared: bool
    shared_ms: float
    folded_ms: float | None


async def measured(engine: Host, network: Network, weights: Weights) -> Form:
    """Run both forms of an expert that changes nothing, in turns. Cost: 36 runs of the network.

    Raises:
        EngineError: The engine does not take the graphs.
    """
    folds = 4 * parameters(network, weights) <= FOLDED_BYTES
    shape = (network.side, network.side) if network.channels == 1 else (network.channels, network.side, network.side)
    image = {graph.INPUT: np.zeros((1, *shape), np.float32)}
    jobs = [Job(SHARED, image | shared.nobody(network, weights))]
    await engine.attach(SHARED, shared.graph(network, weights))
    if folds:
        seen = shared.layout(network, weights).gate["first"][0]
        await engine.attach(FOLDED, graph.personal(network, weights, weights, closed(seen)))
        jobs.append(Job(FOLDED, image))
    try:
        rounds = [[(await engine.infer(job)).compute_ms for job in jobs] for _ in range(WARM_UP + BLOCKS)]
    finally:
        for job in jobs:
            engine.detach(job.arm)
    shared_ms, *folded_ms = (statistics.median(times) for times in zip(*rounds[WARM_UP:], strict=True))
    return chosen(shared_ms, folded_ms[0] if folded_ms else None)


def chosen(shared_ms: float, folded_ms: float | None) -> Form:
    """The form that these times speak for."""
    return Form(folded_ms is None or shared_ms <= (1.0 + WORTH_FRACTION) * folded_ms, shared_ms, folded_ms)
