"""The door's routes; `orchestrator.gateway.policy` says who may use them."""

from __future__ import annotations

import time

from starlette.routing import BaseRoute, Route

from orchestrator.door.cache import AnswerCache
from orchestrator.door.completions import Completions
from orchestrator.door.embeddings import Embeddings
from orchestrator.door.exchange import Endpoint, Handler, Problem
from orchestrator.door.models import Models
from orchestrator.door.oip import Tensors
from orchestrator.door.problems import oip_problem, openai_problem
from orchestrator.gateway.service import Service


def door_routes(
    service: Service, *, limit_bytes: int, max_deadline_s: float, cache: AnswerCache | None = None
) -> list[BaseRoute]:
    """All routes for texts and tensors.

    Args:
        service: Does the work.
        limit_bytes: Most bytes of a body.
        max_deadline_s: The longest that a request may take.
        cache: Answers that are given again; None keeps none.
    """
    texts = Completions(service, max_deadline_s=max_deadline_s, cache=cache)
    models = Models(service, started_unix_s=int(time.time()))
    tensors = Tensors(service, max_deadline_s=max_deadline_s)

    instead = service.fleet.latecomers.instead

    def route(path: str, method: str, handle: Handler, problem: Problem) -> Route:
        return Route(path, Endpoint(method, handle, lambda error: problem(instead(error)), limit_bytes=limit_bytes))

    return [
        route("/v1/chat/completions", "POST", texts.chat, openai_problem),
        route("/v1/completions", "POST", texts.completion, openai_problem),
        route("/v1/embeddings", "POST", Embeddings(service, texts).create, openai_problem),
        route("/v1/models", "GET", models.all, openai_problem),
        route("/v1/models/{model}", "GET", models.one, openai_problem),
        route("/v2", "GET", tensors.server, oip_problem),
        route("/v2/health/live", "GET", tensors.live, oip_problem),
        route("/v2/health/ready", "GET", tensors.ready, oip_problem),
        route("/v2/models/{model}", "GET", tensors.metadata, oip_problem),
        route("/v2/models/{model}/ready", "GET", tensors.model_ready, oip_problem),
        route("/v2/models/{model}/infer", "POST", tensors.infer, oip_problem),
    ]
