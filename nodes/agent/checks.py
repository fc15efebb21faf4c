"""Checks a piece of work against what the task takes, before any of it is handed to an engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.agent.messages import RawTensor, TextRequest
from nodes.arms import TaskSpec, TensorSpec
from nodes.errors import InputInvalid

MAX_INPUT_BYTES = 8 * 1024 * 1024
MAX_QUESTION_BYTES = 64 * 1024


class Unfit(InputInvalid):
    """A check of ours found the fault: its text may be told to the gateway."""


def checked_inputs(task: TaskSpec, given: object) -> dict[str, NDArray[Any]]:
    """The tensors of a piece of work, ready for the engine.

    Raises:
        Unfit: if they do not fit; the text says what was expected and never echoes the input.
    """
    spec = task.input
    if spec is None or not isinstance(given, tuple):
        raise Unfit("This expert takes text" if spec is None else "This expert takes tensors")
    return {spec.name: _checked_tensor(spec, given)}


def checked_kept(task: TaskSpec, given: object) -> NDArray[Any]:
    """What is kept of a request that ran elsewhere: its tensor, or its question as bytes.

    Raises:
        Unfit: as `checked_inputs`, or the question is no text or too long.
    """
    if not task.text:
        return next(iter(checked_inputs(task, given).values()))
    if not isinstance(given, tuple) or len(given) != 1 or not 0 < len(given[0].data) <= MAX_QUESTION_BYTES:
        raise Unfit(f"A question to keep has 1 to {MAX_QUESTION_BYTES} bytes")
    return np.frombuffer(given[0].data, np.uint8)


def checked_text(task: TaskSpec, given: object) -> TextRequest:
    """The text request of a piece of work.

    Raises:
        Unfit: if there is none, it has no messages, or a number in it is out of range.
    """
    if not task.text or not isinstance(given, TextRequest):
        raise Unfit("This expert takes text" if task.text else "This expert takes tensors")
    if not given.messages:
        raise Unfit("A text request needs at least one message")
    for value, top in ((given.temperature, 100.0), (given.top_p, 1.0)):
        # Written so that NaN fails.
        if value is not None and not 0.0 <= value <= top:
            raise Unfit("temperature and top_p must be finite, not negative, and top_p at most 1")
    return given


def batch_size(task: TaskSpec, inputs: dict[str, NDArray[Any]]) -> int:
    """How many samples checked inputs hold: the product of the free dimensions."""
    spec = task.input
    if spec is None:
        return 1
    sizes = zip(spec.shape, inputs[spec.name].shape, strict=True)
    return prod(size for expected, size in sizes if expected < 0)


def _checked_tensor(spec: TensorSpec, given: Sequence[RawTensor]) -> NDArray[Any]:
    if len(given) != 1 or given[0].name != spec.name:
        raise Unfit(f"Expected exactly one tensor, named {spec.name}")
    raw = given[0]
    if raw.dtype != spec.dtype:
        raise Unfit(f"{spec.name} must be {spec.dtype}")
    if len(raw.shape) != len(spec.shape) or not all(map(_fits, spec.shape, raw.shape)):
        raise Unfit(f"{spec.name} must have the shape {list(spec.shape)}, where -1 is free")
    dtype = _little_endian(spec.dtype)
    expected_bytes = prod(raw.shape) * dtype.itemsize
    if expected_bytes > MAX_INPUT_BYTES or len(raw.data) != expected_bytes:
        raise Unfit(f"{spec.name} has {len(raw.data)} bytes; its shape asks for {expected_bytes}")
    array = np.frombuffer(raw.data, dtype).reshape(raw.shape)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Unfit(f"{spec.name} must be finite")
    return array


@cache
def _little_endian(dtype: str) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")


def _fits(expected: int, size: int) -> bool:
    return size >= 1 if expected < 0 else size == expected
