"""What is simulated: devices, nodes, task classes and a gateway, as frozen values. Nothing here reads files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from orchestrator.longrun import NO_LONG_RUN, LongRun
from orchestrator.study.errors import StudyError
from orchestrator.types import Arm, BudgetRequest, Energy, Provenance

VARIANT = "simulated"
# 95 % quantile of the standard normal distribution.
Z95 = 1.6448536269514722


@dataclass(frozen=True)
class Expert:
    """One expert on one kind of device.

    Args:
        name: The expert.
        task: Its task class.
        quality_fraction: Share of right answers.
        p50_ms: Median service time.
        p95_ms: Its 95 % quantile; milliseconds are lognormal between both.
        energy_j: Mean joules of one run; None where nobody knows.
        energy_sigma: Standard deviation of the logarithm of joules beside what the milliseconds explain.
        samples_ms: Recorded service times to draw from instead, ascending; empty draws lognormally.
        variant: Tells experts of one name on one device apart.
    """

    name: str
    task: str
    quality_fraction: float
    p50_ms: float
    p95_ms: float
    energy_j: float | None
    energy_sigma: float = 0.0
    samples_ms: tuple[float, ...] = ()
    variant: str = VARIANT

    @cached_property
    def sigma(self) -> float:
        """Standard deviation of the logarithm of milliseconds."""
        return math.log(self.p95_ms / self.p50_ms) / Z95

    @cached_property
    def mean_ms(self) -> float:
        """Mean service time."""
        if self.samples_ms:
            return math.fsum(self.samples_ms) / len(self.samples_ms)
        return self.p50_ms * math.exp(0.5 * self.sigma**2)

    def arm(self, node: str) -> Arm:
        """What a node with this expert announces."""
        known = self.energy_j is not None
        energy = Energy(self.energy_j or 0.0, Provenance.MODELLED if known else Provenance.UNMEASURED, VARIANT)
        return Arm(
            expert=self.name,
            variant=self.variant,
            node=node,
            task=self.task,
            engine=VARIANT,
            model_digest="",
            macs=0,
            memory_bytes=0,
            p50_ms=self.p50_ms,
            p95_ms=self.p95_ms,
            latency_provenance=Provenance.MODELLED,
            energy=energy,
            quality_fraction=self.quality_fraction,
            quality_samples=0,
            evidence_digest="",
        )


@dataclass(frozen=True)
class Device:
    """A kind of node.

    Args:
        name: How it is referred to.
        experts: What it runs.
        concurrency: Pieces of work at once.
        queue_limit: How many more may wait on the node.
        idle_w: Watts that flow all the time; None where nobody knows.
        slowdown: Factor on service times with one, two, ... pieces of work running; the last holds for more.
    """

    name: str
    experts: tuple[Expert, ...]
    concurrency: int = 1
    queue_limit: int = 64
    idle_w: float | None = None
    slowdown: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class TaskClass:
    """One kind of request.

    Args:
        name: The task.
        share: Weight among all requests.
        budget: What its requests may spend.
        long_run: What they may spend over many.
        deadline_s: Of each call.
    """

    name: str
    share: float = 1.0
    budget: BudgetRequest = field(default_factory=BudgetRequest)
    long_run: LongRun = NO_LONG_RUN
    deadline_s: float = 10.0


@dataclass(frozen=True)
class GatewayTraits:
    """How the gateway is configured, and what it takes on top; the names are those of its configuration.

    Args:
        hop_ms: Milliseconds of a request beside its service: gateway and network, there and back.
        suspect_after_s: Longest patience with one attempt.
        lease_s: Silence after which a node is gone.
    """

    max_running: int = 256
    max_queued: int = 256
    max_attempts: int = 3
    suspect_after_s: float = 1.0
    lease_s: float = 6.0
    energy_quantile: float = 0.99
    latency_quantile: float = 0.99
    hop_ms: float = 2.0


@dataclass(frozen=True)
class Node:
    """One machine."""

    name: str
    device: Device


@dataclass(frozen=True)
class World:
    """Everything but the load.

    Args:
        devices: Kinds of node by name, also those of which there is none yet.
        nodes: The fleet.
        tasks: Kinds of request.
        gateway: See `GatewayTraits`.
    """

    devices: dict[str, Device]
    nodes: tuple[Node, ...]
    tasks: tuple[TaskClass, ...]
    gateway: GatewayTraits = GatewayTraits()

    def add(self, device: str, count: int) -> World:
        """The same with more nodes of a kind.

        Raises:
            StudyError: There is no such kind.
        """
        kind = self._device(device)
        taken, number, added = {node.name for node in self.nodes}, 0, list[Node]()
        while len(added) < count:
            number += 1
            if (name := f"{device}-{number}") not in taken:
                added.append(Node(name, kind))
        return replace(self, nodes=(*self.nodes, *added))

    def remove(self, device: str, count: int) -> World:
        """The same with fewer nodes of a kind; those that were named last go first.

        Raises:
            StudyError: There are not so many.
        """
        kind = self._device(device)
        those = [node.name for node in self.nodes if node.device == kind]
        if count > len(those):
            raise StudyError(
                f"the fleet has {len(those)} nodes of {device}, not {count}", "remove fewer", what="fleet refused"
            )
        gone = set(those[len(those) - count :])
        return replace(self, nodes=tuple(node for node in self.nodes if node.name not in gone))

    def _device(self, name: str) -> Device:
        if name not in self.devices:
            known = ", ".join(sorted(self.devices)) or "none"
            raise StudyError(f"there is no device {name!r}", f"known are {known}", what="fleet refused")
        return self.devices[name]


def served(world: World) -> set[str]:
    """Tasks for which some node has an expert."""
    kinds: Sequence[Device] = list({id(node.device): node.device for node in world.nodes}.values())
    return {expert.task for device in kinds for expert in device.experts}
