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
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from nodes.personal import delta as deltas
from nodes.personal import gate as gates
from nodes.personal import instant
from nodes.personal.judging import OFTEN_Z, beats
from nodes.personal.keeping import JUDGED_EVERY
from nodes.personal.learning import (
    VALIDATED_FROM,
    Pool,
    Recipe,
    Samples,
    answer,
    as_input,
    as_tensors,
    gate_features,
    learn,
    optimise,
    stem,
    trainable,
)
from nodes.personal.network import Floats, macs, parameters
from nodes.personal.training import LEAST_JUDGES
from tests.bench.harness import Bar, Row, evaluation_data, main
from tests.bench.personal_speed import instant_rows, speed_rows
from tests.bench.personal_users import LENET5, USERS, World, load_world

SIZES = (20, 100, 300)
HELD_OUT_FROM = 400
SEEDS = 5
QUICK_USERS = 4
BOUND_FRACTION = 0.0008
FULL = Recipe(learning_rate=1e-3, steps=200, replay_batch=32, replay_weight=1.0, patience_steps=40, smoothing=0.0)
LAST = Recipe(learning_rate=1e-2, steps=200, replay_batch=32, replay_weight=1.0, patience_steps=40, smoothing=0.0)
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

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Answers:
    """What the global expert makes of a set of samples."""

    samples: Samples
    stem_map: torch.Tensor
    logits_nc: Floats
    features_nf: Floats
    gate_nf: Floats

    @property
    def probabilities_nc(self) -> Floats:
        """As it answers."""
        shares: Floats = torch.softmax(torch.from_numpy(self.logits_nc), 1).numpy()
        return shares

    @property
    def right_n(self) -> NDArray[np.bool_]:
        """Where it is right."""
        right_n: NDArray[np.bool_] = self.logits_nc.argmax(axis=1) == self.samples.labels_n
        return right_n

    def __getitem__(self, rows: slice | NDArray[np.bool_]) -> Answers:
        samples = Samples(self.samples.images[rows], self.samples.labels_n[rows])
        return Answers(samples, self.stem_map[rows], self.logits_nc[rows], self.features_nf[rows], self.gate_nf[rows])


def look(world: World, samples: Samples) -> Answers:
    """Run the global expert."""
    weights = as_tensors(world.weights)
    stem_map = stem(LENET5, weights, samples.images)
    logits_nc, features_nf = answer(LENET5, weights, stem_map)
    return Answers(samples, stem_map, logits_nc, features_nf, gate_features(LENET5, stem_map))


@dataclass(frozen=True, eq=False)
class Scene:
    """One user and seed."""

    world: World
    pool: Answers
    held_out: Answers
    replay: Answers
    stored: Answers
    test: Answers
    prior: instant.Prior
    seed: int


@dataclass(frozen=True)
class Score:
    """One method on one user: where it is right, what generic samples lose, CPU seconds."""

    right_n: NDArray[np.bool_]
    generic_drop: float
    cpu_s: float
    routed_fraction: float = 1.0
    promoted: bool = True
    judging_s: float = 0.0


