"""What the client gives its callers: frozen values, none of them a protobuf message.

Values that the gateway's rooms use as well (energy, timings, routing) come from `orchestrator.types`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.longrun import NO_LONG_RUN, GuardRecord, LongRun, PacingRecord, Share
from orchestrator.types import (
    NO_ACCOUNT,
    Account,
    Array,
    BudgetRequest,
    CertificateRecord,
    Energy,
    EnergySource,
    FusionChoice,
    GenerationParameters,
    Message,
    OnInfeasible,
    Provenance,
    Residency,
    RoutingRecord,
    TensorSpec,
    Timings,
)

Budget = BudgetRequest

__all__ = [
    "Account",
    "Answer",
    "ArmStatus",
    "Budget",
    "Candidate",
    "CertificateRecord",
    "Energy",
    "EnergyShare",
    "EnergySource",
    "Explanation",
    "FleetStatus",
    "FusionChoice",
    "Generated",
    "GenerationParameters",
    "GuardRecord",
    "KeyRecord",
    "LongRun",
    "Message",
    "MeterStatus",
    "NewKey",
    "NodeStatus",
    "OnInfeasible",
    "PacingRecord",
    "ProfilePrice",
    "Provenance",
    "Quota",
    "QuotaStatus",
    "RoutingRecord",
    "SettlementRecord",
    "Share",
    "TaskBudget",
    "TaskStatus",
    "TensorSpec",
    "TextDelta",
    "Timings",
]


@dataclass(frozen=True)
class Answer:
    """The answer to one tensor query, with what it cost and how it was routed."""

    request_id: str
    label: str
    confidence: float
    outputs: Mapping[str, Array]
    energy: Energy
    routing: RoutingRecord
    timing: Timings
    needs_feedback: bool = False


@dataclass(frozen=True)
class TextDelta:
    """A piece of text, as soon as it is there."""

    text: str
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Generated:
    """The end of a generation: the whole text and what it cost.

    `finish_reason` is "stop", "length" or "budget": its joules or milliseconds ran out, what is there stands.
    `cached_tokens` of the prompt were not read anew, for an earlier text began alike; None where nobody says.
    """

    request_id: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    energy: Energy
    routing: RoutingRecord
    timing: Timings
    cached_tokens: int | None = None


@dataclass(frozen=True)
class Candidate:
    """One route that was considered; `excluded_by` is empty for a feasible one, `load_ms` is in `predicted_ms`.

    `cached_tokens` are expected to be there from an earlier text; predicted figures leave them out, bounds do not.
    """

    route: str
    quality_fraction: float
    predicted_energy_j: float
    bound_energy_j: float
    predicted_ms: float
    bound_ms: float
    feasible: bool
    excluded_by: str
    score: float
    load_ms: float = 0.0
    cached_tokens: float = 0.0


@dataclass(frozen=True)
class Explanation:
    """Why a finished request was answered as it was. A limit of None means that there was none."""

    request_id: str
    task: str
    outcome: str
    max_energy_j: float | None
    max_latency_ms: float | None
    profile: str
    price_per_j: float
    candidates: tuple[Candidate, ...]
    chosen: str
    runner_up: str
    binding_constraint: str
    routing: RoutingRecord
    energy: Energy
    timing: Timings
    age_s: float
    pacing: PacingRecord | None = None
    account: Account = NO_ACCOUNT


@dataclass(frozen=True)
class ArmStatus:
    """One variant of an expert on a node: what it costs now and what the gateway would promise."""

    name: str
    expert: str
    variant: str
    task: str
    engine: str
    quality_fraction: float
    energy_provenance: Provenance
    predicted_ms: float
    bound_ms: float
    predicted_energy_j: float
    bound_energy_j: float
    answered: int
    failed: int
    active: bool
    residency: Residency | None = None


@dataclass(frozen=True)
class NodeStatus:
    """One node: `state` is "healthy", "suspect", "draining", "asleep", "waking" or "offline"."""

    node: str
    state: str
    device: str
    simulated: bool
    software_version: str
    energy_method: str
    energy_provenance: Provenance
    running: int
    queued: int
    concurrency: int
    seen_s: float
    engine_restarts: int
    arms: tuple[ArmStatus, ...]
    energy_source: EnergySource = field(default_factory=EnergySource)
    temperature_c: float | None = None
    throttles: tuple[str, ...] = ()
    asleep_s: float | None = None


@dataclass(frozen=True)
class ProfilePrice:
    """What a profile asks of a joule (quality per J), and what it is expected to give."""

    profile: str
    price_per_j: float
    expected_quality_fraction: float
    expected_energy_j: float


@dataclass(frozen=True)
class TaskStatus:
    """One task: its input, its labels and the plan in force."""

    task: str
    input: TensorSpec
    labels: tuple[str, ...]
    plan_id: str
    certificate: CertificateRecord
    active_arms: tuple[str, ...]
    prices: tuple[ProfilePrice, ...]
    pacing: PacingRecord | None = None
    guard: GuardRecord | None = None
    gate_sha256: str = ""
    gate_problem: str = ""


@dataclass(frozen=True)
class FleetStatus:
    """The gateway at one moment; `energy_j` is what all answers together have cost."""

    version: str
    uptime_s: float
    energy_j: float
    outcomes: Mapping[str, int]
    nodes: tuple[NodeStatus, ...]
    tasks: tuple[TaskStatus, ...]


@dataclass(frozen=True)
class TaskBudget:
    """The budget of a task ("" for every other task); `origin` is "config", "set" or "default"."""

    task: str
    budget: Budget
    origin: str
    long_run: LongRun = NO_LONG_RUN
    pacing: PacingRecord | None = None


@dataclass(frozen=True)
class ChangedKey:
    """A key of the gateway's configuration that has another value now; values as JSON, "" where there is none."""

    key: str
    before: str
    after: str


