"""Kept prompts through every layer: OpenAI's client, gateway, agent, the real engine with an expert that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.system.one_agent import house

STORY = "Sort the words pear, apple, fig and grape; then say how many hours 5 days have. " * 8


async def ask(client: AsyncOpenAI, text: str, user: str = "ada") -> tuple[str, int | None, float]:
    """The answer, the tokens that were kept, and the joules."""
    reply = await client.chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": text}],
        user=user,
        max_tokens=8,
        temperature=0.8,
        seed=3,
        extra_body={"task": "skills"},
    )
    told: Any = reply.model_extra
    assert reply.usage is not None
    details = reply.usage.prompt_tokens_details
    kept = details.cached_tokens if details else None
    return reply.choices[0].message.content or "", kept, told["energy"]["energy_joules"]


@pytest.mark.parametrize("mib", [32, 0])
async def test_a_follow_up_costs_what_is_new_and_says_the_same(tmp_path: Path, mib: int) -> None:
    async with house(tmp_path, "skills-dates", kept_prompts_mib=mib) as client:
        await ask(client, STORY)
        follow_up = STORY + "And what is 3 weeks in days?"
        again, cached, energy_j = await ask(client, follow_up)
        fresh, none, all_j = await ask(client, follow_up, user="bob")
    assert again == fresh
    if mib:
        assert cached is not None
        assert cached >= 64
        assert none == 0
        assert energy_j < 0.6 * all_j
    else:
        assert (cached, none) == (None, None)
        assert energy_j == pytest.approx(all_j)
