"""`edgewise token`: secrets with which nodes join."""

from __future__ import annotations

import time

import click

from orchestrator.cli.context import Session, gateway_option, output_option
from orchestrator.cli.params import SPAN


@click.group(short_help="Make, list and revoke the tokens with which nodes join.")
def token() -> None:
    """Make, list and revoke join tokens. A token is good for one node, once, for a quarter of an hour."""


@token.command()
@gateway_option
@click.option("--name", default="", help="The only name that a node may take with it; also lets a known node rejoin.")
@click.option("--ttl", type=SPAN, help="How long it is good, e.g. 15m; at most a day.  [default: 15m]")
@output_option
@click.pass_obj
def create(session: Session, *, name: str, ttl: float | None, output: str) -> None:
    """Make a token and print the line to type on the machine that is to be a node. It is shown once."""
    from orchestrator.cli.output import print_json

    with session.client() as client:
        made = client.create_token(name, ttl_s=ttl)
    if output == "json":
        print_json({"token": made.token, "text": made.text, "url": made.url})
        return
    until = time.strftime("%H:%M:%S", time.localtime(made.token.expires_unix_s))
    session.note(f"token {made.token.token_id}, good once until {until}; on the node, type:")
    named = f" --name {name}" if name else ""
    click.echo(f"edgewise node join {made.url} --token {made.text}{named}")


@token.command("list")
@gateway_option
@output_option
@click.pass_obj
def list_(session: Session, output: str) -> None:
    """List tokens, without their secrets."""
    from orchestrator.cli.output import console, print_json, safe, table

    with session.client() as client:
        found = client.tokens()
    if output == "json":
        print_json([*found])
        return
    rows = table(None, ("token", "for", "until", "state"))
    for entry in found:
        until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.expires_unix_s))
        state = f"used by {entry.used_by}" if entry.used_by else entry.state
        rows.add_row(safe(entry.token_id), safe(entry.node or "any"), until, safe(state))
    console(color=session.color).print(rows)


@token.command()
@gateway_option
@click.argument("token_id")
@click.pass_obj
def revoke(session: Session, token_id: str) -> None:
    """Refuse the token TOKEN_ID from now on. A node that joined with it stays; see `edgewise node revoke`."""
    with session.client() as client:
        client.revoke_token(token_id)
    session.note(f"token {token_id} is revoked")
