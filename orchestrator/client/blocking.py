"""The client that blocks."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from orchestrator.artifacts.folder import ModelFolder
from orchestrator.client import accounts, identity, models, personal, wire
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
    ChangedKey,
    EnergyShare,
    Explanation,
    FleetStatus,
    FusionChoice,
    Generated,
    GenerationParameters,
    KeyRecord,
    LongRun,
    Message,
    NewKey,
    Quota,
    QuotaStatus,
    SettlementRecord,
    TaskBudget,
    TensorSpec,
    TextDelta,
)
from orchestrator.personal.types import PersonalStatus

Reply = TypeVar("Reply")


class Client(Session):
    """A gateway's client that blocks; use it as a context manager. Threads may share one.

    Args:
        target: HOST:PORT.
        timeout_s: Deadline of calls that bring none.
        key: What it shows where keys are required.
        ca_file: Certificate of the authority of a gateway with TLS; None speaks plaintext.

    Raises:
        TlsFailed: The file cannot be read.
    """

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
            self._channel = grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(self.authority_pem)
            self._channel = grpc.secure_channel(target, credentials, options=CHANNEL_OPTIONS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self._channel.close()

    def infer(
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
        """Answer one tensor query.

        Args:
            inputs: The task's input, or tensors by name. A bare array gets the name, the batch dimension and
                the float width of the task's input; for that the gateway is asked once per task.
            task: Name of the task.
            budget: Joules and milliseconds allowed; what is None takes the gateway's value for the task.
            expert: One expert by name; None lets the gateway choose.
            fusion: How answers are combined; None leaves it to the gateway.
            max_experts: Most experts that may run.
            request_id: Chosen by the caller; None lets the gateway choose.
            timeout_s: Deadline of this call in seconds; the client's own when None.
            user: Whose own expert may learn from this and answer; None for nobody's.
            nodes: Where it may run; empty for anywhere.
            max_mass: Only operating points of pruned experts with at most this mass; None for any expert.

        Raises:
            EdgewiseError: See `orchestrator.errors`, for example `BudgetInfeasible`.
        """
        ask = wire.Ask(task, budget, expert, fusion, max_experts, request_id, user, nodes, max_mass)
        named = inputs if isinstance(inputs, Mapping) else wire.fit(inputs, self._spec(task))
        return self._run(wire.infer(named, ask), timeout_s)

    def generate(
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
    ) -> Generator[TextDelta | Generated, None, None]:
        """Generate text: yields pieces as they come and ends with a `Generated` that holds all of it.

        Closing the iterator early cancels the work. `continue_on_loss` is for `FusionChoice.TOKEN`: where one of the
        experts that write the text is lost, the others go on. `samples` above 1 is for `FusionChoice.VOTE`: the
        question is asked so often, and what most samples say comes in one piece.

        Raises:
            EdgewiseError: Before or between pieces; see `orchestrator.errors`.
        """
        ask = wire.Ask(
            *(task, budget, expert, fusion, None, request_id, user), continue_on_loss=continue_on_loss, samples=samples
        )
        call = wire.generate(messages, parameters, ask)
        open_stream = self._channel.unary_stream(
            call.method, type(call.request).SerializeToString, call.response.FromString
        )
        stream: Any = open_stream(call.request, timeout=self.deadline_s(timeout_s), metadata=self.metadata)
        text: list[str] = []
        try:
            for event in stream:
                yield collect(call.decode(event), text)
        except grpc.RpcError as error:
            raise self.failure(error, timeout_s) from None
        finally:
            stream.cancel()

    def explain(self, request_id: str) -> Explanation:
        """Why a finished request was answered as it was; raises REQUEST_NOT_FOUND when it is forgotten."""
        return self._run(wire.explain(request_id))

    def feedback(self, request_id: str, score: float) -> bool:
        """How good an answer was, 0 (wrong) to 1 (right); true where the guard of the gate took it."""
        return self._run(wire.feedback(request_id, score))

    def correct(self, request_id: str, label: str) -> PersonalStatus:
        """Tell the right label of a request that carried a user; how that user's expert stands then."""
        return self._run(personal.correct(request_id, label))

    def personal(self, user: str, verb: str, *, task: str = "digits") -> PersonalStatus:
        """Have a user's home node train, say the status of, roll back, export or forget the user's expert."""
        return self._run(personal.order(user, task, verb))

    def status(self) -> FleetStatus:
        """Nodes, tasks and totals."""
        fleet = self._run(admin.status())
        self.remember(fleet)
        return fleet

    def tasks(self) -> Mapping[str, TensorSpec]:
        """The inputs of all tensor tasks, by task."""
        self.specs.update(self._run(wire.tasks()))
        return dict(self.specs)

    def text_tasks(self) -> tuple[str, ...]:
        """The tasks that take texts."""
        return self._run(wire.text_tasks())

    def budgets(self) -> tuple[TaskBudget, ...]:
        """The budgets in force, the default first."""
        return self._run(admin.budgets())

    def set_budget(self, budget: Budget | None, *, task: str = "", long_run: LongRun | None = None) -> TaskBudget:
        """Change the budget of a task ("" for the default); nothing at all goes back to the configuration."""
        return self._run(admin.set_budget(task, budget, long_run))

    def drain_node(self, node: str) -> str:
        """Give a node no new work; returns its state."""
        return self._run(admin.drain_node(node))

    def manage_model(self, expert: str, verb: str, *, node: str = "", ttl_s: float = 0.0) -> tuple[str, ...]:
        """Have nodes load, unload, pin or unpin an expert; the arms that were told, whose residency says the rest."""
        return self._run(admin.manage_model(expert, verb, node=node, ttl_s=ttl_s))

    def reload_config(self) -> tuple[ChangedKey, ...]:
        """Have the gateway read its configuration again; what has changed."""
        return self._run(admin.reload_config())

    def sleep_node(self, node: str) -> str:
        """Have a node finish what runs and sleep, if its operator allows that; returns its state."""
        return self._run(admin.sleep_node(node))

    def wake_node(self, node: str) -> str:
        """Wake a node that sleeps; returns its state."""
        return self._run(admin.wake_node(node))

    def _spec(self, task: str) -> TensorSpec | None:
        if task not in self.specs:
            self.specs.update(self._run(wire.tasks()))
        return self.specs.get(task)

    # ---- accounts

    def quotas(self) -> tuple[QuotaStatus, ...]:
        """What every scope may spend over time, and what is left of it."""
        return self._run(accounts.quotas())

    def set_quota(self, scope: str, quota: Quota | None) -> None:
        """Set what a scope (fleet, tenant:NAME, key:ID, task:NAME) may spend; None takes the limits away."""
        self._run(accounts.set_quota(scope, quota))

    def create_key(
        self, tenant: str, *, role: str = "client", ttl_s: float | None = None, quota: Quota | None = None
    ) -> NewKey:
        """Make a key; its secret is in the reply and nowhere else."""
        return self._run(accounts.create_key(tenant, role, ttl_s, quota))

    def keys(self) -> tuple[KeyRecord, ...]:
        """All keys, the oldest first, without their secrets."""
        return self._run(accounts.keys())

    def revoke_key(self, key_id: str) -> KeyRecord:
        """Refuse a key from now on."""
        return self._run(accounts.revoke_key(key_id))

    def energy(self, last_s: float, *, by: str = "task") -> tuple[EnergyShare, ...]:
        """What was spent in the last so many seconds, the dearest first."""
        return self._run(accounts.energy(last_s, by))

    def settlements(self, last_s: float, *, timeout_s: float | None = None) -> Generator[SettlementRecord, None, None]:
        """Every settlement of the last so many seconds, the oldest first."""
        call = accounts.settlements(last_s)
        open_stream: Any = self._channel.unary_stream(
            call.method, type(call.request).SerializeToString, call.response.FromString
        )
        stream = open_stream(call.request, timeout=self.deadline_s(timeout_s), metadata=self.metadata)
        try:
            for event in stream:
                yield call.decode(event)
        except grpc.RpcError as error:
            raise self.failure(error, timeout_s) from None
        finally:
            stream.cancel()

    # ---- nodes' identities

    def create_token(self, node: str = "", *, ttl_s: float | None = None) -> identity.NewToken:
        """Make a token with which one node joins; its text is in the reply and nowhere else."""
        return self._run(identity.create_token(node, ttl_s))

    def tokens(self) -> tuple[identity.TokenRecord, ...]:
        """Join tokens, the oldest first, without their secrets."""
        return self._run(identity.tokens())

    def revoke_token(self, token_id: str) -> identity.TokenRecord:
        """Refuse a join token from now on."""
        return self._run(identity.revoke_token(token_id))

    def identities(self) -> tuple[identity.NodeRecord, ...]:
        """Nodes that joined or want to."""
        return self._run(identity.identities())

    def approve_node(self, node: str) -> identity.NodeRecord:
        """Let a node that waits have its certificate."""
        return self._run(identity.approve_node(node))

    def revoke_node(self, node: str) -> identity.NodeRecord:
        """Put a node out: its stream ends and its certificates are refused."""
        return self._run(identity.revoke_node(node))

    # ---- pushed models

    def push_model(self, folder: ModelFolder, nodes: Sequence[str] = ()) -> models.PushOutcome:
        """Put a model in force on nodes (none named: on all), or learn what of it the gateway does not have yet."""
        return self._run(models.push(folder.manifest, nodes))

    def put_chunk(self, sha256: str, size_bytes: int, offset: int, data: bytes) -> int:
        """Send bytes of a model's file; returns what has arrived."""
        return self._run(models.put_chunk(sha256, size_bytes, offset, data))

    def pushed_models(self) -> tuple[models.PushedModel, ...]:
        """What was pushed, and how far it is on each node."""
        return self._run(models.models())

    def remove_model(self, name: str) -> models.PushedModel:
        """Take a pushed model out of force."""
        return self._run(models.remove(name))

    def _run(self, call: wire.Call[Reply], timeout_s: float | None = None) -> Reply:
        method = self._channel.unary_unary(call.method, type(call.request).SerializeToString, call.response.FromString)
        try:
            return call.decode(method(call.request, timeout=self.deadline_s(timeout_s), metadata=self.metadata))
        except grpc.RpcError as error:
            raise self.failure(error, timeout_s) from None
