"""GGUF files behind a supervised llama-server, against a program that keeps its contract."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from nodes.agent.parts import build_parts
from nodes.arms import ArmSpec
from nodes.config import parse_config
from nodes.energy.contract import Provenance
from nodes.engines.contract import EngineState, Job, TextEnd, TextJob
from nodes.engines.crashes import CrashPolicy
from nodes.engines.llama.child import ChildLimits, LlamaCommand
from nodes.engines.llama.engine import LlamaEngine
from nodes.engines.llama.header import read_header
from nodes.engines.llama.parts import find_server, llama_inventory, parse_gguf
from nodes.engines.remote.server import Address
from nodes.errors import ArmQuarantined, ConfigError, EngineDied, EngineError
from nodes.residency.engine import ResidentEngine
from nodes.zoo.language.gguf import Value, write_gguf
from tests.fakes.llama_server import wrapper


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    """A file with a head and no weights to speak of."""
    tensors: dict[str, NDArray[Any]] = {
        "token_embd.weight": np.zeros((10, 4), np.float16),
        "blk.0.attn_q.weight": np.zeros((4, 4), np.float16),
        "output_norm.weight": np.zeros(4, np.float32),
    }
    metadata: dict[str, Value] = {
        "general.architecture": "llama",
        "general.name": "Tiny Llama",
        "llama.context_length": 64,
    }
    write_gguf(tmp_path / "tiny.gguf", metadata, tensors)
    return tmp_path / "tiny.gguf"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says what the program does from its next start on."""

    def set_up(**wanted: Any) -> None:
        monkeypatch.setenv("FAKE_LLAMA", json.dumps(wanted))

    return set_up


@asynccontextmanager
async def engine_for(gguf: Path, **limits: Any) -> AsyncIterator[tuple[LlamaEngine, ArmSpec]]:
    model = parse_gguf(str(gguf), 0)
    (arm,) = llama_inventory([model], "chat").arms
    command = LlamaCommand(find_server(wrapper(gguf.parent)), gguf, arm.expert, model.context_tokens, slots=1)
    engine = LlamaEngine({arm.key: command}, queue_limit=4, limits=ChildLimits(**limits))
    try:
        yield engine, arm
    finally:
        await engine.close()


async def answer(engine: LlamaEngine, arm: ArmSpec, **fields: Any) -> tuple[str, TextEnd]:
    text = ""
    async with aclosing(engine.generate(TextJob(arm.key, (("user", "what is it"),), **fields))) as stream:
        async for item in stream:
            if isinstance(item, TextEnd):
                return text, item
            text += item.text
    raise AssertionError("no end")


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(15.0):
        while not true():  # noqa: ASYNC110 (another process decides)
            await asyncio.sleep(0.02)


async def test_a_file_is_served_once_it_is_loaded_and_its_work_is_counted(
    gguf: Path, fake: Callable[..., None]
) -> None:
    fake(load_s=0.4)
    async with engine_for(gguf) as (engine, arm):
        started_s = time.monotonic()
        await engine.load([arm])
        assert time.monotonic() - started_s >= 0.4
        text, end = await answer(engine, arm)
        assert text == "forty-two"
        # 10 x 4 read out, 4 x 4 of one matrix; three tokens in, two out.
        assert (arm.macs, end.macs) == (56, 5 * 56)
        assert end.margin_fraction == pytest.approx(0.8)
        (pid,) = engine.pids.values()
    assert pid is not None
    assert not psutil.pid_exists(pid)
    with pytest.raises(EngineDied, match="not loaded"):
        await answer(engine, arm)


async def test_its_key_is_in_no_argument_and_without_it_nobody_is_answered(
    gguf: Path, fake: Callable[..., None]
) -> None:
    fake()
    async with engine_for(gguf) as (engine, arm):
        await engine.load([arm])
        server = engine._serving[arm.key][0].server
        (pid,) = engine.pids.values()
        key = server.address.key
        assert len(key) >= 32
        assert key not in " ".join(psutil.Process(pid).cmdline())
        assert key not in repr(server.address)
        server.move(Address(server.address.url))
        with pytest.raises(EngineError, match="401"):
            await answer(engine, arm)


