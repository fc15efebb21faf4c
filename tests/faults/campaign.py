"""Every fault many times: ``python -m tests.faults.campaign --repeats N`` (or ``make faults N=200``).

Prints each repeat, judges all repeats of a scenario together, appends one line per scenario to
``tests/faults/results.jsonl`` and exits 1 naming every bar that does not hold. The controls (retries switched off) must
miss the bars of the scenarios that they control; they get a tenth of the repeats, as each of their failures is certain.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from tests.bench.harness import commit, machine
from tests.fakes.processes import Fleet
from tests.faults import scenarios
from tests.faults.bars import missed, missed_restart
from tests.faults.history import Outcome, p99_ms, pool
from tests.faults.scenarios import NO_RETRIES, NODES, Restart, Scenario, staged, warm_up

RESULTS = Path(__file__).parent / "results.jsonl"
FAULTS: Mapping[str, Scenario] = {
    "kill_node": scenarios.kill_node,
    "stop_node": scenarios.stop_node,
    "kill_engine": scenarios.kill_engine,
}
CONTROLS: Mapping[str, Scenario] = {
    "kill_node": scenarios.kill_node,
    "stop_node": scenarios.stop_node,
}
NAMES = (*FAULTS, "restart_gateway", *(f"control_{name}" for name in CONTROLS))


@dataclass(frozen=True)
class Line:
    """What is kept of one scenario: its figures and the bars that it missed."""

    scenario: str
    repeats: int
    figures: dict[str, object]
    missed: list[str]


async def repeated(fleet: Fleet, name: str, scenario: Scenario, *, repeats: int) -> Outcome:
    """Run one scenario so often, each time with the next seed, and pool what became of the requests."""
    outcomes = []
    for seed in range(repeats):
        async with staged(fleet, seed=seed, label=name) as stage:
            outcomes.append(await scenario(stage))
        print(f"  {name} {seed + 1}/{repeats}: {describe(outcomes[-1])}", flush=True)
    return pool(outcomes)


async def restarted(fleet: Fleet, *, repeats: int) -> list[Restart]:
    """Restart the gateway so often."""
    restarts = []
    for seed in range(repeats):
        async with staged(fleet, seed=seed, label="restart_gateway") as stage:
            restarts.append(await scenarios.restart_gateway(stage))
        print(f"  restart_gateway {seed + 1}/{repeats}: {restarts[-1]}", flush=True)
    return restarts


def describe(outcome: Outcome) -> str:
    """The figures of one or more runs on one line."""
    back = f", back after {max(outcome.back_s):.2f} s" if outcome.back_s else ""
    return (
        f"answered {outcome.answered}/{outcome.accepted}, hit and rescued {outcome.rescued}/{outcome.hit},"
        f" overdue {outcome.overdue}, p99 {p99_ms(outcome.calm_ms):.1f} -> {p99_ms(outcome.unaffected_ms):.1f} ms"
        f" ({outcome.p99_ratio:.2f}){back}"
    )


def figures(outcome: Outcome) -> dict[str, object]:
    """What is kept of pooled runs."""
    counts = {name: value for name, value in asdict(outcome).items() if not isinstance(value, tuple)}
    quartiles = np.percentile(outcome.p99_ratios, (25, 75)).round(3).tolist()
    return counts | {
        "reasons": list(outcome.reasons),
        "p99_calm_ms": round(p99_ms(outcome.calm_ms), 3),
        "p99_unaffected_ms": round(p99_ms(outcome.unaffected_ms), 3),
        "p99_ratio_pooled": round(outcome.pooled_p99_ratio, 3),
        "p99_ratio_median": round(outcome.p99_ratio, 3),
        "p99_ratio_quartiles": quartiles,
        "back_s_max": max(outcome.back_s, default=None),
    }


def figures_of_restarts(restarts: Sequence[Restart]) -> dict[str, object]:
    """What is kept of restarts."""
    back_s = [restart.agents_back_s for restart in restarts]
    return {
        "agents_back_s_median": round(float(np.median(back_s)), 3),
        "agents_back_s_max": round(max(back_s), 3),
        "hung": sum(restart.hung for restart in restarts),
        "budgets_kept": sum(restart.budget_kept for restart in restarts),
        "orphans": sum(restart.orphans for restart in restarts),
        "answered_again": sum(restart.answered for restart in restarts),
    }


async def campaign(fleet: Fleet, names: Sequence[str], *, repeats: int) -> list[Line]:
    """All scenarios in turn; those without retries last, behind another gateway."""
    lines = []
    await warm_up(fleet)
    for name in [name for name in names if name in FAULTS]:
        outcome = await repeated(fleet, name, FAULTS[name], repeats=repeats)
        lines.append(Line(name, repeats, figures(outcome), missed(name, outcome)))
    if "restart_gateway" in names:
        restarts = await restarted(fleet, repeats=repeats)
        lines.append(Line("restart_gateway", repeats, figures_of_restarts(restarts), missed_restart(restarts)))
    controls = [name for name in CONTROLS if f"control_{name}" in names]
    if controls:
        await asyncio.to_thread(without_retries, fleet)
        await warm_up(fleet)
    for name in controls:
        few = max(1, repeats // 10)
        outcome = await repeated(fleet, f"control_{name}", CONTROLS[name], repeats=few)
        lines.append(Line(f"control_{name}", few, figures(outcome), control_missed(name, outcome)))
    return lines


def without_retries(fleet: Fleet) -> None:
    """Put a gateway that tries nothing twice in the place of the present one."""
    if fleet.gateway is not None:
        fleet.gateway.end_group()
    fleet.start_gateway(NO_RETRIES)
    fleet.wait_ready()


def control_missed(name: str, outcome: Outcome) -> list[str]:
    """A control holds when the requests that the fault hit are *not* answered."""
    told = [sentence for sentence in missed(name, outcome) if "that were hit got an answer" in sentence]
    return [] if told else [f"control_{name}: the check passes without retries, so it checks nothing"]


def record(lines: Sequence[Line]) -> None:
    """Append dated lines to the results."""
    origin = {"date": time.strftime("%Y-%m-%d"), "commit": commit(), "machine": machine()}
    with RESULTS.open("a") as file:
        for line in lines:
            file.write(json.dumps({**origin, **asdict(line)}, allow_nan=False) + "\n")


def conclude(lines: Sequence[Line], *, keep: bool) -> NoReturn:
    """Write the lines down, if they are to be kept, print them, and exit 1 naming every bar that does not hold."""
    if keep:
        record(lines)
    for line in lines:
        print(f"{line.scenario} x{line.repeats}: {json.dumps(line.figures)}")
    told = [sentence for line in lines for sentence in line.missed]
    for sentence in told:
        print(f"bar missed: {sentence}")
    sys.exit(1 if told else 0)


def main() -> None:
    """Run, print, record, judge."""
    parser = argparse.ArgumentParser(description="Inject faults into real processes under load.")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--scenario", action="append", choices=NAMES, help="one of them; all without it")
    parser.add_argument("--no-record", action="store_true", help="leave results.jsonl as it is")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Fleet(Path(folder)) as fleet:
        fleet.start(*NODES)
        lines = asyncio.run(campaign(fleet, options.scenario or NAMES, repeats=options.repeats))
    conclude(lines, keep=not options.no_record)


if __name__ == "__main__":
    main()
