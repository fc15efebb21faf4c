"""A text query on its way, what it becomes, and how it is put to a node."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

from edgewise.v1 import fleet_pb2
from optimizer.frozen import frozen
from orchestrator.execution.panel import Confidence, Panel
from orchestrator.execution.run import Progress
from orchestrator.personal.types import PersonalNote
from orchestrator.personal.wire import encode_owner
from orchestrator.routing.figures import Reading, TextFigures
from orchestrator.types import Delta, Done, TextQuery

BUDGET, LENGTH = "budget", "length"
# How text is to be generated, beside its length and what ends it: what a node need not be told because it says nothing.
UNSAID = {
    "embed": False,
    "tools_json": "",
    "tool_choice_json": "",
    "response_format_json": "",
    "temperature": None,
    "top_p": None,
    "seed": None,
    "top_logprobs": None,
}
_ways = attrgetter(*UNSAID)
_NOTHING_SAID = tuple(UNSAID.values())

# How sure experts are of their answers; asked once, where answers may be held back.
Confide = Callable[[], Confidence]


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
        confidence: How sure of their answers experts are.
        deadline_s: Monotonic time after which an answer is of no use.
        reading: The query as arms read it.
        delivered: Whether anything has left.
    """

    query: TextQuery
    progress: Progress
    figures: TextFigures
    confidence: Confide
    deadline_s: float
    reading: Reading
    delivered: bool = False

    @cached_property
    def panel(self) -> Panel:
        """What experts have answered that was held back; whole texts that one expert writes alone need none."""
        return Panel(self.confidence())

    @property
    def answered(self) -> bool:
        """Whether an answer is held back."""
        return "panel" in vars(self) and bool(self.panel.answered)


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


def standing(course: Course) -> list[Delta | TextEnd]:
    """The answer that stands among those that were held back, in one piece, and its end."""
    done, end = stands_in(course)
    pieces: list[Delta | TextEnd] = [Delta(done.work_id, done.text, (), done.logprobs_json)] if done.text else []
    return [*pieces, end]


def stands_in(course: Course) -> tuple[Done, TextEnd]:
    """The answer that stands among those that were held back, as its node told it and as the query's end."""
    started_s = time.monotonic()
    expert, done = course.panel.standing()
    course.progress.fuse_s += time.monotonic() - started_s
    return done, text_end(done, expert, asked_tokens=course.query.parameters.max_tokens, query=course.query)


def fill(query: TextQuery, tokens: int, node: str, work: fleet_pb2.Work) -> None:
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
    ways = _ways(parameters)
    if ways != _NOTHING_SAID:
        for (name, unsaid), said_so in zip(UNSAID.items(), ways, strict=True):
            if said_so != unsaid:
                setattr(sent, name, said_so)
