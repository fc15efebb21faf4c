"""Messages to values and back; everything that comes from outside is bounded before it is believed."""

import math
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgewise.v1 import common_pb2, fleet_pb2
from orchestrator.errors import RequestError
from orchestrator.fleet.wire import MAX_ARMS, decode_arm, decode_failed, decode_hello, decode_task
from orchestrator.types import Array, BudgetRequest, Energy, OnInfeasible, Provenance
from orchestrator.wire import (
    DTYPES,
    MAX_ENERGY_J,
    MAX_RANK,
    decode_budget,
    decode_energy,
    decode_spec,
    decode_tensor,
    decode_tensors,
    encode_budget,
    encode_energy,
    encode_spec,
    encode_tensor,
)
from tests.fakes.arms import FakeArm, tensor_task

FLOAT32 = common_pb2.DTYPE_FLOAT32


def reason_of(caught: pytest.ExceptionInfo[RequestError]) -> str:
    assert len(caught.value.message) <= 200
    return caught.value.reason


# ---- tensors

arrays = st.sampled_from(sorted(DTYPES.values(), key=str)).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))
)


@settings(max_examples=150, deadline=None)
@given(arrays)
def test_tensors_come_back_as_they_went(array: Array) -> None:
    message = common_pb2.Tensor.FromString(encode_tensor("x", array).SerializeToString())
    back = decode_tensor(message, "inputs[0]")
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    np.testing.assert_array_equal(back, array)
    assert message.name == "x"


@pytest.mark.parametrize("dtype", [">f4", ">i8"])
def test_big_endian_and_strided_arrays_travel_little_endian_and_dense(dtype: str) -> None:
    array = np.arange(24).reshape(4, 6).astype(dtype)[::2, ::3]
    message = encode_tensor("x", array)
    assert message.data == np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
    np.testing.assert_array_equal(decode_tensor(message, "x"), array)


def test_a_decoded_tensor_cannot_be_written_to() -> None:
    array = decode_tensor(encode_tensor("x", np.zeros(3, dtype=np.float32)), "x")
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1.0


@pytest.mark.parametrize(
    ("shape", "data_bytes"),
    [
        ([4], 12),
        ([4], 20),
        ([2, 2], 0),
        ([], 0),
        ([], 8),
        ([0], 4),
        ([2**62], 16),
        ([2**62, 4], 16),
        ([2**32, 2**32], 0),
        ([2**40, 0, 2**40], 4),
        ([3], 13),
    ],
)
def test_elements_and_bytes_must_agree(shape: list[int], data_bytes: int) -> None:
    message = common_pb2.Tensor(name="x", dtype=FLOAT32, shape=shape, data=bytes(data_bytes))
    with pytest.raises(RequestError) as caught:
        decode_tensor(message, "inputs[0]")
    assert reason_of(caught) == "SHAPE_MISMATCH"
    assert caught.value.field == "inputs[0].shape"


def test_a_product_that_wraps_around_in_64_bits_is_not_believed() -> None:
    """2^32 * 2^32 is 0 in machine integers, and 0 bytes would fit."""
    message = common_pb2.Tensor(name="x", dtype=FLOAT32, shape=[2**32, 2**32], data=b"")
    with pytest.raises(RequestError) as caught:
        decode_tensor(message, "x")
    assert caught.value.metadata["expectedElements"] == str(2**64)


@pytest.mark.parametrize("shape", [[-1, 8], [-(2**62)], [1] * (MAX_RANK + 1)])
def test_impossible_shapes_are_refused(shape: list[int]) -> None:
    with pytest.raises(RequestError) as caught:
        decode_tensor(common_pb2.Tensor(name="x", dtype=FLOAT32, shape=shape, data=b""), "x")
    assert reason_of(caught) == "SHAPE_MISMATCH"


