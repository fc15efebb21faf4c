"""Client messages to validated queries, replies and explanations to messages."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np

from edgewise.v1 import common_pb2, gateway_pb2
from orchestrator.errors import RequestError
from orchestrator.gateway.samples import MAX_SAMPLES, sampled
from orchestrator.types import (
    WHOLE,
    Array,
    FusionChoice,
    GenerationParameters,
    Message,
    Query,
    Task,
    TensorSpec,
    TextQuery,
)
from orchestrator.wire import (
    FUSIONS,
    check_name,
    decode_budget,
    decode_tensors,
)

MAX_REQUEST_ID_CHARS = 64
MAX_USER_CHARS = 128
MAX_TOKENS = 131_072
MAX_MESSAGES = 4096
MAX_STOP = 16
MAX_TOP_LOGPROBS = 20
DEFAULT_MAX_TOKENS = 256
MAX_TAGS = 64
MAX_NODES = 256
RANDOM_ID_BYTES = 16
SMALL_ELEMENTS = 256
TENSOR_FUSIONS = (FusionChoice.AUTO, FusionChoice.NONE, FusionChoice.MIXTURE, FusionChoice.VOTE)


def decode_infer(message: gateway_pb2.InferRequest, *, tasks: dict[str, Task], deadline_s: float) -> Query:
    """A validated tensor query.

    Raises:
        RequestError: See the catalogue.
    """
    task = _task(message.task, tasks, text=False)
    fusion = message.fusion.mode
    if message.fusion.samples > 1:
        raise RequestError("FIELD_OUT_OF_RANGE", "fusion.samples is for texts alone.", field="fusion.samples")
    if FUSIONS.get(fusion) not in TENSOR_FUSIONS:
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
        user=check_user(message.user) if message.user else "",
        allowed_nodes=named("allowed_nodes", message.allowed_nodes, MAX_NODES),
        max_mass=_mass(message.max_mass),
    )


def _mass(asked: float) -> float:
    if not 0.0 <= asked <= WHOLE:  # Not-a-number neither.
        text = f"max_mass must be above 0 and at most 1 (0 is no limit), not {asked:g}."
        raise RequestError("FIELD_OUT_OF_RANGE", text, field="max_mass")
    return asked or WHOLE


def check_user(user: str) -> str:
    """`user` if it may be the name of a user.

    Raises:
        RequestError: NAME_INVALID.
    """
    if not 1 <= len(user) <= MAX_USER_CHARS or not user.isprintable():
        raise RequestError("NAME_INVALID", f"user must be 1 to {MAX_USER_CHARS} printable characters.", field="user")
    return user


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
    if message.fusion.mode not in FUSIONS:
        raise RequestError("FIELD_OUT_OF_RANGE", "fusion.mode is none of those known.", field="fusion.mode")
    parameters, samples = _parameters(message.parameters), message.fusion.samples
    query = TextQuery(
        request_id=request_id(message.request_id),
        task=task,
        expert=check_name(message.expert, "expert") if message.expert else None,
        messages=tuple(Message(turn.role, turn.content, turn.extra_json) for turn in message.messages),
        parameters=parameters,
        budget=decode_budget(message.budget),
        deadline_s=deadline_s,
        fusion=FUSIONS[message.fusion.mode],
        max_experts=message.fusion.max_experts,
        continue_on_loss=message.fusion.continue_on_loss,
        needs=capabilities_needed(parameters),
        allowed_nodes=named("allowed_nodes", message.allowed_nodes, MAX_NODES),
        required_tags=named("required_tags", message.required_tags, MAX_TAGS),
        user=check_user(message.user) if message.user else "",
    )
    if samples > MAX_SAMPLES:
        text = f"fusion.samples must be a whole number between 1 and {MAX_SAMPLES}."
        raise RequestError("FIELD_OUT_OF_RANGE", text, field="fusion.samples")
    return sampled(query, samples, once=not message.request_id, parameters="parameters.") if samples > 1 else query


def named(field: str, names: Sequence[str], most: int) -> frozenset[str]:
    """A set of names as a request gives it.

    Raises:
        RequestError: NAME_INVALID or FIELD_OUT_OF_RANGE.
    """
    bounded(field, len(names), 0, most)
    return frozenset(check_name(name, field) for name in names)


def capabilities_needed(parameters: GenerationParameters) -> frozenset[str]:
    """What an arm must be able to do for these parameters."""
    needs = {"tools"} if parameters.tools_json or parameters.tool_choice_json else set()
    if parameters.response_format_json:
        needs.add("json_schema")
    if parameters.top_logprobs is not None:
        needs.add("logprobs")
    return frozenset(needs)


class RandomIds:
    """Unguessable ids of 128 bits, drawn many at a time: one system call for 256 of them."""

    def __init__(self) -> None:
        self._ready: list[str] = []

    def take(self) -> str:
        """32 hexadecimal digits."""
        if not self._ready:
            drawn = os.urandom(256 * RANDOM_ID_BYTES).hex()
            starts = range(0, len(drawn), 2 * RANDOM_ID_BYTES)
            self._ready = [drawn[start : start + 2 * RANDOM_ID_BYTES] for start in starts]
        return self._ready.pop()


fresh_id = RandomIds().take


def request_id(given: str) -> str:
    """The client's request id, or a new one.

    Raises:
        RequestError: NAME_INVALID.
    """
    if not given:
        return fresh_id()
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
    arrays = decode_tensors(message.inputs, "inputs") if len(message.inputs) == 1 else {}
    return fitting(arrays, len(message.inputs), spec)


def fitting(inputs: dict[str, Array], count: int, spec: TensorSpec) -> Array:
    """The one tensor of a query, in the shape that its task takes.

    Args:
        inputs: Tensors by name.
        count: How many were sent.
        spec: What the task takes.

    Raises:
        RequestError: SHAPE_MISMATCH, DTYPE_MISMATCH or INPUT_NOT_FINITE.
    """
    if count != 1 or spec.name not in inputs:
        raise RequestError(
            "SHAPE_MISMATCH", f"inputs must be exactly one tensor named '{spec.name}'.", field="inputs[0].name"
        )
    array = inputs[spec.name]
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
    if array.shape not in spec.accepted:
        expected = math.prod(spec.one)
        raise RequestError(
            "SHAPE_MISMATCH",
            f"input '{spec.name}' has {array.size} elements in shape {list(array.shape)};"
            f" expected {expected} in shape {list(spec.one)}, one query at a time.",
            field="inputs[0].shape",
            metadata={"gotElements": str(array.size), "expectedElements": str(expected)},
        )
    if array.dtype.kind == "f" and not _finite(array):
        raise RequestError("INPUT_NOT_FINITE", f"input '{spec.name}' must not hold NaN or infinity.", field="inputs[0]")
    return array.reshape(spec.one)


def _finite(array: Array) -> bool:
    # A small tensor is looked through faster as a list than numpy's machinery is set in motion.
    if array.size <= SMALL_ELEMENTS:
        return all(map(math.isfinite, array.reshape(-1).tolist()))
    return bool(np.isfinite(array).all())


def _parameters(message: common_pb2.GenerationParameters) -> GenerationParameters:
    temperature = message.temperature if message.HasField("temperature") else None
    top_p = message.top_p if message.HasField("top_p") else None
    bounded("parameters.max_tokens", message.max_tokens, 0, MAX_TOKENS)
    bounded("parameters.temperature", temperature, 0.0, 2.0)
    bounded("parameters.top_p", top_p, 0.0, 1.0)
    bounded("parameters.stop", len(message.stop), 0, MAX_STOP)
    bounded("parameters.top_logprobs", message.top_logprobs, 0, MAX_TOP_LOGPROBS)
    return GenerationParameters(
        max_tokens=message.max_tokens or DEFAULT_MAX_TOKENS,
        temperature=temperature,
        top_p=top_p,
        seed=message.seed if message.HasField("seed") else None,
        stop=tuple(message.stop),
        tools_json=message.tools_json,
        tool_choice_json=message.tool_choice_json,
        response_format_json=message.response_format_json,
        top_logprobs=message.top_logprobs if message.HasField("top_logprobs") else None,
    )


def bounded(field: str, value: float | None, low: float, high: float) -> None:
    """Refuses a number beyond its range; None is not said."""
    if value is not None and not low <= value <= high:
        raise RequestError("FIELD_OUT_OF_RANGE", f"{field} must be between {low:g} and {high:g}.", field=field)
