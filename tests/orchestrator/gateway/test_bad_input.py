"""The bad-input matrix on a live gateway: exact code and reason, nothing leaks, the next good call succeeds."""

import math
from typing import Any

import grpc
import pytest

from edgewise.v1 import common_pb2 as common
from edgewise.v1 import gateway_pb2 as gateway
from orchestrator.gateway.requests import MAX_STOP, MAX_TOKENS
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import answers
from tests.fakes.live import Live
from tests.orchestrator.gateway.calls import chat, digit, generate, infer, library_refusal, raw, refusal, tensor

SECRET = "secret-input-x7"


# ---- budgets


@pytest.mark.parametrize("field", ["max_energy_j", "max_latency_ms"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.nan, "BUDGET_NOT_FINITE"),
        (math.inf, "BUDGET_NOT_FINITE"),
        (-math.inf, "BUDGET_NOT_FINITE"),
        (-1.0, "BUDGET_OUT_OF_RANGE"),
        (-0.0, "BUDGET_OUT_OF_RANGE"),
        (1e308, "BUDGET_OUT_OF_RANGE"),
    ],
)
async def test_a_budget_that_is_none(house: Live, field: str, value: float, reason: str) -> None:
    request = digit()
    setattr(request.budget, field, value)
    found = await refusal(infer(house, request), reason)
    assert found.field == f"budget.{field}"


TIGHT = (
    common.Budget(max_energy_j=0.0),
    common.Budget(max_energy_j=1e-9),
    common.Budget(max_latency_ms=0.0),
    common.Budget(max_latency_ms=1.0),
    common.Budget(max_energy_j=1e-9, max_latency_ms=1.0),
)


@pytest.mark.parametrize(
    ("budget", "expert"),
    [
        *((budget, "") for budget in TIGHT),
        *((budget, "large") for budget in TIGHT),
        # The small expert would fit this one.
        (common.Budget(max_energy_j=0.12, max_latency_ms=16.0), "large"),
    ],
)
async def test_an_infeasible_budget_says_one_that_really_does(house: Live, budget: common.Budget, expert: str) -> None:
    found = await refusal(infer(house, digit(budget=budget, expert=expert)), "BUDGET_INFEASIBLE")
    told = common.Budget(
        max_energy_j=float(found.metadata["minEnergyJ"]), max_latency_ms=float(found.metadata["minLatencyMs"])
    )
    reply = await _in_time(house, digit(budget=told, expert=expert))
    assert reply.routing.budget_met
    assert reply.energy.energy_j <= told.max_energy_j


async def _in_time(house: Live, request: gateway.InferRequest) -> gateway.InferResponse:
    """The answer to a request that is feasible. Its few milliseconds are real: a busy machine may need some tries."""
    for _ in range(20):
        try:
            return await infer(house, request)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
    pytest.fail("a budget that was said to do was refused or late twenty times")


@pytest.mark.parametrize("policy", [common.ON_INFEASIBLE_CHEAPEST, common.ON_INFEASIBLE_BEST_EFFORT])
async def test_an_infeasible_budget_may_be_overrun_on_request_and_says_so(
    house: Live, policy: common.OnInfeasible.ValueType
) -> None:
    reply = await infer(house, digit(budget=common.Budget(max_energy_j=1e-6, on_infeasible=policy)))
    assert reply.label == "7"
    assert not reply.routing.budget_met
    assert [attempt.arm for attempt in reply.routing.attempts] == ["small:v1@fake-1"]


@pytest.mark.parametrize(
    "budget", [common.Budget(profile=SECRET), common.Budget.FromString(b"\x18\x63")], ids=["profile", "policy"]
)
async def test_an_unknown_choice_in_a_budget(house: Live, budget: common.Budget) -> None:
    await refusal(infer(house, digit(budget=budget)), "FIELD_OUT_OF_RANGE", secrets=[SECRET])


async def test_a_fusion_that_no_route_offers_is_not_worth_a_retry(house: Live) -> None:
    """Without evidence there are only single experts."""
    found = await refusal(infer(house, digit(fusion=common.Fusion(mode=common.FUSION_MODE_VOTE))), "FIELD_OUT_OF_RANGE")
    assert found.retry_s is None


# ---- names


@pytest.mark.parametrize("task", ["letters", "chat", SECRET])
async def test_an_unknown_task(house: Live, task: str) -> None:
    found = await refusal(infer(house, digit(task=task)), "TASK_NOT_FOUND", secrets=[SECRET])
    assert found.metadata["known"] == "digits"