def labels_of(scores_nc: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """The label with the highest score."""
    return np.asarray(scores_nc.argmax(axis=1), np.int64)


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    started_s = time.process_time()
    result = work()
    return result, time.process_time() - started_s


def _score(scene: Scene, own_n: NDArray[np.int64], test_n: NDArray[np.int64], cpu_s: float) -> Score:
    right_n = own_n == scene.held_out.samples.labels_n
    drop = scene.test.right_n.mean() - (test_n == scene.test.samples.labels_n).mean()
    return Score(right_n, float(drop), cpu_s)


def _tuned(scene: Scene, rows: int) -> Score:
    """Full fine-tuning."""
    own, replay = scene.pool[:rows].samples, scene.replay.samples
    pool = Pool(
        as_input(LENET5, own.images),
        torch.from_numpy(own.labels_n),
        as_input(LENET5, replay.images),
        torch.from_numpy(replay.labels_n),
    )
    start = as_tensors(scene.world.weights)
    tuned, cpu_s = _timed(
        lambda: optimise(
            start, trainable(LENET5), pool, judges_n=_judges(rows, tuned=True), recipe=FULL, seed=scene.seed
        )
    )

    def label(samples: Samples) -> NDArray[np.int64]:
        return labels_of(answer(LENET5, tuned, stem(LENET5, tuned, samples.images))[0])

    return _score(scene, label(scene.held_out.samples), label(scene.test.samples), cpu_s)


def _last_layer(scene: Scene, rows: int) -> Score:
    own, last = scene.pool[:rows], LENET5.last
    pool = Pool(
        torch.from_numpy(own.features_nf),
        torch.from_numpy(own.samples.labels_n),
        torch.from_numpy(scene.replay.features_nf),
        torch.from_numpy(scene.replay.samples.labels_n),
    )
    start = as_tensors({name: scene.world.weights[name] for name in (last.weight, last.bias)})

    def forward(values: dict[str, torch.Tensor], features: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(features, values[last.weight], values[last.bias])

    judges_n = _judges(rows, tuned=True)
    tuned, cpu_s = _timed(lambda: optimise(start, forward, pool, judges_n=judges_n, recipe=LAST, seed=scene.seed))

    def label(answers: Answers) -> NDArray[np.int64]:
        return labels_of(forward(tuned, torch.from_numpy(answers.features_nf)).numpy())

    return _score(scene, label(scene.held_out), label(scene.test), cpu_s)


def _instant(scene: Scene, rows: int) -> Score:
    own = scene.pool[:rows]
    residuals_nc = instant.residual(own.probabilities_nc, own.samples.labels_n)
    head = instant.InstantHead(scene.prior)

    def work() -> gates.Gate:
        for feature_f, residual_c in zip(own.features_nf, residuals_nc, strict=True):
            head.update(feature_f, residual_c)
        return gates.discriminate_linear(own.gate_nf, scene.replay.gate_nf)

    gate, cpu_s = _timed(work)
    covered = instant.coverage(own.samples.labels_n, own.logits_nc.shape[1])
    gate = _calibrated(scene, gate, _corrected(head, scene.stored, covered))
    left_n = head.left_out(own.features_nf, own.probabilities_nc, own.samples.labels_n).argmax(axis=1)
    open_n = instant.open_to(own.probabilities_nc, covered) & (gate.score(own.gate_nf) > 0.0)
    mine_n = np.where(open_n, left_n == own.samples.labels_n, own.right_n)
    score = _routed(scene, gate, lambda answers: _corrected(head, answers, covered), cpu_s)
    return replace(score, promoted=beats(mine_n, own.right_n, z=OFTEN_Z))


def _corrected(head: instant.InstantHead, answers: Answers, covered: float) -> NDArray[np.int64]:
    own_n = labels_of(head.correct_many(answers.features_nf, answers.probabilities_nc))
    open_n = instant.open_to(answers.probabilities_nc, covered)
    return np.where(open_n, own_n, labels_of(answers.logits_nc))


def _delta(scene: Scene, rows: int) -> tuple[Score, Score, deltas.Delta, gates.Gate]:
    """The local expert alone, and behind its gate."""
    own, weights, judges_n = scene.pool[:rows], scene.world.weights, _judges(rows)
    generic = scene.replay.samples

    def work() -> deltas.Delta:
        return learn(LENET5, weights, own.samples, generic, judges_n=judges_n, recipe=Recipe(), seed=scene.seed)

    learned, cpu_s = _timed(work)
    folded = as_tensors(deltas.fold(LENET5, weights, learned))

    def label(answers: Answers) -> NDArray[np.int64]:
        return labels_of(answer(LENET5, folded, answers.stem_map)[0])

    gate, gate_s = _timed(lambda: gates.discriminate(own.gate_nf[~judges_n], scene.replay.gate_nf, seed=scene.seed))
    gate, set_s = _timed(lambda: _calibrated(scene, gate, label(scene.stored)))
    alone = _score(scene, label(scene.held_out), label(scene.test), cpu_s)
    judges = own[judges_n]
    mine_n = np.where(gate.score(judges.gate_nf) > 0.0, label(judges) == judges.samples.labels_n, judges.right_n)
    served = _routed(scene, gate, label, cpu_s + gate_s)
    promoted = len(mine_n) >= LEAST_JUDGES and beats(mine_n, judges.right_n)
    return alone, replace(served, promoted=promoted, judging_s=set_s), learned, gate


def _judges(rows: int, *, tuned: bool = False) -> NDArray[np.bool_]:
    """Corrections that no gradient comes from. Fine-tuning has nothing to judge where they are too few to stop by."""
    judges_n = np.arange(rows) % JUDGED_EVERY == JUDGED_EVERY - 1
    return judges_n if not tuned or judges_n.sum() >= VALIDATED_FROM else np.zeros(rows, np.bool_)


def _calibrated(scene: Scene, gate: gates.Gate, local_n: NDArray[np.int64]) -> gates.Gate:
    right_n = local_n == scene.stored.samples.labels_n
    loss_n = scene.stored.right_n.astype(np.float64) - right_n
    return gates.calibrate(gate, scene.stored.gate_nf, loss_n, bound_fraction=BOUND_FRACTION)


def _routed(scene: Scene, gate: gates.Gate, label: Callable[[Answers], NDArray[np.int64]], cpu_s: float) -> Score:
    def both(answers: Answers) -> NDArray[np.int64]:
        return np.where(gate.score(answers.gate_nf) > 0.0, label(answers), answers.logits_nc.argmax(axis=1))

    score = _score(scene, both(scene.held_out), both(scene.test), cpu_s)
    return Score(score.right_n, score.generic_drop, score.cpu_s, float((gate.score(scene.held_out.gate_nf) > 0).mean()))


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
        alone, served, learned, gate = _delta(scene, rows)
        first = _instant(scene, rows)
        chosen = served if served.promoted else first if first.promoted else _unchanged(scene)
        chosen = replace(chosen, cpu_s=served.cpu_s + first.cpu_s, judging_s=served.judging_s)
        scores = (first, alone, chosen, _last_layer(scene, rows), _tuned(scene, rows))
        for method, score in zip(METHODS, scores, strict=True):
            table[method, rows, name].append((base, score))
            table[f"{method}.below", rows, name].append((_upper(scene, score), score))
    return learned, gate


def _unchanged(scene: Scene) -> Score:
    """Nothing was promoted."""
    return Score(scene.held_out.right_n, 0.0, 0.0, 0.0)


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
