"""`prune`: train gates to a mass or a budget, see what a mass would save, write what a node runs."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kernels.errors import KernelError
from nodes.errors import ConfigError

if TYPE_CHECKING:
    from nodes.pruning.checkpoints import Checkpoint

FILE = click.Path(dir_okay=False, path_type=Path)
NETS = ("digits", "vgg16", "resnet20", "resnet56", "mobilenet", "lenet5")
FTWT = "ftwt"
METHODS = (FTWT, "static-uniform", "static-magnitude", "static-taylor")
MASSES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)


class _Verbs(click.Group):
    """Says what the disk or the kernels refused as it says everything else that is wrong."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as error:
            raise ConfigError(f"{error.filename or 'a file'}: {error.strerror or error}") from error
        except KernelError as error:
            raise ConfigError(f"{error} Without kernels there are no milliseconds: use --target-macs") from error


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
def prune() -> None:
    """Prune an expert dynamically: per input, compute only the filters that will fire."""


@prune.command()
@click.option("--net", type=click.Choice(NETS), default="digits", show_default=True, help="Train this network dense.")
@click.option(
    "--width", type=click.FloatRange(0.125, 2.0), default=1.0, show_default=True, help="Share of its channels."
)
@click.option("--from", "source", type=FILE, metavar="FILE", help="Prune this dense checkpoint instead.")
@click.option("--mass", type=click.FloatRange(0.0, 1.0), help="Share of the activations to keep.")
@click.option("--target-macs", type=click.FloatRange(0.0, 1.0), metavar="SHARE", help="Keep this share of the work.")
@click.option(
    "--target-ms", type=click.FloatRange(min=0.0), metavar="MS", help="Keep within this time, on this machine."
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default=FTWT,
    show_default=True,
    help="Per image (ftwt), or for good: the same share of each layer, the largest weights, or by Taylor's expansion.",
)
@click.option(
    "--group",
    type=click.Choice(["1", "16"]),
    help="Filters that one decision stands for; 1 can be studied and not served.  [default: as --from has it, else 16]",
)
@click.option(
    "--also-mass",
    "also_masses",
    type=click.FloatRange(0.0, 1.0),
    multiple=True,
    help="Keep thresholds for this mass too, to export as another arm of the same weights. May be repeated.",
)
@click.option(
    "--distill",
    type=click.FloatRange(0.0, 1.0),
    default=0.0,
    show_default=True,
    help="Share of the loss that the answers of the --from network have, beside the labels.",
)
@click.option("--joint", is_flag=True, help="Let the predictors' loss reach the convolutions.")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Folder of CIFAR-10 in parquet.")
@click.option("--epochs", type=click.IntRange(1), default=12, show_default=True)
@click.option("--rate", type=click.FloatRange(min=0.0, min_open=True), default=0.05, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of weights, order and distortions.")
@click.option("--bfloat16", is_flag=True, help="Convolutions in 16 bits.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to train.")
@click.option("--to", type=FILE, required=True, metavar="FILE", help="Checkpoint (.npz). Training resumes beside it.")
def train(**given: Any) -> None:
    """Train a network dense, or with --from prune one to a --mass, to --target-macs or to --target-ms."""
    _require_torch()
    from nodes.pruning.jobs import train_dense, train_pruned

    wishes = [given[name] for name in ("mass", "target_macs", "target_ms") if given[name] is not None]
    if (given["source"] is None) != (not wishes) or len(wishes) > 1:
        raise ConfigError("prune train: give --from together with one of --mass, --target-macs and --target-ms")
    _refuse_idle(given)
    _require_target(given["to"], ".npz", given["source"])
    _require_device(given["device"])
    given["group"] = None if given["group"] is None else int(given["group"])
    run = train_dense if given["source"] is None else train_pruned
    _tell(run(given, report=click.echo), given["to"])


@prune.command()
@click.option("--from", "source", type=FILE, required=True, metavar="FILE", help="Dense checkpoint.")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Folder of CIFAR-10 in parquet.")
@click.option(
    "--beside",
    "trained_files",
    type=FILE,
    multiple=True,
    metavar="FILE",
    help="A checkpoint trained from it, to be listed with its accuracy. May be repeated.",
)
def profile(source: Path, data: Path | None, trained_files: tuple[Path, ...]) -> None:
    """What each mass would save, in work and in milliseconds here, beside filters left out for good."""
    _require_torch()
    from nodes.pruning.jobs import data_of, dense_at, foretold, trained

    checkpoint = dense_at(source)
    images = data_of(checkpoint.net, data)
    click.echo(f"{'method':<16}  {'mass':>5}  {'work saved':>10}  {'ms':>8}")
    for row in foretold(checkpoint, images, MASSES):
        click.echo(f"{row.method:<16}  {_mass(row.mass)}  {row.saved:10.1%}  {_ms(row.ms)}")
    for position, path in enumerate(trained_files):
        if not position:
            click.echo(f"\n{'trained':<16}  {'mass':>5}  {'work saved':>10}  {'ms':>8}  {'accuracy':>8}  checkpoint")
        facts = trained(path, images)
        figures = f"{facts['reduction']:10.1%}  {_ms(facts['ms'])}  {facts['accuracy']:8.2%}"
        click.echo(f"{facts['method']:<16}  {_mass(facts['mass'])}  {figures}  {facts['name']}")


def _mass(mass: float | None) -> str:
    return f"{'-' if mass is None else f'{mass:.2f}':>5}"


def _ms(ms: float | None) -> str:
    return f"{'not run' if ms is None else f'{ms:.3f}':>8}"


def _refuse_idle(given: dict[str, Any]) -> None:
    """Refuse flags that would do nothing."""
    static, dense = given["method"] != FTWT, given["source"] is None
    idle = {
        "--method": static and dense,
        "--distill": bool(given["distill"]) and dense,
        "--also-mass": bool(given["also_masses"]) and (static or dense),
        "--joint": given["joint"] and (static or dense),
        "--group": given["group"] is not None and static,
    }
    for flag, refused in idle.items():
        if refused:
            lacking = "without --from there is nothing to prune" if dense else "a static method has no gates"
            raise ConfigError(f"prune train {flag}: {lacking}; leave it out")


@prune.command()
@click.option("--from", "source", type=FILE, required=True, metavar="FILE", help="Pruned checkpoint.")
@click.option("--to", type=FILE, required=True, metavar="FILE", help="File for the node (.npz, or .onnx of a bucket).")
@click.option(
    "--bucket",
    type=click.FloatRange(0.0, 1.0, min_open=True),
    metavar="SHARE",
    help="Write an ONNX graph instead that computes this share of every layer's groups, for runtimes such as TensorRT.",
)
@click.option(
    "--mass", type=click.FloatRange(0.0, 1.0), help="At one of the masses that --also-mass named in training."
)
@click.option("--input", "input_name", default="image", show_default=True)
@click.option("--output", "output_name", default="probabilities", show_default=True)
def export(
    source: Path, to: Path, bucket: float | None, mass: float | None, *, input_name: str, output_name: str
) -> None:
    """Write what a node runs: folded weights, predictors, thresholds. Prints the digest for the expert's card."""
    _require_torch()
    from nodes.pruning.checkpoints import load
    from nodes.pruning.jobs import at_mass, exported, exported_bucket

    _require_target(to, ".npz" if bucket is None else ".onnx", source)
    checkpoint = load(source) if mass is None else at_mass(load(source), mass)
    if bucket is None:
        exported(checkpoint, to, input_name=input_name, output_name=output_name)
    else:
        exported_bucket(checkpoint, to, bucket)
    engine = "chain" if bucket is None else "onnx"
    click.echo(f"{to}: engine {engine}, sha256 {hashlib.sha256(to.read_bytes()).hexdigest()}")


def _tell(checkpoint: Checkpoint, to: Path) -> None:
    facts = checkpoint.facts
    click.echo(f"written to {to}: accuracy {facts['accuracy']:.2%}, {facts['reduction']:.1%} of the work saved")


def _require_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no GPU here; leave it out, or install a torch built for one")


def _require_target(to: Path, suffix: str, source: Path | None) -> None:
    """Refuse a file that would not be found again by its name, or that would replace what it is made from."""
    if to.suffix != suffix:
        raise ConfigError(f"--to {to}: the name must end in {suffix}")
    if source is not None and to.resolve() == source.resolve():
        raise ConfigError(f"--to {to}: that is the --from file, which would be overwritten; choose another name")


def _require_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        raise ConfigError("prune needs PyTorch, which is not installed. Run: pip install 'edgewise[train]'")


def cifar_folder(given: Path | None) -> Path:
    """Where CIFAR-10 lies.

    Raises:
        ConfigError: Nobody said so.
    """
    named = os.environ.get("EDGEWISE_EVAL_DATA")
    folder = given or (Path(named) / "vision_cifar10" if named else None)
    if folder is None or not folder.is_dir():
        where = "" if folder is None else f" ({folder} is no folder)"
        raise ConfigError(
            f"--data: name the folder that holds cifar10_train_20k.parquet and its neighbours{where}, "
            "or set EDGEWISE_EVAL_DATA to the folder of the evaluation data"
        )
    return folder
