"""What an office is told and what it works with: settings, the engine, and which global expert is personalised."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nodes.arms import ArmSpec, Inventory
from nodes.engines.contract import Job, JobResult
from nodes.errors import ConfigError
from nodes.personal.keeping import Bounds
from nodes.personal.network import Floats, Network
from nodes.personal.onnx_file import NotPersonal, read_network


class Host(Protocol):
    """The engine as an office needs it."""

    @property
    def running(self) -> int:
        """Runs now."""
        ...

    @property
    def queued(self) -> int:
        """Waits."""
        ...

    async def infer(self, job: Job) -> JobResult:
        """Run one job."""
        ...

    async def attach(self, arm: str, model: bytes) -> None:
        """Load a model from memory."""
        ...

    def detach(self, arm: str) -> None:
        """Forget it."""
        ...


@dataclass(frozen=True)
class Settings:
    """What the operator said.

    Attributes:
        folder: Where users are kept; naming it is the opt-in.
        expert: The global expert; "" for the best that can be personalised.
        day_j: Joules a day that training may take.
        models: Folder of experts; None for those that ship.
        shared: Whether local experts are inputs of one graph; None measures which form is better on this node.
    """

    folder: Path
    node: str
    expert: str = ""
    bounds: Bounds = field(default_factory=Bounds)
    day_j: float = 200.0
    models: Path | None = None
    shared: bool | None = None


def choose(settings: Settings, inventory: Inventory) -> tuple[ArmSpec, Network, dict[str, Floats]]:
    """The global expert: the one that was named, or the best of those that can be personalised.

    Raises:
        ConfigError: There is none.
    """
    found = []
    for arm in inventory.arms:
        task = inventory.task(arm.task)
        if arm.model_file is None or task.input is None or settings.expert not in ("", arm.expert):
            continue
        try:
            network, weights = read_network(arm.model_file.read_bytes(), task.input.shape[-1])
        except (NotPersonal, OSError) as error:
            if settings.expert:
                raise ConfigError(f"--personal-expert: {arm.expert} cannot be personalised: {error}") from error
            continue
        found.append((arm.quality_fraction, -arm.macs, arm, network, weights))
    if not found:
        raise ConfigError("--personal: no expert of this node can be personalised; name one with --personal-expert")
    _, _, arm, network, weights = max(found, key=lambda one: one[:2])
    return arm, network, weights
