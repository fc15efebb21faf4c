"""The simulator decides with the gateway's own functions, not with copies of them."""

from orchestrator import admission
from orchestrator.execution import attempt
from orchestrator.execution import exhausted as exhausted_module
from orchestrator.execution import run as runner
from orchestrator.gateway import app as app_module
from orchestrator.gateway import decider as decider_module
from orchestrator.planning import planner as planner_module
from orchestrator.simulation import house as house_module
from orchestrator.simulation import run as run_module

# What each module calls by these names.
house, run, planner = vars(house_module), vars(run_module), vars(planner_module)
app, decider = vars(app_module), vars(decider_module)


def test_routes_are_found_by_the_same_function() -> None:
    assert house["route"] is decider["route"]
    assert house["why_infeasible"] is decider["why_infeasible"]
    assert house["kept_out_by"] is decider["kept_out_by"]
    for decides in (decider_module.Decider.decide, house_module.House.decide):
        assert {"kept_out_by", "turned_away"} <= set(decides.__code__.co_names)


def test_budgets_accounts_and_predictions_are_of_the_same_classes() -> None:
    assert house["Budgets"] is app["Budgets"]
    assert house["Pacing"] is app["Pacing"]
    assert house["ArmBoard"] is app["ArmBoard"]
    assert house["announced_model"] is planner["announced_model"]


def test_the_door_asks_the_same_function() -> None:
    assert house["admit"] is admission.admit
    assert "admit" in admission.Admission.acquire.__code__.co_names
    assert house["smoothed_s"] is admission.smoothed_s
    assert "smoothed_s" in admission.Admission.release.__code__.co_names


def test_patience_and_the_window_of_an_answer_are_the_same() -> None:
    assert run["patience_for_s"] is attempt.patience_for_s
    assert "patience_for_s" in attempt.Attempts.run.__code__.co_names
    assert run["exhausted"] is exhausted_module.exhausted
    assert "exhausted" in exhausted_module.why_exhausted.__code__.co_names
    assert run["window_ms"] is runner.window_ms
    assert "window_ms" in runner._window_ms.__code__.co_names
