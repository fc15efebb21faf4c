"""Both clients against a real server: answers, budgets, streams, deadlines, and errors that are ours."""

from __future__ import annotations

import inspect
import socket
from collections.abc import Callable

import grpc
import numpy as np
import pytest

import orchestrator.client as api
from orchestrator.client import AsyncClient, Budget, Client, FusionChoice, Message, OnInfeasible
from orchestrator.client.types import Generated, GenerationParameters, Provenance, TextDelta
from orchestrator.errors import (
    BudgetInfeasible,
    DeadlineExceeded,
    EdgewiseError,
    ExitCode,
    RequestError,
    Unavailable,
)
from tests.orchestrator.fake_gateway import MIN_ENERGY_J, MIN_LATENCY_MS, FakeGateway

DIGIT = np.zeros((8, 8))


def test_answer_holds_everything_that_the_gateway_said(fake: FakeGateway) -> None:
    with Client(fake.target) as client:
        answer = client.infer(DIGIT, request_id="mine")
    assert (answer.label, answer.request_id) == ("4", "mine")
    np.testing.assert_array_equal(answer.outputs["probabilities"], np.array([[0.0, 1.0]], dtype=np.float32))
    assert answer.energy.energy_j == pytest.approx(2.1e-6)
    assert answer.energy.provenance is Provenance.MODELLED
    assert answer.energy.method == "profile:jetson-agx-orin"
    assert [attempt.stage for attempt in answer.routing.attempts] == [0, 1]
    assert answer.routing.fusion is FusionChoice.MIXTURE
    assert answer.routing.certificate.status == "optimal"
    assert answer.timing.total_ms == pytest.approx(2.94)


def test_request_says_what_was_asked_and_no_more(fake: FakeGateway) -> None:
    budget = Budget(max_energy_j=5e-6, on_infeasible=OnInfeasible.CHEAPEST, profile="eco")
    with Client(fake.target) as client:
        client.infer(DIGIT, budget=budget, expert="digits-mlp", fusion=FusionChoice.VOTE, max_experts=2)
        client.infer(DIGIT)
    full, bare = fake.gateway.asked
    assert full.budget.max_energy_j == 5e-6
    assert not full.budget.HasField("max_latency_ms")
    assert (full.expert, full.fusion.max_experts, full.budget.profile) == ("digits-mlp", 2, "eco")
    assert not bare.HasField("budget")
    assert bare.request_id == bare.expert == ""


def test_bare_array_asks_for_the_task_once(fake: FakeGateway) -> None:
    with Client(fake.target) as client:
        for _ in range(3):
            client.infer(DIGIT)
        client.infer({"image": np.zeros((1, 8, 8), dtype=np.float32)})
    assert fake.gateway.listed == 1


def test_every_call_has_a_deadline(fake: FakeGateway) -> None:
    with Client(fake.target, timeout_s=7.0) as client:
        client.infer(DIGIT)
        client.infer(DIGIT, timeout_s=3.0)
        client.explain("r-1")
    assert fake.gateway.deadlines_s == pytest.approx([7.0, 3.0, 7.0], abs=0.5)


def test_infeasible_budget_tells_the_smallest_that_would_do(fake: FakeGateway) -> None:
    with Client(fake.target) as client:
        with pytest.raises(BudgetInfeasible) as caught:
            client.infer(DIGIT, budget=Budget(max_energy_j=1e-9))
        enough = Budget(max_energy_j=caught.value.min_energy_j)
        assert client.infer(DIGIT, budget=enough).routing.budget_met
    assert (caught.value.min_energy_j, caught.value.min_latency_ms) == (MIN_ENERGY_J, MIN_LATENCY_MS)


@pytest.mark.parametrize(
    ("expert", "kind", "reason", "exit_code"),
    [
        ("busy", Unavailable, "OVERLOADED", ExitCode.UNREACHABLE),
        ("breaks", Unavailable, "ATTEMPTS_FAILED", ExitCode.ENGINE_FAILED),
        ("loads", Unavailable, "EXPERT_LOADING", ExitCode.UNREACHABLE),
        ("crashes", EdgewiseError, "INTERNAL", ExitCode.FAILED),
    ],
)
def test_failures_are_our_own_errors(
    fake: FakeGateway, expert: str, kind: type[EdgewiseError], reason: str, exit_code: ExitCode
) -> None:
    with Client(fake.target) as client, pytest.raises(kind) as caught:
        client.infer(DIGIT, expert=expert)
    assert (caught.value.reason, caught.value.surface.exit_code) == (reason, exit_code)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert (caught.value.retry_after_s == 0.25) == (expert == "busy")


def test_deadline_and_wrong_input(fake: FakeGateway) -> None:
    with Client(fake.target) as client:
        with pytest.raises(DeadlineExceeded, match="50 ms"):
            client.infer({"image": np.zeros((1, 8, 8), dtype=np.float32)}, expert="hangs", timeout_s=0.05)
        with pytest.raises(RequestError) as shape:
            client.infer(np.zeros((9, 8)))
        with pytest.raises(RequestError) as dtype:
            client.infer({"image": np.array(["4"])})
        with pytest.raises(RequestError) as task:
            client.infer(DIGIT, task="sonnets")
    reasons = [caught.value.reason for caught in (shape, dtype, task)]
    assert reasons == ["SHAPE_MISMATCH", "DTYPE_MISMATCH", "TASK_NOT_FOUND"]


