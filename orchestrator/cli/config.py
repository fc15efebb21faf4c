"""`edgewise config`: what a gateway would be told here, and whether a file is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.context import Session, gateway_option, output_option

if TYPE_CHECKING:
    from orchestrator.config_layers import Loaded

FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def config() -> None:
    """Show and check the configuration of a gateway."""


@config.command()
@click.option("--config", "file", type=FILE, envvar="EDGEWISE_CONFIG", help="Configuration file.")
@click.option("--effective", is_flag=True, help="Also tell where each value comes from.")
@output_option
@click.pass_obj
def show(session: Session, *, file: Path | None, effective: bool, output: str) -> None:
    """Show every value that `edgewise gateway` would use here."""
    from orchestrator.config_layers import load

    loaded = load(flags={}, file=file)
    if effective:
        _print_origins(loaded, session, output)
    elif output == "json":
        click.echo(loaded.config.model_dump_json(indent=2))
    else:
        import yaml

        click.echo(yaml.safe_dump(loaded.config.model_dump(mode="json"), sort_keys=False), nl=False)


@config.command()
@click.argument("file", type=FILE)
@click.pass_obj
def validate(session: Session, file: Path) -> None:
    """Check FILE; exit code 3 and one line say what is wrong."""
    from orchestrator.config_layers import validate_file

    validate_file(file)
    session.note(f"{file}: valid")


@config.command()
def schema() -> None:
    """Print the JSON schema of the configuration, for editors."""
    from orchestrator.config import GatewayConfig

    click.echo(json.dumps(GatewayConfig.model_json_schema(), indent=2))


@config.command("reload")
@gateway_option
@output_option
@click.pass_obj
def reload_config(session: Session, output: str) -> None:
    """Have a running gateway read its configuration again: all of it is put in force, or nothing."""
    from orchestrator.cli.output import console, print_json, safe, table
    from orchestrator.config_errors import ConfigError
    from orchestrator.errors import EdgewiseError

    try:
        with session.client() as client:
            changes = client.reload_config()
    except EdgewiseError as error:
        if error.reason == "CONFIG_INVALID":
            # In full: the text of a call's error is cut.
            raise ConfigError(f"{error.metadata.get('why', error.message)}; the old one stays in force") from error
        raise
    if output == "json":
        print_json([*changes])
    elif changes:
        rows = table(None, ("key", "before", "now"))
        for change in changes:
            rows.add_row(safe(change.key), safe(change.before), safe(change.after))
        console(color=session.color).print(rows)
    else:
        session.note("nothing has changed")


def _print_origins(loaded: Loaded, session: Session, output: str) -> None:
    from orchestrator.cli.output import console, print_json, safe, table

    values = {path: _value_at(loaded, path) for path in loaded.origins}
    if output == "json":
        print_json({path: {"value": value, "origin": loaded.origins[path]} for path, value in values.items()})
        return
    rows = table(None, ("key", "value", "from"))
    for path, value in values.items():
        rows.add_row(path, safe(json.dumps(value)), safe(loaded.origins[path]))
    console(color=session.color).print(rows)


def _value_at(loaded: Loaded, path: str) -> Any:
    from orchestrator.config_layers import leaves

    flat = {".".join(key): value for key, value in leaves(loaded.config.model_dump(mode="json"))}
    return flat.get(path)
