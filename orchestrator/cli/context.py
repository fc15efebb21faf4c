"""What all verbs share: global options, the output switch, and the way to a client."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from orchestrator.client import Client

DEFAULT_GATEWAY = "127.0.0.1:8421"

Function = TypeVar("Function", bound=Callable[..., Any])


def shown_key(environment: Mapping[str, str]) -> str | None:
    """The key that calls show: $EDGEWISE_API_KEY, or what the file $EDGEWISE_API_KEY_FILE holds.

    There is no flag for it: what stands on a command line is seen by everybody on the machine.
    """
    if key := environment.get("EDGEWISE_API_KEY"):
        return key
    file = environment.get("EDGEWISE_API_KEY_FILE")
    try:
        return Path(file).read_text().strip() if file else None
    except OSError as error:
        why = (error.strerror or "unknown cause").lower()
        raise click.UsageError(f"the file {file} of EDGEWISE_API_KEY_FILE cannot be read: {why}") from error


@dataclass
class Session:
    """Global options of one run of the command."""

    gateway: str = DEFAULT_GATEWAY
    ca: Path | None = None
    gateway_given: bool = False
    verbose: bool = False
    quiet: bool = False
    color: bool = True

    def client(self, timeout_ms: float = 10_000.0) -> Client:
        """A client of the gateway that was asked for; every call gets `timeout_ms`."""
        from orchestrator.client import Client

        self.debug(f"gateway {self.gateway}, deadline {timeout_ms:g} ms")
        ca_file = self.authority()
        return Client(self.gateway, timeout_s=timeout_ms / 1e3, key=shown_key(os.environ), ca_file=ca_file)

    def authority(self) -> Path | None:
        """Whom to trust: what --ca says, or the gateway of this machine where it is the one that is asked."""
        from orchestrator.places import local_authority

        found = local_authority(os.environ) if self.ca is None else None
        if found is None:
            return self.ca
        from orchestrator.client.tls import read_authority, speaks_tls

        # An authority may be left from a time when the gateway ran with TLS.
        return found if speaks_tls(self.gateway, read_authority(found)) else None

    def note(self, text: str) -> None:
        """Tell the user something that is not the result."""
        if not self.quiet:
            click.echo(text, err=True)

    def debug(self, text: str) -> None:
        """Tell the user what only `-v` asks for."""
        if self.verbose:
            click.echo(text, err=True)


def _keep_gateway(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value:
        session = ctx.ensure_object(Session)
        session.gateway, session.gateway_given = _address(value), True


def _keep_authority(ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    if value:
        ctx.ensure_object(Session).ca = value


def _address(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) <= 65_535):
        raise click.BadParameter("write HOST:PORT, for example 127.0.0.1:8421", param_hint="--gateway")
    return value


def gateway_option(function: Function) -> Function:
    """Add `--gateway HOST:PORT` and `--ca FILE`; they may stand before or after the verb."""
    named = click.option(
        "--ca",
        envvar="EDGEWISE_CA",
        type=click.Path(path_type=Path, dir_okay=False),
        expose_value=False,
        callback=_keep_authority,
        help="Certificate of the authority of a gateway with TLS.  [default: found where it runs; env: EDGEWISE_CA]",
    )(function)
    return click.option(
        "--gateway",
        envvar="EDGEWISE_GATEWAY",
        metavar="HOST:PORT",
        expose_value=False,
        callback=_keep_gateway,
        help=f"The gateway to talk to.  [default: {DEFAULT_GATEWAY}; env: EDGEWISE_GATEWAY]",
    )(named)


def output_option(function: Function) -> Function:
    """Add `-o/--output table|json`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="For people or for programs; JSON is alone on stdout.",
    )(function)
