"""A running gateway takes a changed configuration: all of it, or nothing and the reason why.

`LIVE` lists what can change at run time, each part beside what puts it in force. Nothing there can fail, so that a
configuration that was read and checked is never in force by halves. What is not listed needs a restart; where the
file changes such a key, the others wait for the restart as well.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import structlog

from orchestrator import log
from orchestrator.config import GatewayConfig
from orchestrator.config_errors import ConfigError
from orchestrator.config_layers import leaves
from orchestrator.errors import EdgewiseError, RequestError
from orchestrator.gateway.opening import DAY_S
from orchestrator.gateway.service import Service
from orchestrator.gateway.settings import configured_budgets, max_attempts, plan_limits
from orchestrator.outcomes import MIB

events = structlog.get_logger("config")

# So many keys are named where a restart is needed.
NAMED_KEYS = 4


@dataclass(frozen=True)
class Changed:
    """One key that has another value now; values as JSON, "" where there is none."""

    key: str
    before: str
    after: str


def _budgets(service: Service, config: GatewayConfig) -> None:
    service.budgets.configure(*configured_budgets(config))


def _admission(service: Service, config: GatewayConfig) -> None:
    door = config.admission
    service.admission.resize(max_running=door.max_running, max_queued=door.max_queued)


def _running(service: Service, config: GatewayConfig) -> None:
    retries = config.retries
    service.attempts.tune(max_patience_s=retries.suspect_after_s, retries=retries.enabled)
    service.tune(max_attempts=max_attempts(config), max_experts=config.fusion.max_experts)


def _plan(service: Service, config: GatewayConfig) -> None:
    service.planner.limit(plan_limits(config))


def _feedback(service: Service, config: GatewayConfig) -> None:
    kept = config.feedback
    service.outcomes.configure(features=kept.features, limit_bytes=kept.max_mib * MIB)


def _explain(service: Service, config: GatewayConfig) -> None:
    service.journal.resize(config.explain.keep)


def _ledger(service: Service, config: GatewayConfig) -> None:
    ledger, told = service.till.ledger, config.ledger
    ledger.terms = replace(ledger.terms, keep_s=told.keep_days * DAY_S, charge_orphans=told.orphans == "charge")


def _log(_: Service, config: GatewayConfig) -> None:
    log.configure(form=config.log.format, level=config.log.level)


def _nothing(_service: Service, _config: GatewayConfig) -> None:
    """Whoever uses it asks for the configuration in force."""


LIVE: Mapping[str, Callable[[Service, GatewayConfig], None]] = MappingProxyType(
    {
        "budgets": _budgets,
        "admission.max_running": _admission,
        "admission.max_queued": _admission,
        "retries": _running,
        "fusion": _running,
        "plan": _plan,
        "feedback": _feedback,
        "explain": _explain,
        "ledger.keep_days": _ledger,
        "ledger.orphans": _ledger,
        "ledger.snapshot_h": _nothing,
        "ledger.snapshots": _nothing,
        "log": _log,
    }
)


def differences(before: GatewayConfig, after: GatewayConfig) -> list[Changed]:
    """The keys that differ, by name."""
    old, new = _flat(before), _flat(after)
    return [
        Changed(key, old.get(key, ""), new.get(key, ""))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _flat(config: GatewayConfig) -> dict[str, str]:
    return {".".join(path): json.dumps(value) for path, value in leaves(config.model_dump(mode="json"))}


def live_part(key: str) -> str | None:
    """The entry of `LIVE` that a key belongs to; None where it needs a restart."""
    return next((part for part in LIVE if key == part or key.startswith(f"{part}.")), None)


class Reloader:
    """Holds the configuration in force and replaces it.

    Args:
        config: In force.
        service: Its parts follow.
        read: Reads all layers again; may block.
    """

    def __init__(self, config: GatewayConfig, service: Service, read: Callable[[], GatewayConfig]) -> None:
        self.config = config
        self._service = service
        self._read = read
        self._turn = asyncio.Lock()
        self._asked: set[asyncio.Task[None]] = set()

    async def reload(self) -> list[Changed]:
        """Read the configuration again and put it in force; returns what has changed.

        Raises:
            RequestError: CONFIG_INVALID or RESTART_NEEDED; the configuration in force stays, to the last key.
        """
        async with self._turn:
            try:
                changes = self._put_in_force(await self._fresh())
            except RequestError as error:
                self._service.metrics.reloaded(error.reason, good=False)
                events.error("config.kept", reason=error.reason, why=error.metadata.get("why", error.message))
                raise
            self._service.metrics.reloaded("applied" if changes else "unchanged", good=True)
            events.info("config.reloaded", changed=[change.key for change in changes])
            return changes

    def signalled(self) -> None:
        """Reload beside; what comes of it is in the log and the metrics."""
        task = asyncio.ensure_future(self._reload_quietly())
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def _reload_quietly(self) -> None:
        try:
            await self.reload()
        except EdgewiseError:
            # Said already.
            return

    async def _fresh(self) -> GatewayConfig:
        try:
            return await asyncio.to_thread(self._read)
        except ConfigError as error:
            raise RequestError("CONFIG_INVALID", str(error), metadata={"why": str(error)}) from error

    def _put_in_force(self, fresh: GatewayConfig) -> list[Changed]:
        changes = differences(self.config, fresh)
        parts = {change.key: live_part(change.key) for change in changes}
        fixed = [key for key, part in parts.items() if part is None]
        if fixed:
            raise _restart_needed(fixed)
        for apply in dict.fromkeys(LIVE[part] for part in parts.values() if part is not None):
            apply(self._service, fresh)
        self.config = fresh
        return changes


def _restart_needed(keys: list[str]) -> RequestError:
    more = f" and {len(keys) - NAMED_KEYS} more" if len(keys) > NAMED_KEYS else ""
    told = f"{', '.join(keys[:NAMED_KEYS])}{more}"
    return RequestError(
        "RESTART_NEEDED",
        f"Restart needed: {told} cannot change while the gateway runs; nothing was changed.",
        metadata={"keys": ",".join(keys)},
    )
