"""What fake nodes announce: tasks and arms whose figures a test chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edgewise.v1 import common_pb2 as common
from edgewise.v1 import fleet_pb2 as fleet
from orchestrator.fleet.evidence import tensor_digest

Tensors = Mapping[str, NDArray[Any]]


def tensor_task(name: str = "digits", *, classes: int = 10, reference: Tensors | None = None) -> fleet.TaskSpec:
    """A task like that of the shipped experts: images of 8 x 8 in, one probability per label out."""
    return fleet.TaskSpec(
        name=name,
        input=common.TensorSpec(name="image", dtype=common.DTYPE_FLOAT32, shape=[-1, 8, 8]),
        output=common.TensorSpec(name="probabilities", dtype=common.DTYPE_FLOAT32, shape=[-1, classes]),
        labels=[str(label) for label in range(classes)],
        reference_digest=tensor_digest(reference) if reference else "",
    )


def text_task(name: str = "chat", *, reference: Tensors | None = None) -> fleet.TaskSpec:
    """A task of text in, text out."""
    return fleet.TaskSpec(name=name, text=True, reference_digest=tensor_digest(reference) if reference else "")


@dataclass(frozen=True)
class FakeArm:
    """What one arm claims of itself; joules of None are unmeasured, evidence is its answers to the reference set.

    `text` holds fields of its TextProfile, `text_evidence` what it answered to a reference set of texts.
    """

    expert: str = "small"
    variant: str = "v1"
    task: str = "digits"
    quality_fraction: float = 0.9
    p50_ms: float = 1.0
    p95_ms: float = 2.0
    energy_j: float | None = 0.01
    memory_bytes: int = 1000
    evidence: NDArray[Any] | None = None
    text: Mapping[str, Any] | None = None
    text_evidence: Tensors | None = None
    tags: tuple[str, ...] = ()

    @property
    def evidence_tensors(self) -> Tensors:
        if self.text_evidence is not None:
            return self.text_evidence
        return {} if self.evidence is None else {"outputs": self.evidence}

    def message(self) -> fleet.Arm:
        known = self.energy_j is not None
        return fleet.Arm(
            expert=self.expert,
            variant=self.variant,
            task=self.task,
            engine="fake",
            memory_bytes=self.memory_bytes,
            latency=fleet.LatencyProfile(
                p50_ms=self.p50_ms, p95_ms=self.p95_ms, samples=9, provenance=common.PROVENANCE_MEASURED
            ),
            energy=fleet.EnergyProfile(
                mean_j=self.energy_j or 0.0,
                provenance=common.PROVENANCE_MODELLED if known else common.PROVENANCE_UNMEASURED,
                method="profile:fake" if known else "none",
            ),
            quality_fraction=self.quality_fraction,
            quality_samples=100,
            evidence_digest=tensor_digest(self.evidence_tensors) if self.evidence_tensors else "",
            text=None if self.text is None else fleet.TextProfile(**self.text),
            tags=self.tags,
        )
