"""Commands of `edgewise models` for models that operators push: to nodes, listed, taken back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.context import Session, gateway_option, output_option
from orchestrator.cli.params import SPAN

if TYPE_CHECKING:
    from orchestrator.client.models import PushedModel

ALL = "all"


@click.command()
@gateway_option
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--task", default="", help="The task that it is for.  [default: what its expert.json says]")
@click.option("--to", "targets", multiple=True, metavar="NODE|all", help="Where it goes; repeat it.  [default: all]")
@click.option("--wait", type=SPAN, default=60.0, help="How long to wait until nodes serve it.  [default: 60s]")
@output_option
@click.pass_obj
def push(session: Session, folder: Path, *, task: str, targets: tuple[str, ...], wait: float, output: str) -> None:
    """Push the model in FOLDER and wait until the nodes serve it."""
    from orchestrator.artifacts import pushing
    from orchestrator.artifacts.folder import read_folder
    from orchestrator.cli.output import print_json

    found = read_folder(folder, task=task)
    nodes = () if ALL in targets else targets
    sent = 0

    def count(size_bytes: int) -> None:
        nonlocal sent
        sent += size_bytes

    with session.client() as client:
        pushed = pushing.push(client, found, nodes, sent=count)
        session.debug(f"{sent} bytes sent, digest {pushed.digest}")
        settled = pushing.wait_served(client, pushed.name, timeout_s=wait) or pushed
    if output == "json":
        print_json(settled)
    else:
        _tell(session, settled)
    _fail_where_refused(settled)


def _tell(session: Session, pushed: PushedModel) -> None:
    if not pushed.on_nodes:
        session.note(f"{pushed.name} is kept; no node is here to take it")
    for one in pushed.on_nodes:
        why = f": {one.reason}: {one.message}" if one.reason else ""
        click.echo(f"{pushed.name}@{one.node}: {one.state}{why}")


def _fail_where_refused(pushed: PushedModel) -> None:
    from orchestrator.errors import CATALOGUE, RequestError

    for one in pushed.on_nodes:
        if one.reason:
            reason = one.reason if one.reason in CATALOGUE else "MODEL_FAILED"
            raise RequestError(reason, f"{one.node}: {one.message}")


@click.command("pushed")
@gateway_option
@output_option
@click.pass_obj
def list_pushed(session: Session, output: str) -> None:
    """List pushed models and how far they are on each node."""
    from orchestrator.cli.output import console, print_json, safe, table

    with session.client() as client:
        pushed = client.pushed_models()
    if output == "json":
        print_json([*pushed])
        return
    rows = table(None, ("model", "task", ">MiB", "node", "state", "why"))
    for entry in pushed:
        size = f"{entry.size_bytes / 2**20:.2f}"
        for one in entry.on_nodes:
            why = f"{one.reason}: {one.message}" if one.reason else ""
            rows.add_row(safe(entry.name), safe(entry.task), size, safe(one.node), safe(one.state), safe(why))
        if not entry.on_nodes:
            rows.add_row(safe(entry.name), safe(entry.task), size, "none", "waiting", "")
    console(color=session.color).print(rows)


@click.command()
@gateway_option
@click.argument("name")
@click.pass_obj
def remove(session: Session, name: str) -> None:
    """Take the model NAME from all nodes, and forget it."""
    with session.client() as client:
        client.remove_model(name)
    session.note(f"{name} is removed")