async def test_a_program_that_fails_says_why(gguf: Path, fake: Callable[..., None]) -> None:
    fake(fails="unknown model architecture: 'odd'")
    async with engine_for(gguf) as (engine, arm):
        with pytest.raises(EngineDied, match="unknown model architecture: 'odd'"):
            await engine.load([arm])
        fake(load_s=60.0)
        engine._limits = ChildLimits(load_timeout_s=0.3)
        with pytest.raises(EngineError, match=r"did not load in 0\.3 s"):
            await engine.load([arm])
    assert not [one for one in psutil.Process().children(recursive=True) if "llama_server" in " ".join(one.cmdline())]


async def test_a_death_fails_what_runs_and_a_new_process_follows(gguf: Path, fake: Callable[..., None]) -> None:
    fake(token_s=5.0)
    async with engine_for(gguf) as (engine, arm):
        await engine.load([arm])
        (pid,) = engine.pids.values()
        running = asyncio.ensure_future(answer(engine, arm))
        await until(lambda: engine.running == 1)
        fake()
        os.kill(pid or 0, signal.SIGKILL)
        with pytest.raises(EngineDied):
            await running
        await until(lambda: engine.restarts == 1 and engine.state is EngineState.READY)
        assert (await answer(engine, arm))[0] == "forty-two"
        assert engine.pids[arm.key] not in (pid, None)


async def test_a_model_that_keeps_dying_while_it_works_is_taken_off(gguf: Path, fake: Callable[..., None]) -> None:
    fake(token_s=5.0)
    policy = CrashPolicy(first_delay_s=0.01, quarantine_after=2)
    async with engine_for(gguf, crashes=policy) as (engine, arm):
        await engine.load([arm])
        lost: list[str] = []
        engine.events.on_arms_lost = lost.extend
        for deaths in (1, 2):
            running = asyncio.ensure_future(answer(engine, arm))
            await until(lambda: engine.running == 1)
            os.kill(engine.pids[arm.key] or 0, signal.SIGKILL)
            with pytest.raises(EngineDied):
                await running
            if deaths == 1:
                await until(lambda: engine.restarts == 1 and engine.state is EngineState.READY)
        await until(lambda: lost == [arm.key])
        with pytest.raises(ArmQuarantined):
            await answer(engine, arm)


async def test_idle_deaths_are_nobodys_doing(gguf: Path, fake: Callable[..., None]) -> None:
    """The control of the quarantine."""
    fake()
    async with engine_for(gguf, crashes=CrashPolicy(first_delay_s=0.01, quarantine_after=2)) as (engine, arm):
        await engine.load([arm])
        for deaths in (1, 2, 3):
            os.kill(engine.pids[arm.key] or 0, signal.SIGKILL)
            await until(lambda deaths=deaths: engine.restarts == deaths and engine.state is EngineState.READY)  # type: ignore[misc]
        assert (await answer(engine, arm))[0] == "forty-two"


