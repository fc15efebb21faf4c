"""The bad-input matrix on a live gateway: exact code and reason, nothing leaks, the next good call succeeds."""

import math
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from edgewise.v1 import common_pb2 as common
from edgewise.v1 import gateway_pb2 as gateway
from orchestrator.gateway.requests import MAX_STOP, MAX_TOKENS
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import answers, speaks
from tests.fakes.live import Live, live_gateway
from tests.orchestrator.gateway.calls import chat, digit, generate, infer, library_refusal, raw, refusal, tensor

ARMS = (
    FakeArm("small", energy_j=0.01, p50_ms=1.0, p95_ms=2.0),
    FakeArm("large", energy_j=0.1, p50_ms=5.0, p95_ms=8.0, quality_fraction=0.97),
    FakeArm("speaker", task="chat", energy_j=0.5),
)
MEBIBYTE = 1 << 20
MAX_GROWTH_BYTES = 50 * MEBIBYTE
SECRET = "secret-input-x7"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Live]:
    """A gateway with one node; whatever a test does to it, it lives on and answers the next good call."""
    async with (
        live_gateway(tmp_path) as live,
        live.node(arms=ARMS, behaviour=answers(7), by_expert={"speaker": speaks("hi")}),
    ):
        await infer(live, digit())
        yield live
        assert (await infer(live, digit())).label == "7"
        assert (await generate(live, chat()))[-1].HasField("done")


# ---- D1 to D4: what does not decode


def truncated() -> bytes:
    return digit(request_id=SECRET).SerializeToString()[:-3]


def random_bytes() -> bytes:
    return b"\xff" + random.Random(4).randbytes(200)


def nested(depth: int = 200) -> bytes:
    """Unknown groups, one in the other."""
    return b"\x7b" * depth + b"\x7c" * depth


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        random_bytes(),
        truncated(),
        b"\x12\x06\xff\xfe\xfd\xc0\xaf\x80",
        b"\x12\x03\xed\xa0\x80",
        nested(),
        b"\x0a\xff\xff\xff\xff\x07abc",
    ],
    ids=["tag 0", "long varint", "random", "truncated", "not UTF-8", "surrogate", "nested", "length"],
)
async def test_what_does_not_decode_is_malformed(house: Live, data: bytes) -> None:
    await refusal(raw(house, data), "MALFORMED_MESSAGE", secrets=[SECRET])


async def test_a_thousand_random_messages_are_refused_or_answered_and_never_unknown(house: Live) -> None:
    rng = random.Random(20)
    good = bytearray(digit().SerializeToString())
    codes = set()
    for _ in range(1000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            await raw(house, bytes(data[: rng.randint(1, len(data))] if rng.random() < 0.3 else data))
        except grpc.aio.AioRpcError as error:
            codes.add(error.code())
    assert codes <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}
    assert grpc.StatusCode.INVALID_ARGUMENT in codes


@pytest.mark.parametrize(
    ("data", "field"),
    [
        # Field 2 (task) as a varint, field 99 as text: both are unknown, hence no task.
        (b"\x10\x05", "task"),
        (b"\x9a\x06\x03abc", "task"),
        (b"", "task"),
        # A task, and field 4 (inputs) as a varint.
        (b"\x12\x06digits\x20\x01", "inputs"),
    ],
)
async def test_a_wrong_wire_type_is_a_missing_field(house: Live, data: bytes, field: str) -> None:
    found = await refusal(raw(house, data), "FIELD_REQUIRED")
    assert found.field == field


# ---- D5 to D7: sizes


async def test_a_message_beyond_the_limit(house: Live) -> None:
    big = digit(inputs=[tensor(data=bytes(5 * MEBIBYTE))])
    await library_refusal(infer(house, big), grpc.StatusCode.RESOURCE_EXHAUSTED)


async def test_a_message_within_the_limit_is_looked_at(house: Live) -> None:
    await refusal(infer(house, digit(inputs=[tensor(data=bytes(3 * MEBIBYTE))])), "SHAPE_MISMATCH")


async def test_a_compressed_bomb(house: Live) -> None:
    bomb = digit(inputs=[tensor(data=bytes(24 * MEBIBYTE))])
    call = infer(house, bomb, compression=grpc.Compression.Gzip)
    await library_refusal(call, grpc.StatusCode.RESOURCE_EXHAUSTED)


async def test_refusals_leave_no_memory_behind(house: Live) -> None:
    """The client's own buffers count as well: both ends live in this process."""
    memory = psutil.Process().memory_info
    big = digit(inputs=[tensor(data=bytes(3 * MEBIBYTE))])
    huge = digit(inputs=[tensor(shape=[2**62])])
    for request in (big, huge) * 5:
        await refusal(infer(house, request), "SHAPE_MISMATCH")
    before_bytes = memory().rss
    for request in (big, huge) * 25:
        await refusal(infer(house, request), "SHAPE_MISMATCH")
    assert memory().rss - before_bytes <= MAX_GROWTH_BYTES


@pytest.mark.parametrize(
    "metadata",
    [(("x-big", "a" * 20_000),), tuple((f"x-{number}", "abcdefgh") for number in range(10_000))],
    ids=["one long", "many"],
)
async def test_headers_beyond_16_kib(house: Live, metadata: tuple[tuple[str, str], ...]) -> None:
    await library_refusal(infer(house, digit(), metadata=metadata), grpc.StatusCode.RESOURCE_EXHAUSTED)


# ---- D8, D9: budgets


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
    reply = await infer(house, digit(budget=told, expert=expert))
    assert reply.routing.budget_met
    assert reply.energy.energy_j <= told.max_energy_j


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


# ---- D11, D12, D33: names


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


# ---- D13: tensors


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


# ---- D19: deadlines and numbers


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
