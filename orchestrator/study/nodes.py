"""The nodes file of a study: what a node draws while it idles and while it sleeps, and what waking it takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimizer.errors import ProblemError
from optimizer.selection.power import Power, check_powers
from orchestrator.study.errors import StudyError
from orchestrator.study.reading import number_at, read_columns

_WHAT = "nodes refused"
# What may be left out: nothing more than idle watts is known of most machines.
_NUMBERS = ("idle_w", "sleep_w", "wake_s", "wake_j", "fall_s", "fall_j")
_WORDS = {"awake": True, "may_sleep": True}
_YES_OR_NO = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def read_nodes(path: Path) -> dict[str, Power]:
    """Nodes from a csv, json, jsonl or parquet file, by name.

    Columns: node, idle_w; and where known sleep_w, wake_s, wake_j, fall_s, fall_j (0 without), awake, may_sleep (yes
    without).

    Raises:
        StudyError: A column is missing, a value cannot be meant, or a node is there twice; names row and column.
    """
    columns = read_columns(path, ["node", *_NUMBERS, *_WORDS])
    for name in ("node", "idle_w"):
        if name not in columns:
            cure = f"the columns are node, {', '.join(_NUMBERS)}, {', '.join(_WORDS)}; the first two are needed"
            raise StudyError(f"{path.name}: column {name} is missing", cure, what=_WHAT)
    found = dict[str, Power]()
    for row in range(len(columns["node"])):
        node, power = _node({name: columns[name][row] for name in columns}, path, row)
        if node in found:
            raise StudyError(f"{path.name}: node {node!r} is there twice", "list each node once", what=_WHAT)
        found[node] = power
    if not found:
        raise StudyError(f"{path.name}: it has no rows", "list one node per row", what=_WHAT)
    return found


def _node(values: Mapping[str, Any], path: Path, row: int) -> tuple[str, Power]:
    node = str(values.get("node") or "").strip()
    if not node:
        raise StudyError(f"{path.name}: row {row + 1}, column node is empty", "name the node", what=_WHAT)
    given = {name: value for name, value in values.items() if value not in (None, "")}
    numbers = {name: number_at(path, row, name, given.get(name, 0.0), what=_WHAT) for name in _NUMBERS}
    if "idle_w" not in given:
        raise StudyError(f"{path.name}: row {row + 1}, column idle_w is empty", "give its watts", what=_WHAT)
    words = {name: _yes(path, row, name, given.get(name, without)) for name, without in _WORDS.items()}
    power = Power(
        idle_w=numbers["idle_w"],
        sleep_w=numbers["sleep_w"],
        wake_j=numbers["wake_j"],
        wake_s=numbers["wake_s"],
        awake=words["awake"],
        may_sleep=words["may_sleep"],
        fall_j=numbers["fall_j"],
        fall_s=numbers["fall_s"],
    )
    try:
        check_powers({node: power})
    except ProblemError as error:
        raise StudyError(f"{path.name}: row {row + 1}: {error}", "look at sleep_w and idle_w", what=_WHAT) from error
    return node, power


def _yes(path: Path, row: int, name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    found = _YES_OR_NO.get(str(value).strip().lower())
    if found is None:
        why = f"{path.name}: row {row + 1}, column {name} is {value!r}"
        raise StudyError(why, "write yes or no", what=_WHAT)
    return found
