"""Client messages to validated queries, replies and explanations to messages."""

from __future__ import annotations

import math
import os
import time

import numpy as np

from edgewise.v1 import common_pb2, gateway_pb2
from optimizer.choose import Binding
from orchestrator.errors import RequestError
from orchestrator.execution.text import TextEnd
from orchestrator.gateway.service import TextReply
from orchestrator.journal import Entry
from orchestrator.types import (
    Array,
    AttemptRecord,
    FusionChoice,
    GenerationParameters,
    Message,
    Query,
    Reply,
    RoutingRecord,
    Task,
    TensorSpec,
    TextQuery,
    Timings,
)
from orchestrator.wire import (
    FINISH_REASON_NUMBERS,
    FUSION_NUMBERS,
    FUSIONS,
    PROVENANCE_NUMBERS,
    check_name,
    decode_budget,
    decode_tensors,
    encode_certificate,
    encode_energy,
    encode_tensor,
)

MAX_REQUEST_ID_CHARS = 64
MAX_TOKENS = 131_072
MAX_MESSAGES = 4096
MAX_STOP = 16
DEFAULT_MAX_TOKENS = 256
RANDOM_ID_BYTES = 16
SMALL_ELEMENTS = 256


def decode_infer(message: gateway_pb2.InferRequest, *, tasks: dict[str, Task], deadline_s: float) -> Query:
    """A validated tensor query.

    Raises:
        RequestError: See the catalogue.
    """
    task = _task(message.task, tasks, text=False)
    fusion = message.fusion.mode
    if fusion not in FUSIONS:
        raise RequestError("FIELD_OUT_OF_RANGE", "fusion.mode must be none, mixture or vote.", field="fusion.mode")
    return Query(
        request_id=request_id(message.request_id),
        task=task,
        expert=check_name(message.expert, "expert") if message.expert else None,
        inputs={task.input.name: _input(message, task.input)},
        budget=decode_budget(message.budget),
        fusion=FUSIONS[fusion],
        max_experts=message.fusion.max_experts,
        deadline_s=deadline_s,
    )


def decode_generate(message: gateway_pb2.GenerateRequest, *, tasks: dict[str, Task], deadline_s: float) -> TextQuery:
    """A validated text query.

    Raises:
        RequestError: See the catalogue.
    """
    task = _task(message.task, tasks, text=True)
    if not message.messages:
        raise RequestError("FIELD_REQUIRED", "messages must hold at least one message.", field="messages")
    if len(message.messages) > MAX_MESSAGES:
        raise RequestError("FIELD_OUT_OF_RANGE", f"At most {MAX_MESSAGES} messages are taken.", field="messages")
    return TextQuery(
        request_id=request_id(message.request_id),
        task=task,
        expert=check_name(message.expert, "expert") if message.expert else None,
        messages=tuple(Message(turn.role, turn.content) for turn in message.messages),
        parameters=_parameters(message.parameters),
        budget=decode_budget(message.budget),
        deadline_s=deadline_s,
    )


class RandomIds:
    """Unguessable ids of 128 bits, drawn many at a time: one system call for 256 of them."""

    def __init__(self) -> None:
        self._pool = b""

    def take(self) -> str:
        """32 hexadecimal digits."""
        if len(self._pool) < RANDOM_ID_BYTES:
            self._pool = os.urandom(256 * RANDOM_ID_BYTES)
        drawn, self._pool = self._pool[:RANDOM_ID_BYTES], self._pool[RANDOM_ID_BYTES:]
        return drawn.hex()


_fresh_ids = RandomIds()


def request_id(given: str) -> str:
    """The client's request id, or a new one.

    Raises:
        RequestError: NAME_INVALID.
    """
    if not given:
        return _fresh_ids.take()
    plain = given.isascii() and all(char.isalnum() or char in "._-" for char in given)
    if len(given) > MAX_REQUEST_ID_CHARS or not plain:
        raise RequestError(
            "NAME_INVALID",
            f"request_id must be 1 to {MAX_REQUEST_ID_CHARS} letters, digits, '.', '_' and '-'.",
            field="request_id",
        )
    return given


