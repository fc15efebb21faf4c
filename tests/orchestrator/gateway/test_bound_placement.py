"""Prompts and inputs of a tenant never leave the nodes that the operator named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgewise.v1 import common_pb2 as common
from edgewise.v1 import gateway_pb2 as gateway
from orchestrator.config import Auth, GatewayConfig
from orchestrator.errors import RequestError
from orchestrator.gateway.placement import ANYWHERE, Placement, Placements
from orchestrator.ledger.spenders import Spender
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import answers, speaks
from tests.fakes.live import Live, live_gateway, until
from tests.fakes.node import FakeNode
from tests.fakes.turn import Turn
from tests.orchestrator.gateway.calls import chat, digit, refusal
from tests.orchestrator.gateway.test_accounts import key

GOOD = FakeArm("good", task="chat", quality_fraction=0.95, energy_j=0.1)
POOR = FakeArm("poor", task="chat", quality_fraction=0.6, energy_j=0.1)
ACME = Auth.model_validate({"placement": {"tenant:acme": {"allowed_nodes": ["ours"]}}})
PRIVATE = Auth.model_validate({"placement": {"tenant:acme": {"required_tags": ["private"]}}})


async def ask(live: Live, request: Any, metadata: Any = ()) -> Any:
    stub: Any = live.stub
    if isinstance(request, gateway.InferRequest):
        return await stub.Infer(request, timeout=5, metadata=metadata)
    return [event async for event in stub.Generate(request, timeout=5, metadata=metadata)][-1].done


async def test_texts_of_a_bound_tenant_run_on_its_nodes_alone(tmp_path: Path) -> None:
    async with (
        live_gateway(tmp_path, auth=ACME) as live,
        live.node(name="other", arms=[GOOD], behaviour=speaks("there")) as other,
        live.node(name="ours", arms=[POOR], behaviour=speaks("here")) as ours,
    ):
        await until(lambda: len(live.gateway.service.fleet.sessions) == 2)
        acme, rival = await key(live, "acme"), await key(live, "rival")
        for _ in range(3):
            done = await ask(live, chat(), acme)
            assert done.routing.attempts[0].arm == "poor:v1@ours"
        vote = common.Fusion(mode=common.FUSION_MODE_VOTE, max_experts=3)
        await refusal(ask(live, chat(fusion=vote), acme), "FIELD_OUT_OF_RANGE")
        await refusal(ask(live, chat(expert="good"), acme), "CAPABILITY_MISSING")
        await refusal(ask(live, chat(allowed_nodes=["other"]), acme), "CAPABILITY_MISSING")
        assert (len(other.seen.works), len(ours.seen.works)) == (0, 3)
        # The control: whoever is not bound gets the better one.
        assert (await ask(live, chat(), rival)).routing.attempts[0].arm == "good:v1@other"


def is_routed(live: Live, node: str, task: str = "chat") -> bool:
    standing = live.gateway.planner.standing(task)
    return standing is not None and any(bound.name.endswith(f"@{node}") for bound in standing.table.bound)


@pytest.mark.parametrize("how", ["back", "new"])
@pytest.mark.parametrize("bound", [True, False], ids=["bound", "control"])
async def test_a_failure_is_not_retried_on_a_node_that_came_meanwhile(tmp_path: Path, bound: bool, how: str) -> None:
    came: list[FakeNode] = []

    async def other_comes_then_fails(turn: Turn) -> None:
        other = live.node(name="other", arms=[FakeArm("poor", quality_fraction=0.5)], behaviour=answers(3))
        await other.join()
        came.append(other)
        await until(lambda: is_routed(live, "other", "digits"))
        turn.failed("ENGINE_ERROR")

    async with (
        live_gateway(tmp_path, auth=ACME if bound else Auth()) as live,
        live.node(name="ours", arms=[FakeArm("good")], behaviour=other_comes_then_fails),
    ):
        await until(lambda: live.gateway.planner.standing("digits"))
        acme = await key(live, "acme")
        if how == "back":
            async with live.node(name="other", arms=[FakeArm("poor", quality_fraction=0.5)], behaviour=answers(3)):
                await until(lambda: "other" in live.gateway.service.fleet.sessions)
            await until(lambda: "other" not in live.gateway.service.fleet.sessions)
        if bound:
            await refusal(ask(live, digit(), acme), "ATTEMPTS_FAILED")
            assert came[0].seen.works == []
        else:
            assert (await ask(live, digit(), acme)).label == "3"
        await came[0].leave()


@pytest.mark.parametrize("bound", [True, False])
async def test_a_text_whose_node_fails_while_another_joins_is_refused_in_order(tmp_path: Path, bound: bool) -> None:
    new: list[FakeNode] = []

    async def another_joins_then_fails(turn: Turn) -> None:
        new.append(live.node(name="new", arms=[POOR], behaviour=speaks("there")))
        await new[0].join()
        await until(lambda: is_routed(live, "new"))
        turn.failed("ENGINE_ERROR")

    async with (
        live_gateway(tmp_path, auth=ACME if bound else Auth()) as live,
        live.node(name="ours", arms=[GOOD], behaviour=another_joins_then_fails),
    ):
        await until(lambda: live.gateway.planner.standing("chat"))
        await refusal(ask(live, chat(), await key(live, "acme")), "ATTEMPTS_FAILED")
        assert new[0].seen.works == []
        await new[0].leave()


async def test_tensors_are_bound_as_well_and_users_of_bound_tenants_are_refused(tmp_path: Path) -> None:
    async with (
        live_gateway(tmp_path, auth=ACME) as live,
        live.node(name="other", arms=[FakeArm("good")], behaviour=answers(7)) as other,
    ):
        await until(lambda: live.gateway.planner.standing("digits"))
        acme = await key(live, "acme")
        await refusal(ask(live, digit(), acme), "CAPABILITY_MISSING")
        async with live.node(name="ours", arms=[FakeArm("poor", quality_fraction=0.5)], behaviour=answers(3)):
            await until(lambda: len(live.gateway.service.fleet.sessions) == 2)
            assert (await ask(live, digit(), acme)).label == "3"
            await refusal(ask(live, digit(user="mia"), acme), "CAPABILITY_MISSING")
            assert other.seen.works == []
            assert (await ask(live, digit())).label == "7"


async def test_tags_bind_too(tmp_path: Path) -> None:
    tagged = FakeArm("tagged", task="chat", quality_fraction=0.5, tags=("private",))
    async with (
        live_gateway(tmp_path, auth=PRIVATE) as live,
        live.node(arms=[GOOD, tagged], behaviour=speaks("x")),
    ):
        await until(lambda: live.gateway.planner.standing("chat"))
        done = await ask(live, chat(), await key(live, "acme"))
        assert done.routing.attempts[0].arm.startswith("tagged:")
        assert (await ask(live, chat())).routing.attempts[0].arm.startswith("good:")


def test_tenant_key_and_request_can_only_narrow_each_other() -> None:
    nodes = Placement(frozenset("ab"))
    placements = Placements({"tenant:t": nodes, "key:k": Placement(frozenset("bc"), frozenset({"x"}))})
    assert placements.of(Spender("t", "k")) == Placement(frozenset("b"), frozenset({"x"}))
    assert placements.of(Spender("t", "other")) == nodes
    assert placements.of(Spender("other", "")) == ANYWHERE
    with pytest.raises(RequestError):
        nodes.within(Placement(frozenset("c")))


@pytest.mark.parametrize("scope", ["acme", "tenant:", "key:xyz", "tenant:A B"])
def test_scopes_and_names_are_checked(scope: str) -> None:
    with pytest.raises(ValueError, match="placement"):
        GatewayConfig.model_validate({"auth": {"placement": {scope: {}}}})
