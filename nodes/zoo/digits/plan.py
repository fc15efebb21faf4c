"""Which models are trained, so that evidence only holds answers by models that never saw the row.

A *pair model* is trained without folds j and k. It answers fold j as an outsider to k, and fold k as an
outsider to j, so ten of them and five *outer models* (trained without one fold) give honest evidence inside
and outside every fold. What ships needs the five that leave out fold 0. Shapes: n rows, c classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from nodes.zoo.digits.settings import FOLDS, HELD_OUT_FOLD


@dataclass(frozen=True, order=True)
class Job:
    """One training: `expert` on every row outside the folds in `left_out`."""

    expert: str
    left_out: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained model as arrays.

    Attributes:
        probabilities_nc: float32 (n, 10), its answers to all rows, those that it was trained on included.
        weights: The module's state by name.
        train_s: Seconds that the training took.
    """

    probabilities_nc: NDArray[np.float32]
    weights: dict[str, NDArray[np.float32]]
    train_s: float


Trained = Mapping[Job, Fitted]


def jobs_to_ship(experts: Iterable[str]) -> list[Job]:
    """The shipped model of each expert and the pair models that give its evidence."""
    return [job for job in jobs_of_all_folds(experts) if HELD_OUT_FOLD in job.left_out]


def jobs_of_all_folds(experts: Iterable[str]) -> list[Job]:
    """Every outer and every pair model, dearest expert first so that parallel workers finish together."""
    singles = [(fold,) for fold in range(FOLDS)]
    left_out = [*singles, *combinations(range(FOLDS), 2)]
    return [Job(expert, folds) for expert in reversed(list(experts)) for folds in left_out]


def outer_answers(trained: Trained, expert: str, fold_n: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Answers (n, c) to each row by the model trained without the row's fold."""
    answers_nc = np.zeros((len(fold_n), _classes(trained)), dtype=np.float32)
    for fold in range(FOLDS):
        rows = fold_n == fold
        answers_nc[rows] = trained[Job(expert, (fold,))].probabilities_nc[rows]
    return answers_nc


def inner_answers(trained: Trained, expert: str, fold_n: NDArray[np.uint8], *, outer_fold: int) -> NDArray[np.float32]:
    """Answers (n, c) by models that saw neither the row's fold nor `outer_fold`; zeros in `outer_fold`."""
    answers_nc = np.zeros((len(fold_n), _classes(trained)), dtype=np.float32)
    for fold in set(range(FOLDS)) - {outer_fold}:
        rows = fold_n == fold
        left_out = tuple(sorted((fold, outer_fold)))
        answers_nc[rows] = trained[Job(expert, left_out)].probabilities_nc[rows]
    return answers_nc


def _classes(trained: Trained) -> int:
    return int(next(iter(trained.values())).probabilities_nc.shape[1])
