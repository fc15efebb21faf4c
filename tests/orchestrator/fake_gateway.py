"""A gateway that honours the contract without a fleet behind it: a real gRPC server with canned answers.

It checks what a gateway must check first (a deadline, known names, an allowed shape), so that a client that breaks
the contract fails here as well.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from edgewise.v1 import admin_pb2, admin_pb2_grpc, common_pb2, gateway_pb2, gateway_pb2_grpc
from orchestrator.errors import CATALOGUE
from tests.orchestrator.fake_statuses import MODELLED, PACING, node_status, task_status

MIN_ENERGY_J = 1.9e-6
MIN_LATENCY_MS = 3.1
NODES = ("orin-1", "pc-4090")


def refuse(
    context: grpc.ServicerContext,
    reason: str,
    message: str,
    *,
    metadata: dict[str, str] | None = None,
    retry_s: float = 0,
) -> NoReturn:
    """End a call as the catalogue says, with ErrorInfo and, where it makes sense, RetryInfo."""
    details = [error_details_pb2.ErrorInfo(reason=reason, domain="edgewise", metadata=metadata or {})]
    if retry_s:
        details.append(error_details_pb2.RetryInfo(retry_delay=Duration(nanos=int(retry_s * 1e9))))
    packed = []
    for detail in details:
        packed.append(AnyMessage())
        packed[-1].Pack(detail)
    code = CATALOGUE[reason].grpc_code
    status = status_pb2.Status(code=code.value[0], message=message, details=packed)
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status returned")


def energy(energy_j: float = 2.1e-6) -> common_pb2.Energy:
    return common_pb2.Energy(
        energy_j=energy_j, provenance=MODELLED, method="profile:jetson-agx-orin", uncertainty_j=4e-7
    )


def timing() -> gateway_pb2.Timing:
    return gateway_pb2.Timing(total_ms=2.94, route_ms=0.08, wait_ms=0.3, infer_ms=2.5, fuse_ms=0.06)


def routing() -> gateway_pb2.Routing:
    first, second = "digits-mlp:onnx-fp32@orin-1", "digits-conv8:onnx-fp32@orin-1"
    return gateway_pb2.Routing(
        attempts=[
            gateway_pb2.Attempt(
                arm=arm,
                stage=stage,
                predicted_energy_j=1e-6,
                energy_j=1.05e-6,
                energy_provenance=MODELLED,
                predicted_ms=1.2,
                ms=1.3,
                outcome="answered",
            )
            for stage, arm in enumerate((first, second))
        ],
        fusion=common_pb2.FUSION_MODE_MIXTURE,
        predicted_energy_j=1.8e-6,
        predicted_ms=2.6,
        bound_energy_j=3.9e-6,
        bound_ms=6.2,
        budget_met=True,
        plan_id="plan-7",
        certificate=common_pb2.Certificate(status="optimal", gap=0.0, explored=31),
    )


class Gateway(gateway_pb2_grpc.GatewayServicer):
    """Answers "4" to every digit; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.listed = 0
        self.feedback: list[tuple[str, float]] = []
        self.deadlines_s: list[float] = []
        self.ended = threading.Event()

    def _note(self, request: Any, context: grpc.ServicerContext) -> None:
        left_s = context.time_remaining()
        # A call without a deadline reports none, or one that is centuries away.
        if left_s is None or left_s > 86_400:
            refuse(context, "DEADLINE_REQUIRED", "Set a deadline.")
        self.asked.append(request)
        self.deadlines_s.append(left_s)

    def ListTasks(
        self, request: gateway_pb2.ListTasksRequest, context: grpc.ServicerContext
    ) -> gateway_pb2.ListTasksResponse:
        self.listed += 1
        known = task_status()
        info = gateway_pb2.TaskInfo(task=known.task, input=known.input, labels=known.labels)
        return gateway_pb2.ListTasksResponse(tasks=[info, gateway_pb2.TaskInfo(task="skills", text=True)])

    def Infer(self, request: gateway_pb2.InferRequest, context: grpc.ServicerContext) -> gateway_pb2.InferResponse:
        self._note(request, context)
        if request.task != "digits":
            refuse(context, "TASK_NOT_FOUND", "There is no such task; ask for digits.")
        if request.expert == "crashes":
            raise RuntimeError("secret path /etc/token")
        if request.expert == "busy":
            refuse(context, "OVERLOADED", "Too many requests wait.", retry_s=0.25)
        if request.expert == "loads":
            refuse(context, "EXPERT_LOADING", "This expert is being loaded.")
        if request.expert == "breaks":
            refuse(context, "ATTEMPTS_FAILED", "All 3 attempts failed.")
        if request.expert == "hangs":
            ended = threading.Event()
            if context.add_callback(ended.set):
                ended.wait(timeout=5.0)
        tensor = request.inputs[0]
        if tensor.name != "image" or list(tensor.shape) != [1, 8, 8] or tensor.dtype != common_pb2.DTYPE_FLOAT32:
            refuse(context, "SHAPE_MISMATCH", "inputs[0] must be image, float32, (1, 8, 8).")
        limit_j = request.budget.max_energy_j if request.budget.HasField("max_energy_j") else math.inf
        if limit_j < MIN_ENERGY_J and not request.budget.on_infeasible:
            metadata = {"minEnergyJ": repr(MIN_ENERGY_J), "minLatencyMs": repr(MIN_LATENCY_MS)}
            refuse(context, "BUDGET_INFEASIBLE", "No expert fits this budget.", metadata=metadata)
        route = routing()
        route.budget_met = limit_j >= MIN_ENERGY_J
        output = common_pb2.Tensor(
            name="probabilities", dtype=common_pb2.DTYPE_FLOAT32, shape=[1, 2], data=b"\0\0\0\0\0\0\x80?"
        )
        return gateway_pb2.InferResponse(
            request_id=request.request_id or "r-1",
            outputs=[output],
            label="4",
            confidence=0.987,
            energy=energy(),
            routing=route,
            timing=timing(),
        )

    def Generate(
        self, request: gateway_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[gateway_pb2.GenerateEvent]:
        self._note(request, context)
        # Before the first piece: a call that ends while a piece is sent never comes back to this generator.
        context.add_callback(self.ended.set)
        for count, piece in enumerate(("a ", "b ", "c")):
            if count == request.parameters.max_tokens:
                refuse(context, "NO_NODE", "The last node left.")
            yield gateway_pb2.GenerateEvent(delta=gateway_pb2.GenerateDelta(text=piece, token_ids=[count]))
            if request.expert == "hangs":
                self.ended.wait(timeout=5.0)
        done = gateway_pb2.GenerateDone(
            request_id="g-1",
            finish_reason=common_pb2.FINISH_REASON_BUDGET,
            usage=common_pb2.Usage(prompt_tokens=5, completion_tokens=3),
            energy=energy(),
            routing=routing(),
            timing=timing(),
        )
        yield gateway_pb2.GenerateEvent(done=done)

    def Feedback(
        self, request: gateway_pb2.FeedbackRequest, context: grpc.ServicerContext
    ) -> gateway_pb2.FeedbackResponse:
        self.feedback.append((request.request_id, request.score))
        return gateway_pb2.FeedbackResponse(counted=len(self.feedback) == 1)

    def Personal(
        self, request: gateway_pb2.PersonalRequest, context: grpc.ServicerContext
    ) -> gateway_pb2.PersonalResponse:
        status = common_pb2.PersonalStatus(node="n1", task=request.task, tier="instant", version=2, state=request.verb)
        return gateway_pb2.PersonalResponse(status=status)

    def Explain(
        self, request: gateway_pb2.ExplainRequest, context: grpc.ServicerContext
    ) -> gateway_pb2.ExplainResponse:
        self._note(request, context)
        if request.request_id != "r-1":
            refuse(context, "REQUEST_NOT_FOUND", "This request is not known or was forgotten.")
        return gateway_pb2.ExplainResponse(
            pacing=PACING,
            request_id="r-1",
            task="digits",
            outcome="answered",
            max_energy_j=5e-6,
            max_latency_ms=20.0,
            profile="balanced",
            price_per_j=2.1e3,
            candidates=candidates(),
            chosen="digits-mlp → digits-conv8 (mixture)",
            runner_up="digits-conv8",
            binding_constraint="energy",
            routing=routing(),
            energy=energy(),
            timing=timing(),
            age_s=4.2,
        )


def candidates() -> list[gateway_pb2.Candidate]:
    rows: list[tuple[str, float, float, float, str]] = [
        ("digits-linear", 0.966, 1e-7, 1.1, ""),
        ("digits-mlp → digits-conv8 (mixture)", 0.991, 1.8e-6, 2.6, ""),
        ("digits-conv8", 0.988, 1.7e-6, 1.9, ""),
        ("digits-wide", 0.994, 4.4e-5, 3.0, "energy"),
        ("digits-lenet5 → digits-wide", 0.995, 2.2e-5, 30.0, "latency"),
        *((f"digits-mlp + digits-lenet5 + digits-{i}", 0.97, 3e-6, 4.0, "availability") for i in range(12)),
    ]
    return [
        gateway_pb2.Candidate(
            route=route,
            quality=quality,
            predicted_energy_j=energy_j,
            bound_energy_j=2.1 * energy_j,
            predicted_ms=ms,
            bound_ms=2.4 * ms,
            feasible=not excluded,
            excluded_by=excluded,
            score=quality - 2.1e3 * energy_j,
        )
        for route, quality, energy_j, ms, excluded in rows
    ]


class Admin(admin_pb2_grpc.AdminServicer):
    """Two nodes, one task, budgets that can be set and reset."""

    def __init__(self) -> None:
        self.budgets: dict[str, admin_pb2.TaskBudget] = {}
        self.statuses = 0

    def GetStatus(
        self, request: admin_pb2.GetStatusRequest, context: grpc.ServicerContext
    ) -> admin_pb2.GetStatusResponse:
        self.statuses += 1
        return admin_pb2.GetStatusResponse(
            version="0.1.0",
            uptime_s=184.0,
            energy_j=3.14e-3,
            outcomes=[
                admin_pb2.OutcomeCount(outcome="answered", requests=118),
                admin_pb2.OutcomeCount(outcome="BUDGET_INFEASIBLE", requests=2),
            ],
            nodes=[node_status(name) for name in NODES],
            tasks=[task_status()],
        )

    def DrainNode(
        self, request: admin_pb2.DrainNodeRequest, context: grpc.ServicerContext
    ) -> admin_pb2.DrainNodeResponse:
        if request.node not in NODES:
            refuse(context, "NODE_NOT_FOUND", "There is no node of this name.")
        return admin_pb2.DrainNodeResponse(state="draining")

    def ReloadConfig(
        self, request: admin_pb2.ReloadConfigRequest, context: grpc.ServicerContext
    ) -> admin_pb2.ReloadConfigResponse:
        changed = admin_pb2.ChangedKey(key="explain.keep", before="5", after="6")
        return admin_pb2.ReloadConfigResponse(changed=[changed])

    def SleepNode(
        self, request: admin_pb2.SleepNodeRequest, context: grpc.ServicerContext
    ) -> admin_pb2.SleepNodeResponse:
        if request.node not in NODES:
            refuse(context, "SLEEP_OFF", "This node's operator does not let it be put to sleep.")
        return admin_pb2.SleepNodeResponse(state="draining")

    def WakeNode(self, request: admin_pb2.WakeNodeRequest, context: grpc.ServicerContext) -> admin_pb2.WakeNodeResponse:
        if request.node not in NODES:
            refuse(context, "NODE_NOT_FOUND", "There is no node of this name.")
        return admin_pb2.WakeNodeResponse(state="waking")

    def GetBudgets(
        self, request: admin_pb2.GetBudgetsRequest, context: grpc.ServicerContext
    ) -> admin_pb2.GetBudgetsResponse:
        default = admin_pb2.TaskBudget(
            budget=common_pb2.Budget(
                max_latency_ms=1000.0, on_infeasible=common_pb2.ON_INFEASIBLE_ERROR, profile="balanced"
            ),
            origin="default",
        )
        return admin_pb2.GetBudgetsResponse(budgets=[self.budgets.get("", default), *self.budgets.values()])

    def SetBudget(
        self, request: admin_pb2.SetBudgetRequest, context: grpc.ServicerContext
    ) -> admin_pb2.SetBudgetResponse:
        if request.reset:
            self.budgets.pop(request.task, None)
            return admin_pb2.SetBudgetResponse(budget=admin_pb2.TaskBudget(task=request.task, origin="config"))
        if not math.isfinite(request.budget.max_energy_j):
            refuse(context, "BUDGET_NOT_FINITE", "budget.max_energy_j must be a finite number.")
        entry = admin_pb2.TaskBudget(task=request.task, budget=request.budget, origin="set", long_run=request.long_run)
        if request.HasField("long_run"):
            entry.pacing.CopyFrom(PACING)
        self.budgets[request.task] = entry
        return admin_pb2.SetBudgetResponse(budget=entry)

    def ManageModel(
        self, request: admin_pb2.ManageModelRequest, context: grpc.ServicerContext
    ) -> admin_pb2.ManageModelResponse:
        """Its nodes keep all experts in memory."""
        if not request.expert.startswith("digits-"):
            refuse(context, "EXPERT_NOT_FOUND", "No connected node has a model of this name.")
        refuse(context, "MODEL_FIXED", "The node keeps its experts loaded.")


class FakeGateway:
    """A running fake: where it listens, and its servicers."""

    def __init__(self) -> None:
        self.gateway = Gateway()
        self.admin = Admin()
        self._server = grpc.server(ThreadPoolExecutor(max_workers=4))
        gateway_pb2_grpc.add_GatewayServicer_to_server(self.gateway, self._server)
        admin_pb2_grpc.add_AdminServicer_to_server(self.admin, self._server)
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    @contextmanager
    def running(self) -> Iterator[FakeGateway]:
        self._server.start()
        try:
            yield self
        finally:
            self._server.stop(grace=0).wait()
