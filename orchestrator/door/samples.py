"""Self-consistency: one question asked several times, and the answer that most samples give (arXiv 2203.11171).

Each sample is a query of its own, as several answers are (`orchestrator.door.choices`), with its share of the joules.
As soon as no missing sample could change the result those are cancelled; what they took until then is in the bill.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from optimizer.routes.texts import normalised
from orchestrator.door.choices import Piece, together
from orchestrator.errors import EdgewiseError
from orchestrator.execution.run import total_energy
from orchestrator.gateway.accounts import TextReply
from orchestrator.types import AttemptRecord, Delta, Energy, FusionChoice, Provenance, RoutingRecord, TextQuery

Generate = Callable[[TextQuery], AsyncIterator[Piece]]
# What ran for a query that has ended, by its id; None where nothing remembers it.
Recall = Callable[[str], RoutingRecord | None]

UNKNOWN = Energy(math.nan, Provenance.UNMEASURED, "")


async def agreed(asked: Sequence[TextQuery], generate: Generate, recall: Recall) -> AsyncIterator[Piece]:
    """The answer that most samples give, in one piece, then its end with the bill of all of them.

    Samples that fail are gone on without, as long as there is any other. Of answers with as many samples the one that
    came first stands.

    Raises:
        EdgewiseError: What the first sample failed with, where all have failed.
    """
    heard: list[TextReply] = []
    failed: list[EdgewiseError] = []
    pending = {asyncio.ensure_future(_whole(query, generate)) for query in asked}
    try:
        while pending and not settled([answer_of(reply) for reply in heard], len(pending)):
            ended, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                try:
                    heard.append(task.result())
                except EdgewiseError as error:
                    failed.append(error)
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    if not heard:
        raise failed[0]
    reply = _billed(asked, heard, recall)
    if reply.end.text:
        yield Delta(0, reply.end.text, (), reply.end.logprobs_json)
    yield reply


def settled(answers: Sequence[str], missing: int) -> bool:
    """Whether none of those that are missing could change which answer stands."""
    first, *others = [count for _, count in Counter(answers).most_common(2)] or [0]
    return first > (others[0] if others else 0) + missing


def answer_of(reply: TextReply) -> str:
    """What makes two samples the same answer."""
    return normalised(reply.end.text) + reply.end.tool_calls_json


async def _whole(query: TextQuery, generate: Generate) -> TextReply:
    async with aclosing(generate(query)) as pieces:  # type: ignore[type-var]
        ends = [piece async for piece in pieces if isinstance(piece, TextReply)]
    return ends[-1]


def _billed(asked: Sequence[TextQuery], heard: Sequence[TextReply], recall: Recall) -> TextReply:
    """The reply that stands, with what all samples took, those that were cancelled or failed included."""
    # Of equal counts `most_common` keeps the order of arrival.
    winning = Counter(answer_of(reply) for reply in heard).most_common(1)[0][0]
    end = next(reply.end for reply in heard if answer_of(reply) == winning)
    whole = together(heard)
    told = {reply.request_id for reply in heard}
    others = [recall(query.request_id) for query in asked if query.request_id not in told]
    attempts: list[AttemptRecord] = [*whole.routing.attempts]
    attempts += [attempt for record in others if record is not None for attempt in record.attempts]
    known = [record for record in others if record is not None]
    routing = replace(
        whole.routing,
        attempts=tuple(attempts),
        fusion=FusionChoice.VOTE,
        predicted_energy_j=whole.routing.predicted_energy_j + math.fsum(one.predicted_energy_j for one in known),
        bound_energy_j=whole.routing.bound_energy_j + math.fsum(one.bound_energy_j for one in known),
    )
    energy = UNKNOWN if len(known) < len(others) else total_energy(attempts)
    return replace(whole, request_id=asked[0].request_id, end=end, energy=energy, routing=routing)