async def test_it_dies_with_its_agent(gguf: Path, fake: Callable[..., None], tmp_path: Path) -> None:
    fake()
    code = (
        "import asyncio, sys, os\nfrom pathlib import Path\n"
        "from tests.nodes.engines.llama.test_llama import engine_for\n"
        "async def main():\n"
        "    async with engine_for(Path(sys.argv[1])) as (engine, arm):\n"
        "        await engine.load([arm]); print(engine.pids[arm.key], flush=True); os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(gguf), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    pid = int(out.splitlines()[-1])

    def gone() -> bool:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        return True

    await until(gone)


async def test_tensors_are_refused(gguf: Path) -> None:
    async with engine_for(gguf) as (engine, arm):
        with pytest.raises(EngineError, match="takes text"):
            await engine.infer(Job(arm.key, {}))


# ---- what is offered


def test_a_head_tells_name_context_and_work(gguf: Path) -> None:
    header = read_header(gguf)
    assert (header.name, header.context_tokens, header.macs_per_token) == ("Tiny Llama", 64, 56)
    model = parse_gguf(f"{gguf},quality=0.7,tag=private", 32)
    arm = model.arm
    assert (arm.expert, arm.quality_fraction, arm.tags) == ("tiny-llama", 0.7, ("private",))
    assert arm.text is not None
    assert (arm.text.context_tokens, arm.text.capabilities) == (32, ("logprobs",))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"PK" + data[2:],
        lambda data: data[:40],
        lambda data: data[:4] + struct.pack("<I", 9) + data[8:],
        lambda data: data[:8] + struct.pack("<QQ", 1 << 60, 1 << 60) + data[24:],
        lambda _data: b"",
    ],
)
def test_a_damaged_file_is_refused_with_a_reason(gguf: Path, damage: Callable[[bytes], bytes]) -> None:
    gguf.write_bytes(damage(gguf.read_bytes()))
    with pytest.raises(ConfigError, match="--gguf"):
        read_header(gguf)


def test_what_cannot_be_offered_is_said_before_anything_starts(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="made for 64 tokens, not for 65"):
        parse_gguf(str(gguf), 65)
    with pytest.raises(ConfigError, match="cannot be read"):
        parse_gguf(str(tmp_path / "missing.gguf"), 0)
    with pytest.raises(ConfigError, match="one name"):
        llama_inventory([parse_gguf(str(gguf), 0)] * 2, "chat")
    with pytest.raises(ConfigError, match="cannot be run"):
        find_server(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="run two nodes"):
        parse_config({"gateway": "127.0.0.1:1", "gguf": (str(gguf),), "openai": "http://127.0.0.1:1/v1"})


@pytest.fixture
def two(gguf: Path) -> tuple[Path, Path]:
    """Two files of the same size and different names."""
    other = gguf.with_name("other.gguf")
    other.write_bytes(gguf.read_bytes().replace(b"Tiny Llama", b"Size Llama"))
    return gguf, other


async def test_files_take_turns_under_a_budget_of_memory(two: tuple[Path, Path], fake: Callable[..., None]) -> None:
    fake()
    config = parse_config(
        {
            "gateway": "127.0.0.1:1",
            "gguf": tuple(map(str, two)),
            "llama_server": wrapper(two[0].parent),
            "memory_budget_bytes": read_header(two[0]).file_bytes + 10,
        }
    )
    parts = build_parts(config)
    engine = parts.engine
    assert isinstance(engine, ResidentEngine)
    llama = engine._inner
    assert isinstance(llama, LlamaEngine)
    try:
        await engine.load(parts.inventory.arms)
        assert llama.pids == {}
        for arm in (*parts.inventory.arms, parts.inventory.arms[0]):
            pieces = [item async for item in engine.generate(TextJob(arm.key, (("user", "x"),)))]
            end = pieces[-1]
            assert isinstance(end, TextEnd)
            assert end.load is not None
            assert list(llama.pids) == [arm.key]
    finally:
        await engine.close()
    assert llama.pids == {}


def test_the_settings_make_a_node_whose_joules_a_profile_can_model(gguf: Path) -> None:
    config = parse_config(
        {
            "gateway": "127.0.0.1:1",
            "gguf": (str(gguf),),
            "llama_server": wrapper(gguf.parent),
            "profile": "laptop-cpu",
            "energy": "modelled",
        }
    )
    parts = build_parts(config)
    (arm,) = parts.inventory.arms
    assert (arm.key, arm.task, parts.measure is not None) == ("tiny-llama:gguf", "chat", True)
    assert parts.energy.meter.provenance is Provenance.MODELLED
