"""The ONNX model in another precision or with a fixed batch: the part of compiling that depends on no machine.

Needs the packages onnx and onnxruntime in the agent's own interpreter; a model that stays as it is needs neither.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nodes.compile.errors import CompileError, RuntimeMissing
from nodes.compile.forms import Batches, Form, Precision
from nodes.zoo.digest import tensor_digest

# Raised when what this module does to a model changes.
RECIPE = 1
CALIBRATION_SAMPLES = 256
CALIBRATION_ROWS = 32
# What multiplies; a Resize in int8 takes longer than it saves.
QUANTISED = ("Conv", "Gemm", "MatMul")

Inputs = Mapping[str, NDArray[Any]]


def converted(model: bytes, form: Form, calibration: Inputs) -> bytes:
    """The model in the form's precision, and with its batch where that is static.

    Args:
        calibration: Inputs by name, each (n, ...), that show the ranges of activations; only int8 looks at them.

    Raises:
        RuntimeMissing: The package onnx is needed and not installed.
        CompileError: The model cannot be converted.
    """
    if _unchanged(form):
        return model
    if importlib.util.find_spec("onnx") is None:
        raise RuntimeMissing(f"{form.variant} needs the package onnx: pip install 'edgewise[compile]'")
    try:
        if form.precision is Precision.FP16:
            model = _halved(model)
        elif form.precision is Precision.INT8:
            model = _quantised(model, calibration, with_bias=not form.runtime.wants_profile)
        return model if form.batches is None or not form.batches.static else _with_batch(model, form.batches)
    except CompileError:
        raise
    except Exception as error:  # The converters raise whatever a model that they do not know makes of their code.
        raise CompileError(f"the model cannot be made {form.variant}: {error}"[:400]) from error


def conversion(form: Form, calibration: Inputs) -> str:
    """What the converted model depends on beside the model; "" where it stays as it is."""
    if _unchanged(form):
        return ""
    made_with = " ".join(f"{package} {_version(package)}" for package in ("onnx", "onnxruntime"))
    calibrated = f" calibrated on {_calibration_digest(calibration)}" if form.precision is Precision.INT8 else ""
    return f"recipe {RECIPE} {made_with}{calibrated}"


def _unchanged(form: Form) -> bool:
    return form.precision is Precision.FP32 and (form.batches is None or not form.batches.static)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _calibration_digest(calibration: Inputs) -> str:
    return tensor_digest({name: array[:CALIBRATION_SAMPLES] for name, array in calibration.items()})


def _quantised(model: bytes, calibration: Inputs, *, with_bias: bool) -> bytes:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    loaded = onnx.load_from_string(model)
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder) / "int8.onnx"
        # It advises on the root logger what is done here already, or would need another package.
        logging.getLogger().addFilter(_is_no_advice)
        # Symmetric and signed, weights by channel: what TensorRT takes as well as ONNX Runtime.
        quantize_static(
            loaded,
            to,
            _Reader(calibration, rows=_fixed_batch(loaded) or CALIBRATION_ROWS),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(QUANTISED),
            # A bias in 32 bits is what ONNX Runtime's kernels want, and what TensorRT's parser refuses.
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": with_bias},
        )
        return to.read_bytes()


def _halved(model: bytes) -> bytes:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    # Inputs and outputs stay as the task has them.
    half = convert_float_to_float16(onnx.load_from_string(model), keep_io_types=True)
    return bytes(half.SerializeToString())


def _with_batch(model: bytes, batches: Batches) -> bytes:
    import onnx

    loaded = onnx.load_from_string(model)
    for value in (*loaded.graph.input, *loaded.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].dim_value:
            dims[0].dim_value = batches.least
    try:
        inferred = onnx.shape_inference.infer_shapes(loaded, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise CompileError(f"the model does not take a batch of {batches.least}: {error}"[:400]) from error
    return bytes(inferred.SerializeToString())


def _fixed_batch(loaded: Any) -> int:
    dims = loaded.graph.input[0].type.tensor_type.shape.dim
    return int(dims[0].dim_value) if dims else 0


def _is_no_advice(record: logging.LogRecord) -> bool:
    return "pre-processing" not in record.getMessage()


class _Reader:
    """Hands the calibration inputs out, so many at a time."""

    def __init__(self, inputs: Inputs, *, rows: int) -> None:
        count = min(CALIBRATION_SAMPLES, *(len(array) for array in inputs.values())) // rows * rows
        if not count:
            raise CompileError(f"int8 needs at least {rows} inputs to calibrate on")
        self._rows: Iterator[dict[str, NDArray[Any]]] = (
            {name: array[start : start + rows] for name, array in inputs.items()} for start in range(0, count, rows)
        )

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next inputs, None at the end."""
        return next(self._rows, None)
