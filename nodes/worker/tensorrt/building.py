"""Builds a TensorRT engine from an ONNX model, with either module.

Precision is the model's own: networks are strongly typed, so half precision comes as a model in half precision, and
int8 as explicit QuantizeLinear and DequantizeLinear. Needs a GPU with `tensorrt`, none with `tensorrt_rtx`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodes.worker.providers import LoadRefused
from nodes.worker.tensorrt.module import quiet_logger, tensorrt_module

TIMINGS_FILE = "timing.cache"
WORKSPACE_BYTES = 1 << 30

Progress = Callable[[str], None]


@dataclass(frozen=True)
class EngineOrder:
    """What to build.

    Attributes:
        runtime: "tensorrt" or "rtx".
        batches: Smallest, likeliest and largest batch that the engine takes; its one optimisation profile.
        capability: Compute capability such as "8.9" to build for without a GPU ("rtx" only); "" for the GPU here.
        timings: File of the timing cache, read and written; None keeps none.
    """

    runtime: str
    batches: tuple[int, int, int]
    capability: str = ""
    timings: Path | None = None


def build_engine(model: bytes, order: EngineOrder, progress: Progress) -> bytes:
    """The serialised engine.

    Raises:
        LoadRefused: The module is missing, or the model or the request cannot be built; the text is TensorRT's.
    """
    module = tensorrt_module(order.runtime)
    # Kept in names: the builder's parts keep only bare references to each other.
    logger = quiet_logger(module)
    builder = module.Builder(logger)
    network = builder.create_network(_flags(module))
    parser = module.OnnxParser(network, logger)
    progress("parse")
    # It takes bytes that are no model at all for a model without outputs.
    if not parser.parse(model) or not network.num_outputs:
        raise LoadRefused(
            "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))[:400] or "no ONNX model"
        )
    config = builder.create_builder_config()
    config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.add_optimization_profile(_profile(builder, network, order.batches))
    _target(module, config, order.capability)
    timings = _timings(config, order.timings)
    progress("build")
    # Kept in a name as well; configurations of older versions know no monitor.
    monitor = _monitor(module, progress)
    if monitor is not None and hasattr(config, "progress_monitor"):
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise LoadRefused(f"{module.__name__} {module.__version__} could not build an engine of this model")
    if timings is not None and order.timings is not None:
        order.timings.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def identity(runtime: str) -> dict[str, str]:
    """Version of the module, and the GPU's compute capability and driver; empty where there is no GPU."""
    from nodes.worker.tensorrt.cuda import CudaMissing, gpu

    version = str(tensorrt_module(runtime).__version__)
    try:
        return {"version": version, **gpu()}
    except CudaMissing as missing:
        return {"version": version, "capability": "", "driver": "", "problem": str(missing)}


def _monitor(module: Any, progress: Progress) -> Any:
    """Passes TensorRT's own account of a build on, ten times at most for each of its outermost phases."""
    if not hasattr(module, "IProgressMonitor"):
        return None

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = max(num_steps, 1)

        def step_complete(self, phase_name: str, step: int) -> bool:
            count = self.steps.get(phase_name)
            if count is not None and step % max(1, count // 10) == 0:
                progress(f"build: {phase_name}, {step} of {count}")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


def _flags(module: Any) -> int:
    # Newer modules know no other kind of network and may have dropped the flag.
    strongly = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if strongly is None else 1 << int(strongly)


def _profile(builder: Any, network: Any, batches: tuple[int, int, int]) -> Any:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shapes = [_sized(tuple(tensor.shape), batch) for batch in batches]
        profile.set_shape(tensor.name, *shapes)
    return profile


def _sized(shape: Sequence[int], batch: int) -> tuple[int, ...]:
    free = [axis for axis, size in enumerate(shape) if size < 0]
    if free not in ([], [0]):
        raise LoadRefused(f"only the first dimension may be free, not those of {tuple(shape)}")
    return (batch, *shape[1:]) if free else tuple(shape)


def _target(module: Any, config: Any, capability: str) -> None:
    if not capability:
        return
    kinds = getattr(module, "ComputeCapability", None)
    known = {} if kinds is None else {name: kind for name, kind in kinds.__members__.items() if name.startswith("SM")}
    name = "SM" + capability.replace(".", "")
    if name not in known:
        listed = ", ".join(known) or "none"
        raise LoadRefused(f"{module.__name__} builds for the GPU here or for one of: {listed}; asked for {name}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(known[name], 0)


def _timings(config: Any, file: Path | None) -> Any:
    # TensorRT-RTX has none: what it measures is measured where the engine runs.
    if file is None or not hasattr(config, "create_timing_cache"):
        return None
    cache = config.create_timing_cache(file.read_bytes() if file.exists() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache
