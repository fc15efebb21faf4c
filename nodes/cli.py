"""The node's own commands; `edgewise node …` starts them in the node's environment."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from nodes.compile.commands import cache, compile_forms
from nodes.config import AcceptModels, default_name, parse_config
from nodes.energy.discovery import EnergyMode
from nodes.errors import ExitCode, NodeError
from nodes.identity.cli import join
from nodes.options import (
    compile_options,
    energy_options,
    measuring_options,
    models_option,
    option,
    profile_option,
    python_option,
)
from nodes.pruning.commands import prune
from nodes.ray.cli import ray


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Offer this machine's experts to an Edgewise gateway."""


@cli.command()
@option(
    "--gateway",
    metavar="HOST:PORT[,HOST:PORT]",
    help="The gateway's gRPC port; of several replicas, all of theirs.  [default: the one that was joined]",
)
@option("--name", help=f"What the gateway calls this node.  [default: {default_name()}]")
@profile_option()
@option("--experts", metavar="A,B,…", help="Experts to offer.  [default: all in the catalogue]")
@models_option()
@python_option()
@compile_options()
@option("--concurrency", type=int, metavar="C", help="Models that run at once.  [default: 1]")
@option("--texts-at-once", type=int, metavar="N", help="Texts that language models write at once.  [default: 8]")
@option("--kept-prompts-mib", type=int, metavar="MIB", help="For prompts that begin alike; 0 for none.  [default: 32]")
@option("--queue-limit", type=int, metavar="Q", help="Work that may wait; more is refused.  [default: 64]")
@option(
    "--identity",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Key and certificate of this node.  [default: those that `join` saved under this name, if any]",
)
@option("--key-file", type=click.Path(path_type=Path, dir_okay=False), help="File of the key to show.")
@option("--openai", metavar="URL", help="Offer the models of this OpenAI-compatible server (http://HOST:PORT/v1).")
@option("--openai-key-file", type=click.Path(path_type=Path, dir_okay=False), help="File of the key that it wants.")
@option("--openai-task", metavar="TASK", help="Task that its models serve.  [default: chat]")
@option("--model", multiple=True, metavar="M", help="One of its models: NAME,quality=0.7,context=8192,can=tools.")
@option("--gguf", multiple=True, metavar="FILE", help="Serve this file: FILE,quality=0.7,context=8192,tag=private.")
@option("--llama-server", type=click.Path(path_type=Path), metavar="PATH", help="The program.  [default: on the path]")
@option("--context", type=int, metavar="TOKENS", help="Of one text of a GGUF file.  [default: its own, up to 4096]")
@option("--memory-limit", type=int, metavar="BYTES", help="What the experts may take together.")
@option("--memory-budget", metavar="SIZE", help="Load experts when asked for, unload others for them: 2GiB, 500MB.")
@option("--idle-unload", type=float, metavar="S", help="Unload experts that nobody asked for so long.")
@energy_options()
@option("--noise-seed", type=int, help="Seed of the profile's noise, where it has any.  [default: 0]")
@option("--profiling-s", type=float, metavar="S", help="Seconds of measuring per expert.  [default: 0.3]")
@option("--personal", type=click.Path(path_type=Path), metavar="DIR", help="Let experts learn their users; kept here.")
@option("--personal-expert", metavar="NAME", help="Which expert learns.  [default: the best that can]")
@option("--personal-keep-h", type=float, metavar="H", help="Hours an input waits for a correction.  [default: 24]")
@option("--personal-keep-mib", type=int, metavar="MIB", help="What waiting inputs may take.  [default: 64]")
@option("--personal-day-j", type=float, metavar="J", help="Joules a day for training.  [default: 200]")
@option("--allow-suspend", is_flag=True, default=None, help="Let the gateway put this machine to sleep.")
@option("--suspend-command", metavar="CMD", help="What does that.  [default: systemctl suspend]")
@option("--suspend-settle-s", type=float, metavar="S", help="Longest that falling asleep takes.  [default: 20]")
@option("--suspend-s", type=float, metavar="S", help="Seconds that falling asleep takes.  [default: 5]")
@option("--suspend-w", type=float, metavar="W", help="Watts in that time.  [default: the idle watts]")
@option("--idle-w", type=float, metavar="W", help="Watts while awake and idle.  [default: the profile's]")
@option("--sleep-w", type=float, metavar="W", help="Watts while asleep.  [default: 0]")
@option("--wake-j", type=float, metavar="J", help="Joules of waking up.  [default: 0]")
@option("--wake-s", type=float, metavar="S", help="Seconds from being woken to having joined.  [default: 30]")
@option("--wake-mac", metavar="MAC", help="Network card that wakes it.  [default: that of the default route]")
@option("--wake-address", metavar="HOST:PORT", help="Where magic packets go.  [default: 255.255.255.255:9]")
@option("--relay-wake", is_flag=True, default=None, help="Send magic packets for other nodes on this network.")
@option(
    "--accept-models",
    type=click.Choice([choice.value for choice in AcceptModels]),
    help="Take models that operators push: where the kernel locks them in, never, or always.  [default: sandboxed]",
)
@option("--model-store", type=click.Path(path_type=Path), metavar="DIR", help="Where pushed models are kept.")
@option("--model-quota-mib", type=int, metavar="MIB", help="What they may take on the disk.  [default: 4096]")
@option("--model-memory-mib", type=int, metavar="MIB", help="What they may take loaded.  [default: 2048]")
@option("--model-run-s", type=float, metavar="S", help="How long one run of them may take.  [default: 10]")
@option("--log", type=click.Choice(["console", "json"]), default="console", help="Form of the log.")
def run(
    log: str,
    experts: str | None,
    memory_limit: int | None,
    memory_budget: str | None,
    idle_unload: float | None,
    **given: Any,
) -> None:
    """Join a gateway and work until stopped.

    Ctrl-C or SIGTERM finishes what runs and leaves; a second one leaves at once. Needs no open port.
    """
    from nodes.polling import poll_directly

    poll_directly()
    from nodes.identity.choice import with_identity
    from nodes.log import set_up_log
    from nodes.packages import require_compatible
    from nodes.run import run_agent

    set_up_log(log)
    require_compatible()
    names = [name.strip() for name in (experts or "").split(",") if name.strip()]
    memory = {
        "memory_limit_bytes": memory_limit,
        "memory_budget_bytes": memory_budget,
        "idle_unload_s": idle_unload,
    }
    settings = {**given, **memory, "experts": tuple(names)}
    sys.exit(run_agent(parse_config(with_identity(settings))))


