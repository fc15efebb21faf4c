"""Loaded models of the worker: verified bytes, one thread a run, CPU only.

``.onnx`` files run in ONNX Runtime, ``.npz`` files as pruned chains in our own kernels.
Needs Python 3.10, numpy and onnxruntime; nothing else of this project but its neighbours in `nodes.worker` and, for
chains, `kernels`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import onnxruntime
from numpy.typing import NDArray

from nodes.worker.staging import Staging

PROVIDERS = ("CPUExecutionProvider",)
CHAIN_SUFFIX = ".npz"


class LoadRefused(Exception):
    """The file is not what the agent announced, or the runtime would run it elsewhere."""


class Model(Protocol):
    """What every kind of model can do."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name."""
        ...

    def described(self) -> dict[str, Any]:
        """Names, dtypes and shapes of inputs and outputs."""
        ...


class Sessions:
    """All loaded models by arm. `load` is called before work for the arm arrives; `run` from several threads."""

    def __init__(self) -> None:
        self._by_arm: dict[str, Model] = {}
        self.staging = Staging()

    def load(self, arm: str, path: str, sha256: str, *, model: bytes | None = None) -> dict[str, Any]:
        """Make the session of one arm; replaces an older one.

        Args:
            model: The file's bytes where it is kept in memory alone, as what belongs to a user is.

        Returns:
            What the model really takes and gives: names, dtypes and shapes.

        Raises:
            LoadRefused: if the digest differs or the provider is not the one asked for.
        """
        file = Path(path)
        data = read_verified(file, sha256) if model is None else verified(model, sha256, name=file.name)
        loaded = _chain(data) if file.suffix == CHAIN_SUFFIX else _OnnxModel(data)
        self._by_arm[arm] = loaded
        return loaded.described()

    def load_staged(self, arm: str, key: str, sha256: str) -> dict[str, Any]:
        """Make the session of one arm from what was staged under a key, without opening a file.

        Raises:
            LoadRefused, StagingError: as `load`, or something was not staged.
        """
        content = verified(self.staging.take(key), sha256, name=key)
        outside = self.staging.outside_tensors(f"{key}/table")
        loaded = _OnnxModel(content, outside)
        self._by_arm[arm] = loaded
        return loaded.described()

    def unload(self, arm: str) -> None:
        """Forget the session of an arm; its memory is free once no run uses it."""
        self._by_arm.pop(arm, None)

    def run(self, arm: str, inputs: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], float]:
        """Outputs by name and the milliseconds that the run took.

        Raises:
            KeyError: if the arm is not loaded.
        """
        model = self._by_arm[arm]
        started_s = perf_counter()
        outputs = model.run(inputs)
        return outputs, (perf_counter() - started_s) * 1e3


class _OnnxModel:
    def __init__(self, content: bytes, outside: Mapping[str, NDArray[Any]] | None = None) -> None:
        # ONNX Runtime reads the arrays where they lie.
        self._outside = dict(outside or {})
        self._session = session_of(content, self._outside)
        self._names = [output.name for output in self._session.get_outputs()]

    def described(self) -> dict[str, Any]:
        return {
            "inputs": _describe(self._session.get_inputs()),
            "outputs": _describe(self._session.get_outputs()),
        }

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return dict(zip(self._names, self._session.run(self._names, dict(inputs)), strict=True))


def _chain(content: bytes) -> Model:
    # Imported for those who have a chain: the kernels may not be built here, and nobody else needs them.
    from nodes.worker.chains import ChainModel

    return ChainModel(content)


def read_verified(path: Path, sha256: str) -> bytes:
    """The bytes of a file.

    Raises:
        LoadRefused: if their digest is another one.
    """
    return verified(path.read_bytes(), sha256, name=path.name)


def verified(content: bytes, sha256: str, *, name: str) -> bytes:
    """The bytes, if their digest is the one that was announced.

    Raises:
        LoadRefused: It is another one.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise LoadRefused(f"digest of {name} is {found}; the catalogue says {sha256}")
    return content


def open_session(path: Path, sha256: str) -> Any:
    """A session on one thread of the CPU, from verified bytes.

    Raises:
        LoadRefused: if the digest differs or the provider is not the one asked for.
    """
    return session_of(read_verified(path, sha256))


def session_of(content: bytes, outside: Mapping[str, NDArray[Any]] | None = None) -> Any:
    """A session on one thread of the CPU.

    Args:
        outside: Tensors that the model names but does not hold.

    Raises:
        LoadRefused: if the provider is not the one asked for.
    """
    options = _options()
    if outside:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in outside.values()]
        options.add_external_initializers(list(outside), values)
    session = onnxruntime.InferenceSession(content, sess_options=options, providers=list(PROVIDERS))
    # ONNX Runtime falls back to another provider without an exception.
    if tuple(session.get_providers()) != PROVIDERS:
        raise LoadRefused(f"runs on {session.get_providers()}; asked for {list(PROVIDERS)}")
    return session


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
