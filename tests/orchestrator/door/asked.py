"""Asking for one text that several experts write together."""

from __future__ import annotations

from typing import Any

from openai import AsyncOpenAI


async def ask_together(openai: AsyncOpenAI, *, mode: str, go_on: bool = False, **body: Any) -> Any:
    """The reply; `go_on` where an expert may be lost."""
    fields = {"model": "auto:best", "seed": 4, "stream": False} | body
    fusion = {"mode": mode, "max_experts": 4} | ({"continue_on_loss": True} if go_on else {})
    extra = {"fusion": fusion, "explain": True}
    create: Any = openai.chat.completions.create
    return await create(messages=[{"role": "user", "content": "spell"}], extra_body=extra, **fields)
