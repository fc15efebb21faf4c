"""Idle watts in `edgewise plan`, `budget sweep` and `budget tune`: the options, and what is told of the nodes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.context import Session
from orchestrator.cli.evaluate import FILE
from orchestrator.cli.params import SPAN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optimizer.selection.idling import NodePlan, Stay
    from optimizer.selection.power import Action, Power

_OPTIONS = (
    click.option("--nodes", type=FILE, help="File of nodes with their idle_w: idle joules count then."),
    click.option("--rate", type=click.FloatRange(0.0, min_open=True), help="Requests per second, with --nodes."),
    click.option("--hold", type=SPAN, default="1h", show_default=True, help="Time that falling asleep must pay in."),
)


def idle_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--nodes, --rate and --hold."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class Idling:
    """Nodes of the file, and what each takes per request."""

    powers: Mapping[str, Power]
    stays: Mapping[str, Stay]
    rate_per_s: float


@dataclass(frozen=True)
class NodesReport:
    """The nodes of a plan.

    Args:
        awake: Those that stay awake, by name.
        idle_j: Joules per request that idling, and falling asleep or waking, takes.
        total_j: The same with the arms' joules.
        steps: From how things are to the plan.
    """

    awake: tuple[str, ...]
    idle_j: float
    total_j: float
    steps: tuple[Action, ...]


def read_idling(session: Session, asked: dict[str, Any], used: Collection[str]) -> Idling | None:
    """What idling takes, by the options; None without them.

    Args:
        session: Told of nodes that the file does not have.
        asked: The options.
        used: Nodes that the arms file names.

    Raises:
        UsageError: One of --nodes and --rate without the other.
        StudyError: A file that cannot be meant, or a node that no arm is on.
    """
    from optimizer.selection.idling import stays_of
    from orchestrator.study.errors import StudyError
    from orchestrator.study.nodes import read_nodes

    file, rate_per_s = asked["nodes"], asked["rate"]
    if (file is None) != (rate_per_s is None):
        raise click.UsageError("--nodes and --rate go together: idle watts are spread over the requests")
    if file is None:
        return None
    powers = read_nodes(file)
    if unknown := sorted(set(powers) - set(used)):
        raise StudyError(f"there is no arm on node {unknown[0]!r}", f"known: {', '.join(sorted(used))}")
    if missing := sorted(set(used) - set(powers)):
        session.note(f"no idle watts are known of {', '.join(repr(node) for node in missing)}: they count as none")
    stays = stays_of(powers, rate_per_s=rate_per_s, horizon_s=asked["hold"])
    return Idling(powers, stays, rate_per_s)


def nodes_report(plan: NodePlan, idling: Idling, spent_j: float) -> NodesReport:
    """What a plan says about nodes."""
    from optimizer.selection.power import actions_to

    steps = tuple(actions_to(sorted(idling.powers), plan.awake, idling.powers))
    return NodesReport(tuple(sorted(plan.awake)), plan.idle_j, spent_j + plan.idle_j, steps)


def nodes_text(report: NodesReport) -> str:
    """For the screen."""
    from orchestrator.cli.output import energy_or_dash, safe
    from orchestrator.units import format_duration_ms

    joules = f"{energy_or_dash(report.idle_j)} per request idle, {energy_or_dash(report.total_j)} with the arms"
    lines = [f"\nNodes awake: {safe(', '.join(report.awake)) or 'none'}; {joules}"]
    for step in report.steps:
        after = f" after {format_duration_ms(step.after_s * 1e3)}" if step.after_s else ""
        taken = f", {energy_or_dash(step.energy_j)}" if step.energy_j else ""
        lines.append(f"  {step.step.value:<8} {safe(step.node)}{after}{taken}")
    return "\n".join(lines)
