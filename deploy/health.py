"""``python -m deploy.health gateway|node``: whether the one in this container is well; exit code 0 or 1, one line.

A gateway is asked over HTTP. A node opens no port: its connection to the gateway is looked for in the kernel's table.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

TIMEOUT_S = 4.0
HTTP_PORT = 8420
# State of a connection in /proc/net/tcp.
ESTABLISHED = "01"
TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))


def ask_gateway(environment: Mapping[str, str], port: int = HTTP_PORT) -> str:
    """What is wrong with the gateway here; "" where nothing. With TLS its own authority must vouch for it."""
    authority = Path(environment.get("EDGEWISE_STATE_DIR", "/var/lib/edgewise")) / "identity" / "ca.pem"
    secure = authority.exists()
    context = ssl.create_default_context(cafile=authority) if secure else None
    url = f"{'https' if secure else 'http'}://localhost:{port}/healthz"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S, context=context) as reply:  # noqa: S310 (built here)
            return "" if reply.status == 200 else f"{url} says {reply.status}"
    except OSError as error:
        return f"{url}: {error}"


def established(tables: Sequence[str], port: int) -> bool:
    """Whether a connection to this port of somewhere else stands, by the text of /proc/net/tcp."""
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return any(int(row[2].rpartition(":")[2], 16) == port and row[3] == ESTABLISHED for row in rows)


def look_at_node(environment: Mapping[str, str], tables: Sequence[Path] = TABLES) -> str:
    """What is wrong with the node here; "" where nothing."""
    about = Path(environment.get("EDGEWISE_NODE_IDENTITY", "/var/lib/edgewise/identity")) / "node.json"
    try:
        gateway = str(json.loads(about.read_text())["gateway"])
    except (OSError, ValueError, KeyError):
        gateway = environment.get("EDGEWISE_NODE_GATEWAY", "")
    port = gateway.rpartition(":")[2]
    if not port.isdecimal():
        return f"{about} names no gateway: not joined yet"
    texts = [table.read_text() for table in tables if table.exists()]
    return "" if established(texts, int(port)) else f"not connected to {gateway}"


def main(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """Command line."""
    if list(arguments) not in (["gateway"], ["node"]):
        print("usage: python -m deploy.health gateway|node", file=sys.stderr)
        return 2
    wrong = ask_gateway(environment) if arguments[0] == "gateway" else look_at_node(environment)
    print(wrong or "well")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
