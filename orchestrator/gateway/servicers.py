"""The gRPC services: thin translations between messages and the gateway's work."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from typing import Any

from edgewise.v1 import admin_pb2, admin_pb2_grpc, fleet_pb2_grpc, gateway_pb2, gateway_pb2_grpc
from orchestrator import __version__
from orchestrator.budgets import TaskBudget
from orchestrator.errors import RequestError
from orchestrator.gateway.accounts import Payer, TextReply
from orchestrator.gateway.explaining import explain
from orchestrator.gateway.join import Joiner, Witness
from orchestrator.gateway.model_orders import order_models
from orchestrator.gateway.policy import caller, tenant_seen
from orchestrator.gateway.reload import Reloader
from orchestrator.gateway.replies import (
    encode_reply,
    encode_text_reply,
    pack_events,
    unpack_events,
)
from orchestrator.gateway.report import encode_nodes, encode_task, encode_task_info
from orchestrator.gateway.requests import check_user, decode_generate, decode_infer
from orchestrator.gateway.samples import answers
from orchestrator.gateway.service import Service
from orchestrator.ledger.spenders import fingerprint
from orchestrator.personal.types import Owner
from orchestrator.personal.wire import encode_status
from orchestrator.types import Account, Energy, Provenance, Reply
from orchestrator.wire import (
    check_name,
    decode_budget,
    decode_long_run,
    encode_budget,
    encode_long_run,
    encode_pacing,
)

MAX_LABEL_CHARS = 500

# A repeated request id is answered with what it was answered before and costs nothing more.
REPLAYED = (("x-edgewise-replayed", "true"), ("x-energy-joules", "0"), ("x-energy-method", "measured:replayed"))


def _trailer(request_id: str, energy: Energy, account: Account) -> tuple[tuple[str, str], ...]:
    known = energy.provenance is not Provenance.UNMEASURED
    joules = f"{energy.energy_j:.9g}" if known else "unmeasured"
    told = (
        ("x-energy-joules", joules),
        ("x-energy-method", f"{energy.provenance.value}:{energy.method}"),
        ("x-edgewise-request-id", request_id),
    )
    if math.isinf(account.left_j):
        return told
    return (*told, ("x-edgewise-budget-left-joules", f"{max(0.0, account.left_j):.9g}"))


def _encode_bytes(reply: Reply) -> bytes:
    return encode_reply(reply).SerializeToString()


class GatewayServicer(gateway_pb2_grpc.GatewayServicer):
    """What applications call."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def _claim(self, request: Any, method: str, deadline_s: float) -> Payer | bytes:
        """Who pays; or what was answered before, where the client chose the id and has had an answer."""
        spender = caller.get().spender
        if not request.request_id:
            return Payer(spender)
        canonical = type(request).FromString(request.SerializeToString())
        canonical.request_id = ""
        mark = fingerprint(spender.tenant, method, canonical.SerializeToString(deterministic=True))
        ledger = self._service.till.ledger
        taken = await ledger.claim(spender, request.request_id, fingerprint=mark, deadline_s=deadline_s)
        return taken if isinstance(taken, bytes) else Payer(spender, taken)

    async def Infer(self, request: gateway_pb2.InferRequest, context: Any) -> gateway_pb2.InferResponse:
        """See gateway.proto."""
        query = decode_infer(request, tasks=self._service.fleet.tasks, deadline_s=context.time_remaining())
        payer = await self._claim(request, "Infer", query.deadline_s)
        if isinstance(payer, bytes):
            context.set_trailing_metadata(REPLAYED)
            return gateway_pb2.InferResponse.FromString(payer)
        reply = await self._service.infer(query, payer, encode=_encode_bytes if payer.claim else None)
        context.set_trailing_metadata(_trailer(reply.request_id, reply.energy, reply.account))
        return encode_reply(reply)

    async def Generate(
        self, request: gateway_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[gateway_pb2.GenerateEvent]:
        """See gateway.proto."""
        query = decode_generate(request, tasks=self._service.fleet.tasks, deadline_s=context.time_remaining())
        payer = await self._claim(request, "Generate", query.deadline_s)
        if isinstance(payer, bytes):
            for event in unpack_events(payer):
                yield event
            context.set_trailing_metadata(REPLAYED)
            return
        said: list[gateway_pb2.GenerateEvent] = []

        def encode(reply: TextReply) -> bytes:
            return pack_events([*said, gateway_pb2.GenerateEvent(done=encode_text_reply(reply))])

        if query.samples > 1:
            pieces = answers(self._service, query, payer)
        else:
            pieces = self._service.generate(query, payer, encode=encode if payer.claim else None)
        async for piece in pieces:
            if isinstance(piece, TextReply):
                context.set_trailing_metadata(_trailer(piece.request_id, piece.energy, piece.account))
                yield gateway_pb2.GenerateEvent(done=encode_text_reply(piece))
            else:
                delta = gateway_pb2.GenerateDelta(text=piece.text, token_ids=piece.token_ids)
                event = gateway_pb2.GenerateEvent(delta=delta)
                if payer.claim:
                    said.append(event)
                yield event

    async def Explain(self, request: gateway_pb2.ExplainRequest, context: Any) -> gateway_pb2.ExplainResponse:
        """See gateway.proto."""
        if not request.request_id:
            raise RequestError("FIELD_REQUIRED", "request_id must name a request.", field="request_id")
        return explain(self._service.journal.get(request.request_id, tenant_seen()))

    async def ListTasks(self, request: gateway_pb2.ListTasksRequest, context: Any) -> gateway_pb2.ListTasksResponse:
        """See gateway.proto."""
        tasks = sorted(self._service.fleet.tasks.items())
        return gateway_pb2.ListTasksResponse(tasks=[encode_task_info(task) for _, task in tasks])

    async def Feedback(self, request: gateway_pb2.FeedbackRequest, context: Any) -> gateway_pb2.FeedbackResponse:
        """See gateway.proto."""
        if not request.request_id:
            raise RequestError("FIELD_REQUIRED", "request_id must name a request.", field="request_id")
        if request.label:
            if len(request.label) > MAX_LABEL_CHARS:
                why = f"label must be a label, or a text of at most {MAX_LABEL_CHARS} characters."
                raise RequestError("FIELD_OUT_OF_RANGE", why, field="label")
            status = await self._service.personal.correct(tenant_seen(), request.request_id, request.label)
            return gateway_pb2.FeedbackResponse(personal=encode_status(status))
        if not 0.0 <= request.score <= 1.0:
            raise RequestError("FIELD_OUT_OF_RANGE", "score must be between 0 and 1.", field="score")
        return gateway_pb2.FeedbackResponse(
            counted=self._service.feedback(request.request_id, request.score, tenant_seen())
        )

    async def Personal(self, request: gateway_pb2.PersonalRequest, context: Any) -> gateway_pb2.PersonalResponse:
        """See gateway.proto."""
        # The tenant is that of the caller's key, also for an operator: nobody reaches another tenant's users.
        owner = Owner(caller.get().spender.tenant, check_user(request.user))
        status = await self._service.personal.order(owner, check_name(request.task, "task"), request.verb)
        return gateway_pb2.PersonalResponse(status=encode_status(status))


class AdminServicer(admin_pb2_grpc.AdminServicer):
    """What operators call."""

    def __init__(self, service: Service, joiner: Joiner, reloader: Reloader) -> None:
        self._service = service
        self._joiner = joiner
        self._reloader = reloader

    async def GetStatus(self, request: admin_pb2.GetStatusRequest, context: Any) -> admin_pb2.GetStatusResponse:
        """See admin.proto."""
        service = self._service
        service.publish()
        outcomes, energy_j = service.metrics.totals()
        nodes = await encode_nodes(service)
        return admin_pb2.GetStatusResponse(
            version=__version__,
            uptime_s=time.monotonic() - service.started_s,
            nodes=nodes,
            tasks=[encode_task(service, task) for _, task in sorted(service.fleet.tasks.items())],
            outcomes=[admin_pb2.OutcomeCount(outcome=name, requests=count) for name, count in outcomes],
            energy_j=energy_j,
        )

    async def DrainNode(self, request: admin_pb2.DrainNodeRequest, context: Any) -> admin_pb2.DrainNodeResponse:
        """See admin.proto."""
        session = self._service.fleet.session_of(check_name(request.node, "node"))
        self._joiner.drain(session, "drained by the operator")
        return admin_pb2.DrainNodeResponse(state=self._service.fleet.state(session.name).value)

    async def SleepNode(self, request: admin_pb2.SleepNodeRequest, context: Any) -> admin_pb2.SleepNodeResponse:
        """See admin.proto."""
        node = check_name(request.node, "node")
        self._service.keeper.sleep(node, "asked by the operator")
        return admin_pb2.SleepNodeResponse(state=self._service.fleet.state(node).value)

    async def WakeNode(self, request: admin_pb2.WakeNodeRequest, context: Any) -> admin_pb2.WakeNodeResponse:
        """See admin.proto."""
        node = check_name(request.node, "node")
        self._service.keeper.wake(node, "asked by the operator")
        return admin_pb2.WakeNodeResponse(state=self._service.fleet.state(node).value)

    async def GetBudgets(self, request: admin_pb2.GetBudgetsRequest, context: Any) -> admin_pb2.GetBudgetsResponse:
        """See admin.proto."""
        budgets = self._service.budgets.show(list(self._service.fleet.tasks))
        return admin_pb2.GetBudgetsResponse(budgets=[self._encode(budget) for budget in budgets])

    async def SetBudget(self, request: admin_pb2.SetBudgetRequest, context: Any) -> admin_pb2.SetBudgetResponse:
        """See admin.proto."""
        task = check_name(request.task, "task") if request.task else ""
        budgets = self._service.budgets
        if request.reset:
            changed = budgets.reset(task)
        else:
            changed = budgets.set(task, decode_budget(request.budget), decode_long_run(request.long_run))
        return admin_pb2.SetBudgetResponse(budget=self._encode(changed))

    async def ManageModel(self, request: admin_pb2.ManageModelRequest, context: Any) -> admin_pb2.ManageModelResponse:
        """See admin.proto."""
        expert = check_name(request.expert, "expert")
        node = check_name(request.node, "node") if request.node else None
        return admin_pb2.ManageModelResponse(
            arms=order_models(self._service.fleet, expert, request.verb, node=node, ttl_s=request.ttl_s)
        )

    async def ReloadConfig(
        self, request: admin_pb2.ReloadConfigRequest, context: Any
    ) -> admin_pb2.ReloadConfigResponse:
        """See admin.proto."""
        changes = await self._reloader.reload()
        return admin_pb2.ReloadConfigResponse(
            changed=[admin_pb2.ChangedKey(key=one.key, before=one.before, after=one.after) for one in changes]
        )

    def _encode(self, budget: TaskBudget) -> admin_pb2.TaskBudget:
        return admin_pb2.TaskBudget(
            task=budget.task,
            budget=encode_budget(budget.budget),
            origin=budget.origin,
            long_run=encode_long_run(budget.long_run),
            pacing=encode_pacing(self._service.pacing.record(budget.task)),
        )


class FleetServicer(fleet_pb2_grpc.FleetServicer):
    """What node agents call; the witness says who they are where there is TLS."""

    def __init__(self, joiner: Joiner, witness: Witness | None = None) -> None:
        self._joiner = joiner
        self._witness = witness

    async def Connect(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        """See fleet.proto."""
        await self._joiner.serve(context, self._witness)
