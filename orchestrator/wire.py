"""Protobuf messages to the gateway's own types and back. The only orchestrator module, with the servicers, that
touches generated classes for tensors, budgets and fleet messages.

Everything that comes from outside is bounded here: element counts are multiplied in Python integers and compared with
the bytes that came before any array is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from edgewise.v1 import common_pb2
from orchestrator.errors import RequestError
from orchestrator.longrun import GuardRecord, LongRun, PacingRecord, Share
from orchestrator.types import (
    NAME_PATTERN,
    Array,
    BudgetRequest,
    CertificateRecord,
    Energy,
    FusionChoice,
    OnInfeasible,
    Provenance,
    TensorSpec,
)

MAX_RANK = 8
MAX_ENERGY_J = 1e9
MAX_LATENCY_MS = 3.6e6
MAX_POWER_W = 1e6

DTYPES: dict[common_pb2.DType.ValueType, np.dtype[np.generic]] = {
    common_pb2.DTYPE_BOOL: np.dtype("bool"),
    common_pb2.DTYPE_UINT8: np.dtype("uint8"),
    common_pb2.DTYPE_INT8: np.dtype("int8"),
    common_pb2.DTYPE_INT32: np.dtype("<i4"),
    common_pb2.DTYPE_INT64: np.dtype("<i8"),
    common_pb2.DTYPE_FLOAT16: np.dtype("<f2"),
    common_pb2.DTYPE_FLOAT32: np.dtype("<f4"),
    common_pb2.DTYPE_FLOAT64: np.dtype("<f8"),
}
DTYPE_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}

PROVENANCES = {
    common_pb2.PROVENANCE_MEASURED: Provenance.MEASURED,
    common_pb2.PROVENANCE_REPLAYED: Provenance.REPLAYED,
    common_pb2.PROVENANCE_MODELLED: Provenance.MODELLED,
}
PROVENANCE_NUMBERS = {value: number for number, value in PROVENANCES.items()} | {
    Provenance.UNMEASURED: common_pb2.PROVENANCE_UNMEASURED
}
ON_INFEASIBLE = {
    common_pb2.ON_INFEASIBLE_ERROR: OnInfeasible.ERROR,
    common_pb2.ON_INFEASIBLE_BEST_EFFORT: OnInfeasible.BEST_EFFORT,
    common_pb2.ON_INFEASIBLE_CHEAPEST: OnInfeasible.CHEAPEST,
}
ON_INFEASIBLE_NUMBERS = {value: number for number, value in ON_INFEASIBLE.items()}
FUSIONS = {
    common_pb2.FUSION_MODE_UNSPECIFIED: FusionChoice.AUTO,
    common_pb2.FUSION_MODE_NONE: FusionChoice.NONE,
    common_pb2.FUSION_MODE_MIXTURE: FusionChoice.MIXTURE,
    common_pb2.FUSION_MODE_VOTE: FusionChoice.VOTE,
    common_pb2.FUSION_MODE_JUDGE: FusionChoice.JUDGE,
    common_pb2.FUSION_MODE_TOKEN: FusionChoice.TOKEN,
    common_pb2.FUSION_MODE_BYTES: FusionChoice.BYTES,
}
FUSION_NUMBERS = {value: number for number, value in FUSIONS.items()}
FINISH_REASONS = {
    common_pb2.FINISH_REASON_STOP: "stop",
    common_pb2.FINISH_REASON_LENGTH: "length",
    common_pb2.FINISH_REASON_BUDGET: "budget",
}
FINISH_REASON_NUMBERS = {value: number for number, value in FINISH_REASONS.items()}
PROFILES = ("eco", "balanced", "best")
NO_BUDGET = BudgetRequest()


# ---- tensors


def decode_tensor(message: common_pb2.Tensor, field: str) -> Array:
    """A read-only array of the message's dtype and shape.

    Args:
        message: The tensor; its data is not copied.
        field: Path of the tensor in the request, for the error.

    Raises:
        RequestError: DTYPE_MISMATCH or SHAPE_MISMATCH.
    """
    dtype = DTYPES.get(message.dtype)
    if dtype is None:
        raise RequestError("DTYPE_MISMATCH", f"{field} has no known dtype.", field=f"{field}.dtype")
    shape, data = tuple(message.shape), message.data
    if len(shape) > MAX_RANK or min(shape, default=0) < 0:
        raise RequestError(
            "SHAPE_MISMATCH",
            f"{field} must have at most {MAX_RANK} dimensions, none of them negative.",
            field=f"{field}.shape",
        )
    elements, available = math.prod(shape), len(data) // dtype.itemsize
    if elements * dtype.itemsize != len(data):
        raise RequestError(
            "SHAPE_MISMATCH",
            f"{field} declares {elements} elements; its data holds {available}.",
            field=f"{field}.shape",
            metadata={"expectedElements": str(elements), "gotElements": str(available)},
        )
    return np.frombuffer(data, dtype).reshape(shape)


def encode_tensor(name: str, array: Array) -> common_pb2.Tensor:
    """The message that holds `array` under `name`."""
    number = DTYPE_NUMBERS.get(array.dtype)
    if number is None:
        array = array.astype(array.dtype.newbyteorder("<"))
        number = DTYPE_NUMBERS[array.dtype]
    return common_pb2.Tensor(name=name, dtype=number, shape=array.shape, data=array.tobytes())


def decode_tensors(messages: Iterable[common_pb2.Tensor], field: str) -> dict[str, Array]:
    """Tensors by name; a name may occur once."""
    arrays: dict[str, Array] = {}
    for index, message in enumerate(messages):
        path = f"{field}[{index}]"
        if message.name in arrays:
            raise RequestError("NAME_INVALID", f"{path} repeats the name of an earlier tensor.", field=f"{path}.name")
        arrays[message.name] = decode_tensor(message, path)
    return arrays


# ---- budgets and energy


def check_budget_number(value: float, *, field: str, limit: float, unit: str) -> float:
    """`value` if it is finite and within 0..limit; raises BUDGET_* otherwise (-0.0 is a sign error of the caller)."""
    if not math.isfinite(value):
        raise RequestError(
            "BUDGET_NOT_FINITE",
            f"{field} must be a finite number between 0 and {limit:g} {unit}.",
            field=field,
            metadata={"limit": repr(limit)},
        )
    if math.copysign(1.0, value) < 0 or value > limit:
        raise RequestError(
            "BUDGET_OUT_OF_RANGE",
            f"{field} must be a finite number between 0 and {limit:g} {unit}.",
            field=field,
            metadata={"limit": repr(limit)},
        )
    return value


def decode_budget(message: common_pb2.Budget) -> BudgetRequest:
    """The budget that a message asks for.

    Raises:
        RequestError: BUDGET_NOT_FINITE, BUDGET_OUT_OF_RANGE or FIELD_OUT_OF_RANGE.
    """
    energy = latency = None
    if not message.ByteSize():
        return NO_BUDGET
    if message.HasField("max_energy_j"):
        energy = check_budget_number(message.max_energy_j, field="budget.max_energy_j", limit=MAX_ENERGY_J, unit="J")
    if message.HasField("max_latency_ms"):
        latency = check_budget_number(
            message.max_latency_ms, field="budget.max_latency_ms", limit=MAX_LATENCY_MS, unit="ms"
        )
    if message.profile and message.profile not in PROFILES:
        raise RequestError(
            "FIELD_OUT_OF_RANGE",
            f"budget.profile must be one of {', '.join(PROFILES)}.",
            field="budget.profile",
        )
    policy = message.on_infeasible
    if policy and policy not in ON_INFEASIBLE:
        raise RequestError(
            "FIELD_OUT_OF_RANGE",
            "budget.on_infeasible must be error, best_effort or cheapest.",
            field="budget.on_infeasible",
        )
    return BudgetRequest(energy, latency, ON_INFEASIBLE.get(policy), message.profile or None)


def _policy(asked: OnInfeasible | str) -> OnInfeasible:
    """As it is, or as the command line spells it."""
    try:
        return asked if isinstance(asked, OnInfeasible) else OnInfeasible(asked.replace("-", "_"))
    except ValueError:
        raise RequestError(
            "FIELD_OUT_OF_RANGE",
            f"budget.on_infeasible must be error, best_effort or cheapest, not {asked!r}.",
            field="budget.on_infeasible",
        ) from None


def encode_budget(budget: BudgetRequest) -> common_pb2.Budget:
    """The message for a budget; what is None stays unset.

    Raises:
        RequestError: FIELD_OUT_OF_RANGE, where a caller gave a text for `on_infeasible` that is none of its values.
    """
    policy = common_pb2.ON_INFEASIBLE_UNSPECIFIED
    if budget.on_infeasible:
        policy = ON_INFEASIBLE_NUMBERS[_policy(budget.on_infeasible)]
    return common_pb2.Budget(
        max_energy_j=budget.max_energy_j,
        max_latency_ms=budget.max_latency_ms,
        on_infeasible=policy,
        profile=budget.profile or "",
    )


def decode_long_run(message: common_pb2.LongRunBudget) -> LongRun:
    """The long-run budget that a message asks for.

    Raises:
        RequestError: BUDGET_NOT_FINITE or BUDGET_OUT_OF_RANGE.
    """
    energy = power = None
    if message.HasField("average_energy_j"):
        field = "long_run.average_energy_j"
        energy = check_budget_number(message.average_energy_j, field=field, limit=MAX_ENERGY_J, unit="J")
    if message.HasField("average_power_w"):
        field = "long_run.average_power_w"
        power = check_budget_number(message.average_power_w, field=field, limit=MAX_POWER_W, unit="W")
    if energy and power:
        message_text = "A long-run budget is joules per request or watts, not both."
        raise RequestError("BUDGET_OUT_OF_RANGE", message_text, field="long_run", metadata={"limit": "one"})
    return LongRun(energy, power)


def encode_long_run(budget: LongRun) -> common_pb2.LongRunBudget:
    """The message for a long-run budget; what is None stays unset."""
    return common_pb2.LongRunBudget(average_energy_j=budget.average_energy_j, average_power_w=budget.average_power_w)


def encode_pacing(record: PacingRecord | None) -> common_pb2.Pacing | None:
    """The message for how a long-run budget stands."""
    if record is None:
        return None
    return common_pb2.Pacing(
        budget=encode_long_run(record.budget),
        status=record.status,
        price_per_j=record.price_per_j,
        burn_ratio=record.burn_ratio,
        left_j=record.left_j,
        cheapest_j=record.cheapest_j,
        requests=record.requests,
        share=None if record.share is None else _encode_share(record.share),
    )


def _encode_share(share: Share) -> common_pb2.Share:
    return common_pb2.Share(
        energy_j=share.energy_j,
        quality_fraction=share.quality_fraction,
        points_per_j=share.points_per_j,
        next=share.next,
        gap_fraction=share.gap_fraction,
        solver=share.solver,
    )


def decode_pacing(message: common_pb2.Pacing) -> PacingRecord:
    """How a long-run budget stands."""
    return PacingRecord(
        budget=decode_long_run(message.budget),
        status=message.status,
        price_per_j=message.price_per_j,
        burn_ratio=message.burn_ratio,
        left_j=message.left_j,
        cheapest_j=message.cheapest_j,
        requests=message.requests,
        share=_decode_share(message.share) if message.HasField("share") else None,
    )


def _decode_share(message: common_pb2.Share) -> Share:
    return Share(
        energy_j=message.energy_j,
        quality_fraction=message.quality_fraction,
        points_per_j=message.points_per_j,
        next=message.next,
        gap_fraction=message.gap_fraction,
        solver=message.solver,
    )


def encode_guard(record: GuardRecord | None) -> common_pb2.Guard | None:
    """The message for how a guard stands."""
    if record is None:
        return None
    return common_pb2.Guard(
        in_force=record.in_force,
        evidence_fraction=record.evidence_fraction,
        mean_difference=record.mean_difference,
        observations=record.observations,
        stays=record.stays,
    )


def decode_energy(message: common_pb2.Energy) -> Energy:
    """Joules of a node's message; anything that is not a finite, non-negative number counts as unmeasured."""
    provenance, value = PROVENANCES.get(message.provenance), message.energy_j
    if provenance is None or not 0.0 <= value < math.inf:
        return _unmeasured(message.method[:64])
    doubt = message.uncertainty_j
    return Energy(
        value,
        provenance,
        message.method[:64],
        doubt if 0.0 < doubt < math.inf else 0.0,
        message.idle_j if message.HasField("idle_j") and 0.0 <= message.idle_j < math.inf else None,
        message.share[:32],
        message.preliminary,
    )


