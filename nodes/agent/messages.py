"""What agent and gateway say to each other, in frozen types of our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from numpy.typing import NDArray

from nodes.agent.backoff import Spread as Spread
from nodes.agent.model_messages import ChunkWanted as ChunkWanted
from nodes.agent.model_messages import ModelChunk as ModelChunk
from nodes.agent.model_messages import ModelOrder as ModelOrder
from nodes.agent.model_messages import ModelReport as ModelReport
from nodes.agent.model_messages import ModelsWanted as ModelsWanted
from nodes.agent.model_messages import ResidencyChanged as ResidencyChanged
from nodes.agent.turn_messages import NextTurn as NextTurn
from nodes.agent.turn_messages import SharedText as SharedText
from nodes.agent.turn_messages import TextDelta as TextDelta
from nodes.agent.turn_messages import Written as Written
from nodes.arms import ArmProfile, ArmSpec, Residency, TaskSpec, Tensors
from nodes.energy.contract import EnergyReading, Provenance, Signals

PROTOCOL_VERSION = 1


class Reason(StrEnum):
    """Why a piece of work gave no answer."""

    ENGINE_DIED = "ENGINE_DIED"
    ENGINE_ERROR = "ENGINE_ERROR"
    NODE_BUSY = "NODE_BUSY"
    ARM_UNKNOWN = "ARM_UNKNOWN"
    DEADLINE = "DEADLINE"
    CANCELLED = "CANCELLED"
    DRAINING = "DRAINING"
    INPUT_INVALID = "INPUT_INVALID"


@dataclass(frozen=True)
class OfferedArm:
    """An arm and what it costs here; `profile` is None where nobody measured it, `residency` where it never leaves."""

    spec: ArmSpec
    profile: ArmProfile | None
    residency: Residency | None = None


# ---- node to gateway


@dataclass(frozen=True)
class Hello:
    """The first event of a session: who this node is and what it offers."""

    node: str
    software_version: str
    device: str
    simulated: bool
    energy_method: str
    energy_provenance: Provenance
    tasks: tuple[TaskSpec, ...]
    arms: tuple[OfferedArm, ...]
    concurrency: int
    queue_limit: int
    memory_limit_bytes: int
    energy_source: SourceReport
    personal_experts: tuple[str, ...] = ()
    accepts_models: bool = False
    model_digests: tuple[str, ...] = ()
    sleep: SleepOffer | None = None
    relays_wake: bool = False


@dataclass(frozen=True)
class SleepOffer:
    """That the gateway may put this machine to sleep, and what that takes; fields as in `SleepOffer` of the wire."""

    mac: str
    wake_address: str
    idle_w: float
    sleep_w: float
    wake_j: float
    wake_s: float
    suspend_s: float
    suspend_w: float


@dataclass(frozen=True)
class SourceReport:
    """Where the node's joules come from; fields as in `EnergySource`."""

    rate_hz: float = 0.0
    why: str = ""
    problem: str = ""
    cure: str = ""
    profile_digest: str = ""


@dataclass(frozen=True)
class Heartbeat:
    """The node is alive and this busy; `idle_j` is what idle power took while work ran."""

    running: int
    queued: int
    engine_restarts: int
    signals: Signals = field(default_factory=Signals)
    idle_j: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """Tensors that the gateway asked for by digest."""

    digest: str
    tensors: Tensors


@dataclass(frozen=True)
class Owner:
    """A user of a tenant, as the gateway says."""

    tenant: str
    user: str


@dataclass(frozen=True)
class PersonalStatus:
    """How a user's own expert stands; fields as in `PersonalStatus` of the wire."""

    node: str = ""
    task: str = ""
    expert: str = ""
    tier: str = "none"
    version: int = 0
    corrections: int = 0
    judged: int = 0
    global_fraction: float = 0.0
    local_fraction: float = 0.0
    generic_drop_fraction: float = 0.0
    state: str = ""
    training_energy_j: float = 0.0
    file: str = ""


@dataclass(frozen=True)
class PersonalNote:
    """Who gave an answer for an owner, and whether its right label would help."""

    by: str
    status: PersonalStatus
    needs_feedback: bool = False


@dataclass(frozen=True)
class PersonalReport:
    """What came of an order; `reason` is "" where it was followed."""

    order_id: int
    reason: str = ""
    message: str = ""
    status: PersonalStatus = field(default_factory=PersonalStatus)


