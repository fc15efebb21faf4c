"""`edgewise gateway`: run the gateway in this terminal."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.context import Session


@click.command(short_help="Run the gateway (also: serve).")
@click.option("--listen", metavar="HOST:PORT", help="gRPC for nodes and clients.  [default: 127.0.0.1:8421]")
@click.option("--http-listen", metavar="HOST:PORT", help="Metrics and health.  [default: 127.0.0.1:8420]")
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="EDGEWISE_CONFIG",
    help="Configuration file.  [default: $XDG_CONFIG_HOME/edgewise/config.yaml if there is one]",
)
@click.option(
    "--allow-insecure-remote",
    is_flag=True,
    default=None,
    help="Listen on other addresses than loopback although there is no TLS yet; keys are required then.",
)
@click.option("--log", "log_format", type=click.Choice(["console", "json"]), help="Format of the log on stderr.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Least level.")
@click.option("--state-dir", type=click.Path(path_type=Path, file_okay=False), help="Folder of lasting state.")
@click.pass_obj
def gateway(
    session: Session,
    *,
    listen: str | None,
    http_listen: str | None,
    file: Path | None,
    allow_insecure_remote: bool | None,
    log_format: str | None,
    log_level: str | None,
    state_dir: Path | None,
) -> int:
    """Run the gateway: nodes connect to it, clients ask it, Ctrl-C drains it. (Also: `edgewise serve`.)

    Values come from flags, then EDGEWISE_… variables, then the file, then defaults; `edgewise config show
    --effective` tells which.
    """
    from orchestrator.config_layers import load
    from orchestrator.gateway.polling import poll_directly

    given: dict[tuple[str, ...], str | bool | Path | None] = {
        ("listen",): listen,
        ("http_listen",): http_listen,
        ("allow_insecure_remote",): allow_insecure_remote,
        ("log", "format"): log_format,
        ("log", "level"): log_level or ("debug" if session.verbose else None),
        ("state_dir",): state_dir,
    }
    loaded = load(flags={path: value for path, value in given.items() if value is not None}, file=file)
    poll_directly()
    try:
        from orchestrator.gateway.app import serve
    except ModuleNotFoundError as error:
        raise click.ClickException(f"the module {error.name} is missing: pip install 'edgewise[gateway]'") from error
    return serve(loaded.config)
