"""What an agent is made of, and how its settings become that."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from nodes.arms import ArmProfile, Inventory
from nodes.artifacts.keeper import ModelKeeper
from nodes.artifacts.rehearsal import Cage
from nodes.artifacts.store import ModelStore
from nodes.compile.agent import gpu_engines, offered_inventory, runs_on
from nodes.compile.room import default_cache
from nodes.config import AcceptModels, NodeConfig
from nodes.energy.contract import Meter
from nodes.energy.discovery import EnergySource, Wanted, discover
from nodes.energy.profile import load_profile
from nodes.energy.sources import Places
from nodes.engines import onnx_lm
from nodes.engines.child import Limits
from nodes.engines.contract import Engine
from nodes.engines.guests import EngineWithGuests
from nodes.engines.llama.parts import llama_parts
from nodes.engines.onnx import OnnxEngine
from nodes.engines.process import WorkerCommand
from nodes.engines.remote.measuring import profile_texts
from nodes.engines.remote.parts import remote_parts
from nodes.engines.several import SeveralEngines
from nodes.errors import ConfigError
from nodes.identity.folder import default_root
from nodes.inventory import check_memory, load_inventory
from nodes.personal.choosing import Settings
from nodes.personal.keeping import HOUR_S, MIB, Bounds
from nodes.personal.office import Office
from nodes.personal.text.office import ENGINE, TextOffice
from nodes.residency.engine import ResidentEngine, with_budget
from nodes.worker.lockdown import Rules

TENSOR_ENGINES = {"onnx", "chain"}
# Two crashes with the same model running: one may have been another's doing.
CRASHES_OF_GUESTS = 2
# Where runtimes look for the processor's caches and cores.
PROCESSOR = ("/sys/devices/system/cpu",)


@dataclass(frozen=True)
class Parts:
    """What an agent is made of; tests bring their own.

    Attributes:
        measure: Measures the arms where the usual way does not do; None takes that.
        models: Takes models that the gateway sends; None where the operator does not want any.
    """

    engine: Engine
    energy: EnergySource
    inventory: Inventory
    measure: Callable[[Engine, Meter, Inventory], Awaitable[dict[str, ArmProfile]]] | None = None
    personal: Office | None = None
    personal_texts: TextOffice | None = None
    models: ModelKeeper | None = None

    @property
    def offices(self) -> tuple[Office | TextOffice, ...]:
        """Who lets experts learn their users."""
        return tuple(office for office in (self.personal, self.personal_texts) if office is not None)

    @property
    def resident(self) -> ResidentEngine | None:
        """The node's own engine where it has a budget of memory, else None."""
        own = self.engine.own if isinstance(self.engine, EngineWithGuests) else self.engine
        return own if isinstance(own, ResidentEngine) else None


def build_parts(config: NodeConfig) -> Parts:
    """The parts that the settings ask for. Blocks: files are read, idle power may be measured.

    Raises:
        ConfigError: if a profile, an expert or the memory limit does not fit.
        EnergySourceMissing: if the energy source that was asked for cannot be read.
    """
    if config.openai is not None:
        return Parts(*remote_parts(config, config.openai), measure=profile_texts)
    if config.gguf:
        llama, source, inventory = llama_parts(config)
        return Parts(with_budget(llama, config, source.meter), source, inventory, measure=profile_texts)
    profile = None if config.profile is None else load_profile(config.profile)
    inventory = load_inventory(config.models, config.experts)
    learning, inventory = inventory, offered_inventory(config, inventory)
    check_memory(inventory, config.memory_limit_bytes)
    tensors, texts = _tensor_engine(config, inventory), _text_engine(config, inventory)
    engine = _joined_engine(config, inventory, tensors, texts)
    wanted = Wanted(config.energy, profile, runs_on(config, inventory), config.noise_seed)
    places = Places(trace=config.energy_trace, calibration=config.calibration)
    source = discover(wanted, places)
    personal, personal_texts = _offices(config, learning, tensors, texts, source.meter)
    engine = with_budget(engine, config, source.meter)
    models = None
    if config.accept_models is not AcceptModels.NEVER:
        models = _keeper(config, engine, inventory, source.meter)
        engine = models.engine
    return Parts(engine, source, inventory, personal=personal, personal_texts=personal_texts, models=models)


