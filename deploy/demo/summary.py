"""What the demo leaves in ``summary.json``, and what it says of the machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.demo.devices import DEVICES, NOISE
from deploy.demo.questions import TextRow
from deploy.demo.rows import ENERGY_SOURCE, MS_SOURCE, Row
from optimizer.learning.simulate import Policy
from orchestrator import __version__
from orchestrator.client.types import FleetStatus

POLICY_SEED = 0
ENERGY_NOTE = (
    "Energy counts arithmetic: multiply-accumulates times each device's published effective joules per"
    " multiply-accumulate. The overhead of a call on a real device, of the network and of the gateway is not in it."
)


def write_summary(
    path: Path,
    rows: Sequence[Row],
    texts: Sequence[TextRow],
    *,
    status: FleetStatus,
    baselines: Mapping[str, Policy],
    asked: Mapping[str, int],
) -> None:
    """Write all rows and what is needed to read them."""
    document = {
        "version": __version__,
        "machine": machine(),
        "seeds": {"policies": POLICY_SEED, "noise": {device.node: device.noise_seed for device in DEVICES}},
        "devices": [_device(status, index) for index in range(len(DEVICES))],
        "noise": NOISE,
        **asked,
        "ms_source": MS_SOURCE,
        "energy_source": ENERGY_SOURCE,
        "note": ENERGY_NOTE,
        "baselines": {name: _policy(policy) for name, policy in baselines.items()},
        "rows": [row.document for row in rows],
        "text_rows": [row.document for row in texts],
    }
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def machine() -> dict[str, object]:
    """The machine on which the milliseconds were measured."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    """The processor's name; Linux tells it in a file only."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown"


def _device(status: FleetStatus, index: int) -> dict[str, object]:
    device = DEVICES[index]
    node = next(node for node in status.nodes if node.node == device.node)
    return {
        "node": device.node,
        "device": f"{node.device} (simulated)",
        "profile": device.profile,
        "energy_method": node.energy_method,
        "experts": list(device.experts),
        "texts": list(device.texts),
    }


def _policy(policy: Policy) -> list[dict[str, object]]:
    shares = zip(policy.routes, policy.share_r, strict=True)
    return [{"route": route.name, "share_fraction": share} for route, share in shares]
