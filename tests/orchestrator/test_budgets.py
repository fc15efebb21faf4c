"""Budgets: who wins over whom, and what survives a restart."""

import json
import math
import os
from pathlib import Path

import pytest

from orchestrator.budgets import ALL_TASKS, Budgets, TaskBudget, merge
from orchestrator.errors import RequestError
from orchestrator.longrun import NO_LONG_RUN, LongRun
from orchestrator.types import BudgetRequest, Limits, OnInfeasible
from orchestrator.wire import NO_BUDGET

DEFAULT = BudgetRequest(None, 1000.0, OnInfeasible.ERROR, "balanced")
NOTHING = BudgetRequest()


def in_memory(**by_task: BudgetRequest) -> Budgets:
    return Budgets(DEFAULT, by_task, None)


def test_a_request_that_says_nothing_gets_the_default_and_no_joule_limit() -> None:
    assert in_memory().resolve("digits", NOTHING, 60.0) == Limits(math.inf, 1000.0, OnInfeasible.ERROR, "balanced")


def test_each_level_wins_over_those_below_field_by_field() -> None:
    budgets = in_memory(digits=BudgetRequest(4.0, 400.0, OnInfeasible.CHEAPEST, "eco"))
    assert budgets.resolve("digits", NOTHING, 60.0) == Limits(4.0, 400.0, OnInfeasible.CHEAPEST, "eco")
    budgets.set(ALL_TASKS, BudgetRequest(max_energy_j=3.0))
    assert budgets.resolve("digits", NOTHING, 60.0) == Limits(3.0, 400.0, OnInfeasible.CHEAPEST, "eco")
    budgets.set("digits", BudgetRequest(max_energy_j=2.0, profile="best"))
    assert budgets.resolve("digits", NOTHING, 60.0) == Limits(2.0, 400.0, OnInfeasible.CHEAPEST, "best")
    request = BudgetRequest(1.0, 100.0, OnInfeasible.BEST_EFFORT, "balanced")
    assert budgets.resolve("digits", request, 60.0) == Limits(1.0, 100.0, OnInfeasible.BEST_EFFORT, "balanced")
    assert budgets.resolve("other", NOTHING, 60.0) == Limits(3.0, 1000.0, OnInfeasible.ERROR, "balanced")


def test_a_budget_of_zero_is_said() -> None:
    budgets = in_memory(digits=BudgetRequest(4.0, 400.0))
    limits = budgets.resolve("digits", BudgetRequest(0.0, 0.0), 60.0)
    assert (limits.max_energy_j, limits.max_latency_ms) == (0.0, 0.0)


def test_the_deadline_of_the_call_bounds_the_milliseconds() -> None:
    assert in_memory().resolve("digits", NOTHING, 0.25).max_latency_ms == 250.0
    assert in_memory().resolve("digits", BudgetRequest(max_latency_ms=50.0), 0.25).max_latency_ms == 50.0


def test_what_is_kept_for_requests_that_say_nothing_follows_deadlines_and_what_is_set() -> None:
    budgets = in_memory()
    for deadline_s, most_ms in ((60.0, 1000.0), (0.25, 250.0), (60.0, 1000.0)):
        assert budgets.resolve("digits", NO_BUDGET, deadline_s) == budgets.resolve("digits", NOTHING, deadline_s)
        assert budgets.resolve("digits", NO_BUDGET, deadline_s).max_latency_ms == most_ms
    budgets.set(ALL_TASKS, BudgetRequest(max_energy_j=3.0))
    assert budgets.resolve("digits", NO_BUDGET, 60.0).max_energy_j == 3.0
    endless = Budgets(BudgetRequest(), {}, None)
    assert endless.resolve("digits", NO_BUDGET, 60.0) == Limits(math.inf, 60_000.0, OnInfeasible.ERROR, "balanced")


def test_setting_again_keeps_what_is_not_said_and_reset_forgets() -> None:
    budgets = in_memory(digits=BudgetRequest(max_energy_j=9.0))
    budgets.set("digits", BudgetRequest(max_energy_j=2.0))
    shown = budgets.set("digits", BudgetRequest(profile="eco"))
    assert shown == TaskBudget("digits", BudgetRequest(2.0, 1000.0, OnInfeasible.ERROR, "eco"), "set")
    assert budgets.reset("digits") == TaskBudget(
        "digits", BudgetRequest(9.0, 1000.0, OnInfeasible.ERROR, "balanced"), "config"
    )


def test_all_tasks_are_shown_with_their_origin_the_default_first() -> None:
    budgets = in_memory(configured=BudgetRequest(max_energy_j=1.0))
    budgets.set("touched", BudgetRequest(max_energy_j=2.0))
    shown = [(entry.task, entry.origin) for entry in budgets.show(["digits", "configured"])]
    assert shown == [(ALL_TASKS, "default"), ("configured", "config"), ("digits", "default"), ("touched", "set")]


