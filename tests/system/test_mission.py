"""The mission as one test: real processes over mTLS, and each promise of the project as an assertion of its own.

A gateway and three agents: one placed by Ray where that is installed, one with pruned arms and an expert that learns
its user, one with a compiled form. The tests run in order and share the fleet; the last ones are the controls.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import yaml

from orchestrator.client import Answer, Client
from orchestrator.errors import EdgewiseError, RequestError
from tests.fakes.processes import Fleet, NodePlan
from tests.system import mission_claims as claims
from tests.system.mission_house import COMPILED, HAS_RAY, HOME, PERSONAL, PLACED, PRUNED, QUICK, House

pytestmark = pytest.mark.system

QUERIES, TRAFFIC, FEW = slice(0, 200), slice(230, 330), slice(60, 100)
DAY_S = 86_400.0
MOVED_WITHIN_S = 5.0
# Conv8's class: what the cheapest experts do not reach, and half of the joules do not buy.
MIN_QUALITY = 0.985


@dataclass
class Mission:
    """The running house, and every answer that it gave."""

    house: House
    client: Client
    answers: list[Answer] = field(default_factory=list)
    point: dict[str, float] = field(default_factory=dict)
    correction: claims.Correction | None = None

    def ask(self, digits: claims.Digits) -> list[Answer]:
        """Queries without a budget of their own: the gateway's holds."""
        answers = claims.ask(self.client, digits)
        self.answers += answers
        return answers


@pytest.fixture(scope="module")
def mission(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mission]:
    with House(tmp_path_factory.mktemp("mission")) as house, house.client() as client:
        yield Mission(house, client)


# ---- 1: who they are, and what they hold


def test_every_agent_joined_with_a_certificate_of_its_own_for_a_day(mission: Mission) -> None:
    records = {record.node: record for record in mission.client.identities()}
    assert set(records) == {PLACED, HOME, COMPILED}
    assert {record.state for record in records.values()} == {"approved"}
    assert len({record.key_fingerprint for record in records.values()}) == 3
    for record in records.values():
        assert record.expires_unix_s is not None
        # From a minute before the joining on, so that clocks may differ a little.
        assert record.expires_unix_s - record.joined_unix_s == pytest.approx(DAY_S, abs=600.0)
    assert {node.node: node.state for node in mission.client.status().nodes} == dict.fromkeys(records, "healthy")


def test_nobody_is_answered_without_tls(mission: Mission) -> None:
    with Client(mission.house.fleet.address, timeout_s=5.0) as plain, pytest.raises(EdgewiseError):
        plain.status()


def test_dense_pruned_compiled_and_personal_experts_are_there(mission: Mission) -> None:
    arms = {arm.name for node in mission.client.status().nodes for arm in node.arms}
    assert {f"digits-gated-m80:mass-0.8@{HOME}", f"digits-gated-m60:mass-0.6@{HOME}"} <= arms
    assert {f"digits-wide:ort-int8@{COMPILED}", f"digits-wide:onnx-fp32@{COMPILED}"} <= arms
    assert {f"digits-linear:onnx-fp32@{PLACED}", f"{PERSONAL}:onnx-fp32@{HOME}"} <= arms


@pytest.mark.skipif(not HAS_RAY, reason="not run: ray is not installed, so this agent was started plainly")
def test_one_agent_was_placed_by_ray(mission: Mission) -> None:
    said = mission.house.said("ray", "status", "--spec", str(mission.house.spec), "-o", "json")
    (row,) = yaml.safe_load(said)
    assert (row["name"], row["gateway"]) == (PLACED, "healthy")
    assert row["ray_node"]


# ---- 2: the plan


