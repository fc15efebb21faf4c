"""Liveness, readiness, version, metrics and the page of the fleet over HTTP, every route behind the table of policy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from orchestrator import __version__
from orchestrator.door.cache import AnswerCache
from orchestrator.door.exchange import Endpoint
from orchestrator.door.problems import oip_problem, openai_problem, plain_problem
from orchestrator.door.routes import door_routes
from orchestrator.door.turn import Turn
from orchestrator.errors import EdgewiseError, RequestError
from orchestrator.gateway.page import HEADERS, fleet_page
from orchestrator.gateway.policy import PAGE, Doorman, Entrance
from orchestrator.gateway.service import Service
from orchestrator.identity.routes import identity_routes
from orchestrator.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from orchestrator.identity.opening import Identity

DEFAULT_BODY_BYTES = 4_194_304
DEFAULT_DEADLINE_S = 600.0

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guarded:
    """An ASGI application behind a doorman, who is asked before a byte of the body is read."""

    def __init__(self, app: Starlette, doorman: Doorman) -> None:
        self.app = app
        self._doorman = doorman
        # Endpoints that answer every verb and error themselves need no router where their path has no variable.
        self._direct: dict[str, Endpoint] = {}
        for route in app.routes:
            endpoint: object = getattr(route, "endpoint", None)
            if isinstance(route, Route) and isinstance(endpoint, Endpoint) and "{" not in route.path:
                self._direct[route.path] = endpoint

    def answer(self, turn: Turn) -> Awaitable[None]:
        """A request of our own server, once this is awaited; what its head says, a kept connection has often had read
        before."""
        head, path = turn.head, turn.parsed["path"]
        entrance: Entrance | None = head.entrance
        if entrance is None:
            entrance = head.entrance = Entrance(path, turn.parsed["headers"])
        refused = self._refused(entrance, path)
        if refused is not None:
            return refused(turn.scope, turn.receive, turn.send)
        direct = self._direct.get(path)
        return self.app(turn.scope, turn.receive, turn.send) if direct is None else direct.answer(turn)

    def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> Awaitable[None]:
        """See ASGI; whoever is refused is so once this is awaited."""
        if scope["type"] == "http":
            refused = self._refused(Entrance(scope["path"], scope["headers"]), scope["path"])
            if refused is not None:
                return refused(scope, receive, send)
        return self.app(scope, receive, send)

    def _refused(self, entrance: Entrance, path: str) -> Response | None:
        """What whoever may not come in is told."""
        try:
            if self._doorman.admit_request(entrance):
                return None
        except EdgewiseError as error:
            return problem(error, path)
        return problem(RequestError("PATH_NOT_FOUND", "This gateway has no such path."), path)


def problem(error: EdgewiseError, path: str) -> Response:
    """An error as the clients of a path read it."""
    told = openai_problem if path.startswith("/v1/") else oip_problem if path.startswith("/v2") else plain_problem
    status, body, headers = told(error)
    if path == PAGE and "www-authenticate" in headers:
        # What browsers understand: they ask their user for the key.
        headers["www-authenticate"] = 'Basic realm="Edgewise: any name, a key as password", charset="UTF-8"'
    return JSONResponse(body, status, headers)


def http_app(
    service: Service,
    *,
    identity: Identity | None = None,
    limit_bytes: int = DEFAULT_BODY_BYTES,
    max_deadline_s: float = DEFAULT_DEADLINE_S,
    cache: AnswerCache | None = None,
) -> Starlette:
    """The ASGI application, unguarded.

    Args:
        service: Does the work.
        identity: Takes nodes in; None where there is no TLS.
        limit_bytes: Most bytes of a body.
        max_deadline_s: The longest that a request may take.
        cache: Answers of texts that are given again; None keeps none.
    """

    async def live(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_: Request) -> Response:
        reasons = unready_reasons(service)
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def version(_: Request) -> Response:
        return JSONResponse({"version": __version__})

    async def metrics(_: Request) -> Response:
        service.publish()
        fleet = service.fleet
        up = {name: name in fleet.sessions and fleet.board.nodes[name].routable for name in fleet.known}
        service.metrics.node_up = up
        service.metrics.pacing = service.pacing.records()
        service.metrics.balances = await service.till.ledger.balances()
        service.metrics.overshoot_j = service.till.ledger.overshoot_j
        service.metrics.queue_depth = service.admission.queued
        return Response(service.metrics.render(), media_type=CONTENT_TYPE)

    async def fleet(_: Request) -> Response:
        return HTMLResponse(await fleet_page(service), headers=HEADERS)

    return Starlette(
        routes=[
            Route("/", fleet),
            Route("/healthz", live),
            Route("/health", live),
            Route("/readyz", ready),
            Route("/version", version),
            Route("/metrics", metrics),
            *identity_routes(identity),
            *door_routes(service, limit_bytes=limit_bytes, max_deadline_s=max_deadline_s, cache=cache),
        ]
    )


def unready_reasons(service: Service) -> list[str]:
    """Why the gateway cannot answer queries now; empty when it can."""
    if service.admission.closed:
        return ["draining"]
    if not any(service.planner.standing(task) for task in service.fleet.tasks):
        return ["no node with an expert is connected"]
    return []
