"""In which form local experts are served, measured on the node: folded into weights, or as inputs of one graph.

Small nets feel every node of a graph, so that weights of the user's own are faster, and faster still where the compiled
kernels run them; large nets do not, and there a copy of the weights for every user is what costs.
Source: bench_personalize, ``speed.*``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nodes.engines.contract import Job
from nodes.personal import compiled, graph, shared
from nodes.personal.choosing import Host
from nodes.personal.gate import closed
from nodes.personal.network import Network, Weights, parameters

BLOCKS = 15
WARM_UP = 3
# One engine that serves everybody is worth so much more time.
WORTH_FRACTION = 0.1
# Weights of one user's own, above which folding is no choice: a node holds up to 64 users in memory.
FOLDED_BYTES = 8 << 20
FOLDED, SHARED, COMPILED = "personal/form/folded", "personal/form/shared", "personal/form/compiled"


@dataclass(frozen=True)
class Form:
    """What was measured; milliseconds of one sample, None where a form was no choice.

    Attributes:
        shared: Whether local experts are inputs of one graph; else they are folded.
        compiled: Whether what is folded runs in the compiled kernels; else it is a graph.
    """

    shared: bool
    compiled: bool
    shared_ms: float
    folded_ms: float | None
    compiled_ms: float | None = None


async def measured(engine: Host, network: Network, weights: Weights) -> Form:
    """Run all forms of an expert that changes nothing, in turns. Cost: 54 runs of the network.

    Raises:
        EngineError: The engine does not take the graphs.
    """
    shape = (network.side, network.side) if network.channels == 1 else (network.channels, network.side, network.side)
    image = {graph.INPUT: np.zeros((1, *shape), np.float32)}
    models = {SHARED: shared.graph(network, weights), **_folds(network, weights)}
    jobs = [Job(arm, image | shared.nobody(network, weights) if arm == SHARED else image) for arm in models]
    for arm, model in models.items():
        await engine.attach(arm, model)
    try:
        rounds = [[(await engine.infer(job)).compute_ms for job in jobs] for _ in range(WARM_UP + BLOCKS)]
    finally:
        for job in jobs:
            engine.detach(job.arm)
    times_ms = map(statistics.median, zip(*rounds[WARM_UP:], strict=True))
    return chosen(dict(zip(models, times_ms, strict=True)))


def _folds(network: Network, weights: Weights) -> dict[str, bytes]:
    """An expert that changes nothing in each form that folds; none where a copy per user is too large."""
    if 4 * parameters(network, weights) > FOLDED_BYTES:
        return {}
    gate = closed(shared.layout(network, weights).gate["first"][0])
    models = {FOLDED: graph.personal(network, weights, weights, gate)}
    if compiled.known(network):
        models[COMPILED] = compiled.packed(compiled.personal(network, weights, weights, gate))
    return models


def chosen(times_ms: Mapping[str, float]) -> Form:
    """The form that these times speak for."""
    shared_ms, folded_ms, compiled_ms = (times_ms.get(arm) for arm in (SHARED, FOLDED, COMPILED))
    assert shared_ms is not None
    own_ms = min((ms for ms in (folded_ms, compiled_ms) if ms is not None), default=math.inf)
    return Form(
        shared=shared_ms <= (1.0 + WORTH_FRACTION) * own_ms,
        compiled=compiled_ms is not None and compiled_ms == own_ms,
        shared_ms=shared_ms,
        folded_ms=folded_ms,
        compiled_ms=compiled_ms,
    )
