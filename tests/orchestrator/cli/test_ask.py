"""`edgewise ask`, `chat` and `models` against a fake gateway."""

from __future__ import annotations

import pytest

from edgewise.v1 import common_pb2
from orchestrator.cli.output import arms_line
from orchestrator.types import AttemptRecord, Energy, Provenance
from tests.orchestrator.cli.test_cli import Edgewise, edgewise
from tests.orchestrator.fake_gateway import FakeGateway

__all__ = ["edgewise"]


def test_an_answer_streams_and_ends_with_what_it_cost(fake: FakeGateway, edgewise: Edgewise) -> None:
    ended = edgewise(
        *("--gateway", fake.target, "ask", "what is it", "--max-energy", "20J", "--max-latency", "1.5s"),
        *("--fusion", "vote", "--max-tokens", "9", "--temperature", "0.5", "--request-id", "q-1"),
    )
    assert (ended.code, ended.out) == (0, "a b c\n")
    assert ended.err.startswith("2.1 µJ (modelled), 2.94 ms, ")
    assert ended.err.endswith("(edgewise why g-1)\n")
    assert "stopped by the budget" in ended.err
    (asked,) = fake.gateway.asked
    assert (asked.task, asked.expert, asked.request_id) == ("skills", "", "q-1")
    assert asked.messages[0].content == "what is it"
    assert (asked.budget.max_energy_j, asked.budget.max_latency_ms) == (20.0, 1500.0)
    assert asked.fusion.mode == common_pb2.FUSION_MODE_VOTE
    assert (asked.parameters.max_tokens, asked.parameters.temperature) == (9, 0.5)


def test_one_expert_one_task_and_quiet(fake: FakeGateway, edgewise: Edgewise) -> None:
    ended = edgewise("--gateway", fake.target, "--quiet", "ask", "hi", "--model", "small", "--task", "chat")
    assert (ended.code, ended.out, ended.err) == (0, "a b c\n", "")
    assert (fake.gateway.asked[0].task, fake.gateway.asked[0].expert) == ("chat", "small")


@pytest.mark.parametrize(
    ("options", "mode", "samples"),
    [
        ((), common_pb2.FUSION_MODE_UNSPECIFIED, 1),
        (("--samples", "5"), common_pb2.FUSION_MODE_VOTE, 5),
        (("--samples", "5", "--fusion", "judge"), common_pb2.FUSION_MODE_JUDGE, 5),
    ],
    ids=["once", "a vote unless it is said otherwise", "otherwise is for the gateway to refuse"],
)
def test_samples_are_what_a_vote_is_held_over(
    fake: FakeGateway, edgewise: Edgewise, options: tuple[str, ...], mode: int, samples: int
) -> None:
    assert edgewise("--gateway", fake.target, "ask", "hi", *options).code == 0
    fusion = fake.gateway.asked[0].fusion
    assert (fusion.mode, fusion.samples) == (mode, samples)


def test_an_answer_as_json(fake: FakeGateway, edgewise: Edgewise) -> None:
    told = edgewise("--gateway", fake.target, "ask", "hi", "-o", "json").json
    assert (told["text"], told["finish_reason"], told["completion_tokens"]) == ("a b c", "budget", 3)


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ((), "none"),
        (((0, "a", "answered"),), "a"),
        (((0, "a", "answered"), (0, "b", "answered"), (1, "c", "answered")), "a + b → c"),
        (((0, "a", "failed"), (0, "b", "answered"), (0, "b", "answered")), "a → b"),
    ],
    ids=["nobody", "one", "two side by side and a third afterwards", "one that took over"],
)
def test_who_worked_side_by_side_and_who_one_after_the_other(
    asked: tuple[tuple[int, str, str], ...], line: str
) -> None:
    energy = Energy(1.0, Provenance.MEASURED, "")
    attempts = [AttemptRecord(arm, stage, 1.0, energy, 1.0, 1.0, outcome) for stage, arm, outcome in asked]
    assert arms_line(attempts) == line


def test_an_error_is_one_line(fake: FakeGateway, edgewise: Edgewise) -> None:
    ended = edgewise("--gateway", fake.target, "ask", "hi", "--max-tokens", "1")
    assert ended.code == 6
    assert ended.err.count("\n") == 1


def test_a_talk_keeps_what_was_said(fake: FakeGateway, edgewise: Edgewise, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["one", "two", ""])
    monkeypatch.setattr("orchestrator.cli.ask._next_line", lambda: next(lines))
    ended = edgewise("--gateway", fake.target, "chat")
    assert (ended.code, ended.out) == (0, "a b c\na b c\n")
    second = fake.gateway.asked[1].messages
    assert [(turn.role, turn.content) for turn in second] == [
        ("user", "one"),
        ("assistant", "a b c"),
        ("user", "two"),
    ]


def test_models_are_listed(fake: FakeGateway, edgewise: Edgewise) -> None:
    ended = edgewise("--gateway", fake.target, "models", "list")
    assert ended.code == 0
    assert "digits-mlp" in ended.out
    told = edgewise("--gateway", fake.target, "models", "list", "-o", "json").json
    assert {"expert", "node", "task", "predicted_energy_j"} <= told[0].keys()
    assert edgewise("--gateway", fake.target, "models", "list", "--task", "none", "-o", "json").json == []
