"""Compiled forms of the shipped digit experts on the CPU: milliseconds, time to load, bytes and accuracy beside the
model as it came. Batch 1, one thread, all forms of an expert in turns in one process.

``--device cuda`` measures a network on a GPU instead, see `cuda_forms`; without one it says ``not run`` and exits 77.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nodes.arms import ArmSpec
from nodes.compile.bench import CPU_SERVE, GPU_SERVE, Workbench
from nodes.compile.cache import Cache
from nodes.compile.forms import Form, Precision, Runtime
from nodes.compile.offering import arm_of, subject_of
from nodes.compile.pipeline import Bounds, Compiled, Pipeline
from nodes.inventory import load_inventory
from nodes.worker.sessions import Sessions
from nodes.zoo.catalog import load_catalog
from tests.bench import cuda_forms
from tests.bench.harness import Bar, Row, main

FORMS = {str(precision): Form(Runtime.ORT, precision) for precision in Precision}
PLAIN = "plain"
ROUNDS, WARM_UP, LOADS = 400, 40, 15
# The one that computes long enough for its form to matter.
LARGEST = "digits-wide"

BARS = [
    Bar("int8_loss_points_worst", 0.5, "<="),
    Bar("fp32_largest_difference", 1e-4, "<="),
    Bar(f"int8_over_plain_{LARGEST}", 0.75, "<="),
    Bar(f"fp32_over_plain_{LARGEST}", 1.05, "<="),
    Bar(f"int8_bytes_over_plain_{LARGEST}", 0.35, "<="),
    Bar("kept_ms_worst", 50.0, "<="),
]


def load_ms(arm: ArmSpec) -> float:
    """Median milliseconds from the file to a session."""
    took = []
    for _ in range(LOADS):
        started_s = time.perf_counter()
        _load(Sessions(), arm)
        took.append((time.perf_counter() - started_s) * 1e3)
    return statistics.median(took)


def run_ms(arms: Mapping[str, ArmSpec], image: np.ndarray) -> dict[str, float]:
    """Median milliseconds of one sample, all arms in turns."""
    sessions = Sessions()
    for arm in arms.values():
        _load(sessions, arm)
    took: dict[str, list[float]] = {name: [] for name in arms}
    for index in range(WARM_UP + ROUNDS):
        for name, arm in arms.items():
            _, ms = sessions.run(arm.key, {"image": image})
            if index >= WARM_UP:
                took[name].append(ms)
    return {name: statistics.median(values) for name, values in took.items()}


def _load(sessions: Sessions, arm: ArmSpec) -> None:
    compiled = None if arm.compiled is None else arm.compiled.told()
    sessions.load(arm.key, str(arm.model_file), arm.model_digest, compiled=compiled)


def _rows(plain: ArmSpec, found: Mapping[str, Compiled]) -> list[Row]:
    arms = {PLAIN: plain, **{name: arm_of(plain, compiled) for name, compiled in found.items()}}
    image = np.ascontiguousarray(load_catalog().held_out.inputs[:1])
    ms = run_ms(arms, image)
    loads = {name: load_ms(arm) for name, arm in arms.items()}
    sizes: dict[str, object] = {"expert": plain.expert}
    rows = [Row(f"{name}_ms_{plain.expert}", value, "ms", sizes) for name, value in ms.items()]
    rows += [Row(f"{name}_load_ms_{plain.expert}", value, "ms", sizes) for name, value in loads.items()]
    rows += [Row(f"{name}_over_plain_{plain.expert}", ms[name] / ms[PLAIN], "ratio", sizes) for name in found]
    for name, compiled in found.items():
        assert compiled.comparison is not None
        assert plain.model_file is not None
        loss, size = compiled.comparison.loss_points, compiled.entry.size_bytes / plain.model_file.stat().st_size
        rows.append(Row(f"{name}_loss_points_{plain.expert}", loss, "points", sizes))
        rows.append(Row(f"{name}_bytes_over_plain_{plain.expert}", size, "ratio", sizes))
        rows.append(Row(f"{name}_build_s_{plain.expert}", compiled.seconds, "s", sizes))
    return rows


def run() -> list[Row]:
    """Compile every form of every expert, then find each again, then time them."""
    inventory, catalog = load_inventory(None, ()), load_catalog()
    experts = [arm for arm in inventory.arms if arm.engine == "onnx"]
    python, rows, kept_ms, differences, losses = Path(sys.executable), [], [], [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        Workbench(python, CPU_SERVE) as cpu,
        Workbench(python, GPU_SERVE) as gpu,
    ):
        cache = Cache(Path(folder), b"b" * 32, quota_bytes=100_000_000)
        opened = Pipeline(cache, cpu, gpu, bounds=Bounds(loss_points=100.0))
        for arm in experts:
            subject = subject_of(arm, inventory.task(arm.task), catalog)
            found = {name: opened.compiled(subject, form) for name, form in FORMS.items()}
            kept_ms += [opened.compiled(subject, form).seconds * 1e3 for form in FORMS.values()]
            compared = {name: compiled.comparison for name, compiled in found.items() if compiled.comparison}
            differences.append(compared["fp32"].largest_difference)
            losses.append(compared["int8"].loss_points)
            rows += _rows(arm, found)
    return [
        *rows,
        Row("int8_loss_points_worst", max(losses), "points", {"experts": len(experts), "samples": 360}),
        Row("fp32_largest_difference", max(differences), "probability", {"experts": len(experts)}),
        Row("kept_ms_worst", max(kept_ms), "ms", {"forms": len(kept_ms)}),
    ]


if __name__ == "__main__":
    if "--device" in sys.argv:
        if sys.argv[sys.argv.index("--device") + 1 :][:1] != ["cuda"]:
            raise SystemExit("--device: cuda, or nothing for the CPU")
        main(stem="compile", run=cuda_forms.run, bars=cuda_forms.BARS)
    main(stem="compile", run=run, bars=BARS)
