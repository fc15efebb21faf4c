"""Votes, judges and cascades of texts, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI

from edgewise.v1 import common_pb2 as common
from optimizer.deciding.model import TaskModel
from orchestrator.outcomes import Outcomes
from orchestrator.routing.combined import CombinedModel
from orchestrator.routing.fused import FusedQuality, foreseen
from orchestrator.routing.model import AnnouncedModel
from tests.fakes.arms import FakeArm, Tensors
from tests.fakes.live import Live, until
from tests.fakes.turn import Behaviour, Turn

COST = {"overhead_ms": 1.0, "decode_ms_per_token": 0.1, "completion_tokens": 3, "completion_p95_tokens": 4}


def arm(expert: str, quality: float, joules_per_token: float, **fields: Any) -> FakeArm:
    text = COST | {"decode_j_per_token": joules_per_token, "context_tokens": 4096}
    return FakeArm(expert, task="chat", energy_j=3 * joules_per_token, quality_fraction=quality, text=text, **fields)


def says(text: str, *, margin: float | None = None, wait: asyncio.Event | None = None, tokens: int = 3) -> Behaviour:
    """An answer at the joules that the profile tells."""

    async def behave(turn: Turn) -> None:
        if wait is not None:
            await wait.wait()
        turn.say(text)
        usage = common.Usage(prompt_tokens=3, completion_tokens=tokens)
        fields: dict[str, Any] = {} if margin is None else {"margin_fraction": margin}
        turn.done(text=text, finish_reason=common.FINISH_REASON_STOP, usage=usage, **fields)

    return behave


async def ask(openai: AsyncOpenAI, text: str = "what is it", **body: Any) -> Any:
    return await openai.chat.completions.create(
        model=body.pop("model", "auto"), messages=[{"role": "user", "content": text}], extra_body=body
    )


QUALITY = {"small": 0.6, "middle": 0.65, "large": 0.7}
ARMS = [arm("small", 0.6, 0.01), arm("middle", 0.65, 0.02), arm("large", 0.7, 0.03)]


async def test_a_vote_takes_what_most_say_and_its_joules_are_the_sum(live: Live, openai: AsyncOpenAI) -> None:
    by_expert = {"small": says("Paris."), "middle": says("Paris"), "large": says("Rome")}
    async with live.node(arms=ARMS, behaviour=says("?"), by_expert=by_expert):
        reply = await ask(openai, fusion={"mode": "vote", "max_experts": 3}, model="auto:best")
    told = reply.model_extra
    assert reply.choices[0].message.content in ("Paris.", "Paris")
    assert told["routing"]["fusion"] == "vote"
    assert {name.partition("@")[0] for name in told["routing"]["experts"]} == {"small", "middle", "large"}
    assert told["energy"]["energy_joules"] == pytest.approx(
        sum(attempt["joules"] for attempt in told["routing"]["attempts"])
    )


async def test_a_vote_that_is_settled_does_not_wait_for_the_last(live: Live, openai: AsyncOpenAI) -> None:
    never = asyncio.Event()
    by_expert = {"small": says("x", wait=never), "middle": says("Paris"), "large": says("Paris")}
    async with live.node(arms=ARMS, behaviour=says("?"), by_expert=by_expert) as node:
        reply = await ask(openai, fusion={"mode": "vote", "max_experts": 3}, model="auto:best")
        assert reply.choices[0].message.content == "Paris"
        outcomes = {
            attempt["arm"].partition(":")[0]: attempt["outcome"] for attempt in reply.model_extra["routing"]["attempts"]
        }
        # Two experts may also have been the better vote; where the third was asked, nobody waited for it.
        assert outcomes.get("small", "cancelled") == "cancelled"
        for work in node.seen.works:
            if work.expert == "small":
                await node.cancelled(work.work_id)


async def test_a_vote_goes_on_without_an_expert_that_fails(live: Live, openai: AsyncOpenAI) -> None:
    async def broken(turn: Turn) -> None:
        turn.failed("ENGINE_ERROR")

    by_expert = {"small": says("Rome"), "middle": says("Rome"), "large": broken}
    async with live.node(arms=ARMS, behaviour=says("?"), by_expert=by_expert):
        reply = await ask(openai, fusion={"mode": "vote", "max_experts": 3}, model="auto:best")
    assert reply.choices[0].message.content == "Rome"


async def test_a_judge_reads_the_answers_and_chooses(live: Live, openai: AsyncOpenAI) -> None:
    by_expert = {"small": says("Rome"), "middle": says("Paris")}
    async with live.node(arms=ARMS, behaviour=says("?"), by_expert=by_expert | {"large": judge_for("Paris")}) as node:
        reply = await ask(openai, fusion={"mode": "judge"})
        judging = [work for work in node.seen.works if work.expert == "large"]
    assert reply.choices[0].message.content == "Paris"
    assert reply.model_extra["routing"]["fusion"] == "judge"
    assert "[1]" in judging[0].text.messages[0].content
    assert judging[0].text.parameters.max_tokens == 8


def judge_for(wanted: str) -> Behaviour:
    """Names the number of an answer, as a judge is asked to."""

    async def behave(turn: Turn) -> None:
        lines = turn.work.text.messages[0].content.splitlines()
        number = next((line[1] for line in lines if line.startswith("[") and line.endswith(wanted)), "?")
        turn.done(text=f"{number}.", usage=common.Usage(prompt_tokens=40, completion_tokens=1))

    return behave


async def test_a_judge_is_not_asked_where_the_answers_agree(live: Live, openai: AsyncOpenAI) -> None:
    by_expert = {"small": says("Paris"), "middle": says("Paris.")}
    async with live.node(arms=ARMS, behaviour=says("?"), by_expert=by_expert) as node:
        await ask(openai, fusion={"mode": "judge"})
        assert {work.expert for work in node.seen.works} == {"small", "middle"}


async def test_without_evidence_one_expert_alone_is_the_choice(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=ARMS, behaviour=says("Paris")):
        reply = await ask(openai, model="auto:best", explain=True)
    told = reply.model_extra
    assert told["routing"]["fusion"] == "none"
    assert told["explanation"]["chosen"] == "large:v1@fake-1"
    assert any("+" in candidate["route"] for candidate in told["explanation"]["candidates"])


async def judged(live: Live, openai: AsyncOpenAI, *, times: int, score: float | None) -> tuple[Any, float, float]:
    """Requests that a judge answers, with feedback; then the reply to one that leaves the choice to the gateway, and
    the qualities of the judge's route and of the best expert alone."""
    by_expert = {"small": says("Rome"), "middle": says("Paris"), "large": judge_for("Paris")}
    async with live.node(arms=ARMS, behaviour=says("?"), by_expert=by_expert):
        for number in range(times):
            reply = await ask(openai, f"question {number}", fusion={"mode": "judge"})
            if score is not None:
                live.gateway.service.feedback(reply.id.partition("-")[2], score)
        told = (await ask(openai, model="auto:best", explain=True)).model_extra
    quality = {one["route"]: one["quality"] for one in told["explanation"]["candidates"]}
    (judge,) = [value for route, value in quality.items() if route.endswith("(judge)")]
    return told, judge, quality["large:v1@fake-1"]


