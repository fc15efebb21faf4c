"""A node with a text expert that ships, as a process of its own: what it announces, streams, charges and stops."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest

from edgewise.v1 import common_pb2 as common
from edgewise.v1 import fleet_pb2 as fleet
from nodes.zoo.language.catalog import load_text_catalog
from tests.nodes.agent.gateway import PlayedGateway, PlayedSession, cancel

START_TIMEOUT_S = 30.0
EXPERT = "skills-dates"


@pytest.fixture
async def session() -> AsyncIterator[PlayedSession]:
    gateway = PlayedGateway()
    await gateway.start()
    flags = ["--gateway", gateway.target, "--name", "n1", "--profile", "laptop-cpu", "--log", "json"]
    flags += ["--experts", EXPERT, "--profiling-s", "0.05"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nodes", "run", *flags, stderr=asyncio.subprocess.DEVNULL
    )
    yield await gateway.session(timeout_s=START_TIMEOUT_S)
    process.kill()
    await process.wait()
    await gateway.stop()


def ask(work_id: int, question: str, *, energy_limit_j: float = 0.0, max_tokens: int = 0) -> fleet.NodeCommand:
    text = fleet.TextWork(
        messages=[common.ChatMessage(role="user", content=question)],
        parameters=common.GenerationParameters(max_tokens=max_tokens),
    )
    work = fleet.Work(work_id=work_id, expert=EXPERT, variant="fp16", deadline_ms=20_000.0, text=text)
    work.energy_limit_j = energy_limit_j
    return fleet.NodeCommand(work=work)


async def answer(session: PlayedSession, work_id: int) -> tuple[str, fleet.WorkDone]:
    """The streamed text and the end of one piece of work; this node does one at a time here."""
    streamed = ""
    while True:
        event = await session.next("delta", "done", "failed")
        assert event.work_id == work_id
        assert not isinstance(event, fleet.WorkFailed), event
        if isinstance(event, fleet.WorkDone):
            return streamed, event
        streamed += event.text


async def test_from_hello_to_joules(session: PlayedSession) -> None:
    hello = await session.next("hello")
    (task,), (arm,) = hello.tasks, hello.arms
    card = next(card for card in load_text_catalog().experts if card.name == EXPERT)
    assert (task.name, task.text) == ("skills", True)
    assert (arm.expert, arm.engine, arm.model_digest) == (EXPERT, "onnx-lm", card.sha256)
    assert arm.text.tokenizer_digest == card.tokenizer_digest
    assert arm.text.completion_tokens == pytest.approx(card.completion_tokens)
    assert arm.text.decode_ms_per_token > 0.0
    assert arm.text.decode_j_per_token > 0.0
    session.welcome(wanted=(task.reference_digest, arm.evidence_digest))
    sent = {(await session.next("evidence")).digest for _ in range(2)}
    assert sent == {task.reference_digest, arm.evidence_digest}

    session.send(ask(1, "What is 3 weeks in days?"))
    streamed, done = await answer(session, 1)
    assert streamed == done.text != ""
    assert done.usage.completion_tokens >= 1
    assert done.usage.prompt_tokens > 5
    assert 0.0 <= done.margin_fraction <= 1.0
    assert 0.0 < done.first_token_ms <= done.compute_ms
    expected_j = done.usage.prompt_tokens * arm.text.prefill_j_per_token
    expected_j += (done.usage.completion_tokens - 1) * arm.text.decode_j_per_token
    assert done.energy.energy_j == pytest.approx(expected_j, rel=0.15)

    budget_j = (done.usage.prompt_tokens + 1.5) * arm.text.prefill_j_per_token + arm.text.overhead_j
    session.send(ask(2, "What is 3 weeks in days?", energy_limit_j=budget_j))
    streamed, stopped = await answer(session, 2)
    assert stopped.usage.completion_tokens == 1
    assert stopped.energy.energy_j <= budget_j
    if done.usage.completion_tokens > 1:
        assert stopped.finish_reason == common.FINISH_REASON_BUDGET

    session.send(cancel(99), ask(3, "Give 5 km in m."))
    _, last = await answer(session, 3)
    assert last.finish_reason == common.FINISH_REASON_STOP
