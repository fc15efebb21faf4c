"""`python -m nodes join`: become a node of a gateway, then run."""

from __future__ import annotations

import os
from pathlib import Path

import click

from nodes.config import NAME_PATTERN, default_name
from nodes.errors import ConfigError

PASS_ON = {"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]}


@click.command(context_settings=PASS_ON)
@click.argument("url")
@click.option(
    "--token", envvar="EDGEWISE_NODE_TOKEN", show_envvar=True, required=True, help="From the gateway; good once."
)
@click.option("--name", envvar="EDGEWISE_NODE_NAME", show_envvar=True, help=f"This node.  [default: {default_name()}]")
@click.option(
    "--identity",
    envvar="EDGEWISE_NODE_IDENTITY",
    show_envvar=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where key and certificate are kept.  [default: $XDG_DATA_HOME/edgewise/node/NAME]",
)
@click.option("--no-run", is_flag=True, help="Only join.")
@click.argument("run_options", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def join(
    ctx: click.Context,
    *,
    url: str,
    token: str,
    name: str | None,
    identity: Path | None,
    no_run: bool,
    run_options: tuple[str, ...],
) -> None:
    """Join the gateway at URL (https://HOST:8420) with a token, then run; needs no open port.

    All further options are those of `run` (see there), for example --profile and --experts.
    """
    from nodes.identity.folder import default_root
    from nodes.identity.https import parse_place
    from nodes.identity.join import Joining
    from nodes.identity.token import parse_token

    called = name or default_name()
    _check_name(called)
    folder = identity or default_root(os.environ) / called
    arguments = ["--identity", str(folder), *run_options]
    run = _sibling(ctx, "run")
    # A slip in these must not cost the token.
    run.make_context("run", list(arguments), parent=ctx.parent)
    made = Joining(parse_place(url), parse_token(token), called, folder, lambda text: click.echo(text, err=True)).run()
    click.echo(f"{called} has joined; its identity is in {folder}, its gateway is {made.gateway}", err=True)
    if not no_run:
        with run.make_context("run", list(arguments), parent=ctx.parent) as running:
            run.invoke(running)


def _check_name(name: str) -> None:
    import re

    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError("--name: use 1 to 64 of a-z 0-9 . _ - and begin with a letter or a digit")


def _sibling(ctx: click.Context, name: str) -> click.Command:
    group = ctx.parent.command if ctx.parent is not None else None
    found = group.get_command(ctx, name) if isinstance(group, click.Group) else None
    if found is None:
        raise ConfigError(f"there is no command {name} beside this one")
    return found
