"""What the page about HTTP shows, run as it stands there, and questions asked in bulk."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from deploy.texts import ask_all
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import speaks
from tests.fakes.live import live_gateway

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "deploy" / "docs" / "http.md"
ARM = FakeArm("small", task="chat", energy_j=0.1)


async def test_the_ten_lines_of_the_page(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    async with live_gateway(tmp_path) as live, live.node(arms=[ARM], behaviour=speaks("31")):
        script = found[1].replace("http://127.0.0.1:8420", live.http)
        run = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(60):
            out, err = await run.communicate()
    assert run.returncode == 0, err.decode()
    assert out.decode().splitlines() == ["31", "0.1 modelled ['small@fake-1']"]


async def test_many_questions_at_one_budget(tmp_path: Path) -> None:
    async with live_gateway(tmp_path) as live, live.node(arms=[ARM], behaviour=speaks("31")):
        address = live.http.removeprefix("http://")
        answers = await asyncio.to_thread(ask_all, address, ["a", "b", "c"], model="auto@5J")
        refused = await asyncio.to_thread(ask_all, address, ["a"], model="auto@1uJ")
    assert [answer.text for answer in answers] == ["31"] * 3
    assert answers[0].experts == ("small@fake-1",)
    assert answers[0].energy_j == pytest.approx(0.1)
    assert [answer.error for answer in refused] == ["budget_infeasible"]


async def test_the_script_of_the_readme(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (script,) = [block for block in blocks if "from openai" in block]
    cheap = FakeArm("small", task="chat", energy_j=0.001)
    async with live_gateway(tmp_path) as live, live.node(arms=[cheap], behaviour=speaks("8", "2")):
        script = script.replace("http://127.0.0.1:8420", live.http)
        run = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(60):
            out, err = await run.communicate()
    assert run.returncode == 0, err.decode()
    assert out.decode() == "82"
