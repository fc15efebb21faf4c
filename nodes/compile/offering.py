"""Compiled forms as further arms of the experts that a node offers."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import structlog

from nodes.arms import ArmSpec, Inventory, TaskSpec
from nodes.compile.errors import AccuracyLost, CompileError, RuntimeMissing
from nodes.compile.forms import DEFAULT_BATCHES, Form, Precision, Runtime, Wish
from nodes.compile.pipeline import Compiled, Pipeline, Subject, traits_of
from nodes.errors import ConfigError
from nodes.zoo.catalog import Catalog

ONNX = "onnx"
# Of several that can run here `auto` takes the first.
GPU_PREFERENCE = (Runtime.RTX, Runtime.TENSORRT, Runtime.ORT_TENSORRT, Runtime.CUDA)

log = structlog.get_logger("nodes.compile")


@dataclass(frozen=True)
class _Choice:
    """A form of an arm.

    Attributes:
        required: Failing to make it is an error.
        must_hold: Losing too much is an error too.
    """

    arm: ArmSpec
    form: Form
    required: bool
    must_hold: bool


def with_compiled(
    inventory: Inventory, catalogs: Sequence[Catalog], wishes: Sequence[Wish], pipeline: Pipeline
) -> Inventory:
    """The inventory with an arm more for every form that was wished for and passed.

    Raises:
        ConfigError: A wish names an expert that is not offered, or cannot be compiled.
        RuntimeMissing, CompileError: A form that was asked for cannot be made here.
        AccuracyLost: A form that was asked for by its expert's name loses too much.
    """
    found = list(compiled_arms(inventory, catalogs, wishes, pipeline))
    return replace(inventory, arms=(*inventory.arms, *(arm_of(arm, compiled) for arm, compiled in found)))


def compiled_arms(
    inventory: Inventory, catalogs: Sequence[Catalog], wishes: Sequence[Wish], pipeline: Pipeline
) -> Iterator[tuple[ArmSpec, Compiled]]:
    """Every form that passed, with the arm that it is a form of. Raises as `with_compiled`."""
    by_task = {catalog.task.name: catalog for catalog in catalogs}
    for choice in _choices(inventory, wishes, pipeline):
        subject = subject_of(choice.arm, inventory.task(choice.arm.task), by_task[choice.arm.task])
        compiled = _tried(choice, subject, pipeline)
        if compiled is not None:
            _tell(choice, compiled)
            yield choice.arm, compiled


def subject_of(arm: ArmSpec, task: TaskSpec, catalog: Catalog) -> Subject:
    """An arm with the inputs of its catalogue: calibrated on the reference, judged by what no expert has seen."""
    if task.input is None or arm.model_file is None:
        raise ConfigError(f"--compile: {arm.expert} has no tensors, or no file, to compile")
    name = task.input.name
    return Subject(
        arm.expert,
        arm.model_file,
        arm.model_digest,
        {name: catalog.reference.inputs},
        {name: catalog.held_out.inputs},
        catalog.held_out.labels_n,
    )


def arm_of(arm: ArmSpec, compiled: Compiled) -> ArmSpec:
    """The arm of a compiled form. What was learned about the expert's answers holds for it: it passed the check."""
    form, entry, comparison = compiled.form, compiled.entry, compiled.comparison
    if comparison is None:
        raise CompileError(f"{arm.expert}:{form.variant} was built for another GPU and has never run; not offered")
    was_bytes = 0 if arm.model_file is None else arm.model_file.stat().st_size
    known = comparison.right_fraction is not None
    return replace(
        arm,
        variant=form.variant,
        engine=str(form.runtime) if form.runtime.on_gpu else arm.engine,
        model_file=entry.file,
        model_digest=entry.digests[entry.main],
        memory_bytes=max(0, arm.memory_bytes - was_bytes) + entry.size_bytes,
        quality_fraction=comparison.right_fraction if comparison.right_fraction is not None else arm.quality_fraction,
        quality_samples=comparison.samples if known else arm.quality_samples,
        compiled=traits_of(form, entry.beside),
    )


def _choices(inventory: Inventory, wishes: Sequence[Wish], pipeline: Pipeline) -> Iterator[_Choice]:
    _tell_left_out(inventory, wishes)
    seen: set[tuple[str, Form]] = set()
    for wish in wishes:
        arms = list(_arms(inventory, wish))
        forms = _automatic(pipeline) if wish.form is None else [wish.form]
        for arm in arms:
            for form in forms:
                if (arm.key, form) not in seen:
                    seen.add((arm.key, form))
                    yield _Choice(arm, form, wish.form is not None, wish.form is not None and wish.explicit)


def _arms(inventory: Inventory, wish: Wish) -> Iterator[ArmSpec]:
    offered = [arm for arm in inventory.arms if not wish.expert or arm.expert == wish.expert]
    if not offered:
        known = ", ".join(dict.fromkeys(arm.expert for arm in inventory.arms))
        raise ConfigError(f"--compile: no expert {wish.expert!r} is offered; there are {known}")
    for arm in offered:
        if arm.engine == ONNX:
            yield arm
        elif wish.expert:
            raise ConfigError(f"--compile: {arm.expert} runs in the engine {arm.engine}; only ONNX models are compiled")


def _tell_left_out(inventory: Inventory, wishes: Sequence[Wish]) -> None:
    experts = [arm.expert for arm in inventory.arms if arm.engine != ONNX]
    if experts and not all(wish.expert for wish in wishes):
        log.info("not compiled", experts=experts, why="only ONNX models of tensors are")


def _automatic(pipeline: Pipeline) -> list[Form]:
    """What this machine can run, with the reason for each choice in the log."""
    forms = [Form(Runtime.ORT, Precision.FP32)]
    _chosen(forms[0], "optimised once here instead of at every start")
    if importlib.util.find_spec("onnx") is not None:
        forms.append(Form(Runtime.ORT, Precision.INT8))
        _chosen(forms[1], "onnx is installed; kept where the check passes")
    else:
        log.info("form not chosen", form="ort-int8", why="the package onnx is not installed")
    for runtime in GPU_PREFERENCE:
        try:
            found = pipeline.identity(runtime)
        except (RuntimeMissing, CompileError) as missing:
            log.info("form not chosen", form=str(runtime), why=missing.message)
            continue
        forms.append(Form(runtime, Precision.FP32, DEFAULT_BATCHES if runtime.wants_profile else None))
        _chosen(forms[-1], f"{runtime} {found['version']} with a GPU of compute capability {found['capability']}")
        break
    return forms


def _chosen(form: Form, why: str) -> None:
    log.info("form chosen", form=form.variant, why=why)


def _tried(choice: _Choice, subject: Subject, pipeline: Pipeline) -> Compiled | None:
    try:
        return pipeline.compiled(subject, choice.form)
    except AccuracyLost as lost:
        if choice.must_hold:
            raise
        log.warning("form left out", expert=subject.name, form=choice.form.variant, why=lost.message)
    except CompileError as error:
        if choice.required:
            raise
        log.warning("form left out", expert=subject.name, form=choice.form.variant, why=error.message)
    return None


def _tell(choice: _Choice, compiled: Compiled) -> None:
    comparison = compiled.comparison
    log.info(
        "compiled",
        arm=f"{choice.arm.expert}:{choice.form.variant}",
        made=compiled.entry.made,
        seconds=round(compiled.seconds, 2),
        bytes=compiled.entry.size_bytes,
        loss_points=None if comparison is None else round(comparison.loss_points, 3),
        version=compiled.entry.purpose["version"],
    )
