"""`python -m deploy.demo`: run the demo, leave files and nothing else behind, exit 0, or 130 on Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from deploy.demo.fleet import EDGEWISE
from deploy.demo.processes import DemoFailed, Processes
from deploy.demo.report import make_console, next_steps
from deploy.demo.show import Setting, digit_file, show, shown
from nodes.zoo.catalog import load_catalog
from nodes.zoo.language.catalog import load_text_catalog
from orchestrator.errors import EdgewiseError

DEFAULT_BUILD = Path("build") / "demo"
QUESTIONS = 84
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    setting = _setting(arguments)
    setting.say(
        "Edgewise answers each query within the joules and milliseconds that it is allowed. This demo starts a gateway"
        " and three simulated devices here, sends them handwritten digits and questions under several budgets, and"
        " compares."
    )
    try:
        signalled = asyncio.run(_run(setting))
    except (DemoFailed, EdgewiseError) as failure:
        print(f"\nThe demo failed: {failure}\nLogs: {shown(setting.logs)}", file=sys.stderr)
        return 1
    if signalled is not None:
        setting.say(f"\nStopped by {signalled.name}; nothing of the demo is left running.")
        return 128 + signalled
    _say_what_is_there(setting)
    return 0


def _setting(arguments: list[str] | None) -> Setting:
    catalog, texts = load_catalog(), load_text_catalog()
    most = len(catalog.held_out.labels_n)
    parser = argparse.ArgumentParser(prog="python -m deploy.demo", description="Show Edgewise at work on this machine.")
    parser.add_argument("--queries", type=int, default=most, metavar="N", help=f"digits per row, 1 to {most} (default)")
    parser.add_argument(
        "--questions", type=int, default=QUESTIONS, metavar="N", help=f"questions per row, 1 to {QUESTIONS} (default)"
    )
    parser.add_argument("--build", type=Path, default=DEFAULT_BUILD, metavar="DIR", help=f"default: {DEFAULT_BUILD}")
    given = parser.parse_args(arguments)
    if not 1 <= given.queries <= most:
        parser.error(f"argument --queries: {given.queries} is not between 1 and {most}")
    if not 1 <= given.questions <= QUESTIONS:
        parser.error(f"argument --questions: {given.questions} is not between 1 and {QUESTIONS}")
    return Setting(make_console(), given.build.resolve(), catalog, texts, given.queries, given.questions)


async def _run(setting: Setting) -> signal.Signals | None:
    """Run the demo until it ends or a signal comes, which is returned; then stop every process."""
    setting.build.mkdir(parents=True, exist_ok=True)
    for earlier in setting.results:
        earlier.unlink(missing_ok=True)
    processes = Processes(setting.logs)
    arrived: list[signal.Signals] = []
    work = asyncio.ensure_future(_work(processes, setting))

    def interrupt(number: signal.Signals) -> None:
        # The first one stops in order; another one while that takes its time stops at once.
        if arrived:
            processes.kill()
        else:
            work.cancel()
        arrived.append(number)

    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, interrupt, number)
    try:
        await work
    except asyncio.CancelledError:
        if not arrived:
            raise
    return arrived[0] if arrived else None


async def _work(processes: Processes, setting: Setting) -> None:
    async with processes:
        await show(processes, setting)


def _say_what_is_there(setting: Setting) -> None:
    for name, what in (
        ("summary.json", "every row of the table"),
        ("pareto.png", "right answers against joules"),
        ("logs", "of the gateway (one line per request) and of the agents"),
    ):
        setting.say(f"  {shown(setting.build / name)}: {what}")
    setting.say("Try next, each in a terminal of its own:")
    for line in next_steps(shown(EDGEWISE), shown(digit_file(setting))):
        setting.say(f"  {line}")


if __name__ == "__main__":
    sys.exit(main())
