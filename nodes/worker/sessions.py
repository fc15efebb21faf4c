"""ONNX Runtime sessions of the worker: loaded from verified bytes, single-threaded, CPU only.

Needs Python 3.10, numpy and onnxruntime; nothing else of this project but its neighbours in `nodes.worker`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import onnxruntime
from numpy.typing import NDArray

PROVIDERS = ("CPUExecutionProvider",)


class LoadRefused(Exception):
    """The file is not what the agent announced, or the runtime would run it elsewhere."""


class Sessions:
    """All loaded models by arm. `load` is called before work for the arm arrives; `run` from several threads."""

    def __init__(self) -> None:
        self._by_arm: dict[str, tuple[Any, list[str]]] = {}

    def load(self, arm: str, path: str, sha256: str, *, model: bytes | None = None) -> dict[str, Any]:
        """Make the session of one arm; replaces an older one.

        Args:
            model: The file's bytes where it is kept in memory alone, as what belongs to a user is.

        Returns:
            What the model really takes and gives: names, dtypes and shapes as ONNX Runtime reports them.

        Raises:
            LoadRefused: if the digest differs or the provider is not the one asked for.
        """
        model = Path(path).read_bytes() if model is None else model
        found = hashlib.sha256(model).hexdigest()
        if found != sha256:
            raise LoadRefused(f"digest of {Path(path).name} is {found}; the catalogue says {sha256}")
        session = onnxruntime.InferenceSession(model, sess_options=_options(), providers=list(PROVIDERS))
        # ONNX Runtime falls back to another provider without an exception.
        if tuple(session.get_providers()) != PROVIDERS:
            raise LoadRefused(f"runs on {session.get_providers()}; asked for {list(PROVIDERS)}")
        self._by_arm[arm] = session, [output.name for output in session.get_outputs()]
        return {"inputs": _describe(session.get_inputs()), "outputs": _describe(session.get_outputs())}

    def unload(self, arm: str) -> None:
        """Forget the session of an arm; its memory is free once no run uses it."""
        self._by_arm.pop(arm, None)

    def run(self, arm: str, inputs: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], float]:
        """Outputs by name and the milliseconds that the run took.

        Raises:
            KeyError: if the arm is not loaded.
        """
        session, names = self._by_arm[arm]
        started_s = perf_counter()
        values = session.run(names, dict(inputs))
        compute_ms = (perf_counter() - started_s) * 1e3
        return dict(zip(names, values, strict=True)), compute_ms


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # A spinning thread burns joules that no request asked for.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _describe(values: Any) -> list[dict[str, Any]]:
    return [{"name": v.name, "type": v.type, "shape": [str(size) for size in v.shape]} for v in values]