def test_nobody_answers() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{held.getsockname()[1]}"
        with Client(target, timeout_s=5.0) as client, pytest.raises(Unavailable, match=target) as caught:
            client.status()
    assert caught.value.reason == "UNREACHABLE"
    assert caught.value.surface.exit_code is ExitCode.UNREACHABLE


def test_message_above_the_limit_is_a_wrong_request(fake: FakeGateway) -> None:
    with Client(fake.target) as client, pytest.raises(RequestError, match="larger"):
        client.infer({"image": np.zeros((9 << 20,), dtype=np.uint8)})


def test_stream_yields_pieces_and_ends_with_the_whole(fake: FakeGateway) -> None:
    with Client(fake.target) as client:
        *pieces, last = client.generate([Message("user", "say abc")])
    assert pieces == [TextDelta("a ", (0,)), TextDelta("b ", (1,)), TextDelta("c", (2,))]
    assert isinstance(last, Generated)
    assert (last.text, last.finish_reason, last.completion_tokens) == ("a b c", "budget", 3)
    assert last.energy.energy_j == pytest.approx(2.1e-6)


def test_stream_that_breaks_keeps_what_came_and_raises(fake: FakeGateway) -> None:
    with Client(fake.target) as client, pytest.raises(Unavailable) as caught:
        list(client.generate([Message("user", "x")], parameters=GenerationParameters(max_tokens=0)))
    assert caught.value.reason == "NO_NODE"
    with Client(fake.target) as client:
        stream = client.generate([Message("user", "x")], parameters=GenerationParameters(max_tokens=2))
        seen = [next(stream), next(stream)]
        with pytest.raises(Unavailable):
            next(stream)
    assert seen == [TextDelta("a ", (0,)), TextDelta("b ", (1,))]


def test_closing_the_stream_early_cancels_the_work(fake: FakeGateway) -> None:
    with Client(fake.target) as client:
        stream = client.generate([Message("user", "x")], expert="hangs")
        assert next(stream) == TextDelta("a ", (0,))
        stream.close()
        assert fake.gateway.ended.wait(timeout=2.0), "the gateway never heard of it"


def test_explanation_status_and_budgets(fake: FakeGateway) -> None:
    with Client(fake.target) as client:
        explanation = client.explain("r-1")
        fleet = client.status()
        changed = client.set_budget(Budget(max_energy_j=5e-3), task="digits")
        listed = {entry.task: entry.budget.max_energy_j for entry in client.budgets()}
        back = client.set_budget(None, task="digits")
        state = client.drain_node("orin-1")
        with pytest.raises(RequestError, match="no node of this name"):
            client.drain_node("nobody")
    assert explanation.candidates[3].excluded_by == "energy"
    assert [node.node for node in fleet.nodes] == ["orin-1", "pc-4090"]
    assert fleet.nodes[0].simulated
    assert fleet.nodes[0].arms[0].name == "digits-mlp:onnx-fp32@orin-1"
    assert fleet.tasks[0].input.shape == (-1, 8, 8)
    assert (changed.origin, back.origin, listed["digits"]) == ("set", "config", 5e-3)
    assert state == "draining"


async def test_async_client_does_the_same(fake: FakeGateway) -> None:
    async with AsyncClient(fake.target) as client:
        answer = await client.infer(DIGIT, budget=Budget(max_energy_j=5e-6))
        events = [event async for event in client.generate([Message("user", "say abc")])]
        fleet = await client.status()
        explanation = await client.explain("r-1")
        changed = await client.set_budget(Budget(max_energy_j=1.0))
        budgets = await client.budgets()
        state = await client.drain_node("orin-1")
    assert (answer.label, len(fleet.nodes), explanation.chosen[:10]) == ("4", 2, "digits-mlp")
    assert isinstance(events[-1], Generated)
    assert events[-1].text == "a b c"
    assert (changed.origin, budgets[0].budget.max_energy_j, state) == ("set", 1.0, "draining")


async def test_async_failures_are_our_own_errors(fake: FakeGateway) -> None:
    async with AsyncClient(fake.target) as client:
        with pytest.raises(BudgetInfeasible):
            await client.infer(DIGIT, budget=Budget(max_energy_j=1e-9))
        with pytest.raises(Unavailable):
            async for _ in client.generate([Message("user", "x")], parameters=GenerationParameters(max_tokens=1)):
                pass
        with pytest.raises(RequestError):
            await client.explain("nope")


@pytest.mark.parametrize(
    "name",
    [
        "infer",
        "generate",
        "explain",
        "feedback",
        "status",
        "budgets",
        "set_budget",
        "drain_node",
        "sleep_node",
        "wake_node",
    ],
)
def test_both_clients_take_the_same_arguments(name: str) -> None:
    def parameters(method: Callable[..., object]) -> list[inspect.Parameter]:
        return list(inspect.signature(method).parameters.values())

    assert parameters(getattr(Client, name)) == parameters(getattr(AsyncClient, name))


def test_exported_names_are_exactly_those_promised() -> None:
    assert all(hasattr(api, name) for name in api.__all__)
    assert {"Client", "AsyncClient", "Budget", "Answer", "OnInfeasible"} <= set(api.__all__)
    assert not issubclass(EdgewiseError, grpc.RpcError)