@pytest.mark.parametrize(("score", "fusion"), [(None, "none"), (1.0, "judge"), (0.0, "none")])
async def test_a_judge_is_as_good_as_feedback_says(
    live: Live, openai: AsyncOpenAI, score: float | None, fusion: str
) -> None:
    told, judge, best = await judged(live, openai, times=25, score=score)
    assert told["routing"]["fusion"] == fusion
    if score is None:
        # The control: without feedback it is not believed to be better, nor worse.
        assert judge == best == pytest.approx(0.7)
    else:
        assert (judge > 0.8) is (score == 1.0)
        assert (judge < 0.4) is (score == 0.0)


async def test_what_was_learned_of_a_judge_outlives_the_gateway(
    tmp_path: Path, live: Live, openai: AsyncOpenAI
) -> None:
    _, judge, _ = await judged(live, openai, times=25, score=0.0)
    state = live.gateway.config.state_dir
    with (state / "feedback.jsonl").open("a") as file:
        file.write('{"fused":[\n{"task":"chat","fused":["judge:x",0.5],"quality":"good"}\n')
    again = FusedQuality()
    kept = Outcomes(state, foreseen=foreseen, learn=again.observe)
    kept.learn_again()
    route = next(
        route for route in CombinedModel(AnnouncedModel(QUALITY, {}), QUALITY).routes if route.fusion == "judge"
    )
    assert again.of("chat")(route, 0.7) == pytest.approx(judge)
    assert again.of("other")(route, 0.7) == 0.7
    nothing = FusedQuality()
    Outcomes(tmp_path / "elsewhere", foreseen=foreseen, learn=nothing.observe).learn_again()
    assert nothing.of("chat")(route, 0.7) == 0.7


