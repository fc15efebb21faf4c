"""Who may join, who is suspected, whose lease runs out, whose evidence is taken."""

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.errors import RequestError
from orchestrator.fleet.evidence import tensor_digest
from orchestrator.fleet.fleet import Change, Fleet, NodeState, Refusal
from tests.orchestrator.builders import LEASE_S, Clock, a_fleet, a_hello, a_task, an_arm, joined


def routable(fleet: Fleet, task: str = "digits") -> list[str]:
    return [state.arm.node for state in fleet.board.arms(task)]


def refused(answer: object) -> Refusal:
    assert isinstance(answer, Refusal)
    return answer


# ---- joining


def test_a_node_that_joins_is_healthy_and_its_arms_are_routable() -> None:
    fleet = a_fleet()
    changes: list[Change] = []
    fleet.subscribe(changes.append)
    session = joined(fleet, a_hello("n1"))
    assert fleet.state("n1") is NodeState.HEALTHY
    assert routable(fleet) == ["n1"]
    assert fleet.tasks["digits"] == a_task()
    assert fleet.session_of("n1") is session
    assert changes == [Change.ARMS]


def test_epochs_rise_with_every_session() -> None:
    fleet = a_fleet()
    epochs = []
    for _ in range(5):
        session = joined(fleet, a_hello("n1"))
        epochs.append(session.epoch)
        fleet.leave(session)
    assert epochs == sorted(set(epochs))
    # A gateway that starts again gives epochs above those of its former life.
    assert joined(a_fleet(), a_hello("n1")).epoch > epochs[-1]


def test_another_protocol_is_refused_for_good() -> None:
    answer = refused(a_fleet().join(a_hello(protocol_version=2)))
    assert (answer.reason, answer.retryable) == ("PROTOCOL_MISMATCH", False)


def test_a_name_in_use_is_refused_until_it_is_free() -> None:
    fleet = a_fleet()
    session = joined(fleet, a_hello("n1"))
    answer = refused(fleet.join(a_hello("n1")))
    assert (answer.reason, answer.retryable) == ("NAME_TAKEN", True)
    assert fleet.sessions["n1"] is session
    fleet.leave(session)
    joined(fleet, a_hello("n1"))


def test_an_arm_without_its_task_is_refused() -> None:
    arms = (an_arm(task="letters"),)
    assert refused(a_fleet().join(a_hello(arms=arms))).reason == "TASK_UNKNOWN"


@pytest.mark.parametrize(
    "other",
    [
        a_task(classes=5),
        replace(a_task(), input=replace(a_task().input, name="pixels")),
        replace(a_task(), labels=tuple("abcdefghij")),
        replace(a_task(), text=True),
    ],
    ids=["classes", "input", "labels", "text"],
)
def test_another_idea_of_a_task_is_refused_while_the_first_is_served(other: object) -> None:
    fleet = a_fleet()
    first = joined(fleet, a_hello("n1"))
    hello = a_hello("n2", tasks=(other,))
    assert refused(fleet.join(hello)).reason == "TASK_CONFLICT"
    assert "n2" not in fleet.sessions
    fleet.leave(first)
    joined(fleet, hello)


def test_a_task_that_nobody_serves_any_more_may_come_back_changed() -> None:
    fleet = a_fleet()
    fleet.leave(joined(fleet, a_hello("n1")))
    joined(fleet, a_hello("n2", tasks=(a_task(classes=5, reference="r2"),)))
    assert fleet.tasks["digits"] == a_task(classes=5, reference="r2")


def test_another_reference_set_is_no_conflict() -> None:
    fleet = a_fleet()
    joined(fleet, a_hello("n1", tasks=(a_task(reference="r1"),)))
    joined(fleet, a_hello("n2", tasks=(a_task(reference="r2"),)))
    assert fleet.tasks["digits"].reference_digest == "r1"


# ---- leaving, draining


def test_a_node_that_left_is_offline_and_remembered() -> None:
    fleet = a_fleet()
    session = joined(fleet, a_hello("n1"))
    fleet.leave(session)
    assert fleet.state("n1") is NodeState.OFFLINE
    assert routable(fleet) == []
    assert "n1" in fleet.known
    with pytest.raises(RequestError) as caught:
        fleet.session_of("n1")
    assert caught.value.reason == "NODE_NOT_FOUND"


def test_the_end_of_an_old_session_does_not_touch_the_new_one() -> None:
    fleet = a_fleet()
    old = joined(fleet, a_hello("n1"))
    fleet.leave(old)
    new = joined(fleet, a_hello("n1"))
    fleet.leave(old)
    assert fleet.sessions["n1"] is new
    assert routable(fleet) == ["n1"]


def test_a_draining_node_gets_nothing_new_and_is_not_cleared_by_a_heartbeat() -> None:
    fleet = a_fleet()
    session = joined(fleet, a_hello("n1"))
    fleet.drain(session)
    fleet.heard(session)
    assert fleet.state("n1") is NodeState.DRAINING
    assert routable(fleet) == []
    fleet.change_arms(session, (an_arm("other"),))
    assert routable(fleet) == []


def test_changed_arms_replace_the_old_ones() -> None:
    fleet = a_fleet()
    session = joined(fleet, a_hello("n1"))
    fleet.change_arms(session, (an_arm("other"),))
    assert [state.arm.expert for state in fleet.board.arms("digits")] == ["other"]
    assert fleet.known["n1"].arms == (an_arm("other"),)


def test_changed_arms_of_a_task_that_was_not_announced_are_refused() -> None:
    fleet = a_fleet()
    session = joined(fleet, a_hello("n1"))
    with pytest.raises(RequestError) as caught:
        fleet.change_arms(session, (an_arm(task="letters"),))
    assert caught.value.reason == "INPUT_INVALID"
    assert routable(fleet) == ["n1"]