@pytest.mark.parametrize("dtype", [0, 99])
def test_unknown_dtypes_are_refused(dtype: int) -> None:
    message = common_pb2.Tensor(name="x", shape=[1], data=b"1234")
    message.dtype = dtype  # type: ignore[assignment]
    with pytest.raises(RequestError) as caught:
        decode_tensor(message, "inputs[0]")
    assert reason_of(caught) == "DTYPE_MISMATCH"
    assert caught.value.field == "inputs[0].dtype"


def test_a_name_may_occur_once() -> None:
    tensor = encode_tensor("x", np.zeros(1, dtype=np.float32))
    with pytest.raises(RequestError) as caught:
        decode_tensors([tensor, tensor], "inputs")
    assert reason_of(caught) == "NAME_INVALID"
    assert caught.value.field == "inputs[1].name"


# ---- budgets and energy


@settings(max_examples=60, deadline=None)
@given(
    st.none() | st.floats(0.0, MAX_ENERGY_J).filter(lambda value: math.copysign(1.0, value) > 0),
    st.none() | st.floats(0.0, 3.6e6).filter(lambda value: math.copysign(1.0, value) > 0),
    st.none() | st.sampled_from(OnInfeasible),
    st.none() | st.sampled_from(["eco", "balanced", "best"]),
)
def test_budgets_come_back_as_they_went(
    energy_j: float | None, latency_ms: float | None, policy: OnInfeasible | None, profile: str | None
) -> None:
    budget = BudgetRequest(energy_j, latency_ms, policy, profile)
    assert decode_budget(common_pb2.Budget.FromString(encode_budget(budget).SerializeToString())) == budget


@pytest.mark.parametrize("spelling", ["best-effort", "best_effort", OnInfeasible.BEST_EFFORT])
def test_a_policy_may_be_spelt_as_on_the_command_line(spelling: Any) -> None:
    budget = BudgetRequest(on_infeasible=spelling)
    assert decode_budget(encode_budget(budget)).on_infeasible is OnInfeasible.BEST_EFFORT


def test_a_policy_that_is_none_is_told_which_there_are() -> None:
    with pytest.raises(RequestError, match="error, best_effort or cheapest, not 'hope'") as caught:
        encode_budget(BudgetRequest(on_infeasible=cast(OnInfeasible, "hope")))
    assert caught.value.field == "budget.on_infeasible"


@pytest.mark.parametrize("field", ["max_energy_j", "max_latency_ms"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.nan, "BUDGET_NOT_FINITE"),
        (math.inf, "BUDGET_NOT_FINITE"),
        (-math.inf, "BUDGET_NOT_FINITE"),
        (-1.0, "BUDGET_OUT_OF_RANGE"),
        (-0.0, "BUDGET_OUT_OF_RANGE"),
        (-5e-324, "BUDGET_OUT_OF_RANGE"),
        (1e308, "BUDGET_OUT_OF_RANGE"),
    ],
)
def test_budgets_that_are_no_budgets_are_refused(field: str, value: float, reason: str) -> None:
    message = common_pb2.Budget()
    setattr(message, field, value)
    with pytest.raises(RequestError) as caught:
        decode_budget(message)
    assert reason_of(caught) == reason
    assert caught.value.field == f"budget.{field}"


@pytest.mark.parametrize(("field", "value"), [("profile", "turbo"), ("on_infeasible", 77)])
def test_unknown_choices_are_refused(field: str, value: object) -> None:
    message = common_pb2.Budget()
    setattr(message, field, value)
    with pytest.raises(RequestError) as caught:
        decode_budget(message)
    assert reason_of(caught) == "FIELD_OUT_OF_RANGE"
    assert "turbo" not in caught.value.message


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_joules_that_are_none_count_as_unmeasured(value: float) -> None:
    message = common_pb2.Energy(energy_j=value, provenance=common_pb2.PROVENANCE_MEASURED, method="rapl")
    energy = decode_energy(message)
    assert energy.provenance is Provenance.UNMEASURED
    assert math.isnan(energy.energy_j)