async def test_an_unknown_expert(house: Live) -> None:
    await refusal(infer(house, digit(expert=SECRET)), "EXPERT_NOT_FOUND", secrets=[SECRET])
    # An expert of another task is unknown as well.
    await refusal(infer(house, digit(expert="speaker")), "EXPERT_NOT_FOUND")


async def test_a_known_expert_whose_node_is_gone(house: Live) -> None:
    async with house.node(name="fake-2", arms=[FakeArm("rare")], behaviour=answers(3)):
        assert (await infer(house, digit(expert="rare"))).label == "3"
    found = await refusal(infer(house, digit(expert="rare")), "NO_NODE")
    assert found.retry_s is not None
    assert found.retry_s > 0


@pytest.mark.parametrize("name", ["../x", "x;rm -rf", "a b", "A", "ä", "x" * 65, "%00", "\x00", "\u202etxt"])
@pytest.mark.parametrize("field", ["task", "expert"])
async def test_a_name_that_is_none(house: Live, field: str, name: str) -> None:
    found = await refusal(infer(house, digit(**{field: name})), "NAME_INVALID", secrets=[name] if len(name) > 3 else ())
    assert found.field == field


@pytest.mark.parametrize("request_id", ["a b", "x" * 65, "../x", "a\nb", "né", "٣", "<id>"])
async def test_a_request_id_that_is_none(house: Live, request_id: str) -> None:
    found = await refusal(infer(house, digit(request_id=request_id)), "NAME_INVALID")
    assert found.field == "request_id"
    found = await refusal(generate(house, chat(request_id=request_id)), "NAME_INVALID")


# ---- tensors


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ([], "FIELD_REQUIRED"),
        ([tensor(name="pixels")], "SHAPE_MISMATCH"),
        ([tensor(name="")], "SHAPE_MISMATCH"),
        ([tensor(), tensor()], "SHAPE_MISMATCH"),
        ([tensor(dtype=0)], "DTYPE_MISMATCH"),
        ([tensor(dtype=77)], "DTYPE_MISMATCH"),
        ([tensor(dtype=common.DTYPE_FLOAT64, data=bytes(512))], "DTYPE_MISMATCH"),
        ([tensor(shape=[8, 9], data=bytes(288))], "SHAPE_MISMATCH"),
        ([tensor(shape=[64])], "SHAPE_MISMATCH"),
        ([tensor(shape=[2, 8, 8], data=bytes(512))], "SHAPE_MISMATCH"),
        ([tensor(shape=[1, 1, 8, 8])], "SHAPE_MISMATCH"),
        ([tensor(shape=[])], "SHAPE_MISMATCH"),
        ([tensor(shape=[0, 8, 8], data=b"")], "SHAPE_MISMATCH"),
        ([tensor(shape=[1, 0, 8], data=b"")], "SHAPE_MISMATCH"),
        ([tensor(data=bytes(255))], "SHAPE_MISMATCH"),
        ([tensor(data=b"")], "SHAPE_MISMATCH"),
        ([tensor(shape=[2**62])], "SHAPE_MISMATCH"),
        ([tensor(shape=[2**62, 2**62, 4])], "SHAPE_MISMATCH"),
        ([tensor(shape=[2**32, 2**32], data=b"")], "SHAPE_MISMATCH"),
        ([tensor(shape=[-1, 8, 8])], "SHAPE_MISMATCH"),
        ([tensor(shape=[1] * 9)], "SHAPE_MISMATCH"),
        ([tensor(shape=[1] * 5000)], "SHAPE_MISMATCH"),
        ([tensor(data=b"\x00\x00\xc0\x7f" * 64)], "INPUT_NOT_FINITE"),
        ([tensor(data=bytes(252) + b"\x00\x00\xc0\x7f")], "INPUT_NOT_FINITE"),
        ([tensor(data=b"\x00\x00\x80\x7f" + bytes(252))], "INPUT_NOT_FINITE"),
        ([tensor(data=b"\x00\x00\x80\x7f\x00\x00\x80\xff" + bytes(248))], "INPUT_NOT_FINITE"),
    ],
)
async def test_a_tensor_that_does_not_fit(house: Live, inputs: list[common.Tensor], reason: str) -> None:
    found = await refusal(infer(house, digit(inputs=inputs)), reason)
    assert found.field.startswith("inputs")


