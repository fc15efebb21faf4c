"""What is kept between texts prices them, bit for bit, as what is made anew; and tables of one arm a route offer what
tables of arrays offer."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.deciding.choose import Limits, Price, choose
from optimizer.deciding.promise import Offer
from orchestrator.fleet.arms import ArmBoard
from orchestrator.prefixes import Conversation
from orchestrator.residency import Residency
from orchestrator.routing.figures import Pricer, Reading, text_figures
from orchestrator.routing.lone import MOST_ARMS, LoneTable, priced
from orchestrator.routing.plan import NO_CERTIFICATE, Plan
from orchestrator.routing.table import RouteTable
from orchestrator.routing.turns import TURNS
from orchestrator.text_profile import SINGLE_TURN, TextProfile
from orchestrator.types import (
    Arm,
    BudgetRequest,
    Done,
    Energy,
    GenerationParameters,
    Message,
    Provenance,
    TextQuery,
)
from tests.orchestrator.builders import Clock, a_task, an_arm
from tests.orchestrator.routing.models import GivenModel, cascade, one, together

NODES = 4
LONE = GivenModel({one("small"): 0.8, one("large"): 0.9})
SEVERAL = GivenModel(
    {one("small"): 0.8, one("large"): 0.9, cascade("small", "large"): 0.88, together("small", "large"): 0.91},
    reach={cascade("small", "large"): [1.0, 0.3]},
)


def rated(*rates: float) -> TextProfile:
    overhead_ms, prefill_ms, decode_ms, overhead_j, prefill_j, decode_j = rates
    return TextProfile(overhead_ms, prefill_ms, decode_ms, overhead_j, prefill_j, decode_j)


def some_arm(expert: str, n: int, rng: np.random.Generator) -> Arm:
    tags = [{SINGLE_TURN}, {TURNS}, set[str]()][int(rng.integers(3))]
    profile = replace(
        rated(*rng.uniform(0.01, 2.0, 6).tolist()),
        completion_tokens=float(rng.integers(0, 40)),
        completion_p95_tokens=float(rng.integers(0, 90)),
        tokenizer_digest="d",
        capabilities=frozenset(tags),
    )
    text = profile if rng.random() < 0.9 else None
    energy_j = None if rng.random() < 0.2 else float(rng.uniform(0.1, 1.0))
    task = "chat" if rng.random() < 0.9 else "other"
    return an_arm(expert, f"n{n}", task=task, energy_j=energy_j, text=text, p50_ms=float(rng.uniform(1.0, 40.0)))


def announce(board: ArmBoard, n: int, rng: np.random.Generator) -> None:
    arms = [some_arm(expert, n, rng) for expert in ("small", "large")]
    board.announce(f"n{n}", arms, int(rng.integers(1, 4)), queue_limit=int(rng.integers(1, 6)))


def asked(rng: np.random.Generator) -> TextQuery:
    said = [Message("user", "x" * int(rng.integers(1, 400))) for _ in range(int(rng.integers(1, 4)))]
    return TextQuery(
        request_id="r",
        task=a_task("chat", text=True),
        expert=None,
        messages=tuple(said),
        parameters=GenerationParameters(int(rng.integers(1, 64)), temperature=float(rng.integers(2))),
        budget=BudgetRequest(),
        deadline_s=10.0,
        prefix_scope=["", "ada"][int(rng.integers(2))],
    )


def happen(board: ArmBoard, rng: np.random.Generator, held: list[tuple[int, float]]) -> None:
    """Something changes on the board."""
    arm, kind = int(rng.integers(len(board.states))), rng.integers(8)
    state = board.states[arm]
    if kind == 0:
        held.append((arm, board.dispatched(arm, float(rng.uniform(1.0, 50.0)))))
    elif kind == 1 and held:
        board.released(*held.pop(int(rng.integers(len(held)))))
    elif kind == 2:
        board.set_routable(state.arm.node, bool(rng.integers(2)))
    elif kind == 3:
        load_ms, load_j = float(rng.uniform(1.0, 900.0)), float(rng.uniform(0.0, 5.0))
        board.set_residency(
            arm, Residency(["loaded", "unloaded"][int(rng.integers(2))], load_ms=load_ms, load_j=load_j)
        )
    elif kind == 4:
        announce(board, int(rng.integers(NODES)), rng)
    elif kind == 5:
        state.text.heard(Conversation("ada", asked(rng).messages), answered(rng))
    else:
        board.generated(arm, answered(rng), service_ms=float(rng.uniform(1.0, 300.0)))


def answered(rng: np.random.Generator) -> Done:
    energy = Energy(float(rng.uniform(0.1, 9.0)), Provenance.MEASURED, "rapl")
    prompt, completion = int(rng.integers(1, 300)), int(rng.integers(1, 60))
    return Done(1, {}, "", "stop", prompt, completion, energy, 0.0, 0.0)


def a_text_fleet(seed: int) -> tuple[ArmBoard, np.random.Generator]:
    rng = np.random.default_rng(seed)
    board = ArmBoard(energy_quantile=0.9, latency_quantile=0.9, clock=Clock())
    for n in range(NODES):
        announce(board, n, rng)
    return board, rng


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), between=st.integers(1, 30))
def test_what_is_kept_between_texts_prices_them_as_what_is_made_anew(seed: int, between: int) -> None:
    board, rng = a_text_fleet(seed)
    pricer, held = Pricer(board), list[tuple[int, float]]()
    for _ in range(12):
        for _ in range(between):
            happen(board, rng, held)
        query = asked(rng)
        mine, anew = pricer.figures(Reading(query)), text_figures(board, query)
        assert mine.cost_n == anew.cost_n
        assert sorted(mine.cost_n) == [s.index for s in board.states if s.arm.task == "chat"]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), between=st.integers(1, 30), admitted=st.booleans())
def test_routes_of_one_arm_offer_a_text_what_arrays_offer(seed: int, between: int, *, admitted: bool) -> None:
    board, rng = a_text_fleet(seed)
    held = list[tuple[int, float]]()
    for model, most_arms in ((LONE, 1), (LONE, MOST_ARMS), (SEVERAL, MOST_ARMS)):
        for _ in range(between):
            happen(board, rng, held)
        table = Plan("p", model, None, NO_CERTIFICATE).table(board.arms("chat")[:most_arms], board)
        if not table.bound:
            continue
        figures = text_figures(board, asked(rng))
        if rng.random() < 0.3:
            # A retry finds arms that came after the text.
            board.announce("late", [an_arm("small", "late", task="chat", text=rated(*[0.1] * 6))], 1)
            table = Plan("p", model, None, NO_CERTIFICATE).table(board.arms("chat")[-most_arms:], board)
        kept = {**vars(table)}
        mine, other = priced(table, figures), table.priced(figures.columns())
        assert isinstance(mine, LoneTable) is (table.lone_arms is not None)
        same(mine, other, model, admitted=admitted)
        # What a text has of its own is not written into the table that all texts share.
        assert kept.items() == vars(table).items()


def same(mine: RouteTable, other: RouteTable, model: GivenModel, *, admitted: bool) -> None:
    estimate = model.estimate(np.zeros(0))
    even_r = np.arange(len(mine.bound)) % 2 == 0
    for allowed_r in (None, even_r, ~even_r):
        offers = [table.offer(estimate, allowed_r, admitted=admitted) for table in (mine, other)]
        for name in ("quality_r", "energy_r", "energy_bound_r", "latency_r", "latency_bound_r", "available_r"):
            np.testing.assert_array_equal(getattr(offers[0], name), getattr(offers[1], name), err_msg=name)
        for r in range(len(mine.bound)):
            assert as_numbers(offers[0], r) == as_numbers(offers[1], r)
        same_choices(*offers)
        closed_r = np.zeros(len(mine.bound), dtype=bool)
        assert not offers[0].where(closed_r).available_r.any()
    nothing_r = np.zeros(len(mine.bound))
    for figure in (
        lambda table: nothing_r if (load_ms_r := table.load_ms()) is None else load_ms_r,
        lambda table: table.unloaded_ms(),
        lambda table: table.unloaded_ms(typical=True),
        lambda table: table.cached_tokens(),
        lambda table: table.closed_ms(),
        lambda table: table.crowded(),
        lambda table: [table.first_of(m) for m in range(len(model.routes))],
    ):
        np.testing.assert_array_equal(figure(mine), figure(other))


def same_choices(mine: Offer, other: Offer) -> None:
    middle_j, middle_ms = np.median(other.energy_bound_r), np.median(other.latency_bound_r)
    for limits in (Limits(), Limits(float(middle_j)), Limits(None, float(middle_ms)), Limits(0.0, 0.0)):
        for price in (Price(), Price(0.01, 0.001), Price(pinned=0)):
            made = [choose(offer, limits=limits, price=price) for offer in (mine, other)]
            np.testing.assert_array_equal(made[0].feasible_r, made[1].feasible_r)
            np.testing.assert_array_equal(made[0].score_r, made[1].score_r)
            told = [(one.index, one.runner_up, one.binding, one.fallback) for one in made]
            assert told[0] == told[1]


def as_numbers(offer: Offer, r: int) -> tuple[object, ...]:
    promise = offer.promise(r)
    assert all(type(figure) is float for figure in (promise.energy_j, promise.latency_ms))
    figures = promise.energy_j, promise.energy_bound_j, promise.latency_ms, promise.latency_bound_ms
    return offer.available(r), figures


def test_a_text_that_came_before_all_arms_of_its_task_finds_none_available() -> None:
    board = ArmBoard(energy_quantile=0.9, latency_quantile=0.9, clock=Clock())
    figures = text_figures(board, asked(np.random.default_rng(0)))
    for n, model in enumerate((LONE, SEVERAL)):
        arms = [an_arm(expert, f"n{n}", task="chat", text=rated(*[0.1] * 6)) for expert in ("small", "large")]
        board.announce(f"n{n}", arms, 1)
        table = priced(Plan("p", model, None, NO_CERTIFICATE).table(board.arms("chat"), board), figures)
        assert isinstance(table, LoneTable) is (model is LONE)
        assert not table.offer(model.estimate(np.zeros(0))).available_r.any()


def test_of_a_text_on_many_arms_arrays_are_kept() -> None:
    """The journal keeps the tables of thousands of texts: as numbers each, those of a large fleet would fill memory."""
    board = ArmBoard(energy_quantile=0.9, latency_quantile=0.9, clock=Clock())
    for n in range(MOST_ARMS + 1):
        figures = text_figures(board, asked(np.random.default_rng(0)))
        board.announce(f"n{n}", [an_arm("small", f"n{n}", task="chat", text=rated(*[0.1] * 6))], 1)
        table = priced(Plan("p", LONE, None, NO_CERTIFICATE).table(board.arms("chat"), board), figures)
        assert isinstance(table, LoneTable) is (n < MOST_ARMS)
        assert not any(one is figures for one in (*gc.get_referents(table), *vars(table).values()))
