"""The few HTTPS requests of a node that joins: small answers, bounded times."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from nodes.identity.errors import IdentityProblem, NoGateway

TIMEOUT_S = 10.0
MAX_BODY_BYTES = 65_536


@dataclass(frozen=True)
class Place:
    """Where a gateway answers over HTTPS."""

    host: str
    port: int

    @property
    def netloc(self) -> str:
        """HOST:PORT."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def place_of(target: str) -> Place:
    """HOST:PORT, taken apart."""
    host, _, port = target.rpartition(":")
    return Place(host.strip("[]"), int(port))


@dataclass(frozen=True)
class Reply:
    """An answer; `date_unix_s` is the gateway's clock, None where it does not say."""

    status: int
    body: bytes
    date_unix_s: float | None

    def json(self) -> dict[str, Any]:
        """The body; empty where it is no JSON object."""
        try:
            tree = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return tree if isinstance(tree, dict) else {}


def parse_place(url: str) -> Place:
    """Read ``https://HOST[:PORT]``.

    Raises:
        IdentityProblem: It is something else; over plain HTTP a token would be given away.
    """
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port or 8420
    except ValueError:
        host, port = None, 0
    if parts.scheme != "https" or not host or parts.path not in ("", "/") or parts.query:
        raise IdentityProblem("write the gateway as https://HOST:8420, first thing after `join`")
    return Place(host, port)


def unverified() -> ssl.SSLContext:
    """For what everybody may know and what is checked by its hash."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def verified(authority_pem: bytes) -> ssl.SSLContext:
    """Trusts one authority and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority_pem.decode("ascii", "replace"))
    return context


def ask(place: Place, path: str, *, context: ssl.SSLContext, body: dict[str, str] | None = None) -> Reply:
    """GET, or POST where there is a body.

    Raises:
        NoGateway: Nobody answers.
        ssl.SSLError: TLS does not come about.
    """
    connection = http.client.HTTPSConnection(place.host, place.port, timeout=TIMEOUT_S, context=context)
    try:
        content = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request("GET" if body is None else "POST", path, body=content, headers=headers)
        reply = connection.getresponse()
        return Reply(reply.status, reply.read(MAX_BODY_BYTES), _date(reply.getheader("date")))
    except ssl.SSLError:
        raise
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise NoGateway(
            f"no gateway answers at https://{place.netloc} ({why}); is its --http-listen reachable?"
        ) from error
    finally:
        connection.close()


def _date(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except ValueError:
        return None
