"""`edgewise status`: nodes, what their experts cost, the plans in force and what was spent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from orchestrator.cli.context import Session, gateway_option, output_option

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from orchestrator.client.types import ArmStatus, FleetStatus, NodeStatus, TaskStatus


@click.command(short_help="Show nodes, tasks, arms and totals.")
@gateway_option
@output_option
@click.pass_obj
def status(session: Session, output: str) -> None:
    """Show the gateway's nodes, tasks, arms and totals. An arm is one expert on one node."""
    from orchestrator.cli.output import console, print_json

    with session.client() as client:
        fleet = client.status()
    if output == "json":
        print_json(fleet)
        return
    _print(fleet, session, console(color=session.color))


def _print(fleet: FleetStatus, session: Session, screen: Console) -> None:
    screen.print(_headline(fleet, session.gateway))
    if not fleet.nodes:
        session.note("no node has connected yet; start one with `edgewise node run`")
        return
    screen.print(nodes_table(fleet.nodes))
    for line in _remarks(fleet.nodes):
        screen.print(line)
    for task in fleet.tasks:
        screen.print(_arms_table(task, fleet.nodes))
        screen.print(_plan_text(task))


def _headline(fleet: FleetStatus, target: str) -> str:
    from orchestrator.cli.output import safe
    from orchestrator.units import format_duration_ms, format_energy_j

    outcomes = ", ".join(f"{count} {safe(outcome)}" for outcome, count in fleet.outcomes.items())
    up = format_duration_ms(fleet.uptime_s * 1e3)
    spent = format_energy_j(fleet.energy_j)
    served = f"requests: {outcomes or 'none'}; all answers together {spent}"
    return f"[bold]gateway {target}[/], version {safe(fleet.version)}, up {up}\n{served}\n"


def nodes_table(nodes: Iterable[NodeStatus]) -> Table:
    """One row per node."""
    from orchestrator.cli.output import device_text, safe, table
    from orchestrator.units import format_duration_ms

    rows = table("Nodes", ("node", "state", "device", ">busy", ">waiting", ">seen", "energy"))
    for entry in nodes:
        rows.add_row(
            safe(entry.node),
            _state_cell(entry),
            device_text(entry.device, simulated=entry.simulated),
            f"{entry.running}/{entry.concurrency}",
            str(entry.queued),
            f"{format_duration_ms(entry.seen_s * 1e3, 2)}",
            _energy_cell(entry),
        )
    return rows


def _state_cell(entry: NodeStatus) -> str:
    from orchestrator.cli.output import safe
    from orchestrator.units import format_duration_ms

    restarts = f"\n{entry.engine_restarts} restarts" if entry.engine_restarts else ""
    rest = "" if entry.asleep_s is None else f"\nfor {format_duration_ms(entry.asleep_s * 1e3, 2)}"
    return safe(entry.state) + rest + restarts


def _energy_cell(entry: NodeStatus) -> str:
    from orchestrator.cli.output import safe

    rate_hz = entry.energy_source.rate_hz
    rate = f" at {rate_hz:g} Hz" if rate_hz else ""
    return f"{entry.energy_provenance.value}\n{safe(entry.energy_method)}{rate}"


def _remarks(nodes: Iterable[NodeStatus]) -> Iterable[str]:
    """What is wrong with a node's energy source, with the cure, and what slows its device down."""
    from orchestrator.cli.output import safe

    for entry in nodes:
        source = entry.energy_source
        if source.problem:
            cure = f"; cure: {safe(source.cure)}" if source.cure else ""
            yield f"{safe(entry.node)}: energy: {safe(source.problem)}{cure}"
        if entry.throttles:
            heat = "" if entry.temperature_c is None else f" at {entry.temperature_c:.0f} °C"
            yield f"{safe(entry.node)}: slowed down{heat} by {safe(', '.join(entry.throttles))}"


def _arms_table(task: TaskStatus, nodes: Iterable[NodeStatus]) -> Table:
    from orchestrator.cli.output import safe, table

    columns = ("", "expert:variant", ">quality", ">energy", ">promised", ">time", ">promised", ">ok/failed")
    rows = table(f"\nTask {safe(task.task)} (* active)", columns)
    for entry in nodes:
        arms = [arm for arm in entry.arms if arm.task == task.task]
        if arms:
            rows.add_row("", f"[bold]@{safe(entry.node)}[/]")
        for arm in sorted(arms, key=lambda arm: (arm.predicted_energy_j, arm.name)):
            rows.add_row(*_arm_cells(arm))
    return rows


def _arm_cells(arm: ArmStatus) -> Iterable[str]:
    from orchestrator.cli.output import duration_or_dash, energy_or_dash, energy_text, percent, safe
    from orchestrator.types import Energy

    return (
        "*" if arm.active else "",
        f"{safe(arm.expert)}:{safe(arm.variant)}",
        percent(arm.quality_fraction),
        energy_text(Energy(arm.predicted_energy_j, arm.energy_provenance, "")),
        f"≤ {energy_or_dash(arm.bound_energy_j)}",
        duration_or_dash(arm.predicted_ms),
        f"≤ {duration_or_dash(arm.bound_ms)}",
        f"{arm.answered}/{arm.failed}",
    )


def _plan_text(task: TaskStatus) -> str:
    from orchestrator.cli.output import certificate_text, energy_or_dash, percent, safe
    from orchestrator.cli.pacing import guard_sentence, pacing_sentence

    prices = "; ".join(
        f"{safe(price.profile)} {percent(price.expected_quality_fraction)} for"
        f" {energy_or_dash(price.expected_energy_j)}"
        for price in task.prices
    )
    paced = f"long-run budget: {pacing_sentence(task.pacing)}\n" if task.pacing else ""
    paced += f"guard: {guard_sentence(task.guard)}\n" if task.guard else ""
    if task.gate_sha256:
        paced += f"gate file: SHA-256 {safe(task.gate_sha256[:12])}…\n"
    if task.gate_problem:
        paced += f"gate file: {safe(task.gate_problem)}\n"
    plan = f"plan {safe(task.plan_id) or 'none'}: {len(task.active_arms)} arms active"
    return f"{plan}; {certificate_text(task.certificate)}\nprofiles: {prices or 'none'}\n{paced}"
