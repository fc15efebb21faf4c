"""`edgewise doctor`: what could keep a gateway, a node or a client from working on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from orchestrator.cli.context import Session, gateway_option, output_option, shown_key

if TYPE_CHECKING:
    from orchestrator.cli.checks import Check

MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[bold red]FAIL[/]"}


@click.command(short_help="Check what could go wrong on this machine.")
@gateway_option
@click.option("--skip-node", is_flag=True, help="Leave out the checks of the node's side.")
@output_option
@click.pass_obj
def doctor(session: Session, *, skip_node: bool, output: str) -> int:
    """Check this machine: Python, packages, configuration, ports or gateway, clock, disk, engines, energy.

    The exit code is 0 when nothing failed; warnings do not count.
    """
    from orchestrator.cli import checks
    from orchestrator.cli.output import print_json

    found = [*checks.local(), *checks.gateway(session.gateway, key=shown_key(os.environ), ca_file=session.authority())]
    if not skip_node:
        session.debug("asking `python -m nodes doctor`")
        found.extend(checks.node())
    code = checks.exit_code(found)
    if output == "json":
        print_json({"ok": code == 0, "checks": found})
    else:
        _print(found, session)
    return code


def _print(found: Sequence[Check], session: Session) -> None:
    from orchestrator.cli.output import console, safe, table

    rows = table(None, ("check", "", "found", "what to do"))
    for check in found:
        rows.add_row(safe(check.name), MARKS[check.status.value], safe(check.detail), safe(check.cure))
    console(color=session.color).print(rows)
