"""Protobuf messages to the gateway's own types and back. The only orchestrator module, with the servicers, that
touches generated classes for tensors, budgets and fleet messages.

Everything that comes from outside is bounded here: element counts are multiplied in Python integers and compared with
the bytes that came before any array is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from edgewise.v1 import common_pb2, fleet_pb2
from orchestrator.errors import RequestError
from orchestrator.types import (
    NAME_PATTERN,
    Arm,
    Array,
    BudgetRequest,
    CertificateRecord,
    Delta,
    Done,
    Energy,
    Failed,
    FusionChoice,
    NodeHello,
    OnInfeasible,
    Provenance,
    Task,
    TensorSpec,
)

MAX_RANK = 8
MAX_ENERGY_J = 1e9
MAX_LATENCY_MS = 3.6e6
MAX_ARMS = 512
MAX_TASKS = 64
MAX_LABELS = 100_000

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
    shape = tuple(message.shape)
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise RequestError(
            "SHAPE_MISMATCH",
            f"{field} must have at most {MAX_RANK} dimensions, none of them negative.",
            field=f"{field}.shape",
        )
    elements, available = math.prod(shape), len(message.data) // dtype.itemsize
    if elements * dtype.itemsize != len(message.data):
        raise RequestError(
            "SHAPE_MISMATCH",
            f"{field} declares {elements} elements; its data holds {available}.",
            field=f"{field}.shape",
            metadata={"expectedElements": str(elements), "gotElements": str(available)},
        )
    return np.frombuffer(message.data, dtype=dtype).reshape(shape)


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


def encode_budget(budget: BudgetRequest) -> common_pb2.Budget:
    """The message for a budget; what is None stays unset."""
    unsaid = common_pb2.ON_INFEASIBLE_UNSPECIFIED
    policy = ON_INFEASIBLE_NUMBERS[budget.on_infeasible] if budget.on_infeasible else unsaid
    return common_pb2.Budget(
        max_energy_j=budget.max_energy_j,
        max_latency_ms=budget.max_latency_ms,
        on_infeasible=policy,
        profile=budget.profile or "",
    )


def decode_energy(message: common_pb2.Energy) -> Energy:
    """Joules of a node's message; anything that is not a finite, non-negative number counts as unmeasured."""
    provenance = PROVENANCES.get(message.provenance, Provenance.UNMEASURED)
    value, doubt = message.energy_j, message.uncertainty_j
    if provenance is Provenance.UNMEASURED or not (math.isfinite(value) and value >= 0):
        return Energy(math.nan, Provenance.UNMEASURED, message.method[:64])
    return Energy(value, provenance, message.method[:64], doubt if math.isfinite(doubt) and doubt > 0 else 0.0)


def encode_energy(energy: Energy) -> common_pb2.Energy:
    """The message for joules; unmeasured joules travel as 0 with provenance UNMEASURED."""
    known = energy.provenance is not Provenance.UNMEASURED
    return common_pb2.Energy(
        energy_j=energy.energy_j if known else 0.0,
        provenance=PROVENANCE_NUMBERS[energy.provenance],
        method=energy.method,
        uncertainty_j=energy.uncertainty_j,
    )


def encode_certificate(certificate: CertificateRecord) -> common_pb2.Certificate:
    """The message for a plan's certificate."""
    return common_pb2.Certificate(status=certificate.status, gap=certificate.gap, explored=certificate.explored)


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


def decode_task(message: fleet_pb2.TaskSpec) -> Task:
    """A task class as a node announced it.

    Raises:
        RequestError: NAME_INVALID, FIELD_OUT_OF_RANGE, DTYPE_MISMATCH or SHAPE_MISMATCH.
    """
    if len(message.labels) > MAX_LABELS:
        raise RequestError("FIELD_OUT_OF_RANGE", f"A task may have at most {MAX_LABELS} labels.", field="tasks")
    empty = TensorSpec("", np.dtype("float32"), ())
    output = empty if message.text else decode_spec(message.output, "tasks.output")
    if not message.text and not 0 < math.prod(abs(size) for size in output.shape) == len(message.labels):
        raise RequestError("SHAPE_MISMATCH", "A task's output must hold one number per label.", field="tasks.output")
    return Task(
        name=check_name(message.name, "tasks.name"),
        input=empty if message.text else decode_spec(message.input, "tasks.input"),
        output=output,
        labels=tuple(message.labels),
        reference_digest=message.reference_digest,
        text=message.text,
    )


