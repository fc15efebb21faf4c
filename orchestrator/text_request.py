"""What is said, how text is to be generated, and a piece of it: what needs nothing else. Pure."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from optimizer.frozen import frozen


@frozen
class Message:
    """One turn of a conversation; `extra_json` is what OpenAI's message has beside role and text."""

    role: str
    content: str
    extra_json: str = ""


@frozen
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


@frozen
class Delta:
    """A piece of generated text.

    Args:
        top_ids: Where a turn asked for probabilities: whose they are; empty for the whole vocabulary in order.
        top_probabilities: Of the next token; None where nobody asked.
        ended: A text that several experts write ends with this piece.
        strings: Where a turn asked for strings: the most probable that the text may go on with, an empty one for its
            end; then `top_probabilities` has one more, of all others together.
        next_bytes: Where others are left: probabilities of every next byte, then of the end.
        read_tokens: Tokens of the text that a node read for these.
    """

    work_id: int
    text: str
    token_ids: tuple[int, ...]
    logprobs_json: str = ""
    top_ids: tuple[int, ...] = ()
    top_probabilities: NDArray[Any] | None = None
    ended: bool = False
    strings: tuple[bytes, ...] = ()
    next_bytes: NDArray[Any] | None = None
    read_tokens: int = 0
