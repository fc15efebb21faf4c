"""`edgewise key`: who may call the gateway."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from orchestrator.cli.context import Session, gateway_option, output_option
from orchestrator.cli.params import ENERGY, POWER, SPAN

if TYPE_CHECKING:
    from orchestrator.client.types import KeyRecord

ROLES = ("client", "admin", "node")


@click.group(short_help="Make, list and revoke the keys of clients.")
def key() -> None:
    """Make, list and revoke keys. Clients show theirs in $EDGEWISE_API_KEY or $EDGEWISE_API_KEY_FILE."""


@key.command()
@gateway_option
@click.argument("tenant")
@click.option("--role", type=click.Choice(ROLES), default="client", show_default=True, help="What it is for.")
@click.option("--expires-in", type=SPAN, help="How long it is good, e.g. 30d.")
@click.option("--per-request", type=ENERGY, help="Joules that one request with this key may take.")
@click.option("--per-day", type=ENERGY, help="Joules that this key may spend in a UTC day.")
@click.option("--power", type=POWER, help="Watts that it may spend, averaged over every minute.")
@output_option
@click.pass_obj
def create(
    session: Session,
    *,
    tenant: str,
    role: str,
    expires_in: float | None,
    per_request: float | None,
    per_day: float | None,
    power: float | None,
    output: str,
) -> None:
    """Make a key for TENANT. Its secret is shown once: whoever loses it needs another."""
    from orchestrator.cli.output import print_json
    from orchestrator.client.types import Quota

    quota = Quota(per_request, per_day, power)
    with session.client() as client:
        made = client.create_key(tenant, role=role, ttl_s=expires_in, quota=None if quota == Quota() else quota)
    if output == "json":
        print_json(made)
        return
    session.note(f"key {made.key.key_id} of {made.key.tenant} ({made.key.role}); the secret is shown this once:")
    click.echo(made.secret)


@key.command("list")
@gateway_option
@output_option
@click.pass_obj
def list_(session: Session, output: str) -> None:
    """List keys, without their secrets."""
    from orchestrator.cli.output import console, print_json, safe, table

    with session.client() as client:
        found = client.keys()
    if output == "json":
        print_json([*found])
        return
    rows = table(None, ("key", "tenant", "role", "made", "state"))
    for entry in found:
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.created_unix_s))
        rows.add_row(safe(entry.key_id), safe(entry.tenant), safe(entry.role), made, _state(entry))
    console(color=session.color).print(rows)


def _state(entry: KeyRecord) -> str:
    if entry.revoked_unix_s is not None:
        return "revoked"
    if entry.expires_unix_s is None:
        return "good"
    until = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.expires_unix_s))
    return f"expired {until}" if entry.expires_unix_s <= time.time() else f"good until {until}"


@key.command()
@gateway_option
@click.argument("key_id")
@click.pass_obj
def revoke(session: Session, key_id: str) -> None:
    """Refuse the key KEY_ID from now on."""
    with session.client() as client:
        client.revoke_key(key_id)
    session.note(f"key {key_id} is revoked")
