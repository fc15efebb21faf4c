"""What a local expert and its gate earn for users whom the global expert was not trained for, and what that costs.

For every user and seed, on the same corrections and the same stored samples: the global expert (GE), the instant head,
the delta LE, GE+LE+GN as it is served, last-layer and full fine-tuning. All that train by gradients go through one
optimiser with one early-stopping split (every fourth correction, from ten of those on; with fewer, the two kinds of
fine-tuning learn from all). *Served* is what a node would put in service: the delta behind its gate where it is
promoted on the corrections that judge, else the instant head behind its gate where that is, else the global expert.
Times are CPU seconds of one thread, taken in the same run: the machine may be shared. What judging a candidate on the
stored samples takes is told apart (``judging``); fine-tuning is not judged at all. A *share* is a gain over GE as a
fraction of full fine-tuning's mean gain over the users.

``--quick`` takes four users and one seed, ``--seeds=N`` another number of seeds.
Shapes: n samples, c classes.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nodes.personal import delta as deltas
from nodes.personal import gate as gates
from nodes.personal import instant
from nodes.personal.learning import (
    Samples,
    as_input,
)
from nodes.personal.network import macs, parameters
from tests.bench.harness import Bar, Row, evaluation_data, main
from tests.bench.personal_rivals import (
    Scene,
    Score,
    by_delta,
    fully_tuned,
    instantly,
    last_layer_tuned,
    look,
    unchanged,
)
from tests.bench.personal_speed import instant_rows, speed_rows
from tests.bench.personal_users import LENET5, USERS, World, load_world

SIZES = (20, 100, 300)
HELD_OUT_FROM = 400
SEEDS = 5
QUICK_USERS = 4
METHODS = ("instant", "delta", "served", "last_layer", "full")

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

Table = dict[tuple[str, int, str], list[tuple[float, Score]]]


def run() -> list[Row]:
    """All users, seeds and sizes."""
    torch.set_num_threads(1)
    world = load_world(evaluation_data(), Path("build/bench"))
    quick = "--quick" in sys.argv
    names = [name for name in world.users if not quick or name in {f"writer{user}" for user in range(QUICK_USERS)}]
    replay, stored, test = (look(world, samples) for samples in (world.replay, world.stored, world.test))
    prior = instant.prior(replay.features_nf, replay.probabilities_nc, replay.samples.labels_n)
    table: Table = defaultdict(list)
    for name in names:
        for seed in range(_seeds(quick)):
            samples = world.users[name]
            order = np.random.default_rng(1_000 + seed).permutation(len(samples))
            seen = look(world, Samples(samples.images[order], samples.labels_n[order]))
            scene = Scene(world, seen[:HELD_OUT_FROM], seen[HELD_OUT_FROM:], replay, stored, test, prior, seed)
            sizes = _judge(scene, name, table)
        print(_line(table, name), file=sys.stderr, flush=True)
    speeds = [*instant_rows(), *speed_rows(LENET5, world.weights)]
    return [*_rows(table, names), *_overheads(world, *sizes), *speeds]


def _seeds(quick: bool) -> int:
    given = [int(flag.removeprefix("--seeds=")) for flag in sys.argv if flag.startswith("--seeds=")]
    return given[0] if given else 1 if quick else SEEDS


def _line(table: Table, name: str) -> str:
    """How a user stands with most corrections."""
    size = SIZES[-1]
    told = [f"{method} {np.mean([s.right_n.mean() for _, s in table[method, size, name]]):.4f}" for method in METHODS]
    return f"{name}: GE {np.mean([base for base, _ in table['full', size, name]]):.4f} {' '.join(told)}"


def _judge(scene: Scene, name: str, table: Table) -> tuple[deltas.Delta, gates.Gate]:
    base = float(scene.held_out.right_n.mean())
    for rows in SIZES:
        alone, served, learned, gate = by_delta(scene, rows)
        first = instantly(scene, rows)
        chosen = served if served.promoted else first if first.promoted else unchanged(scene)
        chosen = replace(chosen, cpu_s=served.cpu_s + first.cpu_s, judging_s=served.judging_s)
        scores = (first, alone, chosen, last_layer_tuned(scene, rows), fully_tuned(scene, rows))
        for method, score in zip(METHODS, scores, strict=True):
            table[method, rows, name].append((base, score))
            table[f"{method}.below", rows, name].append((_upper(scene, score), score))
    return learned, gate


def _upper(scene: Scene, score: Score) -> float:
    """Upper end of the paired 95 % interval of the gain over the global expert."""
    gain_n = score.right_n.astype(np.float64) - scene.held_out.right_n
    return float(gain_n.mean() + 1.96 * gain_n.std() / len(gain_n) ** 0.5)


def _rows(table: Table, names: list[str]) -> list[Row]:
    writers = [name for name in names if name.startswith("writer")]
    rows: list[Row] = []
    seeds = len(table["full", SIZES[0], names[0]])
    sizes: dict[str, object] = {"users": len(writers), "seeds": seeds, "generic": 10_000}
    worst_drop, worst_user, below = -1.0, -1.0, 0
    for size in SIZES:
        full_gain = _gain(table, "full", size, writers).mean()
        full_s = np.mean([score.cpu_s for name in writers for _, score in table["full", size, name]])
        for method in METHODS:
            gains = _gain(table, method, size, writers)
            runs = [run for name in writers for run in table[method, size, name]]
            drop = float(np.mean([score.generic_drop for _, score in runs]))
            half = 1.96 * gains.mean(axis=1).std(ddof=1) / len(writers) ** 0.5
            rows += [
                Row(f"custom.{method}.{size}", float(np.mean([s.right_n.mean() for _, s in runs])), "fraction", sizes),
                Row(f"gain.{method}.{size}", float(gains.mean()), "fraction", {**sizes, "half95": float(half)}),
                Row(f"share.{method}.{size}", float(gains.mean() / full_gain), "ratio", sizes),
                Row(f"generic_drop.{method}.{size}", drop, "fraction", sizes),
                Row(f"time.{method}.{size}", float(np.mean([s.cpu_s for _, s in runs]) / full_s), "ratio", sizes),
                Row(f"routed.{method}.{size}", float(np.mean([s.routed_fraction for _, s in runs])), "fraction", sizes),
            ]
            if method == "served":
                worst_drop = max(worst_drop, drop)
                by_user = [np.mean([s.generic_drop for _, s in table[method, size, name]]) for name in writers]
                worst_user = max(worst_user, float(max(by_user)))
                below += sum(bool(np.mean([up for up, _ in table["served.below", size, n]]) < 0) for n in writers)
        rows.append(
            Row(
                f"custom.ge.{size}",
                float(np.mean([b for n in writers for b, _ in table["full", size, n]])),
                "fraction",
                sizes,
            )
        )
        rows.append(Row(f"cpu_s.full.{size}", float(full_s), "s", sizes))
        judging_s = [score.judging_s for name in writers for _, score in table["served", size, name]]
        rows.append(Row(f"judging.served.{size}", float(np.mean(judging_s) / full_s), "ratio", sizes))
        rows += _user_rows(table, names, size)
    rows.append(Row("generic_drop.served.worst_mean", worst_drop, "fraction", sizes))
    rows.append(Row("generic_drop.served.worst_user", worst_user, "fraction", sizes))
    rows.append(Row("users_below_ge.served", float(below), "users", sizes))
    return rows


def _gain(table: Table, method: str, size: int, names: list[str]) -> NDArray[np.float64]:
    """Users by seeds."""
    return np.array([[score.right_n.mean() - base for base, score in table[method, size, name]] for name in names])


def _user_rows(table: Table, names: list[str], size: int) -> list[Row]:
    rows = []
    for name in names:
        base = float(np.mean([b for b, _ in table["full", size, name]]))
        told = {
            method: round(float(np.mean([s.right_n.mean() for _, s in table[method, size, name]])), 5)
            for method in METHODS
        }
        drop = round(float(np.mean([s.generic_drop for _, s in table["served", size, name]])), 6)
        rows.append(Row(f"user.{name}.{size}", base, "fraction of GE", {**told, "generic_drop": drop}))
    return rows


def _overheads(world: World, learned: deltas.Delta, gate: gates.Gate) -> list[Row]:
    weights = world.weights
    whole, work = parameters(LENET5, weights), macs(LENET5, weights)
    features, classes = weights[LENET5.last.weight].shape[1], weights[LENET5.last.weight].shape[0]
    side = as_input(LENET5, world.test.images[:1]).shape[-1] // LENET5.first.pool
    # Pooling adds once per value of the first layer's answer; counted as if it multiplied, as its length does.
    gate_macs = 2 * side * side * len(weights[LENET5.first.bias]) + gate.parameters
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
    assert USERS
    main(stem="personalize", run=run, bars=BARS)
