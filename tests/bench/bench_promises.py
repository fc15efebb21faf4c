"""Budgets that hold although actual joules and milliseconds differ from predicted ones, over several seeds.

The same world and the same checks as `tests/faults/test_promises.py` (see `tests/faults/world.py` for what is drawn):
the worst seed counts. Runs on a virtual clock, so the machine does not matter.
"""

from __future__ import annotations

from orchestrator import log
from tests.bench.harness import Bar, Row, main
from tests.faults.promises import play, score
from tests.faults.world import draw_world

BARS = (
    Bar("joule_miss_fraction_worst", 0.01, "<="),
    Bar("latency_miss_fraction_worst", 0.01, "<="),
    Bar("admitted_of_feasible_fraction_worst", 0.95, ">="),
    Bar("spent_of_budgets_fraction_worst", 1.0, "<="),
)
SEEDS = range(6)
REQUESTS = 4000


def run() -> list[Row]:
    """The worst figure of all seeds with margins, and the mildest miss without."""
    log.configure(form="console", level="error")
    worlds = [draw_world(REQUESTS, seed=seed) for seed in SEEDS]
    kept = [score(world, play(world)) for world in worlds]
    control = [score(world, play(world, margins=False)) for world in worlds]
    sizes: dict[str, object] = {"requests": REQUESTS, "seeds": len(SEEDS)}
    figures = {
        "joule_miss_fraction_worst": max(one.joule_miss_fraction for one in kept),
        "latency_miss_fraction_worst": max(one.latency_miss_fraction for one in kept),
        "admitted_of_feasible_fraction_worst": min(one.admitted_of_feasible_fraction for one in kept),
        "admitted_of_feasible_fraction_best": max(one.admitted_of_feasible_fraction for one in kept),
        "spent_of_budgets_fraction_worst": max(one.spent_j / one.budgets_j for one in kept),
        "control_joule_miss_fraction_least": min(one.joule_miss_fraction for one in control),
        "control_latency_miss_fraction_least": min(one.latency_miss_fraction for one in control),
    }
    return [Row(metric, value, "fraction", sizes) for metric, value in figures.items()]


if __name__ == "__main__":
    main(stem="promises", run=run, bars=BARS)
