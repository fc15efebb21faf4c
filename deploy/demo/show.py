"""The demo from start to end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.demo import report
from deploy.demo.asking import Asked, Asker, ask_all
from deploy.demo.devices import OFFERED
from deploy.demo.fleet import EDGEWISE as COMMAND
from deploy.demo.fleet import Running, start_fleet
from deploy.demo.levels import UNLIMITED, Level, energy_levels, tight_ms
from deploy.demo.personal import quiet_story
from deploy.demo.plot import write_plot
from deploy.demo.policies import EDGEWISE, POLICIES, Policy, choose_baselines
from deploy.demo.policies import TASK as DIGITS
from deploy.demo.processes import DemoFailed, Processes
from deploy.demo.questions import TASK as QUESTIONS
from deploy.demo.questions import TextRow, TextRuns, short
from deploy.demo.report import short_expert
from deploy.demo.rows import Row, make_row
from deploy.demo.summary import POLICY_SEED, write_summary
from nodes.zoo.catalog import Catalog
from nodes.zoo.language.catalog import TextCatalog
from optimizer.routes.route import Route
from orchestrator.client import AsyncClient

# As many answers per expert as a promise at 99 % needs to rest on observations alone.
WARM_UP = 110


@dataclass(frozen=True)
class Setting:
    """What the parts of the demo share.

    Args:
        console: Where people read.
        build: Folder of what the demo leaves.
        catalog: Experts and digits.
        texts: Experts and questions.
        queries: Held-out digits per row.
        questions: Questions per row.
    """

    console: Console
    build: Path
    catalog: Catalog
    texts: TextCatalog
    queries: int
    questions: int

    @property
    def results(self) -> tuple[Path, Path]:
        """The summary and the plot."""
        return self.build / "summary.json", self.build / "pareto.png"

    @property
    def logs(self) -> Path:
        """Folder of the processes' logs."""
        return self.build / "logs"

    def say(self, text: str) -> None:
        """One line on what is happening."""
        self.console.print(text, markup=False)


@dataclass(frozen=True)
class Results:
    """All rows, how the alternatives were chosen, and a request worth explaining."""

    rows: tuple[Row, ...]
    texts: tuple[TextRow, ...]
    baselines: Mapping[str, Policy]
    why: str


async def show(processes: Processes, setting: Setting) -> None:
    """Run everything; what was started is stopped by whoever made `processes`.

    Raises:
        DemoFailed: Something that the demo needs did not work.
    """
    started_s = time.monotonic()
    running = await start_fleet(processes, setting.build, setting.say)
    setting.say(f"A learned, certified plan is in force after {time.monotonic() - started_s:.0f} s.")
    for node in running.status.nodes:
        experts = ", ".join(short_expert(arm.expert) for arm in node.arms if arm.task == DIGITS)
        experts += "; for questions: " + ", ".join(short(arm.expert) for arm in node.arms if arm.task == QUESTIONS)
        setting.say(f"  {node.node}: {node.device} (simulated) with {experts}")
    results = await _run_queries(running, setting)
    processes.check()
    _write(setting, running, results)
    _print(setting, results)
    story = await asyncio.to_thread(quiet_story)
    for line in story.lines():
        setting.console.print(f"- {line}", markup=False)
    setting.console.print()
    await _explain(processes, setting, running, results.why)
    setting.say(f"Done in {time.monotonic() - started_s:.0f} s; stopping the gateway and the agents ...")


