"""What a local expert and its gate earn for users whom the global expert was not trained for, and what that costs.

For every user and seed, on the same corrections and the same stored samples: the global expert (GE), the instant head,
the delta LE, what is served, last-layer and full fine-tuning. Fine-tuning goes through the delta's optimiser and stops
early by every fourth correction, from ten of those on; ``full_all`` is full fine-tuning that learns from all of them
and stops by none, as the delta does in the end. *Served* is what a node has in service, by the code that decides it
there: the delta behind its gate where it is promoted, else the instant head behind its gate where that is, else GE.
Times are CPU seconds of one thread, taken in the same run: the machine may be shared. The delta's include all of its
judging; fine-tuning is not judged at all. A *share* is a gain over GE as a fraction of full fine-tuning's mean gain.

``--quick`` takes four users and one seed, ``--users=N`` and ``--seeds=N`` other numbers, ``--tuning`` the writers that
the method was tuned on (recorded under that name, no bar), ``--only=users``, ``speed`` or ``omniglot`` that part (no
bar). Without evaluation data small writers are judged instead (recorded as ``digits``, no bar). What is done is kept in
``build/bench`` user by user and seed by seed: a run that was cut goes on where it was, as long as the code is the same.
Shapes: n samples, c classes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nodes.personal import delta as deltas
from nodes.personal import gate as gates
from nodes.personal import instant
from nodes.personal.learning import Samples, as_input
from nodes.personal.network import macs, parameters
from tests.bench.harness import Bar, Row, evaluation_data, main
from tests.bench.personal_omniglot import omniglot_rows
from tests.bench.personal_rivals import (
    Scene,
    Score,
    base_of,
    by_delta,
    fully_tuned,
    instantly,
    last_layer_tuned,
    look,
    served_of,
)
from tests.bench.personal_speed import instant_rows, speed_rows
from tests.bench.personal_users import JUDGED, SMALL, TUNING, World, load_world, small_world

CACHE = Path("build/bench")
COHORT = SMALL if not os.environ.get("EDGEWISE_EVAL_DATA") else TUNING if "--tuning" in sys.argv else JUDGED
ONLY = next((flag.partition("=")[2] for flag in sys.argv if flag.startswith("--only=")), None)
SEEDS = 5
QUICK_USERS = 4
METHODS = ("instant", "delta", "gated", "served", "last_layer", "full", "full_all")

BARS = (
    Bar("share.served.300", 0.94, ">="),
    Bar("share.served.100", 0.85, ">="),
    Bar("share.served.20", 0.35, ">="),
    Bar("share.instant.300", 0.50, ">="),
    Bar("time.served.300", 0.5, "<="),
    Bar("time.instant.300", 0.01, "<="),
    Bar("trainable.served", 0.1, "<="),
    Bar("generic_drop.served.worst_mean", 0.001, "<="),
    Bar("users_below_ge.served", 0.0, "<="),
    Bar("overhead.parameters.delta", 0.025, "<="),
    Bar("overhead.macs.delta", 0.025, "<="),
    Bar("overhead.parameters.instant", 0.15, "<="),
    Bar("overhead.macs.instant", 0.025, "<="),
    Bar("instant.update_us", 50.0, "<="),
    Bar("instant.refit_difference", 1e-6, "<="),
    Bar("speed.lenet5.folded.local", 1.10, "<="),
    Bar("speed.lenet5.folded.global", 1.10, "<="),
    Bar("speed.vgg16.inputs", 1.05, "<="),
)


@dataclass(frozen=True)
class Result:
    """One method on one user, seed and number of corrections.

    Attributes:
        base: What the global expert gets right of the held-out samples.
        right: What this gets right.
        upper: Upper end of the paired 95 % interval of the gain.
    """

    base: float
    right: float
    upper: float
    generic_drop: float
    cpu_s: float
    routed_fraction: float


Table = dict[tuple[str, int, str], list[Result]]


def run() -> list[Row]:
    """All users, seeds and sizes."""
    torch.set_num_threads(1)
    if COHORT == SMALL:
        print("not run: EDGEWISE_EVAL_DATA is not set; instead, and without bars, the scikit-learn digits that ship")
        return _users_rows(small_world(), f"{SMALL}.")
    world = load_world(evaluation_data(), CACHE, cohort=COHORT)
    if COHORT == TUNING:
        return _users_rows(world, f"{TUNING}.")
    parts: dict[str, Callable[[], list[Row]]] = {
        "users": lambda: _users_rows(world),
        "speed": lambda: [*_overheads(world), *instant_rows(), *speed_rows(world.network, world.weights)],
        "omniglot": lambda: omniglot_rows(evaluation_data(), world.weights),
    }
    return [row for name, part in parts.items() if ONLY in (None, name) for row in part()]


def _users_rows(world: World, prefix: str = "") -> list[Row]:
    quick = "--quick" in sys.argv
    names = list(world.users)[: _given("users", QUICK_USERS if quick else len(world.users))]
    replay, stored, test = (look(world, samples) for samples in (world.replay, world.stored, world.test))
    base, table = base_of(world, replay, stored), defaultdict[tuple[str, int, str], list[Result]](list)
    for seed, name in product(range(_given("seeds", 1 if quick else SEEDS)), names):
        kept = CACHE / f"personalize-{_code()}-{COHORT}" / f"{name}-{seed}.json"
        if not kept.exists():
            seen = look(world, _shuffled(world.users[name], seed))
            pool, held_out = seen[: world.held_out_from], seen[world.held_out_from :]
            _keep(kept, _judge(Scene(world, pool, held_out, replay, stored, test, base, seed)))
        for method, size, result in json.loads(kept.read_text()):
            table[method, size, name].append(Result(**result))
        print(_line(table, name, seed, world.sizes), file=sys.stderr, flush=True)
    return [replace(row, metric=f"{prefix}{row.metric}") for row in _rows(table, names, world)]


def _given(name: str, usual: int) -> int:
    """The number behind a flag, or the usual one."""
    given = [int(flag.partition("=")[2]) for flag in sys.argv if flag.startswith(f"--{name}=")]
    return given[0] if given else usual


def _code() -> str:
    """A digest of what the results depend on."""
    files = [*Path("nodes/personal").glob("*.py"), Path(__file__), *Path(__file__).parent.glob("personal_[ru]*.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:12]


def _shuffled(samples: Samples, seed: int) -> Samples:
    order = np.random.default_rng(1_000 + seed).permutation(len(samples))
    return Samples(samples.images[order], samples.labels_n[order])


def _keep(file: Path, results: list[tuple[str, int, Result]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    spare = file.with_suffix(".new")
    spare.write_text(json.dumps([(method, size, asdict(result)) for method, size, result in results]))
    spare.replace(file)


def _line(table: Table, name: str, seed: int, counts: tuple[int, ...]) -> str:
    """How a user stands with each number of corrections."""
    told = [
        f"{size}: " + " ".join(f"{method} {table[method, size, name][seed].right:.4f}" for method in METHODS)
        for size in counts
    ]
    return f"{name}, seed {seed}: GE {table['full', counts[0], name][seed].base:.4f}; {'; '.join(told)}"


def _judge(scene: Scene) -> list[tuple[str, int, Result]]:
    results = []
    for rows in scene.world.sizes:
        alone, gated, taught = by_delta(scene, rows)
        first = instantly(scene, rows)
        served = served_of(scene, rows, gated, taught, first)
        tuned = (last_layer_tuned(scene, rows), fully_tuned(scene, rows), fully_tuned(scene, rows, unstopped=True))
        for method, score in zip(METHODS, (first[0], alone, gated, served, *tuned), strict=True):
            results.append((method, rows, _result(scene, score)))
    return results


def _result(scene: Scene, score: Score) -> Result:
    gain_n = score.right_n.astype(np.float64) - scene.held_out.right_n
    return Result(
        base=float(scene.held_out.right_n.mean()),
        right=float(score.right_n.mean()),
        upper=float(gain_n.mean() + 1.96 * gain_n.std() / len(gain_n) ** 0.5),
        generic_drop=score.generic_drop,
        cpu_s=score.cpu_s,
        routed_fraction=score.routed_fraction,
    )


def _rows(table: Table, names: list[str], world: World) -> list[Row]:
    writers = [name for name in names if name.startswith("writer")]
    sizes: dict[str, object] = {"users": len(writers), "seeds": len(table["full", world.sizes[0], names[0]])}
    rows = [
        row
        for size in world.sizes
        for row in (*_size_rows(table, writers, size, sizes), *_user_rows(table, names, size))
    ]
    drops = np.array([_mean(table, "served", size, writers, "generic_drop") for size in world.sizes])
    # By a user: the interval's upper end, mean over seeds, below 0; each number of corrections counts.
    upper = np.array([_mean(table, "served", size, writers, "upper") for size in world.sizes])
    rows.append(Row("generic_drop.served.worst_mean", float(drops.mean(axis=1).max()), "fraction", sizes))
    rows.append(Row("generic_drop.served.worst_user", float(drops.max()), "fraction", sizes))
    rows.append(Row("users_below_ge.served", float((upper < 0.0).sum()), "users", sizes))
    return rows


def _size_rows(table: Table, writers: list[str], size: int, sizes: dict[str, object]) -> list[Row]:
    full_gain = _gain(table, "full", size, writers).mean()
    full_s = _mean(table, "full", size, writers, "cpu_s").mean()
    rows = []
    for method in METHODS:
        gains = _gain(table, method, size, writers)
        halves: dict[str, object] = {"half95": float(1.96 * gains.mean(axis=1).std(ddof=1) / len(writers) ** 0.5)}
        if gains.shape[1] > 1:
            halves["half95_seeds"] = float(1.96 * gains.mean(axis=0).std(ddof=1) / gains.shape[1] ** 0.5)

        def mean(field: str, method: str = method) -> float:
            return float(_mean(table, method, size, writers, field).mean())

        rows += [
            Row(f"custom.{method}.{size}", mean("right"), "fraction", sizes),
            Row(f"gain.{method}.{size}", float(gains.mean()), "fraction", {**sizes, **halves}),
            Row(f"share.{method}.{size}", float(gains.mean() / full_gain), "ratio", sizes),
            Row(f"generic_drop.{method}.{size}", mean("generic_drop"), "fraction", sizes),
            Row(f"time.{method}.{size}", mean("cpu_s") / float(full_s), "ratio", sizes),
            Row(f"routed.{method}.{size}", mean("routed_fraction"), "fraction", sizes),
        ]
    return [
        *rows,
        Row(f"custom.ge.{size}", float(_mean(table, "full", size, writers, "base").mean()), "fraction", sizes),
        Row(f"cpu_s.full.{size}", float(full_s), "s", sizes),
    ]


def _mean(table: Table, method: str, size: int, names: list[str], field: str) -> NDArray[np.float64]:
    """Of a field over seeds, by user."""
    return np.array([np.mean([getattr(result, field) for result in table[method, size, name]]) for name in names])


def _gain(table: Table, method: str, size: int, names: list[str]) -> NDArray[np.float64]:
    """Users by seeds."""
    return np.array([[result.right - result.base for result in table[method, size, name]] for name in names])


def _user_rows(table: Table, names: list[str], size: int) -> list[Row]:
    rows = []
    for name in names:
        told = {method: round(float(_mean(table, method, size, [name], "right")[0]), 5) for method in METHODS}
        drop = round(float(_mean(table, "served", size, [name], "generic_drop")[0]), 6)
        base = float(_mean(table, "full", size, [name], "base")[0])
        rows.append(Row(f"user.{name}.{size}", base, "fraction of GE", {**told, "generic_drop": drop}))
    return rows


def _overheads(world: World) -> list[Row]:
    network, weights = world.network, world.weights
    learned = deltas.nothing(network, weights)
    gate = gates.closed(len(weights[network.first.bias]) * (network.gate_cells**2 + 1))
    whole, work = parameters(network, weights), macs(network, weights)
    features, classes = weights[network.last.weight].shape[1], weights[network.last.weight].shape[0]
    side = as_input(network, world.test.images[:1]).shape[-1] // network.first.pool
    # Pooling adds once per value of the first layer's answer; counted as if it multiplied, as its length does.
    gate_macs = 2 * side * side * len(weights[network.first.bias]) + gate.parameters
    head = instant.InstantHead(instant.Prior(np.eye(features + 1), np.zeros((features + 1, classes)), 1.0))
    linear_gate = gate.first_fh.shape[0] + 1
    return [
        Row("parameters.ge", whole, "numbers"),
        Row("macs.ge", work, "multiply-accumulates"),
        Row("overhead.parameters.delta", (learned.parameters + gate.parameters) / whole, "ratio"),
        Row("overhead.macs.delta", gate_macs / work, "ratio"),
        Row("overhead.parameters.instant", (head.parameters + linear_gate) / whole, "ratio"),
        Row("overhead.macs.instant", (gate_macs + (features + 1) * classes) / work, "ratio"),
        Row("trainable.served", (learned.parameters + gate.parameters) / whole, "ratio"),
    ]


if __name__ == "__main__":
    main(stem="personalize", run=run, bars=BARS if COHORT == JUDGED and ONLY is None else ())
