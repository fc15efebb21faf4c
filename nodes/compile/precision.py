"""The ONNX model in another precision or with a fixed batch: the part of compiling that depends on no machine.

Needs the packages onnx and onnxruntime in the agent's own interpreter; a model that stays as it is needs neither.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.compile.errors import CompileError, RuntimeMissing
from nodes.compile.forms import Batches, Form, Precision

CALIBRATION_SAMPLES = 256
CALIBRATION_ROWS = 32

Inputs = Mapping[str, NDArray[Any]]


def converted(model: bytes, form: Form, calibration: Inputs) -> bytes:
    """The model in the form's precision, and with its batch where that is static.

    Args:
        calibration: Inputs by name, each (n, ...), that show the ranges of activations; only int8 looks at them.

    Raises:
        RuntimeMissing: The package onnx is needed and not installed.
        CompileError: The model cannot be converted.
    """
    static = form.batches is not None and form.batches.static
    if form.precision is Precision.FP32 and not static:
        return model
    if importlib.util.find_spec("onnx") is None:
        raise RuntimeMissing(f"{form.variant} needs the package onnx: pip install 'edgewise[compile]'")
    if static and form.batches is not None:
        model = _with_batch(model, form.batches)
    try:
        if form.precision is Precision.FP16:
            return _halved(model)
        return _quantised(model, calibration) if form.precision is Precision.INT8 else model
    # The converters raise whatever a model that they do not know makes of their code.
    except Exception as error:
        raise CompileError(f"the model cannot be converted to {form.precision}: {error}"[:400]) from error


def calibration_digest(form: Form, calibration: Inputs) -> str:
    """What int8 depends on beside the model; "" for other precisions."""
    if form.precision is not Precision.INT8:
        return ""
    digest = sha256()
    for name in sorted(calibration):
        array = np.ascontiguousarray(calibration[name][:CALIBRATION_SAMPLES])
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _quantised(model: bytes, calibration: Inputs) -> bytes:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder) / "int8.onnx"
        # Symmetric and signed, weights by channel: what TensorRT takes as well as ONNX Runtime.
        quantize_static(
            onnx.load_from_string(model),
            to,
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
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


class _Reader:
    """Hands the calibration inputs out in small batches."""

    def __init__(self, inputs: Inputs) -> None:
        count = min(CALIBRATION_SAMPLES, *(len(array) for array in inputs.values()))
        if not count:
            raise CompileError("int8 needs inputs to calibrate on; there are none")
        self._rows: Iterator[dict[str, NDArray[Any]]] = (
            {name: array[start : min(start + CALIBRATION_ROWS, count)] for name, array in inputs.items()}
            for start in range(0, count, CALIBRATION_ROWS)
        )

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next inputs, None at the end."""
        return next(self._rows, None)
