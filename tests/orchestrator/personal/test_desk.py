"""Users' own experts at the gateway: homes that stay, tenants that never meet, overlays that are worth it."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgewise.v1 import common_pb2, fleet_pb2
from orchestrator.errors import RequestError, Unavailable
from orchestrator.fleet.fleet import Fleet
from orchestrator.personal.desk import PersonalDesk
from orchestrator.personal.homes import Homes
from orchestrator.personal.overlay import OUTSIDE, Overlay, overlay
from orchestrator.personal.types import Owner, PersonalNote, PersonalReport, PersonalStatus
from orchestrator.personal.wire import decode_status, encode_status
from orchestrator.routing.model import AnnouncedModel
from orchestrator.routing.plan import NO_CERTIFICATE, Plan
from orchestrator.routing.route import Wish, route
from orchestrator.types import BudgetRequest, FusionChoice, Query
from tests.orchestrator.builders import a_board, a_fleet, a_hello, a_task, an_arm, joined, limits

ADA, OTHER = Owner("tenant-a", "ada"), Owner("tenant-b", "ada")
TAUGHT = PersonalStatus("n1", "digits", "small", "instant", 3, 40, judged=40, global_fraction=0.6, local_fraction=0.9)
X = np.zeros(64)


def _fleet(*nodes: str) -> Fleet:
    fleet = a_fleet()
    for node in nodes:
        joined(fleet, a_hello(node, (an_arm("small", node), an_arm("large", node)), personal_experts=("small",)))
    return fleet


def _query(request_id: str = "r1", user: str = "ada") -> Query:
    image = {"image": np.zeros((1, 8, 8), np.float32)}
    return Query(request_id, a_task(), None, image, BudgetRequest(), FusionChoice.AUTO, 0, 5.0, user)


def test_a_home_stays_when_nodes_come_and_the_gateway_restarts(tmp_path: Path) -> None:
    file = tmp_path / "homes.json"
    homes = Homes(file)
    first = homes.settle(ADA, "digits", ["n1", "n2", "n3"])
    assert first in ("n1", "n2", "n3")
    assert homes.settle(ADA, "digits", ["n4"]) == first
    assert Homes(file).of(ADA, "digits") == first
    assert (file.stat().st_mode & 0o777) == 0o600
    assert "ada" not in file.read_text()
    homes.forget(ADA, "digits")
    assert Homes(file).of(ADA, "digits") is None


def test_homes_are_spread_and_owners_of_one_name_are_two() -> None:
    homes, nodes = Homes(), ["n1", "n2", "n3"]
    chosen = [homes.settle(Owner("t", f"u{number}"), "digits", nodes) for number in range(300)]
    assert min(chosen.count(node) for node in nodes) > 60
    homes.settle(ADA, "digits", ["n1"])
    assert homes.of(OTHER, "digits") is None


def test_an_unreadable_file_of_homes_is_no_end(tmp_path: Path) -> None:
    (tmp_path / "homes.json").write_text("[1,")
    assert Homes(tmp_path / "homes.json").of(ADA, "digits") is None


def _overlay(status: PersonalStatus, *, arm_j: float = 0.01, **hard: float) -> Overlay | None:
    board = a_board(an_arm("small", "n1", energy_j=arm_j), an_arm("large", "n2", energy_j=0.05))
    model = AnnouncedModel({"small": 0.9, "large": 0.95}, {"small": arm_j, "large": 0.05})
    plan = Plan("p", model, None, NO_CERTIFICATE)
    asked = limits(**hard)
    generic = route(X, plan=plan, table=plan.table(board.states, board), limits=limits(), wish=Wish())
    return overlay(generic, status, board.states[0], board=board, limits=asked, wish=Wish(), features_f=X)


def test_an_overlay_stands_in_where_it_is_worth_more_to_its_user() -> None:
    found = _overlay(TAUGHT)
    assert found is not None
    assert found.text.startswith(OUTSIDE)
    assert "version 3" in found.text
    assert found.decision.route is not None
    assert found.decision.route.name.startswith("small")


def test_an_overlay_never_breaks_hard_limits() -> None:
    assert _overlay(TAUGHT, energy_j=1e-6) is None
    assert _overlay(TAUGHT, latency_ms=1e-6) is None


def test_no_overlay_without_a_promoted_expert_or_a_gain() -> None:
    assert _overlay(replace(TAUGHT, tier="none")) is None
    assert _overlay(replace(TAUGHT, judged=0)) is None
    assert _overlay(replace(TAUGHT, local_fraction=0.6, global_fraction=0.9)) is None


async def test_a_request_that_ran_elsewhere_is_copied_to_its_home_alone() -> None:
    fleet = _fleet("n1", "n2")
    desk = PersonalDesk(fleet)
    query = desk.claim(_query(), ADA.tenant)
    assert query.owner == ADA
    desk.answered(ADA, query, None)
    kept = {node: [c for c in _sent(fleet, node) if c.WhichOneof("command") == "keep"] for node in ("n1", "n2")}
    assert [len(kept[node]) for node in sorted(kept, key=lambda node: node != query.home)] == [1, 0]
    assert kept[query.home][0].keep.owner == common_pb2.Owner(tenant="tenant-a", user="ada")
    desk.answered(ADA, replace(query, request_id="r2"), PersonalNote("local", TAUGHT))
    assert len([c for c in _sent(fleet, query.home) if c.WhichOneof("command") == "keep"]) == 0


@pytest.mark.parametrize(("nodes", "copied"), [("home", 1), ("other", 0), ("", 1)])
async def test_an_input_is_copied_only_to_nodes_that_it_may_be_on(nodes: str, copied: int) -> None:
    fleet = _fleet("n1", "n2")
    desk = PersonalDesk(fleet)
    query = desk.claim(_query(), ADA.tenant)
    allowed = {"home": {query.home}, "other": {"n1", "n2"} - {query.home}, "": set[str]()}[nodes]
    desk.answered(ADA, replace(query, allowed_nodes=frozenset(allowed)), None)
    assert len([c for c in _sent(fleet, query.home) if c.WhichOneof("command") == "keep"]) == copied


async def test_an_input_is_copied_only_where_the_tags_are() -> None:
    fleet = _fleet("n1")
    desk = PersonalDesk(fleet)
    query = desk.claim(_query(), ADA.tenant)
    desk.answered(ADA, replace(query, required_tags=frozenset({"private"})), None)
    assert [c for c in _sent(fleet, "n1") if c.WhichOneof("command") == "keep"] == []


async def test_only_the_tenant_that_asked_may_correct() -> None:
    fleet = _fleet("n1")
    desk = PersonalDesk(fleet)
    desk.answered(ADA, desk.claim(_query(), ADA.tenant), PersonalNote("global", TAUGHT))
    for tenant in (OTHER.tenant, "", None):
        with pytest.raises(RequestError) as refused:
            await desk.correct(tenant, "r1", "3")
        assert refused.value.reason == "FEEDBACK_EXPIRED"
    told = asyncio.ensure_future(desk.correct(ADA.tenant, "r1", "3"))
    await asyncio.sleep(0)
    order = _sent(fleet, "n1")[-1].personal
    assert (order.verb, order.label, order.owner.user) == ("correct", "3", "ada")
    desk.reported("another-node", PersonalReport(order.order_id, "", "", PersonalStatus()))
    desk.reported("n1", PersonalReport(order.order_id, "", "", TAUGHT))
    assert (await told).version == 3


async def test_a_home_that_is_away_says_so_and_is_not_replaced() -> None:
    fleet = _fleet("n1", "n2")
    desk = PersonalDesk(fleet)
    home = desk.claim(_query(), ADA.tenant).home
    fleet.leave(fleet.sessions[home])
    assert desk.claim(_query(), ADA.tenant).home == ""
    with pytest.raises(Unavailable) as refused:
        await desk.order(ADA, "digits", "status")
    assert refused.value.reason == "HOME_AWAY"


async def test_without_a_node_that_opted_in_there_is_nobody_to_ask() -> None:
    fleet = a_fleet()
    joined(fleet, a_hello("n1"))
    with pytest.raises(RequestError) as refused:
        await PersonalDesk(fleet).order(ADA, "digits", "status")
    assert refused.value.reason == "PERSONAL_OFF"
    with pytest.raises(RequestError):
        await PersonalDesk(fleet).order(ADA, "digits", "dance")


def test_what_a_node_says_of_an_expert_is_held_within_bounds() -> None:
    wild = common_pb2.PersonalStatus(
        tier="x" * 500, local_fraction=math.nan, global_fraction=7.0, generic_drop_fraction=math.inf, state="s" * 900
    )
    read = decode_status(wild)
    assert (read.tier, read.local_fraction, read.global_fraction) == ("none", 0.0, 1.0)
    assert read.generic_drop_fraction == 1.0
    assert len(read.state) == 200
    assert decode_status(encode_status(TAUGHT)) == TAUGHT


def _sent(fleet: Fleet, node: str) -> list[fleet_pb2.NodeCommand]:
    """What waits for a node, taken away."""
    session = fleet.sessions[node]
    waiting, session._outbox = session._outbox, []
    return waiting
