"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from orchestrator.client import personal, wire
from orchestrator.client.admin import wire as admin
from orchestrator.client.session import (
    CHANNEL_OPTIONS,
    DEFAULT_PARAMETERS,
    DEFAULT_TARGET,
    DEFAULT_TIMEOUT_S,
    Inputs,
    Session,
    collect,
)
from orchestrator.client.types import (
    Answer,
    Budget,
    Explanation,
    FleetStatus,
    FusionChoice,
    Generated,
    GenerationParameters,
    LongRun,
    Message,
    TaskBudget,
    TensorSpec,
    TextDelta,
)
from orchestrator.personal.types import PersonalStatus

Reply = TypeVar("Reply")


class AsyncClient(Session):
    """A gateway's client for asyncio; use it as an async context manager. The calls are those of `Client`."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        *,
        key: str | None = None,
        ca_file: Path | str | None = None,
    ) -> None:
        super().__init__(target, timeout_s, key, ca_file)
        if self.authority_pem is None:
            self._channel = grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(self.authority_pem)
            self._channel = grpc.aio.secure_channel(target, credentials, options=CHANNEL_OPTIONS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        await self._channel.close(grace=None)

    async def infer(
        self,
        inputs: Inputs,
        *,
        task: str = "digits",
        budget: Budget | None = None,
        expert: str | None = None,
        fusion: FusionChoice | None = None,
        max_experts: int | None = None,
        request_id: str | None = None,
        user: str | None = None,
        nodes: Sequence[str] = (),
        max_mass: float | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Answer one tensor query, as `Client.infer`."""
        ask = wire.Ask(task, budget, expert, fusion, max_experts, request_id, user, nodes, max_mass)
        named = inputs if isinstance(inputs, Mapping) else wire.fit(inputs, await self._spec(task))
        return await self._run(wire.infer(named, ask), timeout_s)

    async def generate(
        self,
        messages: Sequence[Message],
        *,
        task: str = "chat",
        parameters: GenerationParameters = DEFAULT_PARAMETERS,
        budget: Budget | None = None,
        expert: str | None = None,
        fusion: FusionChoice | None = None,
        continue_on_loss: bool = False,
        samples: int = 1,
        request_id: str | None = None,
        user: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[TextDelta | Generated, None]:
        """Generate text, as `Client.generate`."""
        ask = wire.Ask(
            *(task, budget, expert, fusion, None, request_id, user), continue_on_loss=continue_on_loss, samples=samples
        )
        call = wire.generate(messages, parameters, ask)
        open_stream: Any = self._channel.unary_stream(
            call.method, type(call.request).SerializeToString, call.response.FromString
        )
        stream = open_stream(call.request, timeout=self.deadline_s(timeout_s), metadata=self.metadata)
        text: list[str] = []
        try:
            async for event in stream:
                yield collect(call.decode(event), text)
        except grpc.RpcError as error:
            raise await asyncio.to_thread(self.failure, error, timeout_s) from None
        finally:
            stream.cancel()

    async def explain(self, request_id: str) -> Explanation:
        """Why a finished request was answered as it was."""
        return await self._run(wire.explain(request_id))

    async def feedback(self, request_id: str, score: float) -> bool:
        """How good an answer was, 0 (wrong) to 1 (right); true where the guard of the gate took it."""
        return await self._run(wire.feedback(request_id, score))

    async def correct(self, request_id: str, label: str) -> PersonalStatus:
        """Tell the right label of a request that carried a user; how that user's expert stands then."""
        return await self._run(personal.correct(request_id, label))

    async def personal(self, user: str, verb: str, *, task: str = "digits") -> PersonalStatus:
        """Have a user's home node train, say the status of, roll back, export or forget the user's expert."""
        return await self._run(personal.order(user, task, verb))

    async def status(self) -> FleetStatus:
        """Nodes, tasks and totals."""
        fleet = await self._run(admin.status())
        self.remember(fleet)
        return fleet

    async def tasks(self) -> Mapping[str, TensorSpec]:
        """The inputs of all tensor tasks, by task."""
        self.specs.update(await self._run(wire.tasks()))
        return dict(self.specs)

    async def text_tasks(self) -> tuple[str, ...]:
        """The tasks that take texts."""
        return await self._run(wire.text_tasks())

    async def budgets(self) -> tuple[TaskBudget, ...]:
        """The budgets in force, the default first."""
        return await self._run(admin.budgets())

    async def set_budget(self, budget: Budget | None, *, task: str = "", long_run: LongRun | None = None) -> TaskBudget:
        """Change the budget of a task ("" for the default); nothing at all goes back to the configuration."""
        return await self._run(admin.set_budget(task, budget, long_run))

    async def drain_node(self, node: str) -> str:
        """Give a node no new work; returns its state."""
        return await self._run(admin.drain_node(node))

    async def manage_model(self, expert: str, verb: str, *, node: str = "", ttl_s: float = 0.0) -> tuple[str, ...]:
        """Have nodes load, unload, pin or unpin an expert; the arms that were told, whose residency says the rest."""
        return await self._run(admin.manage_model(expert, verb, node=node, ttl_s=ttl_s))

    async def sleep_node(self, node: str) -> str:
        """Have a node finish what runs and sleep, if its operator allows that; returns its state."""
        return await self._run(admin.sleep_node(node))

    async def wake_node(self, node: str) -> str:
        """Wake a node that sleeps; returns its state."""
        return await self._run(admin.wake_node(node))

    async def _spec(self, task: str) -> TensorSpec | None:
        if task not in self.specs:
            self.specs.update(await self._run(wire.tasks()))
        return self.specs.get(task)

    async def _run(self, call: wire.Call[Reply], timeout_s: float | None = None) -> Reply:
        method: Any = self._channel.unary_unary(
            call.method, type(call.request).SerializeToString, call.response.FromString
        )
        try:
            return call.decode(await method(call.request, timeout=self.deadline_s(timeout_s), metadata=self.metadata))
        except grpc.RpcError as error:
            raise await asyncio.to_thread(self.failure, error, timeout_s) from None
