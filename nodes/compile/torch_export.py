"""PyTorch models come in through ONNX, and only if both give the same answers.

Needs the extra `train` (torch, onnx, onnxscript). Weights come from safetensors files alone, which can run nothing;
the factory is code that whoever calls has written.

Shape letters: n samples.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.compile.errors import CompileError
from nodes.errors import ConfigError

OPSET = 18
EXAMPLE_ROWS = 2
# A batch that the export has not seen: a dimension that was frozen by accident fails here.
CHECKED_ROWS = 5
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Export:
    """What to export.

    Attributes:
        factory: ``module:name`` of what makes the module, without arguments.
        weights: safetensors file; None takes the factory's own.
        to: ONNX file to write.
    """

    factory: str
    weights: Path | None
    to: Path


def export(order: Export, inputs: Mapping[str, NDArray[Any]], *, tolerance: float = TOLERANCE) -> float:
    """Write the model as ONNX with a free batch, and compare it with PyTorch in ONNX Runtime.

    Args:
        inputs: (n, ...) by name, in the order of the module's arguments.

    Returns:
        The largest difference between any two outputs.

    Raises:
        ConfigError: A package, the factory or the weights are missing or do not fit.
        CompileError: The model cannot be exported, or answers differently; nothing is written then.
    """
    _require("torch", "onnx", "onnxscript")
    import torch

    module = made(order.factory, order.weights).eval()
    names = list(inputs)
    example = tuple(torch.from_numpy(np.ascontiguousarray(inputs[name][:EXAMPLE_ROWS])) for name in names)
    if any(len(tensor) < EXAMPLE_ROWS for tensor in example):
        raise ConfigError(f"compile --from-torch: the inputs need at least {EXAMPLE_ROWS} samples")
    draft = order.to.with_name(f".{order.to.name}.draft")
    try:
        _write(module, example, names, draft)
        difference = _difference(module, draft, inputs, tolerance=tolerance)
        draft.replace(order.to)
    finally:
        draft.unlink(missing_ok=True)
    return difference


def made(factory: str, weights: Path | None) -> Any:
    """The module with its weights.

    Raises:
        ConfigError: The factory cannot be found, or the weights are not exactly the module's.
    """
    name, colon, attribute = factory.partition(":")
    try:
        if not colon:
            raise AttributeError("there is no colon")
        module = getattr(importlib.import_module(name), attribute)()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"--from-torch: {factory!r} is not MODULE:FACTORY that can be imported: {error}") from error
    if weights is not None:
        module.load_state_dict(_weights(weights, module.state_dict()))
    return module


def _weights(file: Path, expected: Mapping[str, Any]) -> Mapping[str, Any]:
    import torch

    _require("safetensors")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: Mapping[str, Any] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"--weights: {file} is no safetensors file that can be read: {error}") from error
    differing = sorted(name for name in found.keys() ^ expected.keys())
    if differing:
        raise ConfigError(f"--weights: {file} and the module do not have the same tensors: {', '.join(differing[:5])}")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape or not bool(torch.isfinite(tensor).all()):
            raise ConfigError(f"--weights: {name} must be finite and of shape {tuple(expected[name].shape)}")
    return found


def _write(module: Any, example: tuple[Any, ...], names: list[str], to: Path) -> None:
    import torch

    batch = torch.export.Dim("batch", min=1, max=65536)
    try:
        torch.onnx.export(
            module,
            example,
            to,
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=names,
            output_names=["output"],
            dynamic_shapes=tuple({0: batch} for _ in example),
            verbose=False,
        )
    except Exception as error:  # Exporting runs the user's code.
        raise CompileError(f"torch.onnx.export: {type(error).__name__}: {error}"[:400]) from error


def _difference(module: Any, file: Path, inputs: Mapping[str, NDArray[Any]], *, tolerance: float) -> float:
    import onnxruntime
    import torch

    rows = {name: np.ascontiguousarray(array[:CHECKED_ROWS]) for name, array in inputs.items()}
    with torch.no_grad():
        expected = module(*(torch.from_numpy(array) for array in rows.values())).numpy()
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, rows)
    if found.shape != expected.shape:
        raise CompileError(f"the exported model answers {found.shape}, PyTorch {expected.shape}")
    difference = float(np.abs(found - expected).max())
    if not difference <= tolerance:
        raise CompileError(f"the exported model differs from PyTorch by {difference:.2g}; {tolerance:g} is allowed")
    return difference


def _require(*packages: str) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f"--from-torch needs {', '.join(missing)}: pip install 'edgewise[train]'")
