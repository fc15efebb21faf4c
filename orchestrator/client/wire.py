"""The client's queries as protobuf messages, and the replies to them.

A `Call` is one remote procedure with its request and the function that reads its reply, so that the blocking
and the asynchronous client differ only in how they wait. What operators call is in `client.admin.wire`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from google.protobuf.message import Message as Protobuf

from edgewise.v1 import common_pb2, gateway_pb2
from orchestrator.client import types as own
from orchestrator.errors import RequestError
from orchestrator.types import Array, AttemptRecord
from orchestrator.wire import (
    DTYPE_NUMBERS,
    FINISH_REASONS,
    FUSION_NUMBERS,
    FUSIONS,
    decode_energy,
    decode_pacing,
    decode_spec,
    decode_tensors,
    encode_budget,
    encode_tensor,
)

GATEWAY = "edgewise.v1.Gateway"

Reply_co = TypeVar("Reply_co", covariant=True)


@dataclass(frozen=True)
class Call(Generic[Reply_co]):
    """A remote procedure, its request, the class of its reply and how to read it."""

    method: str
    request: Protobuf
    response: type[Protobuf]
    decode: Callable[..., Reply_co]


@dataclass(frozen=True)
class Ask:
    """What every kind of query may say about itself; None leaves it to the gateway."""

    task: str
    budget: own.Budget | None = None
    expert: str | None = None
    fusion: own.FusionChoice | None = None
    max_experts: int | None = None
    request_id: str | None = None
    user: str | None = None
    nodes: Sequence[str] = ()
    max_mass: float | None = None
    continue_on_loss: bool = False
    samples: int = 1


def infer(inputs: Mapping[str, Array], ask: Ask) -> Call[own.Answer]:
    """The call that answers one tensor query."""
    request = gateway_pb2.InferRequest(
        request_id=ask.request_id or "",
        task=ask.task,
        expert=ask.expert or "",
        inputs=[_tensor(name, array) for name, array in inputs.items()],
        budget=_budget(ask.budget),
        fusion=_fusion(ask),
        user=ask.user or "",
        allowed_nodes=ask.nodes,
        max_mass=ask.max_mass or 0.0,
    )
    return Call(f"/{GATEWAY}/Infer", request, gateway_pb2.InferResponse, _answer)


def generate(
    messages: Sequence[own.Message], parameters: own.GenerationParameters, ask: Ask
) -> Call[own.TextDelta | own.Generated]:
    """The call that generates text; its reply is a stream and `decode` reads one event of it.

    The text of the `Generated` that ends the stream is empty here: whoever reads the stream has it.
    """
    request = gateway_pb2.GenerateRequest(
        request_id=ask.request_id or "",
        task=ask.task,
        expert=ask.expert or "",
        messages=[
            common_pb2.ChatMessage(role=turn.role, content=turn.content, extra_json=turn.extra_json)
            for turn in messages
        ],
        parameters=common_pb2.GenerationParameters(
            max_tokens=parameters.max_tokens,
            temperature=parameters.temperature,
            top_p=parameters.top_p,
            seed=parameters.seed,
            stop=parameters.stop,
            tools_json=parameters.tools_json,
            tool_choice_json=parameters.tool_choice_json,
            response_format_json=parameters.response_format_json,
        ),
        budget=_budget(ask.budget),
        fusion=_fusion(ask),
        user=ask.user or "",
    )
    return Call(f"/{GATEWAY}/Generate", request, gateway_pb2.GenerateEvent, _event)


def explain(request_id: str) -> Call[own.Explanation]:
    """The call that says why a finished request was answered as it was."""
    request = gateway_pb2.ExplainRequest(request_id=request_id)
    return Call(f"/{GATEWAY}/Explain", request, gateway_pb2.ExplainResponse, _explanation)


def tasks() -> Call[dict[str, own.TensorSpec]]:
    """The call that lists the inputs of all tensor tasks."""
    return Call(
        f"/{GATEWAY}/ListTasks",
        gateway_pb2.ListTasksRequest(),
        gateway_pb2.ListTasksResponse,
        lambda reply: {
            entry.task: decode_spec(entry.input, "input") for entry in reply.tasks if entry.HasField("input")
        },
    )


def text_tasks() -> Call[tuple[str, ...]]:
    """The call that lists the tasks that take texts."""
    return Call(
        f"/{GATEWAY}/ListTasks",
        gateway_pb2.ListTasksRequest(),
        gateway_pb2.ListTasksResponse,
        lambda reply: tuple(entry.task for entry in reply.tasks if entry.text),
    )


def feedback(request_id: str, score: float) -> Call[bool]:
    """The call that tells how good an answer was; its reply is whether the guard of the gate took it."""
    request = gateway_pb2.FeedbackRequest(request_id=request_id, score=score)
    return Call(f"/{GATEWAY}/Feedback", request, gateway_pb2.FeedbackResponse, lambda reply: bool(reply.counted))


def fit(array: Array, spec: own.TensorSpec | None) -> dict[str, Array]:
    """Name a bare array after the task's input, add the batch dimension and widen or narrow its floats.

    Args:
        array: One sample (the specification without its free first dimension) or a batch of samples.
        spec: The task's input; None where the gateway does not know the task: it will say so itself.
    """
    if spec is None:
        return {"input": array}
    if array.ndim == len(spec.shape) - 1 and spec.shape[:1] == (-1,):
        array = array[np.newaxis]
    if array.dtype != spec.dtype and np.can_cast(array.dtype, spec.dtype, "same_kind"):
        array = array.astype(spec.dtype)
    return {spec.name: array}


def _tensor(name: str, array: Array) -> common_pb2.Tensor:
    if array.dtype.newbyteorder("<") not in DTYPE_NUMBERS:
        raise RequestError("DTYPE_MISMATCH", "Arrays must hold numbers or booleans.", field=f"inputs.{name}")
    return encode_tensor(name, array)


def _fusion(ask: Ask) -> common_pb2.Fusion:
    mode = FUSION_NUMBERS[ask.fusion or own.FusionChoice.AUTO]
    return common_pb2.Fusion(
        mode=mode, max_experts=ask.max_experts or 0, continue_on_loss=ask.continue_on_loss, samples=ask.samples
    )


def _budget(budget: own.Budget | None) -> common_pb2.Budget | None:
    return None if budget is None else encode_budget(budget)


def _answer(reply: gateway_pb2.InferResponse) -> own.Answer:
    return own.Answer(
        request_id=reply.request_id,
        label=reply.label,
        confidence=reply.confidence,
        outputs=decode_tensors(reply.outputs, "outputs"),
        energy=decode_energy(reply.energy),
        routing=_routing(reply.routing),
        timing=_timing(reply.timing),
        needs_feedback=reply.needs_feedback,
    )


def _event(event: gateway_pb2.GenerateEvent) -> own.TextDelta | own.Generated:
    if event.WhichOneof("event") == "delta":
        return own.TextDelta(event.delta.text, tuple(event.delta.token_ids))
    done = event.done
    return own.Generated(
        request_id=done.request_id,
        text="",
        finish_reason=FINISH_REASONS.get(done.finish_reason, "stop"),
        prompt_tokens=done.usage.prompt_tokens,
        completion_tokens=done.usage.completion_tokens,
        energy=decode_energy(done.energy),
        routing=_routing(done.routing),
        timing=_timing(done.timing),
        cached_tokens=done.usage.cached_tokens if done.usage.HasField("cached_tokens") else None,
    )


def _timing(message: gateway_pb2.Timing) -> own.Timings:
    return own.Timings(
        total_ms=message.total_ms,
        route_ms=message.route_ms,
        wait_ms=message.wait_ms,
        infer_ms=message.infer_ms,
        fuse_ms=message.fuse_ms,
    )


def read_certificate(message: common_pb2.Certificate) -> own.CertificateRecord:
    """A plan's certificate; one without a status is none."""
    return own.CertificateRecord(
        message.status or "none",
        message.gap,
        message.explored,
        message.mode,
        message.quality_fraction,
        message.bound_fraction,
        message.price_per_j,
    )


