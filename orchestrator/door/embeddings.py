"""`/v1/embeddings`: routed, priced and charged as texts are; the answer are vectors."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

from orchestrator.door import telling
from orchestrator.door.asking import embeddings_request
from orchestrator.door.completions import Completions
from orchestrator.door.exchange import Exchange, Work
from orchestrator.door.fields import Fields
from orchestrator.door.strict import not_finite, parse
from orchestrator.errors import MAX_MESSAGE_CHARS, RequestError, Unavailable
from orchestrator.gateway.accounts import Payer
from orchestrator.gateway.policy import caller
from orchestrator.gateway.service import Service
from orchestrator.types import TextQuery

FORMATS = ("float", "base64")


class Embeddings:
    """Answers requests for embeddings.

    Args:
        service: Does the work.
        texts: Knows what requests are read against.
    """

    def __init__(self, service: Service, texts: Completions) -> None:
        self._service = service
        self._texts = texts

    async def create(self, exchange: Exchange) -> Work:
        """`POST /v1/embeddings`."""
        exchange.check_json()
        body, finite = parse(await exchange.body())
        query = embeddings_request(body, self._texts.setting(exchange))
        form = Fields(body).choice("encoding_format", FORMATS) or FORMATS[0]
        if not finite:
            raise not_finite()
        if query.expert is None:
            self._check_one_space(query)
        if exchange.headers.get("x-edgewise-request-id") or exchange.headers.get("idempotency-key"):
            text = "Embeddings cannot be repeated by an id of the request's own; leave it out."
            raise RequestError("FIELD_OUT_OF_RANGE", text, field="x-edgewise-request-id")
        return self._answer(exchange, query, form)

    def _check_one_space(self, query: TextQuery) -> None:
        """Vectors of different experts say nothing of each other: which of several it is, the client must know."""
        arms = (state.arm for state in self._service.fleet.board.arms(query.task.name))
        makers = sorted({arm.expert for arm in arms if arm.text and query.needs <= arm.text.capabilities})
        if len(makers) > 1:
            known = ", ".join(makers)
            text = f"Vectors of different experts cannot be compared; name one as model: {known}."
            raise RequestError("FIELD_REQUIRED", text[:MAX_MESSAGE_CHARS], field="model", metadata={"known": known})

    async def _answer(self, exchange: Exchange, query: TextQuery, form: str) -> None:
        reply = await self._service.complete(query, Payer(caller.get().spender))
        profile = self._service.budgets.resolve(query.task.name, query.budget, 1.0).profile
        costs = telling.cost_lines(reply.energy, reply.routing, reply.timings, profile=profile)
        document = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": _told(vector, form)}
                for index, vector in enumerate(vectors_of(reply.end.text, len(query.messages)))
            ],
            "model": reply.end.expert,
            "usage": {"prompt_tokens": reply.end.prompt_tokens, "total_tokens": reply.end.prompt_tokens},
            **telling.cost_blocks(reply),
        }
        await exchange.reply_json(200, document, telling.id_lines(reply.request_id) + costs)


def vectors_of(text: str, count: int) -> list[bytes]:
    """The vectors in a node's answer.

    Raises:
        Unavailable: ATTEMPTS_FAILED, where it is none.
    """
    try:
        vectors = [base64.b64decode(one, validate=True) for one in json.loads(text)]
    except (ValueError, TypeError, RecursionError):
        vectors = []
    if len(vectors) != count or not all(vector and len(vector) % 4 == 0 for vector in vectors):
        raise Unavailable("ATTEMPTS_FAILED", "The expert's embeddings cannot be read; the same call may succeed later.")
    return vectors


def _told(vector: bytes, form: str) -> Any:
    if form == "base64":
        return base64.b64encode(vector).decode()
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))
