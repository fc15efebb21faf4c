"""The events of a streamed text, as OpenAI's clients read them. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from orchestrator.door import telling
from orchestrator.door.asking import Asked
from orchestrator.door.exchange import EVENTS, dump
from orchestrator.gateway.accounts import TextReply
from orchestrator.gateway.several import together
from orchestrator.types import Delta

DONE = b"data: [DONE]\n\n"


def stream_headers(request_id: str) -> dict[str, str]:
    """Headers of a stream: what it costs is told at its end."""
    return {
        "content-type": EVENTS,
        "cache-control": "no-cache",
        "x-accel-buffering": "no",
        "x-edgewise-request-id": request_id,
        "x-request-id": request_id,
    }


class Chunks:
    """The events of one stream.

    Args:
        asked: What was asked.
        created_unix_s: When.
    """

    def __init__(self, asked: Asked, created_unix_s: int) -> None:
        self._asked = asked
        self._model = asked.query.expert or "auto"
        self._created_unix_s = created_unix_s
        # Characters of each answer so far; one that has none yet has not begun.
        self._chars: dict[int, int] = {}

    def piece(self, piece: Delta, index: int = 0) -> bytes:
        """A piece of one answer's text."""
        text, chat = piece.text, self._asked.chat
        logprobs = telling.logprobs_block(piece.logprobs_json, chat=chat, offset=self._chars.get(index, 0))
        delta = {"content": text} if index in self._chars else {"role": "assistant", "content": text}
        self._chars[index] = self._chars.get(index, 0) + len(text)
        if not chat:
            return self._event([{"index": index, "text": text, "finish_reason": None, "logprobs": logprobs}])
        told = {} if logprobs is None else {"logprobs": logprobs}
        return self._event([{"index": index, "delta": delta, "finish_reason": None, **told}])

    def end(self, replies: Sequence[TextReply], extra: dict[str, Any]) -> bytes:
        """Why each answer ended, usage where it was asked for, what all cost, and the end.

        Args:
            replies: By index; the same one several times cost what it cost once.
        """
        whole = together(list({reply.request_id: reply for reply in replies}.values()))
        self._model = whole.end.expert or self._model
        costs = {**telling.cost_blocks(whole), **extra}
        last = len(replies) - 1
        parts = [self._ended(reply, index, costs if index == last else {}) for index, reply in enumerate(replies)]
        if self._asked.include_usage:
            parts.append(self._event([], usage=telling.usage_block(whole), **costs))
        parts.append(b": energy " + dump(costs["energy"]) + b"\n\n")
        return b"".join([*parts, DONE])

    def _ended(self, reply: TextReply, index: int, costs: dict[str, Any]) -> bytes:
        delta: dict[str, Any] = {}
        if reply.end.tool_calls_json:
            calls = json.loads(reply.end.tool_calls_json)
            delta["tool_calls"] = [{"index": number, **call} for number, call in enumerate(calls)]
        content = {"delta": delta} if self._asked.chat else {"text": ""}
        return self._event([{"index": index, **content, "finish_reason": telling.finish_reason(reply)}], **costs)

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        event = {
            "id": telling.reply_id(self._asked.query.request_id, chat=self._asked.chat),
            "object": "chat.completion.chunk" if self._asked.chat else "text_completion",
            "created": self._created_unix_s,
            "model": self._model,
            "choices": choices,
            **more,
        }
        if self._asked.include_usage and "usage" not in event:
            event["usage"] = None
        return b"data: " + dump(event) + b"\n\n"
