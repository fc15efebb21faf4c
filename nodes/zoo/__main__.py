"""``python -m nodes.zoo``: make the experts that ship, or check those that are there."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from kernels.errors import KernelError
from nodes.zoo.catalog import DEFAULT_FOLDER, CatalogError, load_catalog
from nodes.zoo.digits.settings import MASSES, RECIPES
from nodes.zoo.language.catalog import TEXT_FOLDER, load_text_catalog
from nodes.zoo.language.settings import RECIPES as LANGUAGE_RECIPES

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Make or check the experts that ship with a node."""


@main.command()
@click.option("--out", type=FOLDER, default=DEFAULT_FOLDER, show_default="the shipped folder")
@click.option("--only", "names", multiple=True, type=click.Choice([*RECIPES, *MASSES]), help="Train this expert only.")
@click.option(
    "--folds",
    "folds_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also train the models of all folds and write their answers here (three times as long).",
)
def train(out: Path, names: tuple[str, ...], folds_file: Path | None) -> None:
    """Train the digit experts and write weights, cards and evidence.

    Takes about two minutes on two cores; on one machine the files come out the same every time.
    """
    _require("torch", "onnx", "onnxruntime", "sklearn", extra="edgewise[train,node]")
    from nodes.zoo.digits.build import build  # torch takes seconds to import

    started = time.perf_counter()
    chosen = [name for name in (*RECIPES, *MASSES) if not names or name in names]
    build(out, chosen, folds_file=folds_file, report=click.echo)
    click.echo(f"written to {out} in {time.perf_counter() - started:.0f} s")


@main.command()
@click.option("--work", type=FOLDER, default=Path("build/language"), show_default=True, help="Of checkpoints.")
@click.option("--only", "names", multiple=True, type=click.Choice(list(LANGUAGE_RECIPES)), help="Train this one only.")
def train_language(work: Path, names: tuple[str, ...]) -> None:
    """Train the text experts, each on one core; stopped and started again, it goes on where it was.

    Takes about an hour for all. `export-language` then writes what ships.
    """
    _require("torch", extra="edgewise[train,node]")
    from nodes.zoo.language.train import Training  # torch takes seconds to import

    for name in names or LANGUAGE_RECIPES:
        click.echo(f"training {name}")
        Training(name, LANGUAGE_RECIPES[name], work).run(click.echo)


@main.command()
@click.option("--work", type=FOLDER, default=Path("build/language"), show_default=True, help="Of checkpoints.")
@click.option("--out", type=FOLDER, default=TEXT_FOLDER, show_default="the shipped folder")
def export_language(work: Path, out: Path) -> None:
    """Write weights, cards, questions and evidence of the text experts from their checkpoints, finished or not."""
    _require("torch", "onnx", "onnxruntime", extra="edgewise[train,node]")
    from nodes.zoo.language.build import Builder

    Builder(work, out, click.echo).build()


@main.command()
@click.option("--models", type=FOLDER, default=TEXT_FOLDER, show_default="the shipped folder")
def judge_language(models: Path) -> None:
    """Ask the text experts that are there the questions anew; write questions, evidence and cards, no weights."""
    _require("torch", "onnx", "onnxruntime", extra="edgewise[train,node]")
    from nodes.zoo.language.build import Builder

    with tempfile.TemporaryDirectory() as work:
        Builder(Path(work), models, click.echo).judge_again(load_text_catalog(models))


