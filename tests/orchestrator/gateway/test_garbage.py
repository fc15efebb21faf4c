"""How many objects the collector goes through at once in a process that lives long, counted in a process of its own."""

import subprocess
import sys

import pytest

# What the collector may go through at once while many nodes join.
MOST_OBJECTS = 10_000

GROWING = """
import gc
from {module} import collect_in_slices

seen = []

def look(phase, info):
    if phase == "start":
        looked = range(info["generation"] + 1)
        seen.append(sum(len(gc.get_objects(generation=n)) for n in looked) if info["generation"] < 2 else 10**9)

{settle}
gc.callbacks.append(look)
kept = [[number] for number in range(300_000)]
print(max(seen))
"""


GATEWAY, AGENT = "orchestrator.gateway.garbage", "nodes.run"


def most_looked_at(settle: str, module: str = GATEWAY) -> int:
    """Objects of the longest look while 300,000 are made and kept."""
    program = GROWING.format(settle=settle, module=module)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(ran.stdout)


@pytest.mark.parametrize("module", [GATEWAY, AGENT])
def test_the_collector_never_goes_through_many_objects_at_once(module: str) -> None:
    assert most_looked_at("collect_in_slices()", module) <= MOST_OBJECTS


def test_left_to_itself_it_would() -> None:
    assert most_looked_at("gc.freeze()") > MOST_OBJECTS


def test_with_wide_thresholds_it_would() -> None:
    assert most_looked_at("gc.freeze(); gc.set_threshold(50_000, 20, 50)") > MOST_OBJECTS