@lru_cache(maxsize=256)
def _unmeasured(method: str) -> Energy:
    return Energy(math.nan, Provenance.UNMEASURED, method)


def encode_energy(energy: Energy) -> common_pb2.Energy:
    """The message for joules; unmeasured joules travel as 0 with provenance UNMEASURED."""
    known = energy.provenance is not Provenance.UNMEASURED
    return common_pb2.Energy(
        energy_j=energy.energy_j if known else 0.0,
        provenance=PROVENANCE_NUMBERS[energy.provenance],
        method=energy.method,
        uncertainty_j=energy.uncertainty_j,
        idle_j=energy.idle_j,
        share=energy.share,
        preliminary=energy.preliminary,
    )


def encode_certificate(certificate: CertificateRecord) -> common_pb2.Certificate:
    """The message for a plan's certificate."""
    return common_pb2.Certificate(
        status=certificate.status,
        gap=certificate.gap,
        explored=certificate.explored,
        mode=certificate.mode,
        quality_fraction=certificate.quality_fraction,
        bound_fraction=certificate.bound_fraction,
        price_per_j=certificate.price_per_j,
    )


# ---- what a node says


def decode_spec(message: common_pb2.TensorSpec, field: str) -> TensorSpec:
    """A tensor specification.

    Raises:
        RequestError: DTYPE_MISMATCH or SHAPE_MISMATCH.
    """
    dtype = DTYPES.get(message.dtype)
    if dtype is None:
        raise RequestError("DTYPE_MISMATCH", f"{field} has no known dtype.", field=field)
    shape = tuple(message.shape)
    if len(shape) > MAX_RANK or any(size < -1 for size in shape):
        raise RequestError("SHAPE_MISMATCH", f"{field} has an impossible shape.", field=field)
    return TensorSpec(message.name, dtype, shape)


def encode_spec(spec: TensorSpec) -> common_pb2.TensorSpec:
    """The message for a tensor specification."""
    return common_pb2.TensorSpec(name=spec.name, dtype=DTYPE_NUMBERS[spec.dtype], shape=spec.shape)


def check_name(name: str, field: str) -> str:
    """`name` if it may be the name of a node, task or expert.

    Raises:
        RequestError: NAME_INVALID.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise RequestError(
            "NAME_INVALID",
            f"{field} must be 1 to 64 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit.",
            field=field,
        )
    return name
