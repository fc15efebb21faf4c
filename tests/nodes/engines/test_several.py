"""Several engines as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from nodes.arms import ArmSpec
from nodes.engines.contract import EngineState, Job, TextEnd, TextJob
from nodes.engines.several import SeveralEngines
from nodes.errors import EngineError
from tests.nodes.agent.engines import FakeEngine


def arm(expert: str, engine: str) -> ArmSpec:
    return ArmSpec(expert, "v", "task", engine, 1, 1, 0.5, 10)


@pytest.fixture
def parts() -> dict[str, FakeEngine]:
    return {"onnx": FakeEngine(), "onnx-lm": FakeEngine()}


async def test_every_arm_runs_in_its_own_engine(parts: dict[str, FakeEngine]) -> None:
    both = SeveralEngines(parts)
    await both.load([arm("digits", "onnx"), arm("skills", "onnx-lm")])
    assert both.engine_of("digits:v") is parts["onnx"]
    assert both.engine_of("skills:v") is parts["onnx-lm"]
    result = await both.infer(Job("digits:v", {"image": np.zeros((1, 64), np.float32)}))
    assert "probabilities" in result.outputs
    parts["onnx-lm"].gate.set()
    items = [item async for item in both.generate(TextJob("skills:v", (("user", "x"),)))]
    assert isinstance(items[-1], TextEnd)
    assert parts["onnx"].spoken == 0


async def test_an_arm_that_nobody_loaded_and_an_engine_that_is_not_there(parts: dict[str, FakeEngine]) -> None:
    both = SeveralEngines(parts)
    with pytest.raises(EngineError, match="no such engine: other"):
        await both.load([arm("x", "other")])
    with pytest.raises(EngineError, match="no engine has loaded"):
        both.generate(TextJob("x:v", ()))


async def test_the_worst_state_counts_and_lost_arms_are_passed_on(parts: dict[str, FakeEngine]) -> None:
    both, lost = SeveralEngines(parts), list[str]()
    both.events.on_arms_lost = lost.extend
    states = [both.state]
    await both.load([arm("digits", "onnx"), arm("skills", "onnx-lm")])
    states.append(both.state)
    assert states == [EngineState.STARTING, EngineState.READY]
    parts["onnx"].restarts, parts["onnx"].state = 2, EngineState.RESTARTING
    assert (both.state, both.restarts, both.running, both.queued) == (EngineState.RESTARTING, 2, 0, 0)
    parts["onnx-lm"].events.on_arms_lost(["skills:v"])
    assert lost == ["skills:v"]
    await both.close()
    assert EngineState.CLOSED in {both.state}


async def test_what_keeps_one_engine_from_starting_is_said_as_it_is(parts: dict[str, FakeEngine]) -> None:
    class Broken(FakeEngine):
        async def load(self, arms: Sequence[ArmSpec]) -> None:
            raise EngineError("no such interpreter")

    both = SeveralEngines({**parts, "onnx-lm": Broken()})
    with pytest.raises(EngineError, match="no such interpreter"):
        await both.load([arm("digits", "onnx"), arm("skills", "onnx-lm")])


async def test_a_further_arm_goes_to_its_engine_or_is_refused(parts: dict[str, FakeEngine]) -> None:
    class Growing(FakeEngine):
        added: tuple[str, ...] = ()

        async def add(self, arm: ArmSpec) -> None:
            self.added += (arm.key,)

    growing = Growing()
    both = SeveralEngines({**parts, "onnx": growing})
    await both.load([arm("digits", "onnx"), arm("skills", "onnx-lm")])
    await both.add(arm("more", "onnx"))
    assert (growing.added, both.engine_of("more:v")) == (("more:v",), growing)
    for engine in ("onnx-lm", "rtx"):
        with pytest.raises(EngineError, match=f"no engine {engine} that takes further arms"):
            await both.add(arm("none", engine))
    with pytest.raises(EngineError, match="no engine has loaded"):
        both.engine_of("none:v")
