"""What a local expert costs when it runs: milliseconds at batch 1 against the global expert, in one process.

Times are CPU seconds of the one thread that runs: others may be busy on the machine. Blocks of runs are interleaved
A/B/A, and a ratio is B against the mean of its two neighbours; the median over blocks is what counts. LeNet-5 with
deltas folded into weights of the user's own, in the compiled kernels and as a graph, and as inputs of one graph; VGG16
for CIFAR (random weights, which cost the same) with deltas as inputs. What is served folded is the faster of both, and
is compared with the faster of both for the global expert; all run as the worker of a node runs them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.personal import compiled, graph, instant, shared
from nodes.personal.delta import Delta, fold, shapes
from nodes.personal.gate import HIDDEN, Gate
from nodes.personal.network import Floats, Network, Stage
from nodes.personal.warp import IDENTITY
from nodes.worker.sessions import model_of
from tests.bench.harness import Row, cores_awake, spread

BLOCKS = 60
LENET_RUNS = 60
_VGG = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


def speed_rows(network: Network, weights: Mapping[str, Floats]) -> list[Row]:
    """Ratios of LeNet-5 and VGG16, and microseconds of LeNet-5."""
    with cores_awake():
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
    """Against the faster of the two ways to run the global expert, and each graph against that one's graph."""
    image = {graph.INPUT: np.random.default_rng(0).random((1, network.side, network.side), dtype=np.float32)}
    drawn = graph.plain(network, weights)
    ways = {"graph": [_run(drawn, image) for _ in range(2)]}
    if compiled.known(network):
        made = compiled.packed(compiled.plain(network, weights))
        ways["compiled"] = [_run(made, image) for _ in range(2)]
    times_us = {way: _each_us(ge, runs=LENET_RUNS) for way, (ge, _) in ways.items()}
    fastest = min(times_us, key=lambda way: times_us[way])
    rows = [Row(f"speed.lenet5.us.ge.{way}", time_us, "us") for way, time_us in times_us.items()]
    rows.append(_same_row("lenet5", *ways[fastest], runs=LENET_RUNS))
    for name, threshold in (("local", 1e3), ("global", -1e3)):
        rows += _folded_rows(name, threshold, (network, weights), {way: ge for way, (ge, _) in ways.items()}, image)
    served = _run(shared.graph(network, weights), image | _worn(network, weights))
    ratio = _ratio(ways["graph"][0], served, runs=LENET_RUNS)
    return [*rows, Row("speed.lenet5.inputs", ratio, "ratio", {"blocks": BLOCKS, "against": "graph"})]


def _folded_rows(
    name: str,
    threshold: float,
    expert: tuple[Network, Mapping[str, Floats]],
    global_ways: Mapping[str, Callable[[], object]],
    image: Mapping[str, Floats],
) -> list[Row]:
    """A user's own weights behind a gate that always decides for one side, run in every way that there is."""
    network, weights = expert
    rng = np.random.default_rng(0)
    arrays = {n: rng.normal(0, 0.02, s).astype(np.float32) for n, s in shapes(network, weights).items()}
    local = fold(network, weights, Delta(arrays, IDENTITY))
    seen = len(weights[network.first.bias]) * (network.gate_cells**2 + 1)
    first_fh, second_h = (rng.normal(0, 0.1, shape).astype(np.float32) for shape in ((seen, HIDDEN), HIDDEN))
    gate = Gate(first_fh, np.zeros(HIDDEN, np.float32), second_h, threshold)
    models = {"graph": graph.personal(network, weights, local, gate)}
    if "compiled" in global_ways:
        models["compiled"] = compiled.packed(compiled.personal(network, weights, local, gate))
    served = {way: _run(model, image) for way, model in models.items()}
    times_us = {way: _each_us(work, runs=LENET_RUNS) for way, work in served.items()}
    fastest = min(times_us, key=lambda way: times_us[way])
    best_global = min(global_ways, key=lambda way: _each_us(global_ways[way], runs=LENET_RUNS))
    ratio = _ratio(global_ways[best_global], served[fastest], runs=LENET_RUNS)
    graphs = _ratio(global_ways["graph"], served["graph"], runs=LENET_RUNS)
    ways: dict[str, object] = {"blocks": BLOCKS, "served": fastest, "against": best_global}
    return [
        *(Row(f"speed.lenet5.us.folded.{name}.{way}", time_us, "us") for way, time_us in times_us.items()),
        Row(f"speed.lenet5.folded.{name}", ratio, "ratio", ways),
        Row(f"speed.lenet5.graph.{name}", graphs, "ratio", {"blocks": BLOCKS, "against": "graph"}),
    ]


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
    """As the worker of a node runs it."""
    loaded, given = model_of(model, Path(""), ""), dict(inputs)
    return lambda: loaded.run(given)


def _each_us(work: Callable[[], object], *, runs: int) -> float:
    """CPU microseconds of one run, median over blocks."""
    return float(np.median([_block_s(work, runs=runs) / runs for _ in range(BLOCKS)])) * 1e6


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
    _block_s(first, runs=runs), _block_s(second, runs=runs)
    before_s, ratios = _block_s(first, runs=runs), []
    for _ in range(BLOCKS):
        between_s = _block_s(second, runs=runs)
        after_s = _block_s(first, runs=runs)
        ratios.append(2.0 * between_s / (before_s + after_s))
        before_s = after_s
    return ratios


def _block_s(work: Callable[[], object], *, runs: int) -> float:
    started_s = time.thread_time()
    for _ in range(runs):
        work()
    return time.thread_time() - started_s
