"""`edgewise models`: which experts may be asked by name, where they run and what they cost."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from orchestrator.cli.context import Session, gateway_option, output_option
from orchestrator.cli.params import SpanParam
from orchestrator.cli.pushing import list_pushed, push, remove

if TYPE_CHECKING:
    from orchestrator.client.types import ArmStatus, NodeStatus
    from orchestrator.residency import Residency

POLL_S = 0.2
VERBS = {
    "load": "Bring an expert into the memory of its nodes.",
    "unload": "Take an expert out of the memory of its nodes.",
    "pin": "Keep an expert in memory, whoever else needs room.",
    "unpin": "Let an expert leave the memory again.",
}


@click.group(short_help="Experts: list, load, pin; models of your own: push, remove.")
def models() -> None:
    """Experts that may be asked by name, and models of your own that you push to nodes."""


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
        print_json(
            [
                {**{key: getattr(arm, key) for key in keys}, "node": node, "residency": _told(arm.residency)}
                for arm, node in arms
            ]
        )
        return
    rows = table(None, ("model", "task", "node", "engine", ">quality", ">energy", ">time", "memory"))
    for arm, node in arms:
        rows.add_row(
            safe(arm.expert),
            safe(arm.task),
            safe(node),
            safe(arm.engine),
            percent(arm.quality_fraction),
            energy_text(Energy(arm.predicted_energy_j, arm.energy_provenance, "")),
            format_duration_ms(arm.predicted_ms),
            safe(memory_text(arm.residency)),
        )
    console(color=session.color).print(rows)


def arms_of(nodes: Iterable[NodeStatus]) -> list[tuple[ArmStatus, NodeStatus]]:
    """The arms of the nodes that are there, by task and name."""
    arms = [(arm, node) for node in nodes if node.state != "offline" for arm in node.arms]
    return sorted(arms, key=lambda pair: (pair[0].task, pair[0].expert, pair[1].node))


def _told(residency: Residency | None) -> dict[str, object] | None:
    return None if residency is None else asdict(residency)


def memory_text(residency: Residency | None) -> str:
    """How an expert stands, in a few words."""
    from orchestrator.units import format_duration_ms, format_energy_j

    if residency is None:
        return "always loaded"
    parts = [residency.state]
    if residency.progress_fraction is not None:
        parts = [f"{residency.state} {residency.progress_fraction:.0%}"]
    if residency.pinned:
        parts.append("pinned")
    if residency.load_ms > 0.0 and residency.state != "loading":
        joules = "" if residency.load_j is None else f" and {format_energy_j(residency.load_j)}"
        parts.append(f"load takes {format_duration_ms(residency.load_ms)}{joules}")
    if residency.problem:
        parts.append(residency.problem)
    return ", ".join(parts)


def _verb(name: str, text: str) -> None:
    """Add one of the commands that change what is in memory."""

    @models.command(name, short_help=text)
    @gateway_option
    @click.argument("model")
    @click.option("--node", default="", help="Only on this node.  [default: on every node that has it]")
    @click.option("--ttl", type=SpanParam(), default=0.0, help="Unload it when nobody asked for it so long: 10m.")
    @click.option("--timeout", type=SpanParam(), default="10m", show_default=True, help="How long to wait.")
    @click.pass_obj
    def command(session: Session, *, model: str, node: str, ttl: float, timeout: float) -> None:
        _manage(session, model, name, node=node, ttl=ttl, timeout=timeout)

    command.__doc__ = text


def _manage(session: Session, model: str, verb: str, *, node: str, ttl: float, timeout: float) -> None:
    """Give the order, then watch what the nodes say until all have followed it."""
    until_s = time.monotonic() + timeout
    shown: dict[str, str] = {}
    with session.client() as client:
        told = client.manage_model(model, verb, node=node, ttl_s=ttl)
        while True:
            arms = {arm.name: arm.residency for entry in client.status().nodes for arm in entry.arms}
            for name in told:
                _show(name, memory_text(arms.get(name)), shown)
            failed = [name for name in told if (residency := arms.get(name)) is not None and residency.problem]
            if failed:
                raise click.ClickException(f"{failed[0]} did not {verb}; the line above says why")
            if all(_followed(arms.get(name), verb) for name in told):
                return
            if time.monotonic() >= until_s:
                raise click.ClickException(f"not done in {timeout:g} s; `edgewise models list` shows how far it is")
            time.sleep(POLL_S)


def _show(name: str, text: str, shown: dict[str, str]) -> None:
    """One line for every change."""
    if shown.get(name) != text:
        shown[name] = text
        click.echo(f"{name}: {text}", err=True)


def _followed(residency: Residency | None, verb: str) -> bool:
    if residency is None:
        return False
    match verb:
        case "unload":
            return residency.state == "unloaded"
        case "pin":
            return residency.pinned and residency.state == "loaded"
        case "unpin":
            return not residency.pinned
    return residency.state == "loaded"


for _name, _text in VERBS.items():
    _verb(_name, _text)

for _command in (push, list_pushed, remove):
    models.add_command(_command)
