"""Where configuration comes from: flag, then environment, then file, then default; and who set what.

Environment variables are ``EDGEWISE_`` and the path in capitals, its parts joined by two underscores, as in
``EDGEWISE_NODES__HEARTBEAT_S``. The file is the one named, or ``$XDG_CONFIG_HOME/edgewise/config.yaml``.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import TypeAdapter, ValidationError

from orchestrator.config import GatewayConfig
from orchestrator.config_errors import ConfigError, field_at, first_error

PREFIX = "EDGEWISE_"
DEFAULT = "default"
MAX_FILE_BYTES = 1 << 20
# How alike a variable must be to a key before it is taken for a slip of the pen.
_TYPO_RATIO = 0.85

Tree = dict[str, Any]
KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class Loaded:
    """A configuration and, for every value of it, what set it."""

    config: GatewayConfig
    origins: Mapping[str, str]


def load(
    *, flags: Mapping[KeyPath, Any], environment: Mapping[str, str] | None = None, file: Path | None = None
) -> Loaded:
    """Merge all layers and check the result.

    Args:
        flags: Values by path, e.g. ``{("log", "level"): "debug"}``; flags that were not given are absent.
        environment: Variables; those of this process when None.
        file: Configuration file; the user's own (if there is one) when None.

    Raises:
        ConfigError: A file cannot be read, a key is unknown or a value is out of range. The message names the
            path, where it was set and what is allowed.
    """
    variables = os.environ if environment is None else environment
    path = file or _user_file(variables)
    layers = [
        *([(f"file {path}", read_file(path))] if path else []),
        *((f"env {name}", _nest(key, value)) for name, key, value in _from_environment(variables)),
        *((f"flag --{'-'.join(key).replace('_', '-')}", _nest(key, value)) for key, value in flags.items()),
    ]
    return _check(layers)


def read_file(path: Path) -> Tree:
    """Read one YAML file without checking its values; a key written twice is refused.

    Raises:
        ConfigError: Not readable, not YAML, or not a mapping.
    """
    try:
        text = path.read_bytes()[: MAX_FILE_BYTES + 1]
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {(error.strerror or 'unknown cause').lower()}") from error
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    try:
        tree = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader that refuses duplicate keys)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {_one_line(error)}") from error
    if not isinstance(tree, dict | None):
        raise ConfigError(f"{path} must hold keys and values, such as 'listen: 127.0.0.1:8421'")
    return tree or {}


def validate_file(path: Path) -> GatewayConfig:
    """Check one file on its own, without flags or environment.

    Raises:
        ConfigError: As in `load`.
    """
    return _check([(f"file {path}", read_file(path))]).config


def leaves(tree: Mapping[str, Any], prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every value of a nested mapping with its path; an empty mapping counts as a value."""
    for key, value in tree.items():
        path = (*prefix, str(key))
        if isinstance(value, Mapping) and value:
            yield from leaves(value, path)
        else:
            yield path, value


class _Loader(yaml.SafeLoader):
    """YAML with duplicate keys refused: the last one wins otherwise, in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                problem = f"the key {name} is written twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


# YAML 1.1 takes 5e-3 for a text because it has no point; everybody else takes it for a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _one_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "it cannot be parsed"
    return f"line {mark.line + 1}: {problem}" if mark else str(problem)


def _user_file(environment: Mapping[str, str]) -> Path | None:
    base = environment.get("XDG_CONFIG_HOME") or f"{environment.get('HOME', '~')}/.config"
    path = Path(base).expanduser() / "edgewise" / "config.yaml"
    return path if path.is_file() else None


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, KeyPath, Any]]:
    for name in sorted(environment):
        if name.startswith(PREFIX) and environment[name].strip():
            key = tuple(name.removeprefix(PREFIX).lower().split("__"))
            if _is_ours(name, key):
                yield name, key, _read_value(name, key, environment[name].strip())


def _is_ours(name: str, key: KeyPath) -> bool:
    """Other parts of Edgewise have variables too; a misspelt one of ours must not pass for one of theirs."""
    known = list(GatewayConfig.model_fields)
    if key[0] in known:
        return True
    near = difflib.get_close_matches(key[0], known, n=1, cutoff=_TYPO_RATIO)
    if len(key) > 1 or near:
        raise ConfigError(f"{name}: there is no such key; did you mean {PREFIX}{(near or known)[0].upper()}?")
    return False


def _read_value(name: str, key: KeyPath, text: str) -> Any:
    field = field_at(key)
    if field is None:
        raise ConfigError(f"{name}: there is no key {'.'.join(key)}; `edgewise config show` lists all keys")
    if text.lower() in {"none", "null"}:
        return None
    try:
        return TypeAdapter[Any](cast("type[Any]", field.annotation)).validate_strings(text)
    except ValidationError:
        # The text goes on as it is: the check of the whole configuration names path and allowed range.
        return text


def _nest(path: KeyPath, value: Any) -> Tree:
    head, *rest = path
    return {head: _nest(tuple(rest), value) if rest else value}


def _check(layers: list[tuple[str, Tree]]) -> Loaded:
    merged: Tree = {}
    origins: dict[str, str] = {}
    for origin, tree in layers:
        _merge(merged, tree)
        origins.update({".".join(path): origin for path, _ in leaves(tree)})
    try:
        config = GatewayConfig.model_validate(merged)
    except ValidationError as error:
        raise first_error(error, origins) from error
    effective = {".".join(path) for path, _ in leaves(config.model_dump())}
    return Loaded(config, {path: origins.get(path, DEFAULT) for path in sorted(effective)})


def _merge(into: Tree, tree: Tree) -> None:
    for key, value in tree.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
