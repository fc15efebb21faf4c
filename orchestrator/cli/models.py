"""`edgewise models`: which experts may be asked by name, where they run and what they cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from orchestrator.cli.context import Session, gateway_option, output_option

if TYPE_CHECKING:
    from orchestrator.client.types import ArmStatus, NodeStatus


@click.group(short_help="Experts that may be asked by name.")
def models() -> None:
    """Experts that may be asked by name."""


@models.command("list")
@gateway_option
@click.option("--task", help="Only those of one task.")
@output_option
@click.pass_obj
def list_models(session: Session, *, task: str | None, output: str) -> None:
    """List experts, by task and name."""
    from orchestrator.cli.output import console, energy_text, percent, print_json, safe, table
    from orchestrator.types import Energy
    from orchestrator.units import format_duration_ms

    with session.client() as client:
        nodes = client.status().nodes
    arms = [(arm, node.node) for arm, node in arms_of(nodes) if task in (None, arm.task)]
    if output == "json":
        keys = ("expert", "variant", "task", "engine", "quality_fraction", "predicted_ms", "predicted_energy_j")
        print_json([{**{key: getattr(arm, key) for key in keys}, "node": node} for arm, node in arms])
        return
    rows = table(None, ("model", "task", "node", "engine", ">quality", ">energy", ">time"))
    for arm, node in arms:
        rows.add_row(
            safe(arm.expert),
            safe(arm.task),
            safe(node),
            safe(arm.engine),
            percent(arm.quality_fraction),
            energy_text(Energy(arm.predicted_energy_j, arm.energy_provenance, "")),
            format_duration_ms(arm.predicted_ms),
        )
    console(color=session.color).print(rows)


def arms_of(nodes: Iterable[NodeStatus]) -> list[tuple[ArmStatus, NodeStatus]]:
    """The arms of the nodes that are there, by task and name."""
    arms = [(arm, node) for node in nodes if node.state != "offline" for arm in node.arms]
    return sorted(arms, key=lambda pair: (pair[0].task, pair[0].expert, pair[1].node))
