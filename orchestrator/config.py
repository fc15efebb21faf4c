"""What a gateway can be told: every value, its default and its allowed range.

The models are strict (unknown keys, NaN and numbers written as text are refused) and frozen. Where values
come from (flag, environment, file, default) is the business of `orchestrator.config_layers`.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from orchestrator.config_access import Auth as Auth
from orchestrator.config_access import Section
from orchestrator.config_access import Tls as Tls
from orchestrator.places import default_state_dir
from orchestrator.units import MAX_ENERGY_J, MAX_POWER_W

Choice = Literal["error", "best_effort", "cheapest"]
Profile = Literal["eco", "balanced", "best"]
EnergyLimit = Annotated[float, Field(ge=0.0, le=MAX_ENERGY_J)]
LatencyLimit = Annotated[float, Field(gt=0.0, le=3_600_000.0)]
TaskName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]

NODES_PORT = 8422
PLAINTEXT_WARNING = (
    "without TLS keys and requests can be read by whoever is on the way to this address"
    "; leave tls.mode at auto, listen on 127.0.0.1, or set allow_insecure_remote on a network that you trust"
)


class Nodes(Section):
    """How the gateway tells that a node is alive."""

    heartbeat_s: float = Field(default=2.0, ge=0.05, le=60.0, description="Seconds between heartbeats of a node.")
    lease_s: float = Field(default=6.0, ge=0.1, le=600.0, description="Silence after which a node counts as offline.")
    approval: Literal["auto", "manual"] = Field(
        default="auto", description="With TLS: a token suffices to join, or (manual) an operator approves each node."
    )

    gateways: tuple[str, ...] = Field(
        default=(), strict=False, description="HOST:PORT at which nodes reach all replicas; nodes are told."
    )

    @field_validator("gateways", mode="before")
    @classmethod
    def _is_a_list(cls, value: object) -> object:
        # A variable can only hold a text.
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    @field_validator("gateways")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            split_address(address)
        return value

    @model_validator(mode="after")
    def _lease_outlives_heartbeats(self) -> Self:
        if self.lease_s <= self.heartbeat_s:
            raise ValueError(f"lease_s must be longer than heartbeat_s ({self.heartbeat_s:g})")
        return self


class BudgetDefaults(Section):
    """What a request may spend when it does not say."""

    max_energy_j: EnergyLimit | None = Field(default=None, description="Joules per request; null for no limit.")
    max_latency_ms: LatencyLimit = Field(default=1000.0, description="Milliseconds per request.")
    on_infeasible: Choice = Field(default="error", description="What happens when nothing fits the budget.")
    profile: Profile = Field(default="balanced", description="How many joules a better answer is worth.")


class TaskBudget(Section):
    """What differs from the default for one task; an absent key takes the default's value."""

    max_energy_j: EnergyLimit | None = Field(default=None, description="Joules per request.")
    max_latency_ms: LatencyLimit | None = Field(default=None, description="Milliseconds per request.")
    on_infeasible: Choice | None = Field(default=None, description="What happens when nothing fits the budget.")
    profile: Profile | None = Field(default=None, description="How many joules a better answer is worth.")


class Budgets(Section):
    """Budgets of requests that bring none: a default, what differs for tasks of text, and what differs per task."""

    default: BudgetDefaults = BudgetDefaults()
    text: TaskBudget = TaskBudget(max_latency_ms=60_000.0)
    tasks: dict[TaskName, TaskBudget] = Field(default_factory=dict)

    def for_task(self, task: str) -> BudgetDefaults:
        """The budget of a task with every value filled in."""
        own = self.tasks.get(task)
        return self.default.model_copy(update=own.model_dump(exclude_none=True) if own else {})


class Promise(Section):
    """How sure the gateway must be before it promises to stay within a budget."""

    energy_quantile: float = Field(
        default=0.99, ge=0.5, le=0.9999, description="Share of requests within their joules."
    )
    latency_quantile: float = Field(
        default=0.99, ge=0.5, le=0.9999, description="Share of requests within their milliseconds."
    )
    margins: bool = Field(default=True, description="Keep the distance between prediction and promise.")


class Admission(Section):
    """How much work the gateway takes before it refuses more."""

    max_running: int = Field(default=256, ge=1, le=65_536, description="Requests that run at once.")
    max_queued: int = Field(default=256, ge=0, le=65_536, description="Requests that wait; more are refused.")
    max_message_bytes: int = Field(default=4_194_304, ge=65_536, le=268_435_456, description="Largest message.")
    max_deadline_s: float = Field(default=3600.0, gt=0.0, le=86_400.0, description="Longest deadline accepted.")


class Retries(Section):
    """When a failed or silent attempt is tried on another arm."""

    enabled: bool = Field(default=True, description="Try another arm when nothing was delivered yet.")
    max_attempts: int = Field(default=3, ge=1, le=10, description="Attempts per request, the first included.")
    suspect_after_s: float = Field(
        default=1.0, gt=0.0, le=60.0, description="Silence after which a node gets no new work."
    )


class Fusion(Section):
    """How answers are combined."""

    max_experts: int = Field(default=4, ge=1, le=8, description="Most experts that may run for one request.")


