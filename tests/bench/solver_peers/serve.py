"""One JSON line in, one JSON line out: ``{"peer", "encoding", "file"}`` to ``{"active", "seconds", "finished"}``.

The file is an npz with the fields of `Instance`. The first line that it prints is the versions of the solvers.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any

import numpy as np

from . import cpsat, highs, scip
from .instance import Answer, Instance

PEERS = {"highs": highs.solve, "scip": scip.solve, "cpsat": cpsat.solve}
PACKAGES = ("highspy", "pyscipopt", "ortools")


def answer(request: dict[str, Any]) -> Answer:
    """Solve what is asked for."""
    with np.load(request["file"], allow_pickle=False) as file:
        instance = Instance(
            worth_qn=file["worth_qn"],
            weights_q=file["weights_q"],
            cost_n=file["cost_n"],
            limit=int(file["limit"]),
            any_right=bool(file["any_right"]),
            time_limit_s=float(file["time_limit_s"]),
        )
    return PEERS[request["peer"]](instance, request["encoding"])


def main() -> None:
    """Serve until the input ends."""
    print(json.dumps({name: version(name) for name in PACKAGES}), flush=True)
    for line in sys.stdin:
        found = answer(json.loads(line))
        reply = {"active": found.active, "seconds": found.seconds, "finished": found.finished}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
