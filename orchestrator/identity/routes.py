"""Joining over HTTPS: the authority's certificate for everybody, a certificate for whoever has a token."""

from __future__ import annotations

import asyncio
import json
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from orchestrator.errors import EdgewiseError, RequestError
from orchestrator.identity.errors import IdentityError, tls_off
from orchestrator.wire import check_name

if TYPE_CHECKING:
    from orchestrator.identity.opening import Identity

log = structlog.get_logger("identity")

MAX_BODY_BYTES = 16_384
READ_S = 10.0
# How soon a node that waits for approval asks again.
POLL_S = 2.0
FIELDS = ("name", "token", "csr")
NOT_COUNTED = ("TOO_MANY_ATTEMPTS", "TLS_OFF")


def identity_routes(identity: Identity | None) -> list[Route]:
    """The routes; without TLS they say that there is none."""

    async def authority(_: Request) -> Response:
        if identity is None:
            return told(tls_off())
        # With the time, so that a node whose clock is wrong can say so.
        now = {"date": formatdate(usegmt=True)}
        return PlainTextResponse(identity.registrar.authority.pem, headers=now, media_type="application/x-pem-file")

    async def join(request: Request) -> Response:
        address = request.client.host if request.client else ""
        try:
            if identity is None:
                raise tls_off()
            return await answer(identity, request, address)
        except EdgewiseError as error:
            if identity is not None and error.reason not in NOT_COUNTED:
                log.warning("join.refused", reason=error.reason, address=address)
                identity.limiter.failed(address)
            return told(error)

    return [Route("/cacerts", authority, methods=["GET"]), Route("/v1/nodes/join", join, methods=["POST"])]


async def answer(identity: Identity, request: Request, address: str) -> Response:
    """Let a node in, or have it wait.

    Raises:
        EdgewiseError: See `Registrar.join`.
    """
    identity.limiter.check(address)
    name, token, csr = fields(await read_body(request))
    node = check_name(name, "name")
    issued = await identity.act(lambda: identity.registrar.join(node, token, csr.encode()))
    if issued is None:
        log.info("join.pending", node=name, address=address, next=f"edgewise node approve {name}")
        return JSONResponse({"state": "pending"}, 202, {"retry-after": f"{POLL_S:g}"})
    log.info("join.approved", node=name, address=address, serial=issued.serial)
    host, port = identity.nodes_listening
    return JSONResponse({"state": "approved", "certificate": issued.pem.decode(), "host": host, "port": port})


async def read_body(request: Request) -> bytes:
    """The body, which must come soon and be small.

    Raises:
        RequestError: MALFORMED_MESSAGE.
    """
    body = b""
    try:
        async with asyncio.timeout(READ_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise RequestError("MALFORMED_MESSAGE", f"The body may have {MAX_BODY_BYTES} bytes.")
    except TimeoutError:
        raise RequestError("MALFORMED_MESSAGE", f"The body must come within {READ_S:g} s.") from None
    return body


def fields(body: bytes) -> tuple[str, str, str]:
    """Name, token and request of a body: exactly these keys, all of them texts.

    Raises:
        RequestError: MALFORMED_MESSAGE.
    """
    try:
        pairs = json.loads(body, object_pairs_hook=list)
        names, values = [key for key, _ in pairs], [value for _, value in pairs]
        if sorted(names) == sorted(FIELDS) and all(isinstance(value, str) and value.isascii() for value in values):
            found = dict(zip(names, values, strict=True))
            return found["name"], found["token"], found["csr"]
    except (ValueError, TypeError, RecursionError):
        pass
    raise RequestError(
        "MALFORMED_MESSAGE", "The body must be JSON with the ASCII texts name, token and csr, once each."
    )


def told(error: EdgewiseError) -> Response:
    """An error as RFC 9457 has it."""
    surface = error.surface
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": surface.http_code.replace("_", " "),
        "status": surface.http_status,
        "detail": error.message,
        "code": surface.http_code,
    }
    headers = {} if error.retry_after_s is None else {"retry-after": f"{error.retry_after_s:g}"}
    if isinstance(error, IdentityError) and surface.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(body, surface.http_status, headers, media_type="application/problem+json")
