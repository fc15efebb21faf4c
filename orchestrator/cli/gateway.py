"""`edgewise gateway`: run the gateway in this terminal."""

from __future__ import annotations

import os
from pathlib import Path

import click

from orchestrator.cli.context import Session


@click.command(short_help="Run the gateway (also: serve).")
@click.option("--listen", metavar="HOST:PORT", help="gRPC for nodes and clients.  [default: 127.0.0.1:8421]")
@click.option("--http-listen", metavar="HOST:PORT", help="Metrics, health, joining.  [default: 127.0.0.1:8420]")
@click.option("--nodes-listen", metavar="HOST:PORT", help="gRPC for nodes, with TLS.  [default: port 8422 of --listen]")
@click.option("--tls", "tls_mode", type=click.Choice(["auto", "on", "off"]), help="[default: auto: beyond loopback]")
@click.option("--tls-san", multiple=True, metavar="NAME", help="A further name or address of this gateway.")
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
    help="Listen on other addresses than loopback without TLS; keys are required then.",
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
    nodes_listen: str | None,
    tls_mode: str | None,
    tls_san: tuple[str, ...],
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

    given: dict[tuple[str, ...], str | bool | Path | tuple[str, ...] | None] = {
        ("listen",): listen,
        ("http_listen",): http_listen,
        ("nodes_listen",): nodes_listen,
        ("tls", "mode"): tls_mode,
        ("tls", "san"): tls_san or None,
        ("allow_insecure_remote",): allow_insecure_remote,
        ("log", "format"): log_format,
        ("log", "level"): log_level or ("debug" if session.verbose else None),
        ("state_dir",): state_dir,
    }
    flags = {path: value for path, value in given.items() if value is not None}
    loaded = load(flags=flags, file=file)
    poll_directly()
    # Planning and routing work on small matrices; threads for them would only spin for each other on a busy machine.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from orchestrator.gateway.app import serve
    except ModuleNotFoundError as error:
        raise click.ClickException(f"the module {error.name} is missing: pip install 'edgewise[gateway]'") from error
    return serve(loaded.config, lambda: load(flags=flags, file=file).config)
