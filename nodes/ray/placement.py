"""Ray behind `Placement`: one detached, named actor per agent, which Ray starts again without limit."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from nodes.ray import guard
from nodes.ray.contract import Placed
from nodes.ray.errors import AgentNotPlaced, ClusterLost, RayMissing, SpecRefused
from nodes.ray.guard import LOOPBACK_SWITCH, is_loopback
from nodes.ray.keeper import Keeper, Report, State
from nodes.ray.order import Order
from nodes.ray.spec import AgentSpec, ClusterSpec

OLDEST = (2, 54)
CALL_S = 10.0
GONE_S = 10.0
POLL_S = 0.1


def import_ray() -> Any:
    """The module `ray`.

    Raises:
        RayMissing: The extra is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    require_ray()
    import ray

    return ray


def require_ray() -> None:
    """Refuse to go on without the extra; does not import it.

    Raises:
        RayMissing: The extra is not installed, or older than the oldest Ray that can be trusted.
    """
    cure = "`pip install 'edgewise[ray]'`, in an environment without the extra zeus"
    if find_spec("ray") is None:
        raise RayMissing("Ray is not installed here", cure)
    found = version("ray")
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        raise RayMissing(f"Ray {found} is older than {OLDEST[0]}.{OLDEST[1]}, whose authentication has holes", cure)


def connect(cluster: ClusterSpec) -> RayPlacement:
    """Connect to a cluster that is known to want a token.

    Raises:
        ClusterRefused: It does not want one, or ours is not fit.
        ClusterLost: Nobody answers there, or it does not take our token.
        RayMissing: The extra is not installed.
    """
    guard.with_token(cluster.token_path, os.environ)
    guard.check_cluster(cluster.target)
    if is_loopback(cluster.target):
        # Read when Ray is imported; else this process would look for the head at another of the machine's addresses.
        os.environ[LOOPBACK_SWITCH] = "0"
    ray = import_ray()
    try:
        ray.init(address=cluster.target, namespace=cluster.namespace, log_to_driver=False, logging_level="ERROR")
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
        why = f"the cluster at {cluster.target} does not take us in ({' '.join(str(error).split())[:200]})"
        raise ClusterLost(
            why, f"is {cluster.token_path} its token, and does a Ray node run on this machine?"
        ) from error
    return RayPlacement(ray, cluster.namespace)


class RayPlacement:
    """See `Placement`.

    Args:
        ray: The module, connected.
        namespace: Of the actors' names.
    """

    def __init__(self, ray: Any, namespace: str) -> None:
        self._ray, self._namespace = ray, namespace

    def agents(self, *, timeout_s: float) -> list[Placed]:
        """See `Placement`."""
        actors = {name: actor for name in self._names() if (actor := self._find(name)) is not None}
        asked = {name: actor.report.remote() for name, actor in actors.items()}
        ready, _ = self._ray.wait([*asked.values()], num_returns=len(asked), timeout=timeout_s) if asked else ([], [])
        told = {name: self._report(reply) for name, reply in asked.items() if reply in ready}
        return [self._placed(name, actor, told.get(name)) for name, actor in sorted(actors.items())]

    def place(self, agent: AgentSpec, order: Order) -> None:
        """See `Placement`."""
        actor = self._ray.remote(Keeper).options(
            name=agent.name,
            namespace=self._namespace,
            lifetime="detached",
            max_restarts=-1,
            # Ray must not call a second time what may have been done.
            max_task_retries=0,
            max_concurrency=4,
            num_cpus=agent.num_cpus,
            num_gpus=agent.num_gpus,
            resources=dict(agent.resources),
            label_selector=dict(agent.labels),
        )
        try:
            actor.remote(asdict(order))
        except ValueError as error:
            raise SpecRefused(f"{agent.name}: {error}", "drain and remove it first, see `edgewise ray down`") from error

    def admit(self, name: str, *, url: str, token: str) -> None:
        """See `Placement`."""
        self._call(name, "admit", url, token, timeout_s=CALL_S)

    def drain(self, name: str, *, within_s: float) -> bool:
        """See `Placement`."""
        return bool(self._call(name, "drain", within_s, timeout_s=within_s + CALL_S))

    def remove(self, name: str) -> None:
        """See `Placement`."""
        actor = self._find(name)
        if actor is None:
            return
        self._ray.kill(actor, no_restart=True)
        # The name is free only when the cluster has noticed.
        until_s = time.monotonic() + GONE_S
        while name in self._names() and time.monotonic() < until_s:
            time.sleep(POLL_S)

    def _call(self, name: str, method: str, *arguments: Any, timeout_s: float) -> Any:
        actor = self._find(name)
        if actor is None:
            raise AgentNotPlaced(f"there is no agent {name} on the cluster", "`edgewise ray status` lists them")
        try:
            return self._ray.get(getattr(actor, method).remote(*arguments), timeout=timeout_s)
        except self._ray.exceptions.RayError as error:
            why = f"the keeper of {name} does not answer ({type(error).__name__})"
            raise AgentNotPlaced(why, "try again; Ray restarts it where it can") from error

    def _names(self) -> list[str]:
        found = self._ray.util.list_named_actors(all_namespaces=True)
        return sorted(entry["name"] for entry in found if entry["namespace"] == self._namespace)

    def _find(self, name: str) -> Any:
        """The actor of a name; None where there is none."""
        with contextlib.suppress(ValueError):
            return self._ray.get_actor(name, namespace=self._namespace)
        return None

    def _report(self, reply: Any) -> Report | None:
        try:
            told = self._ray.get(reply, timeout=CALL_S)
        except self._ray.exceptions.RayError:
            return None
        return Report(**{**told, "state": State(told["state"])})

    def _placed(self, name: str, actor: Any, report: Report | None) -> Placed:
        # The public way to ask this needs the dashboard, which is off.
        state = self._ray._private.state.actors(actor._actor_id.hex()) or {}
        node = state.get("Address", {}).get("NodeID", "")
        return Placed(name, state.get("State", "DEAD"), node, int(state.get("NumRestarts", 0)), report)
