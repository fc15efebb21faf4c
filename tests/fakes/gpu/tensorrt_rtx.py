"""TensorRT's interface, as far as the worker uses it, on ONNX Runtime. Strict: what the real one refuses it refuses.

Runs in the worker's process, so it imports nothing of this project. `tensorrt` is made of it by the tests.
"""

from __future__ import annotations

import ctypes
import json
import os
from enum import IntEnum
from typing import Any

import numpy as np
import onnxruntime

__version__ = os.environ.get("FAKE_TENSORRT_VERSION", "1.7.1")
MAGIC = b"FAKE ENGINE\n"
STREAM = 0x57


class Logger:
    ERROR = 1

    def __init__(self, min_severity: int) -> None:
        self.severity = min_severity


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 0


class MemoryPoolType(IntEnum):
    WORKSPACE = 0


class TensorIOMode(IntEnum):
    INPUT = 1
    OUTPUT = 2


class ComputeCapability(IntEnum):
    CURRENT = -1
    SM86 = 86
    SM89 = 89


def nptype(dtype: str) -> Any:
    return np.dtype(dtype)


def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _dtype(value: Any) -> str:
    kind = str(value.type).removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(kind, kind)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else -1 for size in value.shape)


class _Problem:
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text


class _Input:
    def __init__(self, value: Any) -> None:
        self.name, self.shape = value.name, _shape(value)


class Network:
    def __init__(self) -> None:
        self.model = b""
        self.inputs: list[_Input] = []
        self.num_outputs = 0

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_input(self, index: int) -> _Input:
        return self.inputs[index]


class OnnxParser:
    def __init__(self, network: Network, _logger: Logger) -> None:
        self._network = network
        self._problems: list[_Problem] = []

    def parse(self, model: bytes) -> bool:
        try:
            session = _session(model)
        except Exception as error:
            self._problems = [_Problem(str(error))]
            return False
        self._network.model = model
        self._network.inputs = [_Input(value) for value in session.get_inputs()]
        self._network.num_outputs = len(session.get_outputs())
        return True

    @property
    def num_errors(self) -> int:
        return len(self._problems)

    def get_error(self, index: int) -> _Problem:
        return self._problems[index]


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002 (the module's own names)
        self.shapes[input] = [list(min), list(opt), list(max)]


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b"timed;"


class Config:
    def __init__(self) -> None:
        self.profiles: list[Profile] = []
        self.num_compute_capabilities = 0
        self._timings: TimingCache | None = None

    def set_memory_pool_limit(self, _pool: MemoryPoolType, _pool_size: int) -> None:
        return None

    def add_optimization_profile(self, profile: Profile) -> None:
        self.profiles.append(profile)

    def set_compute_capability(self, _compute_capability: ComputeCapability, index: int) -> None:
        assert index < self.num_compute_capabilities

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
        return TimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> None:
        assert ignore_mismatch is False
        self._timings = cache

    def get_timing_cache(self) -> TimingCache:
        assert self._timings is not None
        return self._timings


class Builder:
    def __init__(self, _logger: Logger) -> None:
        return None

    def create_network(self, flags: int) -> Network:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return Network()

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        (profile,) = config.profiles
        if any(-1 in tensor.shape and tensor.name not in profile.shapes for tensor in network.inputs):
            return None
        about = {"version": __version__, "profile": profile.shapes}
        with open(os.environ["FAKE_TENSORRT_LOG"], "a") as log:
            log.write("built\n")
        return MAGIC + json.dumps(about).encode() + b"\n" + network.model


class Runtime:
    def __init__(self, _logger: Logger) -> None:
        return None

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        content = serialized_engine
        with open(os.environ["FAKE_TENSORRT_LOG"], "a") as log:
            log.write("deserialised " + ("whole\n" if content.startswith(MAGIC) else "garbage\n"))
        if not content.startswith(MAGIC):
            return None
        about, _, model = content.removeprefix(MAGIC).partition(b"\n")
        told = json.loads(about)
        return Engine(told["profile"], model) if told["version"] == __version__ else None


class Engine:
    def __init__(self, profile: dict[str, list[list[int]]], model: bytes) -> None:
        self.profile = profile
        self.session = _session(model)
        self.values = {value.name: value for value in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.input_names = [value.name for value in self.session.get_inputs()]

    @property
    def num_io_tensors(self) -> int:
        return len(self.values)

    def get_tensor_name(self, index: int) -> str:
        return str(list(self.values)[index])

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.input_names else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        return _dtype(self.values[name])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return _shape(self.values[name])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        assert profile_index == 0
        return self.profile[name]

    def create_execution_context(self) -> Context:
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.profile[name]
        assert all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))
        self._shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert memory
        self._addresses[name] = memory
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = next(iter(self._shapes.values()))[0]
        return tuple(batch if size < 0 else size for size in self._engine.get_tensor_shape(name))

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == STREAM
        assert set(self._addresses) == set(self._engine.values), "every tensor needs an address"
        ctypes.CDLL("libcudart.so.13").cudaStreamSynchronize(None)  # Work runs after the copies before it.
        inputs = {name: self._view(name, self._shapes[name]) for name in self._engine.input_names}
        names = [name for name in self._engine.values if name not in self._engine.input_names]
        for name, answer in zip(names, self._engine.session.run(names, inputs), strict=True):
            self._view(name, self.get_tensor_shape(name))[...] = answer
        return True

    def _view(self, name: str, shape: tuple[int, ...]) -> Any:
        dtype = np.dtype(self._engine.get_tensor_dtype(name))
        size_bytes = int(np.prod(shape)) * dtype.itemsize
        memory: Any = (ctypes.c_char * size_bytes).from_address(self._addresses[name])
        return np.frombuffer(memory, dtype).reshape(shape)
