"""What a node has to offer, in its own frozen types: tasks, arms and the evidence behind their quality.

Shape letters: n samples of the reference set, c classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nodes.energy.contract import EnergyReading, Provenance

Tensors = Mapping[str, NDArray[Any]]

# Capability of an expert that reads the user's last message and nothing before it.
SINGLE_TURN = "single_turn"


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of a tensor; -1 is a free dimension."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class TaskSpec:
    """A kind of query. Text tasks have neither `input` nor `output`.

    Attributes:
        reference_digest: Key of the reference set (inputs (n, ...), labels (n,)) in `Inventory.evidence`.
    """

    name: str
    input: TensorSpec | None = None
    output: TensorSpec | None = None
    labels: tuple[str, ...] = ()
    reference_digest: str = ""
    text: bool = False


@dataclass(frozen=True)
class TextTraits:
    """What is fixed about an arm that writes text.

    Attributes:
        context_tokens: Prompt and answer together; 0 where nobody said.
        completion_tokens: Mean of an answer.
        completion_p95_tokens: 95 % quantile of an answer.
        tokenizer_digest: Arms with the same digest share a vocabulary; "" where nobody said.
        capabilities: Such as "tools", "json_schema", "logprobs"; what `SINGLE_TURN` says is none that requests ask for.
    """

    context_tokens: int = 0
    completion_tokens: float = 0.0
    completion_p95_tokens: float = 0.0
    tokenizer_digest: str = ""
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class TextCost:
    """What a text costs on this node: overhead + prompt tokens x prefill + completion tokens x decode.

    Joules are 0 where nobody knows them; the arm's `EnergyReading` says so.
    """

    overhead_ms: float
    prefill_ms_per_token: float
    decode_ms_per_token: float
    overhead_j: float = 0.0
    prefill_j_per_token: float = 0.0
    decode_j_per_token: float = 0.0


@dataclass(frozen=True)
class CompiledTraits:
    """How a compiled variant runs.

    Attributes:
        runtime: What it was compiled for.
        batches: Fewest and most samples of one run; None for any.
        beside: (path, sha256) of further files that the runtime reads, from the model file's folder.
    """

    runtime: str
    batches: tuple[int, int] | None = None
    beside: tuple[tuple[str, str], ...] = ()

    def told(self) -> dict[str, Any]:
        """As the worker takes it."""
        return {"runtime": self.runtime, "batches": self.batches, "beside": dict(self.beside)}


@dataclass(frozen=True)
class ArmSpec:
    """One variant of one expert.

    Attributes:
        model_file: What the engine loads; None for engines without a file.
        model_digest: sha256 of that file, hex.
        macs: Multiply-accumulates of one sample; of one token where the arm writes text.
        memory_bytes: Resident bytes of the loaded expert.
        quality_fraction: Share of right answers on `quality_samples` samples that the expert never saw.
        evidence_digest: Key of its answers (n, c) to the reference set in `Inventory.evidence`.
        text: Set for arms that write text.
        tags: Free words that requests may ask for, such as "private".
        compiled: How a compiled variant runs; None for a model as it came.
    """

    expert: str
    variant: str
    task: str
    engine: str
    macs: int
    memory_bytes: int
    quality_fraction: float
    quality_samples: int
    model_file: Path | None = None
    model_digest: str = ""
    evidence_digest: str = ""
    text: TextTraits | None = None
    tags: tuple[str, ...] = ()
    compiled: CompiledTraits | None = None

    @property
    def key(self) -> str:
        """``expert:variant``: what engine and log call this arm."""
        return f"{self.expert}:{self.variant}"


@dataclass(frozen=True)
class Residency:
    """Whether an expert is in memory, and what it takes to get it there.

    Attributes:
        state: "loaded", "loading" or "unloaded".
        pinned: It stays, whoever else needs room.
        load_ms: Of the last load; 0 before the first.
        load_j: Of the last load; None where nobody knows.
        progress_fraction: Of a load under way; None where nobody knows.
        problem: Why it could not be done what was asked last; "" where it could.
    """

    state: str
    pinned: bool = False
    load_ms: float = 0.0
    load_j: float | None = None
    progress_fraction: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Inventory:
    """All tasks and arms of a node, and tensors by digest for the gateway to ask for."""

    tasks: tuple[TaskSpec, ...]
    arms: tuple[ArmSpec, ...]
    evidence: Mapping[str, Tensors]

    def task(self, name: str) -> TaskSpec:
        """The task of that name; KeyError where there is none."""
        return next(task for task in self.tasks if task.name == name)


@dataclass(frozen=True)
class ArmProfile:
    """What one run of an arm costs on this node.

    Attributes:
        energy: Mean of one run; its `energy_j` is None where nobody knows.
        text: How cost grows with tokens, for arms that write text; the other figures are then of a mean answer.
    """

    p50_ms: float
    p95_ms: float
    samples: int
    latency_provenance: Provenance
    energy: EnergyReading
    text: TextCost | None = None
