"""The whole system: one gateway and three agents as processes, asked through the Python client and the command line."""

from __future__ import annotations

import itertools
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nodes.zoo.catalog import load_catalog
from orchestrator.client import Answer, Budget, Client
from orchestrator.errors import BudgetInfeasible, EdgewiseError, RequestError
from orchestrator.types import OnInfeasible, Provenance
from tests.fakes.processes import Fleet, NodePlan, http_get

pytestmark = pytest.mark.system

NODES = (
    NodePlan("orin", "jetson-agx-orin", ("digits-linear", "digits-mlp", "digits-tinyconv", "digits-lenet5")),
    NodePlan("pc", "rtx-4090", ("digits-mlp", "digits-conv8", "digits-lenet5", "digits-wide")),
    NodePlan("laptop", "laptop-cpu", ("digits-linear", "digits-tinyconv", "digits-conv8")),
)
# Generous: what is promised in milliseconds is judged by its own tests, on a machine that is not shared.
PATIENT = Budget(max_latency_ms=5000.0)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet.start(*NODES)


@pytest.fixture
def client(fleet: Fleet) -> Iterator[Client]:
    with fleet.client() as client:
        yield client


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray[Any, np.dtype[np.float32]], list[str]]:
    """Pictures that no expert has seen, shape (n, 8, 8), and what they are."""
    held_out = load_catalog().held_out
    return held_out.inputs.astype(np.float32), [str(label) for label in held_out.labels_n]


@pytest.fixture(scope="module")
def digit(tmp_path_factory: pytest.TempPathFactory, digits: Any) -> str:
    """One picture as a file, in the pixel values of the original."""
    path = tmp_path_factory.mktemp("digit") / "digit.npy"
    np.save(path, digits[0][0] * 16.0)
    return str(path)


def _ask(client: Client, digits: Any, count: int, budget: Budget) -> list[Answer]:
    return [client.infer(digits[0][number : number + 1], budget=budget) for number in range(count)]


def _nodes_of(answer: Answer) -> set[str]:
    return {attempt.arm.rpartition("@")[2] for attempt in answer.routing.attempts}


# ---- answers


def test_digits_are_recognised_within_their_budgets(client: Client, digits: Any) -> None:
    budget = Budget(max_energy_j=1e-3, max_latency_ms=5000.0)
    answers = _ask(client, digits, 200, budget)
    right = np.mean([answer.label == label for answer, label in zip(answers, digits[1], strict=False)])
    assert right >= 0.95
    assert all(answer.routing.budget_met and answer.energy.energy_j <= 1e-3 for answer in answers)
    assert all(answer.timing.total_ms <= 5000.0 for answer in answers)


def test_joules_say_that_they_are_modelled_and_add_up(client: Client, digits: Any) -> None:
    for answer in _ask(client, digits, 20, PATIENT):
        assert answer.energy.provenance is Provenance.MODELLED
        assert answer.energy.method.startswith("profile:")
        parts = [attempt.energy.energy_j for attempt in answer.routing.attempts]
        assert answer.energy.energy_j == pytest.approx(sum(parts))
        assert answer.routing.certificate.status == "optimal"


def test_a_tighter_budget_leads_to_cheaper_arms(client: Client, digits: Any) -> None:
    tight = _ask(client, digits, 40, Budget(max_energy_j=2e-7, max_latency_ms=5000.0, profile="best"))
    loose = _ask(client, digits, 40, Budget(max_energy_j=1e-2, max_latency_ms=5000.0, profile="best"))
    assert all(answer.energy.energy_j <= 2e-7 for answer in tight)
    assert np.mean([a.energy.energy_j for a in loose]) > np.mean([a.energy.energy_j for a in tight])


def test_a_thriftier_profile_never_takes_more_joules(client: Client, digits: Any) -> None:
    """`balanced` may equal `best`: where nothing cheaper is shown to be as good, both take the same route."""
    spent = {}
    for profile in ("eco", "balanced", "best"):
        answers = _ask(client, digits, 100, Budget(max_latency_ms=5000.0, profile=profile))
        spent[profile] = sum(answer.energy.energy_j for answer in answers)
    assert spent["eco"] < spent["balanced"] <= spent["best"]


def test_an_expert_by_name_is_the_one_that_answers(client: Client, digits: Any) -> None:
    answer = client.infer(digits[0][:1], expert="digits-wide", budget=PATIENT)
    assert [attempt.arm for attempt in answer.routing.attempts] == ["digits-wide:onnx-fp32@pc"]


