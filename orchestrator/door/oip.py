"""The Open Inference Protocol v2 for tensors, so that clients of Triton and KServe work: JSON, and tensors as binary
behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator import __version__
from orchestrator.door import telling
from orchestrator.door.allowance import Allowance, from_body, from_headers, from_model
from orchestrator.door.exchange import Exchange, Work, dump
from orchestrator.door.fields import Fields
from orchestrator.door.strict import not_finite, parse
from orchestrator.door.tensors import DATATYPES, decode_input, encode_output, wanted_binary
from orchestrator.errors import RequestError, Unavailable
from orchestrator.gateway import requests
from orchestrator.gateway.accounts import Payer
from orchestrator.gateway.policy import caller
from orchestrator.gateway.service import Service
from orchestrator.types import WHOLE, FusionChoice, Query, Reply, Task, TensorSpec

JSON_LENGTH = "inference-header-content-length"
BUDGET_KEYS = ("max_energy_j", "max_latency_ms", "on_infeasible", "profile")


class Tensors:
    """Answers tensors.

    Args:
        service: Does the work.
        max_deadline_s: The longest that a request may take.
    """

    def __init__(self, service: Service, *, max_deadline_s: float) -> None:
        self._service = service
        self._max_deadline_s = max_deadline_s

    async def server(self, exchange: Exchange) -> None:
        """`GET /v2`."""
        extensions = ["binary_tensor_data"]
        await exchange.reply_json(200, {"name": "edgewise", "version": __version__, "extensions": extensions})

    async def live(self, exchange: Exchange) -> None:
        """`GET /v2/health/live`."""
        await exchange.reply_json(200, {"live": True})

    async def ready(self, exchange: Exchange) -> None:
        """`GET /v2/health/ready`."""
        ready = not self._service.admission.closed and any(
            self._service.planner.standing(task) for task in self._service.fleet.tasks
        )
        await exchange.reply_json(200 if ready else 503, {"ready": ready})

    async def metadata(self, exchange: Exchange) -> None:
        """`GET /v2/models/{model}`."""
        name = exchange.parameter("model")
        task, _, _ = self._model(name)
        entry = {"name": name, "versions": ["1"], "platform": "edgewise"}
        specs = {"inputs": [_spec(task.input)], "outputs": [_spec(task.output)]}
        await exchange.reply_json(200, entry | specs | {"parameters": {"labels": list(task.labels)}})

    async def model_ready(self, exchange: Exchange) -> None:
        """`GET /v2/models/{model}/ready`."""
        name = exchange.parameter("model")
        task, expert, _ = self._model(name)
        arms = self._service.fleet.board.arms(task.name)
        ready = any(expert in (None, state.arm.expert) for state in arms)
        await exchange.reply_json(200 if ready else 503, {"name": name, "ready": ready})

    async def infer(self, exchange: Exchange) -> Work:
        """`POST /v2/models/{model}/infer`."""
        head, tail = _split(await exchange.body(), exchange.headers)
        # Triton's client names no type. A browser's page cannot leave its origin out, nor add our header unasked.
        if JSON_LENGTH not in exchange.headers and "origin" in exchange.headers:
            exchange.check_json()
        body, finite = parse(head, numbers=True)
        query, fields = self._query(exchange, body, tail)
        if not finite:
            raise not_finite()
        return self._answer(exchange, query, fields)

    async def _answer(self, exchange: Exchange, query: Query, fields: Fields) -> None:
        reply = await self._service.infer(query, Payer(caller.get().spender))
        document, tail = self._document(exchange, reply, binary=wanted_binary(fields, query.task.output.name))
        profile = self._service.budgets.resolve(query.task.name, query.budget, 1.0).profile
        costs = telling.cost_lines(reply.energy, reply.routing, reply.timings, profile=profile)
        lines = f"x-edgewise-request-id: {reply.request_id}\r\n{costs}"
        head = dump(document)
        if not tail:
            await exchange.reply(200, head, lines)
            return
        lines += f"{JSON_LENGTH}: {len(head)}\r\n"
        await exchange.reply(200, head + tail, lines, kind="application/octet-stream")

    def _model(self, name: str) -> tuple[Task, str | None, Allowance]:
        """The task that a name means, the expert where it is one, and the budget in the name.

        Raises:
            RequestError: EXPERT_NOT_FOUND or FIELD_OUT_OF_RANGE.
            Unavailable: NO_NODE.
        """
        expert, allowance = from_model(name)
        fleet = self._service.fleet
        tensors = {task_name: task for task_name, task in fleet.tasks.items() if not task.text}
        if expert in tensors:
            return tensors[expert], None, allowance
        if expert is None:
            if not tensors:
                raise Unavailable("NO_NODE", "No node that serves tensors has joined yet.", retry_after_s=1.0)
            return tensors[min(tensors)], None, allowance
        for state in fleet.board.states:
            if state.arm.expert == expert and state.arm.task in tensors:
                return tensors[state.arm.task], expert, allowance
        raise RequestError("EXPERT_NOT_FOUND", "No node has a task or an expert of this name.", field="model")

    def _query(self, exchange: Exchange, body: Mapping[str, Any], tail: bytes) -> tuple[Query, Fields]:
        task, expert, named = self._model(exchange.parameter("model"))
        fields = Fields(body)
        inputs = fields.array("inputs", 16)
        if not inputs:
            text = f"inputs must hold the tensor '{task.input.name}'."
            raise RequestError("FIELD_REQUIRED", text, field="inputs")
        array = requests.fitting(dict([decode_input(fields, inputs, tail)]), len(inputs), task.input)
        parameters = fields.inner("parameters")
        said = {} if parameters is None else {k: v for k, v in parameters.value.items() if k in BUDGET_KEYS}
        allowance = from_body(Fields(said, "parameters")).over(from_headers(exchange.headers)).over(named)
        wanted_ms = allowance.budget.max_latency_ms
        limit_s = self._max_deadline_s
        query = Query(
            request_id=requests.request_id(fields.text("id", most_chars=256) or ""),
            task=task,
            expert=expert,
            inputs={task.input.name: array},
            budget=allowance.budget,
            fusion=FusionChoice.AUTO,
            max_experts=0,
            deadline_s=limit_s if wanted_ms is None else min(max(wanted_ms, 1.0) / 1e3, limit_s),
            max_mass=(None if parameters is None else parameters.number("max_mass", 0.0, WHOLE)) or WHOLE,
        )
        return query, fields

    def _document(self, exchange: Exchange, reply: Reply, *, binary: bool) -> tuple[dict[str, Any], bytes]:
        (name, array), *_ = reply.outputs.items()
        output, tail = encode_output(name, array, binary=binary)
        energy, routing = telling.blocks(reply.energy, reply.routing, reply.timings.total_ms)
        document = {
            "id": reply.request_id,
            "model_name": exchange.parameter("model"),
            "model_version": "1",
            "outputs": [output],
            "parameters": {"label": reply.label, "confidence": reply.confidence},
            "energy": energy,
            "routing": routing,
        }
        return document, tail


def _split(body: bytes, headers: Mapping[str, str]) -> tuple[bytes, bytes]:
    """The JSON of a body, and the tensors behind it."""
    told = headers.get(JSON_LENGTH)
    if told is None:
        return body, b""
    if not (told.isascii() and told.isdecimal()) or not 0 < int(told[:12]) <= len(body):
        raise RequestError("MALFORMED_MESSAGE", f"{JSON_LENGTH} must be the length of the JSON.", field=JSON_LENGTH)
    return body[: int(told)], body[int(told) :]


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype.newbyteorder("=")], "shape": list(spec.shape)}