@cli.command()
@models_option()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def experts(models: Path | None, output: str) -> None:
    """List the experts of a folder, cheapest first."""
    from nodes.inventory import load_inventory

    arms = sorted(load_inventory(models, ()).arms, key=lambda arm: arm.macs)
    keys = ("expert", "variant", "task", "engine", "macs", "memory_bytes", "quality_fraction")
    _print(output, keys, [{key: getattr(arm, key) for key in keys} for arm in arms])


@cli.command()
@measuring_options()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def doctor(worker_python: Path | None, models: Path | None, output: str, **given: Any) -> None:
    """Check what this node needs: interpreter, experts, energy source, disk."""
    from nodes.doctor import Subject, examine, exit_code
    from nodes.energy.sources import Places

    places = Places(trace=given["energy_trace"], calibration=given["calibration"], idle_window_s=0.2)
    energy = EnergyMode(given["energy"])
    subject = Subject(worker_python or Path(sys.executable), models, given["profile"], energy, places)
    checks = examine(subject)
    rows = [{"check": check.name, "ok": check.ok, "detail": check.detail} for check in checks]
    _print(output, ("check", "ok", "detail"), rows)
    sys.exit(exit_code(checks))


@cli.group(invoke_without_command=True)
@measuring_options()
@compile_options()
@click.option("--experts", metavar="A,B,…", help="Experts to measure.  [default: all in the catalogue]")
@click.option("--batches", default="1,4,16", show_default=True, help="Input sizes, in samples.")
@click.option("--concurrencies", default="1,2", show_default=True, help="Runs at once.")
@click.option("--seconds", type=click.FloatRange(0.05, 60.0), default=1.0, show_default=True, help="Per point.")
@click.option("--to", type=click.Path(path_type=Path), default=Path("profile.json"), show_default=True, metavar="FILE")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_context
def profile(context: click.Context, /, to: Path, output: str, **given: Any) -> None:
    """Measure this node's arms on purpose: milliseconds and joules by input size and concurrency.

    What was measured, and with which source, goes to --to.
    """
    if context.invoked_subcommand is not None:
        return
    from nodes.log import set_up_log
    from nodes.survey import write
    from nodes.surveying import survey_node

    set_up_log("console")
    document = survey_node(given)
    write(to, document)
    keys = ("arm", "batch", "concurrency", "runs", "p50_ms", "energy_j", "uncertainty_j", "provenance", "share")
    _print(output, keys, document["points"])
    click.echo(f"written to {to}", err=True)


