"""Rows of one's own traffic, joined with arms, as the table that the optimizer studies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.study.table import Table
from orchestrator.study.arms import Arm, cheapest_arms
from orchestrator.study.errors import StudyError
from orchestrator.study.reading import Columns, read_columns
from orchestrator.study.tokens import OTHERWISE, fill_tokens

Floats = NDArray[np.float64]
Note = Callable[[str], None]

COLUMNS = ("prompt_id", "prompt", "task", "model", "quality", "output_tokens_estimate")
_REQUIRED = ("prompt_id", "prompt", "model", "quality")
_CURE = f"the columns are {', '.join(COLUMNS)}"


@dataclass(frozen=True)
class Traffic:
    """What a table file says.

    Args:
        texts: Prompts; empty where the file has none.
        tasks: Task of each; "" where the file has none.
        models: Names, sorted.
        quality_qm: NaN where there is no row.
        tokens_qm: NaN where the file does not say.
    """

    texts: tuple[str, ...]
    tasks: tuple[str, ...]
    models: tuple[str, ...]
    quality_qm: Floats
    tokens_qm: Floats


def read_traffic(path: Path, *, note: Note) -> Traffic:
    """Read a table of prompts × models, one row each.

    Args:
        path: csv, jsonl, json or parquet.
        note: Is told what was passed over or put together.

    Raises:
        StudyError: A column is missing, or a value cannot be meant; names row and column.
    """
    columns = read_columns(path, COLUMNS)
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        raise StudyError(f"{path.name}: column {missing[0]} is missing", _CURE)
    rows = len(columns["prompt_id"])
    if not rows:
        raise StudyError(f"{path.name}: it has no rows", "one row per prompt and model")
    if "task" not in columns:
        note(f"{path.name}: no column task; all prompts count as one task")
    ids = _names(columns["prompt_id"], path, "prompt_id")
    prompts, place_r = np.unique(np.array(ids, dtype=object), return_inverse=True)
    models, model_r = np.unique(np.array(_names(columns["model"], path, "model"), dtype=object), return_inverse=True)
    quality_qm, tokens_qm, doubled = _fill(columns, path, (place_r, model_r), (len(prompts), len(models)))
    if doubled:
        note(f"{path.name}: {doubled} rows repeat a prompt and a model; their mean counts")
    texts, tasks = _of_prompts(columns, place_r, len(prompts))
    return Traffic(texts, tasks, tuple(map(str, models)), quality_qm, tokens_qm)


def _fill(
    columns: Columns, path: Path, place: tuple[NDArray[np.int64], NDArray[np.int64]], shape: tuple[int, int]
) -> tuple[Floats, Floats, int]:
    """Mean quality and tokens of each cell, and how many rows were more than one of a cell."""
    quality_r = _qualities(columns["quality"], path)
    tokens_r = _tokens(columns.get("output_tokens_estimate"), len(quality_r), path)
    cell_r = np.ravel_multi_index(place, shape)
    quality, count = _mean(cell_r, quality_r, shape)
    tokens, _ = _mean(cell_r, tokens_r, shape)
    return quality, tokens, int(len(cell_r) - np.count_nonzero(count))


def _mean(cell_r: NDArray[np.int64], value_r: Floats, shape: tuple[int, int]) -> tuple[Floats, NDArray[np.int64]]:
    known_r = np.isfinite(value_r)
    size = shape[0] * shape[1]
    count = np.bincount(cell_r[known_r], minlength=size)
    total = np.bincount(cell_r[known_r], value_r[known_r], size)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean.reshape(shape), count


def _names(values: list[Any], path: Path, column: str) -> list[str]:
    for row, value in enumerate(values):
        if value is None or value == "":
            raise StudyError(f"{path.name}: row {row + 1}, column {column} is empty", f"give every row its {column}")
    return [str(value) for value in values]


def _qualities(values: list[Any], path: Path) -> Floats:
    out_r = np.array([_number(value) for value in values])
    wrong = np.flatnonzero(~((out_r >= 0.0) & (out_r <= 1.0)))
    if len(wrong):
        row = int(wrong[0])
        more = f", and {len(wrong) - 1} more rows like it" if len(wrong) > 1 else ""
        cure = "give a number from 0 to 1, or leave the row out where the model gave no answer"
        raise StudyError(f"{path.name}: row {row + 1}, column quality is {values[row]!r}{more}", cure)
    return out_r


def _tokens(values: list[Any] | None, rows: int, path: Path) -> Floats:
    if values is None:
        return np.full(rows, np.nan)
    out_r = np.array([_number(value) for value in values])
    wrong = np.flatnonzero((out_r < 0.0) | np.isinf(out_r))
    if len(wrong):
        why = f"{path.name}: row {int(wrong[0]) + 1}, column output_tokens_estimate is {values[wrong[0]]!r}"
        raise StudyError(why, "give a number of at least 0, or leave it empty")
    return out_r


def _number(value: Any) -> float:
    try:
        return math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan


def _of_prompts(columns: Columns, place_r: NDArray[np.int64], prompts: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Text and task of each prompt, from its first row."""
    first_q = np.full(prompts, -1, dtype=np.int64)
    first_q[place_r[::-1]] = np.arange(len(place_r))[::-1]
    rows = first_q.tolist()
    tasks = columns.get("task", [""] * len(place_r))
    return tuple(_text(columns["prompt"][row]) for row in rows), tuple(_text(tasks[row]) for row in rows)


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value)


