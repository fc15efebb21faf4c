"""The selection solver against every set and an independent MILP, in full.

``python -m tests.faults.milp_agreement [--problems N]`` (part of ``make faults``, about ten minutes of one core): 500
random problems per utility and mode, the same as in `tests/property/test_selection.py`, of which the default run takes
25 to 100 each to the MILP. Every answer is certified too. The controls put greedy in the exact solver's place,
which must be caught for every utility and mode.
"""

from __future__ import annotations

import argparse
import time

from optimizer.native.library import available
from optimizer.selection.baselines.greedy import solve_greedily
from optimizer.selection.problem import Mode
from tests.faults.campaign import Line, conclude
from tests.property.selection_agreement import against_both, against_milp
from tests.property.selection_problems import MODES, UTILITIES, make_problem

PROBLEMS = 500
CONTROL_PROBLEMS = 50


def compared(utility: str, mode: Mode, problems: int) -> Line:
    """One utility in one mode."""
    name, began_s = f"milp_{utility}_{mode.value}", time.monotonic()
    told = {seed: against_both(make_problem(utility, mode, seed)) for seed in range(problems)}
    wrong = {seed: reason for seed, reason in told.items() if reason}
    figures: dict[str, object] = {
        "problems": problems,
        "disagreements": len(wrong),
        "seconds": round(time.monotonic() - began_s, 1),
    }
    print(f"  {name}: {len(wrong)} of {problems} disagree after {figures['seconds']} s", flush=True)
    return Line(name, problems, figures, [f"{name}: problem {seed}: {reason}" for seed, reason in wrong.items()])


def control(utility: str, mode: Mode) -> Line:
    """Greedy in the exact solver's place."""
    name, seeds = f"control_milp_{utility}_{mode.value}", range(CONTROL_PROBLEMS)
    caught = sum(bool(against_milp(make_problem(utility, mode, seed), solve_greedily)) for seed in seeds)
    missed = [] if caught else [f"{name}: a solver that is not exact passes"]
    return Line(name, CONTROL_PROBLEMS, {"problems": CONTROL_PROBLEMS, "disagreements": caught}, missed)


def campaign(problems: int) -> list[Line]:
    """Every utility in both modes, each with its control."""
    pairs = [(utility, mode) for utility in UTILITIES for mode in MODES]
    return [*(compared(*pair, problems) for pair in pairs), *(control(*pair) for pair in pairs)]


def main() -> None:
    """Run, record, judge."""
    parser = argparse.ArgumentParser(description="The selection solver against every set and a MILP.")
    parser.add_argument("--problems", type=int, default=PROBLEMS, help="per utility and mode")
    parser.add_argument("--no-record", action="store_true", help="leave results.jsonl as it is")
    options = parser.parse_args()
    if not available():
        parser.error("the compiled solver is not built here, so there is nothing to compare; run `make test` once")
    conclude(campaign(options.problems), keep=not options.no_record)


if __name__ == "__main__":
    main()
