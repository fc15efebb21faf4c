"""One graph for all users: their deltas are rows of a batch."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from kernels.native.library import available
from nodes.agent import messages as m
from nodes.engines.contract import Job, JobResult
from nodes.errors import EngineError
from nodes.personal import graph, shared
from nodes.personal.delta import Delta, fold, nothing, shapes
from nodes.personal.expert import DELTA, Judgement, LocalExpert, Shelf
from nodes.personal.forms import COMPILED, FOLDED, SHARED, chosen, measured
from nodes.personal.gate import HIDDEN, Gate, closed
from nodes.personal.gathering import MOST_ROWS, Gathering
from nodes.personal.network import Floats, Network, parameters
from nodes.personal.onnx_file import read_network
from nodes.personal.sealing import KeySeal, owner_key, owner_mark
from nodes.personal.warp import IDENTITY
from nodes.zoo.catalog import DEFAULT_FOLDER, load_catalog
from tests.nodes.personal.host import ADA, HostEngine, ask, open_office, trained_office, written

EVE = m.Owner("tenant-a", "eve")


def scene(expert: str = "digits-wide") -> tuple[Network, dict[str, Floats]]:
    network, weights = read_network((DEFAULT_FOLDER / f"{expert}.onnx").read_bytes(), 8)
    return replace(network, shared=True), weights


def deltas(network: Network, weights: dict[str, Floats], count: int) -> list[Delta]:
    rng = np.random.default_rng(1)
    kinds = shapes(network, weights)
    return [
        Delta({name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in kinds.items()}, IDENTITY)
        for _ in range(count)
    ]


def opened(network: Network, weights: dict[str, Floats], *, threshold: float = 1.0) -> Gate:
    return replace(closed(shared.layout(network, weights).gate["first"][0]), threshold=threshold)


def session(model: bytes) -> onnxruntime.InferenceSession:
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("expert", ["digits-wide", "digits-lenet5"])
def test_one_graph_serves_a_batch_of_users_as_their_own_weights_do(expert: str) -> None:
    network, weights = scene(expert)
    images = load_catalog().held_out.inputs[:4]
    users = deltas(network, weights, 3)
    rows = [shared.row(network, weights, user, opened(network, weights)) for user in users]
    rows.append(shared.nobody(network, weights))
    stacked = {name: np.concatenate([one[name] for one in rows]) for name in rows[0]}
    found, by_local = session(shared.graph(network, weights)).run(None, {"image": images, **stacked})
    own = [session(graph.plain(network, fold(network, weights, user))) for user in [*users, nothing(network, weights)]]
    expected = [one.run(None, {"image": images[n : n + 1]})[0][0] for n, one in enumerate(own)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert by_local.ravel().tolist() == [True, True, True, False]
    swapped = [one.run(None, {"image": images[n : n + 1]})[0][0] for n, one in enumerate(reversed(own))]
    assert np.abs(found - swapped).max() > 1e-3


def test_each_row_has_its_own_gate_and_it_says_what_the_gate_says() -> None:
    network, weights = scene()
    images = load_catalog().held_out.inputs[:60]
    observed = session(graph.observed(network, weights))
    plain, seen_ng = observed.run(["probabilities", "seen"], {"image": images})
    rng = np.random.default_rng(2)
    first = rng.normal(0, 1, (seen_ng.shape[1], HIDDEN)).astype(np.float32)
    gate = Gate(first, rng.normal(0, 1, HIDDEN).astype(np.float32), rng.normal(0, 1, HIDDEN).astype(np.float32), 0.0)
    gate = replace(gate, threshold=-float(np.median(gate.score(seen_ng))))
    (user,) = deltas(network, weights, 1)
    row = {name: np.repeat(one, 60, axis=0) for name, one in shared.row(network, weights, user, gate).items()}
    found, by_local = session(shared.graph(network, weights)).run(None, {"image": images, **row})
    np.testing.assert_array_equal(by_local.ravel(), gate.score(seen_ng) > 0.0)
    assert 20 < by_local.sum() < 40
    local = session(graph.plain(network, fold(network, weights, user))).run(None, {"image": images})[0]
    np.testing.assert_allclose(found, np.where(by_local, local, plain), atol=1e-5)


def test_what_only_folding_can_do_is_refused_as_a_row() -> None:
    network, weights = scene("digits-lenet5")
    folds = nothing(replace(network, shared=False), weights)
    with pytest.raises(shared.OnlyFolds, match="mix"):
        shared.row(network, weights, folds, opened(network, weights))
    turned = Delta({}, IDENTITY + 0.1)
    with pytest.raises(shared.OnlyFolds, match="geometry"):
        shared.row(network, weights, turned, opened(network, weights))


# ---- which form


async def test_the_form_is_the_one_that_is_faster_here() -> None:
    network, weights = scene("digits-lenet5")

    class Timed(HostEngine):
        def __init__(self, times_ms: dict[str, float]) -> None:
            super().__init__()
            self.times_ms = times_ms

        async def infer(self, job: Job) -> JobResult:
            return replace(await super().infer(job), compute_ms=self.times_ms[job.arm])

    slow = Timed({FOLDED: 0.030, SHARED: 0.040, COMPILED: 0.031})
    assert not (await measured(slow, network, weights)).shared
    assert (await measured(Timed({FOLDED: 0.030, SHARED: 0.032, COMPILED: 0.031}), network, weights)).shared
    assert slow.models == {}
    real = await measured(HostEngine(), network, weights)
    assert real.shared_ms > 0.0
    assert (real.compiled_ms is not None) == available()


def test_what_is_folded_runs_where_it_is_faster() -> None:
    assert chosen({SHARED: 0.040, FOLDED: 0.030, COMPILED: 0.020}).compiled
    assert not chosen({SHARED: 0.040, FOLDED: 0.030, COMPILED: 0.031}).compiled
    assert not chosen({SHARED: 0.040, FOLDED: 0.030}).compiled
    # Sharing is worth a tenth against the faster of both.
    assert chosen({SHARED: 0.032, FOLDED: 0.030}).shared
    assert not chosen({SHARED: 0.032, FOLDED: 0.030, COMPILED: 0.020}).shared


async def test_no_user_gets_a_copy_of_weights_that_are_large() -> None:
    network, weights = scene()
    last = network.last.weight
    weights |= {last: np.repeat(weights[last], 2_200_000 // weights[last].size, axis=0)}
    weights |= {network.last.bias: np.zeros(len(weights[last]), np.float32)}
    assert 4 * parameters(network, weights) > 8 << 20
    engine = HostEngine()
    form = await measured(engine, network, weights)
    assert form.shared
    assert form.folded_ms is None


# ---- gathering


async def test_who_comes_while_the_graph_runs_is_in_the_next_batch() -> None:
    go, batches = asyncio.Event(), []

    async def infer(job: Job) -> JobResult:
        batches.append(len(job.inputs["x"]))
        job.on_start()
        await go.wait()
        return JobResult({"y": job.inputs["x"] * 2}, 0.0, 1.0)

    started: list[int] = []
    together = Gathering(infer, "all")
    jobs = [Job("own", {"x": np.full((1, 1), n)}, on_start=partial(started.append, n)) for n in range(MOST_ROWS + 6)]
    tasks = [asyncio.create_task(together.run(jobs[0]))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(together.run(job)) for job in jobs[1:]]
    await asyncio.sleep(0)
    tasks[3].cancel()
    await asyncio.sleep(0)
    go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert batches == [1, MOST_ROWS - 1, 5]
    told = [None if isinstance(result, BaseException) else int(result.outputs["y"][0, 0]) for result in results]
    assert told == [None if n == 3 else 2 * n for n in range(MOST_ROWS + 6)]
    assert sorted(started) == [n for n in range(MOST_ROWS + 6) if n != 3]


async def test_everybody_in_a_batch_that_fails_is_told_and_the_next_one_runs() -> None:
    fails = [True]

    async def infer(job: Job) -> JobResult:
        if fails.pop() if fails else False:
            raise EngineError("the engine stopped")
        return JobResult({"y": job.inputs["x"]}, 0.0, 1.0)

    together = Gathering(infer, "all")
    job = Job("own", {"x": np.zeros((1, 1))})
    results = await asyncio.gather(together.run(job), together.run(job), return_exceptions=True)
    assert [type(result) for result in results] == [EngineError, EngineError]
    assert (await together.run(job)).outputs["y"].shape == (1, 1)


# ---- a node


def shelve(folder: Path, delta: Delta, gate: Gate) -> None:
    """Put a delta in service for a user, as a training process does."""
    digest = load_catalog().expert("digits-lenet5").sha256
    user = folder / owner_mark(ADA.tenant, ADA.user)
    shelf = Shelf(user, KeySeal(owner_key(user)), model_digest=digest)
    shelf.promote(LocalExpert(1, DELTA, digest, gate, Judgement(8, 0.5, 0.9), 8, delta=delta))


async def test_a_node_answers_several_users_in_one_batch(tmp_path: Path) -> None:
    network, weights = scene("digits-lenet5")
    shelve(tmp_path, deltas(network, weights, 1)[0], opened(network, weights))
    engine, images = HostEngine(), written()[0]
    again = await open_office(tmp_path, shared=True, engine=engine)
    await ask(again, images[0], "warm", EVE)
    alone = {owner: await ask(again, images[1], f"{owner.user}1", owner) for owner in (ADA, EVE)}
    assert [alone[ADA][1], alone[EVE][1]] == ["local", "global"]
    several = await asyncio.gather(*(ask(again, images[1], f"s{n}", ADA) for n in range(5)))
    assert several == [alone[ADA]] * 5
    assert max(count for arm, count in engine.batches if arm.endswith("/shared")) >= 4
    back = await again.follow(m.PersonalOrder(1, ADA, "digits", "rollback"))
    assert back.status.version == 0
    assert (await ask(again, images[1], "after"))[1] == "global"
    await again.close()


@pytest.mark.skipif(find_spec("torch") is None, reason="NOT RUN: training needs torch (extra personalize)")
async def test_a_delta_is_trained_to_be_a_row_and_forgotten(tmp_path: Path) -> None:
    office = await trained_office(tmp_path, range(60), shared=True)
    images, labels_n = written()
    held = range(200, 320)
    before = np.mean([(await ask(office, images[n], "x", EVE))[0] == labels_n[n] for n in held])
    status = (await office.follow(m.PersonalOrder(1, ADA, "digits", "status"))).status
    assert status.tier == "delta"
    assert status.local_fraction > status.global_fraction
    answers = [await ask(office, images[n], f"h{n}") for n in held]
    assert np.mean([label == labels_n[n] for (label, _), n in zip(answers, held, strict=True)]) > before + 0.05
    assert any(by == "local" for _, by in answers)
    assert (await office.follow(m.PersonalOrder(2, ADA, "digits", "forget"))).status.state == "forgotten"
    assert (await ask(office, images[200], "f"))[1] == "global"
    await office.close()
