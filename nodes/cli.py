"""The node's own commands; `edgewise node …` starts them in the node's environment."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from nodes.compile.commands import cache, compile_forms
from nodes.config import AcceptModels, default_name, parse_config
from nodes.energy.discovery import EnergyMode
from nodes.energy.profile import profile_names
from nodes.errors import ExitCode, NodeError
from nodes.identity.cli import join
from nodes.pruning.commands import prune
from nodes.ray.cli import ray

ENVIRONMENT_PREFIX = "EDGEWISE_NODE_"
Command = TypeVar("Command", bound=Callable[..., Any])


def _option(flag: str, **settings: Any) -> Callable[[Command], Command]:
    variable = ENVIRONMENT_PREFIX + flag.removeprefix("--").replace("-", "_").upper()
    return click.option(flag, envvar=variable, show_envvar=True, **settings)


def _profile_option() -> Callable[[Command], Command]:
    return _option(
        "--profile",
        metavar="NAME|FILE",
        help=f"Device profile that joules are modelled with: {', '.join(profile_names())}, or a .json file.",
    )


def _models_option() -> Callable[[Command], Command]:
    return _option(
        "--models",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Folder of experts.  [default: the digit classifiers and language models that ship]",
    )


def _python_option() -> Callable[[Command], Command]:
    return _option(
        "--worker-python",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Interpreter that runs the models; needs Python 3.10, numpy and onnxruntime.  [default: this one]",
    )


def _compile_options() -> Callable[[Command], Command]:
    options = [
        _option("--compile", multiple=True, metavar="FORMS", help="Compiled forms to offer too: int8,ort or auto."),
        _option(
            "--compile-when",
            type=click.Choice(["first", "beside"]),
            help="Before joining, or while the node serves the models as they came.  [default: first]",
        ),
        _option("--compile-loss-points", type=float, metavar="P", help="Accuracy that one may lose.  [default: 0.5]"),
        _option("--compile-cache", type=click.Path(path_type=Path), metavar="DIR", help="Folder of compiled files."),
        _option("--compile-cache-mib", type=int, metavar="MIB", help="What they may take.  [default: 2048]"),
        _option(
            "--gpu-python",
            type=click.Path(path_type=Path),
            metavar="PATH",
            help="Interpreter for forms on a GPU, such as JetPack's own.  [default: that of the models]",
        ),
    ]

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _energy_option() -> Callable[[Command], Command]:
    return _option(
        "--energy",
        type=click.Choice([mode.value for mode in EnergyMode]),
        default=EnergyMode.AUTO.value,
        show_default=True,
        help="Where joules come from. auto: a sensor of this machine, else the profile, else they are unmeasured.",
    )


def _trace_option() -> Callable[[Command], Command]:
    return _option(
        "--energy-trace",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="CSV with time_s and power_w or energy_j, for --energy replay.",
    )


def _calibration_option() -> Callable[[Command], Command]:
    return _option(
        "--calibration",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="JSON with factor, offset_w, source: what a meter at the plug showed against a Jetson's own sensors.",
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Offer this machine's experts to an Edgewise gateway."""


