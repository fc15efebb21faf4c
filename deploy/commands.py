"""`python -m deploy VERB`, which `edgewise deploy VERB` becomes: bundles, pushes, units, and the files that ship."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from deploy.bundle import archive
from deploy.bundle.assemble import EXTRAS, Recipe, assemble
from deploy.bundle.fetch import fetch, is_address
from deploy.bundle.wheels import MACHINES, PYTHONS, Target
from deploy.errors import DeployError
from deploy.service import units
from orchestrator.errors import ExitCode

HERE = Path(__file__).parent
SHIPPED = ("systemd", "containers", "kubernetes", "prometheus", "config", "udev")

output_option = click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", help="For people or for programs."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Put agents and gateways on real machines."""


@cli.command()
@click.argument("hosts", nargs=-1, required=True, metavar="USER@HOST …")
@click.option("--gateway", required=True, metavar="URL", help="https://HOST:8420, where nodes join.")
@click.option("--admin", metavar="HOST:PORT", help="gRPC of the gateway, to ask as operator.  [default: port 8421]")
@click.option("--ca", type=click.Path(path_type=Path, dir_okay=False), envvar="EDGEWISE_CA", help="Its authority.")
@click.option("--token", envvar="EDGEWISE_NODE_TOKEN", help="To join with.  [default: one is made where needed]")
@click.option("--name", help="Of the node, for one host.  [default: the host's name]")
@click.option("--profile", help="Device profile that joules are modelled with.")
@click.option(
    "--setting", multiple=True, metavar="NAME=VALUE", help="An option of `edgewise node run`, e.g. energy=rapl."
)
@click.option(
    "--bundle", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Install from it, offline."
)
@click.option(
    "--wheel", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Ours, when there is no bundle."
)
@click.option("--extra", type=click.Choice(EXTRAS), multiple=True, help="Installed beside `node`, e.g. gpu, compile.")
@click.option("--python", metavar="PATH", help="Interpreter there.  [default: the first from 3.11 on, or the bundle's]")
@click.option("--service", type=click.Choice(["user", "system", "supervisor"]), help="[default: the best there is]")
@click.option("--ssh-option", multiple=True, metavar="NAME=VALUE", help="Passed to ssh -o.")
@click.option("--no-verify", is_flag=True, help="Do not ask the gateway in the end.")
@click.option("--dry-run", is_flag=True, help="Say every step, change nothing.")
@output_option
def push(hosts: tuple[str, ...], *, output: str, **options: Any) -> int:
    """Make machines nodes of a gateway, over ssh; again, and nothing changes.

    \b
      edgewise deploy push me@orin --gateway https://gw:8420 --profile jetson-agx-orin --bundle aarch64.tar
    """
    try:
        from deploy.push.command import Given, push_all
    except ModuleNotFoundError as error:
        raise click.ClickException(f"the module {error.name} is missing: pip install 'edgewise[node]'") from error
    results, failures = push_all(hosts, Given(**options), say=lambda text: click.echo(text, err=True))
    if output == "json":
        click.echo(json.dumps([asdict(done) for done in results], indent=2))
    else:
        for done in results:
            what = ", ".join(done.done) or "nothing to do"
            pid = f"pid {done.agent_pid}" if done.agent_pid else "not started"
            click.echo(f"{done.host}: {done.name}, {done.release}, {pid} ({what})")
    for host, failure in failures:
        click.echo(f"error: {host}: {failure}", err=True)
    return max((int(failure.exit_code) for _, failure in failures), default=0)


@cli.command()
@click.option("--platform", "machine", type=click.Choice(MACHINES), default=None, help="[default: this machine's]")
@click.option("--python", type=click.Choice(PYTHONS), default="3.11", show_default=True, help="Of the machines.")
@click.option("--extra", "extras", type=click.Choice(EXTRAS), multiple=True, default=("node",), help="[default: node]")
@click.option("--wheel", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Ours, made elsewhere.")
@click.option("--models", type=click.Path(path_type=Path, file_okay=False, exists=True), help="Folder of experts.")
@click.option(
    "--standalone-python",
    metavar="FILE|URL#sha256=HEX",
    help="A python-build-standalone archive (install_only.tar.gz) for machines without a Python that fits.",
)
@click.option("-o", "--to", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE")
def bundle(
    machine: str | None,
    *,
    python: str,
    extras: tuple[str, ...],
    wheel: Path | None,
    models: Path | None,
    standalone_python: str | None,
    to: Path,
) -> None:
    """Write one file with all that a machine without the internet needs. Needs the package index here."""
    target = Target(machine or platform.machine(), python)
    with tempfile.TemporaryDirectory(prefix="edgewise-python-") as folder:
        brought = _brought(standalone_python, Path(folder)) if standalone_python else None
        made = assemble(Recipe(target, extras, wheel, models, brought), to)
    manifest = made.manifest
    compiled = f"compiled parts need glibc {manifest.native_glibc}" if manifest.native else "without compiled parts"
    click.echo(f"{to}: {len(manifest.files)} files, {made.size_bytes / 1e6:.1f} MB, for {target.machine}, {python}")
    click.echo(f"release {made.release}; sha256 {made.sha256}; glibc {manifest.glibc}; {compiled}")


def _brought(named: str, folder: Path) -> Path:
    if is_address(named):
        return fetch(named, folder)
    if not Path(named).is_file():
        raise click.BadParameter(f"{named} is no file", param_hint="--standalone-python")
    return Path(named)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
def inspect(file: Path) -> None:
    """Check every file of a bundle against its manifest, and print that."""
    click.echo(archive.read(file).manifest.text().decode(), nl=False)


@cli.command()
@click.argument("role", type=click.Choice([role.value for role in units.Role]))
@click.option("--system/--user", default=False, help="The machine's service manager, or yours.  [default: yours]")
@click.option("--command", help="How `edgewise` is started.  [default: the one of this installation]")
@click.option("--dry-run", is_flag=True, help="Print the unit, write nothing.")
def service(role: str, *, system: bool, command: str | None, dry_run: bool) -> None:
    """Write a hardened unit of systemd for a node or a gateway on this machine, and say what to type next."""
    unit = units.unit_of(units.Role(role), units.Scope.SYSTEM if system else units.Scope.USER, os.environ)
    text = units.render(unit, command or units.command_here(), units.existing_groups())
    if dry_run:
        click.echo(text, nl=False)
        return
    prefix = "EDGEWISE_NODE_" if role == units.Role.NODE else "EDGEWISE_"
    settings = f"# Settings of {unit.name}: {prefix}NAME=value, as in deploy/docs/reference.md.\n"
    for file in units.install(unit, text, settings):
        click.echo(f"written: {file}", err=True)
    click.echo(f"settings: {unit.environment}", err=True)
    for line in units.next_steps(unit):
        click.echo(line)


@cli.command()
@click.argument("folder", type=click.Choice(SHIPPED), required=False)
def files(folder: str | None) -> None:
    """Say where the files lie that ship with the package: units, containers, manifests, alerts, examples, scripts."""
    for script in sorted(HERE.glob("*.sh")) if folder is None else ():
        click.echo(script)
    for name in SHIPPED if folder is None else (folder,):
        for path in sorted((HERE / name).iterdir()):
            click.echo(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code."""
    try:
        code = cli.main(args=arguments, prog_name="edgewise deploy", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return ExitCode.INTERRUPTED
    except DeployError as error:
        click.echo(f"error: {error}", err=True)
        return int(error.exit_code)