async def test_finite_inputs_whose_sum_is_not_are_taken(house: Live) -> None:
    largest = b"\xff\xff\x7f\x7f"
    assert (await infer(house, digit(inputs=[tensor(data=largest * 64)]))).label == "7"


async def test_a_query_without_its_batch_dimension_is_taken(house: Live) -> None:
    assert (await infer(house, digit(inputs=[tensor(shape=[8, 8])]))).label == "7"


# ---- deadlines and numbers


@pytest.mark.parametrize("timeout_s", [None, 1e9, 3601.0])
async def test_a_call_needs_a_deadline_within_reason(house: Live, timeout_s: float | None) -> None:
    found = await refusal(infer(house, digit(), timeout=timeout_s), "DEADLINE_REQUIRED")
    assert found.metadata["maxDeadlineS"] == "3600"
    await refusal(generate(house, chat(), timeout=timeout_s), "DEADLINE_REQUIRED")


async def test_a_deadline_in_the_past(house: Live) -> None:
    await library_refusal(infer(house, digit(), timeout=-1.0), grpc.StatusCode.DEADLINE_EXCEEDED)


@pytest.mark.parametrize("timeout_s", [0.0, 0.001, 0.003])
async def test_a_deadline_that_no_expert_can_keep(house: Live, timeout_s: float) -> None:
    """Either the time is over at once, or the gateway says how much would do."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await infer(house, digit(), timeout=timeout_s)
    assert caught.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.FAILED_PRECONDITION)


@pytest.mark.parametrize(
    "parameters",
    [
        common.GenerationParameters(max_tokens=MAX_TOKENS + 1),
        common.GenerationParameters(max_tokens=2**32 - 1),
        common.GenerationParameters(temperature=-0.1),
        common.GenerationParameters(temperature=math.nan),
        common.GenerationParameters(temperature=math.inf),
        common.GenerationParameters(top_p=1.5),
        common.GenerationParameters(top_p=math.nan),
        common.GenerationParameters(stop=["x"] * (MAX_STOP + 1)),
        common.GenerationParameters(stop=["x"] * 10_000),
    ],
)
async def test_generation_parameters_out_of_range(house: Live, parameters: common.GenerationParameters) -> None:
    found = await refusal(generate(house, chat(parameters=parameters)), "FIELD_OUT_OF_RANGE")
    assert found.field.startswith("parameters.")


async def test_text_requests_that_ask_nothing(house: Live) -> None:
    found = await refusal(generate(house, chat(messages=[])), "FIELD_REQUIRED")
    assert found.field == "messages"
    crowd = [common.ChatMessage(role="user", content="x")] * 5000
    await refusal(generate(house, chat(messages=crowd)), "FIELD_OUT_OF_RANGE")
    await refusal(generate(house, chat(task="digits")), "TASK_NOT_FOUND")


async def test_an_unknown_fusion(house: Live) -> None:
    fusion = common.Fusion.FromString(b"\x08\x09")
    assert (await refusal(infer(house, digit(fusion=fusion)), "FIELD_OUT_OF_RANGE")).field == "fusion.mode"


# ---- other calls


async def test_explain_and_admin_refuse_in_the_same_way(house: Live) -> None:
    empty = house.stub.Explain(gateway.ExplainRequest(), timeout=5)
    assert (await refusal(empty, "FIELD_REQUIRED")).field == "request_id"
    unknown = house.stub.Explain(gateway.ExplainRequest(request_id=SECRET), timeout=5)
    await refusal(unknown, "REQUEST_NOT_FOUND", secrets=[SECRET])


async def test_a_refused_request_can_be_explained_by_the_id_in_its_error(house: Live) -> None:
    found = await refusal(infer(house, digit(budget=common.Budget(max_energy_j=0.0))), "BUDGET_INFEASIBLE")
    request = gateway.ExplainRequest(request_id=found.metadata["requestId"])
    stub: Any = house.stub
    told: gateway.ExplainResponse = await stub.Explain(request, timeout=5)
    assert told.outcome == "BUDGET_INFEASIBLE"
    assert {candidate.excluded_by for candidate in told.candidates} == {"energy"}


async def test_an_unknown_method(house: Live) -> None:
    await library_refusal(raw(house, b"", method="/edgewise.v1.Gateway/Nope"), grpc.StatusCode.UNIMPLEMENTED)