def _check_cost(value: float, field: str) -> float:
    if not (math.isfinite(value) and 0.0 <= value <= MAX_ENERGY_J):
        raise RequestError("FIELD_OUT_OF_RANGE", f"{field} must be a finite number that is not negative.", field=field)
    return value


def decode_arm(message: fleet_pb2.Arm, node: str) -> Arm:
    """An arm as a node announced it; figures must be finite."""
    energy = message.energy
    return Arm(
        expert=check_name(message.expert, "arms.expert"),
        variant=check_name(message.variant, "arms.variant"),
        node=node,
        task=check_name(message.task, "arms.task"),
        engine=check_name(message.engine, "arms.engine"),
        model_digest=message.model_digest,
        macs=message.macs,
        memory_bytes=message.memory_bytes,
        p50_ms=_check_cost(message.latency.p50_ms, "arms.latency.p50_ms"),
        p95_ms=_check_cost(message.latency.p95_ms, "arms.latency.p95_ms"),
        latency_provenance=PROVENANCES.get(message.latency.provenance, Provenance.UNMEASURED),
        energy=Energy(
            _check_cost(energy.mean_j, "arms.energy.mean_j"),
            PROVENANCES.get(energy.provenance, Provenance.UNMEASURED),
            energy.method[:64],
            _check_cost(energy.uncertainty_j, "arms.energy.uncertainty_j"),
        ),
        quality_fraction=min(1.0, _check_cost(message.quality_fraction, "arms.quality_fraction")),
        quality_samples=message.quality_samples,
        evidence_digest=message.evidence_digest,
    )


def decode_hello(message: fleet_pb2.Hello) -> NodeHello:
    """What a joining node says of itself.

    Raises:
        RequestError: a name, figure or count is not allowed; the text says which.
    """
    node = check_name(message.node, "node")
    if len(message.arms) > MAX_ARMS or len(message.tasks) > MAX_TASKS:
        raise RequestError("FIELD_OUT_OF_RANGE", f"A node may have at most {MAX_ARMS} arms and {MAX_TASKS} tasks.")
    return NodeHello(
        node=node,
        software_version=message.software_version[:64],
        protocol_version=message.protocol_version,
        device=message.device[:128],
        simulated=message.simulated,
        energy_method=message.energy_method[:64],
        energy_provenance=PROVENANCES.get(message.energy_provenance, Provenance.UNMEASURED),
        tasks=tuple(decode_task(task) for task in message.tasks),
        arms=decode_arms(message.arms, node),
        concurrency=max(1, min(message.concurrency, 1024)),
        queue_limit=min(message.queue_limit, 65536),
        memory_limit_bytes=message.memory_limit_bytes,
    )


def decode_arms(messages: Sequence[fleet_pb2.Arm], node: str) -> tuple[Arm, ...]:
    """A node's arms; a name may occur once."""
    arms = tuple(decode_arm(message, node) for message in messages)
    if len({arm.name for arm in arms}) != len(arms):
        raise RequestError("NAME_INVALID", "A node announced the same arm twice.", field="arms")
    return arms


def decode_done(message: fleet_pb2.WorkDone) -> Done:
    """A finished piece of work."""
    return Done(
        work_id=message.work_id,
        outputs=decode_tensors(message.outputs, "outputs"),
        text=message.text,
        finish_reason=FINISH_REASONS.get(message.finish_reason, ""),
        prompt_tokens=message.usage.prompt_tokens,
        completion_tokens=message.usage.completion_tokens,
        energy=decode_energy(message.energy),
        queue_ms=message.queue_ms,
        compute_ms=message.compute_ms,
    )


def decode_failed(message: fleet_pb2.WorkFailed) -> Failed:
    """A piece of work that a node could not do."""
    return Failed(
        work_id=message.work_id,
        reason=message.reason[:64],
        message=message.message[:200],
        final=message.final,
        energy=decode_energy(message.energy),
    )


def decode_delta(message: fleet_pb2.TextDelta) -> Delta:
    """A piece of generated text."""
    return Delta(message.work_id, message.text, tuple(message.token_ids))


# ---- what a node is told


def encode_tensor_work(inputs: Mapping[str, Array]) -> fleet_pb2.TensorWork:
    """The input of a tensor query."""
    return fleet_pb2.TensorWork(inputs=[encode_tensor(name, array) for name, array in inputs.items()])
