"""What is wrong with a configuration, in one line: the path, who set it, and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from orchestrator.config import GatewayConfig


class ConfigError(ValueError):
    """The configuration cannot be used; the message is one line for people."""


def first_error(error: ValidationError, origins: Mapping[str, str]) -> ConfigError:
    """Turn pydantic's report into the first thing to repair.

    Args:
        error: What pydantic found.
        origins: What set each path, to tell the user where to look.
    """
    report = error.errors(include_url=False)[0]
    path = tuple(str(part) for part in report["loc"] if part != "[key]")
    where = _origin(path, origins)
    if report["type"] == "extra_forbidden":
        return ConfigError(f"{'.'.join(path)}: there is no such key{where}; known are {_known(path[:-1])}")
    message = str(report["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    allowed = allowed_values(field_at(path))
    name = f"{'.'.join(path)}: " if path else ""
    return ConfigError(f"{name}{message}{where}{f'; allowed: {allowed}' if allowed else ''}")


def field_at(path: tuple[str, ...]) -> FieldInfo | None:
    """The declaration of a key, or None where there is none."""
    model: type[BaseModel] = GatewayConfig
    field: FieldInfo | None = None
    for part in path:
        if field is not None:
            inner = _model_inside(field.annotation)
            if inner is None:
                return None
            if get_origin(field.annotation) is dict:
                # The part is the name of an entry: whatever it is, what follows is a key of its model.
                field = FieldInfo(annotation=inner)
                continue
            model = inner
        field = model.model_fields.get(part)
        if field is None:
            return None
    return field


def allowed_values(field: FieldInfo | None) -> str:
    """The allowed range of a key in words, e.g. ``0.1 to 600`` or ``eco, balanced, best``."""
    if field is None:
        return ""
    choices = _choices(field.annotation)
    if choices:
        return ", ".join(choices)
    limits = _limits(field)
    low = f"{limits['ge']:g}" if "ge" in limits else f"more than {limits['gt']:g}" if "gt" in limits else ""
    high = f"{limits['le']:g}" if "le" in limits else ""
    return f"{low} to {high}" if low and high else low or high


def _origin(path: tuple[str, ...], origins: Mapping[str, str]) -> str:
    origin = origins.get(".".join(path))
    return f" (set by {origin})" if origin else ""


def _known(path: tuple[str, ...]) -> str:
    field = field_at(path)
    model = _model_inside(field.annotation) if field is not None else GatewayConfig
    return ", ".join(model.model_fields) if model else "none"


def _model_inside(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for model in map(_model_inside, get_args(annotation)) if model), None)


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [choice for inner in get_args(annotation) for choice in _choices(inner)]


def _limits(field: FieldInfo) -> dict[str, float]:
    constraints = list(field.metadata)
    for inner in get_args(field.annotation):
        for extra in getattr(inner, "__metadata__", ()):
            constraints.extend(getattr(extra, "metadata", [extra]))
    names = ("ge", "gt", "le")
    return {name: getattr(item, name) for item in constraints for name in names if hasattr(item, name)}
