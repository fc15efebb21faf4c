"""What serving notices of a training that runs beside it: 99th percentiles through gateway and node, in one run.

One caller asks a node that personalises, one request after the other, through the gateway. Windows take turns: nothing
beside it; a user's training, again and again, as the node starts it; nothing again. A ratio is the window's 99th
percentile over the mean of its two quiet neighbours, and the median over rounds counts. *crowd* is one training more
than there are cores. *awake* is one that has the lowest priority and is never stopped, and *control* a crowd that has
not even that, which the measurement must notice. Needs torch, else exit 77.

A node stops its training when work comes (`nodes.personal.pause`). Here, where a training starts again as soon as it
has ended, it is the caller who tells, just before it asks.

``--rounds=N`` takes other than 10 rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from os import cpu_count
from pathlib import Path

import numpy as np

from nodes.personal.pause import Pause
from nodes.personal.trainer import GUEST
from nodes.zoo.catalog import DEFAULT_FOLDER, load_catalog
from orchestrator.client import Budget, Client
from orchestrator.errors import EdgewiseError
from tests.bench.harness import NOT_RUN, Bar, Row, cores_awake, main, spread
from tests.fakes.processes import REPOSITORY, Fleet, NodePlan
from tests.faults.personal_kills import taught_folder

EXPERT = "digits-lenet5"
TRAINING = "nodes.personal.training"
ROUNDS = 10
WINDOW_S = 4.0
PATIENT = Budget(max_latency_ms=5000.0)
BARS = (
    Bar("training.p99_ratio.one", 1.2, "<="),
    # The control: were trainings no guests, this would tell.
    Bar("training.p99_ratio.control", 1.2, ">="),
)


class Trainings:
    """Trainings of copies of a user, each started again when it ends, while the context is open.

    Args:
        folder: Where the copies lie.
        count: How many at once.
        guest: Whether they have the lowest priority, as on a node.
        stopped: Whether they stop when work comes, as on a node.
    """

    def __init__(self, folder: Path, *, count: int, guest: bool = True, stopped: bool = True) -> None:
        model = DEFAULT_FOLDER / load_catalog().expert(EXPERT).file
        how = [GUEST, TRAINING] if guest else [TRAINING]
        name = f"{count}-{guest}-{stopped}"
        self._commands = [
            [sys.executable, "-m", *how, str(taught_folder(folder / f"{name}-{n}")), str(model), "8", ""]
            for n in range(count)
        ]
        self._stopped = stopped
        self._pauses: list[Pause] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = threading.Event()
        self.ended = 0

    @contextmanager
    def running(self) -> Iterator[Callable[[], None]]:
        """Keep them going; what is given tells them that work comes."""
        self._over.clear()
        thread = threading.Thread(target=lambda: asyncio.run(self._all()))
        thread.start()
        try:
            yield self._tell
        finally:
            self._over.set()
            thread.join()

    def _tell(self) -> None:
        if self._loop is not None and self._stopped:
            for pause in self._pauses:
                self._loop.call_soon_threadsafe(pause.heard)

    async def _all(self) -> None:
        self._pauses = [Pause(lambda: False) for _ in self._commands]
        self._loop = asyncio.get_running_loop()
        try:
            pairs = zip(self._commands, self._pauses, strict=True)
            await asyncio.gather(*(self._repeat(command, pause) for command, pause in pairs))
        finally:
            self._loop = None

    async def _repeat(self, command: list[str], pause: Pause) -> None:
        quiet = asyncio.subprocess.DEVNULL
        while not self._over.is_set():
            process = await asyncio.create_subprocess_exec(*command, cwd=REPOSITORY, stdout=quiet, stderr=quiet)
            accompanying = asyncio.create_task(pause.accompany(process)) if self._stopped else None
            # What ends this is in another thread.
            while process.returncode is None and not self._over.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            self.ended += process.returncode == 0
            if accompanying is not None:
                accompanying.cancel()
            if process.returncode is None:
                process.kill()
            await process.wait()


def run() -> list[Row]:
    """All windows."""
    if find_spec("torch") is None:
        print("not run: training needs torch (extra personalize)")
        raise SystemExit(NOT_RUN)
    with tempfile.TemporaryDirectory() as name, cores_awake() as awake:
        folder = Path(name)
        (folder / "fleet").mkdir()
        plan = NodePlan("home", "laptop-cpu", (EXPERT,), ("--profiling-s", "0.1", "--personal", str(folder / "users")))
        with Fleet(folder / "fleet") as fleet:
            fleet.start(plan)
            with fleet.client() as client:
                return _rounds(client, folder, awake=awake)


def _rounds(client: Client, folder: Path, *, awake: bool) -> list[Row]:
    cores = cpu_count() or 1
    beside = {
        "one": Trainings(folder, count=1),
        "crowd": Trainings(folder, count=cores + 1),
        "awake": Trainings(folder, count=1, stopped=False),
        "control": Trainings(folder, count=cores + 1, guest=False, stopped=False),
    }
    ratios: dict[str, list[float]] = {name: [] for name in ("same", *beside)}
    quiet_ms = []
    _window(client)
    before_ms = _window(client)
    for _ in range(_given_rounds()):
        for name in ratios:
            if name == "same":
                between_ms = _window(client)
            else:
                with beside[name].running() as tell:
                    between_ms = _window(client, tell)
            after_ms = _window(client)
            ratios[name].append(2.0 * between_ms / (before_ms + after_ms))
            print(f"{name}: {before_ms:.2f}, {between_ms:.2f}, {after_ms:.2f} ms", file=sys.stderr, flush=True)
            quiet_ms.append(after_ms)
            before_ms = after_ms
    sizes: dict[str, object] = {"rounds": _given_rounds(), "window_s": WINDOW_S, "cores": cores, "awake": awake}
    counts = {
        "same": {},
        "one": {"trainings": 1},
        "crowd": {"trainings": cores + 1},
        "awake": {"trainings": 1},
        "control": {"trainings": cores + 1},
    }
    rows = [Row("training.p99_ms.quiet", statistics.median(quiet_ms), "ms", sizes)]
    for name, values in ratios.items():
        low, middle, high = spread(values)
        told = {**sizes, **counts[name], "quartiles": [low, high]}
        rows.append(Row(f"training.p99_ratio.{name}", middle, "ratio", told))
    return [*rows, Row("training.ended", float(sum(one.ended for one in beside.values())), "trainings", sizes)]


def _given_rounds() -> int:
    given = [int(flag.partition("=")[2]) for flag in sys.argv if flag.startswith("--rounds=")]
    return given[0] if given else ROUNDS


def _window(client: Client, tell: Callable[[], None] = lambda: None) -> float:
    """The 99th percentile of one caller's requests, milliseconds; `tell` is called before each."""
    images = load_catalog().held_out.inputs
    times_ms: list[float] = []
    until_s = time.monotonic() + WINDOW_S
    while time.monotonic() < until_s:
        image = images[len(times_ms) % len(images)][None]
        tell()
        started_s = time.perf_counter()
        # What gets no answer counts with the time that was waited for it.
        with contextlib.suppress(EdgewiseError):
            client.infer(image, budget=PATIENT)
        times_ms.append((time.perf_counter() - started_s) * 1e3)
    return float(np.percentile(times_ms, 99.0))


if __name__ == "__main__":
    main(stem="personal_training", run=run, bars=BARS)
