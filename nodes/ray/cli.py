"""`python -m nodes ray …`, which `edgewise ray` and `--workers ray` start; heavy imports wait until they are needed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from nodes.ray.control import Control

FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def ray() -> None:
    """Place agents on a Ray cluster; `edgewise ray` calls this."""


@ray.command()
@click.argument("address")
@click.option("--token-file", type=FILE, default=Path("~/.ray/auth_token"), show_default=True)
def check(address: str, token_file: Path) -> None:
    """Refuse the cluster at ADDRESS unless it wants a token and there is one here."""
    from nodes.ray import guard

    guard.with_token(token_file.expanduser(), os.environ)
    guard.check_cluster(address)


@ray.command()
@click.option("--spec", type=FILE, required=True)
@click.option("--start", is_flag=True, help="Start the head where the file says `local` and none runs.")
def control(spec: Path, start: bool) -> None:
    """Read one order per line from standard input and answer each with one line."""
    from nodes.ray.control import serve

    # Ray writes to stdout as it pleases; the answers must stay alone on theirs.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(lambda: _opened(spec, start=start), sys.stdin, answers)


def _opened(spec: Path, *, start: bool) -> Control:
    from nodes.ray.control import Control
    from nodes.ray.head import ensure_head
    from nodes.ray.placement import connect, require_ray
    from nodes.ray.spec import LOCAL, read_spec

    fleet = read_spec(spec)
    require_ray()
    if start and fleet.cluster.address == LOCAL:
        ensure_head(fleet.cluster, lambda text: click.echo(text, err=True))
    return Control(fleet, connect(fleet.cluster))


@ray.command()
@click.option("--spec", type=FILE, required=True)
def stop(spec: Path) -> None:
    """End the head that was started here, and all that it started."""
    from nodes.ray.head import stop_head
    from nodes.ray.spec import LOCAL, read_spec

    cluster = read_spec(spec).cluster
    if cluster.address != LOCAL:
        raise click.UsageError(f"the head at {cluster.address} was not started from here; stop it where it runs")
    click.echo(f"{stop_head(cluster)} processes ended", err=True)