def test_an_infeasible_budget_says_what_would_do_and_that_then_does(client: Client, digits: Any) -> None:
    with pytest.raises(BudgetInfeasible) as refused:
        client.infer(digits[0][:1], budget=Budget(max_energy_j=1e-12, max_latency_ms=5000.0))
    enough = Budget(max_energy_j=refused.value.min_energy_j, max_latency_ms=5000.0)
    assert client.infer(digits[0][:1], budget=enough).routing.budget_met
    for policy in (OnInfeasible.CHEAPEST, OnInfeasible.BEST_EFFORT):
        answer = client.infer(digits[0][:1], budget=Budget(1e-12, 5000.0, on_infeasible=policy))
        assert not answer.routing.budget_met


def test_why_tells_what_was_considered(client: Client, digits: Any) -> None:
    answer = client.infer(digits[0][:1], budget=Budget(max_energy_j=1e-6, max_latency_ms=5000.0), request_id="why-1")
    told = client.explain("why-1")
    assert (told.outcome, told.max_energy_j, told.task) == ("answered", 1e-6, "digits")
    assert told.energy.energy_j == pytest.approx(answer.energy.energy_j)
    chosen = [candidate for candidate in told.candidates if candidate.route == told.chosen]
    assert len(chosen) == 1
    assert chosen[0].feasible
    assert any(candidate.excluded_by == "energy" for candidate in told.candidates)
    with pytest.raises(RequestError):
        client.explain("nobody-asked-this")


# ---- operating


def test_status_shows_nodes_arms_and_a_certified_plan(client: Client) -> None:
    status = client.status()
    assert {node.node: node.state for node in status.nodes} == dict.fromkeys(("orin", "pc", "laptop"), "healthy")
    assert all(node.simulated and node.energy_provenance is Provenance.MODELLED for node in status.nodes)
    assert {node.node: len(node.arms) for node in status.nodes} == {"orin": 4, "pc": 4, "laptop": 3}
    (task,) = status.tasks
    assert (task.certificate.status, task.certificate.gap) == ("optimal", 0.0)


def test_a_budget_that_is_set_changes_what_runs(fleet: Fleet, client: Client, digits: Any) -> None:
    before = {_arms(answer) for answer in _ask_plainly(client, digits)}
    done = fleet.cli("budget", "set", "--task", "digits", "--max-energy", "15nJ", "--max-latency", "5s")
    assert done.returncode == 0, done.stderr
    try:
        after = {_arms(answer) for answer in _ask_plainly(client, digits)}
    finally:
        assert fleet.cli("budget", "set", "--task", "digits", "--reset").returncode == 0
    assert after == {("digits-linear:onnx-fp32@orin",)}
    assert before != after


def _ask_plainly(client: Client, digits: Any) -> list[Answer]:
    return [client.infer(digits[0][number : number + 1]) for number in range(20)]


def _arms(answer: Answer) -> tuple[str, ...]:
    return tuple(attempt.arm for attempt in answer.routing.attempts)


# ---- the command line


def test_infer_on_the_command_line_labels_its_joules(fleet: Fleet, digit: str, digits: Any) -> None:
    done = fleet.cli("infer", digit, "--max-energy", "5mJ", "--max-latency", "2s", "--request-id", "cli-1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(digits[1][0])
    assert "(modelled)" in done.stdout
    why = fleet.cli("why", "cli-1", "-o", "json")
    assert json.loads(why.stdout)["outcome"] == "answered"


def test_status_on_the_command_line_says_simulated(fleet: Fleet) -> None:
    done = fleet.cli("status")
    assert done.returncode == 0
    assert done.stdout.count("(simulated)") == 3
    assert "optimal (gap 0" in done.stdout


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, ("infer", "DIGIT", "--max-energy", "much")),
        (2, ("infer", "/no/such/file.npy")),
        (4, ("why", "nobody-asked-this")),
        (4, ("infer", "DIGIT", "--expert", "nobody")),
        (4, ("infer", "DIGIT", "--task", "letters")),
        (4, ("node", "drain", "nobody")),
        (7, ("infer", "DIGIT", "--max-energy", "1nJ", "--max-latency", "2s")),
    ],
)
def test_exit_codes(fleet: Fleet, digit: str, code: int, arguments: tuple[str, ...]) -> None:
    done = fleet.cli(*(digit if argument == "DIGIT" else argument for argument in arguments))
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr


def test_metrics_count_what_was_asked(fleet: Fleet, client: Client, digits: Any) -> None:
    _ask(client, digits, 3, PATIENT)
    status, text = http_get(f"http://{fleet.http_address}/metrics")
    counted = [line for line in text.splitlines() if line.startswith('edgewise_requests_total{outcome="answered"}')]
    assert status == 200
    assert float(counted[0].split()[-1]) >= 3


# ---- leaving, last because each leaves less behind


