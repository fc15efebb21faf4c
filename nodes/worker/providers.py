"""ONNX Runtime sessions by the runtime that an arm asks for, and the check that they run there and nowhere else.

Needs Python 3.10, numpy and onnxruntime (for a GPU: its build for CUDA).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

# What a session of each runtime must run on. "" is a model as it came, "ort" one that was optimised before.
PROVIDERS: Mapping[str, tuple[str, ...]] = {
    "": (CPU,),
    "ort": (CPU,),
    "cuda": (CUDA,),
    "ort-tensorrt": (TENSORRT, CUDA),
}
ENGINE_FOLDER = "engines"


class LoadRefused(Exception):
    """The file is not what the agent announced, or the runtime would run it elsewhere."""


def session_on(content: bytes, runtime: str, *, folder: Path | None = None, options: Any = None) -> Any:
    """A session from verified bytes.

    Args:
        runtime: A key of `PROVIDERS`.
        folder: Where the TensorRT provider keeps its engines and timings.
        options: Session options; None takes one thread.

    Raises:
        LoadRefused: ONNX Runtime would run it elsewhere, which it does without an exception of its own.
    """
    import onnxruntime

    wanted = PROVIDERS[runtime]
    missing = [name for name in wanted if name not in onnxruntime.get_available_providers()]
    if missing:
        raise LoadRefused(f"this onnxruntime has no {missing[0]}; it has {onnxruntime.get_available_providers()}")
    if options is None:
        options = one_thread()
        if runtime == "ort":
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    configured = [(name, _settings(name, folder)) for name in wanted]
    session = onnxruntime.InferenceSession(content, sess_options=options, providers=configured)
    require(session.get_providers(), wanted)
    return session


def require(found: list[str], wanted: tuple[str, ...]) -> None:
    """Check where a session runs; the CPU may stand behind a GPU for operators that have no kernel there.

    Raises:
        LoadRefused: It runs elsewhere.
    """
    if tuple(found[: len(wanted)]) != wanted or set(found) - {*wanted, CPU}:
        raise LoadRefused(f"runs on {found}; asked for {list(wanted)}")


def one_thread() -> Any:
    """Session options of every arm."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # A spinning thread burns joules that no request asked for.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _settings(provider: str, folder: Path | None) -> dict[str, str]:
    if provider != TENSORRT or folder is None:
        return {}
    place = str(folder / ENGINE_FOLDER)
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": place,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": place,
    }
