"""The fleet file: devices with their experts, how many nodes there are of each, and what requests may spend.

A device's joules may come from a device profile (the JSON files that nodes read): ``profile: FILE`` beside ``macs`` of
an expert.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from orchestrator.config import Admission, EnergyLimit, Nodes, Promise, Retries, TaskBudget, TaskName
from orchestrator.config_access import Section
from orchestrator.config_errors import ConfigError
from orchestrator.config_layers import read_file
from orchestrator.longrun import LongRun
from orchestrator.simulation.world import Device, Expert, GatewayTraits, TaskClass, World
from orchestrator.study.errors import StudyError
from orchestrator.types import BudgetRequest, OnInfeasible

MOST_NODES = 100_000

Milliseconds = Annotated[float, Field(gt=0.0, le=3_600_000.0)]
Count = Annotated[int, Field(ge=0, le=MOST_NODES)]


class ExpertEntry(Section):
    """An expert on a device: two quantiles or recorded milliseconds, and joules or multiply-accumulates."""

    task: TaskName
    quality: float = Field(ge=0.0, le=1.0)
    p50_ms: Milliseconds | None = None
    p95_ms: Milliseconds | None = None
    samples_ms: list[Milliseconds] = Field(default_factory=list)
    energy_j: EnergyLimit | None = None
    macs: int | None = Field(default=None, gt=0)
    energy_sigma: float = Field(default=0.0, ge=0.0, le=2.0)

    @model_validator(mode="after")
    def _times(self) -> Self:
        if bool(self.samples_ms) == (self.p50_ms is not None or self.p95_ms is not None):
            raise ValueError("give p50_ms and p95_ms, or samples_ms")
        if not self.samples_ms and (self.p50_ms is None or self.p95_ms is None or self.p95_ms < self.p50_ms):
            raise ValueError("p95_ms and p50_ms belong together, and p95_ms must not be less than p50_ms")
        if self.energy_j is not None and self.macs is not None:
            raise ValueError("give energy_j or macs, not both")
        return self


class DeviceEntry(Section):
    """A kind of node."""

    experts: dict[TaskName, ExpertEntry] = Field(min_length=1)
    concurrency: int = Field(default=1, ge=1, le=1024)
    queue_limit: int = Field(default=64, ge=0, le=65_536)
    idle_w: float | None = Field(default=None, ge=0.0, le=1e6)
    slowdown: list[Annotated[float, Field(ge=1.0, le=1000.0)]] = Field(default=[1.0], min_length=1)
    profile: str | None = None


class TaskEntry(TaskBudget):
    """A kind of request: its share of all, and what the configuration of a gateway would say of its budget."""

    share: float = Field(default=1.0, gt=0.0, le=1e6)
    average_energy_j: float | None = Field(default=None, gt=0.0, le=1e9)
    average_power_w: float | None = Field(default=None, gt=0.0, le=1e6)
    deadline_s: float = Field(default=10.0, gt=0.0, le=3600.0)

    @model_validator(mode="after")
    def _one_long_run(self) -> Self:
        if self.average_energy_j is not None and self.average_power_w is not None:
            raise ValueError("a long-run budget is average_energy_j or average_power_w, not both")
        return self


class GatewayEntry(Section):
    """The gateway; the keys are those of its configuration."""

    admission: Admission = Admission()
    retries: Retries = Retries()
    promise: Promise = Promise()
    nodes: Nodes = Nodes()
    hop_ms: float = Field(default=2.0, ge=0.0, le=60_000.0)


class FleetEntry(Section):
    """The whole file."""

    devices: dict[TaskName, DeviceEntry] = Field(min_length=1)
    nodes: dict[TaskName, Count]
    tasks: dict[TaskName, TaskEntry] = Field(default_factory=dict)
    gateway: GatewayEntry = GatewayEntry()


def read_fleet(path: Path) -> World:
    """The world of a fleet file (YAML or JSON).

    Raises:
        StudyError: The file cannot be read, or a key is unknown, missing or out of range; names file and path.
    """
    try:
        entry = FleetEntry.model_validate(read_file(path))
    except ConfigError as error:
        raise _refused(path, str(error).removeprefix(f"{path} ")) from error
    except ValidationError as error:
        raise _refused(path, _first(error)) from error
    devices = {name: _device(name, device, path) for name, device in entry.devices.items()}
    tasks = {expert.task for device in devices.values() for expert in device.experts}
    _check_known(path, "nodes", entry.nodes, devices)
    _check_known(path, "tasks", entry.tasks, tasks)
    world = World(devices, (), _tasks(entry, sorted(tasks)), _gateway(entry.gateway))
    for name, count in entry.nodes.items():
        world = world.add(name, count)
    if not 0 < len(world.nodes) <= MOST_NODES:
        raise _refused(path, f"nodes: there are {len(world.nodes)} in all; allowed: 1 to {MOST_NODES}")
    return world


def _refused(path: Path, why: str) -> StudyError:
    return StudyError(f"{path.name}: {why}", "see deploy/docs/simulate.md for all keys", what="fleet refused")


def _first(error: ValidationError) -> str:
    report = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in report["loc"] if part != "[key]") or "the file"
    if report["type"] == "extra_forbidden":
        return f"{where}: there is no such key"
    message = str(report["msg"]).removeprefix("Value error, ")
    return f"{where}: {message[:1].lower()}{message[1:]}"


def _check_known(path: Path, key: str, named: object, known: object) -> None:
    unknown = sorted(set(named) - set(known))  # type: ignore[call-overload]
    if unknown:
        kind = "device" if key == "nodes" else "expert of a task"
        names = ", ".join(sorted(known))  # type: ignore[call-overload]
        raise _refused(path, f"{key}.{unknown[0]}: there is no {kind} of this name; known are {names}")


def _device(name: str, entry: DeviceEntry, path: Path) -> Device:
    constants = None if entry.profile is None else _profile(path, name, entry.profile)
    experts = tuple(_expert(expert, one, constants, f"devices.{name}", path) for expert, one in entry.experts.items())
    idle_w = entry.idle_w if entry.idle_w is not None or constants is None else constants.idle_w
    return Device(name, experts, entry.concurrency, entry.queue_limit, idle_w, tuple(entry.slowdown))


class ProfileConstants(Section):
    """What a device profile says that matters here; its other keys are the nodes' business."""

    model_config = ConfigDict(extra="ignore")

    j_per_mac: float = Field(gt=0.0)
    overhead_j: float = Field(ge=0.0)
    idle_w: float | None = Field(default=None, ge=0.0)


