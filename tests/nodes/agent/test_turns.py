"""Which shared texts a node takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodes.agent import messages as m
from nodes.agent.checks import Unfit
from nodes.agent.turns import check_able, written
from nodes.arms import ArmSpec, TextTraits
from nodes.engines.contract import TextPiece, Turn

ARM = ArmSpec("small", "v1", "chat", "fake", macs=1, memory_bytes=1, quality_fraction=0.5, quality_samples=10)


def able(*capabilities: str) -> ArmSpec:
    traits = TextTraits(context_tokens=64, completion_tokens=4, completion_p95_tokens=8, capabilities=capabilities)
    return replace(ARM, text=traits)


@pytest.mark.parametrize(
    ("arm", "turn", "why"),
    [
        (able("turns", "bytes"), Turn(strings=4), ""),
        (able("turns", "bytes"), Turn(count=1), ""),
        (able("bytes"), Turn(strings=4), ""),
        (able("turns"), Turn(strings=4), "none of another vocabulary"),
        (able("bytes"), Turn(count=1), "takes no turns"),
        (ARM, Turn(tops=4), "takes no turns"),
    ],
)
def test_an_arm_takes_the_texts_that_it_said_it_can_write(arm: ArmSpec, turn: Turn, why: str) -> None:
    if not why:
        check_able(m.SharedText(turn), arm)
        return
    with pytest.raises(Unfit, match=why):
        check_able(m.SharedText(turn), arm)


def test_what_an_engine_tells_goes_on_as_it_is() -> None:
    told = written(7, TextPiece("a", strings=(b"b", b""), read_tokens=2, ended=True))
    assert told == m.Written(7, "a", strings=(b"b", b""), read_tokens=2, ended=True)
