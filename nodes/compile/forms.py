"""What can be asked for: a runtime, a precision, and the batches that it must take.

Written as ``[EXPERT:]RUNTIME[-PRECISION][@BATCHES]``, such as ``ort``, ``digits-wide:int8`` or ``rtx-fp16@1-16``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from nodes.errors import ConfigError

AUTO = "auto"
MAX_BATCH = 4096


class Runtime(StrEnum):
    """What runs a compiled form; the values are those that the worker knows."""

    ORT = "ort"
    CUDA = "cuda"
    ORT_TENSORRT = "ort-tensorrt"
    TENSORRT = "tensorrt"
    RTX = "rtx"

    @property
    def on_gpu(self) -> bool:
        """Whether it needs a GPU to run."""
        return self is not Runtime.ORT

    @property
    def wants_profile(self) -> bool:
        """Whether its engines are made for a range of batches."""
        return self in (Runtime.ORT_TENSORRT, Runtime.TENSORRT, Runtime.RTX)


class Precision(StrEnum):
    """Of weights and activations; int8 as explicit QuantizeLinear and DequantizeLinear."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


@dataclass(frozen=True)
class Batches:
    """Smallest, likeliest and largest batch; all equal is a static shape."""

    least: int
    likeliest: int
    most: int

    @property
    def static(self) -> bool:
        """Whether only one batch is taken."""
        return self.least == self.most

    def __str__(self) -> str:
        return str(self.least) if self.static else f"{self.least}-{self.most}"


DEFAULT_BATCHES = Batches(1, 1, 16)


@dataclass(frozen=True)
class Form:
    """One compiled form; `batches` is None where any batch is taken."""

    runtime: Runtime
    precision: Precision
    batches: Batches | None = None

    @property
    def variant(self) -> str:
        """What its arm is called after the expert's name."""
        return f"{self.runtime}-{self.precision}" + ("" if self.batches is None else f"-b{self.batches}")


@dataclass(frozen=True)
class Wish:
    """A form that somebody asked for.

    Attributes:
        form: None where the node may choose.
        expert: For this expert only; "" for every expert that can be compiled.
    """

    form: Form | None
    expert: str = ""

    @property
    def explicit(self) -> bool:
        """Whether a form that loses too much is an error rather than left out."""
        return bool(self.expert)


def parse_wishes(texts: Sequence[str]) -> tuple[Wish, ...]:
    """Wishes in their order, each once.

    Raises:
        ConfigError: One cannot be read; the text says what would be right.
    """
    parts = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    return tuple(dict.fromkeys(_wish(part) for part in parts))


def _wish(text: str) -> Wish:
    expert, colon, written = text.rpartition(":")
    if colon and not expert:
        raise ConfigError(f"--compile: {text!r} names no expert before the colon")
    return Wish(None if written == AUTO else _form(text, written), expert)


def _form(text: str, written: str) -> Form:
    name, at, batches = written.partition("@")
    for runtime in sorted(Runtime, key=len, reverse=True):
        for precision in Precision:
            if name in (f"{runtime}-{precision}", *_short(runtime, precision)):
                return Form(runtime, precision, _batches(text, batches) if at else _default(runtime))
    runtimes, precisions = ", ".join(Runtime), ", ".join(Precision)
    raise ConfigError(
        f"--compile: {text!r} is no form; use auto or [EXPERT:]RUNTIME[-PRECISION][@BATCHES] with a runtime of"
        f" {runtimes} and a precision of {precisions}, such as int8 or rtx-fp16@1-16"
    )


def _short(runtime: Runtime, precision: Precision) -> tuple[str, ...]:
    if precision is Precision.FP32:
        return (str(runtime),)
    return (str(precision),) if runtime is Runtime.ORT else ()


def _default(runtime: Runtime) -> Batches | None:
    return DEFAULT_BATCHES if runtime.wants_profile else None


def _batches(text: str, written: str) -> Batches:
    least, _, most = written.partition("-")
    try:
        found = Batches(int(least), int(least), int(most or least))
    except ValueError:
        found = Batches(0, 0, 0)
    if not 1 <= found.least <= found.most <= MAX_BATCH:
        raise ConfigError(f"--compile: {text!r}: batches are N or N-M from 1 to {MAX_BATCH}, such as @1 or @1-16")
    return found
