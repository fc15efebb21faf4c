"""Peers in a process of their own: its Python environment, made once, and the pipe to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optimizer.selection.problem import Problem
from optimizer.selection.utility import AnyRight, BestOf

HERE = Path(__file__).parent
VENV = HERE.parents[1] / "build" / "peers" / "solver" / ".venv"
PACKAGES = ("numpy==2.4.6", "highspy==1.16.0", "pyscipopt==6.3.0", "ortools==9.15.6755")


@dataclass(frozen=True)
class Reply:
    """A peer's answer to one problem.

    Args:
        active: The set that it found.
        seconds: Inside its own calls.
        finished: It proved optimality within the time limit.
    """

    active: tuple[int, ...]
    seconds: float
    finished: bool


class Peers:
    """The running process."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._file = process, folder / "instance.npz"
        self.versions: dict[str, str] = self._read()

    def solve(self, problem: Problem, peer: str, *, encoding: str = "", time_limit_s: float = 20.0) -> Reply:
        """Ask one peer."""
        np.savez(self._file, **_arrays(problem, time_limit_s))
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"peer": peer, "encoding": encoding, "file": str(self._file)}) + "\n")
        self._process.stdin.flush()
        reply = self._read()
        finished = reply["finished"] and reply["seconds"] <= time_limit_s
        return Reply(tuple(reply["active"]), min(reply["seconds"], time_limit_s), finished)

    def _read(self) -> Any:
        """The next line of JSON; solvers print greetings in between."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError("the process with the other solvers has ended")


def _arrays(problem: Problem, time_limit_s: float) -> dict[str, Any]:
    """The problem as `Instance` has it; energies in tenths of a joule are whole numbers."""
    utility, limit_j = problem.utility, problem.limits.energy_j
    assert limit_j is not None
    if isinstance(utility, AnyRight):
        worth_qn = utility.right_qn
    else:
        assert isinstance(utility, BestOf)
        worth_qn = problem.weights_q[:, None] * utility.quality_qn
    return {
        "worth_qn": worth_qn,
        "weights_q": problem.weights_q,
        "cost_n": np.rint([arm.energy_j * 10.0 for arm in problem.arms]).astype(np.int64),
        "limit": round(limit_j * 10.0),
        "any_right": isinstance(utility, AnyRight),
        "time_limit_s": time_limit_s,
    }


def environment() -> Path:
    """The interpreter that has the peers; installs them the first time."""
    python = VENV / "bin" / "python"
    if not python.exists():
        print(f"installing {', '.join(PACKAGES)} into {VENV} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


@contextmanager
def peers() -> Iterator[Peers]:
    """Start the process, end it afterwards."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    variables = {**os.environ, **single, "PYTHONPATH": str(HERE)}
    command = [str(environment()), "-m", "solver_peers.serve"]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables, cwd=HERE
        )
        try:
            yield Peers(process, Path(folder))
        finally:
            process.kill()
            process.wait()