def _routing(message: gateway_pb2.Routing) -> own.RoutingRecord:
    return own.RoutingRecord(
        attempts=tuple(_attempt(entry) for entry in message.attempts),
        fusion=FUSIONS.get(message.fusion, own.FusionChoice.AUTO),
        predicted_energy_j=message.predicted_energy_j,
        predicted_ms=message.predicted_ms,
        bound_energy_j=message.bound_energy_j,
        bound_ms=message.bound_ms,
        budget_met=message.budget_met,
        plan_id=message.plan_id,
        certificate=read_certificate(message.certificate),
        overlay=message.overlay,
        gate_sha256=message.gate_sha256,
    )


def _attempt(message: gateway_pb2.Attempt) -> AttemptRecord:
    energy = common_pb2.Energy(energy_j=message.energy_j, provenance=message.energy_provenance)
    return AttemptRecord(
        arm=message.arm,
        stage=message.stage,
        predicted_energy_j=message.predicted_energy_j,
        energy=decode_energy(energy),
        predicted_ms=message.predicted_ms,
        ms=message.ms,
        outcome=message.outcome,
        reason=message.reason,
    )


def _explanation(reply: gateway_pb2.ExplainResponse) -> own.Explanation:
    return own.Explanation(
        request_id=reply.request_id,
        task=reply.task,
        outcome=reply.outcome,
        max_energy_j=_limit(reply.max_energy_j),
        max_latency_ms=_limit(reply.max_latency_ms),
        profile=reply.profile,
        price_per_j=reply.price_per_j,
        candidates=tuple(_candidate(entry) for entry in reply.candidates),
        chosen=reply.chosen,
        runner_up=reply.runner_up,
        binding_constraint=reply.binding_constraint,
        routing=_routing(reply.routing),
        energy=decode_energy(reply.energy),
        timing=_timing(reply.timing),
        age_s=reply.age_s,
        pacing=decode_pacing(reply.pacing) if reply.HasField("pacing") else None,
        account=_account(reply.account) if reply.HasField("account") else own.Account(),
    )


def _account(message: gateway_pb2.Account) -> own.Account:
    return own.Account(message.tenant, message.key_id, tuple(message.budgets), message.reserved_j, message.charged_j)


def _limit(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _candidate(message: gateway_pb2.Candidate) -> own.Candidate:
    return own.Candidate(
        route=message.route,
        quality_fraction=message.quality,
        predicted_energy_j=message.predicted_energy_j,
        bound_energy_j=message.bound_energy_j,
        predicted_ms=message.predicted_ms,
        bound_ms=message.bound_ms,
        feasible=message.feasible,
        excluded_by=message.excluded_by,
        score=message.score,
        load_ms=message.load_ms,
        cached_tokens=message.cached_tokens,
    )
