"""Verifies a compiled form on the machine that it is to run on; `deploy/verify-orin.sh` and `verify-rtx.sh` call this.

Each expert answers the same inputs twice, once as it came, in ONNX Runtime, and once compiled, one input at a time;
both are then measured as `edgewise profile` measures. What comes out is that survey with a part `verified`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nodes.agent.parts import Parts, build_parts
from nodes.arms import ArmSpec, Inventory, Tensors
from nodes.compile.bench import CPU_SERVE, GPU_SERVE, Workbench
from nodes.compile.errors import CompileError
from nodes.compile.forms import Form, Precision, parse_wishes
from nodes.config import NodeConfig, parse_config
from nodes.engines.contract import Engine, Job
from nodes.errors import ConfigError
from nodes.inventory import load_inventory, read_catalogs
from nodes.survey import Plan, document, survey
from nodes.surveying import NO_GATEWAY, numbers
from nodes.zoo.catalog import Catalog

# How far an output may be from ONNX Runtime's; eight bits are judged by right answers when they are made.
ALLOWED = {Precision.FP32: 1e-3, Precision.FP16: 1e-2}
_SHARED = ("worker_python", "models", "profile", "energy", "energy_trace", "calibration", "gpu_python", "compile_cache")


@dataclass(frozen=True)
class Agreement:
    """How far the answers of a compiled arm are from those of the same expert in ONNX Runtime.

    Attributes:
        against: The arm that it was compared with.
        allowed: None where nothing is asked of single numbers.
    """

    arm: str
    against: str
    inputs: int
    largest_difference: float
    allowed: float | None

    @property
    def ok(self) -> bool:
        """Whether they agree; what is not a number does not."""
        return self.allowed is None or self.largest_difference <= self.allowed


def verify_node(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was found, ready to be written. Blocks for minutes: engines are built.

    Args:
        given: The command's options by name.

    Raises:
        ConfigError, EnergySourceMissing, EngineError.
    """
    form = _form(given["form"])
    experts = _experts(given)
    settings = {key: given[key] for key in _SHARED}
    config = parse_config({**settings, "gateway": NO_GATEWAY, "experts": experts, "compile": (given["form"],)})
    runtime = _runtime(config, form)
    plan = Plan(numbers("batches", given["batches"]), (1,), given["seconds"])
    parts = build_parts(config)
    verifying = _Verifying(form, _held_out(config, given["inputs"]), plan)
    return {**asyncio.run(verifying.verified(parts)), "runtime": runtime}


def _form(text: str) -> Form:
    wishes = parse_wishes((text,))
    if len(wishes) != 1 or wishes[0].form is None or wishes[0].expert:
        raise ConfigError(f"--form: {text!r} is not one form; use one such as rtx-fp16, tensorrt-fp16 or ort-fp32")
    return wishes[0].form


def _experts(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Those named, else all that can be compiled: texts and chains cannot."""
    named = tuple(name.strip() for name in (given["experts"] or "").split(",") if name.strip())
    return named or tuple(arm.expert for arm in load_inventory(given["models"], ()).arms if arm.engine == "onnx")


def _runtime(config: NodeConfig, form: Form) -> dict[str, Any]:
    """Name, version and GPU of what runs the form."""
    serve = GPU_SERVE if form.runtime.on_gpu else CPU_SERVE
    with Workbench(config.gpu_python or config.worker_python, serve) as bench:
        found = bench.identify(form.runtime)
    return {"name": str(form.runtime)} | {key: found.get(key, "") for key in ("version", "capability", "driver")}


def _held_out(config: NodeConfig, count: int) -> dict[str, Tensors]:
    """Inputs by task that no expert has seen; over again where there are fewer."""
    catalogs = [catalog for catalog in read_catalogs(config.models) if isinstance(catalog, Catalog)]
    return {
        catalog.task.name: {
            catalog.task.input.name: np.resize(catalog.held_out.inputs, (count, *catalog.held_out.inputs.shape[1:]))
        }
        for catalog in catalogs
    }


@dataclass(frozen=True)
class _Verifying:
    """What is verified, on which inputs by task, and what is measured."""

    form: Form
    held_out: Mapping[str, Tensors]
    plan: Plan

    async def verified(self, parts: Parts) -> dict[str, Any]:
        parts.energy.start()
        try:
            await parts.engine.load(parts.inventory.arms)
            agreements = [
                await self._agreement(parts.engine, plain, made) for plain, made in self._pairs(parts.inventory)
            ]
            points = await survey(parts.engine, parts.energy.meter, parts.inventory, self.plan)
        finally:
            parts.energy.stop()
            await parts.engine.close()
        found = document(parts.energy, self.plan, points, made_unix_s=time.time())
        return {**found, "verified": [asdict(one) | {"ok": one.ok} for one in agreements]}

    def _pairs(self, inventory: Inventory) -> list[tuple[ArmSpec, ArmSpec]]:
        """Each expert as it came, and compiled."""
        compiled = {arm.expert: arm for arm in inventory.arms if arm.variant == self.form.variant}
        pairs = [(arm, compiled[arm.expert]) for arm in inventory.arms if arm.expert in compiled and not arm.compiled]
        if not pairs:
            raise CompileError(f"no expert has a form {self.form.variant}: each was refused, the log says why")
        return pairs

    async def _agreement(self, engine: Engine, plain: ArmSpec, made: ArmSpec) -> Agreement:
        inputs, largest = self.held_out[plain.task], 0.0
        count = min(len(array) for array in inputs.values())
        for at in range(count):
            one = {name: np.ascontiguousarray(array[at : at + 1]) for name, array in inputs.items()}
            first, second = [(await engine.infer(Job(arm.key, one))).outputs for arm in (plain, made)]
            largest = max(largest, *(_difference(first[name], second[name]) for name in first))
        return Agreement(made.key, plain.key, count, largest, ALLOWED.get(self.form.precision))


def _difference(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    """The largest between two numbers; infinite where one is none."""
    found = float(np.abs(first.astype(np.float64) - second.astype(np.float64)).max())
    return found if np.isfinite(found) else float("inf")
