"""Values that the tests of the gateway's rooms are made of."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from orchestrator.fleet.arms import ArmBoard
from orchestrator.fleet.fleet import Fleet, Refusal
from orchestrator.fleet.session import NodeSession
from orchestrator.types import Arm, Array, Energy, Limits, NodeHello, OnInfeasible, Provenance, Task, TensorSpec

LEASE_S = 6.0


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def a_task(name: str = "digits", *, classes: int = 10, reference: str = "", **fields: Any) -> Task:
    return Task(
        name=name,
        input=TensorSpec("image", np.dtype("float32"), (-1, 8, 8)),
        output=TensorSpec("probabilities", np.dtype("float32"), (-1, classes)),
        labels=tuple(str(label) for label in range(classes)),
        reference_digest=reference,
        **fields,
    )


def an_arm(expert: str = "small", node: str = "n1", *, energy_j: float | None = 0.01, **fields: Any) -> Arm:
    """An arm; joules of None are unmeasured."""
    provenance = Provenance.UNMEASURED if energy_j is None else Provenance.MODELLED
    known: dict[str, Any] = {
        "variant": "v1",
        "task": "digits",
        "engine": "fake",
        "model_digest": "",
        "macs": 1000,
        "memory_bytes": 1000,
        "p50_ms": 1.0,
        "p95_ms": 2.0,
        "latency_provenance": Provenance.MEASURED,
        "quality_fraction": 0.9,
        "quality_samples": 100,
        "evidence_digest": "",
    }
    energy = Energy(energy_j or 0.0, provenance, "profile:fake")
    return Arm(expert=expert, node=node, energy=energy, **(known | fields))


def a_hello(node: str = "n1", arms: tuple[Arm, ...] | None = None, **fields: Any) -> NodeHello:
    arms = (an_arm(node=node),) if arms is None else arms
    known: dict[str, Any] = {
        "software_version": "0.1.0",
        "protocol_version": 1,
        "device": "fake",
        "simulated": True,
        "energy_method": "profile:fake",
        "energy_provenance": Provenance.MODELLED,
        "tasks": (a_task(),),
        "concurrency": 2,
        "queue_limit": 8,
        "memory_limit_bytes": 0,
    }
    return NodeHello(node=node, arms=arms, **(known | fields))


def a_board(*arms: Arm, concurrency: int = 2, **fields: Any) -> ArmBoard:
    """A board on which these arms were announced, node by node."""
    board = ArmBoard(**({"energy_quantile": 0.9, "latency_quantile": 0.9} | fields))
    for node in dict.fromkeys(arm.node for arm in arms):
        board.announce(node, [arm for arm in arms if arm.node == node], concurrency)
    return board


def a_fleet(clock: Clock | None = None) -> Fleet:
    return Fleet(ArmBoard(energy_quantile=0.9, latency_quantile=0.9), lease_s=LEASE_S, clock=clock or Clock())


def joined(fleet: Fleet, hello: NodeHello) -> NodeSession:
    """The session of a node that the fleet takes."""
    session = fleet.join(hello)
    assert not isinstance(session, Refusal), session
    return session


def limits(energy_j: float = math.inf, latency_ms: float = 1000.0, **fields: Any) -> Limits:
    known: dict[str, Any] = {"on_infeasible": OnInfeasible.ERROR, "profile": "best"}
    return Limits(energy_j, latency_ms, **(known | fields))


def reference_set(queries: int = 60, *, classes: int = 10, seed: int = 0) -> dict[str, Array]:
    """Labelled inputs."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(queries, 8, 8)).astype(np.float32)
    return {"inputs": inputs, "labels": rng.integers(0, classes, queries).astype(np.int64)}


def answers_to(reference: dict[str, Array], *, right: float, classes: int = 10, seed: int = 1) -> Array:
    """An expert's answers to a reference set: right for this share of the queries."""
    rng = np.random.default_rng(seed)
    labels = reference["labels"]
    hit = rng.random(len(labels)) < right
    said = np.where(hit, labels, (labels + 1) % classes)
    outputs = np.full((len(labels), classes), 0.1 / (classes - 1), dtype=np.float32)
    outputs[np.arange(len(labels)), said] = 0.9
    return outputs