class Cache(Section):
    """Answers of texts that are given again for exactly the same request of the same tenant."""

    enabled: bool = Field(default=False, description="Keep answers of requests with temperature 0 or a seed.")
    max_bytes: int = Field(default=67_108_864, ge=65_536, le=17_179_869_184, description="What they may take.")
    ttl_s: float = Field(default=3600.0, gt=0.0, le=2_678_400.0, description="How long an answer is given again.")


class Plan(Section):
    """What the set of active arms may cost together."""

    max_active_energy_j: EnergyLimit | None = Field(default=None, description="Joules if every active arm ran once.")
    mean_energy_j: EnergyLimit | None = Field(
        default=None, description="Joules of a request on the average; excludes max_active_energy_j."
    )
    max_active: int | None = Field(default=None, ge=1, le=4096, description="Most arms that are active.")
    drift_fraction: float = Field(
        default=0.2, gt=0.0, le=10.0, description="Plan again when an arm's joules have moved so far."
    )

    @model_validator(mode="after")
    def _one_mode(self) -> Self:
        if self.max_active_energy_j is not None and self.mean_energy_j is not None:
            raise ValueError("set either max_active_energy_j (all active arms run) or mean_energy_j, not both")
        return self


class Sharing(Section):
    """One budget of joules for all tasks that have no long-run budget of their own: who gets what a joule buys most."""

    average_energy_j: EnergyLimit | None = Field(
        default=None, description="Joules of a request, averaged over all these tasks together."
    )
    average_power_w: float | None = Field(default=None, ge=0.0, le=MAX_POWER_W, description="Watts of all of them.")
    fleet_limit: bool = Field(
        default=False, description="Share what `budget limit fleet` allows, a day's joules as watts over the day."
    )
    check_s: float = Field(default=30.0, ge=0.1, le=3600.0, description="How often the parts are worked out anew.")

    @property
    def on(self) -> bool:
        """Whether there is anything to share."""
        return bool(self.average_energy_j or self.average_power_w or self.fleet_limit)

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if sum(map(bool, (self.average_energy_j, self.average_power_w, self.fleet_limit))) > 1:
            raise ValueError("set one of average_energy_j, average_power_w and fleet_limit: tasks share one budget")
        return self


class Guard(Section):
    """Whether the gate must go on proving that it is worth its joules beside the best single expert."""

    probe_fraction: float = Field(
        default=0.0, ge=0.0, le=0.5, description="Share of requests on which the other one answers; 0 is off."
    )
    tolerance_fraction: float = Field(
        default=0.005, ge=0.0, le=0.5, description="How much worse the gate may be on average."
    )
    false_alarm_fraction: float = Field(
        default=0.01, gt=0.0, lt=1.0, description="Chance that a gate within tolerance is ever set aside."
    )


class Feedback(Section):
    """What is kept of `edgewise feedback`, for `edgewise gate train --feedback`; queries never are."""

    max_mib: int = Field(
        default=64, ge=0, le=4096, description="Size of what is kept in the state folder, in MiB; 0 is off."
    )
    features: bool = Field(
        default=False, description="Also keep features hashed from the queries, which a gate needs to learn."
    )


class GateFile(Section):
    """A gate that `edgewise gate train` wrote, and what it was trained with."""

    file: Path = Field(strict=False, description="The gate; its heads replace those that the gateway would learn.")
    encoder: Path | None = Field(default=None, strict=False, description="ONNX sentence encoder of the training.")
    tokenizer: Path | None = Field(default=None, strict=False, description="Its tokenizer.json, where it needs one.")

    @model_validator(mode="after")
    def _tokenizer_belongs_to_an_encoder(self) -> Self:
        if self.tokenizer is not None and self.encoder is None:
            raise ValueError("tokenizer belongs to an encoder; name that too")
        return self


class Gate(Section):
    """Heads that were trained by hand, by task."""

    tasks: dict[TaskName, GateFile] = Field(default_factory=dict, description="The gate file of each task.")
    check_s: float = Field(default=10.0, ge=0.1, le=3600.0, description="How often the files are looked at anew.")


class Sleep(Section):
    """Nodes that may be put to sleep, and what wakes them."""

    enabled: bool = Field(default=False, description="Put nodes to sleep and wake them by plan, not only by hand.")
    on_demand: bool = Field(
        default=True, description="Wake a node for a request that no node that is awake can serve, if time allows."
    )
    price_per_j: float = Field(
        default=0.0001, gt=0.0, le=1000.0, description="Quality (fraction right) that an idle joule must buy."
    )
    check_s: float = Field(default=30.0, ge=0.1, le=3600.0, description="How often the plan is looked at.")
    horizon_s: float = Field(default=600.0, ge=1.0, le=86_400.0, description="Time over which a sleep must pay.")
    min_awake_s: float = Field(default=300.0, ge=0.0, le=86_400.0, description="Least time awake before it sleeps.")
    min_asleep_s: float = Field(default=120.0, ge=0.0, le=86_400.0, description="Least time asleep, but for requests.")
    wake_commands: dict[TaskName, str] = Field(
        default_factory=dict, description="By node: a command of the gateway that wakes it, beside the magic packet."
    )


