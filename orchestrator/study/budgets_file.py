"""Writes limits into a configuration file, which stays valid or stays as it was."""

from __future__ import annotations

from pathlib import Path

import yaml

from orchestrator.config_errors import ConfigError
from orchestrator.config_layers import Tree, read_file, validate_file


def write_limits(file: Path, task: str, *, max_energy_j: float, max_latency_ms: float) -> None:
    """Set the limits of a task ('' for the default) and keep everything else; comments are lost.

    The old file is kept beside the new one, as NAME.bak.

    Raises:
        ConfigError: The file, or what would become of it, is not a valid configuration; nothing is changed.
    """
    tree = read_file(file) if file.exists() else {}
    budgets = _section(tree, "budgets")
    budget = _section(_section(budgets, "tasks"), task) if task else _section(budgets, "default")
    budget.update(max_energy_j=float(max_energy_j), max_latency_ms=float(max_latency_ms))
    draft = file.with_name(f".{file.name}.tmp")
    try:
        draft.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
        validate_file(draft)
        if file.exists():
            file.with_name(f"{file.name}.bak").write_bytes(file.read_bytes())
        draft.replace(file)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {(error.strerror or 'unknown cause').lower()}") from error
    finally:
        draft.unlink(missing_ok=True)


def _section(tree: Tree, name: str) -> Tree:
    found = tree.setdefault(name, {})
    if found is None:
        found = tree[name] = {}
    if not isinstance(found, dict):
        raise ConfigError(f"{name} must hold keys and values")
    return found
