"""The parts of an agent that serves GGUF files with llama-server."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nodes.arms import ArmSpec, Inventory, TaskSpec, TextTraits
from nodes.config import NodeConfig
from nodes.energy.contract import Provenance
from nodes.energy.discovery import EnergyMode, EnergySource, RunsOn, Wanted, discover
from nodes.energy.profile import load_profile
from nodes.energy.sources import Places
from nodes.engines.llama.child import LlamaCommand
from nodes.engines.llama.engine import LlamaEngine
from nodes.engines.llama.header import GgufHeader, read_header
from nodes.engines.remote.offer import RemoteModel, parse_model
from nodes.errors import ConfigError

ENGINE, VARIANT, PROGRAM = "llama", "gguf", "llama-server"
# A longer context than this costs memory that most texts never need; --context asks for more.
DEFAULT_CONTEXT_TOKENS = 4096
# llama-server tells the probabilities of tokens, whatever the model.
ALWAYS_CAN = ("logprobs",)


@dataclass(frozen=True)
class GgufModel:
    """One file and what is known of it."""

    file: Path
    header: GgufHeader
    described: RemoteModel
    context_tokens: int

    @property
    def arm(self) -> ArmSpec:
        """What the gateway is told of it; the digest is that of the head, since whole files take minutes to hash."""
        known = self.described
        identity = f"{self.header.file_bytes} {sorted(self.header.shapes.items())} {self.header.metadata}"
        return ArmSpec(
            expert=known.expert,
            variant=VARIANT,
            task="",
            engine=ENGINE,
            macs=self.header.macs_per_token,
            memory_bytes=self.header.file_bytes,
            quality_fraction=known.quality_fraction,
            quality_samples=0,
            model_file=self.file,
            model_digest=hashlib.sha256(identity.encode()).hexdigest(),
            text=TextTraits(
                context_tokens=self.context_tokens,
                capabilities=tuple(dict.fromkeys((*ALWAYS_CAN, *known.capabilities))),
            ),
            tags=known.tags,
        )


def llama_parts(config: NodeConfig) -> tuple[LlamaEngine, EnergySource, Inventory]:
    """Engine, energy source and inventory. Blocks: heads of files are read.

    Raises:
        ConfigError: if the program or a file is missing or wrong.
        EnergySourceMissing: if the energy source that was asked for cannot be read.
    """
    server = find_server(config.llama_server)
    models = [parse_gguf(text, config.context) for text in config.gguf]
    inventory = llama_inventory(models, config.openai_task)
    commands = {
        arm.key: LlamaCommand(server, model.file, arm.expert, model.context_tokens, config.concurrency)
        for arm, model in zip(inventory.arms, models, strict=True)
    }
    return LlamaEngine(commands, queue_limit=config.queue_limit), llama_energy(config), inventory


def find_server(given: Path | None) -> Path:
    """The program: the one named, else the one on the search path.

    Raises:
        ConfigError: if there is none.
    """
    found = shutil.which(given or PROGRAM)
    if found is None:
        where = f"{given} cannot be run" if given else f"no {PROGRAM} on the search path"
        raise ConfigError(f"--llama-server: {where}; name llama.cpp's server, or build one with deploy/llama.py")
    return Path(found).resolve()


def parse_gguf(text: str, context_tokens: int) -> GgufModel:
    """``FILE[,quality=0.7][,context=8192][,can=tools][,tag=private]``.

    Args:
        context_tokens: Where the text says nothing; 0 takes the model's own, up to 4096.

    Raises:
        ConfigError: says what would be right.
    """
    described = parse_model(text)
    file = Path(described.model).expanduser().resolve()
    header = read_header(file)
    own = header.context_tokens or DEFAULT_CONTEXT_TOKENS
    wanted = described.context_tokens or context_tokens or min(own, DEFAULT_CONTEXT_TOKENS)
    if wanted > own:
        raise ConfigError(f"--context: {file.name} was made for {own} tokens, not for {wanted}; ask for {own} or less")
    named = RemoteModel(
        header.name or file.stem, described.quality_fraction, described.capabilities, wanted, described.tags
    )
    return GgufModel(file, header, named, wanted)


def llama_inventory(models: Sequence[GgufModel], task: str) -> Inventory:
    """What the gateway is told.

    Raises:
        ConfigError: if two files have one name.
    """
    arms = tuple(replace(model.arm, task=task) for model in models)
    if len({arm.key for arm in arms}) != len(arms):
        raise ConfigError("--gguf: two files have one name inside; offer one of them, or rename one in its metadata")
    return Inventory((TaskSpec(task, text=True),), arms, {})


def llama_energy(config: NodeConfig) -> EnergySource:
    """A GPU's sensor where one can be read, else the processor's, else the profile: the work of a token is known."""
    places = Places(trace=config.energy_trace, calibration=config.calibration)
    profile = None if config.profile is None else load_profile(config.profile)
    if config.energy is EnergyMode.AUTO:
        on_gpu = discover(Wanted(config.energy, None, RunsOn.GPU, config.noise_seed), places)
        if on_gpu.meter.provenance is not Provenance.UNMEASURED:
            return on_gpu
    runs_on = RunsOn.GPU if config.energy is EnergyMode.NVML else RunsOn.CPU
    return discover(Wanted(config.energy, profile, runs_on, config.noise_seed), places)