# ---- liveness


def test_leases_run_out_on_the_monotonic_clock() -> None:
    clock = Clock()
    fleet = a_fleet(clock)
    silent, talking = joined(fleet, a_hello("n1")), joined(fleet, a_hello("n2"))
    clock.now_s += LEASE_S
    assert fleet.expired() == []
    assert talking.accepts(talking.epoch, 2)
    clock.now_s += 0.1
    assert fleet.expired() == [silent]


def test_a_suspect_is_routed_around_until_it_is_heard() -> None:
    fleet = a_fleet()
    session = joined(fleet, a_hello("n1"))
    joined(fleet, a_hello("n2"))
    changes: list[Change] = []
    fleet.subscribe(changes.append)
    fleet.suspect(session)
    fleet.suspect(session)
    assert fleet.state("n1") is NodeState.SUSPECT
    assert routable(fleet) == ["n2"]
    fleet.heard(session)
    assert fleet.state("n1") is NodeState.HEALTHY
    assert routable(fleet) == ["n1", "n2"]
    assert changes == [Change.ROUTABLE, Change.ROUTABLE]


def test_the_last_routable_node_is_never_suspected() -> None:
    fleet = a_fleet()
    sessions = [joined(fleet, a_hello(f"n{number}")) for number in range(3)]
    for session in sessions:
        fleet.suspect(session)
    assert routable(fleet) == ["n2"]
    assert fleet.state("n2") is NodeState.HEALTHY


def test_the_last_node_of_a_task_is_never_suspected() -> None:
    """Other nodes are no spare where they serve something else."""
    fleet = a_fleet()
    only = joined(fleet, a_hello("n1"))
    letters = a_hello("n2", (an_arm(node="n2", task="letters"),), tasks=(a_task("letters"),))
    joined(fleet, letters)
    fleet.suspect(only)
    assert routable(fleet) == ["n1"]


def test_an_ended_session_is_not_suspected() -> None:
    fleet = a_fleet()
    old = joined(fleet, a_hello("n1"))
    joined(fleet, a_hello("n2"))
    fleet.leave(old)
    new = joined(fleet, a_hello("n1"))
    fleet.suspect(old)
    assert fleet.state("n1") is NodeState.HEALTHY
    assert fleet.sessions["n1"] is new


def test_a_suspect_that_comes_back_is_no_suspect() -> None:
    fleet = a_fleet()
    session = joined(fleet, a_hello("n1"))
    joined(fleet, a_hello("n2"))
    fleet.suspect(session)
    fleet.leave(session)
    joined(fleet, a_hello("n1"))
    assert fleet.state("n1") is NodeState.HEALTHY
    assert sorted(routable(fleet)) == ["n1", "n2"]


# ---- evidence


def test_evidence_is_wanted_once_and_taken_when_it_is_what_was_announced() -> None:
    tensors = {"outputs": np.ones((3, 10), dtype=np.float32)}
    digest = tensor_digest(tensors)
    hello = a_hello("n1", (an_arm(evidence_digest=digest),))
    fleet = a_fleet()
    changes: list[Change] = []
    joined(fleet, hello)
    fleet.subscribe(changes.append)
    assert fleet.wanted_digests(hello) == [digest]
    fleet.take_evidence(digest, tensors)
    fleet.take_evidence(digest, tensors)
    assert changes == [Change.EVIDENCE]
    assert fleet.wanted_digests(hello) == []
    np.testing.assert_array_equal(fleet.evidence.get(digest)["outputs"], tensors["outputs"])  # type: ignore[index]


@pytest.mark.parametrize("case", ["unannounced", "mismatch"])
def test_evidence_that_is_not_what_was_announced_is_refused(case: str) -> None:
    tensors = {"outputs": np.ones((3, 10), dtype=np.float32)}
    digest = tensor_digest(tensors)
    announced = "" if case == "unannounced" else digest
    fleet = a_fleet()
    joined(fleet, a_hello("n1", (an_arm(evidence_digest=announced),)))
    sent = tensors if case == "unannounced" else {"outputs": np.zeros((3, 10), dtype=np.float32)}
    with pytest.raises(RequestError) as caught:
        fleet.take_evidence(digest, sent)
    assert caught.value.reason == "INPUT_INVALID"
    assert fleet.evidence.get(digest) is None


# ---- what a device says of itself


def test_a_device_that_slows_itself_down_is_learned_anew() -> None:
    """Of the median of a long history a device that throttles would be seen after hundreds of answers only."""
    fleet = a_fleet()
    session = joined(fleet, a_hello("n1", (an_arm(energy_j=0.01),)))
    for _ in range(600):
        fleet.board.answered(0, service_ms=5.0, energy_j=0.01)
    changes: list[Change] = []
    fleet.subscribe(changes.append)
    fleet.signalled(session, 92.0, ("hardware-thermal",))
    assert changes == [Change.CONDITIONS]
    assert session.temperature_c == 92.0
    for _ in range(5):
        fleet.board.answered(0, service_ms=20.0, energy_j=0.03)
    assert fleet.board.service_ms_n[0] == 20.0
    assert fleet.board.energy_j_n[0] == pytest.approx(0.03)
    assert fleet.board.energy_bound_j_n[0] >= 0.03


def test_the_same_signals_again_change_nothing() -> None:
    fleet = a_fleet()
    session = joined(fleet, a_hello("n1"))
    changes: list[Change] = []
    fleet.subscribe(changes.append)
    fleet.signalled(session, 60.0, ())
    fleet.signalled(session, 90.0, ("power-cap", "software-thermal"))
    fleet.signalled(session, 91.0, ("software-thermal", "power-cap"))
    assert changes == [Change.CONDITIONS]
