"""Embeddings by an expert that ships, through every layer: OpenAI's client, gateway, agent, the real engine."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import openai as sdk
import pytest

from tests.system.one_agent import house

WIDTH = 192
ALIKE = ["What is 12 plus 19?", "Find 40 plus 3.", "Sort the words pear, apple and fig."]


async def test_an_expert_that_ships_embeds_and_still_writes(tmp_path: Path) -> None:
    async with house(tmp_path, "skills-dates", "skills-general") as client:
        whole = await client.embeddings.create(model="auto@1J", input=ALIKE, encoding_format="float", user="ada")
        coded = await client.embeddings.create(model="skills-general", input=ALIKE[0], dimensions=WIDTH)
        in_base64 = await client.embeddings.create(model="skills-general", input=ALIKE[0], encoding_format="base64")
        for model, dimensions in (("skills-general", WIDTH // 2), ("skills-dates", WIDTH)):
            with pytest.raises(sdk.BadRequestError) as refused:
                await client.embeddings.create(model=model, input="x", dimensions=dimensions)
            assert refused.value.code == "capability_missing"
        with pytest.raises(sdk.BadRequestError) as refused:
            await client.embeddings.create(model="skills-general", input=["short", "7 " * 600])
        assert refused.value.code == "input_invalid"
        said = await client.chat.completions.create(
            model="skills-general", messages=[{"role": "user", "content": ALIKE[0]}], max_tokens=8
        )
    vectors = np.array([one.embedding for one in whole.data])
    assert vectors.shape == (3, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    # Two sums are more alike than a sum and words to sort.
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1
    np.testing.assert_allclose(coded.data[0].embedding, vectors[0], atol=1e-5)
    plain: Any = in_base64.data[0].embedding
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(plain), "<f4"), vectors[0], atol=1e-5)
    assert whole.model == "skills-general"
    assert whole.usage.prompt_tokens == whole.usage.total_tokens > coded.usage.prompt_tokens > 0
    told: Any = whole.model_extra
    one: Any = coded.model_extra
    assert told["energy"]["source"] == "modelled"
    assert told["energy"]["energy_joules"] > one["energy"]["energy_joules"] > 0
    assert told["routing"]["predicted"]["joules"] == pytest.approx(told["energy"]["energy_joules"], rel=0.5)
    assert said.choices[0].message.content == "31"
