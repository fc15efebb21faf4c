"""Train the digit experts and write everything that ships. Shapes: n rows, c classes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nodes.zoo.arrays import read_arrays, write_arrays
from nodes.zoo.digits.architectures import BUILDERS
from nodes.zoo.digits.cards import held_out_accuracy, write_card, write_task
from nodes.zoo.digits.export import export_onnx
from nodes.zoo.digits.gated_build import build_gated
from nodes.zoo.digits.plan import (
    Fitted,
    Job,
    Trained,
    inner_answers,
    jobs_of_all_folds,
    jobs_to_ship,
    outer_answers,
)
from nodes.zoo.digits.recipe import run_job
from nodes.zoo.digits.settings import FOLDS, HELD_OUT_FOLD, MASSES
from nodes.zoo.digits.splits import Digits, load_digits_with_folds

Report = Callable[[str], None]


def build(
    out: Path,
    experts: Sequence[str],
    *,
    folds_file: Path | None = None,
    workers: int | None = None,
    report: Report = print,
) -> None:
    """Train `experts` and write ONNX files, cards, evidence and the task into `out`.

    Args:
        out: Folder; the evidence of experts that are not trained now is kept.
        experts: Names from `settings.RECIPES` or `settings.MASSES`, cheapest first.
        folds_file: Where to write the answers of all folds, which takes three times as long.
        workers: Processes that train side by side, by default one per core; 1 trains in this process.
        report: Gets one line per step.
    """
    out.mkdir(parents=True, exist_ok=True)
    digits = load_digits_with_folds()
    workers = workers or os.cpu_count() or 1
    gated = [expert for expert in experts if expert in MASSES]
    experts = [expert for expert in experts if expert not in MASSES]
    jobs = jobs_of_all_folds(experts) if folds_file else jobs_to_ship(experts)
    trained = train_all(jobs, digits, workers=workers, report=report)
    _write_reference(out, digits)
    _write_evidence(out, experts, trained, digits=digits)
    for expert in experts:
        accuracy = _ship(out, expert, trained[Job(expert, (HELD_OUT_FOLD,))], digits=digits)
        report(f"{expert}: {accuracy:.2%} of the held-out digits right")
    if gated:
        build_gated(out, gated, digits, workers=workers, report=report)
    write_task(out)
    if folds_file:
        _write_folds(folds_file, experts, trained, digits=digits)


def train_all(jobs: Sequence[Job], digits: Digits, *, workers: int, report: Report) -> dict[Job, Fitted]:
    """Run every job; each takes one thread, so the result does not depend on `workers`."""
    trained: dict[Job, Fitted] = {}
    for job, fitted in _run(jobs, workers):
        trained[job] = fitted
        report(f"[{len(trained):2d}/{len(jobs)}] {_describe(job, fitted, digits=digits)}")
    return trained


def _run(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, Fitted]]:
    if workers == 1:
        yield from ((job, run_job(job)) for job in jobs)
        return
    # A forked torch hangs once its parent has used threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
        waiting = {pool.submit(run_job, job): job for job in jobs}
        for done in as_completed(waiting):
            yield waiting[done], done.result()


def _describe(job: Job, fitted: Fitted, *, digits: Digits) -> str:
    unseen = np.isin(digits.fold_n, job.left_out)
    right = fitted.probabilities_nc[unseen].argmax(axis=1) == digits.labels_n[unseen]
    folds = " and ".join(map(str, job.left_out))
    return f"{job.expert} without fold {folds}: {right.mean():.2%} there, {fitted.train_s:.1f} s"


def _ship(out: Path, expert: str, fitted: Fitted, *, digits: Digits) -> float:
    network = BUILDERS[expert]()
    network.load_state_dict({name: torch.from_numpy(value) for name, value in fitted.weights.items()})
    export_onnx(network, out / f"{expert}.onnx")
    accuracy_fraction = held_out_accuracy(out / f"{expert}.onnx", digits)
    write_card(out, expert, network, accuracy_fraction=accuracy_fraction, samples=int(digits.held_out_n.sum()))
    return accuracy_fraction


def _write_reference(out: Path, digits: Digits) -> None:
    for name, rows in (("reference", ~digits.held_out_n), ("held_out", digits.held_out_n)):
        arrays: dict[str, NDArray[Any]] = {
            # Multiples of 1/16 are exact in half precision.
            "inputs": digits.images_nhw[rows].astype(np.float16),
            "labels": digits.labels_n[rows].astype(np.uint8),
        }
        write_arrays(out / f"{name}.npz", arrays)


def _write_evidence(out: Path, experts: Iterable[str], trained: Trained, *, digits: Digits) -> None:
    path = out / "evidence.npz"
    evidence = read_arrays(path) if path.exists() else {}
    for expert in experts:
        answers_nc = inner_answers(trained, expert, digits.fold_n, outer_fold=HELD_OUT_FOLD)
        evidence[expert] = answers_nc[~digits.held_out_n].astype(np.float16)
    write_arrays(path, evidence)


def _write_folds(path: Path, experts: Iterable[str], trained: Trained, *, digits: Digits) -> None:
    fold_n = digits.fold_n
    arrays: dict[str, NDArray[Any]] = {"fold": fold_n, "labels": digits.labels_n.astype(np.uint8)}
    for expert in experts:
        inner = [inner_answers(trained, expert, fold_n, outer_fold=fold) for fold in range(FOLDS)]
        arrays[f"inner_{expert}"] = np.stack(inner).astype(np.float16)
        arrays[f"outer_{expert}"] = outer_answers(trained, expert, fold_n).astype(np.float16)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(path, arrays)