class Caller(threading.Thread):
    """Asks one question after the other until told to stop; keeps who answered what, and what failed."""

    def __init__(self, fleet: Fleet, digits: Any, *, expert: str | None = None) -> None:
        super().__init__(daemon=True)
        self._fleet, self._digits, self._expert = fleet, digits, expert
        self._stopping = threading.Event()
        self.nodes: Counter[str] = Counter()
        self.answered: set[str] = set()
        self.failures: list[str] = []

    def run(self) -> None:
        with self._fleet.client() as client:
            for number in itertools.count():
                if self._stopping.is_set():
                    return
                self._ask(client, f"{self.name.lower()}-{number}", number % 100)

    def _ask(self, client: Client, request_id: str, number: int) -> None:
        picture = self._digits[0][number : number + 1]
        try:
            answer = client.infer(picture, expert=self._expert, budget=PATIENT, request_id=request_id)
            self.nodes.update(_nodes_of(answer))
            self.answered.add(request_id)
        except EdgewiseError as error:
            self.failures.append(error.reason)

    def stop(self) -> None:
        self._stopping.set()
        self.join(10)

    def wait_for(self, calls: int) -> None:
        """Until so many more were answered, or something failed."""
        target = len(self.answered) + calls
        deadline_s = time.monotonic() + 20.0
        while len(self.answered) < target and not self.failures:
            assert time.monotonic() < deadline_s, f"only {len(self.answered)} of {target} calls were answered"
            time.sleep(0.01)


@pytest.fixture
def caller(fleet: Fleet, digits: Any) -> Iterator[Caller]:
    """Asks for an expert that is cheapest on `orin` and also on `pc`."""
    caller = Caller(fleet, digits, expert="digits-lenet5")
    caller.start()
    caller.wait_for(20)
    yield caller
    caller.stop()


def _left(fleet: Fleet, name: str) -> int:
    """The exit code of an agent that is leaving."""
    code = fleet.agents[name].popen.wait(15)
    fleet.agents.pop(name)
    return code


def test_a_drained_node_hands_its_traffic_over_without_a_failure(fleet: Fleet, caller: Caller) -> None:
    assert set(caller.nodes) == {"orin"}
    done = fleet.cli("node", "drain", "orin")
    assert done.returncode == 0, done.stderr
    assert _left(fleet, "orin") == 0
    caller.nodes.clear()
    caller.wait_for(50)
    assert caller.failures == []
    assert set(caller.nodes) == {"pc"}


def test_a_node_that_gets_sigterm_finishes_its_work_first(fleet: Fleet, digits: Any) -> None:
    if "orin" not in fleet.agents:  # The test before had it leave.
        fleet.start_agent(NODES[0])
    fleet.wait_ready()
    caller = Caller(fleet, digits, expert="digits-lenet5")
    caller.start()
    caller.wait_for(50)
    assert "orin" in caller.nodes
    fleet.agents["orin"].popen.send_signal(signal.SIGTERM)
    assert _left(fleet, "orin") == 0
    caller.wait_for(50)
    caller.stop()
    assert caller.failures == []
    assert "pc" in caller.nodes


def test_a_gateway_that_gets_sigterm_answers_what_it_has_taken(fleet: Fleet, caller: Caller, digits: Any) -> None:
    """Calls that were taken are answered; later ones are told so or find nobody; agents stay and come back."""
    gateway = fleet.gateway
    assert gateway is not None
    gateway.popen.send_signal(signal.SIGTERM)
    assert gateway.popen.wait(15) == 0
    caller.stop()
    assert set(caller.failures) <= {"DRAINING", "UNREACHABLE"}
    told = {line["request_id"]: line["outcome"] for line in gateway.events("request")}
    taken = {name for name, outcome in told.items() if name.startswith(caller.name.lower()) and outcome != "DRAINING"}
    assert taken == caller.answered
    for agent in fleet.agents.values():
        agent.signal_group(signal.SIGSTOP)
    fleet.start_gateway()
    fleet.wait_until(lambda: fleet.status() is not None, "listening")
    with fleet.client() as client, pytest.raises(EdgewiseError) as caught:
        # Nobody is back yet: to the new gateway this is a task as good as any other that it does not know.
        client.infer(digits[0][:1], budget=PATIENT)
    assert (caught.value.reason, caught.value.surface.retryable) == ("NO_NODE", True)
    for agent in fleet.agents.values():
        agent.signal_group(signal.SIGCONT)
    fleet.wait_ready()
    with fleet.client() as client:
        assert client.infer(digits[0][:1], budget=PATIENT).label == digits[1][0]


def test_nobody_answers_when_the_gateway_is_gone(fleet: Fleet, digit: str) -> None:
    gateway = fleet.gateway
    assert gateway is not None
    gateway.terminate()
    done = fleet.cli("infer", digit, "--timeout", "2s")
    assert done.returncode == 6
    assert "unreachable" in done.stderr
