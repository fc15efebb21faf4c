"""Loaded models of the worker: verified bytes, one thread a run, on the runtime that the arm names and no other.

``.onnx`` files run in ONNX Runtime, ``.npz`` files as pruned chains in our own kernels, ``.engine`` files in TensorRT,
archives from memory as users' own networks in our own kernels.
Needs Python 3.10, numpy and the runtime; nothing else of this project but its neighbours in `nodes.worker` and, for
chains, `kernels`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from numpy.typing import NDArray

from nodes.worker.providers import LoadRefused, one_thread, session_on
from nodes.worker.staging import Staging

__all__ = ["LoadRefused", "Model", "Sessions", "model_of", "read_verified", "session_of", "verified"]

CHAIN_SUFFIX, ENGINE_SUFFIX = ".npz", ".engine"
# What comes from memory has no name; an archive is a user's own network, see `nodes.worker.forks`.
ARCHIVE_START = b"PK\x03\x04"


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

    def load(
        self,
        arm: str,
        path: str,
        sha256: str,
        *,
        model: bytes | None = None,
        compiled: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Make the session of one arm; replaces an older one.

        Args:
            model: The file's bytes where it is kept in memory alone, as what belongs to a user is.
            compiled: Of a compiled model its `runtime`, where it has bounds the `batches` (least, most) that it takes,
                and `beside`: digests of further files that the runtime reads, by their paths from the file's folder.

        Returns:
            What the model really takes and gives: names, dtypes and shapes.

        Raises:
            LoadRefused: if the digest differs or the provider is not the one asked for.
        """
        file = Path(path)
        data = read_verified(file, sha256) if model is None else verified(model, sha256, name=file.name)
        about = compiled or {}
        for name, digest in about.get("beside", {}).items():
            read_verified(file.parent / name, digest)
        loaded = model_of(data, file, about.get("runtime", ""))
        if about.get("batches"):
            loaded = _any_batch(loaded, about["batches"])
        self._by_arm[arm] = loaded
        return loaded.described()

    def load_staged(self, arm: str, key: str, sha256: str) -> dict[str, Any]:
        """Make the session of one arm from what was staged under a key, without opening a file.

        Raises:
            LoadRefused, StagingError: as `load`, or something was not staged.
        """
        content = verified(self.staging.take(key), sha256, name=key)
        outside = self.staging.outside_tensors(f"{key}/table")
        loaded = _OnnxModel(session_of(content, outside), outside)
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
    def __init__(self, session: Any, outside: Mapping[str, NDArray[Any]] | None = None) -> None:
        self._session = session
        # ONNX Runtime reads the arrays where they lie.
        self._outside = outside
        self._names = [output.name for output in self._session.get_outputs()]

    def described(self) -> dict[str, Any]:
        return {
            "inputs": _describe(self._session.get_inputs()),
            "outputs": _describe(self._session.get_outputs()),
        }

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return dict(zip(self._names, self._session.run(self._names, dict(inputs)), strict=True))


def _any_batch(model: Model, batches: tuple[int, int]) -> Model:
    from nodes.worker.batching import AnyBatch

    return AnyBatch(model, least=batches[0], most=batches[1])


def model_of(content: bytes, file: Path, runtime: str) -> Model:
    """A model that can run, from a file's bytes; without a name for what comes from memory."""
    # Imported for those who have one: the kernels or TensorRT may not be there, and nobody else needs them.
    if file.suffix == CHAIN_SUFFIX:
        from nodes.worker.chains import ChainModel

        return ChainModel(content)
    if not file.name and content[: len(ARCHIVE_START)] == ARCHIVE_START:
        from nodes.worker.forks import ForkModel

        return ForkModel(content)
    if file.suffix == ENGINE_SUFFIX:
        from nodes.worker.tensorrt.running import EngineModel

        return EngineModel(content, runtime)
    return _OnnxModel(session_on(content, runtime, folder=file.parent))


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


def session_of(content: bytes, outside: Mapping[str, NDArray[Any]] | None = None) -> Any:
    """A session on one thread of the CPU.

    Args:
        outside: Tensors that the model names but does not hold.

    Raises:
        LoadRefused: if the provider is not the one asked for.
    """
    options = one_thread()
    if outside:
        from onnxruntime import OrtValue

        values = [OrtValue.ortvalue_from_numpy(array) for array in outside.values()]
        options.add_external_initializers(list(outside), values)
    return session_on(content, "", options=options)


def _describe(values: Any) -> list[dict[str, Any]]:
    return [{"name": v.name, "type": v.type, "shape": [str(size) for size in v.shape]} for v in values]