@dataclass(frozen=True)
class WorkDone:
    """An answer: tensors, or a text that was streamed before.

    Attributes:
        load_ms: Of loading the expert first, in no other figure; None where it was there.
        load_j: Of the same, in `energy`; None where nobody knows.
    """

    work_id: int
    energy: EnergyReading
    queue_ms: float
    compute_ms: float
    outputs: Mapping[str, NDArray[Any]] | None = None
    text: str = ""
    finish: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    margin_fraction: float | None = None
    first_token_ms: float | None = None
    tool_calls_json: str = ""
    personal: PersonalNote | None = None
    load_ms: float | None = None
    load_j: float | None = None
    logprobs: tuple[Mapping[str, Any], ...] = ()
    cached_tokens: int | None = None


@dataclass(frozen=True)
class WorkFailed:
    """No answer; `energy` is what was spent all the same, None where the work never started.

    Attributes:
        final: True where the same work cannot succeed anywhere.
    """

    work_id: int
    reason: Reason
    message: str
    final: bool = False
    energy: EnergyReading | None = None


@dataclass(frozen=True)
class ArmsChanged:
    """All arms that the node offers from now on."""

    arms: tuple[OfferedArm, ...]


@dataclass(frozen=True)
class EnergySettled:
    """Final joules of work by its id."""

    readings: tuple[tuple[int, EnergyReading], ...]


@dataclass(frozen=True)
class Draining:
    """The node finishes what it has and takes nothing new."""

    reason: str


@dataclass(frozen=True)
class Sleeping:
    """The machine goes to sleep as soon as the stream has ended."""


Event = (
    Hello
    | Heartbeat
    | Evidence
    | WorkDone
    | WorkFailed
    | TextDelta
    | Written
    | ArmsChanged
    | EnergySettled
    | Draining
    | Sleeping
    | PersonalReport
    | ResidencyChanged
    | ChunkWanted
    | ModelReport
)

# ---- gateway to node


@dataclass(frozen=True)
class Welcome:
    """The node is taken in session `epoch`; `gateways` are HOST:PORT of all replicas, `spread_s` as in `Spread`."""

    epoch: int
    heartbeat_s: float
    lease_s: float
    wanted_digests: tuple[str, ...]
    gateway_version: str
    gateways: tuple[str, ...] = ()
    spread_s: float = 0.0


@dataclass(frozen=True)
class Rejected:
    """The node is not taken."""

    reason: str
    message: str
    retryable: bool


@dataclass(frozen=True)
class RawTensor:
    """A tensor as it came, before anything about it was checked; `dtype` is "" where it is none of ours."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class TextRequest:
    """A text to generate, before anything about it was checked."""

    messages: tuple[tuple[str, str], ...]
    max_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    tools_json: str = ""
    tool_choice_json: str = ""
    response_format_json: str = ""
    whole: bool = False
    top_logprobs: int | None = None
    embed: bool = False
    shared: SharedText | None = None
    scope: str = ""


@dataclass(frozen=True)
class Work:
    """One piece of work; `input` is None where the message carried none."""

    work_id: int
    request_id: str
    expert: str
    variant: str
    deadline_ms: float
    energy_limit_j: float
    input: tuple[RawTensor, ...] | TextRequest | None
    owner: Owner | None = None

    @property
    def arm(self) -> str:
        """Key of the arm that is to run."""
        return f"{self.expert}:{self.variant}"


@dataclass(frozen=True)
class Cancel:
    """Nobody waits for this piece of work any more."""

    work_id: int


@dataclass(frozen=True)
class Drain:
    """Finish what runs, take nothing new, then close."""

    reason: str


@dataclass(frozen=True)
class Suspend:
    """As `Drain`, then put the machine to sleep."""

    reason: str


@dataclass(frozen=True)
class WakePeer:
    """Send a magic packet for another machine on this network."""

    mac: str
    wake_address: str


@dataclass(frozen=True)
class Keep:
    """An input that ran elsewhere, to be kept for its owner until a correction comes."""

    request_id: str
    owner: Owner
    expert: str
    inputs: tuple[RawTensor, ...]


@dataclass(frozen=True)
class PersonalOrder:
    """Something to do with an owner's expert; fields as in `PersonalOrder` of the wire."""

    order_id: int
    owner: Owner
    task: str
    verb: str
    request_id: str = ""
    label: str = ""


Command = (
    Welcome
    | Spread
    | Rejected
    | Work
    | NextTurn
    | Cancel
    | Drain
    | Suspend
    | WakePeer
    | Keep
    | PersonalOrder
    | ModelOrder
    | ModelsWanted
    | ModelChunk
)