async def _run_queries(running: Running, setting: Setting) -> Results:
    baselines = choose_baselines(setting.catalog, running.status)
    joules = energy_levels(running.status)
    bar = Progress(
        TextColumn("{task.description:<44}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=setting.console,
    )
    async with AsyncClient(running.target) as client:
        asking = TextRuns(
            client,
            setting.texts,
            status=running.status,
            questions=setting.questions,
            advance=lambda: bar.advance(task),
        )
        with bar:
            total = asking.total + WARM_UP * len(OFFERED) + setting.queries * (len(POLICIES) + 2 * len(joules))
            task = bar.add_task("queries", total=total)
            runs = Runs(client, setting, lambda: bar.advance(task), lambda text: bar.update(task, description=text))
            await runs.warm_up()
            loose = [await runs.edgewise(Level(limit_j, UNLIMITED.max_latency_ms)) for limit_j in joules]
            deadline_ms = tight_ms(await client.status(), runs.seen_ms)
            tight = [await runs.edgewise(Level(limit_j, deadline_ms)) for limit_j in joules]
            others = [await runs.policy(name, baselines[name]) for name in POLICIES]
            bar.update(task, description="questions")
            texts = await asking.rows()
    return Results((*loose, *tight, *others), tuple(texts), baselines, runs.worth_explaining)


class Runs:
    """Runs of many queries, each one row.

    Args:
        client: Of the gateway.
        stage: What the demo shares.
        advance: Called after each query.
        announce: Called with what is running.
    """

    def __init__(
        self, client: AsyncClient, setting: Setting, advance: Callable[[], None], announce: Callable[[str], None]
    ) -> None:
        catalog = setting.catalog
        self._advance, self._announce = advance, announce
        self._experts = [card.name for card in catalog.experts if card.name in OFFERED]
        self._reference = Asker(client, catalog.reference, catalog.task.labels, prefix="warm-up")
        self._held_out = Asker(client, catalog.held_out, catalog.task.labels, prefix="demo")
        self._queries = range(setting.queries)
        self.seen_ms: list[float] = []
        self._telling: Asked | None = None

    @property
    def worth_explaining(self) -> str:
        """The request that tells most, of those under a joule budget; "" where none was answered."""
        return "" if self._telling is None else self._telling.request_id

    async def warm_up(self) -> None:
        """Ask every expert a few reference digits, so that promises rest on observations."""
        self._announce("warm-up: promises learn from answers")
        routes = [Route.single(expert) for expert in self._experts]
        queries = range(WARM_UP * len(routes))
        await ask_all(queries, lambda q: self._reference.route(q, routes[q % len(routes)]), self._advance)

    async def edgewise(self, level: Level) -> Row:
        """Edgewise under one budget."""
        self._announce(f"edgewise, {level.text}")
        asked = await ask_all(self._queries, lambda q: self._held_out.edgewise(q, level), self._advance)
        self.seen_ms.extend(one.ms for one in asked)
        if level.max_energy_j is not None:
            self._telling = most_telling([*asked, *([self._telling] if self._telling else [])])
        return make_row(level, EDGEWISE, asked)

    async def policy(self, name: str, policy: Policy) -> Row:
        """An alternative."""
        self._announce(name)
        draws = np.random.default_rng(POLICY_SEED).random(len(self._queries))
        asked = await ask_all(
            self._queries, lambda q: self._held_out.route(q, policy.draw(float(draws[q]))), self._advance
        )
        return make_row(UNLIMITED, name, asked)


def most_telling(asked: Sequence[Asked]) -> Asked | None:
    """Of the answered requests one that a pruned expert answered, where there is one; of those the one of most arms."""
    answered = [one for one in asked if one.answered]
    return max(answered, key=lambda one: (any(":mass-" in arm for arm in one.arms), len(one.arms)), default=None)


def _write(setting: Setting, running: Running, results: Results) -> None:
    summary, plot = setting.results
    asked = {"queries": setting.queries, "questions": setting.questions}
    write_summary(summary, results.rows, results.texts, status=running.status, baselines=results.baselines, asked=asked)
    write_plot(plot, results.rows, setting.queries)
    np.save(digit_file(setting), setting.catalog.held_out.inputs[0])


def digit_file(setting: Setting) -> Path:
    """One held-out digit for the newcomer's own first query."""
    return setting.build / "digit.npy"


def _print(setting: Setting, results: Results) -> None:
    setting.console.print()
    setting.console.print(report.results_table(results.rows, setting.queries))
    for note in (*report.reading_notes(results.rows, setting.queries), *report.chosen_text(results.baselines)):
        setting.console.print(f"- {note}", markup=False)
    setting.console.print()
    setting.console.print(report.text_table(results.texts, setting.questions))
    for note in report.text_notes(setting.questions):
        setting.console.print(f"- {note}", markup=False)
    setting.console.print()


async def _explain(processes: Processes, setting: Setting, running: Running, request_id: str) -> None:
    """Explain one request by the real command, in the demo's own terminal."""
    if not request_id:
        setting.say("No request under a joule budget was answered, so there is none to explain.")
        return
    arguments = ("--gateway", running.target, "why", request_id)
    setting.console.rule(f"One of these requests explained: edgewise why {request_id}", align="left")
    setting.console.file.flush()
    code = await processes.foreground((str(COMMAND), *arguments), columns=setting.console.width)
    if code != 0:
        raise DemoFailed(f"edgewise {' '.join(arguments)} ended with exit code {code}")


def shown(path: Path) -> str:
    """A path as one would type it here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