async def test_fusion_stays_within_the_joules(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=ARMS, behaviour=says("Paris")):
        reply = await ask(openai, model="auto@0.8J", fusion={"mode": "vote"})
        assert reply.model_extra["energy"]["energy_joules"] <= 0.8
        with pytest.raises(Exception, match="No expert fits this budget"):
            await ask(openai, model="auto@0.05J", fusion={"mode": "vote"})


# ---- joules of a text


async def test_joules_limit_the_tokens_and_say_so(live: Live, openai: AsyncOpenAI) -> None:
    async def talks(turn: Turn) -> None:
        tokens = turn.work.text.parameters.max_tokens
        usage = common.Usage(prompt_tokens=3, completion_tokens=tokens)
        turn.done(text="w " * tokens, finish_reason=common.FINISH_REASON_LENGTH, usage=usage, energy_j=0.1 * tokens)

    async with live.node(arms=[arm("small", 0.6, 0.1)], behaviour=talks) as node:
        free = await openai.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": "talk"}], max_tokens=50
        )
        bound = await openai.chat.completions.create(
            model="auto@2J", messages=[{"role": "user", "content": "talk"}], max_tokens=50
        )
        allowed = [work.text.parameters.max_tokens for work in node.seen.works]
    told: Any = bound.model_extra
    assert allowed[0] == 50
    assert allowed[1] < 20
    assert (free.choices[0].finish_reason, bound.choices[0].finish_reason) == ("length", "length")
    assert told["routing"]["stopped_by"] == "budget"
    assert told["routing"]["budget_met"]
    assert told["energy"]["energy_joules"] <= 2.0


async def test_longer_prompts_and_answers_are_predicted_to_cost_more(live: Live, openai: AsyncOpenAI) -> None:
    text = COST | {"prefill_ms_per_token": 0.2, "prefill_j_per_token": 0.001}
    async with live.node(arms=[FakeArm("small", task="chat", energy_j=0.1, text=text)], behaviour=says("x")):
        short, long = await ask(openai, "hi"), await ask(openai, "word " * 400)
    predicted = [reply.model_extra["routing"]["predicted"] for reply in (short, long)]
    assert predicted[1]["ms"] > 3 * predicted[0]["ms"]
    assert predicted[1]["joules"] > 10 * predicted[0]["joules"]


async def test_times_to_the_first_and_the_next_token_are_kept(live: Live, openai: AsyncOpenAI) -> None:
    slow = FakeArm("slow", task="chat", quality_fraction=0.9, energy_j=0.1, text=COST | {"overhead_ms": 900.0})
    fast = FakeArm("fast", task="chat", quality_fraction=0.5, energy_j=0.1, text=COST | {"decode_ms_per_token": 20.0})
    async with live.node(arms=[slow, fast], behaviour=says("x")):
        # Refusals first: every answer of these arms, which are not as slow as they say, is learnt from.
        with pytest.raises(Exception, match="to the first token"):
            await ask(openai, model="auto:best", budget={"max_ttft_ms": 400, "max_tpot_ms": 5})
        assert (await ask(openai, model="auto:best", budget={"max_ttft_ms": 400})).model == "fast"
        assert (await ask(openai, model="auto:best", budget={"max_tpot_ms": 5})).model == "slow"
        assert (await ask(openai, model="auto:best")).model == "slow"


# ---- what is learned


def written(texts: list[str]) -> tuple[Any, Any]:
    data = [text.encode() for text in texts]
    return np.frombuffer(b"".join(data), np.uint8), np.cumsum([len(part) for part in data]).astype(np.int64)


QUERIES = 240


