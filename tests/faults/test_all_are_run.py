"""`make faults` runs every campaign of this folder."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
# Started by campaigns, for what happens in processes of its own.
PARTS = {"crowd", "ray_cluster", "ray_jobs", "watched_gateway"}


def test_make_faults_runs_every_campaign() -> None:
    makefile = (HERE.parents[1] / "Makefile").read_text()
    run = set(re.findall(r"-m tests\.faults\.(\w+)", makefile))
    campaigns = {file.stem for file in HERE.glob("*.py") if '\nif __name__ == "__main__":' in file.read_text()}
    assert run == campaigns - PARTS
