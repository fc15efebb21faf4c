"""Train the self-pruning digit experts and write what ships of them. Shapes: n rows, c classes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from nodes.pruning.export import write_chain
from nodes.zoo.arrays import read_arrays, write_arrays
from nodes.zoo.digits.cards import SPLIT, sha256_of, write_json
from nodes.zoo.digits.gated import DENSE, NETWORK, PRUNED, FittedChain, run_gated_job
from nodes.zoo.digits.plan import Fitted, Job, inner_answers
from nodes.zoo.digits.settings import FOLDS, HELD_OUT_FOLD, MASSES
from nodes.zoo.digits.splits import Digits

FLOAT_BYTES = 4
INPUT_NAME, OUTPUT_NAME = "image", "probabilities"
MEMORY_NOTE = "file + packed fp32 weights + two images of the widest layer; the worker itself is not included"
LEFT_OUT = [(HELD_OUT_FOLD,), *((HELD_OUT_FOLD, fold) for fold in range(FOLDS) if fold != HELD_OUT_FOLD)]


def build_gated(
    out: Path, experts: Sequence[str], digits: Digits, *, workers: int, report: Callable[[str], None]
) -> None:
    """Train all operating points on every split, write the files, cards and evidence of `experts`.

    Cost: about two minutes of one core.
    """
    trained: dict[Job, FittedChain] = {}
    for left_out, (fitted, train_s) in zip(LEFT_OUT, _run(workers), strict=True):
        trained |= {Job(name, left_out): one for name, one in fitted.items()}
        report(f"gated digits without folds {left_out}: {train_s:.0f} s")
    answers = {job: Fitted(one.probabilities_nc, {}, 0.0) for job, one in trained.items()}
    evidence = _evidence_of(out)
    for expert in experts:
        found_nc = inner_answers(answers, expert, digits.fold_n, outer_fold=HELD_OUT_FOLD)
        evidence[expert] = found_nc[~digits.held_out_n].astype(np.float16)
        accuracy = _ship(out, expert, trained[Job(expert, (HELD_OUT_FOLD,))], digits)
        report(f"{expert}: {accuracy:.2%} of the held-out digits right")
    write_arrays(out / "evidence.npz", evidence)


def _run(workers: int) -> Iterator[tuple[dict[str, FittedChain], float]]:
    if workers == 1:
        yield from map(run_gated_job, LEFT_OUT)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
        yield from pool.map(run_gated_job, LEFT_OUT)


def _evidence_of(out: Path) -> dict[str, Any]:
    path = out / "evidence.npz"
    return read_arrays(path) if path.exists() else {}


def _ship(out: Path, expert: str, fitted: FittedChain, digits: Digits) -> float:
    model = out / f"{expert}.npz"
    write_chain(model, fitted.plan, input_name=INPUT_NAME, output_name=OUTPUT_NAME)
    held_out = digits.held_out_n
    right_n = fitted.probabilities_nc[held_out].argmax(axis=1) == digits.labels_n[held_out]
    mass = MASSES[expert]
    card: dict[str, Any] = {
        "name": expert,
        "variant": "dense" if mass is None else f"mass-{mass:g}",
        "task": "digits",
        "engine": "chain",
        "file": model.name,
        "sha256": sha256_of(model),
        "macs": round(float(fitted.macs_n[held_out].mean())),
        "parameters": fitted.parameters,
        "memory_bytes": model.stat().st_size + FLOAT_BYTES * (fitted.parameters + 2 * _widest(fitted)),
        "memory_note": MEMORY_NOTE,
        "quality": {"accuracy_fraction": float(right_n.mean()), "samples": int(held_out.sum()), "split": SPLIT},
        "evidence_key": expert,
        "recipe": _recipe(mass),
    }
    write_json(out / f"{expert}.json", card)
    return float(right_n.mean())


def _widest(fitted: FittedChain) -> int:
    side, widest = fitted.plan.side, 0
    for step in fitted.plan.steps:
        widest = max(widest, len(step.bias_o) * side * side)
        side = side // 2 if step.halve else side
    return widest


def _recipe(mass: float | None) -> dict[str, float | int | str]:
    dense: dict[str, float | int | str] = {
        "network": " ".join(map(str, NETWORK)),
        "epochs": DENSE.epochs,
        "learning_rate": DENSE.rate,
        "batch_rows": DENSE.batch,
        "weight_decay": DENSE.decay,
        "seed": DENSE.seed,
    }
    if mass is None:
        return dense
    return {**dense, "mass": mass, "pruned_epochs": PRUNED.epochs, "pruned_learning_rate": PRUNED.rate}
