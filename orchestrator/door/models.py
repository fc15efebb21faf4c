"""`/v1/models`: experts that may be asked by name, and the names under which the gateway chooses."""

from __future__ import annotations

from typing import Any

from orchestrator.door.allowance import AUTO, from_model
from orchestrator.door.exchange import Exchange
from orchestrator.errors import RequestError
from orchestrator.gateway.service import Service
from orchestrator.residency import Residency
from orchestrator.types import Provenance
from orchestrator.wire import PROFILES


class Models:
    """Lists models.

    Args:
        service: Knows the fleet.
        started_unix_s: What `created` says of every model.
    """

    def __init__(self, service: Service, *, started_unix_s: int) -> None:
        self._service = service
        self._started_unix_s = started_unix_s

    async def all(self, exchange: Exchange) -> None:
        """`GET /v1/models`."""
        await exchange.reply_json(200, {"object": "list", "data": [self._entry(name) for name in self._names()]})

    async def one(self, exchange: Exchange) -> None:
        """`GET /v1/models/{model}`."""
        name = exchange.parameter("model")
        expert, _ = from_model(name)
        if (expert or AUTO) not in self._names():
            raise RequestError("EXPERT_NOT_FOUND", "No node has a model of this name.", field="model")
        await exchange.reply_json(200, self._entry(name))

    def _names(self) -> list[str]:
        fleet = self._service.fleet
        texts = [name for name, task in fleet.tasks.items() if task.text]
        experts = {state.arm.expert for task in texts for state in fleet.board.arms(task)}
        chosen = [AUTO, *(f"{AUTO}:{profile}" for profile in PROFILES)] if experts else []
        return [*chosen, *sorted(experts)]

    def _entry(self, name: str) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "id": name,
            "object": "model",
            "created": self._started_unix_s,
            "owned_by": "edgewise",
        }
        arms = [self._arm(n) for n in self._indices(name)]
        return entry | {"arms": arms} if arms else entry

    def _indices(self, name: str) -> list[int]:
        board = self._service.fleet.board
        return [state.index for state in board.states if state.arm.expert == name and board.available_n[state.index]]

    def _arm(self, n: int) -> dict[str, Any]:
        board = self._service.fleet.board
        arm = board.states[n].arm
        known = arm.energy.provenance is not Provenance.UNMEASURED
        return {
            "node": arm.node,
            "task": arm.task,
            "engine": arm.engine,
            "quality": arm.quality_fraction,
            "typical_ms": float(board.service_ms_n[n]),
            "typical_joules": float(board.energy_j_n[n]) if known else None,
            "energy_source": arm.energy.provenance.value,
            "context_tokens": (arm.text.context_tokens or None) if arm.text else None,
            "capabilities": sorted(arm.text.capabilities) if arm.text else [],
            "tags": sorted(arm.tags),
            "memory": _memory(arm.residency),
        }


def _memory(residency: Residency | None) -> dict[str, Any]:
    """Whether an expert is in its node's memory, and what it takes to get it there; a node without a budget for memory
    keeps everything."""
    if residency is None:
        return {"state": "loaded"}
    return {
        "state": residency.state,
        "pinned": residency.pinned,
        "load_ms": residency.load_ms or None,
        "load_joules": residency.load_j,
        "progress": residency.progress_fraction,
    }
