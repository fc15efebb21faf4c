"""What `Workers` promise: this process, a pool of processes, and a Ray cluster (a fake; Ray itself in the campaign)."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import ExitCode
from orchestrator.placement.errors import PlacementError
from orchestrator.workers import cluster, driver
from orchestrator.workers.choice import Choice, opened, parse_workers, told
from orchestrator.workers.cluster import RayWorkers
from orchestrator.workers.contract import Workers, seed_of
from orchestrator.workers.driver import serve
from orchestrator.workers.local import Here, Pool, compute_on_one_thread
from tests.fakes.ray_module import FakeRay

ITEMS = [np.arange(7.0) + item for item in range(12)]


def noisy(weights: np.ndarray[Any, Any], item: np.ndarray[Any, Any], seed: int) -> float:
    """Depends on the argument that all share, the item and the seed."""
    return float(item @ weights + np.random.default_rng(seed).normal())


def doubled(item: int) -> int:
    return 2 * item


def refuses(item: int) -> int:
    if item == 3:
        raise ZeroDivisionError("three")
    return item


def dies_once(folder: Path, item: int) -> int:
    """Takes its worker down the first time that it gets item 3."""
    mark = folder / "died"
    if item == 3 and not mark.exists():
        mark.touch()
        os._exit(9)
    return item


def always_dies(item: int) -> int:
    os._exit(9)


def on_ray(monkeypatch: pytest.MonkeyPatch, ray: FakeRay, *, listens: bool = True) -> RayWorkers:
    """Workers whose driver is a thread of this process, and whose Ray is a fake."""

    def opened(self: RayWorkers) -> Any:
        ours, theirs = multiprocessing.Pipe()
        theirs.send(None)
        threading.Thread(target=serve, args=(theirs, ray), daemon=True).start()
        self._end = ours.close
        return ours

    monkeypatch.setattr(RayWorkers, "_check", lambda self: None)
    monkeypatch.setattr(RayWorkers, "_opened", opened)
    monkeypatch.setattr(RayWorkers, "_listens", lambda self: listens)
    monkeypatch.setattr(cluster, "POLL_S", 0.01)
    monkeypatch.setattr(driver, "POLL_S", 0.01)
    return RayWorkers("127.0.0.1:1", Path("token"))


@pytest.fixture(params=["here", "pool", "ray"])
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Workers:
    made: dict[str, Callable[[], Workers]] = {
        "here": Here,
        "pool": lambda: Pool(2),
        "ray": lambda: on_ray(monkeypatch, FakeRay()),
    }
    return made[request.param]()


def test_results_are_those_of_a_loop_to_the_last_bit_in_the_order_of_the_items(workers: Workers) -> None:
    weights = np.linspace(0.0, 1.0, 7)
    seen = list[tuple[int, int]]()
    found = workers.map(partial(noisy, weights), ITEMS, seed=5, progress=lambda *one: seen.append(one))
    assert found == [noisy(weights, item, seed_of(5, index) or 0) for index, item in enumerate(ITEMS)]
    assert seen == [(done, len(ITEMS)) for done in range(1, len(ITEMS) + 1)]


def test_without_a_seed_items_come_alone_and_without_items_nothing_comes(workers: Workers) -> None:
    assert workers.map(doubled, range(5)) == [0, 2, 4, 6, 8]
    assert workers.map(doubled, []) == []


def test_what_the_function_raises_is_raised_as_it_is(workers: Workers) -> None:
    with pytest.raises(ZeroDivisionError, match="three"):
        workers.map(refuses, range(5))


def test_seeds_of_items_depend_on_seed_and_place_and_nothing_else() -> None:
    seeds = [seed_of(seed, index) for seed in range(20) for index in range(20)]
    assert len(set(seeds)) == 400
    assert seed_of(None, 3) is None
    assert seed_of(7, 2) == np.random.SeedSequence([7, 2]).generate_state(1)[0]


def test_a_worker_that_dies_costs_nothing_but_time(tmp_path: Path) -> None:
    assert Pool(2).map(partial(dies_once, tmp_path), range(8)) == list(range(8))
    assert (tmp_path / "died").exists()


def test_control_without_retries_it_costs_the_work(tmp_path: Path) -> None:
    with pytest.raises(PlacementError, match="died 1 times") as caught:
        Pool(1).map(partial(dies_once, tmp_path), [3], retry=0)
    assert caught.value.what == "work given up"


def test_work_that_kills_whoever_does_it_is_given_up() -> None:
    with pytest.raises(PlacementError, match="died 2 times"):
        Pool(1).map(always_dies, [1], retry=1)


def test_functions_without_a_name_are_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    for workers in (Pool(2), on_ray(monkeypatch, FakeRay())):
        with pytest.raises(PlacementError, match="cannot be found by its name"):
            workers.map(lambda item: item, [1])


def test_ray_tries_again_and_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_ray(monkeypatch, FakeRay(deaths={1: 2})).map(doubled, range(3), retry=2) == [0, 2, 4]
    with pytest.raises(PlacementError, match="died 2 times"):
        on_ray(monkeypatch, FakeRay(deaths={1: 2})).map(doubled, range(3), retry=1)


class Silent(FakeRay):
    """A cluster from which nothing comes."""

    def wait(self, references: Any, *, timeout: float, num_returns: int = 1) -> Any:
        time.sleep(timeout)
        return [], references


def test_work_that_never_begins_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "BEGIN_S", 0.05)
    with on_ray(monkeypatch, Silent()) as workers, pytest.raises(PlacementError, match="no work came back"):
        workers.map(doubled, [1])


def test_a_head_that_is_gone_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with on_ray(monkeypatch, Silent(), listens=False) as workers:
        with pytest.raises(PlacementError, match="nothing was heard") as caught:
            workers.map(doubled, [1])
        assert caught.value.exit_code is ExitCode.UNREACHABLE


def test_no_more_tasks_than_a_window_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "WINDOW", 4)
    most = 0

    class Counting(FakeRay):
        def wait(self, references: Any, *, timeout: float, num_returns: int = 1) -> Any:
            nonlocal most
            most = max(most, len(references))
            return super().wait(references, timeout=timeout, num_returns=num_returns)

    with on_ray(monkeypatch, Counting()) as workers:
        assert workers.map(doubled, range(20)) == [2 * item for item in range(20)]
    assert most == 4


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("local", Choice()),
        ("local:4", Choice(processes=4)),
        ("ray", Choice(address="10.0.0.5:6379")),
        ("ray@h:1", Choice(address="h:1")),
    ],
)
def test_where_work_is_done_is_read(text: str, choice: Choice) -> None:
    assert parse_workers(text, {"RAY_ADDRESS": "10.0.0.5:6379"}) == choice
    assert choice.elsewhere == (text != "local")


@pytest.mark.parametrize("text", ["", "local:", "local:0", "local:x", "local:9999", "ray", "ray@", "ray@h", "dask"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(PlacementError, match=r"none of them|RAY_ADDRESS") as caught:
        parse_workers(text, {})
    assert caught.value.exit_code is ExitCode.USAGE


def test_local_choices_open_without_ray() -> None:
    with opened(Choice(processes=3)) as workers:
        assert isinstance(workers, Pool)
    assert "ray" not in sys.modules


def test_progress_is_told_ten_times_at_most_and_ends_with_all() -> None:
    notes = list[str]()
    tell = told(notes.append, "plan")
    for done in range(1, 201):
        tell(done, 200)
    assert (len(notes), notes[-1]) == (10, "plan 200 of 200")


def test_it_is_too_late_for_one_thread_where_numpy_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert not compute_on_one_thread()