class Explain(Section):
    """How long `edgewise why` remembers."""

    keep: int = Field(default=10_000, ge=0, le=1_000_000, description="Finished requests that can be explained.")


class Ledger(Section):
    """Where it is kept who may spend what and who has spent it."""

    store: Literal["sqlite", "postgres", "memory"] = Field(
        default="sqlite", description="A file in state_dir, a server for several gateways, or nothing that lasts."
    )
    postgres: str | None = Field(default=None, description="How to reach the server, as libpq writes it.")
    lease_s: float = Field(
        default=30.0, ge=1.0, le=3600.0, description="How long reservations outlive a gateway that died."
    )
    orphans: Literal["charge", "free"] = Field(
        default="charge", description="Whether what a dead gateway had reserved counts as spent or is given back."
    )
    keep_days: float = Field(default=30.0, ge=1.0, le=3660.0, description="How long settlements and results are kept.")

    snapshot_h: float = Field(
        default=1.0, ge=0.0, le=168.0, description="Hours between snapshots of the file in state_dir; 0 is off."
    )
    snapshots: int = Field(default=6, ge=1, le=1000, description="Snapshots that are kept.")

    @model_validator(mode="after")
    def _server_is_named(self) -> Self:
        if self.store == "postgres" and not self.postgres:
            raise ValueError(
                "postgres must say how to reach the server, for example host=/run/postgresql dbname=edgewise"
            )
        return self


class Models(Section):
    """What is kept of the models that operators push."""

    max_mib: int = Field(default=8192, ge=1, le=1_048_576, description="What pushed models may take, in MiB.")


class Log(Section):
    """What the gateway writes to stderr."""

    format: Literal["console", "json"] = Field(default="console", description="For people or for machines.")
    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level written.")


class GatewayConfig(Section):
    """Everything that a gateway can be told."""

    listen: str = Field(default="127.0.0.1:8421", description="HOST:PORT of gRPC, for nodes and clients.")
    http_listen: str = Field(default="127.0.0.1:8420", description="HOST:PORT of HTTP: metrics and health.")
    nodes_listen: str | None = Field(
        default=None, description="HOST:PORT of gRPC for nodes, with TLS only; null for port 8422 beside listen."
    )
    allow_insecure_remote: bool = Field(
        default=False, description="Listen on other addresses than loopback, without TLS; keys are required then."
    )
    tls: Tls = Tls()
    nodes: Nodes = Nodes()
    budgets: Budgets = Budgets()
    promise: Promise = Promise()
    admission: Admission = Admission()
    retries: Retries = Retries()
    fusion: Fusion = Fusion()
    cache: Cache = Cache()
    plan: Plan = Plan()
    sharing: Sharing = Sharing()
    guard: Guard = Guard()
    feedback: Feedback = Feedback()
    gate: Gate = Gate()
    sleep: Sleep = Sleep()
    explain: Explain = Explain()
    ledger: Ledger = Ledger()
    auth: Auth = Auth()
    models: Models = Models()
    log: Log = Log()
    state_dir: Path = Field(
        default_factory=lambda: default_state_dir(os.environ),
        strict=False,
        description="Folder of what must survive a restart; $XDG_DATA_HOME/edgewise unless set.",
    )

    @field_validator("listen", "http_listen", "nodes_listen")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None:
            split_address(value)
        return value

    @model_validator(mode="after")
    def _stays_on_this_machine(self) -> Self:
        for name, address in (("listen", self.listen), ("http_listen", self.http_listen)):
            if not self.tls_on and not self.allow_insecure_remote and not is_loopback(address):
                raise ValueError(f"{name} = {address} is not a loopback address: {PLAINTEXT_WARNING}")
        return self

    @property
    def nodes_address(self) -> str:
        """HOST:PORT of the nodes' own port, which there is with TLS."""
        return self.nodes_listen or f"{self.listen.rpartition(':')[0]}:{NODES_PORT}"

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine reaches the gateway."""
        listened = (self.listen, self.http_listen, *([self.nodes_listen] if self.nodes_listen else []))
        return all(is_loopback(address) for address in listened)

    @property
    def tls_on(self) -> bool:
        """Whether connections are encrypted."""
        wanted = not self.on_loopback and not self.allow_insecure_remote
        return wanted if self.tls.mode == "auto" else self.tls.mode == "on"


def split_address(address: str) -> tuple[str, int]:
    """Split ``HOST:PORT`` (``[::1]:8421`` for IPv6).

    Raises:
        ValueError: There is no host, no port, or the port is out of range.
    """
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed):
        raise ValueError("write HOST:PORT, for example 127.0.0.1:8421 or [::1]:8421")
    if not (port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise ValueError("the port must be a number between 0 and 65535 (0 takes a free one)")
    return host[1:-1] if bracketed else host, int(port)


def is_loopback(address: str) -> bool:
    """Whether ``HOST:PORT`` is for this machine only; host names other than localhost count as no."""
    host, _ = split_address(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
