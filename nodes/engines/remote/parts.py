"""The parts of an agent that offers a server's models."""

from __future__ import annotations

import asyncio

from nodes.arms import Inventory
from nodes.config import NodeConfig
from nodes.energy.contract import Provenance
from nodes.energy.discovery import EnergyMode, EnergySource, RunsOn, Wanted, discover, this_device
from nodes.energy.meters.unmeasured import UnmeasuredMeter
from nodes.energy.profile import load_profile
from nodes.energy.sources import Places
from nodes.engines.remote.engine import POLL_S, RemoteEngine
from nodes.engines.remote.offer import RemoteModel, parse_model, remote_inventory
from nodes.engines.remote.offer import discover as discover_models
from nodes.engines.remote.server import Address, Server


def remote_parts(config: NodeConfig, url: str) -> tuple[RemoteEngine, EnergySource, Inventory]:
    """Engine, energy source and inventory. Blocks: the server is asked for its models. Not for a running event loop.

    Raises:
        ConfigError: if the address, a model or the HTTP client is wrong or missing.
        EngineError: if the server cannot be asked.
        EnergySourceMissing: if the energy source that was asked for cannot be read, or says nothing of this server.
    """
    address = Address(url, config.openai_key_file)
    models = asyncio.run(_models(address, [parse_model(text) for text in config.model]))
    inventory = remote_inventory(models, config.openai_task)
    names = {arm.key: model.model for arm, model in zip(inventory.arms, models, strict=True)}
    engine = RemoteEngine(
        Server(address), names, concurrency=config.concurrency, queue_limit=config.queue_limit, poll_s=POLL_S
    )
    return engine, remote_energy(config, address), inventory


async def _models(address: Address, wanted: list[RemoteModel]) -> tuple[RemoteModel, ...]:
    server = Server(address)
    try:
        return await discover_models(server, wanted)
    finally:
        await server.close()


def remote_energy(config: NodeConfig, address: Address) -> EnergySource:
    """A sensor of this machine where the server is on it, else nobody's: joules are then unmeasured.

    A device profile counts multiply-accumulates, of which a server tells none: it is of no use here.
    """
    places = Places(trace=config.energy_trace, calibration=config.calibration)
    profile = None if config.profile is None else load_profile(config.profile)
    if not address.is_here or config.energy is not EnergyMode.AUTO:
        runs_on = RunsOn.GPU if address.is_here else RunsOn.ELSEWHERE
        return _sensed(discover(Wanted(config.energy, profile, runs_on, config.noise_seed), places))
    found = _sensed(discover(Wanted(config.energy, None, RunsOn.GPU), places))
    if found.meter.provenance is not Provenance.UNMEASURED:
        return found
    # Without a GPU that can be read, a server here runs on the CPU.
    return _sensed(discover(Wanted(config.energy, None, RunsOn.CPU), places))


def _sensed(source: EnergySource) -> EnergySource:
    if source.meter.provenance is not Provenance.MODELLED:
        return source
    why = "a profile counts multiply-accumulates, which the server does not tell"
    return EnergySource(UnmeasuredMeter(), this_device(), False, why, problem=why)
