"""What an agent that was told `--compile` does before it starts its engines."""

from __future__ import annotations

import structlog

from nodes.arms import Inventory
from nodes.compile.forms import parse_wishes
from nodes.compile.offering import with_compiled
from nodes.compile.pipeline import Bounds
from nodes.compile.room import Tools, pipeline
from nodes.config import NodeConfig
from nodes.inventory import read_catalogs
from nodes.zoo.catalog import Catalog

log = structlog.get_logger("nodes.compile")


def offered_inventory(config: NodeConfig, inventory: Inventory) -> Inventory:
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