def test_limits_tuned_from_traffic_stand_in_a_certified_plan(mission: Mission) -> None:
    house, client = mission.house, mission.client
    table, arms, answers = claims.export_traffic(client, claims.held_out(TRAFFIC), house.folder)
    mission.answers += answers
    mission.point = claims.tune(house, table, arms, min_quality=MIN_QUALITY)
    # `tune` wrote the limits of each request; the plan's own limit is what it says that they cost on the average.
    tree = yaml.safe_load(house.config.read_text())
    assert tree["budgets"]["tasks"]["digits"]["max_energy_j"] == mission.point["max_energy_j"]
    tree["plan"] = {"mean_energy_j": mission.point["j_per_query"]}
    house.config.write_text(yaml.safe_dump(tree))
    house.said("config", "reload")
    house.fleet.wait_until(lambda: _mode(client) == "routed", "a plan within the tuned limit", timeout_s=90.0)
    claims.the_plan_is_certified(client.status())
    assert client.status().tasks[0].certificate.quality_fraction >= mission.point["quality_low"]


def _mode(client: Client) -> str:
    return client.status().tasks[0].certificate.mode


def test_pruned_arms_serve_for_fewer_joules(mission: Mission) -> None:
    mission.answers += claims.pruned_arms_serve_for_fewer_joules(mission.client, claims.held_out(FEW))


# ---- 3, 4: queries under budgets


def test_two_hundred_queries_keep_accuracy_joules_and_budgets(mission: Mission) -> None:
    digits, point = claims.held_out(QUERIES), mission.point
    answers = mission.ask(digits)
    assert claims.accuracy(answers, digits) >= point["quality_low"]
    assert claims.mean_j(answers) <= point["max_energy_j"]
    for answer in answers:
        assert answer.routing.budget_met
        assert answer.energy.energy_j <= answer.routing.bound_energy_j <= point["max_energy_j"]
        assert answer.timing.total_ms <= point["max_latency_ms"]
        assert answer.routing.certificate.status == "optimal"


def test_half_of_the_budget_moves_traffic_to_cheaper_arms_in_time(mission: Mission) -> None:
    digits, half_j = claims.held_out(FEW), 0.5 * mission.point["max_energy_j"]
    before = mission.ask(digits)
    assert _dearest_j(before) > half_j
    mission.house.said("budget", "set", "--task", claims.TASK, "--max-energy", f"{half_j}J")
    set_s = time.monotonic()
    try:
        while _dearest_j(after := mission.ask(digits)) > half_j:
            assert time.monotonic() - set_s < MOVED_WITHIN_S
        assert time.monotonic() - set_s < MOVED_WITHIN_S
    finally:
        mission.house.said("budget", "set", "--task", claims.TASK, "--reset")
    assert all(answer.routing.bound_energy_j <= half_j for answer in after)
    assert claims.mean_j(after) < claims.mean_j(before)
    assert _arms(before) - _arms(after), "no arm was given up"
    assert _dearest_j(mission.ask(digits)) > half_j


def _dearest_j(answers: list[Answer]) -> float:
    return max(answer.energy.energy_j for answer in answers)


def _arms(answers: list[Answer]) -> set[str]:
    return {attempt.arm for answer in answers for attempt in answer.routing.attempts}


# ---- 5, 6: users, and why


def test_one_correction_changes_one_user_and_nobody_else(mission: Mission) -> None:
    found = claims.correct_until_it_takes(mission.client, "ada", "bob", claims.written("7"))
    mission.answers += found.answers
    mission.correction = found
    claims.one_correction_changes_one_user(found)


def test_why_names_plan_certificate_and_overlay(mission: Mission) -> None:
    assert mission.correction is not None
    plain = mission.ask(claims.held_out(slice(0, 1)))[0]
    told = mission.house.said("why", plain.request_id)
    assert f"plan {plain.routing.plan_id}: optimal (gap 0" in told
    assert "overlay" not in told
    told = mission.house.said("why", mission.correction.after.request_id)
    assert "overlay, outside certificate" in told
    assert "version 1" in told


# ---- 7: the books


