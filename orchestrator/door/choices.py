"""Several answers to one question (`n` above 1): each is a query of its own, side by side, and the joules are shared.

Greedy answers are equal, so one is computed and told as often as it was asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing

from orchestrator.gateway.several import Piece, drawn
from orchestrator.types import TextQuery

MAX_CHOICES = 8
# Pieces that wait for a client who reads slowly.
WAITING = 64


def queries(query: TextQuery, n: int) -> list[TextQuery]:
    """What is really asked: as many queries as answers may differ.

    Each has its share of the joules, an id of its own, and a seed of its own where one was given.
    """
    if n == 1 or query.parameters.temperature == 0.0:
        return [query]
    return drawn(query, n)


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
