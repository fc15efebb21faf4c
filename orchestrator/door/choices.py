"""Several answers to one question (`n` above 1): each is a query of its own, side by side, and the joules are shared.

Greedy answers are equal, so one is computed and told as often as it was asked for.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from orchestrator.execution.run import total_energy
from orchestrator.gateway.accounts import TextReply
from orchestrator.types import BudgetRequest, Delta, TextQuery, Timings

MAX_CHOICES = 8
# Pieces that wait for a client who reads slowly.
WAITING = 64
# Room for a number behind the request's own id.
ID_CHARS = 60

Piece = Delta | TextReply


def queries(query: TextQuery, n: int) -> list[TextQuery]:
    """What is really asked: as many queries as answers may differ.

    Each has its share of the joules, an id of its own, and a seed of its own where one was given.
    """
    if n == 1 or query.parameters.temperature == 0.0:
        return [query]
    return drawn(query, n)


def drawn(query: TextQuery, n: int) -> list[TextQuery]:
    """The same question `n` times, drawn anew each time."""
    return [_one_of(query, n, number) for number in range(n)]


def _one_of(query: TextQuery, n: int, number: int) -> TextQuery:
    parameters, seed = query.parameters, query.parameters.seed
    if seed is not None:
        parameters = replace(parameters, seed=(seed + number) % 2**63)
    limit_j = query.budget.max_energy_j
    budget: BudgetRequest = query.budget if limit_j is None else replace(query.budget, max_energy_j=limit_j / n)
    request_id = query.request_id if number == 0 else f"{query.request_id[:ID_CHARS]}-{number}"
    return replace(query, request_id=request_id, parameters=parameters, budget=budget)


async def side_by_side(
    asked: Sequence[TextQuery], generate: Callable[[TextQuery], AsyncIterator[Piece]]
) -> AsyncGenerator[tuple[int, Piece]]:
    """Pieces of all answers as they come, each with its number; closing this ends all of them.

    Raises:
        Whatever one of them raises; the others are cancelled then.
    """
    coming: asyncio.Queue[tuple[int, Piece | BaseException | None]] = asyncio.Queue(WAITING)

    async def pump(number: int) -> None:
        try:
            async with aclosing(generate(asked[number])) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    await coming.put((number, piece))
        except Exception as error:  # Whoever reads raises it.
            await coming.put((number, error))
        await coming.put((number, None))

    pumps = [asyncio.ensure_future(pump(number)) for number in range(len(asked))]
    try:
        left = len(pumps)
        while left:
            number, piece = await coming.get()
            if isinstance(piece, BaseException):
                raise piece
            if piece is None:
                left -= 1
            else:
                yield number, piece
    finally:
        for one in pumps:
            one.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


def together(replies: Sequence[TextReply]) -> TextReply:
    """What all answers cost, as if they were one: attempts and joules of all, the time of the slowest."""
    first = replies[0]
    if len(replies) == 1:
        return first
    attempts = tuple(attempt for reply in replies for attempt in reply.routing.attempts)
    routing = replace(
        first.routing,
        attempts=attempts,
        predicted_energy_j=math.fsum(reply.routing.predicted_energy_j for reply in replies),
        bound_energy_j=math.fsum(reply.routing.bound_energy_j for reply in replies),
        predicted_ms=max(reply.routing.predicted_ms for reply in replies),
        bound_ms=max(reply.routing.bound_ms for reply in replies),
        budget_met=all(reply.routing.budget_met for reply in replies),
    )
    end = replace(first.end, completion_tokens=sum(reply.end.completion_tokens for reply in replies))
    slowest: Timings = max((reply.timings for reply in replies), key=lambda timings: timings.total_ms)
    energy = total_energy(list(attempts))
    return replace(first, end=end, routing=routing, energy=energy, timings=slowest)