@cli.command()
@_option(
    "--gateway",
    metavar="HOST:PORT[,HOST:PORT]",
    help="The gateway's gRPC port; of several replicas, all of theirs.  [default: the one that was joined]",
)
@_option("--name", help=f"What the gateway calls this node.  [default: {default_name()}]")
@_profile_option()
@_option("--experts", metavar="A,B,…", help="Experts to offer.  [default: all in the catalogue]")
@_models_option()
@_python_option()
@_compile_options()
@_option("--concurrency", type=int, metavar="C", help="Models that run at once.  [default: 1]")
@_option("--texts-at-once", type=int, metavar="N", help="Texts that language models write at once.  [default: 8]")
@_option("--kept-prompts-mib", type=int, metavar="MIB", help="For prompts that begin alike; 0 for none.  [default: 32]")
@_option("--queue-limit", type=int, metavar="Q", help="Work that may wait; more is refused.  [default: 64]")
@_option(
    "--identity",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Key and certificate of this node.  [default: those that `join` saved under this name, if any]",
)
@_option("--key-file", type=click.Path(path_type=Path, dir_okay=False), help="File of the key to show.")
@_option("--openai", metavar="URL", help="Offer the models of this OpenAI-compatible server (http://HOST:PORT/v1).")
@_option("--openai-key-file", type=click.Path(path_type=Path, dir_okay=False), help="File of the key that it wants.")
@_option("--openai-task", metavar="TASK", help="Task that its models serve.  [default: chat]")
@_option("--model", multiple=True, metavar="M", help="One of its models: NAME,quality=0.7,context=8192,can=tools.")
@_option("--gguf", multiple=True, metavar="FILE", help="Serve this file: FILE,quality=0.7,context=8192,tag=private.")
@_option("--llama-server", type=click.Path(path_type=Path), metavar="PATH", help="The program.  [default: on the path]")
@_option("--context", type=int, metavar="TOKENS", help="Of one text of a GGUF file.  [default: its own, up to 4096]")
@_option("--memory-limit", type=int, metavar="BYTES", help="What the experts may take together.")
@_option("--memory-budget", metavar="SIZE", help="Load experts when asked for, unload others for them: 2GiB, 500MB.")
@_option("--idle-unload", type=float, metavar="S", help="Unload experts that nobody asked for so long.")
@_energy_option()
@_trace_option()
@_calibration_option()
@_option("--noise-seed", type=int, help="Seed of the profile's noise, where it has any.  [default: 0]")
@_option("--profiling-s", type=float, metavar="S", help="Seconds of measuring per expert.  [default: 0.3]")
@_option("--personal", type=click.Path(path_type=Path), metavar="DIR", help="Let experts learn their users; kept here.")
@_option("--personal-expert", metavar="NAME", help="Which expert learns.  [default: the best that can]")
@_option("--personal-keep-h", type=float, metavar="H", help="Hours an input waits for a correction.  [default: 24]")
@_option("--personal-keep-mib", type=int, metavar="MIB", help="What waiting inputs may take.  [default: 64]")
@_option("--personal-day-j", type=float, metavar="J", help="Joules a day for training.  [default: 200]")
@_option("--allow-suspend", is_flag=True, default=None, help="Let the gateway put this machine to sleep.")
@_option("--suspend-command", metavar="CMD", help="What does that.  [default: systemctl suspend]")
@_option("--suspend-settle-s", type=float, metavar="S", help="Longest that falling asleep takes.  [default: 20]")
@_option("--suspend-s", type=float, metavar="S", help="Seconds that falling asleep takes.  [default: 5]")
@_option("--suspend-w", type=float, metavar="W", help="Watts in that time.  [default: the idle watts]")
@_option("--idle-w", type=float, metavar="W", help="Watts while awake and idle.  [default: the profile's]")
@_option("--sleep-w", type=float, metavar="W", help="Watts while asleep.  [default: 0]")
@_option("--wake-j", type=float, metavar="J", help="Joules of waking up.  [default: 0]")
@_option("--wake-s", type=float, metavar="S", help="Seconds from being woken to having joined.  [default: 30]")
@_option("--wake-mac", metavar="MAC", help="Network card that wakes it.  [default: that of the default route]")
@_option("--wake-address", metavar="HOST:PORT", help="Where magic packets go.  [default: 255.255.255.255:9]")
@_option("--relay-wake", is_flag=True, default=None, help="Send magic packets for other nodes on this network.")
@_option(
    "--accept-models",
    type=click.Choice([choice.value for choice in AcceptModels]),
    help="Take models that operators push: where the kernel locks them in, never, or always.  [default: sandboxed]",
)
@_option("--model-store", type=click.Path(path_type=Path), metavar="DIR", help="Where pushed models are kept.")
@_option("--model-quota-mib", type=int, metavar="MIB", help="What they may take on the disk.  [default: 4096]")
@_option("--model-memory-mib", type=int, metavar="MIB", help="What they may take loaded.  [default: 2048]")
@_option("--model-run-s", type=float, metavar="S", help="How long one run of them may take.  [default: 10]")
@_option("--log", type=click.Choice(["console", "json"]), default="console", help="Form of the log.")
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
@_models_option()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def experts(models: Path | None, output: str) -> None:
    """List the experts of a folder, cheapest first."""
    from nodes.inventory import load_inventory

    arms = sorted(load_inventory(models, ()).arms, key=lambda arm: arm.macs)
    keys = ("expert", "variant", "task", "engine", "macs", "memory_bytes", "quality_fraction")
    _print(output, keys, [{key: getattr(arm, key) for key in keys} for arm in arms])


@cli.command()
@_python_option()
@_models_option()
@_profile_option()
@_energy_option()
@_trace_option()
@_calibration_option()
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


@cli.command()
@_python_option()
@_models_option()
@_profile_option()
@_energy_option()
@_trace_option()
@_calibration_option()
@_compile_options()
@click.option("--experts", metavar="A,B,…", help="Experts to measure.  [default: all in the catalogue]")
@click.option("--batches", default="1,4,16", show_default=True, help="Input sizes, in samples.")
@click.option("--concurrencies", default="1,2", show_default=True, help="Runs at once.")
@click.option("--seconds", type=click.FloatRange(0.05, 60.0), default=1.0, show_default=True, help="Per point.")
@click.option("--to", type=click.Path(path_type=Path), default=Path("profile.json"), show_default=True, metavar="FILE")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def profile(to: Path, output: str, **given: Any) -> None:
    """Measure this node's arms on purpose: milliseconds and joules by input size and concurrency.

    What was measured, and with which source, goes to --to.
    """
    from nodes.log import set_up_log
    from nodes.survey import write
    from nodes.surveying import survey_node

    set_up_log("console")
    document = survey_node(given)
    write(to, document)
    keys = ("arm", "batch", "concurrency", "runs", "p50_ms", "energy_j", "uncertainty_j", "provenance", "share")
    _print(output, keys, document["points"])
    click.echo(f"written to {to}", err=True)


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
        cli.main(args=arguments, prog_name="python -m nodes", standalone_mode=False)
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
