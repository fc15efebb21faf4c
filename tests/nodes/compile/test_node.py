"""`node run --compile`: compiled arms are offered, measured and answer; a damaged one is lost alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import structlog

from nodes.cli import main
from nodes.errors import ExitCode
from nodes.zoo.catalog import load_catalog
from tests.nodes.agent.gateway import PlayedGateway, PlayedSession, tensor_work

PLAIN, INT8, ORT = "onnx-fp32", "ort-int8", "ort-fp32"


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    # `run` points the log at stderr, which here is a file of one test.
    structlog.reset_defaults()


@pytest.fixture
async def gateway() -> AsyncIterator[PlayedGateway]:
    gateway = PlayedGateway()
    await gateway.start()
    yield gateway
    await gateway.stop()


async def started(gateway: PlayedGateway, *flags: str) -> asyncio.subprocess.Process:
    usual = ["--gateway", gateway.target, "--name", "n1", "--profile", "jetson-agx-orin", "--log", "json"]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nodes", "run", *usual, "--profiling-s", "0.05", *flags, stderr=asyncio.subprocess.PIPE
    )


@pytest.fixture
async def node(gateway: PlayedGateway) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await started(gateway, "--experts", "digits-mlp", "--compile", "int8,ort")
    yield process
    if process.returncode is None:
        process.kill()
        await process.wait()


async def joined(gateway: PlayedGateway) -> tuple[PlayedSession, Any]:
    session = await gateway.session(timeout_s=30.0)
    hello = await session.next("hello")
    session.welcome()
    await session.next("heartbeat")
    return session, hello


async def answer(session: PlayedSession, work_id: int, images: np.ndarray, variant: str) -> np.ndarray:
    command = tensor_work(work_id, images, expert="digits-mlp")
    command.work.variant = variant
    session.send(command)
    done = await session.next("done")
    return np.frombuffer(done.outputs[0].data, np.float32).reshape(len(images), 10)


async def test_compiled_arms_are_offered_with_their_own_figures_and_answer(
    gateway: PlayedGateway, node: asyncio.subprocess.Process
) -> None:
    session, hello = await joined(gateway)
    arms = {arm.variant: arm for arm in hello.arms}
    assert set(arms) == {PLAIN, INT8, ORT}
    assert len({arm.latency.p50_ms for arm in arms.values()}) == 3, "each was measured"
    assert arms[INT8].quality_fraction > 0.95
    assert arms[INT8].model_digest != arms[PLAIN].model_digest
    images = np.ascontiguousarray(load_catalog().held_out.inputs[:40])
    plain, int8, ort = [await answer(session, at, images, name) for at, name in enumerate((PLAIN, INT8, ORT), 1)]
    np.testing.assert_allclose(ort, plain, atol=1e-5)
    np.testing.assert_allclose(int8, plain, atol=0.15)
    assert not np.array_equal(int8, plain), "it really is another model"
    node.send_signal(signal.SIGTERM)


async def test_a_compiled_file_that_is_damaged_is_lost_alone_and_made_anew_beside_the_work(
    gateway: PlayedGateway, node: asyncio.subprocess.Process, tmp_path: Path
) -> None:
    session, _ = await joined(gateway)
    (entry,) = [seal.parent for seal in (tmp_path / "cache").rglob("seal.json") if INT8 in seal.read_text()]
    model = entry / "model.onnx"
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + b"!")
    (worker,) = psutil.Process(node.pid).children()
    os.kill(worker.pid, signal.SIGKILL)
    offer = await session.next("arms_changed")
    assert {arm.variant for arm in offer.arms} == {PLAIN, ORT}, "all others serve on"
    images = np.ascontiguousarray(load_catalog().held_out.inputs[:4])
    assert "compiled" in (await session.next("draining")).reason
    await session.half_closed.wait()
    session.end()
    session, hello = await joined(gateway)
    assert {arm.variant for arm in hello.arms} == {PLAIN, INT8, ORT}
    assert (await answer(session, 1, images, INT8)).shape == (4, 10)
    assert model.read_bytes() == whole
    node.kill()
    assert node.stderr is not None
    events = [json.loads(line) for line in (await node.stderr.read()).splitlines()]
    (refused,) = [event for event in events if event["event"] == "compiled file refused"]
    assert refused["reason"] == "ENGINE_NOT_LOCAL"
    made = [event["made"] for event in events if event["event"] == "compiled"]
    assert made == [True, True, True, False], "one build for the damaged one, none for the other"


@pytest.mark.parametrize(
    ("flags", "code", "needle"),
    [
        (["--compile", "int3"], ExitCode.CONFIG, "rtx-fp16@1-16"),
        (["--compile", "tensorrt"], ExitCode.ENGINE_FAILED, "tensorrt"),
        (["--compile", "cuda"], ExitCode.ENGINE_FAILED, "CUDAExecutionProvider"),
        (["--compile", "nobody:ort"], ExitCode.CONFIG, "digits-mlp"),
        (["--compile", "ort", "--compile-cache", "/proc/nowhere"], ExitCode.ENGINE_FAILED, "/proc/nowhere"),
        (["--compile", "ort", "--compile-loss-points", "-1"], ExitCode.CONFIG, "--compile-loss-points"),
        (["--compile", "rtx", "--gpu-python", "/bin/false"], ExitCode.ENGINE_FAILED, "/bin/false"),
    ],
)
def test_what_cannot_be_compiled_is_said_before_the_gateway_is_called(
    capsys: pytest.CaptureFixture[str], flags: list[str], code: ExitCode, needle: str
) -> None:
    given = ["--gateway", "127.0.0.1:1", "--experts", "digits-mlp", "--profile", "laptop-cpu"]
    assert main(["run", *given, *flags]) == code
    err = capsys.readouterr().err
    assert needle in err
    assert "Traceback" not in err


async def test_beside_the_node_serves_the_model_as_it_came_until_the_forms_are_made(gateway: PlayedGateway) -> None:
    flags = ("--experts", "digits-mlp", "--compile", "int8,ort", "--compile-when", "beside")
    node = await started(gateway, *flags)
    session, hello = await joined(gateway)
    assert [arm.variant for arm in hello.arms] == [PLAIN]
    images = np.ascontiguousarray(load_catalog().held_out.inputs[:4])
    plain = await answer(session, 1, images, PLAIN)
    assert "compiled" in (await session.next("draining")).reason
    await session.half_closed.wait()
    session.end()
    session, hello = await joined(gateway)
    arms = {arm.variant: arm for arm in hello.arms}
    assert set(arms) == {PLAIN, INT8, ORT}
    assert all(arm.latency.p50_ms > 0 for arm in arms.values())
    np.testing.assert_allclose(await answer(session, 2, images, ORT), plain, atol=1e-5)
    node.send_signal(signal.SIGTERM)
    await session.half_closed.wait()
    session.end()
    async with asyncio.timeout(15):
        assert await node.wait() == 0


async def test_beside_what_cannot_be_made_leaves_the_node_as_it_is(gateway: PlayedGateway) -> None:
    node = await started(gateway, "--experts", "digits-mlp", "--compile", "tensorrt", "--compile-when", "beside")
    _, hello = await joined(gateway)
    assert [arm.variant for arm in hello.arms] == [PLAIN]
    assert node.stderr is not None
    async with asyncio.timeout(20):
        while b"no further arms" not in (line := await node.stderr.readline()):
            assert line, "the node ended"
    assert b"tensorrt" in line
    assert node.returncode is None
    node.kill()
    await node.wait()