def test_ledger_replies_and_meters_agree_to_the_last_digits(mission: Mission) -> None:
    """Last of the shared fleet: every agent leaves, and says what its work has cost."""
    replies = {answer.request_id: answer.energy.energy_j for answer in mission.answers}
    client, fleet = mission.client, mission.house.fleet
    # What no budget limits is written down a tenth of a second later.
    fleet.wait_until(lambda: sum(1 for _ in client.settlements(DAY_S)) >= len(replies), "all settled", timeout_s=20.0)
    assert _exported(mission.house) == replies
    (share,) = yaml.safe_load(mission.house.said("energy", "report", "-o", "json"))
    meters = mission.house.leave()
    assert set(meters) == {PLACED, HOME, COMPILED}
    assert sum(said["works"] for said in meters.values()) == sum(len(a.routing.attempts) for a in mission.answers)
    by_replies_j = math.fsum(replies.values())
    by_meters_j = math.fsum(said["work_j"] for said in meters.values())
    assert by_meters_j == pytest.approx(by_replies_j, rel=1e-12)
    assert share["energy_j"] == pytest.approx(by_replies_j, rel=1e-12)
    for name, said in meters.items():
        mine_j = math.fsum(
            attempt.energy.energy_j
            for answer in mission.answers
            for attempt in answer.routing.attempts
            if attempt.arm.endswith(f"@{name}")
        )
        assert said["work_j"] == pytest.approx(mine_j, rel=1e-12), name


def _exported(house: House) -> dict[str, float]:
    """Joules by request, as `edgewise energy export` writes them."""
    rows = list(csv.DictReader(io.StringIO(house.said("energy", "export"))))
    found = {row["request_id"]: float(row["energy_j"]) for row in rows}
    assert len(found) == len(rows), "a request was settled twice"
    return found


# ---- 8: controls, each with one feature switched off


@pytest.fixture
def small(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """A gateway and one agent; what is off is the test's parameter."""
    off = request.param
    folder = tmp_path_factory.mktemp("control")
    (folder / "fleet").mkdir()
    pruned = () if off == "pruning" else PRUNED
    personal = () if off == "personal" else ("--personal", str(folder / "users"), "--personal-expert", PERSONAL)
    # No set of arms fits, so no plan comes about; requests are routed on what the nodes announced.
    settings = {"EDGEWISE_PLAN__MAX_ACTIVE_ENERGY_J": "1e-15"} if off == "plan" else {}
    agent = NodePlan(HOME, "laptop-cpu", ("digits-linear", PERSONAL, *pruned), (*QUICK, *personal))
    with Fleet(folder / "fleet", settings) as fleet:
        fleet.start_gateway()
        fleet.start_agent(agent)
        fleet.wait_until(lambda: _considered(fleet, off), f"a fleet without {off}", timeout_s=120.0)
        yield fleet


def _considered(fleet: Fleet, off: str) -> bool:
    """Whether the agent is there and the planner has made its plan, or told that there is none."""
    event = "plan.kept" if off == "plan" else "plan.made"
    assert fleet.gateway is not None
    return fleet.state_of(HOME) == "healthy" and bool(fleet.gateway.events(event))


def _claim(client: Client, off: str) -> None:
    match off:
        case "pruning":
            claims.pruned_arms_serve_for_fewer_joules(client, claims.held_out(FEW))
        case "personal":
            claims.one_correction_changes_one_user(
                claims.correct_until_it_takes(client, "ada", "bob", claims.written("7"))
            )
        case _:
            claims.the_plan_is_certified(client.status())


@pytest.mark.parametrize(
    ("small", "off", "error", "says"),
    [
        ("pruning", "pruning", AssertionError, "no pruned arm in the plan"),
        ("personal", "personal", RequestError, "No node lets its experts"),
        ("plan", "plan", AssertionError, "certificate none"),
    ],
    indirect=["small"],
    ids=["pruning", "personal", "plan"],
)
def test_without_a_feature_its_claim_fails_and_the_others_hold(
    small: Fleet, off: str, error: type[Exception], says: str
) -> None:
    with small.client(timeout_s=30.0) as client:
        with pytest.raises(error, match=says):
            _claim(client, off)
        for other in {"pruning", "personal", "plan"} - {off}:
            # What nobody planned has no active arms to look at.
            if (off, other) != ("plan", "pruning"):
                _claim(client, other)
