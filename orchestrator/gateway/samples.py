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
from orchestrator.errors import EdgewiseError, RequestError
from orchestrator.execution.run import total_energy
from orchestrator.gateway.accounts import Payer, TextReply
from orchestrator.gateway.policy import tenant_seen
from orchestrator.gateway.service import Service
from orchestrator.gateway.several import Piece, drawn, together
from orchestrator.types import AttemptRecord, Delta, Energy, FusionChoice, Provenance, RoutingRecord, TextQuery

Generate = Callable[[TextQuery], AsyncIterator[Piece]]
# What ran for a query that has ended, by its id; None where nothing remembers it.
Recall = Callable[[str], RoutingRecord | None]

UNKNOWN = Energy(math.nan, Provenance.UNMEASURED, "")
MAX_SAMPLES = 8
# What samples are drawn with where a request for several does not say.
TEMPERATURE = 0.7


def sampled(query: TextQuery, samples: int, *, once: bool, parameters: str = "") -> TextQuery:
    """`query` as it is asked `samples` times: each sample is one expert's, and nobody reads it before it is complete.

    Args:
        query: What is asked, once.
        samples: How often, above 1.
        once: Whether one answer is wanted that will not be asked for again by its id.
        parameters: Where the request has its parameters, as in the path of a field.

    Raises:
        RequestError: FIELD_OUT_OF_RANGE, where what else was asked for cannot be meant with it.
    """
    if query.fusion is not FusionChoice.VOTE:
        raise _refused("samples are what a vote is held over: say mode vote beside it.", "fusion.samples")
    if query.parameters.temperature == 0.0:
        text = "fusion.samples needs a temperature above 0: greedy samples are all equal."
        raise _refused(text, f"{parameters}temperature")
    if not once:
        text = (
            "fusion.samples gives one answer, which cannot be repeated by id: not with n above 1 or an id of your own."
        )
        raise _refused(text, "fusion.samples")
    freely = replace(query.parameters, temperature=query.parameters.temperature or TEMPERATURE)
    return replace(query, samples=samples, fusion=FusionChoice.NONE, parameters=freely, whole=True)


def _refused(text: str, field: str) -> RequestError:
    return RequestError("FIELD_OUT_OF_RANGE", text, field=field)


def answers(service: Service, query: TextQuery, payer: Payer) -> AsyncIterator[Piece]:
    """The answer that most of `query.samples` samples give, as `Service.generate` gives that of one."""

    def recall(request_id: str) -> RoutingRecord | None:
        try:
            return service.journal.get(request_id, tenant_seen()).routing
        except RequestError:
            return None

    return agreed(drawn(replace(query, samples=1), query.samples), lambda one: service.generate(one, payer), recall)


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