@main.command()
@click.option("--models", type=FOLDER, default=DEFAULT_FOLDER, show_default="the shipped folder")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The encoder, .onnx.")
@click.option("--rest", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Table for heads, .npz.")
@click.option("--share", type=click.FloatRange(0.1, 0.9), default=0.5, show_default=True, help="Of the samples for it.")
def train_encoder(models: Path, out: Path, rest: Path, share: float) -> None:
    """Train a small encoder of the experts' inputs for the gate, on a part of their reference set.

    The rest of the set, with what every expert made of it, is for `edgewise gate train --table REST --tensor-encoder
    OUT`: heads must not learn from what their encoder has seen. Takes a second.
    """
    _require("onnx", extra="edgewise[train,node]")
    from nodes.zoo.tensor_encoder import dealt, export_encoder, tensor_table
    from nodes.zoo.tensor_encoder import train_encoder as fitted

    try:
        mine, others = dealt(tensor_table(load_catalog(models)), share)
    except CatalogError as problem:
        raise click.ClickException(str(problem)) from None
    inputs = mine["inputs"].astype(np.float64)
    weights = fitted(inputs.reshape(len(inputs), -1), mine["labels"].astype(np.int64))
    export_encoder(weights, inputs.shape[1:], out)
    np.savez_compressed(rest, allow_pickle=False, **others)
    click.echo(
        f"{out}: {weights.macs:,d} multiply-accumulates, from {len(inputs)} samples; {rest}: {len(others['inputs'])}"
    )


@main.command()
@click.option("--models", type=FOLDER, default=DEFAULT_FOLDER, show_default="the shipped folder")
def verify(models: Path) -> None:
    """Check every digest, then every expert on the digits that it never saw."""
    _require("onnxruntime", extra="edgewise[node]")
    from nodes.zoo.check import check_expert  # the runtime is optional

    try:
        catalog = load_catalog(models)
        findings = [check_expert(catalog, card) for card in catalog.experts]
    except (CatalogError, KernelError) as problem:
        raise click.ClickException(str(problem)) from None
    for card, found in zip(catalog.experts, findings, strict=True):
        click.echo(
            f"{found.expert:17s} {card.macs:>9,d} MACs  held out {found.held_out_fraction:.2%}"
            f"  evidence {found.evidence_fraction:.2%}  {'as stated' if found.as_stated else 'NOT AS STATED'}"
        )
    if not all(found.as_stated for found in findings):
        sys.exit(1)


@main.command()
@click.option("--models", type=FOLDER, default=TEXT_FOLDER, show_default="the shipped folder")
@click.option("--only", "names", multiple=True, help="Check this one only.")
def verify_language(models: Path, names: tuple[str, ...]) -> None:
    """Check every digest, then every text expert on the questions that it never saw."""
    _require("onnxruntime", extra="edgewise[node]")
    from nodes.zoo.language.check import check_text_expert  # the runtime is optional

    try:
        catalog = load_text_catalog(models)
    except CatalogError as problem:
        raise click.ClickException(str(problem)) from None
    findings = [check_text_expert(catalog, card) for card in catalog.experts if not names or card.name in names]
    for found in findings:
        state = "as stated" if found.as_stated else "NOT AS STATED"
        click.echo(f"{found.expert:18s} {found.right_fraction:.2%} of the test questions right, {state}")
    if not all(found.as_stated for found in findings):
        sys.exit(1)


@main.command()
@click.option("--models", type=FOLDER, default=TEXT_FOLDER, show_default="the shipped folder")
@click.option("--out", type=FOLDER, default=Path("build/gguf"), show_default=True)
@click.option("--only", "names", multiple=True, help="Write this one only.")
@click.option("--single", is_flag=True, help="Single precision in place of half: twice the size, the same values.")
def export_gguf(models: Path, out: Path, names: tuple[str, ...], single: bool) -> None:
    """Write the text experts as GGUF files, which llama.cpp serves; mixtures have no weights of their own."""
    _require("onnx", extra="edgewise[train]")
    from nodes.zoo.language.gguf_export import NotOurs, export_gguf

    try:
        catalog = load_text_catalog(models)
        cards = [card for card in catalog.experts if card.learned is not None]
        unknown = set(names) - {card.name for card in cards}
        if unknown:
            known = ", ".join(card.name for card in cards)
            raise click.ClickException(f"No expert {min(unknown)!r} with weights. Known are: {known}.")
        out.mkdir(parents=True, exist_ok=True)
        for card in cards:
            if not names or card.name in names:
                done = export_gguf(catalog.model_path(card), out / f"{card.name}.gguf", name=card.name, single=single)
                click.echo(f"{done.path}  {done.tensors} tensors, {done.file_bytes:,d} bytes")
    except (CatalogError, NotOurs) as problem:
        raise click.ClickException(str(problem)) from None


def _require(*modules: str, extra: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise click.ClickException(f"{', '.join(missing)} not installed. Run: pip install '{extra}'")


if __name__ == "__main__":
    main()