@pytest.mark.parametrize("provenance", [0, common_pb2.PROVENANCE_UNMEASURED, 55])
def test_joules_without_a_source_are_never_zero(provenance: int) -> None:
    message = common_pb2.Energy(energy_j=0.0)
    message.provenance = provenance  # type: ignore[assignment]
    assert math.isnan(decode_energy(message).energy_j)


@pytest.mark.parametrize("provenance", [Provenance.MEASURED, Provenance.REPLAYED, Provenance.MODELLED])
def test_joules_keep_their_source(provenance: Provenance) -> None:
    energy = Energy(1.5, provenance, "method", 0.25)
    assert decode_energy(encode_energy(energy)) == energy


# ---- what a node says


def test_what_a_node_announces_is_taken_as_it_was_meant() -> None:
    arm = decode_arm(FakeArm("large", energy_j=0.5, quality_fraction=0.97).message(), "n1")
    assert arm.name == "large:v1@n1"
    assert (arm.energy.energy_j, arm.energy.provenance) == (0.5, Provenance.MODELLED)
    assert arm.latency_provenance is Provenance.MEASURED
    task = decode_task(tensor_task())
    assert task.labels == tuple("0123456789")
    assert decode_spec(encode_spec(task.input), "x") == task.input


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 1e300])
@pytest.mark.parametrize("field", ["p50_ms", "p95_ms", "energy_j", "quality_fraction"])
def test_figures_of_arms_must_be_figures(field: str, value: float) -> None:
    fields: dict[str, float] = {field: value}
    with pytest.raises(RequestError) as caught:
        decode_arm(FakeArm(**fields).message(), "n1")  # type: ignore[arg-type]
    assert reason_of(caught) == "FIELD_OUT_OF_RANGE"


@pytest.mark.parametrize("name", ["", "../x", "Upper", "a b", "x;rm", "ä", "x" * 65, "-x", "a\n", "a\x00"])
@pytest.mark.parametrize("field", ["node", "expert", "task"])
def test_names_are_plain(field: str, name: str) -> None:
    arm = FakeArm(expert=name if field == "expert" else "small", task=name if field == "task" else "digits")
    hello = fleet_pb2.Hello(node=name if field == "node" else "n1", protocol_version=1, arms=[arm.message()])
    with pytest.raises(RequestError) as caught:
        decode_hello(hello)
    assert reason_of(caught) == "NAME_INVALID"


def test_an_arm_is_announced_once_and_not_too_many_of_them() -> None:
    arm = FakeArm().message()
    for arms, reason in (([arm, arm], "NAME_INVALID"), ([arm] * (MAX_ARMS + 1), "FIELD_OUT_OF_RANGE")):
        with pytest.raises(RequestError) as caught:
            decode_hello(fleet_pb2.Hello(node="n1", arms=arms))
        assert reason_of(caught) == reason


@pytest.mark.parametrize(
    ("classes", "labels"), [(10, 5), (10, 0), (0, 0)], ids=["fewer labels", "no labels", "no classes"]
)
def test_a_task_whose_output_does_not_hold_its_labels_is_refused(classes: int, labels: int) -> None:
    task = tensor_task(classes=classes)
    del task.labels[labels:]
    with pytest.raises(RequestError) as caught:
        decode_task(task)
    assert reason_of(caught) == "SHAPE_MISMATCH"


def test_what_a_node_writes_is_cut_to_size() -> None:
    failed = decode_failed(fleet_pb2.WorkFailed(work_id=1, reason="R" * 1000, message="m" * 10_000))
    assert (len(failed.reason), len(failed.message)) == (64, 200)
    hello = decode_hello(fleet_pb2.Hello(node="n1", device="d" * 5000, concurrency=0))
    assert len(hello.device) == 128
    assert hello.concurrency == 1
