"""From an expert's ONNX file to a sealed, checked, compiled file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nodes.arms import CompiledTraits, Tensors
from nodes.compile import device
from nodes.compile.accuracy import Comparison, compare, require
from nodes.compile.bench import Workbench
from nodes.compile.cache import Cache, Entry
from nodes.compile.errors import CompileError, RuntimeMissing
from nodes.compile.forms import DEFAULT_BATCHES, Form, Precision, Runtime
from nodes.compile.precision import conversion, converted
from nodes.worker.providers import ENGINE_FOLDER
from nodes.worker.tensorrt.building import TIMINGS_FILE
from nodes.zoo.digest import tensor_digest

LABELS = "labels"

Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model to compile, and inputs to judge the result by.

    Attributes:
        name: In texts.
        calibration: Inputs by name, each (n, ...), for int8.
        held_out: Others, for the check.
        labels_n: What the held-out inputs are, as class indices; None where nobody knows.
    """

    name: str
    file: Path
    digest: str
    calibration: Tensors
    held_out: Tensors
    labels_n: NDArray[Any] | None


@dataclass(frozen=True)
class Compiled:
    """A compiled form that passed, or one for another GPU that could not be tried here.

    Attributes:
        comparison: None where it was not run.
    """

    form: Form
    entry: Entry
    comparison: Comparison | None
    seconds: float


@dataclass(frozen=True)
class Bounds:
    """What is allowed.

    Attributes:
        loss_points: Right answers that a form may lose.
        target: Compute capability to build for without a GPU; "" for this machine.
    """

    loss_points: float = 0.5
    target: str = ""