def _profile(path: Path, device: str, named: str) -> ProfileConstants:
    file = path.parent / named
    try:
        return TypeAdapter(ProfileConstants).validate_python(json.loads(file.read_bytes()))
    except OSError as error:
        why = (error.strerror or "unknown cause").lower()
        raise _refused(path, f"devices.{device}.profile: {named} cannot be read: {why}") from error
    except ValidationError as error:
        raise _refused(path, f"devices.{device}.profile: {named}: {_first(error)}") from error
    except ValueError as error:
        raise _refused(path, f"devices.{device}.profile: {named} is not valid JSON") from error


def _expert(name: str, entry: ExpertEntry, constants: ProfileConstants | None, where: str, path: Path) -> Expert:
    energy_j = entry.energy_j
    if entry.macs is not None:
        if constants is None:
            raise _refused(path, f"{where}.experts.{name}.macs: joules of them need {where}.profile")
        energy_j = constants.overhead_j + constants.j_per_mac * entry.macs
    samples = tuple(sorted(entry.samples_ms))
    p50_ms, p95_ms = entry.p50_ms or _quantile(samples, 0.5), entry.p95_ms or _quantile(samples, 0.95)
    return Expert(name, entry.task, entry.quality, p50_ms, p95_ms, energy_j, entry.energy_sigma, samples)


def _quantile(ordered: tuple[float, ...], fraction: float) -> float:
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def _tasks(entry: FleetEntry, names: list[str]) -> tuple[TaskClass, ...]:
    """The tasks that are named; all that have experts where none is."""
    if not entry.tasks:
        return tuple(TaskClass(name) for name in names)
    return tuple(_task(name, task) for name, task in entry.tasks.items())


def _task(name: str, entry: TaskEntry) -> TaskClass:
    policy = None if entry.on_infeasible is None else OnInfeasible(entry.on_infeasible)
    budget = BudgetRequest(entry.max_energy_j, entry.max_latency_ms, policy, entry.profile)
    long_run = LongRun(entry.average_energy_j, entry.average_power_w)
    return TaskClass(name, entry.share, budget, long_run, entry.deadline_s)


def _gateway(entry: GatewayEntry) -> GatewayTraits:
    return GatewayTraits(
        max_running=entry.admission.max_running,
        max_queued=entry.admission.max_queued,
        max_attempts=entry.retries.max_attempts if entry.retries.enabled else 1,
        suspect_after_s=entry.retries.suspect_after_s,
        energy_quantile=entry.promise.energy_quantile,
        latency_quantile=entry.promise.latency_quantile,
        lease_s=entry.nodes.lease_s,
        hop_ms=entry.hop_ms,
    )
