"""Write `deploy/docs/reference.md` from the code, or check that the committed page is what the code says.

Run as ``python -m deploy.reference [--check]``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from prometheus_client import CollectorRegistry

from orchestrator.cli.main import cli
from orchestrator.config import GatewayConfig
from orchestrator.errors import CATALOGUE, ExitCode
from orchestrator.metrics import Metrics

PAGE = Path(__file__).parent / "docs" / "reference.md"

HEAD = """# Reference

Made from the code by `make proto`; `make check` fails when it is stale.

## Ports and files

All ports are the gateway's: gRPC on 8421 (clients; nodes too without TLS), HTTP on 8420 (`/` for people, `/healthz`,
`/readyz`, `/version`, `/metrics`; `/cacerts` and `/v1/nodes/join` with TLS), and with TLS gRPC on 8422 for nodes
([identity](identity.md)). Nodes open none. Configuration: `$XDG_CONFIG_HOME/edgewise/config.yaml`; state:
`$XDG_DATA_HOME/edgewise`. Every value: flag > `EDGEWISE_…` variable (nested with `__`) > file > default;
`edgewise config show --effective` says which it was. Node settings: `edgewise node run --help`, or
`EDGEWISE_NODE_<FLAG>`.
"""


def _table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _settings(schema: dict[str, Any], node: dict[str, Any], path: str = "") -> Iterator[tuple[str, ...]]:
    for name, field in node["properties"].items():
        target = field.get("$ref") or next((part["$ref"] for part in field.get("allOf", ())), None)
        if target is not None:
            yield from _settings(schema, schema["$defs"][target.rpartition("/")[2]], f"{path}{name}.")
            continue
        default = field.get("default", "")
        yield f"`{path}{name}`", f"`{default}`" if default not in ("", None) else "", field.get("description", "")


def _errors() -> Iterator[tuple[str, ...]]:
    for reason, surface in sorted(CATALOGUE.items()):
        retry = "yes" if surface.retryable else "no"
        yield f"`{reason}`", surface.grpc_code.name, str(surface.http_status), str(int(surface.exit_code)), retry


def _metrics(registry: CollectorRegistry) -> Iterator[tuple[str, ...]]:
    for metric in registry.collect():
        yield f"`{metric.name}`", metric.type, metric.documentation


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
        elif command is not None:
            yield f"`{path} {name}`", command.get_short_help_str(limit=200)


def page() -> str:
    """The whole page."""
    schema = GatewayConfig.model_json_schema()
    exits = ((str(int(code)), code.name.lower().replace("_", " ")) for code in ExitCode)
    return "\n".join(
        [
            HEAD,
            "## Commands\n",
            _table(("command", "what it does"), _commands(cli, "edgewise")),
            "## Gateway configuration\n",
            _table(("key", "default", "meaning"), _settings(schema, schema)),
            "## Errors\n",
            "The reason is in the `google.rpc.ErrorInfo` of every gRPC error and never changes; texts may.\n",
            _table(("reason", "gRPC", "HTTP", "exit code", "retry"), _errors()),
            "## Exit codes of `edgewise`\n",
            _table(("code", "meaning"), exits),
            "## Metrics\n",
            _table(("name", "type", "meaning"), _metrics(Metrics().registry)),
        ]
    )


def main(arguments: list[str]) -> int:
    """Entry point; returns the exit code."""
    if arguments != ["--check"]:
        PAGE.write_text(page())
        return 0
    if PAGE.exists() and PAGE.read_text() == page():
        return 0
    print(f"{PAGE.name}: not what the code says; run `make proto` and commit")
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