class Pipeline:
    """Compiles forms of many models with one workbench for each kind of runtime.

    Args:
        cpu: Runs what runs on the CPU, the float models among it.
        gpu: Runs what runs on a GPU.
        progress: Told in a word or two what goes on.
    """

    def __init__(
        self, cache: Cache, cpu: Workbench, gpu: Workbench, *, bounds: Bounds, progress: Progress = lambda _step: None
    ) -> None:
        self._cache = cache
        self._cpu = cpu
        self._gpu = gpu
        self._bounds = bounds
        self._progress = progress
        self._identities: dict[Runtime, dict[str, Any]] = {}
        self._floats: dict[str, NDArray[Any]] = {}

    def identity(self, runtime: Runtime) -> dict[str, Any]:
        """Version and GPU of a runtime, asked for once.

        Raises:
            RuntimeMissing: It is not here, or has neither a GPU nor a target.
        """
        if runtime not in self._identities:
            self._identities[runtime] = self._bench(runtime).identify(runtime)
        found = self._identities[runtime]
        target = self._bounds.target if runtime is Runtime.RTX else ""
        if runtime.on_gpu and not found.get("capability") and not target:
            problem = found.get("problem") or "no GPU is found"
            raise RuntimeMissing(f"{runtime} {found['version']} has no GPU to run on here: {problem}")
        return found

    def compiled(self, subject: Subject, form: Form) -> Compiled:
        """The form of a model: kept, or made now and checked.

        Raises:
            RuntimeMissing: The runtime is not here.
            AccuracyLost: The form answers worse than allowed.
            CompileError: It cannot be made, or computes something else.
        """
        started_s = time.perf_counter()
        entry = self._cache.obtain(
            self.purpose(subject, form),
            lambda draft: self._made(subject, form, draft),
            on_wait=lambda: self._progress(f"{subject.name}:{form.variant}: another process builds it"),
        )
        checked = entry.facts.get("comparison")
        comparison = None if checked is None else Comparison(**checked)
        if comparison is not None:
            arm = f"{subject.name}:{form.variant}"
            require(arm, form.precision, comparison, limit_points=self._bounds.loss_points)
        return Compiled(form, entry, comparison, time.perf_counter() - started_s)

    def purpose(self, subject: Subject, form: Form) -> dict[str, Any]:
        """What a file is made for: all that must be equal for it to be used again."""
        found = self.identity(form.runtime)
        target = self._bounds.target if form.runtime is Runtime.RTX else ""
        return {
            "model": subject.digest,
            "precision": str(form.precision),
            "shapes": "free" if form.batches is None else str(form.batches),
            "conversion": conversion(form, subject.calibration),
            "judged": judged_by(subject),
            "runtime": str(form.runtime),
            "version": str(found["version"]),
            "device": device.gpu(found, target) if form.runtime.on_gpu else device.cpu(),
            "jetpack": device.jetpack() if form.runtime.on_gpu else "",
        }

    def _bench(self, runtime: Runtime) -> Workbench:
        return self._gpu if runtime.on_gpu else self._cpu

    def _made(self, subject: Subject, form: Form, draft: Path) -> tuple[str, dict[str, Any]]:
        def told(step: str) -> None:
            self._progress(f"{subject.name}:{form.variant}: {step}")

        model = subject.file.read_bytes()
        if sha256(model).hexdigest() != subject.digest:
            raise CompileError(f"{subject.file} is not the file that its card describes")
        if form.precision is not Precision.FP32:
            told(f"convert to {form.precision}")
        source = draft / "source.onnx"
        source.write_bytes(converted(model, form, subject.calibration))
        main = self._bench(form.runtime).build(self._order(subject, form, source), told)
        source.unlink()
        facts: dict[str, Any] = {"name": subject.name, "variant": form.variant, "comparison": None}
        if not (form.runtime is Runtime.RTX and self._bounds.target):
            told("compare with the float model")
            facts["comparison"] = asdict(self._compared(subject, form, draft / main))
        return main, facts

    def _order(self, subject: Subject, form: Form, source: Path) -> dict[str, Any]:
        purpose = self.purpose(subject, form)
        like = {key: purpose[key] for key in ("runtime", "version", "device", "jetpack")}
        # Where any batch is taken, whoever builds is not told of one.
        batches = form.batches or DEFAULT_BATCHES
        # What was timed for one model serves the next on the same GPU.
        timings = self._cache.newest(like, TIMINGS_FILE) if form.runtime is Runtime.TENSORRT else None
        return {
            "runtime": str(form.runtime),
            "source": str(source),
            "folder": str(source.parent),
            "batches": [batches.least, batches.likeliest, batches.most],
            "capability": self._bounds.target if form.runtime is Runtime.RTX else "",
            "timings": "" if timings is None else str(timings),
        }

    def _compared(self, subject: Subject, form: Form, file: Path) -> Comparison:
        floats_nc = self._float_answers(subject)
        bench = self._bench(form.runtime)
        digests = {
            str(path.relative_to(file.parent)): sha256(path.read_bytes()).hexdigest()
            for path in (file.parent / ENGINE_FOLDER).rglob("*")
        }
        bench.load(file, sha256(file.read_bytes()).hexdigest(), traits_of(form, digests))
        return compare(floats_nc, bench.run(subject.held_out), subject.labels_n)

    def _float_answers(self, subject: Subject) -> NDArray[Any]:
        if subject.digest not in self._floats:
            self._cpu.load(subject.file, subject.digest)
            self._floats[subject.digest] = self._cpu.run(subject.held_out)
        return self._floats[subject.digest]


def judged_by(subject: Subject) -> str:
    """Digest of the held-out inputs and what they are: what was measured holds for them alone."""
    labels = {} if subject.labels_n is None else {LABELS: subject.labels_n}
    return tensor_digest({**subject.held_out, **labels})


def traits_of(form: Form, beside: Mapping[str, str]) -> CompiledTraits:
    """How the worker runs a form, with the digests of the files beside it."""
    bounds = None if form.batches is None else (form.batches.least, form.batches.most)
    return CompiledTraits(str(form.runtime), bounds, tuple(sorted(beside.items())))