def join_arms(traffic: Traffic, arms: list[Arm], *, note: Note) -> Table:
    """The table of those models that have an arm, at their cheapest arm's joules and milliseconds.

    Raises:
        StudyError: No model has an arm.
    """
    return join_tokens(traffic, arms, note=note)[0]


def chosen_arms(traffic: Traffic, arms: list[Arm]) -> dict[str, Arm]:
    """The arm that counts for each model: the one with the fewest joules at the usual length."""
    usual = float(np.nanmedian(traffic.tokens_qm)) if np.isfinite(traffic.tokens_qm).any() else OTHERWISE
    return cheapest_arms(arms, usual)


def join_tokens(traffic: Traffic, arms: list[Arm], *, note: Note) -> tuple[Table, Floats]:
    """The table as `join_arms` makes it, and the output tokens of each of its answers, (q, m).

    Raises:
        StudyError: No model has an arm.
    """
    arm_of = chosen_arms(traffic, arms)
    kept = np.flatnonzero([model in arm_of for model in traffic.models])
    without = [model for model in traffic.models if model not in arm_of]
    if not len(kept):
        why = f"none of the table's {len(traffic.models)} models has an arm, for example {traffic.models[0]}"
        raise StudyError(why, "name them in the arms file as the table does", what="arms refused")
    if without:
        note(f"{len(without)} of {len(traffic.models)} models have no arm and are left out: {_some(without)}")
    if len(arms) > len(arm_of):
        note(f"{len(arms) - len(arm_of)} arms are left out: their model has one with fewer joules")
    rows = np.flatnonzero(np.isfinite(traffic.quality_qm[:, kept]).any(axis=1))
    if len(rows) < len(traffic.texts):
        note(f"{len(traffic.texts) - len(rows)} prompts have no answer of a model with an arm and are left out")
    tasks = [traffic.tasks[q] for q in rows]
    if not np.isfinite(traffic.tokens_qm).any():
        note("no output_tokens_estimate: typical lengths of public answers are taken, so joules are modelled")
    tokens_qm = fill_tokens(traffic.tokens_qm[np.ix_(rows, kept)], tasks)
    names = tuple(traffic.models[m] for m in kept)
    chosen = [arm_of[name] for name in names]
    table = Table(
        texts=tuple(traffic.texts[q] for q in rows),
        tasks=tuple(tasks),
        models=names,
        quality_qm=traffic.quality_qm[np.ix_(rows, kept)],
        joules_qm=np.array([arm.j_base for arm in chosen])
        + np.array([arm.j_per_output_token for arm in chosen]) * tokens_qm,
        ms_qm=np.array([arm.ms_base for arm in chosen])
        + np.array([arm.ms_per_output_token for arm in chosen]) * tokens_qm,
    )
    return table, tokens_qm


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
