"""A TensorRT engine as a model of the worker. Its bytes were verified by whoever hands them in.

Not run on a GPU by us: tests run it with a module that honours the same contract and memory of the host.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.errors import ShapeError
from nodes.worker.providers import LoadRefused
from nodes.worker.tensorrt.cuda import Buffer, Stream
from nodes.worker.tensorrt.module import quiet_logger, tensorrt_module


@dataclass(frozen=True)
class _Tensor:
    """One input or output; `least` and `most` bound an input's shape."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    least: tuple[int, ...] = ()
    most: tuple[int, ...] = ()


class EngineModel:
    """An engine with one context: one run at a time, others wait.

    Args:
        content: The serialised engine.
        runtime: "tensorrt" or "rtx".

    Raises:
        LoadRefused: The module is missing or does not take this engine.
        CudaMissing, CudaFailed: There is no GPU to run it on.
    """

    def __init__(self, content: bytes, runtime: str) -> None:
        self._module = tensorrt_module(runtime)
        self._logger = quiet_logger(self._module)
        self._runtime = self._module.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise LoadRefused(f"{self._module.__name__} {self._module.__version__} does not take this engine")
        self._context = self._engine.create_execution_context()
        self._stream = Stream()
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        given = self._module.TensorIOMode.INPUT
        self._inputs = [self._tensor(name) for name in names if self._engine.get_tensor_mode(name) == given]
        self._outputs = [self._tensor(name) for name in names if self._engine.get_tensor_mode(name) != given]
        self._buffers = {name: Buffer() for name in names}
        self._lock = threading.Lock()

    def _tensor(self, name: str) -> _Tensor:
        dtype = np.dtype(self._module.nptype(self._engine.get_tensor_dtype(name)))
        shape = tuple(self._engine.get_tensor_shape(name))
        if self._engine.get_tensor_mode(name) != self._module.TensorIOMode.INPUT:
            return _Tensor(name, dtype, shape)
        least, _, most = self._engine.get_tensor_profile_shape(name, 0)
        return _Tensor(name, dtype, shape, tuple(least), tuple(most))

    def described(self) -> dict[str, Any]:
        """Names, dtypes and shapes of inputs and outputs."""
        return {"inputs": list(map(_listed, self._inputs)), "outputs": list(map(_listed, self._outputs))}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name.

        Raises:
            ShapeError: The inputs are not those of the engine, or outside of its optimisation profile.
            CudaFailed: The GPU refused.
        """
        arrays = {tensor.name: _fitting(tensor, inputs) for tensor in self._inputs}
        with self._lock:
            return self._run(arrays)

    def _run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        for name, array in arrays.items():
            self._context.set_input_shape(name, array.shape)
            self._context.set_tensor_address(name, self._buffers[name].put(array, self._stream))
        shapes = {tensor.name: tuple(self._context.get_tensor_shape(tensor.name)) for tensor in self._outputs}
        for tensor in self._outputs:
            size_bytes = int(np.prod(shapes[tensor.name])) * tensor.dtype.itemsize
            self._context.set_tensor_address(tensor.name, self._buffers[tensor.name].at_least(max(size_bytes, 1)))
        if not self._context.execute_async_v3(self._stream.handle):
            raise LoadRefused(f"{self._module.__name__} did not run the engine")
        answers = {
            tensor.name: self._buffers[tensor.name].fetch(shapes[tensor.name], tensor.dtype, self._stream)
            for tensor in self._outputs
        }
        self._stream.wait()
        return answers


def _fitting(tensor: _Tensor, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    array = inputs.get(tensor.name)
    if array is None:
        raise ShapeError(f"the input {tensor.name} is missing")
    fits = len(array.shape) == len(tensor.least) and all(
        low <= size <= high for low, size, high in zip(tensor.least, array.shape, tensor.most, strict=True)
    )
    if array.dtype != tensor.dtype or not fits:
        raise ShapeError(f"{tensor.name} must be {tensor.dtype.name} from {tensor.least} to {tensor.most}")
    return np.ascontiguousarray(array)


def _listed(tensor: _Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "type": f"tensor({tensor.dtype.name})", "shape": [str(size) for size in tensor.shape]}