def prompts() -> list[str]:
    """Two kinds of questions, easily told apart."""
    sums = [f"what is {n} plus {n + 7}" for n in range(QUERIES // 2)]
    towns = [f"spell the town number {n} of the list backwards" for n in range(QUERIES // 2)]
    return [text for pair in zip(sums, towns, strict=True) for text in pair]


def evidence(right: Mapping[str, float], *, seed: int, told_by: str = "margin") -> Tensors:
    """Answers of an expert that is right with these chances on sums and on towns.

    What tells whether it is: its margins, the length of its answers, or nothing of its own.
    """
    draw = np.random.default_rng(seed)
    kinds = ["sums", "towns"] * (QUERIES // 2)
    correct = np.array([draw.random() < right[kind] for kind in kinds], dtype=np.float32)
    margin = np.clip(np.where(correct > 0.5, draw.normal(0.9, 0.05, QUERIES), draw.normal(0.3, 0.1, QUERIES)), 0, 1)
    given, ends = written([f"right {q}" if correct[q] else f"wrong {q} {seed}" for q in range(QUERIES)])
    tokens = np.full(QUERIES, 3, dtype=np.int32)
    if told_by != "margin":
        margin = np.full(QUERIES, 0.6)
    if told_by == "length":
        tokens = np.where(correct > 0.5, 3, 12).astype(np.int32)
    return {
        "correct": correct,
        "completion_tokens": tokens,
        "margin": margin.astype(np.float32),
        "given": given,
        "given_ends": ends,
    }


def reference() -> Tensors:
    text, ends = written(prompts())
    return {"prompts": text, "prompt_ends": ends}


LEARNED = [
    arm("calc", 0.55, 0.001, text_evidence=evidence({"sums": 0.97, "towns": 0.1}, seed=1)),
    arm("wise", 0.97, 0.1, text_evidence=evidence({"sums": 0.97, "towns": 0.97}, seed=2)),
]


def learned(live: Live) -> TaskModel | None:
    standing = live.gateway.planner.standing("chat")
    model = standing.plan.model if standing else None
    model = model.model if isinstance(model, CombinedModel) else model
    return model if isinstance(model, TaskModel) else None


async def test_the_gate_learns_from_evidence_which_expert_knows_what(live: Live, openai: AsyncOpenAI) -> None:
    async def calc(turn: Turn) -> None:
        knows = "plus" in turn.work.text.messages[-1].content
        await says("right", margin=0.9 if knows else 0.3)(turn)

    by_expert = {"calc": calc, "wise": says("right", margin=0.9)}
    async with live.node(arms=LEARNED, behaviour=says("?"), by_expert=by_expert, reference=reference()):
        await until(lambda: learned(live), timeout_s=30)
        sums = await ask(openai, "what is 12 plus 19", explain=True)
        towns = await ask(openai, "spell the town number 12 of the list backwards", explain=True)
        quality = {
            name: {one["route"]: one["quality"] for one in reply.model_extra["explanation"]["candidates"]}
            for name, reply in (("sums", sums), ("towns", towns))
        }
    assert sums.model_extra["routing"]["experts"] == ["calc@fake-1"]
    assert sums.model_extra["routing"]["certificate"]["status"] == "optimal"
    assert towns.model_extra["routing"]["experts"][-1] == "wise@fake-1"
    assert quality["sums"]["calc:v1@fake-1"] > 0.8
    assert quality["towns"]["calc:v1@fake-1"] < 0.4


async def test_a_cascade_stops_where_the_small_one_is_sure_and_goes_on_where_it_is_not(
    live: Live, openai: AsyncOpenAI
) -> None:
    mixed = [
        arm("calc", 0.55, 0.001, text_evidence=evidence({"sums": 0.6, "towns": 0.6}, seed=1)),
        arm("wise", 0.97, 0.1, text_evidence=evidence({"sums": 0.97, "towns": 0.97}, seed=2)),
    ]

    async def small(turn: Turn) -> None:
        sure = "sure" in turn.work.text.messages[-1].content
        await says("the small answer", margin=0.95 if sure else 0.2)(turn)

    by_expert = {"calc": small, "wise": says("the large answer", margin=0.9)}
    async with live.node(arms=mixed, behaviour=says("?"), by_expert=by_expert, reference=reference()):
        await until(lambda: learned(live), timeout_s=30)
        sure = await ask(openai, "what is 12 plus 19, sure")
        unsure = await ask(openai, "what is 12 plus 19")
        stream = await openai.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": "what is 12 plus 19"}], stream=True
        )
        pieces = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
    assert sure.choices[0].message.content == "the small answer"
    assert sure.model_extra["routing"]["experts"] == ["calc@fake-1"]
    assert unsure.choices[0].message.content == "the large answer"
    assert unsure.model_extra["routing"]["experts"] == ["calc@fake-1", "wise@fake-1"]
    joules = unsure.model_extra["energy"]["energy_joules"]
    assert joules == pytest.approx(sum(a["joules"] for a in unsure.model_extra["routing"]["attempts"]))
    assert "".join(piece or "" for piece in pieces) == "the large answer"


@pytest.mark.parametrize("told_by", ["length", "nothing"])
async def test_a_cascade_goes_on_where_the_small_ones_answer_is_too_long(
    live: Live, openai: AsyncOpenAI, told_by: str
) -> None:
    mixed = [
        arm("calc", 0.6, 0.001, text_evidence=evidence({"sums": 0.6, "towns": 0.6}, seed=1, told_by=told_by)),
        arm("wise", 0.97, 0.1, text_evidence=evidence({"sums": 0.97, "towns": 0.97}, seed=2)),
    ]

    async def small(turn: Turn) -> None:
        short = "short" in turn.work.text.messages[-1].content
        await says("the small answer", margin=0.6, tokens=3 if short else 12)(turn)

    by_expert = {"calc": small, "wise": says("the large answer", margin=0.9)}
    async with live.node(arms=mixed, behaviour=says("?"), by_expert=by_expert, reference=reference()):
        await until(lambda: learned(live), timeout_s=30)
        model = learned(live)
        assert model is not None
        short, long = await ask(openai, "what is 12 plus 19, short"), await ask(openai, "what is 12 plus 19")
    told = [reply.choices[0].message.content for reply in (short, long)]
    # The control: where nothing tells a right answer from a wrong one, no cascade is chosen.
    assert told == (["the small answer", "the large answer"] if told_by == "length" else ["the large answer"] * 2)
    cascading = [route.name for route in model.routes if route.stages == (("calc",), ("wise",))]
    assert cascading or told_by == "nothing"


async def test_two_small_ones_that_agree_are_believed_and_the_large_one_is_asked_where_they_do_not(
    live: Live, openai: AsyncOpenAI
) -> None:
    right = {"sums": 0.6, "towns": 0.6}, {"sums": 0.7, "towns": 0.7}, {"sums": 0.97, "towns": 0.97}
    mixed = [
        arm("calc", 0.6, 0.001, text_evidence=evidence(right[0], seed=1, told_by="nothing")),
        arm("duke", 0.7, 0.002, text_evidence=evidence(right[1], seed=3, told_by="nothing")),
        arm("wise", 0.97, 0.1, text_evidence=evidence(right[2], seed=2)),
    ]

    async def duke(turn: Turn) -> None:
        agrees = "easy" in turn.work.text.messages[-1].content
        await says(" 31 " if agrees else "32", margin=0.6)(turn)

    by_expert = {"calc": says("31.", margin=0.6), "duke": duke, "wise": says("33", margin=0.9)}
    async with live.node(arms=mixed, behaviour=says("?"), by_expert=by_expert, reference=reference()):
        await until(lambda: learned(live), timeout_s=30)
        easy = await ask(openai, "what is 12 plus 19, easy", explain=True)
        hard = await ask(openai, "what is 12 plus 19")
    assert easy.choices[0].message.content.strip(" .") == "31"
    assert hard.choices[0].message.content == "33"
    experts = [[name.partition("@")[0] for name in one.model_extra["routing"]["experts"]] for one in (easy, hard)]
    assert (sorted(experts[0]), sorted(experts[1])) == (["calc", "duke"], ["calc", "duke", "wise"])
    # What `edgewise why` prints: both side by side, then the third below a threshold.
    chosen = easy.model_extra["explanation"]["chosen"]
    assert chosen.startswith("calc:v1@fake-1+duke:v1@fake-1 >")
    assert chosen.endswith("> wise:v1@fake-1 (vote)")
