"""What a node offers of a server: one text arm for each of its models."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nodes.arms import ArmSpec, Inventory, TaskSpec, TextTraits
from nodes.engines.remote.server import Server
from nodes.errors import ConfigError

ENGINE, VARIANT = "openai", "remote"
# Nobody has measured it: an expert that is announced as no better than a coin is asked by name or when nothing else is.
UNKNOWN_QUALITY = 0.5
NAME_CHARS = 64


@dataclass(frozen=True)
class RemoteModel:
    """One model as the operator describes it.

    Args:
        model: The server's name.
        quality_fraction: Share of right answers, as far as somebody knows.
        capabilities: Such as "tools", "json_schema", "logprobs", "images".
        context_tokens: Prompt and answer together; 0 where nobody said.
        tags: Free words that requests may ask for.
    """

    model: str
    quality_fraction: float = UNKNOWN_QUALITY
    capabilities: tuple[str, ...] = ()
    context_tokens: int = 0
    tags: tuple[str, ...] = ()

    @property
    def expert(self) -> str:
        """The name that clients use."""
        name = re.sub(r"[^a-z0-9._-]+", "-", self.model.lower()).strip("-._")[:NAME_CHARS]
        if not name:
            raise ConfigError(f"--model {self.model!r}: no name can be made of it")
        return name


def parse_model(text: str) -> RemoteModel:
    """``NAME[,quality=0.7][,context=8192][,can=tools+logprobs][,tag=private]``.

    Raises:
        ConfigError: says what would be right.
    """
    model, *settings = text.split(",")
    values: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key not in ("quality", "context", "can", "tag") or key in values:
            raise ConfigError("--model: use NAME,quality=0.7,context=8192,can=tools+logprobs,tag=private")
        values[key] = value
    try:
        quality = float(values.get("quality", UNKNOWN_QUALITY))
        context = int(values.get("context", 0))
    except ValueError as error:
        raise ConfigError("--model: quality and context are numbers") from error
    if not 0.0 <= quality <= 1.0 or context < 0 or not model:
        raise ConfigError("--model: quality lies between 0 and 1, context is not negative, and a name comes first")
    return RemoteModel(model, quality, _words(values.get("can", "")), context, _words(values.get("tag", "")))


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split("+") if word)


async def discover(server: Server, wanted: Sequence[RemoteModel]) -> tuple[RemoteModel, ...]:
    """The models that were named, else all that the server has.

    Raises:
        EngineError: if the server cannot be asked.
        ConfigError: if it has none, or two that would have one name here.
    """
    server.open()
    models = tuple(wanted) or tuple(RemoteModel(name) for name in await server.models())
    names = [model.expert for model in models]
    if not names or len(set(names)) != len(names):
        raise ConfigError("--model: the server has no models, or two of one name; name those that you want")
    return models


def remote_inventory(models: Sequence[RemoteModel], task: str) -> Inventory:
    """What the gateway is told."""
    arms = tuple(
        ArmSpec(
            expert=model.expert,
            variant=VARIANT,
            task=task,
            engine=ENGINE,
            macs=0,
            memory_bytes=0,
            quality_fraction=model.quality_fraction,
            quality_samples=0,
            text=TextTraits(context_tokens=model.context_tokens, capabilities=model.capabilities),
            tags=model.tags,
        )
        for model in models
    )
    return Inventory((TaskSpec(task, text=True),), arms, {})
