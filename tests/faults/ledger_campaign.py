"""The ledger's faults in full: ``python -m tests.faults.ledger_campaign`` (part of ``make faults``).

Power loss over 300 seeds and its control, 200 kills of a real gateway, a minute of overspending and its control. One
line each goes to ``tests/faults/results.jsonl``; exit code 1 names what does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from tests.faults.campaign import Line, conclude
from tests.faults.outage import outages
from tests.faults.overspend import Tally, overspend, wrong
from tests.faults.spending import killed, summary

SEEDS, KILLS, SECONDS = 300, 200, 60.0
KILLS_PER_RUN = 25


def power_loss() -> list[Line]:
    """With what SQLite syncs, and with less."""
    full = dict(outages(range(SEEDS)))
    less = dict(outages(range(SEEDS), synchronous="NORMAL"))
    missed = [] if full == {"ok": SEEDS} else [f"ledger_power_loss: {full}"]
    tame = [] if less.get("ok", 0) < SEEDS // 10 else ["control_ledger_power_loss: it passes with synchronous=NORMAL"]
    return [
        Line("ledger_power_loss", SEEDS, {"outcomes": full}, missed),
        Line("control_ledger_power_loss", SEEDS, {"outcomes": less}, tame),
    ]


def kills(count: int) -> list[Line]:
    """Kills of a gateway, some in a row on the same books, then on fresh ones."""
    truths, started_s = [], time.monotonic()
    for run in range(-(-count // KILLS_PER_RUN)):
        with tempfile.TemporaryDirectory() as folder:
            number = min(KILLS_PER_RUN, count - run * KILLS_PER_RUN) - 1
            truths.append(asyncio.run(killed(Path(folder), kills=number, seed=run)))
        print(f"  kills {summary(truths)} after {time.monotonic() - started_s:.0f} s", flush=True)
    told = summary(truths)
    return [Line("ledger_kill_gateway", count, told, [f"ledger_kill_gateway: {text}" for text in told["wrong"]])]  # type: ignore[attr-defined]


def overspending(seconds: float) -> list[Line]:
    """With the stop at the reservation, and without."""
    tallies = {}
    for name, stop in (("ledger_overspend", True), ("control_ledger_overspend", False)):
        with tempfile.TemporaryDirectory() as folder:
            tallies[name] = asyncio.run(overspend(Path(folder), seconds=seconds, seed=1, stop=stop))
    held, control = tallies.values()
    tame = [] if wrong(control) else ["control_ledger_overspend: it passes without the stop"]
    return [
        Line("ledger_overspend", 1, figures(held), [f"ledger_overspend: {text}" for text in wrong(held)]),
        Line("control_ledger_overspend", 1, figures(control) | {"wrong": wrong(control)}, tame),
    ]


def figures(tally: Tally) -> dict[str, object]:
    """What is kept of a run."""
    numbers = {name: round(value, 6) for name, value in vars(tally).items()}
    return numbers | {"utilisation_fraction": round(tally.utilisation_fraction, 6)}


def main() -> None:
    """Run, record, judge."""
    parser = argparse.ArgumentParser(description="Power loss, kills and overspending under the ledger.")
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--only", choices=["power", "kills", "overspend"])
    parser.add_argument("--no-record", action="store_true")
    options = parser.parse_args()
    lines = []
    if options.only in (None, "power"):
        lines += power_loss()
    if options.only in (None, "overspend"):
        lines += overspending(options.seconds)
    if options.only in (None, "kills"):
        lines += kills(options.kills)
    conclude(lines, keep=not options.no_record)


if __name__ == "__main__":
    main()
