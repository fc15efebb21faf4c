"""Dynamic pruning and three kinds of static pruning at the same work and the same epochs, on the digits.

Every figure comes from commands that a user can type: ``edgewise prune train --net digits``, then for each method
``edgewise prune train --from dense.npz --method METHOD --target-macs 0.5``. Accuracy is over the 360 digits that no
network was trained on, so one digit is 0.28 points; the median of three seeds is reported, and the extremes beside it.
Milliseconds are those of our kernels for all, with the images themselves, not replayed masks.

Beside the four methods stand three changes to the first, each alone: decisions about single filters instead of groups
of 16 (studied, not served: no milliseconds), joint training, and half of the loss taught by the dense network.

Not run here: CIFAR-10 (`bench_pruning` has its checkpoints), ResNet and MobileNet.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from nodes.cli import main as nodes
from nodes.pruning.commands import METHODS
from tests.bench.harness import NOT_RUN, Bar, Row, main

EPOCHS, TARGET, SEEDS = 4, 0.5, 3
RATE = 0.02
# What each is trained with beside the budget.
TRAININGS = {
    **{method: ("--method", method) for method in METHODS},
    "ftwt-filters": ("--group", "1"),
    "ftwt-joint": ("--joint",),
    "ftwt-taught": ("--distill", "0.5"),
}
UNSERVED = ("ftwt-filters",)

# What is promised is that savings are foretold and met. Which method is best is a finding.
BARS = [
    Bar("ftwt_forecast_error_worst", 0.05, "<="),
    *[Bar(f"{method}_reduction_least", 1 - TARGET - 0.05, ">=") for method in TRAININGS],
]


def trained(to: Path, *flags: str) -> dict[str, Any]:
    """Run one command and read what it found out."""
    shared = ["--epochs", str(EPOCHS), "--rate", str(RATE), "--to", str(to)]
    if nodes(["prune", "train", *flags, *shared]):
        raise SystemExit(f"prune train {' '.join(flags)} failed")
    facts: dict[str, Any] = json.loads(to.with_suffix(".json").read_text())["facts"]
    return facts


def of_seed(folder: Path, seed: int) -> dict[str, dict[str, Any]]:
    """Facts of the dense network and of each method that began from it."""
    dense = folder / f"dense-{seed}.npz"
    rest = ["--seed", str(seed)]
    found = {"dense": trained(dense, "--net", "digits", *rest)}
    for method, chosen in TRAININGS.items():
        flags = ["--from", str(dense), *chosen, "--target-macs", str(TARGET), *rest]
        found[method] = trained(folder / f"{method}-{seed}.npz", *flags)
    return found


def run() -> list[Row]:
    """All methods from three dense networks."""
    if importlib.util.find_spec("torch") is None:
        print("not run: torch is not installed (pip install 'edgewise[train]')")
        raise SystemExit(NOT_RUN)
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        seeds = [of_seed(Path(folder), seed) for seed in range(SEEDS)]
        rows = [row for method in ("dense", *TRAININGS) for row in rows_of(method, [facts[method] for facts in seeds])]
        rows += times_of(Path(folder))
    gated = [facts[method] for facts in seeds for method in TRAININGS if method.startswith("ftwt")]
    apart = [abs(facts["reduction"] - facts["reduction_forecast"]) for facts in gated]
    return [*rows, Row("ftwt_forecast_error_worst", max(apart), "1", {"seeds": SEEDS})]


def rows_of(method: str, facts: list[dict[str, Any]]) -> list[Row]:
    """Accuracy and savings of one method."""
    sizes: dict[str, object] = {"network": "digits", "epochs": EPOCHS, "seeds": SEEDS, "target_macs": TARGET}
    accuracy, saved = [one["accuracy"] for one in facts], [one["reduction"] for one in facts]
    return [
        Row(f"{method}_accuracy", float(np.median(accuracy)), "1", sizes),
        Row(f"{method}_accuracy_least", min(accuracy), "1", sizes),
        Row(f"{method}_accuracy_most", max(accuracy), "1", sizes),
        Row(f"{method}_reduction", float(np.median(saved)), "1", sizes),
        Row(f"{method}_reduction_least", min(saved), "1", sizes),
    ]


def times_of(folder: Path) -> list[Row]:
    """Milliseconds of the first seed's checkpoints, one after the other, three times; the least of each."""
    from kernels.native.library import available
    from nodes.pruning.checkpoints import load
    from nodes.pruning.jobs import data_of
    from nodes.pruning.jobs import trained as known

    if not available():
        print("milliseconds: not run, no compiled library")
        return []
    data = data_of(load(folder / "dense-0.npz").net, None)
    names = ["dense", *(name for name in TRAININGS if name not in UNSERVED)]
    taken = [{name: known(folder / f"{name}-0.npz", data)["ms"] for name in names} for _ in range(3)]
    return [Row(f"{name}_ms", min(turn[name] for turn in taken), "ms", {"images": 200}) for name in names]


if __name__ == "__main__":
    main(stem="pruning_methods", run=run, bars=BARS)
