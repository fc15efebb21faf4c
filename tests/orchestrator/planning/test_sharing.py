"""One budget shared among tasks: what the planning process makes of it."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any
from unittest import mock

import pytest

from optimizer.selection.arms import Arm
from orchestrator.longrun import Share
from orchestrator.planning import allocating, sharing
from orchestrator.planning.make import PlanRejected
from orchestrator.planning.sharing import Party, Shareout, share_out
from orchestrator.planning.snapshot import Snapshot


def a_party(task: str, *arms: tuple[float, float], rate_per_s: float = 1.0) -> Party:
    """Arms as joules and quality, without evidence."""
    listed = tuple(Arm(f"{task}{n}", f"x{n}", "n1", joules, 1.0, 1) for n, (joules, _) in enumerate(arms))
    return Party(Snapshot(task, listed, None, None, None, {}), tuple(quality for _, quality in arms), rate_per_s)


# A joule buys chat 0.4, and maths 0.05.
CHAT = a_party("chat", (1.0, 0.5), (2.0, 0.9), rate_per_s=3.0)
MATHS = a_party("maths", (1.0, 0.6), (3.0, 0.7))


def test_the_joules_go_where_they_buy_most() -> None:
    parts = share_out(Shareout((CHAT, MATHS), 1.76, per_request=True))
    assert parts["chat"].energy_j == pytest.approx(2.0)
    assert parts["chat"].quality_fraction == pytest.approx(0.9)
    assert parts["maths"].energy_j < 1.2
    assert 0.75 * parts["chat"].energy_j + 0.25 * parts["maths"].energy_j <= 1.76
    assert [parts[task].points_per_j for task in ("chat", "maths")] == pytest.approx([0.0, 5.0])
    assert [parts[task].next for task in ("chat", "maths")] == [False, True]
    assert 0.0 <= parts["maths"].gap_fraction < 0.005
    assert parts["maths"].solver == allocating.CONVEX


def test_the_control_the_same_part_for_each_buys_less() -> None:
    parts = share_out(Shareout((CHAT, MATHS), 1.5, per_request=True))
    # 1.5 J for each: chat mixes its two arms by halves, maths spends half a joule on 0.025.
    assert 0.75 * parts["chat"].quality_fraction + 0.25 * parts["maths"].quality_fraction > 0.75 * 0.7 + 0.25 * 0.625


def test_watts_are_joules_per_request_at_the_rates_of_the_moment() -> None:
    watts = share_out(Shareout((CHAT, MATHS), 1.76 * 4.0, per_request=False))
    assert watts == share_out(Shareout((CHAT, MATHS), 1.76, per_request=True))


def test_a_budget_below_the_cheapest_answers_is_refused_and_says_what_would_do() -> None:
    with pytest.raises(PlanRejected, match="take 1 J"):
        share_out(Shareout((CHAT, MATHS), 0.9, per_request=True))


def test_rows_of_plans_are_made_anew_where_arms_have_changed() -> None:
    def parts(party: Party, worked_out: int) -> Mapping[str, Share]:
        with mock.patch.object(sharing, "_worked_out", wraps=sharing._worked_out) as work:
            found = share_out(Shareout((party, MATHS), 1.76, per_request=True))
        assert work.call_count == worked_out
        return found

    share_out(Shareout((CHAT, MATHS), 1.76, per_request=True))
    assert parts(a_party("chat", (1.0, 0.5), (2.04, 0.9), rate_per_s=3.0), 0)["chat"].energy_j == pytest.approx(2.0)
    assert parts(a_party("chat", (1.0, 0.5), (2.2, 0.9), rate_per_s=3.0), 1)["chat"].energy_j < 2.0
    assert parts(a_party("chat", (1.0, 0.5), (2.2, 0.6), rate_per_s=3.0), 1)["chat"].quality_fraction <= 0.6
    share_out(Shareout((CHAT, MATHS), 1.76, per_request=True))


def test_without_cvxpy_the_parts_are_the_same_and_say_so() -> None:
    convex = share_out(Shareout((CHAT, MATHS), 1.6, per_request=True))
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name == "cvxpy":
            raise ImportError(name)
        return real(name, *rest, **named)

    allocating._allocator.cache_clear()
    with mock.patch.object(builtins, "__import__", refuse):
        merged = share_out(Shareout((CHAT, MATHS), 1.6, per_request=True))
    assert merged["chat"].solver == allocating.SLOPES
    for task, part in convex.items():
        assert merged[task].energy_j == pytest.approx(part.energy_j)
        assert merged[task].points_per_j == pytest.approx(part.points_per_j)


def test_the_solvers_name_does_not_reach_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    allocating._silence_greeting.cache_clear()
    allocating._allocator.cache_clear()
    share_out(Shareout((CHAT, MATHS), 1.6, per_request=True))
    assert capfd.readouterr().out == ""
