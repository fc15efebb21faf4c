"""Asks a gateway many questions over HTTP at one budget: the demo's text part, and whoever wants to try a budget."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class TextAnswer:
    """One question's answer; `error` is the code of the refusal, "" where there was none."""

    text: str
    experts: tuple[str, ...]
    energy_j: float | None
    duration_s: float
    error: str = ""


def ask_all(
    address: str, questions: Sequence[str], *, model: str = "auto", callers: int = 4, **body: Any
) -> list[TextAnswer]:
    """Answers in the order of the questions.

    Args:
        address: HOST:PORT of the gateway's HTTP side.
        questions: One user message each.
        model: An expert, or `auto` with a profile and a budget, such as ``auto:eco@5mJ``.
        callers: Questions under way at once.
        body: More fields of the request, such as ``task="skills"`` or ``budget={...}``.
    """

    def ask(question: str) -> TextAnswer:
        messages = [{"role": "user", "content": question}]
        return _ask(address, {"model": model, "messages": messages, **body})

    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(ask, questions))


def _ask(address: str, body: dict[str, Any]) -> TextAnswer:
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    try:
        headers = {"content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        reply = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    if "error" in reply:
        return TextAnswer("", (), None, 0.0, str(reply["error"]["code"]))
    energy = reply["energy"]
    return TextAnswer(
        reply["choices"][0]["message"]["content"],
        tuple(reply["routing"]["experts"]),
        energy["energy_joules"],
        energy["duration_seconds"],
    )