def test_long_run_budgets_are_per_task_and_one_kind_at_a_time() -> None:
    budgets = in_memory()
    assert budgets.long_run("digits") == NO_LONG_RUN
    budgets.set(ALL_TASKS, NOTHING, LongRun(average_power_w=5.0))
    assert budgets.long_run("digits") == LongRun(average_power_w=5.0)
    budgets.set("digits", NOTHING, LongRun(average_energy_j=2.0))
    budgets.set("digits", BudgetRequest(profile="eco"))
    assert budgets.of("digits").long_run == LongRun(average_energy_j=2.0)
    budgets.set("digits", NOTHING, LongRun(average_energy_j=0.0))
    assert not budgets.long_run("digits").limits
    budgets.reset("digits")
    assert budgets.long_run("digits") == LongRun(average_power_w=5.0)


def test_merge_prefers_what_is_said() -> None:
    assert merge(NOTHING, DEFAULT) == DEFAULT
    assert merge(DEFAULT, BudgetRequest(5.0, 5.0, OnInfeasible.CHEAPEST, "eco")) == BudgetRequest(
        5.0, 1000.0, OnInfeasible.ERROR, "balanced"
    )


# ---- the file


def test_long_run_budgets_survive_and_older_files_without_them_are_read(tmp_path: Path) -> None:
    file = tmp_path / "budgets.json"
    Budgets(DEFAULT, {}, file).set("digits", NOTHING, LongRun(average_power_w=5.0))
    assert Budgets(DEFAULT, {}, file).long_run("digits") == LongRun(average_power_w=5.0)
    document = json.loads(file.read_text())
    del document["digits"]["average_energy_j"], document["digits"]["average_power_w"]
    file.write_text(json.dumps(document))
    assert Budgets(DEFAULT, {}, file).long_run("digits") == NO_LONG_RUN
    document["digits"]["average_power_w"] = -1.0
    file.write_text(json.dumps(document))
    with pytest.raises(RequestError):
        Budgets(DEFAULT, {}, file)


def test_what_was_set_survives_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "state" / "budgets.json"
    budgets = Budgets(DEFAULT, {}, file)
    budgets.set("digits", BudgetRequest(0.5, 20.0, OnInfeasible.CHEAPEST, "eco"))
    budgets.set(ALL_TASKS, BudgetRequest(max_latency_ms=300.0))
    again = Budgets(DEFAULT, {}, file)
    assert again.show(["digits", "other"]) == budgets.show(["digits", "other"])
    again.reset("digits")
    assert Budgets(DEFAULT, {}, file).of("digits").origin == "default"


def test_a_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    """The old file stays whole, and memory agrees with it: what is acknowledged is what is kept."""
    file = tmp_path / "budgets.json"
    budgets = Budgets(DEFAULT, {}, file)
    budgets.set("digits", BudgetRequest(max_energy_j=0.5))
    before = file.read_bytes()
    # Where the draft would go there is a folder: opening it fails.
    file.with_suffix(".tmp").mkdir()
    with pytest.raises(OSError):  # noqa: PT011
        budgets.set("digits", BudgetRequest(max_energy_j=0.1))
    assert file.read_bytes() == before
    assert budgets.of("digits").budget.max_energy_j == 0.5


def test_a_draft_that_a_crash_left_behind_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "budgets.json"
    Budgets(DEFAULT, {}, file).set("digits", BudgetRequest(max_energy_j=0.5))
    file.with_suffix(".tmp").write_text('{"digits": {"max_en')
    budgets = Budgets(DEFAULT, {}, file)
    assert budgets.of("digits").budget.max_energy_j == 0.5
    budgets.set("digits", BudgetRequest(max_energy_j=0.7))
    assert json.loads(file.read_text())["digits"]["max_energy_j"] == 0.7
    assert os.listdir(tmp_path) == ["budgets.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b'{"digits": 5}',
        b'{"digits": {"max_energy_j": 1.0}}',
        b'{"digits": {"max_energy_j": 1, "max_latency_ms": 1, "on_infeasible": "maybe", "profile": null}}',
        b'{"digits": {"max_energy_j": "5", "max_latency_ms": 1, "on_infeasible": null, "profile": null}}',
        b'{"digits": {"max_energy_j": NaN, "max_latency_ms": 1, "on_infeasible": null, "profile": null}}',
        b'{"digits": {"max_energy_j": -1, "max_latency_ms": 1, "on_infeasible": null, "profile": null}}',
        b'{"digits": {"max_energy_j": 1, "max_latency_ms": 1, "on_infeasible": null, "profile": "turbo"}}',
        b'{"digits": {"max_energy_j": true, "max_latency_ms": 1, "on_infeasible": null, "profile": null}}',
    ],
)
def test_a_file_that_cannot_be_read_says_which_and_what_to_do(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "budgets.json"
    file.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        Budgets(DEFAULT, {}, file)
    assert caught.value.reason == "INPUT_INVALID"
    assert str(file) in caught.value.message or "budgets" in caught.value.message
    assert file.read_bytes() == content
