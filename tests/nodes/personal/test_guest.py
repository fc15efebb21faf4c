"""A training takes only what nobody else wants, from its first import on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nodes.personal.guest import main as guest

REPOSITORY = Path(__file__).parents[3]
GUEST = guest.__module__
TELL = """
import os, sys
print(os.nice(0), os.sched_getscheduler(0) == os.SCHED_IDLE, *sys.argv[1:])
sys.exit(3)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="NOT RUN: scheduling classes are asked of Linux")
def test_a_guest_steps_back_and_is_the_module_that_was_named(tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text(TELL)

    def told(*command: str) -> tuple[list[str], int]:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{tmp_path}"},
            capture_output=True,
            text=True,
        )
        return done.stdout.split(), done.returncode

    assert told(GUEST, "told", "folder", "8") == (["19", "True", "folder", "8"], 3)
    # The control: the same module by itself has the priority of whoever starts it.
    assert told("told", "folder", "8") == ([str(os.nice(0)), "False", "folder", "8"], 3)
