"""What an agent is made of: engines, energy source and experts, as the settings ask for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from nodes.arms import ArmProfile, Inventory
from nodes.compile.agent import gpu_engines, offered_inventory, runs_on
from nodes.config import NodeConfig
from nodes.energy.contract import Meter
from nodes.energy.discovery import EnergySource, Wanted, discover
from nodes.energy.profile import load_profile
from nodes.energy.sources import Places
from nodes.engines import onnx_lm
from nodes.engines.child import Limits
from nodes.engines.contract import Engine
from nodes.engines.onnx import OnnxEngine
from nodes.engines.process import WorkerCommand
from nodes.engines.remote.measuring import profile_texts
from nodes.engines.remote.parts import remote_parts
from nodes.engines.several import SeveralEngines
from nodes.errors import ConfigError
from nodes.inventory import check_memory, load_inventory
from nodes.personal.choosing import Settings
from nodes.personal.keeping import HOUR_S, MIB, Bounds
from nodes.personal.office import Office

TENSOR_ENGINES = {"onnx", "chain"}


@dataclass(frozen=True)
class Parts:
    """What an agent is made of; tests bring their own.

    Attributes:
        measure: Measures the arms where the usual way does not do; None takes that.
    """

    engine: Engine
    energy: EnergySource
    inventory: Inventory
    measure: Callable[[Engine, Meter, Inventory], Awaitable[dict[str, ArmProfile]]] | None = None
    personal: Office | None = None


def build_parts(config: NodeConfig) -> Parts:
    """The parts that the settings ask for. Blocks: files are read, idle power may be measured.

    Raises:
        ConfigError: if a profile, an expert or the memory limit does not fit.
        EnergySourceMissing: if the energy source that was asked for cannot be read.
    """
    if config.openai is not None:
        return Parts(*remote_parts(config, config.openai), measure=profile_texts)
    profile = None if config.profile is None else load_profile(config.profile)
    inventory = load_inventory(config.models, config.experts)
    learning, inventory = inventory, offered_inventory(config, inventory)
    check_memory(inventory, config.memory_limit_bytes)
    tensors = _tensor_engine(config, inventory)
    engine = _joined_engine(config, inventory, tensors)
    wanted = Wanted(config.energy, profile, runs_on(config, inventory), config.noise_seed)
    places = Places(trace=config.energy_trace, calibration=config.calibration)
    source = discover(wanted, places)
    personal = None
    if config.personal is not None:
        if tensors is None:
            raise ConfigError("--personal: this node has no experts for tensors, which are the ones that learn a user")
        personal = Office(_personal_settings(config, config.personal), learning, tensors, source.meter)
    return Parts(engine, source, inventory, personal=personal)


def _personal_settings(config: NodeConfig, folder: Path) -> Settings:
    return Settings(
        folder=folder,
        node=config.name,
        expert=config.personal_expert,
        bounds=Bounds(config.personal_keep_h * HOUR_S, config.personal_keep_mib * MIB),
        day_j=config.personal_day_j,
        models=config.models,
    )


def _tensor_engine(config: NodeConfig, inventory: Inventory) -> OnnxEngine | None:
    """The engine of experts that take tensors, if there are any; one process runs files of every such kind."""
    if not any(arm.engine in TENSOR_ENGINES for arm in inventory.arms):
        return None
    return OnnxEngine(WorkerCommand(config.worker_python, config.concurrency), Limits(queue_limit=config.queue_limit))


def _joined_engine(config: NodeConfig, inventory: Inventory, tensors: OnnxEngine | None) -> Engine:
    """The engines that the arms need; one that is alone needs nobody to hand it its jobs."""
    needed = {arm.engine for arm in inventory.arms}
    engines: dict[str, Engine] = {}
    if tensors is not None:
        engines |= dict.fromkeys(needed & TENSOR_ENGINES, tensors)
    if "onnx-lm" in needed:
        command = WorkerCommand(config.worker_python, config.texts_at_once, onnx_lm.SERVE)
        engines["onnx-lm"] = onnx_lm.OnnxTextEngine(command, Limits(queue_limit=config.queue_limit))
    engines |= gpu_engines(config, inventory)
    alone = set(engines.values())
    return alone.pop() if len(alone) == 1 else SeveralEngines(engines)
