"""Settings of a node agent: flag > environment > default, checked before anything starts."""

from __future__ import annotations

import re
import socket
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from nodes.energy.discovery import EnergyMode
from nodes.errors import ConfigError

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"


def default_name() -> str:
    """The host's name, made to fit `NAME_PATTERN`."""
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", socket.gethostname().lower()).lstrip("._-")[:64]
    return cleaned or "node"


def _checked_name(name: str) -> str:
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError("use 1 to 64 of a-z 0-9 . _ - and begin with a letter or a digit")
    return name


def _checked_target(target: str) -> str:
    check_target(target)
    return target


def _checked_targets(targets: str) -> str:
    for target in targets.split(","):
        check_target(target)
    if len(set(targets.split(","))) != len(targets.split(",")):
        raise ValueError("name every gateway once")
    return targets


def check_target(target: str) -> None:
    """Raises ValueError where this is not HOST:PORT."""
    host, colon, port = target.rpartition(":")
    if not host or not colon or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValueError("use HOST:PORT with a port from 1 to 65535, such as 127.0.0.1:8421; commas between several")


def _bytes(value: int | str) -> int:
    """``2GiB``, ``500MB`` or a plain number."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?([KMGT]i?B)?|([0-9]{1,15})", str(value))
    if match is None:
        raise ValueError("use a size such as 2GiB, 500MB or 1073741824")
    base = 1024 if "i" in (match[2] or "") else 1000
    return int(float(match[1] or match[3]) * base ** ("KMGT".index(match[2][0]) + 1 if match[2] else 0))


Name = Annotated[str, AfterValidator(_checked_name)]
Target = Annotated[str, AfterValidator(_checked_target)]
Targets = Annotated[str, AfterValidator(_checked_targets)]


class CompileWhen(StrEnum):
    """When compiled forms are made."""

    FIRST = "first"
    BESIDE = "beside"


class AcceptModels(StrEnum):
    """Which models that a gateway sends are taken."""

    NEVER = "never"
    SANDBOXED = "sandboxed"
    ALWAYS = "always"


class NodeConfig(BaseModel):
    """Everything that `python -m nodes run` can be told.

    Attributes:
        gateway: HOST:PORT of the gateway's gRPC port; of several that share their store, commas between them.
        profile: A shipped device profile by name, or the path of a .json file.
        experts: Names from the catalogue; empty for all of it.
        models: Folder of experts; None for the ones that ship.
        worker_python: Interpreter of the engine process.
        compile: Compiled forms of experts to offer as further arms, such as "int8" or "digits-wide:ort", made where
            they are not kept yet. "auto" leaves the choice to the node.
        compile_when: Before the node joins, or beside its work: it then serves the models as they came until then.
        compile_loss_points: Right answers that a compiled form may lose on held-out inputs, in points of a hundred.
        compile_cache: Folder of compiled files; None for the usual one.
        compile_cache_mib: What they may take; the longest unused leave first.
        gpu_python: Interpreter that builds and runs forms for a GPU, such as JetPack's own; None for `worker_python`.
        concurrency: Runs at once, each on one thread.
        texts_at_once: Texts that share the steps of the language models' one thread.
        kept_prompts_mib: What language models may keep of prompts that they have read, for those that begin alike; 0
            keeps none.
        memory_limit_bytes: What resident experts may take together; 0 for no limit.
        memory_budget_bytes: What loaded experts may take together: the least recently used leave for others; 0 for all.
        idle_unload_s: Idle seconds after which an expert leaves the memory; 0 for never.
        energy_trace: CSV file that the energy source `replay` follows.
        calibration: File that says what a meter at the plug showed against a board's own sensors.
        noise_seed: Of a profile's noise, where it has any.
        profiling_s: How long every arm is measured at the start.
        identity: Folder of the key and certificate with which the node proves who it is; None where there is no TLS.
        personal: Folder that users' own experts are kept in; None keeps none. Naming it is the node's opt-in.
        personal_expert: The expert that learns its users; "" for the best that can.
        personal_keep_h: Hours that an input waits for a correction.
        personal_keep_mib: What waiting inputs of all users may take together.
        personal_day_j: Joules a day that training may take.
        allow_suspend: Whether the gateway may put this machine to sleep.
        suspend_command: What does it; no shell reads it.
        suspend_settle_s: How long the machine may take to fall asleep after a command that returned at once.
        suspend_s: Seconds that falling asleep takes, once nothing runs any more.
        suspend_w: Watts in that time; None takes the idle watts.
        idle_w: Watts while it is awake and idle; None takes the profile's.
        sleep_w: Watts while it sleeps.
        wake_j: Joules of waking up.
        wake_s: Seconds from being woken until the node has joined again.
        wake_mac: Address of the network card that wakes it; None takes that of the default route, "" has none.
        wake_address: Where a magic packet for it is sent.
        relay_wake: Whether this node sends magic packets for others on its network.
        key_file: File of the key that the node shows to its gateway; read anew for every connection.
        accept_models: Whether models that the gateway sends are taken; `sandboxed` only where the kernel locks them in.
        model_store: Folder of such models; None for the node's own below $XDG_DATA_HOME.
        model_quota_mib: What they may take on the disk.
        model_memory_mib: What loaded ones may take together.
        model_run_s: How long one run of such a model may take; one that takes longer ends its process.
        openai: Address of an OpenAI-compatible server whose models are offered instead of the catalogue's experts.
        openai_key_file: File of the key that the server wants.
        openai_task: Task class that its models serve.
        model: Its models that are offered, each with what is known of it; empty for all.
        gguf: GGUF files that llama-server serves instead of the catalogue's experts, each with what is known of it.
        llama_server: The llama-server program; None for the one on the search path.
        context: Tokens of one text that it can hold; 0 for the file's own, up to 4096.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    gateway: Targets
    name: Name = Field(default_factory=default_name)
    profile: str | None = None
    experts: tuple[str, ...] = ()
    models: Path | None = None
    worker_python: Path = Path(sys.executable)
    compile: tuple[str, ...] = ()
    compile_when: CompileWhen = CompileWhen.FIRST
    compile_loss_points: float = Field(default=0.5, ge=0.0, le=100.0, allow_inf_nan=False)
    compile_cache: Path | None = None
    compile_cache_mib: int = Field(default=2048, ge=1, le=1_000_000)
    gpu_python: Path | None = None
    concurrency: int = Field(default=1, ge=1, le=64)
    texts_at_once: int = Field(default=8, ge=1, le=256)
    kept_prompts_mib: int = Field(default=32, ge=0, le=65_536)
    queue_limit: int = Field(default=64, ge=0, le=10_000)
    memory_limit_bytes: int = Field(default=0, ge=0)
    memory_budget_bytes: Annotated[int, BeforeValidator(_bytes)] = Field(default=0, ge=0)
    idle_unload_s: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    energy: EnergyMode = EnergyMode.AUTO
    energy_trace: Path | None = None
    calibration: Path | None = None
    noise_seed: int = Field(default=0, ge=0)
    profiling_s: float = Field(default=0.3, ge=0.05, le=10.0, allow_inf_nan=False)
    identity: Path | None = None
    personal: Path | None = None
    personal_expert: str = ""
    personal_keep_h: float = Field(default=24.0, ge=0.0, le=24.0, allow_inf_nan=False)
    personal_keep_mib: int = Field(default=64, ge=0, le=64)
    personal_day_j: float = Field(default=200.0, ge=0.0, allow_inf_nan=False)
    allow_suspend: bool = False
    suspend_command: str = "systemctl suspend"
    suspend_settle_s: float = Field(default=20.0, ge=0.0, le=600.0, allow_inf_nan=False)
    suspend_s: float = Field(default=5.0, ge=0.0, le=600.0, allow_inf_nan=False)
    suspend_w: float | None = Field(default=None, ge=0.0, le=1e5, allow_inf_nan=False)
    idle_w: float | None = Field(default=None, ge=0.0, le=1e5, allow_inf_nan=False)
    sleep_w: float = Field(default=0.0, ge=0.0, le=1e5, allow_inf_nan=False)
    wake_j: float = Field(default=0.0, ge=0.0, le=1e9, allow_inf_nan=False)
    wake_s: float = Field(default=30.0, ge=0.0, le=3600.0, allow_inf_nan=False)
    wake_mac: str | None = None
    wake_address: Target = "255.255.255.255:9"
    relay_wake: bool = False
    key_file: Path | None = None
    accept_models: AcceptModels = AcceptModels.SANDBOXED
    model_store: Path | None = None
    model_quota_mib: int = Field(default=4096, ge=1, le=1_048_576)
    model_memory_mib: int = Field(default=2048, ge=64, le=1_048_576)
    model_run_s: float = Field(default=10.0, ge=0.1, le=600.0, allow_inf_nan=False)
    openai: str | None = None
    openai_key_file: Path | None = None
    openai_task: Name = "chat"
    model: tuple[str, ...] = ()
    gguf: tuple[str, ...] = ()
    llama_server: Path | None = None
    context: int = Field(default=0, ge=0, le=10_000_000)

    @model_validator(mode="after")
    def _one_kind(self) -> NodeConfig:
        if self.memory_budget_bytes and self.openai is not None:
            raise ValueError("--memory-budget: the memory of a server that runs already is its own business")
        if self.memory_budget_bytes and self.personal is not None:
            raise ValueError("--personal needs its expert in memory all the time; leave out --memory-budget")
        if self.gguf and self.openai is not None:
            raise ValueError(
                "offer either the models of a server (--openai) or GGUF files (--gguf); run two nodes for both"
            )
        return self

    @property
    def gateways(self) -> tuple[str, ...]:
        """HOST:PORT of each."""
        return tuple(self.gateway.split(","))

    def key(self) -> str:
        """The node's key; "" where it has none or its file cannot be read: the gateway then says what it misses."""
        try:
            return self.key_file.read_text().strip() if self.key_file else ""
        except OSError:
            return ""


def parse_config(values: dict[str, Any]) -> NodeConfig:
    """Check the given settings; what is None or absent takes its default.

    Raises:
        ConfigError: names the first setting at fault and what would be right.
    """
    try:
        return NodeConfig.model_validate({key: value for key, value in values.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        text = first["msg"].removeprefix("Value error, ")
        flag = f"--{where.replace('_', '-')}: " if where else ""
        raise ConfigError(f"{flag}{text[0].lower()}{text[1:]}") from error
