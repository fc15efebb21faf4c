"""A real llama-server behind an agent answers through a real gateway; a stand-in for it runs by default."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from nodes.agent.agent import Agent
from nodes.config import parse_config
from nodes.zoo.language.catalog import load_text_catalog
from nodes.zoo.language.gguf_export import export_gguf
from tests.fakes.live import live_gateway, until
from tests.fakes.llama_server import wrapper

QUESTION = "Find out what is the number of weeks that 49 days are."
REAL = os.environ.get("EDGEWISE_LLAMA_SERVER") or shutil.which("llama-server")


async def answer_of(server: Path, folder: Path) -> tuple[str, dict[str, object], dict[str, object]]:
    """What a node with the dates expert as GGUF answers, its energy block and its routing block."""
    catalog = load_text_catalog()
    card = next(card for card in catalog.experts if card.name == "skills-dates")
    export_gguf(catalog.model_path(card), folder / "dates.gguf", name="skills-dates")
    async with live_gateway(folder / "state") as live:
        settings = {
            "gateway": live.address,
            "name": "box",
            "gguf": (f"{folder / 'dates.gguf'},quality=0.8",),
            "llama_server": server,
            "profile": "laptop-cpu",
            "energy": "modelled",
        }
        agent = Agent(parse_config(settings))
        await agent.prepare()
        running = asyncio.ensure_future(agent.run())
        try:
            await until(lambda: live.gateway.planner.standing("chat"))
            async with AsyncOpenAI(base_url=f"{live.http}/v1", api_key="none") as client:
                reply = await client.chat.completions.create(
                    model="skills-dates",
                    messages=[{"role": "user", "content": QUESTION}],
                    temperature=0,
                    max_tokens=16,
                )
        finally:
            agent.drain("the test ends")
            await running
            await agent.close()
    document = reply.model_dump()
    return reply.choices[0].message.content or "", document["energy"], document["routing"]


@pytest.mark.parametrize("which", ["stand-in", "real"])
async def test_a_gguf_file_answers_through_the_gateway(which: str, tmp_path: Path) -> None:
    if which == "real" and REAL is None:
        pytest.skip("not run: no llama-server; set EDGEWISE_LLAMA_SERVER or build one with deploy/llama.py")
    server = wrapper(tmp_path) if which == "stand-in" else Path(REAL or "")
    text, energy, routing = await answer_of(server, tmp_path)
    assert text == ("forty-two" if which == "stand-in" else "7")
    assert routing["experts"] == ["skills-dates@box"]
    assert energy["source"] == "modelled"
    assert isinstance(energy["energy_joules"], float)
    assert energy["energy_joules"] > 0.0
