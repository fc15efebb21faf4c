"""Trains the checkpoints of `bench_pruning`, and records what is committed of them.

``EDGEWISE_EVAL_DATA=DIR python -m tests.bench.pruning_recipe --to FOLDER`` runs the commands below, each in a process
of its own, and then `pruning_rows.record` on what they wrote. It can be stopped at any time: what lies in the folder is
not trained again, and the training that was stopped goes on after its last whole epoch. ``--list`` only says the
commands.

Cost, on one core of an AMD EPYC with 16-bit arithmetic: 40 s an epoch dense, 50 s dynamic, 20 s static; in all some 100
minutes.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from tests.bench.harness import evaluation_data
from tests.bench.pruning_rows import record

DENSE = "vgg16-dense"
# The same for whatever is pruned, so that methods can be compared.
AFTER_DENSE = "--epochs 20 --rate 0.05 --bfloat16"


@dataclass(frozen=True)
class Training:
    """One checkpoint.

    Attributes:
        name: Of its file.
        flags: Of ``edgewise prune train``.
        pruned: From the dense checkpoint.
    """

    name: str
    flags: str
    pruned: bool = True

    def command(self, folder: Path) -> list[str]:
        """What follows ``edgewise``."""
        source = ["--from", str(folder / f"{DENSE}.npz"), *shlex.split(AFTER_DENSE)] if self.pruned else []
        return ["prune", "train", *source, *shlex.split(self.flags), "--to", str(self.file(folder))]

    def file(self, folder: Path) -> Path:
        """Where it is written."""
        return folder / f"{self.name}.npz"


RECIPE = (
    Training(DENSE, "--net vgg16 --width 0.25 --epochs 30 --rate 0.1 --bfloat16", pruned=False),
    Training("vgg16-pruned-65", "--target-macs 0.33"),
    Training("vgg16-static-uniform-65", "--method static-uniform --target-macs 0.33"),
    Training("vgg16-static-taylor-65", "--method static-taylor --target-macs 0.33"),
    Training("vgg16-pruned-50", "--target-macs 0.5"),
    Training("vgg16-pruned-73", "--target-macs 0.27"),
)


@click.command()
@click.option("--to", "folder", type=click.Path(file_okay=False, path_type=Path), required=True, metavar="FOLDER")
@click.option("--list", "only_list", is_flag=True, help="Only say the commands.")
def recipe(folder: Path, only_list: bool) -> None:
    """Train and record every checkpoint that is not there yet."""
    if only_list:
        for training in RECIPE:
            click.echo(shlex.join(["edgewise", *training.command(folder)]))
        return
    evaluation_data()
    for training in RECIPE:
        if not training.file(folder).exists():
            click.echo(shlex.join(["edgewise", *training.command(folder)]))
            subprocess.run([sys.executable, "-m", "nodes", *training.command(folder)], check=True)
    for training in RECIPE:
        record(training.file(folder))


if __name__ == "__main__":
    recipe()
