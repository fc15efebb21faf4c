"""The Pareto plot: right answers against joules, Edgewise over its budgets beside the alternatives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.demo.policies import EDGEWISE
from deploy.demo.report import SOURCES
from deploy.demo.rows import Row
from orchestrator.units import format_duration_ms, format_energy_j

Point = tuple[float, float]

# Points this close are drawn with one label: a factor in joules, and points of accuracy.
SAME_FACTOR = 1.3
SAME_POINTS = 0.15
# Room for labels to the right of the dearest point.
LABEL_FACTOR = 60.0
COLORS = ("#0b6e4f", "#d1495b")


def write_plot(path: Path, rows: Sequence[Row], queries: int) -> None:
    """Draw accuracy against J/request (logarithmic) and write a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 5.6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    _draw_edgewise(axes, rows)
    _draw_alternatives(axes, rows)
    axes.set_xscale("log")
    axes.margins(x=0.06, y=0.14)
    axes.set_xlim(right=axes.get_xlim()[1] * LABEL_FACTOR)
    axes.xaxis.set_major_formatter(lambda energy_j, _: format_energy_j(energy_j))
    axes.set_xlabel("energy per request (modelled, logarithmic)")
    axes.set_ylabel("right answers, % of admitted")
    axes.set_title(f"{queries} handwritten digits, three devices\n{SOURCES}", fontsize=10)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.7)
    axes.legend(loc="lower right", fontsize=9)
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png")


def _draw_edgewise(axes: Any, rows: Sequence[Row]) -> None:
    own = [row for row in rows if row.policy == EDGEWISE]
    deadlines = sorted({row.budget.max_latency_ms for row in own}, reverse=True)
    for color, deadline_ms in zip(COLORS, deadlines, strict=False):
        points = [_point(row) for row in own if row.budget.max_latency_ms == deadline_ms and row.accuracy is not None]
        if not points:
            continue
        energy_j, accuracy = zip(*sorted(points), strict=True)
        label = f"edgewise, ≤ {format_duration_ms(deadline_ms)}, one point per joule budget"
        axes.plot(energy_j, accuracy, "o-", color=color, markersize=5, linewidth=1.6, label=label, zorder=3)


def _draw_alternatives(axes: Any, rows: Sequence[Row]) -> None:
    others = [row for row in rows if row.policy != EDGEWISE and row.accuracy is not None]
    if not others:
        return
    energy_j, accuracy = zip(*map(_point, others), strict=True)
    axes.plot(energy_j, accuracy, "s", color="#333333", markersize=6, label="alternatives, no budget", zorder=4)
    for names, point in merge_labels([(row.policy, _point(row)) for row in others]):
        # Below and to the right: the curves rise from left to right, so that this corner of a point is free.
        axes.annotate(names, point, xytext=(7, -5), textcoords="offset points", fontsize=9, va="top", zorder=5)


def merge_labels(points: Sequence[tuple[str, Point]]) -> list[tuple[str, Point]]:
    """One label for points that lie on each other, from the fewest joules on."""
    merged: list[tuple[str, Point]] = []
    for name, point in sorted(points, key=lambda named: named[1]):
        if merged and _same(merged[-1][1], point):
            merged[-1] = (f"{merged[-1][0]}, {name}", merged[-1][1])
        else:
            merged.append((name, point))
    return merged


def _same(one: Point, other: Point) -> bool:
    return other[0] / one[0] < SAME_FACTOR and abs(other[1] - one[1]) < SAME_POINTS


def _point(row: Row) -> Point:
    return row.j_per_request or 0.0, 100.0 * (row.accuracy or 0.0)
