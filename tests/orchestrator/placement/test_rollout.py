"""From the agents that are there to those that are wanted: which steps, in which order, and when to stop."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.errors import ExitCode
from orchestrator.placement.errors import PlacementError
from orchestrator.placement.rollout import ClientGateway, Rollout, state_rows
from orchestrator.placement.steps import Found, Kind, Wanted, steps_to, strays

WANTED = (Wanted("a", "2"), Wanted("b", "2"), Wanted("c", "2"))


def found(name: str, revision: str = "2", state: str = "running", **fields: Any) -> Found:
    return Found(name, "ALIVE", "n0", 0, revision=revision, state=state, **fields)


def kinds(*there: Found, restart: bool = False) -> dict[str, Kind]:
    return {step.name: step.kind for step in steps_to(WANTED, there, restart=restart)}


def test_what_is_missing_is_placed_what_differs_is_rolled_what_is_right_is_kept() -> None:
    assert kinds(found("a"), found("b", "1")) == {"c": Kind.PLACE, "a": Kind.KEEP, "b": Kind.ROLL}


def test_what_is_missing_comes_before_anything_is_taken_away() -> None:
    first, *_ = steps_to(WANTED, [found("a", "1"), found("b", "1")])
    assert (first.name, first.kind) == ("c", Kind.PLACE)


def test_drained_agents_come_back_silent_ones_are_waited_for_and_restart_means_all() -> None:
    silent = Found("b", "RESTARTING", "", 3)
    assert kinds(found("a", state="drained"), silent, found("c")) == {"a": Kind.ROLL, "b": Kind.KEEP, "c": Kind.KEEP}
    assert set(kinds(found("a"), silent, found("c"), restart=True).values()) == {Kind.ROLL}


def test_agents_that_nobody_wants_are_named() -> None:
    assert strays(WANTED, [found("a"), found("z")]) == ["z"]


def test_restarts_are_those_of_ray_and_those_of_the_keeper() -> None:
    report = {"name": "a", "revision": "2", "version": "1", "state": "running", "host": "h", "starts": 3}
    report |= {"keeper_pid": 1, "agent_pid": 2, "said": "", "last_exit": 1}
    told = {"name": "a", "actor": "ALIVE", "ray_node": "n0", "restarts": 2}
    assert Found.of({**told, "report": report}).restarts == 4
    assert Found.of({**told, "report": None}).state == ""
    rows = state_rows([Found.of({**told, "report": report})], {})
    assert (rows[0]["gateway"], rows[0]["agent_pid"]) == ("not seen", 2)


@dataclass
class Cluster:
    """Orders that are carried out at once, and a gateway that sees what runs."""

    there: dict[str, dict[str, Any]] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    broken: frozenset[str] = frozenset()
    secure: bool = False
    now_s: float = 0.0

    @property
    def target(self) -> str | None:
        return None if self.secure else "g:1"

    def ask(self, verb: str, *, within_s: float = 0.0, **fields: Any) -> Any:
        if verb == "wanted":
            return [{"name": one.name, "revision": one.revision} for one in WANTED]
        if verb == "agents":
            return [self._told(name, **own) for name, own in self.there.items()]
        self.done.append(f"{verb} {fields['name']}")
        return getattr(self, f"_{verb}")(**fields)

    def _place(self, *, name: str, gateway: str | None) -> None:
        assert name not in self.there
        state = "needs token" if self.secure else "backing off" if name in self.broken else "running"
        self.there[name] = {"revision": "2", "state": state}

    def _admit(self, *, name: str, url: str, token: str) -> None:
        assert (url, token) == ("https://gw:8420", f"for {name}")
        self.there[name]["state"] = "running"

    def _drain(self, *, name: str, for_s: float) -> bool:
        if name not in self.there:
            raise PlacementError("no such agent", "-", exit_code=ExitCode.NOT_FOUND)
        return True

    def _remove(self, *, name: str) -> None:
        self.there.pop(name)

    def _told(self, name: str, *, revision: str, state: str) -> dict[str, Any]:
        report = {"revision": revision, "state": state, "version": "1", "host": "h", "starts": 1}
        report |= {"keeper_pid": 1, "agent_pid": 2, "said": "bad luck"}
        return {"name": name, "actor": "ALIVE", "ray_node": "n0", "restarts": 0, "report": report}

    def states(self) -> dict[str, str]:
        # One at a time: agents beside the one that is replaced must be there.
        return {name: "healthy" for name, own in self.there.items() if own["state"] == "running"}

    def ticket(self, name: str) -> tuple[str, str]:
        return "https://gw:8420", f"for {name}"

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def rollout(cluster: Cluster, notes: list[str] | None = None) -> Rollout:
    note = (notes if notes is not None else []).append
    return Rollout(cluster, cluster, note, ready_s=5.0, clock_s=lambda: cluster.now_s, sleep=cluster.sleep)


def test_an_empty_cluster_gets_all_agents_and_a_second_time_nothing_happens() -> None:
    cluster = Cluster()
    rollout(cluster).up()
    assert cluster.done == ["place a", "place b", "place c"]
    rollout(cluster).up()
    assert len(cluster.done) == 3


def test_changed_agents_are_replaced_one_after_the_other() -> None:
    cluster = Cluster({name: {"revision": "1", "state": "running"} for name in "abc"})
    rollout(cluster).up()
    assert cluster.done == [f"{verb} {name}" for name in "abc" for verb in ("drain", "remove", "place")]


def test_one_that_does_not_come_back_stops_the_rest() -> None:
    cluster = Cluster({name: {"revision": "1", "state": "running"} for name in "abc"}, broken=frozenset("a"))
    with pytest.raises(PlacementError, match=r"a: not at the gateway after 5 s \(it is backing off, bad luck\)"):
        rollout(cluster).up()
    assert [own["revision"] for name, own in cluster.there.items() if name != "a"] == ["1", "1"]


def test_with_tls_every_agent_gets_a_token_of_its_own() -> None:
    cluster, notes = Cluster(secure=True), list[str]()
    rollout(cluster, notes).up()
    assert cluster.done == ["place a", "place b", "place c", "admit a", "admit b", "admit c"]
    assert not any("for a" in note for note in notes)


def test_down_drains_and_removes_only_what_the_spec_names() -> None:
    cluster = Cluster({name: {"revision": "2", "state": "running"} for name in ("a", "z")})
    rollout(cluster).down()
    assert (cluster.done, list(cluster.there)) == (["drain a", "remove a"], ["z"])


def test_a_lost_cluster_stops_a_rollout_before_anything_is_removed() -> None:
    class Lost(Cluster):
        def _drain(self, *, name: str, for_s: float) -> bool:
            raise PlacementError("lost", "-", exit_code=ExitCode.UNREACHABLE)

    cluster = Lost({"a": {"revision": "1", "state": "running"}})
    with pytest.raises(PlacementError, match="lost"):
        rollout(cluster).up()
    assert "remove a" not in cluster.done


def test_a_node_that_was_revoked_gets_no_token_from_here() -> None:
    made = SimpleNamespace(url="u", text="t")
    nodes = [SimpleNamespace(node="a", state="revoked"), SimpleNamespace(node="b", state="approved")]
    client = SimpleNamespace(identities=lambda: nodes, create_token=lambda name: made)
    gateway = ClientGateway(client, "g:1", secure=True)
    assert gateway.ticket("b") == ("u", "t")
    with pytest.raises(PlacementError, match="revoked") as caught:
        gateway.ticket("a")
    assert caught.value.exit_code is ExitCode.AUTH