@profile.command(name="import")
@click.argument("measured", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--name", metavar="NAME", help="Of the profile.  [default: the file's]")
@click.option("--to", type=click.Path(path_type=Path), metavar="FILE", help="[default: NAME.json]")
def import_profile(measured: Path, name: str | None, to: Path | None) -> None:
    """Make a device profile of what `profile` or `verify` measured in joules: for machines of its kind, and `simulate`.

    Refused are joules that nobody measured, and engines that answered otherwise than ONNX Runtime.
    """
    from dataclasses import asdict

    from nodes.energy.fitting import fitted, read_measured
    from nodes.survey import write

    made = fitted(read_measured(measured), name or measured.stem)
    place = to or Path(f"{made.name}.json")
    write(place, {key: value for key, value in asdict(made).items() if key != "digest"})
    click.echo(
        f"{made.name}: {made.j_per_mac:.3g} J for each multiply-accumulate and {made.overhead_j:.3g} J for each run;"
        f" what was measured is within a factor of {made.error_factor:.2f}; use it with --profile {place}"
    )


@cli.command()
@click.option("--form", required=True, metavar="FORM", help="Compiled form to verify, such as rtx-fp16.")
@measuring_options()
@option("--gpu-python", type=click.Path(path_type=Path), metavar="PATH", help="Interpreter for forms on a GPU.")
@option("--compile-cache", type=click.Path(path_type=Path), metavar="DIR", help="Folder of compiled files.")
@click.option("--experts", metavar="A,B,…", help="Experts to verify.  [default: all in the catalogue with tensors]")
@click.option("--inputs", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Answers to compare.")
@click.option("--batches", default="1,4,16", show_default=True, help="Input sizes to measure, in samples.")
@click.option("--seconds", type=click.FloatRange(0.05, 60.0), default=2.0, show_default=True, help="Per point.")
@click.option("--to", type=click.Path(path_type=Path), default=Path("verified.json"), show_default=True, metavar="FILE")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def verify(to: Path, output: str, **given: Any) -> None:
    """Verify a compiled form on this machine: its answers beside ONNX Runtime's, its milliseconds and joules.

    All goes to --to, which `profile import` takes. The exit code is not 0 where answers differ by more than allowed.
    """
    from nodes.log import set_up_log
    from nodes.survey import write
    from nodes.verification import verify_node

    set_up_log("console")
    document = verify_node(given)
    write(to, document)
    keys = ("arm", "inputs", "largest_difference", "allowed", "ok")
    _print(output, keys, document["verified"])
    click.echo(f"written to {to}; next: edgewise profile import {to}", err=True)
    if not all(row["ok"] for row in document["verified"]):
        sys.exit(ExitCode.ENGINE_FAILED)


cli.add_command(join)
cli.add_command(prune)
cli.add_command(ray)
cli.add_command(compile_forms)
cli.add_command(cache)


def _print(output: str, keys: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    cells = [list(keys), *([_cell(row[key]) for key in keys] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(keys))]
    for line in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    try:
        # `edgewise` hands over to these commands, and says what it was called as.
        called = os.environ.pop("EDGEWISE_CALLED_AS", "python -m nodes")
        cli.main(args=arguments, prog_name=called, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return ExitCode.INTERRUPTED
    except NodeError as error:
        click.echo(f"Error: {error.message}", err=True)
        return error.exit_code
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return ExitCode.OK
