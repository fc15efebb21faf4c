"""A user's classifier for the compiled kernels: network, gate and choice in one call, where they know all its layers.

Small networks feel every node of a graph, and the gate adds nine; here they are a part of the one call.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np

from kernels.forked import plan
from kernels.native.library import available
from nodes.personal.gate import Gate
from nodes.personal.network import Network, Stage, Weights
from nodes.worker.forks import fork_arrays


def known(network: Network) -> bool:
    """Whether the kernels are built here and know all layers: they have no convolutions in groups."""
    return available() and all(stage.groups == 1 for stage in network.stages)


def plain(network: Network, weights: Weights) -> plan.ForkPlan:
    """The global expert alone."""
    return plan.ForkPlan(network.side, _layers(network.stages, weights), upsample=network.upsample)


def personal(network: Network, weights: Weights, local: Weights, gate: Gate) -> plan.ForkPlan:
    """The same first layer for both, then the gate, then the layers of one of the two experts."""
    asked = plan.Gate(network.gate_cells, gate.first_fh, gate.bias_h, gate.second_h, gate.threshold)
    layers, others = _layers(network.stages, weights), _layers(network.stages[1:], local)
    return plan.ForkPlan(network.side, layers, others, asked, network.upsample)


def packed(made: plan.ForkPlan) -> bytes:
    """As an engine loads it, see `nodes.worker.forks`."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **fork_arrays(made))
    return file.getvalue()


def _layers(stages: Iterable[Stage], weights: Weights) -> tuple[plan.Layer, ...]:
    return tuple(
        plan.Layer(
            weights[stage.weight],
            weights[stage.bias],
            padding=stage.padding,
            stride=stage.stride,
            pool=stage.pool,
            averaged=stage.averaged,
        )
        for stage in stages
    )
