"""The arms file of a study: what a model costs on a node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from orchestrator.study.errors import StudyError
from orchestrator.study.reading import number_at, read_columns


@dataclass(frozen=True)
class Arm:
    """A model on a node.

    Args:
        model: Its name, as in the table.
        node: Where it runs.
        ms_base: Milliseconds of an answer before its first token.
        ms_per_output_token: Milliseconds of each token.
        j_base: Joules, likewise.
        j_per_output_token: Likewise.
        memory_bytes: What it occupies while loaded.
    """

    model: str
    node: str
    ms_base: float
    ms_per_output_token: float
    j_base: float
    j_per_output_token: float
    memory_bytes: float


_NUMBERS = tuple(field.name for field in fields(Arm) if field.name not in ("model", "node"))
# May be left out: nothing is known to occupy no memory, and every arm may be on the same node.
_OPTIONAL: Mapping[str, Any] = {"node": "", "memory_bytes": 0.0, "ms_base": 0.0, "j_base": 0.0}


def read_arms(path: Path) -> list[Arm]:
    """Arms from a csv, json, jsonl or parquet file.

    Raises:
        StudyError: A column is missing, or a value is not a number of at least 0; names row and column.
    """
    columns = read_columns(path, [field.name for field in fields(Arm)])
    missing = [field.name for field in fields(Arm) if field.name not in columns and field.name not in _OPTIONAL]
    if missing:
        cure = "the columns are model, node, ms_base, ms_per_output_token, j_base, j_per_output_token, memory_bytes"
        raise StudyError(f"{path.name}: column {missing[0]} is missing", cure, what="arms refused")
    count = len(columns["model"])
    if not count:
        raise StudyError(f"{path.name}: it has no rows", "list one arm per model", what="arms refused")
    return [_arm({name: columns[name][row] for name in columns}, path, row) for row in range(count)]


def cheapest_arms(arms: list[Arm], tokens: float) -> dict[str, Arm]:
    """Of each model the arm with the fewest joules for an answer of so many tokens."""
    found: dict[str, Arm] = {}
    for arm in arms:
        rival = found.get(arm.model)
        if rival is None or _joules(arm, tokens) < _joules(rival, tokens):
            found[arm.model] = arm
    return found


def _joules(arm: Arm, tokens: float) -> float:
    return arm.j_base + arm.j_per_output_token * tokens


def _arm(values: Mapping[str, Any], path: Path, row: int) -> Arm:
    filled = {**_OPTIONAL, **{name: value for name, value in values.items() if value not in (None, "")}}
    model = str(filled.get("model", "")).strip()
    if not model:
        raise StudyError(f"{path.name}: row {row + 1}, column model is empty", "name the model", what="arms refused")
    numbers = {name: number_at(path, row, name, filled.get(name), what="arms refused") for name in _NUMBERS}
    return Arm(model=model, node=str(filled["node"]), **numbers)
