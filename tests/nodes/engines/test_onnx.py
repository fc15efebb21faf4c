"""The real engine process: answers, death, restart, bounds. Every wait ends by itself or by a time limit."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from nodes.arms import Inventory
from nodes.engines.child import Limits
from nodes.engines.contract import EngineState, Job, JobResult, TextJob
from nodes.engines.crashes import CrashPolicy
from nodes.engines.onnx import OnnxEngine
from nodes.engines.process import WorkerCommand
from nodes.errors import (
    ArmQuarantined,
    DeadlinePassed,
    EngineBusy,
    EngineDied,
    EngineError,
    InputInvalid,
)
from tests.nodes.conftest import digit

TINY, SLOW = "tiny:onnx-fp32", "slow:onnx-fp32"


@pytest.fixture
async def engine(inventory: Inventory) -> AsyncIterator[OnnxEngine]:
    limits = Limits(queue_limit=3, crashes=CrashPolicy(first_delay_s=0.01, delay_cap_s=0.05))
    engine = OnnxEngine(WorkerCommand(Path(sys.executable), slots=1), limits)
    await engine.load(inventory.arms)
    yield engine
    await engine.close()


def tiny(number: int = 3, start_by_s: float | None = None) -> Job:
    return Job(TINY, {"image": digit(number)}, start_by_s)


def slow() -> Job:
    return Job(SLOW, {"image": digit(0)})


async def _until_ready(engine: OnnxEngine) -> None:
    async with asyncio.timeout(10):
        while engine.state is not EngineState.READY:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def _running(engine: OnnxEngine, job: Job) -> asyncio.Task[JobResult]:
    started = asyncio.Event()
    task = asyncio.create_task(engine.infer(dataclasses.replace(job, on_start=started.set)))
    async with asyncio.timeout(10):
        await started.wait()
    return task


async def test_answers_with_times(engine: OnnxEngine) -> None:
    result = await engine.infer(tiny(7))
    assert result.outputs["probabilities"].shape == (1, 10)
    assert int(result.outputs["probabilities"].argmax()) == 7
    assert result.compute_ms > 0.0
    assert result.queue_ms >= 0.0
    batch = {"image": np.concatenate([digit(1), digit(2)])}
    outputs = (await engine.infer(Job(TINY, batch))).outputs["probabilities"]
    assert outputs.argmax(axis=1).tolist() == [1, 2]


async def test_kill_9_fails_running_work_at_once_and_the_engine_comes_back_alone(engine: OnnxEngine) -> None:
    running = await _running(engine, slow())
    waiting = asyncio.create_task(engine.infer(tiny()))
    await asyncio.sleep(0)
    old_pid = engine.pid
    assert old_pid is not None
    killed_s = time.monotonic()
    os.kill(old_pid, signal.SIGKILL)
    for task in (running, waiting):
        with pytest.raises(EngineDied):
            await task
    assert time.monotonic() - killed_s < 0.5
    with pytest.raises(EngineDied):
        await engine.infer(tiny())
    await _until_ready(engine)
    assert engine.restarts == 1
    assert engine.pid != old_pid
    assert int((await engine.infer(tiny(4))).outputs["probabilities"].argmax()) == 4
    assert (engine.running, engine.queued) == (0, 0)


async def test_three_crashes_take_the_model_off_the_offer_and_leave_the_others(engine: OnnxEngine) -> None:
    lost: list[str] = []
    engine.events.on_arms_lost = lost.extend
    for _ in range(3):
        await _until_ready(engine)
        running = await _running(engine, slow())
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(EngineDied):
            await running
    assert lost == [SLOW]
    with pytest.raises(ArmQuarantined):
        await engine.infer(slow())
    await _until_ready(engine)
    assert (await engine.infer(tiny())).outputs


async def test_a_process_that_hangs_is_killed_and_replaced(inventory: Inventory) -> None:
    engine = OnnxEngine(WorkerCommand(Path(sys.executable), 1), Limits(stall_timeout_s=0.2))
    await engine.load(inventory.arms)
    try:
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)
        # The signal takes effect some time later; work sent before that would be answered.
        while psutil.Process(engine.pid).status() != psutil.STATUS_STOPPED:  # noqa: ASYNC110
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            with pytest.raises(EngineDied):
                await engine.infer(tiny())
        await _until_ready(engine)
        assert (await engine.infer(tiny())).outputs
    finally:
        await engine.close()


async def test_the_queue_is_bounded(engine: OnnxEngine) -> None:
    running = await _running(engine, slow())
    waiting = [asyncio.create_task(engine.infer(tiny(number))) for number in range(3)]
    await asyncio.sleep(0)
    assert (engine.running, engine.queued) == (1, 3)
    with pytest.raises(EngineBusy):
        await engine.infer(tiny())
    results = await asyncio.gather(*waiting)
    await running
    assert [int(result.outputs["probabilities"].argmax()) for result in results] == [0, 1, 2]
    assert all(result.queue_ms > 1.0 for result in results)
    assert (engine.running, engine.queued) == (0, 0)


async def test_cancelled_waiting_work_never_starts_and_cancelled_running_work_holds_its_slot(
    engine: OnnxEngine,
) -> None:
    running = await _running(engine, slow())
    starts: list[str] = []
    dropped = asyncio.create_task(engine.infer(dataclasses.replace(tiny(), on_start=lambda: starts.append("dropped"))))
    await asyncio.sleep(0)
    dropped.cancel()
    running.cancel()
    await asyncio.wait([dropped, running])
    assert (engine.running, engine.queued) == (1, 0)
    result = await engine.infer(tiny(5))
    assert result.queue_ms > 1.0
    assert int(result.outputs["probabilities"].argmax()) == 5
    assert starts == []


async def test_work_whose_time_ran_out_while_waiting_does_not_start(engine: OnnxEngine) -> None:
    running = await _running(engine, slow())
    late = asyncio.create_task(engine.infer(tiny(start_by_s=time.monotonic() + 0.001)))
    with pytest.raises(DeadlinePassed):
        await late
    assert running.done()
    assert (await engine.infer(tiny(start_by_s=time.monotonic() + 60))).outputs


async def test_what_the_model_refuses_is_an_error_of_that_work_alone(engine: OnnxEngine) -> None:
    pid = engine.pid
    with pytest.raises(InputInvalid):
        await engine.infer(Job(TINY, {"image": np.zeros((1, 8, 8), np.float64)}))
    with pytest.raises(InputInvalid):
        await engine.infer(Job(TINY, {"image": np.zeros(2**24 + 1, np.uint8)}))
    with pytest.raises(EngineError):
        await engine.infer(Job("nobody:x", {"image": digit(0)}))
    with pytest.raises(EngineError, match="takes tensors"):
        engine.generate(TextJob(TINY, (("user", "hello"),)))
    assert (await engine.infer(tiny())).outputs
    assert (engine.pid, engine.running) == (pid, 0)


async def test_a_file_that_is_not_the_announced_one_is_not_loaded(inventory: Inventory) -> None:
    forged = dataclasses.replace(inventory.arms[0], model_digest="0" * 64)
    engine = OnnxEngine(WorkerCommand(Path(sys.executable), 1))
    with pytest.raises(EngineError, match="digest"):
        await engine.load([forged])
    await engine.close()


@pytest.mark.parametrize(
    ("python", "text"), [("/bin/false", "ended while starting"), ("/nowhere/python", "cannot be started")]
)
async def test_an_interpreter_that_does_not_work_is_named(inventory: Inventory, python: str, text: str) -> None:
    engine = OnnxEngine(WorkerCommand(Path(python), 1))
    with pytest.raises(EngineError, match=text) as caught:
        await engine.load(inventory.arms)
    assert python in caught.value.message
    await engine.close()


async def test_prints_of_libraries_do_not_reach_the_protocol(
    inventory: Inventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A module that prints on import, as some runtimes do; the worker must survive it.
    (tmp_path / "sitecustomize.py").write_text(
        "import builtins, sys\n"
        "real = builtins.__import__\n"
        "def noisy(name, *rest, **more):\n"
        "    if name == 'onnxruntime': print('hello from a library', flush=True)\n"
        "    return real(name, *rest, **more)\n"
        "builtins.__import__ = noisy\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    engine = OnnxEngine(WorkerCommand(Path(sys.executable), 1))
    await engine.load(inventory.arms[:1])
    assert (await engine.infer(tiny())).outputs
    await engine.close()


async def test_the_worker_sees_only_the_worker_of_this_package() -> None:
    code = WorkerCommand(Path(sys.executable), 1).arguments()[2]
    setup = code[: code.index("from nodes.worker")]
    probe = setup + (
        "import nodes.worker.frames, nodes.worker.main\n"
        "names = sorted(name for name in sys.modules if name.split('.')[0] in"
        " ('nodes', 'pydantic', 'grpc', 'structlog', 'edgewise', 'click'))\n"
        "print(names)"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", probe, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.decode().strip() == str(["nodes", "nodes.worker", "nodes.worker.frames", "nodes.worker.main"])


async def test_close_ends_the_process_and_later_work_fails(inventory: Inventory) -> None:
    engine = OnnxEngine(WorkerCommand(Path(sys.executable), 1))
    await engine.load(inventory.arms[:1])
    pid = engine.pid
    assert pid is not None
    await engine.close()
    with pytest.raises(EngineDied):
        await engine.infer(tiny())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
