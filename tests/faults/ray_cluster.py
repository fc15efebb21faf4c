"""A Ray cluster of several raylets on this machine's loopback, in a process of its own.

``python -m tests.faults.ray_cluster FOLDER`` reads one order per line and answers each with one line of JSON. It ends,
with everything that it started, when its standard input does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from nodes.ray.head import HEALTH

STORE_BYTES = 100 * 2**20
ADDRESS = "127.0.0.1"
WORKERS = ("device-a", "device-b")


def settle(folder: Path, *, guarded: bool) -> None:
    """What Ray reads when it is imported."""
    (folder / "ray").mkdir(parents=True, exist_ok=True)
    os.environ.update(HEALTH)
    os.environ.update(
        RAY_TMPDIR=str(folder),
        RAY_USAGE_STATS_ENABLED="0",
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
        RAY_AUTH_MODE="token" if guarded else "disabled",
        RAY_AUTH_TOKEN_PATH=str(folder / "token"),
    )


class House:
    """The cluster: a head without cores, and workers of one core each."""

    def __init__(self, *, workers: bool) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "node_ip_address": ADDRESS}
        self._cluster = Cluster(initialize_head=True, head_node_args={**head, "include_dashboard": False})
        self._workers: dict[str, Any] = {}
        for name in WORKERS if workers else ():
            self.add(name)

    def told(self) -> dict[str, Any]:
        """Address and process ids."""
        pids = {name: node.all_processes["raylet"][0].process.pid for name, node in self._workers.items()}
        nodes = {name: node.node_id for name, node in self._workers.items()}
        return {"address": self._cluster.address, "raylets": pids, "nodes": nodes}

    def add(self, name: str) -> dict[str, Any]:
        """Start a worker's raylet."""
        labels = {"edgewise.device": name, "edgewise.pool": "edge"}
        self._workers[name] = self._cluster.add_node(
            num_cpus=1, object_store_memory=STORE_BYTES, node_ip_address=ADDRESS, labels=labels
        )
        return self.told()

    def kill_raylet(self, name: str) -> dict[str, Any]:
        """SIGKILL of one worker's raylet alone."""
        self._workers.pop(name).kill_raylet()
        return self.told()

    def kill_head(self) -> dict[str, Any]:
        """SIGKILL of what knows the cluster."""
        self._cluster.head_node.kill_gcs_server()
        return {}

    def close(self) -> None:
        """Kill everything."""
        for node in [*self._workers.values(), self._cluster.head_node]:
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--open", action="store_true", help="Without authentication and workers.")
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    settle(options.folder, guarded=not options.open)
    house = House(workers=not options.open)
    try:
        print(json.dumps(house.told()), file=answers, flush=True)
        for line in sys.stdin:
            verb, *arguments = line.split()
            print(json.dumps(getattr(house, verb)(*arguments)), file=answers, flush=True)
    finally:
        house.close()


if __name__ == "__main__":
    main()
