"""A model on its way to a node beside work on the same stream: how fast it comes, and what the work notices.

One caller asks a small expert by name, one question after the other, while the node is left alone and while it fetches
a model; the two take turns. Only the time between the push and the last byte counts: what inspection and rehearsal take
from the same processor is told apart as `checking`.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from nodes.zoo.catalog import load_catalog
from orchestrator.artifacts import pushing
from orchestrator.artifacts.folder import read_folder
from orchestrator.client import Budget, Client
from tests.bench.harness import Bar, Row, main
from tests.fakes import hostile_onnx
from tests.fakes.processes import Fleet, NodePlan
from tests.fakes.pushed import expert_folder

BARS = (Bar("work_added_p50", 5.0, "<="), Bar("work_added_p99", 25.0, "<="), Bar("transfer", 10.0, ">="))
ROUNDS = 3
MODEL_MIB = 48
CALM_S = 2.0
PHASES = ("calm", "fetching", "checking")


class Caller(threading.Thread):
    """Asks without a pause; keeps how long each answer took, by phase."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(daemon=True)
        self._fleet = fleet
        self.phase = ""
        self.ms: dict[str, list[float]] = {name: [] for name in PHASES}
        self.done = threading.Event()

    def run(self) -> None:
        picture, budget = load_catalog().held_out.inputs[:1], Budget(max_latency_ms=5000.0)
        with self._fleet.client() as client:
            while not self.done.is_set():
                phase, started_s = self.phase, time.perf_counter()
                client.infer(picture, expert="digits-linear", budget=budget)
                if phase and phase == self.phase:
                    self.ms[phase].append((time.perf_counter() - started_s) * 1e3)


def _round(client: Client, caller: Caller, folder: Path, seed: int) -> float:
    """Seconds that a model's bytes took from the push to the last one."""
    weights = np.random.default_rng(seed).random((MODEL_MIB, 1 << 18), np.float32)
    model = expert_folder(folder / f"m{seed}", f"m{seed}", evidence=False)
    (model / "model.onnx").write_bytes(hostile_onnx.with_ballast(weights))
    found = read_folder(model)
    for blob in client.push_model(found).missing:
        pushing._send(client, found, blob, lambda _: None)
    time.sleep(1.0)
    caller.phase = "calm"
    time.sleep(CALM_S)
    caller.phase, pushed_s = "fetching", time.perf_counter()
    client.push_model(found)
    while _state(client, f"m{seed}") == "fetching":
        time.sleep(0.02)
    took_s = time.perf_counter() - pushed_s
    caller.phase = "checking"
    state = _settled(client, f"m{seed}")
    caller.phase = ""
    assert state == "serving", state
    client.remove_model(f"m{seed}")
    return took_s


def _settled(client: Client, name: str) -> str:
    while (state := _state(client, name)) in ("fetching", "checking"):
        time.sleep(0.02)
    return state


def _state(client: Client, name: str) -> str:
    return next(model.on_nodes[0].state for model in client.pushed_models() if model.name == name)


def run() -> list[Row]:
    """Push a few models one after the other beside a caller."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "fleet").mkdir()
        flags = ("--profiling-s", "0.1", "--model-store", f"{folder}/store")
        with Fleet(Path(folder) / "fleet") as fleet, fleet.client(timeout_s=30.0) as client:
            fleet.start(NodePlan("node", "laptop-cpu", ("digits-linear",), flags))
            caller = Caller(fleet)
            caller.start()
            took_s = [_round(client, caller, Path(folder), seed) for seed in range(ROUNDS)]
            caller.done.set()
            caller.join(10.0)
    sizes: dict[str, object] = {"rounds": ROUNDS, "model_mib": MODEL_MIB}
    rows = [Row("transfer", MODEL_MIB / statistics.median(took_s), "MiB/s", sizes)]
    for phase in PHASES:
        for name, quantile in (("p50", 50), ("p99", 99)):
            value = float(np.percentile(caller.ms[phase], quantile))
            rows.append(Row(f"work_{phase}_{name}", value, "ms", {**sizes, "answers": len(caller.ms[phase])}))
    found = {row.metric: row.value for row in rows}
    for name in ("p50", "p99"):
        added = found[f"work_fetching_{name}"] - found[f"work_calm_{name}"]
        rows.append(Row(f"work_added_{name}", added, "ms", sizes))
    return rows


if __name__ == "__main__":
    main(stem="model_transfer", run=run, bars=BARS)
