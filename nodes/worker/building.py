"""What the compile room asks of a runtime's own interpreter: who are you, and build me this.

Needs Python 3.10, numpy and the runtime that is asked for.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nodes.worker.providers import CPU, ENGINE_FOLDER, PROVIDERS, LoadRefused, one_thread, session_on
from nodes.worker.tensorrt.module import MODULES

ONNX_FILE, ENGINE_FILE = "model.onnx", "model.engine"
QUIET = 3

Progress = Callable[[str], None]


def identify(runtime: str) -> dict[str, Any]:
    """The runtime's version, and the GPU behind it where it needs one ("" where there is none).

    Raises:
        LoadRefused: The runtime is not installed here.
    """
    if runtime in MODULES:
        from nodes.worker.tensorrt.building import identity

        return dict(identity(runtime))
    import onnxruntime

    known = onnxruntime.get_available_providers()
    missing = [name for name in PROVIDERS[runtime] if name not in known]
    if missing:
        raise LoadRefused(f"this onnxruntime has no {missing[0]}; it has {', '.join(known)}")
    on_gpu = PROVIDERS[runtime] != (CPU,)
    return {"version": str(onnxruntime.__version__), **(_gpu() if on_gpu else {"capability": "", "driver": ""})}


def build(order: Mapping[str, Any], progress: Progress) -> str:
    """Build into a folder; returns the name of the file to load.

    Args:
        order: `runtime`, `source` (an ONNX file), `folder`, `batches` (least, likeliest, most), `capability`, and
            `timings`: a file whose timings may be used again, or "".

    Raises:
        LoadRefused: It cannot be built here.
    """
    runtime, folder = str(order["runtime"]), Path(order["folder"])
    source = Path(order["source"])
    if runtime in MODULES:
        return _engine(runtime, source.read_bytes(), folder, order, progress)
    progress("optimise")
    if runtime == "ort-tensorrt":
        return _provider_engines(source, folder, [int(order["batches"][0]), int(order["batches"][2])])
    return _optimised(runtime, source.read_bytes(), folder)


def _gpu() -> dict[str, str]:
    from nodes.worker.tensorrt.cuda import CudaMissing, gpu

    try:
        return gpu()
    except CudaMissing as missing:
        return {"capability": "", "driver": "", "problem": str(missing)}


def _optimised(runtime: str, model: bytes, folder: Path) -> str:
    import onnxruntime

    options = one_thread()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(folder / ONNX_FILE)
    # It warns that the result is for this kind of machine only, which the cache's key says.
    options.log_severity_level = QUIET
    session_on(model, runtime, options=options)
    return ONNX_FILE


def _provider_engines(source: Path, folder: Path, batches: list[int]) -> str:
    """The TensorRT provider makes its engines when a shape first comes by."""
    shutil.copyfile(source, folder / ONNX_FILE)
    (folder / ENGINE_FOLDER).mkdir()
    session = session_on((folder / ONNX_FILE).read_bytes(), "ort-tensorrt", folder=folder)
    for batch in batches:
        session.run(None, {value.name: _zeros(value, batch) for value in session.get_inputs()})
    return ONNX_FILE


def _zeros(value: Any, batch: int) -> Any:
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    dtype = {"float": "float32", "double": "float64"}.get(kind, kind)
    return np.zeros([size if isinstance(size, int) else batch for size in value.shape], dtype)


def _engine(runtime: str, model: bytes, folder: Path, order: Mapping[str, Any], progress: Progress) -> str:
    from nodes.worker.tensorrt.building import TIMINGS_FILE, EngineOrder, build_engine

    least, likeliest, most = (int(batch) for batch in order["batches"])
    timings = folder / TIMINGS_FILE
    if order.get("timings"):
        shutil.copyfile(order["timings"], timings)
    wanted = EngineOrder(runtime, (least, likeliest, most), str(order.get("capability", "")), timings)
    (folder / ENGINE_FILE).write_bytes(build_engine(model, wanted, progress))
    return ENGINE_FILE