def _task(name: str, tasks: dict[str, Task], *, text: bool) -> Task:
    if not name:
        raise RequestError("FIELD_REQUIRED", "task must name a task class.", field="task")
    task = tasks.get(name)
    if task is None or task.text != text:
        check_name(name, "task")
        kind = "text" if text else "tensor"
        known = ", ".join(sorted(task.name for task in tasks.values() if task.text == text)) or "none"
        raise RequestError(
            "TASK_NOT_FOUND",
            f"No node serves a {kind} task of this name; known: {known}.",
            field="task",
            metadata={"known": known},
        )
    return task


def _input(message: gateway_pb2.InferRequest, spec: TensorSpec) -> Array:
    if not message.inputs:
        raise RequestError("FIELD_REQUIRED", f"inputs must hold the tensor '{spec.name}'.", field="inputs")
    if len(message.inputs) != 1 or message.inputs[0].name != spec.name:
        raise RequestError(
            "SHAPE_MISMATCH", f"inputs must be exactly one tensor named '{spec.name}'.", field="inputs[0].name"
        )
    array = decode_tensors(message.inputs, "inputs")[spec.name]
    if array.dtype != spec.dtype:
        raise RequestError(
            "DTYPE_MISMATCH",
            f"input '{spec.name}' has dtype {array.dtype.name}; expected {spec.dtype.name}.",
            field="inputs[0].dtype",
            metadata={"got": array.dtype.name, "expected": spec.dtype.name},
        )
    return _shaped(array, spec)


def _shaped(array: Array, spec: TensorSpec) -> Array:
    """One sample in the specification's shape; a missing batch dimension is added."""
    one = tuple(1 if size == -1 else size for size in spec.shape)
    if array.shape not in (one, one[1:] if spec.shape[:1] == (-1,) else one):
        expected = math.prod(one)
        raise RequestError(
            "SHAPE_MISMATCH",
            f"input '{spec.name}' has {array.size} elements in shape {list(array.shape)};"
            f" expected {expected} in shape {list(one)}, one query at a time.",
            field="inputs[0].shape",
            metadata={"gotElements": str(array.size), "expectedElements": str(expected)},
        )
    if array.dtype.kind == "f" and not _finite(array):
        raise RequestError("INPUT_NOT_FINITE", f"input '{spec.name}' must not hold NaN or infinity.", field="inputs[0]")
    return array.reshape(one)


def _finite(array: Array) -> bool:
    # A small tensor is looked through faster as a list than numpy's machinery is set in motion.
    if array.size <= SMALL_ELEMENTS:
        return all(map(math.isfinite, array.reshape(-1).tolist()))
    return bool(np.isfinite(array).all())


def _parameters(message: common_pb2.GenerationParameters) -> GenerationParameters:
    temperature = message.temperature if message.HasField("temperature") else None
    top_p = message.top_p if message.HasField("top_p") else None
    _bounded("parameters.max_tokens", message.max_tokens, 0, MAX_TOKENS)
    _bounded("parameters.temperature", temperature, 0.0, 2.0)
    _bounded("parameters.top_p", top_p, 0.0, 1.0)
    _bounded("parameters.stop", len(message.stop), 0, MAX_STOP)
    return GenerationParameters(
        max_tokens=message.max_tokens or DEFAULT_MAX_TOKENS,
        temperature=temperature,
        top_p=top_p,
        seed=message.seed if message.HasField("seed") else None,
        stop=tuple(message.stop),
    )


def _bounded(field: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise RequestError("FIELD_OUT_OF_RANGE", f"{field} must be between {low:g} and {high:g}.", field=field)


# ---- replies


def encode_reply(reply: Reply) -> gateway_pb2.InferResponse:
    """The message for an answer."""
    return gateway_pb2.InferResponse(
        request_id=reply.request_id,
        outputs=[encode_tensor(name, array) for name, array in reply.outputs.items()],
        label=reply.label,
        confidence=reply.confidence,
        energy=encode_energy(reply.energy),
        routing=encode_routing(reply.routing),
        timing=encode_timings(reply.timings),
    )


def encode_text_reply(reply: TextReply) -> gateway_pb2.GenerateDone:
    """The message that ends a generation."""
    end: TextEnd = reply.end
    return gateway_pb2.GenerateDone(
        request_id=reply.request_id,
        finish_reason=FINISH_REASON_NUMBERS.get(end.finish_reason, common_pb2.FINISH_REASON_UNSPECIFIED),
        usage=common_pb2.Usage(prompt_tokens=end.prompt_tokens, completion_tokens=end.completion_tokens),
        energy=encode_energy(reply.energy),
        routing=encode_routing(reply.routing),
        timing=encode_timings(reply.timings),
    )


def encode_routing(routing: RoutingRecord) -> gateway_pb2.Routing:
    """The message for what ran."""
    return gateway_pb2.Routing(
        attempts=[_attempt(attempt) for attempt in routing.attempts],
        fusion=_fusion(routing.fusion),
        predicted_energy_j=routing.predicted_energy_j,
        predicted_ms=routing.predicted_ms,
        bound_energy_j=routing.bound_energy_j,
        bound_ms=routing.bound_ms,
        budget_met=routing.budget_met,
        plan_id=routing.plan_id,
        certificate=encode_certificate(routing.certificate),
    )


def _fusion(fusion: FusionChoice) -> common_pb2.FusionMode.ValueType:
    return FUSION_NUMBERS[fusion]


def _attempt(attempt: AttemptRecord) -> gateway_pb2.Attempt:
    energy_j = attempt.energy.energy_j
    return gateway_pb2.Attempt(
        arm=attempt.arm,
        stage=attempt.stage,
        predicted_energy_j=attempt.predicted_energy_j,
        energy_j=0.0 if math.isnan(energy_j) else energy_j,
        energy_provenance=PROVENANCE_NUMBERS[attempt.energy.provenance],
        predicted_ms=attempt.predicted_ms,
        ms=attempt.ms,
        outcome=attempt.outcome,
        reason=attempt.reason,
    )


def encode_timings(timings: Timings) -> gateway_pb2.Timing:
    """The message for where the time went."""
    return gateway_pb2.Timing(
        total_ms=timings.total_ms,
        route_ms=timings.route_ms,
        wait_ms=timings.wait_ms,
        infer_ms=timings.infer_ms,
        fuse_ms=timings.fuse_ms,
    )


# ---- why


def encode_explanation(entry: Entry) -> gateway_pb2.ExplainResponse:
    """The message that tells why; an infinite energy limit is told as infinity."""
    decision = entry.decision
    response = gateway_pb2.ExplainResponse(
        request_id=entry.request_id,
        task=entry.task,
        outcome=entry.outcome,
        routing=encode_routing(entry.routing),
        energy=encode_energy(entry.energy),
        timing=encode_timings(entry.timings),
        age_s=time.monotonic() - entry.finished_s,
    )
    if entry.limits is not None:
        response.max_energy_j = entry.limits.max_energy_j
        response.max_latency_ms = entry.limits.max_latency_ms
        response.profile = entry.limits.profile
    if decision is None:
        return response
    names = [bound.name for bound in decision.table.bound]
    choice = decision.choice
    response.price_per_j = decision.price.per_j
    response.binding_constraint = choice.binding.value
    response.chosen = "" if decision.index is None else names[decision.index]
    response.runner_up = "" if choice.runner_up is None else names[choice.runner_up]
    response.candidates.extend(_candidates(entry, names))
    return response


def _candidates(entry: Entry, names: list[str]) -> list[gateway_pb2.Candidate]:
    decision = entry.decision
    if decision is None:
        return []
    offer, choice = decision.offer, decision.choice
    # Best first; what was chosen leads its equals.
    order = np.lexsort((-choice.score_r, ~choice.feasible_r))
    return [
        gateway_pb2.Candidate(
            route=names[r],
            quality=offer.quality_r[r],
            predicted_energy_j=offer.energy_r[r],
            bound_energy_j=offer.energy_bound_r[r],
            predicted_ms=offer.latency_r[r],
            bound_ms=offer.latency_bound_r[r],
            feasible=bool(choice.feasible_r[r]),
            excluded_by=_excluded_by(entry, int(r)),
            score=choice.score_r[r],
        )
        for r in order
    ]


def _excluded_by(entry: Entry, r: int) -> str:
    decision, limits = entry.decision, entry.limits
    if decision is None or limits is None or decision.choice.feasible_r[r]:
        return ""
    if decision.allowed_r is not None and not decision.allowed_r[r]:
        return "request"
    if not decision.offer.available_r[r]:
        return Binding.AVAILABILITY.value
    if decision.offer.energy_bound_r[r] > limits.max_energy_j:
        return Binding.ENERGY.value
    return Binding.LATENCY.value
