"""`edgewise ray`: agents that a Ray cluster places and keeps alive. Needs the extra `ray`; everything else does not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.context import Session, gateway_option, output_option
from orchestrator.cli.params import DURATION

if TYPE_CHECKING:
    from orchestrator.placement.rollout import Rollout

_SPEC = click.option(
    "--spec",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The cluster and its agents: yaml, see deploy/docs/ray.md.",
)
_DRAIN = click.option("--drain", type=DURATION, default="30s", show_default=True, help="How long an agent may finish.")


@click.group(short_help="Place agents on a Ray cluster, look at them, take them away.")
def ray() -> None:
    """Let a Ray cluster place and supervise agents. Agents that were started otherwise are left alone."""


@ray.command()
@gateway_option
@_SPEC
@_DRAIN
@click.option("--ready", type=DURATION, default="120s", show_default=True, help="How long an agent may take to come.")
@click.option("--restart", is_flag=True, help="Also replace agents that have not changed.")
@click.pass_obj
def up(session: Session, /, *, spec: Path, drain: float, ready: float, restart: bool) -> None:
    """Bring the cluster's agents to what the spec says; may be repeated at any time.

    Agents that are missing are placed; those whose spec or version has changed are replaced one by one, each drained
    first and waited for until the gateway has it back. With a gateway that speaks TLS every agent gets a join token.
    """
    with _rollout(session, spec, start=True) as rollout:
        rollout.drain_s, rollout.ready_s = drain / 1e3, ready / 1e3
        rollout.up(restart=restart)


@ray.command()
@gateway_option
@_SPEC
@output_option
@click.pass_obj
def status(session: Session, /, *, spec: Path, output: str) -> None:
    """Show the cluster's agents, where they run, and how the gateway sees them."""
    from orchestrator.cli.output import console, print_json, safe, table
    from orchestrator.placement.rollout import state_rows

    with _rollout(session, spec, start=False) as rollout:
        rows = state_rows(rollout.found(), rollout.gateway.states())
    if output == "json":
        print_json(rows)
        return
    shown = table(None, ("agent", "actor", "Ray node", "host", ">pid", ">restarts", "state", "gateway"))
    for row in rows:
        cells = (row["actor"], row["ray_node"][:8], row["host"], _dash(row["agent_pid"]), str(row["restarts"]))
        shown.add_row(*(safe(cell) for cell in (row["name"], *cells, row["state"] or "–", row["gateway"])))
    console(color=session.color).print(shown)


@ray.command()
@gateway_option
@_SPEC
@_DRAIN
@click.option("--stop-head", is_flag=True, help="Also end the head that `up` started on this machine.")
@click.pass_obj
def down(session: Session, /, *, spec: Path, drain: float, stop_head: bool) -> None:
    """Drain the spec's agents, then take them off the cluster."""
    from orchestrator.placement.control import NODES

    with _rollout(session, spec, start=False) as rollout:
        rollout.drain_s = drain / 1e3
        rollout.down()
    if stop_head:
        sys.stdout.flush()
        os.execv(NODES[0], [*NODES, "stop", "--spec", str(spec)])  # noqa: S606 (no shell wanted)


@contextmanager
def _rollout(session: Session, spec: Path, *, start: bool) -> Iterator[Rollout]:
    """The way to cluster and gateway; a gateway that does not answer shows when agents are waited for."""
    from orchestrator.placement.control import Control, control_command
    from orchestrator.placement.rollout import ClientGateway, Rollout

    with session.client() as client, Control(control_command(spec, start=start)) as orders:
        gateway = ClientGateway(client, session.gateway, secure=session.authority() is not None)
        yield Rollout(orders, gateway, session.note)


def _dash(value: Any) -> str:
    return "–" if value is None else str(value)
