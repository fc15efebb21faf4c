"""Budgets over time, request ids and tenants, through a real gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from edgewise.v1 import accounts_pb2, accounts_pb2_grpc, common_pb2, gateway_pb2
from orchestrator.config import Auth, Ledger, Promise
from orchestrator.store.errors import StoreInUse
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import answers, speaks
from tests.fakes.live import Live, live_gateway
from tests.orchestrator.gateway.calls import chat, digit, generate, infer, refusal

ARMS = (
    FakeArm("small", energy_j=0.01, p50_ms=1.0, p95_ms=2.0),
    FakeArm("large", energy_j=0.1, p50_ms=5.0, p95_ms=8.0, quality_fraction=0.97),
    FakeArm("speaker", task="chat", energy_j=0.5),
)


@pytest.fixture(params=["memory", "sqlite"])
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Live]:
    """A gateway with one node, over each store that needs no server."""
    async with (
        live_gateway(tmp_path, ledger=Ledger(store=request.param), promise=Promise(margins=False)) as live,
        live.node(arms=ARMS, behaviour=answers(7), by_expert={"speaker": speaks("hi")}),
    ):
        await infer(live, digit())
        yield live


def books(live: Live) -> Any:
    return accounts_pb2_grpc.AccountsStub(live.channel)


async def limit(live: Live, scope: str, **quota: float) -> None:
    message = accounts_pb2.Quota(**quota)  # type: ignore[arg-type]
    await books(live).SetQuota(accounts_pb2.SetQuotaRequest(scope=scope, quota=message), timeout=5)


async def meters(live: Live, scope: str) -> dict[str, Any]:
    reply = await books(live).GetQuotas(accounts_pb2.GetQuotasRequest(), timeout=5)
    return {meter.unit: meter for entry in reply.quotas if entry.scope == scope for meter in entry.meters}


async def key(live: Live, tenant: str, **fields: Any) -> tuple[tuple[str, str], ...]:
    request = accounts_pb2.CreateKeyRequest(tenant=tenant, **fields)
    made = await books(live).CreateKey(request, timeout=5)
    return (("authorization", f"Bearer {made.secret}"),)


async def trailers(live: Live, request: gateway_pb2.InferRequest, **options: Any) -> dict[str, str]:
    stub: Any = live.stub
    call = stub.Infer(request, timeout=5, **options)
    await call
    return {name: value for name, value in await call.trailing_metadata() if isinstance(value, str)}


async def test_a_budget_is_charged_and_then_shut(shop: Live) -> None:
    await limit(shop, "fleet", day_j=0.35)
    for _ in range(3):
        assert (await infer(shop, digit(expert="large"))).energy.energy_j == pytest.approx(0.1)
    found = await refusal(infer(shop, digit(expert="large")), "BUDGET_EXHAUSTED")
    assert found.metadata["scope"] == "fleet"
    assert float(found.metadata["left"]) == pytest.approx(0.05, abs=1e-6)
    assert found.retry_s is not None
    meter = (await meters(shop, "fleet"))["day_j"]
    assert meter.spent == pytest.approx(0.3)
    assert meter.spent + meter.held <= meter.limit


async def test_with_little_left_the_cheaper_expert_answers(shop: Live) -> None:
    await limit(shop, "fleet", day_j=0.15)
    used = [(await infer(shop, digit())).routing.attempts[0].arm for _ in "ab"]
    assert [arm.partition(":")[0] for arm in used] == ["large", "small"]


async def test_the_reply_says_what_is_left_and_why_what_was_charged(shop: Live) -> None:
    await limit(shop, "task:digits", day_j=10.0)
    told = await trailers(shop, digit(expert="large"))
    assert float(told["x-energy-joules"]) == pytest.approx(0.1)
    assert told["x-energy-method"].startswith("modelled:")
    assert 9.0 < float(told["x-edgewise-budget-left-joules"]) <= 9.9
    why: Any = await shop.stub.Explain(  # type: ignore[misc]
        gateway_pb2.ExplainRequest(request_id=told["x-edgewise-request-id"]), timeout=5
    )
    assert list(why.account.budgets) == ["task:digits/day_j"]
    assert why.account.charged_j == pytest.approx(0.1)
    assert why.account.reserved_j >= why.account.charged_j


async def test_without_a_budget_nothing_is_said_to_be_left(shop: Live) -> None:
    told = await trailers(shop, digit())
    assert "x-edgewise-budget-left-joules" not in told
    assert told["x-edgewise-request-id"]


async def test_many_at_once_never_exceed_a_budget(shop: Live) -> None:
    await limit(shop, "fleet", day_j=1.05)
    results = await asyncio.gather(*(infer(shop, digit(expert="large")) for _ in range(40)), return_exceptions=True)
    answered = [result for result in results if isinstance(result, gateway_pb2.InferResponse)]
    assert len(answered) == 10
    assert (await meters(shop, "fleet"))["day_j"].spent == pytest.approx(1.0)


async def test_a_quota_per_request_holds_for_the_best_effort_too(shop: Live) -> None:
    await limit(shop, "fleet", request_j=0.05)
    effort = common_pb2.Budget(on_infeasible=common_pb2.ON_INFEASIBLE_BEST_EFFORT)
    await refusal(infer(shop, digit(expert="large", budget=effort)), "BUDGET_INFEASIBLE")
    assert (await infer(shop, digit())).routing.attempts[0].arm.startswith("small")


async def test_tokens_are_reserved_at_their_most_and_charged_as_they_came(shop: Live) -> None:
    await limit(shop, "fleet", day_tokens=500)
    parameters = common_pb2.GenerationParameters(max_tokens=300)
    await generate(shop, chat(parameters=parameters))
    meter = (await meters(shop, "fleet"))["day_tokens"]
    assert 0 < meter.spent < 300
    big = common_pb2.GenerationParameters(max_tokens=2000)
    await refusal(generate(shop, chat(parameters=big)), "BUDGET_EXHAUSTED")


@pytest.mark.parametrize("scope", ["", "fleets", "tenant:", "tenant:A B", "day:x", "key:../x"])
async def test_scopes_are_checked(shop: Live, scope: str) -> None:
    await refusal(limit(shop, scope, day_j=1.0), "NAME_INVALID")


@pytest.mark.parametrize("amount", [float("nan"), float("inf"), -1.0, 1e300])
async def test_amounts_are_checked(shop: Live, amount: float) -> None:
    await refusal(limit(shop, "fleet", day_j=amount), "FIELD_OUT_OF_RANGE")


# ---- request ids


async def test_a_repeated_id_is_answered_the_same_and_charged_once(shop: Live) -> None:
    await limit(shop, "fleet", day_j=10.0)
    first = await infer(shop, digit(request_id="mine", expert="large"))
    again = await infer(shop, digit(request_id="mine", expert="large"))
    assert again == first
    assert (await meters(shop, "fleet"))["day_j"].spent == pytest.approx(0.1)
    await refusal(infer(shop, digit(request_id="mine", expert="small")), "REQUEST_ID_REUSED")


async def test_a_repeated_generation_is_told_again(shop: Live) -> None:
    first = await generate(shop, chat(request_id="mine"))
    again = await generate(shop, chat(request_id="mine"))
    assert [event.delta.text for event in again] == [event.delta.text for event in first]
    assert again[-1].done == first[-1].done


async def test_an_id_of_another_tenant_is_another_id(shop: Live) -> None:
    anne, bert = await key(shop, "anne"), await key(shop, "bert")
    await infer(shop, digit(request_id="mine", expert="large"), metadata=anne)
    reply = await infer(shop, digit(request_id="mine", expert="small"), metadata=bert)
    assert reply.routing.attempts[0].arm.startswith("small")


async def test_a_refused_request_may_use_its_id_again(shop: Live) -> None:
    await limit(shop, "fleet", day_j=0.05)
    await refusal(infer(shop, digit(request_id="mine", expert="large")), "BUDGET_EXHAUSTED")
    await limit(shop, "fleet", day_j=5.0)
    await infer(shop, digit(request_id="mine", expert="large"))


# ---- tenants


async def test_a_tenant_spends_its_own(shop: Live) -> None:
    anne, bert = await key(shop, "anne"), await key(shop, "bert")
    await limit(shop, "tenant:anne", day_j=0.15)
    await infer(shop, digit(expert="large"), metadata=anne)
    await refusal(infer(shop, digit(expert="large"), metadata=anne), "BUDGET_EXHAUSTED")
    await infer(shop, digit(expert="large"), metadata=bert)


async def test_a_key_can_come_with_a_budget(shop: Live) -> None:
    anne = await key(shop, "anne", quota=accounts_pb2.Quota(day_j=0.15))
    await infer(shop, digit(expert="large"), metadata=anne)
    await refusal(infer(shop, digit(expert="large"), metadata=anne), "BUDGET_EXHAUSTED")


async def test_the_requests_of_others_are_not_there(shop: Live) -> None:
    anne, bert = await key(shop, "anne"), await key(shop, "bert")
    await infer(shop, digit(request_id="mine"), metadata=anne)
    ask = gateway_pb2.ExplainRequest(request_id="mine")
    stub: Any = shop.stub
    assert (await stub.Explain(ask, timeout=5, metadata=anne)).account.tenant == "anne"
    absent = gateway_pb2.ExplainRequest(request_id="no-such")
    other = await refusal(stub.Explain(ask, timeout=5, metadata=bert), "REQUEST_NOT_FOUND")
    never = await refusal(stub.Explain(absent, timeout=5, metadata=bert), "REQUEST_NOT_FOUND")
    assert other.message == never.message
    score = gateway_pb2.FeedbackRequest(request_id="mine", score=1.0)
    await refusal(stub.Feedback(score, timeout=5, metadata=bert), "REQUEST_NOT_FOUND")
    assert (await stub.Explain(ask, timeout=5)).request_id == "mine"


async def test_a_revoked_key_is_refused_at_once(shop: Live) -> None:
    anne = await key(shop, "anne")
    listed = (await books(shop).ListKeys(accounts_pb2.ListKeysRequest(), timeout=5)).keys
    assert [entry.tenant for entry in listed] == ["anne"]
    await infer(shop, digit(), metadata=anne)
    await books(shop).RevokeKey(accounts_pb2.RevokeKeyRequest(key_id=listed[0].key_id), timeout=5)
    await refusal(infer(shop, digit(), metadata=anne), "CREDENTIAL_INVALID")
    await refusal(books(shop).RevokeKey(accounts_pb2.RevokeKeyRequest(key_id="zz"), timeout=5), "KEY_NOT_FOUND")


# ---- history


async def test_every_request_is_settled_once_and_can_be_summed_and_listed(shop: Live) -> None:
    for expert in ("large", "large", "small"):
        await infer(shop, digit(expert=expert))
    summed = await books(shop).GetEnergy(accounts_pb2.GetEnergyRequest(last_s=3600.0, by="arms"), timeout=5)
    shares = {share.name.partition(":")[0]: share for share in summed.shares}
    assert shares["large"].energy_j == pytest.approx(0.1 * shares["large"].requests)
    assert sum(share.requests for share in shares.values()) == 4
    call = books(shop).ExportSettlements(accounts_pb2.ExportSettlementsRequest(last_s=3600.0), timeout=5)
    rows = [row async for row in call]
    assert len({row.request_id for row in rows}) == len(rows) == 4
    assert {row.outcome for row in rows} == {"answered"}
    await refusal(
        books(shop).GetEnergy(accounts_pb2.GetEnergyRequest(last_s=1.0, by="x"), timeout=5), "FIELD_OUT_OF_RANGE"
    )


# ---- restarts


async def test_books_survive_a_restart(tmp_path: Path) -> None:
    for turn in (1, 2):
        async with (
            live_gateway(tmp_path, ledger=Ledger()) as live,
            live.node(arms=ARMS, behaviour=answers(7)),
        ):
            await limit(live, "fleet", day_j=10.0)
            await infer(live, digit(expert="large", request_id=f"r{turn}"))
            replayed = await trailers(live, digit(expert="large", request_id="r1"))
            assert replayed.get("x-edgewise-replayed", "") == "true"
            meter = (await meters(live, "fleet"))["day_j"]
            assert meter.spent == pytest.approx(0.1 * turn)
            assert meter.assumed == 0.0


async def test_two_gateways_do_not_share_a_folder(tmp_path: Path) -> None:
    async with live_gateway(tmp_path, ledger=Ledger()):
        with pytest.raises(StoreInUse):
            async with live_gateway(tmp_path, ledger=Ledger()):
                raise AssertionError


async def test_the_first_key_of_a_locked_gateway_is_in_a_file(tmp_path: Path) -> None:
    async with live_gateway(tmp_path, ledger=Ledger(), auth=Auth(keys="required")) as live:
        file = tmp_path / "admin.key"
        assert file.stat().st_mode & 0o777 == 0o600
        shown = (("authorization", f"Bearer {file.read_text().strip()}"),)
        await books(live).ListKeys(accounts_pb2.ListKeysRequest(), timeout=5, metadata=shown)
        with pytest.raises(grpc.aio.AioRpcError):
            await books(live).ListKeys(accounts_pb2.ListKeysRequest(), timeout=5)
    before = file.read_text()
    async with live_gateway(tmp_path, ledger=Ledger(), auth=Auth(keys="required")):
        assert file.read_text() == before
