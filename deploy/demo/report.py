"""What the demo prints: the table, how to read it, and what to try next."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.demo.policies import EDGEWISE
from deploy.demo.questions import TextRow
from deploy.demo.rows import ENERGY_SOURCE, MS_SOURCE, Row
from deploy.demo.summary import ENERGY_NOTE
from optimizer.learning.simulate import Policy
from orchestrator.units import format_energy_j

WIDTH = 110
MISSES_WORTH_A_WORD = 0.01
SOURCES = f"ms_source: {MS_SOURCE}, energy_source: {ENERGY_SOURCE}, devices simulated"

COLUMNS = (
    ("budget per request", "left"),
    ("right\n%", "right"),
    (f"J/request\n({ENERGY_SOURCE})", "right"),
    (f"p50 / p95 ms\n({MS_SOURCE})", "right"),
    ("misses %\nJ / ms", "right"),
    ("admitted\n%", "right"),
    ("arms that ran, % of runs\n(all simulated)", "left"),
)


def make_console() -> Console:
    """The terminal; `WIDTH` columns where there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


def _table(title: str, columns: Sequence[tuple[str, str]]) -> Table:
    made = Table(
        title=title,
        title_style="bold",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name, side in columns:
        made.add_column(name, justify="right" if side == "right" else "left", no_wrap=side == "right", overflow="fold")
    return made


def results_table(rows: Sequence[Row], queries: int) -> Table:
    """All rows: Edgewise by budget, then the alternatives."""
    made = _table(f"{queries} handwritten digits per row; {SOURCES}", COLUMNS)
    for policy_is_edgewise, group in itertools.groupby(rows, key=lambda row: row.policy == EDGEWISE):
        title = "Edgewise" if policy_is_edgewise else "Alternatives"
        made.add_row(f"[bold]{title}[/]", *[""] * (len(COLUMNS) - 1))
        for row in group:
            made.add_row(*_cells(row))
        made.add_section()
    return made


TEXT_COLUMNS = (*COLUMNS[:3], (f"p50 ms\n({MS_SOURCE})", "right"), *COLUMNS[5:])


def text_table(rows: Sequence[TextRow], questions: int) -> Table:
    """All rows of the questions: Edgewise by budget, then the alternatives."""
    made = _table(f"{questions} questions with exactly checkable answers per row; {SOURCES}", TEXT_COLUMNS)
    for policy_is_edgewise, group in itertools.groupby(rows, key=lambda row: row.policy == EDGEWISE):
        made.add_row(f"[bold]{'Edgewise' if policy_is_edgewise else 'Alternatives'}[/]", *[""] * 5)
        for row in group:
            made.add_row(
                f"  {row.budget.text if policy_is_edgewise else row.policy}",
                _percent(row.right),
                format_energy_j(row.j_per_request),
                f"{row.p50_ms:.1f}",
                _percent(row.admitted_fraction),
                arms_text(row.arms),
            )
        made.add_section()
    return made


def text_notes(questions: int) -> list[str]:
    """How to read the table of the questions."""
    return [
        "Questions are generated and of seven kinds, in words that no expert was trained on, a seventh of them in two"
        " steps; an answer is right or it is not. The experts are language models of a few megabytes, trained from"
        f" nothing by this project: small, and not good at everything. One question is {100 / questions:.1f} points.",
    ]


def _cells(row: Row) -> tuple[str, ...]:
    own = row.policy == EDGEWISE
    answers = row.accuracy is not None
    return (
        f"  {row.budget.text if own else row.policy}",
        _percent(row.accuracy),
        format_energy_j(row.j_per_request) if row.j_per_request is not None else "–",
        f"{row.p50_ms:.1f} / {row.p95_ms:.1f}" if answers else "–",
        f"{_miss(row.joule_miss_fraction)} / {_miss(row.latency_miss_fraction)}" if answers else "–",
        _percent(row.admitted_fraction),
        arms_text(row.arms),
    )


def arms_text(arms: Mapping[str, int]) -> str:
    """Arms by node in few words: ``orin-sim: linear 90, mlp 10``, percent of all runs."""
    total = sum(arms.values())
    by_node: dict[str, list[str]] = {}
    for arm, count in arms.items():
        expert, _, node = arm.partition("@")
        name = short_expert(expert.partition(":")[0])
        by_node.setdefault(node, []).append(f"{name} {_share(count / total)}")
    return "; ".join(f"{escape(node)}: {', '.join(names)}" for node, names in by_node.items())


def short_expert(expert: str) -> str:
    """An expert's name without the task, which is the same for all of them."""
    return expert.removeprefix("digits-").removeprefix("skills-")


def reading_notes(rows: Sequence[Row], queries: int) -> list[str]:
    """How to read the table, and everything that does not look as it should."""
    return [
        ENERGY_NOTE,
        "Alternatives know no budget. What they choose was chosen on the evidence that ships with the experts, by"
        " the rule that Edgewise itself uses; no row's digits are in it.",
        f"right: share of the admitted; with {queries} digits one digit is {100 / queries:.2f} points."
        " Joules and milliseconds of an alternative are those of all experts that it asks.",
        *_spent(rows),
        *_missed(rows),
    ]


def _spent(rows: Sequence[Row]) -> list[str]:
    limited = [row for row in rows if row.policy == EDGEWISE and row.budget.max_energy_j is not None]
    limited = [row for row in limited if row.j_per_request is not None]
    spent_j = sum((row.j_per_request or 0.0) * row.admitted_fraction for row in limited)
    allowed_j = sum((row.budget.max_energy_j or 0.0) * row.admitted_fraction for row in limited)
    if not allowed_j:
        return []
    return [
        f"Over all requests with a joule budget, {_percent(spent_j / allowed_j)} % of what they were allowed was spent."
    ]


def _missed(rows: Sequence[Row]) -> list[str]:
    worst = [
        f"{row.policy}, {row.budget.text} ({_percent(row.joule_miss_fraction)} % joules,"
        f" {_percent(row.latency_miss_fraction)} % ms)"
        for row in rows
        if max(row.joule_miss_fraction, row.latency_miss_fraction) > MISSES_WORTH_A_WORD
    ]
    if not worst:
        return ["No row misses more than 1 % of its budgets, in joules or in milliseconds."]
    return [
        "More than 1 % missed in: " + "; ".join(worst) + ". Joules are promised at 99 %, so that a small sample can"
        " show more; milliseconds are this machine's, and other work on it shows."
    ]


def chosen_text(baselines: Mapping[str, Policy]) -> list[str]:
    """What the alternatives that have something to choose have become."""
    return [
        f"{name}: " + " or ".join(_lottery(policy))
        for name, policy in baselines.items()
        if name in ("best_single", "static_mixture", "cascade")
    ]


def _lottery(policy: Policy) -> list[str]:
    if len(policy.routes) == 1:
        return [policy.routes[0].name.replace("digits-", "")]
    parts = zip(policy.routes, policy.share_r, strict=True)
    return [f"{route.name.replace('digits-', '')} ({share:.0%})" for route, share in parts]


def next_steps(command: str, digit: str) -> list[str]:
    """Three commands for three terminals."""
    return [
        f"{command} gateway",
        f"{command} node run --gateway 127.0.0.1:8421 --profile jetson-agx-orin",
        f"{command} infer {digit} --max-energy 1uJ --max-latency 200ms",
    ]


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{fraction * 100:.1f}"


def _miss(fraction: float) -> str:
    text = f"{fraction * 100:.1f}"
    return f"[bold red]{text}[/]" if fraction > MISSES_WORTH_A_WORD else text


def _share(fraction: float) -> str:
    return "<1" if fraction < 0.005 else f"{fraction * 100:.0f}"
