"""The gateway as its operator sees it: makes tokens, and is asked whether a node has come and answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deploy.errors import DeployError
from deploy.push.carry_out import Verified
from orchestrator.client import Budget, Client
from orchestrator.client.types import Answer, FleetStatus, NodeStatus
from orchestrator.errors import EdgewiseError
from orchestrator.types import OnInfeasible

COME_S, POLL_S = 60.0, 0.25
QUERY_S = 30.0
# It is to answer, whatever that costs here.
ANY = Budget(max_latency_ms=QUERY_S * 1e3, on_infeasible=OnInfeasible.CHEAPEST)


@dataclass
class AdminGateway:
    """Asks over gRPC with the operator's key."""

    client: Client
    come_s: float = COME_S
    sleep: Callable[[float], None] = time.sleep

    def token(self, name: str) -> str:
        """A token good for this name, once.

        Raises:
            DeployError: The gateway does not give one.
        """
        try:
            return self.client.create_token(name, ttl_s=None).text
        except EdgewiseError as error:
            cure = "set EDGEWISE_API_KEY_FILE to an operator's key, name the gateway with --admin, or pass --token"
            raise DeployError("no token", error.message, cure, exit_code=error.surface.exit_code) from error

    def verify(self, name: str, version: str) -> Verified:
        """See the node healthy with this version and have it answer one query.

        Raises:
            DeployError: It does not come, or does not answer.
        """
        try:
            node = self._await(name, version)
            answer = self._ask(name)
        except EdgewiseError as error:
            cure = "set EDGEWISE_API_KEY_FILE, name the gateway with --admin, or pass --no-verify"
            raise DeployError("not verified", error.message, cure, exit_code=error.surface.exit_code) from error
        arms = [attempt.arm for attempt in answer.routing.attempts if attempt.arm.endswith(f"@{name}")]
        if not arms:
            raise DeployError("not verified", f"the query was not answered by {name}", "see `edgewise status`")
        return Verified(name, node.state, node.software_version, arms[0], answer.request_id)

    def _await(self, name: str, version: str) -> NodeStatus:
        until_s = time.monotonic() + self.come_s
        while True:
            node = _node(self.client.status(), name)
            if node is not None and node.state == "healthy" and node.arms and node.software_version == version:
                return node
            if time.monotonic() > until_s:
                raise DeployError("not verified", _why(node, name, version), "look at the agent's log on that machine")
            self.sleep(POLL_S)

    def _ask(self, name: str) -> Answer:
        node, specs = _node(self.client.status(), name), self.client.tasks()
        served = sorted({arm.task for arm in node.arms} & set(specs)) if node else []
        if not served:
            raise DeployError("not verified", f"{name} serves no task of tensors", "ask it a text: edgewise ask")
        spec = specs[served[0]]
        zeros = {spec.name: np.zeros(spec.one, dtype=spec.dtype)}
        return self.client.infer(zeros, task=served[0], budget=ANY, nodes=(name,), timeout_s=QUERY_S)


def _node(fleet: FleetStatus, name: str) -> NodeStatus | None:
    return next((node for node in fleet.nodes if node.node == name), None)


def _why(node: NodeStatus | None, name: str, version: str) -> str:
    if node is None:
        return f"{name} does not appear at the gateway"
    if node.software_version != version:
        return f"{name} runs version {node.software_version}, not {version}"
    return f"{name} is {node.state} with {len(node.arms)} arms"
