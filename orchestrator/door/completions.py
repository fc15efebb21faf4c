"""`/v1/chat/completions` and `/v1/completions`: texts, whole or as they come."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import lru_cache, partial
from typing import Any

from orchestrator.door import telling
from orchestrator.door.asking import Asked, Setting, chat_request, completion_request
from orchestrator.door.cache import AnswerCache, answer_key, is_fixed
from orchestrator.door.choices import queries, side_by_side
from orchestrator.door.chunks import DONE, Chunks, stream_headers
from orchestrator.door.exchange import Exchange, Work, dump
from orchestrator.door.head import ID_HEADERS, header_lines
from orchestrator.door.strict import not_finite, parse
from orchestrator.gateway.accounts import Payer, TextReply
from orchestrator.gateway.explaining import explain
from orchestrator.gateway.policy import caller, tenant_seen
from orchestrator.gateway.samples import answers
from orchestrator.gateway.service import Service
from orchestrator.gateway.several import together
from orchestrator.ledger.spenders import fingerprint
from orchestrator.types import Delta, TextQuery

REPLAYED = {"x-edgewise-replayed": "true", "x-energy-joules": "0", "x-energy-method": "measured:replayed"}
CACHED = {"x-edgewise-cache": "hit", "x-energy-joules": "0", "x-energy-method": "measured:cached"}


class Completions:
    """Answers texts.

    Args:
        service: Does the work.
        max_deadline_s: The longest that a request may take.
        cache: Answers that are given again; None keeps none.
    """

    def __init__(self, service: Service, *, max_deadline_s: float, cache: AnswerCache | None = None) -> None:
        self._service = service
        self._cache = cache
        # What requests are read against whose headers ask for nothing, by tenant.
        usual = partial(Setting, {}, service.fleet.tasks, self._task_of, max_deadline_s)
        self._usual: Callable[[str], Setting] = lru_cache(maxsize=1024)(usual)

    def chat(self, exchange: Exchange) -> Awaitable[Work | None]:
        """`POST /v1/chat/completions`, once this is awaited; see `orchestrator.door.exchange.Handler`."""
        return self._read(exchange, chat_request)

    def completion(self, exchange: Exchange) -> Awaitable[Work | None]:
        """`POST /v1/completions`, in the same way."""
        return self._read(exchange, completion_request)

    async def _read(self, exchange: Exchange, read: Callable[[dict[str, Any], Setting], Asked]) -> Work | None:
        """The work of the reply; None where what was answered before is the reply."""
        exchange.check_json()
        body, finite = parse(await exchange.body())
        asked = read(body, self.setting(exchange))
        if not finite:
            raise not_finite()
        key = None if self._cache is None else self._key(exchange, body, asked)
        if key is not None and (kept := self._kept(exchange, key, asked)) is not None:
            await _replay(exchange, kept, asked, CACHED)
            return None
        payer = await self._claim(exchange, body, asked) if exchange.head.has_id else Payer(caller.get().spender)
        if isinstance(payer, bytes):
            await _replay(exchange, json.loads(payer), asked, REPLAYED)
            return None
        return self._stream(exchange, asked, payer, key) if asked.stream else self._whole(exchange, asked, payer, key)

    # ---- answers that are given again

    def _key(self, exchange: Exchange, body: dict[str, Any], asked: Asked) -> bytes | None:
        """Where an answer to this is kept; None where it is none that may be given again."""
        if not is_fixed(asked.query) or asked.n > 1 or asked.query.samples > 1 or asked.explain:
            return None
        if "no-store" in exchange.headers.get("cache-control", ""):
            return None
        if exchange.head.has_id:
            return None
        arms = (state.arm for state in self._service.fleet.board.arms(asked.query.task.name))
        return answer_key(caller.get().spender.tenant, exchange.scope["path"], _said(exchange, body), arms)

    def _kept(self, exchange: Exchange, key: bytes, asked: Asked) -> dict[str, Any] | None:
        if self._cache is None or "no-cache" in exchange.headers.get("cache-control", ""):
            return None
        found = self._cache.get(key)
        if found is None:
            return None
        self._service.answered_from_cache(asked.query, Payer(caller.get().spender))
        request_id = telling.reply_id(asked.query.request_id, chat=asked.chat)
        return {**json.loads(found), "id": request_id, "created": int(time.time()), "energy": telling.NO_ENERGY}

    def _keep(self, key: bytes | None, asked: Asked, reply: TextReply) -> None:
        if key is not None and self._cache is not None and reply.end.finish_reason != "budget":
            self._cache.put(key, dump(self._document(asked, reply)))

    def setting(self, exchange: Exchange) -> Setting:
        """What a request is read against."""
        usual, asking = self._usual(caller.get().spender.tenant), exchange.head.asking
        return usual._replace(headers=asking) if asking else usual

    def _task_of(self, expert: str) -> str | None:
        tasks = self._service.fleet.tasks
        for state in self._service.fleet.board.states:
            arm = state.arm
            if arm.expert == expert and arm.task in tasks and tasks[arm.task].text:
                return arm.task
        return None

    async def _claim(self, exchange: Exchange, body: dict[str, Any], asked: Asked) -> Payer | bytes:
        """Who pays for a request whose id the client chose; or what was answered, where there was an answer to it."""
        spender = caller.get().spender
        mark = fingerprint(spender.tenant, exchange.scope["path"], _said(exchange, body))
        taken = await self._service.till.ledger.claim(
            spender, asked.query.request_id, fingerprint=mark, deadline_s=asked.query.deadline_s
        )
        return taken if isinstance(taken, bytes) else Payer(spender, taken)

    # ---- replies

    def _generate(self, asked: Asked, query: TextQuery, payer: Payer) -> AsyncIterator[Delta | TextReply]:
        if query.samples > 1:
            return answers(self._service, query, payer)
        return self._service.generate(query, payer, encode=self._encode(asked, payer))

    def _encode(self, asked: Asked, payer: Payer) -> Callable[[TextReply], bytes] | None:
        """Makes what a repeated call is answered; None where the client chose no id."""
        return (lambda reply: dump(self._document(asked, reply))) if payer.claim else None

    def _document(self, asked: Asked, reply: TextReply) -> dict[str, Any]:
        document = telling.whole(reply, chat=asked.chat, created_unix_s=int(time.time()))
        if asked.explain:
            document |= self._extra(asked, reply)
        return document

    def _extra(self, asked: Asked, reply: TextReply) -> dict[str, Any]:
        if not asked.explain:
            return {}
        explanation = explain(self._service.journal.get(reply.request_id, tenant_seen()))
        return {
            "explanation": {
                "chosen": explanation.chosen,
                "runner_up": explanation.runner_up or None,
                "binding_constraint": explanation.binding_constraint,
                "one_expert_alone": telling.alone_block(explanation),
                "candidates": telling.candidates_block(explanation),
            }
        }

    def _pieces(self, asked: Asked, payer: Payer) -> AsyncGenerator[tuple[int, Delta | TextReply]]:
        """Pieces of all answers, each with the number of its query."""
        return side_by_side(queries(asked.query, asked.n), lambda query: self._generate(asked, query, payer))

    async def _whole(self, exchange: Exchange, asked: Asked, payer: Payer, key: bytes | None) -> None:
        if asked.n == 1 and asked.query.samples == 1:
            # The usual case, without pieces and without a task of its own.
            encode = None if payer.claim is None else self._encode(asked, payer)
            whole = await self._service.complete(asked.query, payer, encode=encode)
            replies = [whole]
        else:
            replies = await self._replies(asked, payer)
            whole = together(replies)
        await self._service.admission.aside()
        document = self._document(asked, whole)
        if asked.n > 1:
            answers = replies if len(replies) > 1 else replies * asked.n
            document["choices"] = [
                {**self._document(asked, reply)["choices"][0], "index": number} for number, reply in enumerate(answers)
            ]
        if key is not None:
            self._keep(key, asked, whole)
        costs = telling.cost_lines(whole.energy, whole.routing, whole.timings, profile=whole.profile)
        await exchange.reply_json(200, document, telling.id_lines(whole.request_id) + costs)

    async def _replies(self, asked: Asked, payer: Payer) -> list[TextReply]:
        """Of a request that is asked several times."""
        if asked.n == 1:
            async with aclosing(self._generate(asked, asked.query, payer)) as pieces:  # type: ignore[type-var]
                return [piece async for piece in pieces if isinstance(piece, TextReply)]
        async with aclosing(self._pieces(asked, payer)) as numbered:
            ended = {number: piece async for number, piece in numbered if isinstance(piece, TextReply)}
        return [ended[number] for number in sorted(ended)]

    async def _stream(self, exchange: Exchange, asked: Asked, payer: Payer, key: bytes | None) -> None:
        chunks = Chunks(asked, int(time.time()))
        if asked.n > 1:
            await self._stream_many(exchange, asked, payer, chunks)
            return
        async with aclosing(self._generate(asked, asked.query, payer)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                # What fails before the first piece still has a status of its own.
                if not exchange.started:
                    await exchange.start(200, stream_headers(asked.query.request_id))
                if isinstance(piece, TextReply):
                    self._keep(key, asked, piece)
                    await exchange.write(chunks.end([piece], self._extra(asked, piece)))
                elif piece.text or piece.logprobs_json:
                    await exchange.write(chunks.piece(piece), more=True)

    async def _stream_many(self, exchange: Exchange, asked: Asked, payer: Payer, chunks: Chunks) -> None:
        """The same for several answers: their pieces as they come, their ends when all have ended."""
        ended: dict[int, TextReply] = {}
        copies = asked.n if len(queries(asked.query, asked.n)) == 1 else 1
        async with aclosing(self._pieces(asked, payer)) as numbered:
            async for number, piece in numbered:
                if not exchange.started:
                    await exchange.start(200, stream_headers(asked.query.request_id))
                if isinstance(piece, TextReply):
                    ended[number] = piece
                elif piece.text or piece.logprobs_json:
                    for copy in range(number, number + copies):
                        await exchange.write(chunks.piece(piece, copy), more=True)
        replies = [ended[number] for number in sorted(ended)]
        await exchange.write(chunks.end(replies * copies, self._extra(asked, replies[0])))


def _said(exchange: Exchange, body: dict[str, Any]) -> bytes:
    """Everything that was asked, but for how it is to be sent, in one form."""
    # Headers that are part of what was asked: the same id with others is another request.
    said = {name: value for name, value in exchange.head.asking.items() if name not in ID_HEADERS}
    what = {key: value for key, value in body.items() if key not in ("stream", "stream_options")}
    return json.dumps([what, said], sort_keys=True).encode()


async def _replay(exchange: Exchange, document: dict[str, Any], asked: Asked, told_by: Mapping[str, str]) -> None:
    """What was answered before, whole or as the stream that is asked for now."""
    request_id = asked.query.request_id
    if not asked.stream:
        lines = header_lines({"x-edgewise-request-id": request_id, **told_by})
        await exchange.reply_json(200, document, lines)
        return
    await exchange.start(200, {**stream_headers(request_id), **told_by})
    choice = document["choices"][0]
    delta = {key: value for key, value in choice.get("message", {}).items() if value is not None}
    if "tool_calls" in delta:
        delta["tool_calls"] = [{"index": number, **call} for number, call in enumerate(delta["tool_calls"])]
    content = {"delta": delta} if asked.chat else {"text": choice.get("text", "")}
    kind = "chat.completion.chunk" if asked.chat else "text_completion"
    usage = document.pop("usage")
    if choice.get("logprobs"):
        content["logprobs"] = choice["logprobs"]
    document |= {"object": kind, "choices": [{"index": 0, **content, "finish_reason": choice["finish_reason"]}]}
    events = [document]
    if asked.include_usage:
        events.append({**document, "choices": [], "usage": usage})
    told = b": energy " + dump(document["energy"]) + b"\n\n"
    await exchange.write(b"".join(b"data: " + dump(event) + b"\n\n" for event in events) + told + DONE)
