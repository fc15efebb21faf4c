"""An agent as `python -m nodes run`, but without evidence of its experts: a gateway plans with what they announce and
learns nothing, which would take it seconds. Arguments: gateway, name, experts (comma-separated), and the folder of
those that do not ship."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from nodes.agent.agent import Agent
from nodes.agent.parts import Parts, build_parts
from nodes.config import parse_config


def unread(parts: Parts) -> Parts:
    """The parts without evidence."""
    tasks = tuple(replace(task, reference_digest="") for task in parts.inventory.tasks)
    arms = tuple(replace(arm, evidence_digest="") for arm in parts.inventory.arms)
    return replace(parts, inventory=replace(parts.inventory, tasks=tasks, arms=arms, evidence={}))


async def main(gateway: str, name: str, experts: str, folder: str = "") -> None:
    """Serve until killed."""
    settings = {"gateway": gateway, "name": name, "experts": tuple(experts.split(",")), "profiling_s": 0.05}
    models = {"models": Path(folder)} if folder else {}
    config = parse_config({**settings, **models, "profile": "laptop-cpu", "energy": "modelled"})
    agent = Agent(config, unread(build_parts(config)))
    await agent.prepare()
    await agent.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
