"""What a local expert costs when it runs: milliseconds at batch 1 against the global expert, in one process.

Times are CPU seconds of the one thread that runs: others may be busy on the machine. Blocks of runs are interleaved
A/B/A, and a ratio is B against the mean of its two neighbours; the median over blocks is what counts. LeNet-5 with
deltas folded into weights of the user's own, and as inputs of one graph; VGG16 for CIFAR (random weights, which cost
the same) with deltas as inputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from nodes.personal import graph, instant, shared
from nodes.personal.delta import Delta, fold, shapes
from nodes.personal.gate import HIDDEN, Gate
from nodes.personal.network import Floats, Network, Stage
from nodes.personal.warp import IDENTITY
from tests.bench.harness import Row, spread

BLOCKS = 60
_VGG = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


def speed_rows(network: Network, weights: Mapping[str, Floats]) -> list[Row]:
    """Ratios of LeNet-5 and VGG16."""
    return [*_lenet_rows(network, weights), *_vgg_rows()]


def instant_rows(features: int = 84, classes: int = 10) -> list[Row]:
    """Microseconds of one update, and how far many of them are from a batch fit."""
    rng = np.random.default_rng(0)
    stored = {
        "features": rng.normal(0, 1, (1_000, features)).astype(np.float32),
        "probabilities": rng.dirichlet(np.ones(classes), 1_000).astype(np.float32),
    }
    labels_n = rng.integers(classes, size=1_000)
    prior = instant.prior(stored["features"], stored["probabilities"], labels_n)
    own_nf = rng.normal(0, 1, (600, features)).astype(np.float32)
    lacks_nc = instant.residual(
        rng.dirichlet(np.ones(classes), 600).astype(np.float32), rng.integers(classes, size=600)
    )
    head, times_s = instant.InstantHead(prior), []
    for own_f, lack_c in zip(own_nf, lacks_nc, strict=True):
        started_s = time.perf_counter()
        head.update(own_f, lack_c)
        times_s.append(time.perf_counter() - started_s)
    batch_fc = instant.refit(prior, stored, own_nf, lacks_nc, labels_n)
    return [
        Row("instant.update_us", float(np.median(times_s)) * 1e6, "us", {"features": features}),
        Row("instant.refit_difference", float(np.abs(batch_fc - head.weight_fc).max()), "weight", {"updates": 600}),
    ]


def _lenet_rows(network: Network, weights: Mapping[str, Floats]) -> list[Row]:
    rng = np.random.default_rng(0)
    arrays = {n: rng.normal(0, 0.02, s).astype(np.float32) for n, s in shapes(network, weights).items()}
    local = fold(network, weights, Delta(arrays, IDENTITY))
    seen = len(weights[network.first.bias]) * (network.gate_cells**2 + 1)
    first_fh, bias_h = rng.normal(0, 0.1, (seen, HIDDEN)).astype(np.float32), np.zeros(HIDDEN, np.float32)
    second_h = rng.normal(0, 0.1, HIDDEN).astype(np.float32)
    image = {graph.INPUT: rng.random((1, network.side, network.side), dtype=np.float32)}
    ge, again = (_run(graph.plain(network, weights), image) for _ in range(2))
    rows = [_same_row("lenet5", ge, again, runs=60)]
    for name, threshold in (("local", 1e3), ("global", -1e3)):
        gate = Gate(first_fh, bias_h, second_h, threshold)
        served = _run(graph.personal(network, weights, local, gate), image)
        rows.append(Row(f"speed.lenet5.folded.{name}", _ratio(ge, served, runs=60), "ratio", {"blocks": BLOCKS}))
    served = _run(shared.graph(network, weights), image | _worn(network, weights))
    rows.append(Row("speed.lenet5.inputs", _ratio(ge, served, runs=60), "ratio", {"blocks": BLOCKS}))
    return rows


def _vgg_rows() -> list[Row]:
    network, weights = _vgg16()
    image = {graph.INPUT: np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)}
    ge, again = (_run(graph.plain(network, weights), image) for _ in range(2))
    ratio = _ratio(ge, _run(shared.graph(network, weights), image | _worn(network, weights)), runs=2)
    return [
        _same_row("vgg16", ge, again, runs=2),
        Row("speed.vgg16.inputs", ratio, "ratio", {"blocks": BLOCKS}),
    ]


def _worn(network: Network, weights: Mapping[str, Floats]) -> dict[str, Floats]:
    """A row whose gate is open."""
    return {name: np.ones_like(numbers) for name, numbers in shared.nobody(network, weights).items()}


def _vgg16() -> tuple[Network, dict[str, Floats]]:
    rng = np.random.default_rng(0)
    stages: list[Stage] = []
    weights: dict[str, Floats] = {}
    inputs = 3
    for width in _VGG:
        if isinstance(width, str):
            last = stages.pop()
            stages.append(Stage(last.name, conv=True, padding=1, pool=2))
            continue
        stage = Stage(f"conv{len(stages)}", conv=True, padding=1)
        stages.append(stage)
        spread = (2.0 / (9 * inputs)) ** 0.5
        weights[stage.weight] = rng.normal(0, spread, (width, inputs, 3, 3)).astype(np.float32)
        weights[stage.bias] = np.zeros(width, np.float32)
        inputs = width
    linear = Stage("linear", conv=False)
    weights[linear.weight] = rng.normal(0, 0.05, (10, inputs)).astype(np.float32)
    weights[linear.bias] = np.zeros(10, np.float32)
    return Network(32, (*stages, linear), channels=3), weights


def _run(model: bytes, inputs: Mapping[str, NDArray[Any]]) -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    given = dict(inputs)
    return lambda: session.run([graph.PROBABILITIES], given)


def _same_row(name: str, first: Callable[[], object], again: Callable[[], object], *, runs: int) -> Row:
    """What the same comparison says of two sessions of one model, and the quartiles of its blocks."""
    ratios = _ratios(first, again, runs=runs)
    low, middle, high = spread(ratios)
    return Row(f"speed.{name}.same", middle, "ratio", {"blocks": BLOCKS, "quartiles": [low, high]})


def _ratio(first: Callable[[], object], second: Callable[[], object], *, runs: int) -> float:
    """Median over blocks of `_ratios`."""
    return float(np.median(_ratios(first, second, runs=runs)))


def _ratios(first: Callable[[], object], second: Callable[[], object], *, runs: int) -> list[float]:
    """The second's time over the mean of the first's before and after it, per block."""

    def block(work: Callable[[], object]) -> float:
        started_s = time.thread_time()
        for _ in range(runs):
            work()
        return time.thread_time() - started_s

    block(first), block(second)
    before_s, ratios = block(first), []
    for _ in range(BLOCKS):
        between_s = block(second)
        after_s = block(first)
        ratios.append(2.0 * between_s / (before_s + after_s))
        before_s = after_s
    return ratios
