"""What an agent that was told `--compile` does before it starts its engines."""

from __future__ import annotations

import structlog

from nodes.arms import Inventory
from nodes.compile.bench import GPU_SERVE
from nodes.compile.forms import Runtime, parse_wishes
from nodes.compile.offering import with_compiled
from nodes.compile.pipeline import Bounds
from nodes.compile.room import Tools, pipeline
from nodes.config import CompileWhen, NodeConfig
from nodes.energy.discovery import RunsOn
from nodes.engines.child import Limits
from nodes.engines.contract import Engine
from nodes.engines.onnx import OnnxEngine
from nodes.engines.process import WorkerCommand
from nodes.inventory import read_catalogs
from nodes.zoo.catalog import Catalog

GPU_ENGINES = {str(runtime) for runtime in Runtime if runtime.on_gpu}

log = structlog.get_logger("nodes.compile")


def offered_inventory(config: NodeConfig, inventory: Inventory) -> Inventory:
    """The inventory that a node starts with: compiled arms in it, unless they come later. Raises as `with_forms`."""
    wishes = parse_wishes(config.compile)  # Read in any case: what is no form is said at once.
    return inventory if not wishes or config.compile_when is CompileWhen.BESIDE else with_forms(config, inventory)


def with_forms(config: NodeConfig, inventory: Inventory) -> Inventory:
    """The inventory with the compiled arms that the settings ask for; unchanged where they ask for none. Blocks.

    Raises:
        ConfigError, CompileError: See `with_compiled`.
    """
    wishes = parse_wishes(config.compile)
    if not wishes:
        return inventory
    catalogs = [catalog for catalog in read_catalogs(config.models) if isinstance(catalog, Catalog)]
    tools = Tools(config.worker_python, config.gpu_python, config.compile_cache, config.compile_cache_mib)
    bounds = Bounds(config.compile_loss_points)
    with pipeline(tools, bounds, lambda step: log.info("compiling", step=step)) as opened:
        return with_compiled(inventory, catalogs, wishes, opened)


def gpu_engines(config: NodeConfig, inventory: Inventory) -> dict[str, Engine]:
    """One process for all arms on a GPU: what a GPU does to it reaches no other arm, and its Python may be another."""
    needed = _engines(config, inventory) & GPU_ENGINES
    if not needed:
        return {}
    command = WorkerCommand(config.gpu_python or config.worker_python, config.concurrency, GPU_SERVE)
    return dict.fromkeys(needed, OnnxEngine(command, Limits(queue_limit=config.queue_limit)))


def runs_on(config: NodeConfig, inventory: Inventory) -> RunsOn:
    """What the arms' joules are measured on: unless some run on a GPU, what one draws is not this node's doing."""
    engines = _engines(config, inventory)
    if not engines & GPU_ENGINES:
        return RunsOn.CPU
    if engines - GPU_ENGINES:
        log.warning("joules are the GPU's", why="arms on the CPU are charged what the GPU draws beside them")
    return RunsOn.GPU


def _engines(config: NodeConfig, inventory: Inventory) -> set[str]:
    """Engines of the arms that there are, and of those that were asked for by name and come later."""
    forms = [wish.form for wish in parse_wishes(config.compile) if wish.form is not None]
    later = {str(form.runtime) for form in forms if form.runtime.on_gpu}
    return {arm.engine for arm in inventory.arms} | (later if config.compile_when is CompileWhen.BESIDE else set())
