"""Real experts that share too little memory, from the command line to the node's child process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from edgewise.v1 import admin_pb2, common_pb2, gateway_pb2
from nodes.agent.agent import Agent
from nodes.config import parse_config
from nodes.errors import ConfigError
from nodes.inventory import load_inventory
from orchestrator.cli.main import run
from orchestrator.errors import ExitCode
from tests.fakes.live import Live, live_gateway, until

DATES, STRINGS = "skills-dates", "skills-strings"


@asynccontextmanager
async def house(folder: Path, **settings: Any) -> AsyncIterator[Live]:
    async with live_gateway(folder / "state") as live:
        base = {"gateway": live.address, "name": "box", "experts": (DATES, STRINGS), "profiling_s": 0.05}
        agent = Agent(parse_config({**base, "profile": "laptop-cpu", "energy": "modelled", **settings}))
        await agent.prepare()
        running = asyncio.ensure_future(agent.run())
        try:
            await until(lambda: live.gateway.planner.standing("skills"), timeout_s=20.0)
            yield live
        finally:
            agent.drain("the test ends")
            await running
            await agent.close()


def budget_bytes() -> int:
    """Room for the larger one, not for both."""
    return max(arm.memory_bytes for arm in load_inventory(None, (DATES, STRINGS)).arms) + 1000


def admin_of(live: Live) -> Any:
    return live.admin


def stub_of(live: Live) -> Any:
    return live.stub


async def ask(live: Live, expert: str) -> gateway_pb2.GenerateDone:
    request = gateway_pb2.GenerateRequest(
        task="skills",
        expert=expert,
        messages=[common_pb2.ChatMessage(role="user", content="What is the number of weeks that 49 days are?")],
        parameters=common_pb2.GenerationParameters(max_tokens=4),
    )
    replies = [reply async for reply in stub_of(live).Generate(request, timeout=20.0)]
    assert replies[-1].HasField("done")
    done: gateway_pb2.GenerateDone = replies[-1].done
    return done


async def states(live: Live) -> dict[str, str]:
    status = await admin_of(live).GetStatus(admin_pb2.GetStatusRequest(), timeout=5.0)
    return {one.arm.expert: one.arm.residency.state for node in status.nodes for one in node.arms}


async def edgewise(live: Live, *arguments: str) -> int:
    return await asyncio.to_thread(run, ("--gateway", live.address, *arguments))


async def test_experts_take_turns_and_the_operator_decides(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "200")
    async with house(tmp_path, memory_budget_bytes=budget_bytes()) as live:
        before = await states(live)
        assert sorted(before.values()) == ["loaded", "unloaded"]
        away = next(name for name, state in before.items() if state == "unloaded")
        other = next(name for name in before if name != away)
        board = live.gateway.service.fleet.board
        index = next(state.index for state in board.states if state.arm.expert == away)
        load_ms = float(board.load_ms_n[index])
        assert load_ms > 0.0
        assert float(board.wait_ms_n[index]) >= load_ms

        done = await ask(live, away)
        assert done.routing.attempts[0].predicted_ms >= load_ms
        assert done.energy.energy_j > float(board.energy_j_n[index])
        explanation = await stub_of(live).Explain(gateway_pb2.ExplainRequest(request_id=done.request_id), timeout=5.0)
        assert {round(one.load_ms) for one in explanation.candidates if one.route.startswith(away)} == {round(load_ms)}
        await until(lambda: board.wait_ms_n[index] == 0.0)
        assert await states(live) == {away: "loaded", other: "unloaded"}
        assert load_ms / 10 < board.states[index].arm.residency.load_ms < load_ms * 10  # type: ignore[union-attr]

        assert await edgewise(live, "models", "pin", away) == ExitCode.OK
        assert await edgewise(live, "models", "load", other) == ExitCode.FAILED
        assert "does not fit beside what is pinned" in capfd.readouterr().err
        assert await edgewise(live, "models", "unpin", away) == ExitCode.OK
        assert await edgewise(live, "models", "load", other, "--ttl", "1h") == ExitCode.OK
        assert await states(live) == {away: "unloaded", other: "loaded"}
        assert await edgewise(live, "models", "unload", other) == ExitCode.OK
        capfd.readouterr()
        assert await edgewise(live, "models", "list") == ExitCode.OK
        assert capfd.readouterr().out.count("unloaded, load takes") == 2
        assert await edgewise(live, "models", "load", "nobody") == ExitCode.NOT_FOUND


async def test_without_a_budget_nothing_is_loaded_or_unloaded(tmp_path: Path) -> None:
    """The control: all experts are always there, and orders for them are refused."""
    async with house(tmp_path) as live:
        assert set((await states(live)).values()) == {""}
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await admin_of(live).ManageModel(admin_pb2.ManageModelRequest(expert=DATES, verb="load"), timeout=5.0)
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_sizes_are_read_as_people_write_them() -> None:
    def size(text: str) -> int:
        return parse_config({"gateway": "127.0.0.1:1", "memory_budget_bytes": text}).memory_budget_bytes

    assert (size("2GiB"), size("500MB"), size("1.5KiB"), size("77")) == (2 << 30, 500_000_000, 1536, 77)
    with pytest.raises(ConfigError, match="2GiB"):
        size("much")


@pytest.mark.parametrize("other", [{"openai": "http://127.0.0.1:1/v1"}, {"personal": Path("users")}])
def test_what_has_no_turns_to_take_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="--memory-budget"):
        parse_config({"gateway": "127.0.0.1:1", "memory_budget_bytes": "1GiB", **other})
