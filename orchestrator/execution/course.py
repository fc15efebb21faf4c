"""A text query on its way, what it becomes, and how it is put to a node."""

from __future__ import annotations

from dataclasses import dataclass

from edgewise.v1 import fleet_pb2
from optimizer.frozen import frozen
from orchestrator.execution.panel import Panel
from orchestrator.execution.run import Progress
from orchestrator.personal.types import PersonalNote
from orchestrator.personal.wire import encode_owner
from orchestrator.routing.figures import Reading, TextFigures
from orchestrator.types import Done, TextQuery

BUDGET, LENGTH = "budget", "length"
# Of how text is to be generated: what is told where it is said at all, and what where it is a number.
SAID = ("embed", "tools_json", "tool_choice_json", "response_format_json")
NUMBERS = ("temperature", "top_p", "seed", "top_logprobs")


@frozen
class TextEnd:
    """The end of a generation; tokens are those of the expert whose text it is."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    tool_calls_json: str = ""
    first_token_ms: float | None = None
    expert: str = ""
    logprobs_json: str = ""
    cached_tokens: int | None = None
    personal: PersonalNote | None = None


@dataclass
class Course:
    """A text query on its way.

    Args:
        query: What is asked.
        progress: Limits, decision, attempts.
        figures: What it costs on every arm.
        panel: What experts have answered that was held back.
        deadline_s: Monotonic time after which an answer is of no use.
        reading: The query as arms read it.
        delivered: Whether anything has left.
    """

    query: TextQuery
    progress: Progress
    figures: TextFigures
    panel: Panel
    deadline_s: float
    reading: Reading
    delivered: bool = False


def text_end(done: Done, expert: str, *, asked_tokens: int, query: TextQuery) -> TextEnd:
    """The end of a text; one that stopped at fewer tokens than its client allows stopped for the budget."""
    reason = done.finish_reason
    if reason == LENGTH and asked_tokens < query.parameters.max_tokens:
        reason = BUDGET
    return TextEnd(
        done.text,
        reason,
        done.prompt_tokens,
        done.completion_tokens,
        done.tool_calls_json,
        done.first_token_ms,
        expert,
        done.logprobs_json,
        done.cached_tokens,
        done.personal,
    )


def fill(work: fleet_pb2.Work, query: TextQuery, tokens: int, node: str = "") -> None:
    """Write what is asked into the message, to the owner's home node with the owner."""
    if query.owner is not None and query.home == node:
        work.owner.CopyFrom(encode_owner(query.owner))
    parameters = query.parameters
    text = work.text
    for message in query.messages:
        said = text.messages.add()
        said.role, said.content, said.extra_json = message.role, message.content, message.extra_json
    text.whole, text.prefix_scope = query.whole, query.prefix_scope
    sent = text.parameters
    sent.max_tokens = tokens
    if parameters.stop:
        sent.stop.extend(parameters.stop)
    for name in SAID:
        if value := getattr(parameters, name):
            setattr(sent, name, value)
    for name in NUMBERS:
        if (value := getattr(parameters, name)) is not None:
            setattr(sent, name, value)
