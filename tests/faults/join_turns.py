"""What a storm of joins does to the turns of the gateway's event loop: ``python -m tests.faults.join_turns``.

The storms of `tests.faults.join_storm`: 50 of 200 agents serve a steady load, the connections of the other 150 break in
one moment, and they come back. Told is what the longest turn took, in processor time: so long every request of that
moment waits, also where the machine is quiet. The control looks for garbage as gateways did before.

One line goes to ``tests/faults/results.jsonl``; exit code 1 names what does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.client import AsyncClient
from tests.fakes.processes import Fleet
from tests.faults.campaign import Line, conclude
from tests.faults.join_storm import Asking, connected, start_crowds, tell
from tests.faults.join_storm_found import Size
from tests.faults.watched_gateway import WIDE

WATCHED = (sys.executable, "-m", "tests.faults.watched_gateway")
RATE_HZ = 50.0
# From the break of the connections until all are back and planned for.
STORM_S = 6.0
LONGEST_MS = 10.0
# How much longer the control's longest look for garbage must be.
CONTROL_FACTOR = 3.0


@dataclass(frozen=True)
class Storm:
    """What one storm showed.

    Args:
        calm: Of the turns before it.
        storm: Of those in it.
    """

    calm: dict[str, Any]
    storm: dict[str, Any]


async def storms(count: int, settings: dict[str, str]) -> list[Storm]:
    """So many storms of one gateway."""
    size, found = Size(), list[Storm]()
    with tempfile.TemporaryDirectory() as folder, Fleet(Path(folder), settings, WATCHED, one_session=True) as fleet:
        fleet.start_gateway()
        await asyncio.to_thread(fleet.wait_until, lambda: fleet.status() is not None, "listening")
        crowds = await asyncio.to_thread(start_crowds, fleet, size)
        tell(crowds, signal.SIGUSR1)
        async with AsyncClient(fleet.address) as client:
            asking = Asking(client, 0)
            for _ in range(count):
                await asyncio.to_thread(fleet.wait_until, lambda: connected(fleet) == size.all_nodes, "all are there")
                # What they left to plan is planned first.
                await asking.run(STORM_S, RATE_HZ)
                await _told(fleet)
                await asking.run(STORM_S, RATE_HZ)
                calm = await _told(fleet)
                tell(crowds[1:], signal.SIGHUP)
                await asking.run(STORM_S, RATE_HZ)
                found.append(Storm(calm, await _told(fleet)))
                print(f"  {'wide' if settings else 'as it is'}: {found[-1]}", flush=True)
    return found


async def _told(fleet: Fleet) -> dict[str, Any]:
    """What the gateway tells of its turns since the last time."""
    gateway = fleet.gateway
    assert gateway is not None
    before = len(gateway.events("turns"))
    gateway.popen.send_signal(signal.SIGUSR1)
    await asyncio.to_thread(fleet.wait_until, lambda: len(gateway.events("turns")) > before, "told")
    return gateway.events("turns")[-1]


def longest(found: list[Storm], key: str) -> list[float]:
    """One figure of all storms."""
    return [float(one.storm[key]) for one in found]


def figures(found: list[Storm], wide: list[Storm]) -> dict[str, object]:
    """What is kept."""
    return {
        "calm_longest_ms": [one.calm["longest_ms"] for one in found],
        "storm_longest_ms": longest(found, "longest_ms"),
        "storm_over_5_ms": longest(found, "over_5_ms"),
        "storm_garbage_longest_ms": longest(found, "garbage_longest_ms"),
        "wide_storm_longest_ms": longest(wide, "longest_ms"),
        "wide_storm_over_5_ms": longest(wide, "over_5_ms"),
        "wide_storm_garbage_longest_ms": longest(wide, "garbage_longest_ms"),
        "machine_load": round(os.getloadavg()[0], 1),
    }


def missed(found: list[Storm], wide: list[Storm]) -> list[str]:
    """One sentence per bar that does not hold."""
    longest_ms = max(longest(found, "longest_ms"))
    # Not every storm fills what a wide look waits for.
    ours_ms, wide_ms = (max(longest(one, "garbage_longest_ms")) for one in (found, wide))
    checks = (
        (longest_ms <= LONGEST_MS, f"a turn of the event loop took {longest_ms:.1f} ms of a processor"),
        (
            wide_ms >= CONTROL_FACTOR * ours_ms,
            f"the control's look for garbage took {wide_ms:.1f}, not {ours_ms:.1f} ms",
        ),
    )
    return [f"join_turns: {sentence}" for holds, sentence in checks if not holds]


def main() -> None:
    """Run, record, judge."""
    parser = argparse.ArgumentParser(description="Turns of the event loop while many nodes join.")
    parser.add_argument("--storms", type=int, default=5)
    parser.add_argument("--no-record", action="store_true")
    options = parser.parse_args()
    found = asyncio.run(storms(options.storms, {}))
    wide = asyncio.run(storms(options.storms, {WIDE: "1"}))
    line = Line("join_turns", options.storms, figures(found, wide), missed(found, wide))
    conclude([line], keep=not options.no_record)


if __name__ == "__main__":
    main()