def _keeper(config: NodeConfig, own: Engine, inventory: Inventory, meter: Meter) -> ModelKeeper:
    """Takes what the gateway sends; runs it beside the node's own engine, in a process of its own."""
    cage = Cage(
        config.worker_python,
        memory_bytes=config.model_memory_mib * MIB,
        run_s=config.model_run_s,
        locked=config.accept_models is AcceptModels.SANDBOXED,
    )
    limits = cage.limits(queue_limit=config.queue_limit, quarantine_after=CRASHES_OF_GUESTS)
    guests = OnnxEngine(cage.command(slots=config.concurrency), limits)
    folder = config.model_store or default_root(os.environ) / config.name / "models"
    store = ModelStore(folder, quota_bytes=config.model_quota_mib * MIB)
    return ModelKeeper(
        store, EngineWithGuests(own, guests), inventory, meter=meter, cage=cage, profiling_s=config.profiling_s
    )


def _offices(
    config: NodeConfig,
    inventory: Inventory,
    tensors: OnnxEngine | None,
    texts: onnx_lm.OnnxTextEngine | None,
    meter: Meter,
) -> tuple[Office | None, TextOffice | None]:
    """Who lets experts of pictures and of texts learn their users: the expert that is named, else the best of each."""
    if config.personal is None:
        return None, None
    settings, named = _personal_settings(config, config.personal), config.personal_expert
    decoders = [arm for arm in inventory.arms if arm.engine == ENGINE and str(arm.model_file).endswith(".onnx")]
    of_texts = {arm.expert for arm in decoders}
    texts = texts if decoders else None
    if texts is not None and named in of_texts:
        return None, TextOffice(settings, inventory, texts, meter)
    if tensors is None and (texts is None or named):
        raise ConfigError("--personal: this node has no expert that can learn a user")
    pictures = None if tensors is None else Office(settings, inventory, tensors, meter)
    return pictures, TextOffice(settings, inventory, texts, meter) if texts is not None and not named else None


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
    command = WorkerCommand(config.worker_python, config.concurrency, rules=_rules(config, inventory))
    return OnnxEngine(command, Limits(queue_limit=config.queue_limit))


def _rules(config: NodeConfig, inventory: Inventory) -> Rules:
    """What the processes of the node's own experts may read; nothing else of the machine is their business."""
    folders = {arm.model_file.parent for arm in inventory.arms if arm.model_file is not None}
    if config.compile:
        # Compiled arms may come later, and only a folder that is there can be named.
        cache = config.compile_cache or default_cache()
        with contextlib.suppress(OSError):  # Whoever compiles says why it cannot be used.
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        folders.add(cache)
    return Rules(readable=tuple(sorted(str(folder) for folder in (*folders, *map(Path, PROCESSOR)) if folder.is_dir())))


def _text_engine(config: NodeConfig, inventory: Inventory) -> onnx_lm.OnnxTextEngine | None:
    """The engine of our own language models, if there are any."""
    if not any(arm.engine == ENGINE for arm in inventory.arms):
        return None
    command = WorkerCommand(config.worker_python, config.texts_at_once, onnx_lm.SERVE, _rules(config, inventory))
    limits, keep_bytes = Limits(queue_limit=config.queue_limit), config.kept_prompts_mib * 2**20
    return onnx_lm.OnnxTextEngine(command, limits, keep_bytes=keep_bytes)


def _joined_engine(
    config: NodeConfig, inventory: Inventory, tensors: OnnxEngine | None, texts: onnx_lm.OnnxTextEngine | None
) -> Engine:
    """The engines that the arms need; one that is alone needs nobody to hand it its jobs."""
    needed = {arm.engine for arm in inventory.arms}
    engines: dict[str, Engine] = {}
    if tensors is not None:
        engines |= dict.fromkeys(needed & TENSOR_ENGINES, tensors)
    if texts is not None:
        engines[ENGINE] = texts
    engines |= gpu_engines(config, inventory)
    alone = set(engines.values())
    return alone.pop() if len(alone) == 1 else SeveralEngines(engines)
