"""Experts that are not in memory: available after their load, which counts like a queue and costs its joules."""

from __future__ import annotations

import pytest

from edgewise.v1 import fleet_pb2 as fleet
from orchestrator.errors import RequestError
from orchestrator.fleet.wire import decode_residency
from orchestrator.residency import Residency
from orchestrator.routing.figures import first_token_ms, text_figures
from orchestrator.types import BudgetRequest, GenerationParameters, Message, TextQuery
from tests.orchestrator.builders import a_board, a_task, an_arm
from tests.orchestrator.fleet.test_text_arms import ANNOUNCED

AWAY = Residency("unloaded", load_ms=300.0, load_j=0.5)
HERE = Residency("loaded", load_ms=300.0, load_j=0.5)


def test_an_unloaded_arm_waits_for_its_load_and_costs_it() -> None:
    there, away = an_arm("there", residency=HERE), an_arm("away", residency=AWAY)
    board = a_board(there, away, concurrency=1)
    assert board.wait_ms_n.tolist() == [0.0, 300.0]
    assert board.energy_j_n.tolist() == [0.01, 0.51]
    assert board.energy_bound_j_n[1] == pytest.approx(board.energy_bound_j_n[0] + 0.5)
    assert board.loaded
    held_ms = board.dispatched(0, 7.0)
    assert board.wait_ms_n.tolist() == [7.0, 307.0]
    board.released(0, held_ms)
    assert board.wait_ms_n.tolist() == [0.0, 300.0]


def test_once_it_is_loaded_it_is_as_any_other() -> None:
    board = a_board(an_arm("away", residency=AWAY))
    board.set_residency(0, Residency("loading", load_ms=300.0, load_j=0.5))
    assert board.wait_ms_n[0] == 300.0
    versions = board.wait_changes.version, board.energy_changes.version
    board.set_residency(0, HERE)
    assert (board.wait_ms_n[0], board.energy_j_n[0], board.loaded) == (0.0, 0.01, False)
    assert board.wait_changes.version > versions[0]
    assert board.energy_changes.version > versions[1]


def test_nothing_is_known_of_a_load_before_the_first() -> None:
    board = a_board(an_arm("away", residency=Residency("unloaded")))
    assert (board.wait_ms_n[0], board.energy_j_n[0]) == (0.0, 0.01)


def test_texts_reckon_with_it_in_joules_and_in_their_first_token() -> None:
    figures = {}
    for residency in (AWAY, HERE):
        board = a_board(an_arm("writer", task="chat", text=ANNOUNCED, residency=residency))
        task = a_task("chat", text=True)
        asked = (Message("user", "hello"),)
        query = TextQuery("r", task, None, asked, GenerationParameters(max_tokens=8), BudgetRequest(), 9.0)
        figures[residency.state] = text_figures(board, query)
    away, here = figures["unloaded"], figures["loaded"]
    assert away.cost_n[0].energy_j == pytest.approx(here.cost_n[0].energy_j + 0.5)
    assert first_token_ms(away, 0) == pytest.approx(first_token_ms(here, 0) + 300.0)


@pytest.mark.parametrize("message", [fleet.Residency(state="somewhere"), fleet.Residency(state="loaded", load_ms=-1.0)])
def test_what_a_node_says_is_checked(message: fleet.Residency) -> None:
    with pytest.raises(RequestError):
        decode_residency(message)
