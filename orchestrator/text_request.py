"""What is said and how text is to be generated: the parts of a text query that need nothing else. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `extra_json` is what OpenAI's message has beside role and text."""

    role: str
    content: str
    extra_json: str = ""


@dataclass(frozen=True)
class GenerationParameters:
    """How text is to be generated; None leaves it to the engine.

    Args:
        top_logprobs: Probable tokens told beside each token; None tells no probabilities.
        embed: No text is wanted but a vector for each message.
    """

    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    tools_json: str = ""
    tool_choice_json: str = ""
    response_format_json: str = ""
    top_logprobs: int | None = None
    embed: bool = False
