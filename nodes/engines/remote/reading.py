"""What the events of a chat add up to. Pure but for the clock that is handed in."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from nodes.engines.contract import TextEnd

STOP, LENGTH, BUDGET = "stop", "length", "budget"


@dataclass
class Reading:
    """One answer as it comes.

    Args:
        prompt_bytes: Of what was asked, for a server that does not count tokens.
        asked_tokens: What the server was allowed.
        wanted_tokens: What the client allows; more than was asked where joules are short.
    """

    prompt_bytes: int
    asked_tokens: int
    wanted_tokens: int
    pieces: int = 0
    finish: str = STOP
    usage: tuple[int, int] | None = None
    cached_tokens: int | None = None
    margins: list[float] = field(default_factory=list)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)

    def take(self, event: dict[str, Any]) -> str:
        """Take one event; returns the text in it."""
        self._count(event.get("usage"))
        choices = event.get("choices") or []
        if not choices or not isinstance(choices[0], dict):
            return ""
        choice = choices[0]
        if choice.get("finish_reason") == LENGTH:
            self.finish = LENGTH
        self._weigh(choice.get("logprobs"))
        # A stream's part, or the whole message where no stream was asked for.
        delta = choice.get("delta") or choice.get("message") or {}
        for number, call in enumerate(delta.get("tool_calls") or []):
            self._call(call, number)
        text = delta.get("content") or ""
        self.pieces += bool(text)
        return str(text)

    def end(self, *, queue_ms: float, compute_ms: float, first_token_ms: float | None) -> TextEnd:
        """What is told of the whole; tokens are counted by the server, else one for every piece."""
        prompt_tokens, completion_tokens = self.usage or (round(self.prompt_bytes * 0.3), self.pieces)
        short = self.finish == LENGTH and self.asked_tokens < self.wanted_tokens
        return TextEnd(
            finish=BUDGET if short else self.finish,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            queue_ms=queue_ms,
            compute_ms=compute_ms,
            margin_fraction=math.fsum(self.margins) / len(self.margins) if self.margins else None,
            first_token_ms=first_token_ms,
            cached_tokens=None if self.cached_tokens is None else min(self.cached_tokens, prompt_tokens),
            tool_calls_json=json.dumps([self.calls[n] for n in sorted(self.calls)]) if self.calls else "",
        )

    def _count(self, usage: Any) -> None:
        if isinstance(usage, dict):
            counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
            if all(isinstance(count, int) and 0 <= count < 2**31 for count in counts):
                self.usage = counts[0] or 0, counts[1] or 0
            details = usage.get("prompt_tokens_details")
            cached = details.get("cached_tokens") if isinstance(details, dict) else None
            if isinstance(cached, int) and not isinstance(cached, bool) and 0 <= cached < 2**31:
                self.cached_tokens = int(cached)

    def _weigh(self, logprobs: Any) -> None:
        """Probability of the most probable token minus the second's, for every token."""
        for token in (logprobs or {}).get("content") or []:
            tops = [top["logprob"] for top in token.get("top_logprobs") or [] if isinstance(top.get("logprob"), float)]
            if len(tops) >= 2:
                first, second = sorted((math.exp(min(0.0, top)) for top in tops), reverse=True)[:2]
                self.margins.append(first - second)

    def _call(self, delta: Any, number: int) -> None:
        """Calls of tools come in parts, each with its number."""
        number = int(delta.get("index", number))
        call = self.calls.setdefault(number, {"id": "", "type": "function", "function": {}})
        call["id"] = delta.get("id") or call["id"]
        told = delta.get("function") or {}
        function = call["function"]
        function["name"] = function.get("name", "") + (told.get("name") or "")
        function["arguments"] = function.get("arguments", "") + (told.get("arguments") or "")


def told_logprobs(event: dict[str, Any], tops: int) -> tuple[dict[str, Any], ...]:
    """The probabilities in an event, with as many beside each token as were asked for; what is none is left out."""
    choices = event.get("choices") or []
    told = (choices[0].get("logprobs") or {}) if choices and isinstance(choices[0], dict) else {}
    return tuple(
        {**_named(token), "top_logprobs": [_named(top) for top in (token.get("top_logprobs") or [])[:tops]]}
        for token in told.get("content") or []
        if isinstance(token, dict)
    )


def _named(token: dict[str, Any]) -> dict[str, Any]:
    return {"token": str(token.get("token", "")), "logprob": token.get("logprob"), "bytes": token.get("bytes")}
