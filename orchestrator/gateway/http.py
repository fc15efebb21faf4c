"""Liveness, readiness, version and metrics over HTTP; no authentication, no detail beyond reasons."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from orchestrator import __version__
from orchestrator.gateway.service import Service
from orchestrator.metrics import CONTENT_TYPE


def http_app(service: Service) -> Starlette:
    """The ASGI application."""

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
        service.metrics.queue_depth = service.admission.queued
        return Response(service.metrics.render(), media_type=CONTENT_TYPE)

    return Starlette(
        routes=[
            Route("/healthz", live),
            Route("/health", live),
            Route("/readyz", ready),
            Route("/version", version),
            Route("/metrics", metrics),
        ]
    )


def unready_reasons(service: Service) -> list[str]:
    """Why the gateway cannot answer queries now; empty when it can."""
    if service.admission.closed:
        return ["draining"]
    if not any(service.planner.standing(task) for task in service.fleet.tasks):
        return ["no node with an expert is connected"]
    return []
