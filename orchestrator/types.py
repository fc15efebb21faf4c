"""Frozen values that the gateway's rooms exchange. Nothing here knows protobuf, sockets or clocks.

What every request has one of, the type checker alone keeps from changes (`optimizer.frozen`).

Units are in the names. An *arm* is one variant of an expert on one node; its name is ``expert:variant@node``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.frozen import frozen
from orchestrator.energy_source import UNTOLD_SOURCE
from orchestrator.energy_source import EnergySource as EnergySource
from orchestrator.limits import BudgetRequest as BudgetRequest
from orchestrator.limits import FusionChoice as FusionChoice
from orchestrator.limits import Limits as Limits
from orchestrator.limits import OnInfeasible as OnInfeasible
from orchestrator.masses import WHOLE as WHOLE
from orchestrator.masses import mass_of
from orchestrator.personal.types import Owner, PersonalNote
from orchestrator.residency import Residency as Residency
from orchestrator.sleep.types import SleepOffer
from orchestrator.text_profile import TextProfile
from orchestrator.text_request import Delta as Delta
from orchestrator.text_request import GenerationParameters as GenerationParameters
from orchestrator.text_request import Message as Message

NAME_PATTERN = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}$")

Array = NDArray[Any]


class Provenance(Enum):
    """Where a figure comes from."""

    MEASURED = "measured"
    REPLAYED = "replayed"
    MODELLED = "modelled"
    UNMEASURED = "unmeasured"

    def __init__(self, word: str) -> None:
        # `value` without the two calls that reading that takes.
        self.word = word


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype and shape (-1 is free) of a tensor."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @cached_property
    def one(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(1 if size == -1 else size for size in self.shape)

    @cached_property
    def accepted(self) -> tuple[tuple[int, ...], ...]:
        """Shapes in which one sample may come: the batch dimension may be left out."""
        return (self.one, self.one[1:]) if self.shape[:1] == (-1,) else (self.one,)


@frozen
class Energy:
    """Joules with their source.

    Args:
        energy_j: Active joules; NaN where the provenance is UNMEASURED.
        provenance: Where they come from.
        method: How they were obtained.
        uncertainty_j: One standard deviation.
        idle_j: Idle power's joules of the same time, not in `energy_j`; None where nobody knows.
        share: How the device's joules were split among what ran; "" where nobody says.
        preliminary: A better figure follows once the sensor has caught up.
    """

    energy_j: float
    provenance: Provenance
    method: str
    uncertainty_j: float = 0.0
    idle_j: float | None = None
    share: str = ""
    preliminary: bool = False


@dataclass(frozen=True)
class Task:
    """A task class: what goes in, what comes out, and the digest of its reference set ('' where there is none)."""

    name: str
    input: TensorSpec
    output: TensorSpec
    labels: tuple[str, ...]
    reference_digest: str
    text: bool = False


@dataclass(frozen=True)
class Arm:
    """One variant of an expert on one node, as its node announced it."""

    expert: str
    variant: str
    node: str
    task: str
    engine: str
    model_digest: str
    macs: int
    memory_bytes: int
    p50_ms: float
    p95_ms: float
    latency_provenance: Provenance
    energy: Energy
    quality_fraction: float
    quality_samples: int
    evidence_digest: str
    text: TextProfile | None = None
    tags: frozenset[str] = frozenset()
    residency: Residency | None = None

    @cached_property
    def name(self) -> str:
        """``expert:variant@node``."""
        return f"{self.expert}:{self.variant}@{self.node}"

    @property
    def mass(self) -> float:
        """See `mass_of`."""
        return mass_of(self.variant)


@dataclass(frozen=True)
class NodeHello:
    """What a node says of itself when it joins."""

    node: str
    software_version: str
    protocol_version: int
    device: str
    simulated: bool
    energy_method: str
    energy_provenance: Provenance
    tasks: tuple[Task, ...]
    arms: tuple[Arm, ...]
    concurrency: int
    queue_limit: int
    memory_limit_bytes: int
    energy_source: EnergySource = UNTOLD_SOURCE
    personal_experts: tuple[str, ...] = ()
    sleep: SleepOffer | None = None
    relays_wake: bool = False
    # As it came, of nodes that may sleep: what outlives a restart of the gateway.
    announced: bytes = field(default=b"", compare=False, repr=False)
    accepts_models: bool = False
    models: tuple[str, ...] = ()


@frozen
class Query:
    """One tensor query, validated against its task.

    Args:
        user: As the client says; "" for nobody.
        owner: That user of the authenticated tenant, and `home` the node that may be told.
        allowed_nodes: Where it may run; empty for anywhere.
        required_tags: What an arm must carry.
        max_mass: Most mass that an arm may have, see `Arm.mass`.
    """

    request_id: str
    task: Task
    expert: str | None
    inputs: Mapping[str, Array]
    budget: BudgetRequest
    fusion: FusionChoice
    max_experts: int
    deadline_s: float
    user: str = ""
    owner: Owner | None = None
    home: str = ""
    allowed_nodes: frozenset[str] = frozenset()
    required_tags: frozenset[str] = frozenset()
    max_mass: float = WHOLE


@frozen
class TextQuery:
    """One text query, validated.

    Args:
        needs: Capabilities that an arm must declare.
        allowed_nodes, required_tags: Where it may run, empty for anywhere, and what an arm must carry.
        max_ttft_ms: Most milliseconds until the first token; None for no limit.
        max_tpot_ms: Most milliseconds per further token; None for no limit.
        whole: Nobody reads the text before it is complete.
        continue_on_loss: Whether experts that write one text together go on where one of them is lost.
        samples: How often it is asked to find one answer (`orchestrator.gateway.samples`).
        user: Whom a tenant's application asks for, as it says itself; "" for nobody. `owner` and `home` as of `Query`.
        prefix_scope: See `orchestrator.prefixes`; "" shares nothing.
    """

    request_id: str
    task: Task
    expert: str | None
    messages: tuple[Message, ...]
    parameters: GenerationParameters
    budget: BudgetRequest
    deadline_s: float
    fusion: FusionChoice = FusionChoice.AUTO
    max_experts: int = 0
    needs: frozenset[str] = frozenset()
    allowed_nodes: frozenset[str] = frozenset()
    required_tags: frozenset[str] = frozenset()
    max_ttft_ms: float | None = None
    max_tpot_ms: float | None = None
    whole: bool = False
    continue_on_loss: bool = False
    samples: int = 1
    user: str = ""
    prefix_scope: str = ""
    owner: Owner | None = None
    home: str = ""

    @property
    def prompt(self) -> str:
        """What is asked, as the gate reads it: what the user said last, or everything where no user spoke."""
        for message in reversed(self.messages):
            if message.role == "user":
                return message.content
        return "\n".join([message.content for message in self.messages])


@frozen
class Done:
    """A node finished a piece of work.

    Args:
        load_ms: Of loading the expert for it, in no other figure.
        load_j: Of the same, in `energy`.
        cached_tokens: Of the prompt, those that were not read anew; None where nobody says.
    """

    work_id: int
    outputs: Mapping[str, Array]
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    energy: Energy
    queue_ms: float
    compute_ms: float
    margin_fraction: float | None = None
    first_token_ms: float | None = None
    tool_calls_json: str = ""
    personal: PersonalNote | None = None
    load_ms: float = 0.0
    load_j: float = 0.0
    logprobs_json: str = ""
    cached_tokens: int | None = None

    @property
    def read_tokens(self) -> int:
        """Of the prompt, those that were read for this text."""
        return self.prompt_tokens - (self.cached_tokens or 0)


@frozen
class Failed:
    """A node could not do a piece of work."""

    work_id: int
    reason: str
    message: str
    final: bool
    energy: Energy


@frozen
class AttemptRecord:
    """What one arm was asked and what came of it."""

    arm: str
    stage: int
    predicted_energy_j: float
    energy: Energy
    predicted_ms: float
    ms: float
    outcome: str
    reason: str = ""
    work_id: int = 0


@dataclass(frozen=True)
class CertificateRecord:
    """The plan's certificate as shown to users.

    Args:
        status: "optimal", "feasible" or "none".
        gap: How much quality a better active set could add at most.
        explored: Boxes that the solver looked at.
        mode: "worst_case" or "routed"; "" where nothing was planned.
        quality_fraction: Estimated quality of the active set.
        bound_fraction: No set within the limits has more.
        price_per_j: Quality that one more joule within the plan's energy limit would add.
    """

    status: str
    gap: float
    explored: int
    mode: str = ""
    quality_fraction: float = 0.0
    bound_fraction: float = 0.0
    price_per_j: float = 0.0


@frozen
class RoutingRecord:
    """How a request was routed and what it was predicted to cost."""

    attempts: tuple[AttemptRecord, ...]
    fusion: FusionChoice
    predicted_energy_j: float
    predicted_ms: float
    bound_energy_j: float
    bound_ms: float
    budget_met: bool
    plan_id: str
    certificate: CertificateRecord
    overlay: str = ""
    gate_sha256: str = ""


@frozen
class Account:
    """What a request was allowed and charged.

    Args:
        tenant: Who pays; "" where no key was shown.
        key_id: The key; "" where none was shown.
        budgets: Those that it was charged to, as ``scope/unit``; empty where none limits it.
        reserved_j: Joules that were held for it; infinite where nothing limited it.
        charged_j: Joules that the budgets were charged.
        left_j: The least joules that any of the budgets has left; infinite where none counts joules.
    """

    tenant: str = ""
    key_id: str = ""
    budgets: tuple[str, ...] = ()
    reserved_j: float = math.inf
    charged_j: float = 0.0
    left_j: float = math.inf

    def after(self, left_j: float) -> Account:
        """The same once it is known what is left."""
        return Account(self.tenant, self.key_id, self.budgets, self.reserved_j, self.charged_j, left_j)


NO_ACCOUNT = Account()


@frozen
class Timings:
    """Where the milliseconds went."""

    total_ms: float
    route_ms: float
    wait_ms: float
    infer_ms: float
    fuse_ms: float
    # Of texts that were sent in pieces: until the first one, and of each token after it.
    first_token_ms: float | None = None
    token_ms: float | None = None


@frozen
class Reply:
    """The answer to a tensor query."""

    request_id: str
    outputs: Mapping[str, Array]
    label: str
    confidence: float
    energy: Energy
    routing: RoutingRecord
    timings: Timings
    account: Account = NO_ACCOUNT
    needs_feedback: bool = False