@dataclass(frozen=True)
class Quota:
    """What a scope may spend: joules of one request, joules and tokens of a UTC day, watts; None is no limit."""

    request_j: float | None = None
    day_j: float | None = None
    mean_w: float | None = None
    day_tokens: int | None = None


@dataclass(frozen=True)
class MeterStatus:
    """One limit in its present window; `assumed` is the part of `spent` that a crash left open."""

    unit: str
    limit: float
    spent: float
    held: float
    assumed: float
    resets_in_s: float
    burn_per_s: float

    @property
    def left(self) -> float:
        """What can still be reserved."""
        return self.limit - self.spent - self.held


@dataclass(frozen=True)
class QuotaStatus:
    """A scope ("fleet", "tenant:NAME", "key:ID" or "task:NAME"), its quota and how its limits stand."""

    scope: str
    quota: Quota
    meters: tuple[MeterStatus, ...]


@dataclass(frozen=True)
class KeyRecord:
    """A key without its secret."""

    key_id: str
    tenant: str
    role: str
    created_unix_s: float
    expires_unix_s: float | None
    revoked_unix_s: float | None


@dataclass(frozen=True)
class NewKey:
    """A key and its secret, which nobody can make again."""

    key: KeyRecord
    secret: str


@dataclass(frozen=True)
class EnergyShare:
    """What one tenant, key, task, set of arms or outcome has cost; `unmeasured` requests are not in `energy_j`."""

    name: str
    requests: int
    energy_j: float
    reserved_j: float
    overshoot_j: float
    tokens: int
    unmeasured: int


@dataclass(frozen=True)
class SettlementRecord:
    """What one request cost; `reserved_j` is None where no budget limited it."""

    at_unix_s: float
    request_id: str
    tenant: str
    key_id: str
    task: str
    outcome: str
    arms: str
    energy_j: float
    provenance: str
    reserved_j: float | None
    tokens: int
