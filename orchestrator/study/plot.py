"""The plot of a study: quality against joules per request, every policy a curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.errors import ExitCode
from orchestrator.study.errors import StudyError

# Policies in the order of the legend, with colour and line; the gate and its nearest rivals stand out.
_STYLES = {
    "oracle": ("#9a9a9a", ":", 1.2),
    "edgewise": ("#0b6e4f", "-", 2.6),
    "models_alone": ("#0b6e4f", ":", 1.7),
    "static_cascades": ("#7a9e3b", "--", 1.4),
    "task_lookup": ("#c8553d", "--", 1.7),
    "static_mixture": ("#5b7db1", "--", 1.4),
    "tfidf_ridge": ("#8e6c8a", "-.", 1.2),
    "kmeans": ("#d4a24c", "-.", 1.2),
    "knn": ("#6b9080", "-.", 1.2),
    "random": ("#c4c4c4", "-", 1.0),
}


def save_plot(summary: dict[str, Any], path: Path) -> None:
    """Write the plot; the end of the name says of which kind (png, svg, pdf).

    Raises:
        StudyError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
        from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
    except ImportError as error:
        cure = "pip install 'edgewise[study]', or leave --plot out"
        raise StudyError("plots need matplotlib", cure, what="not installed") from error
    figure, axes = pyplot.subplots(figsize=(7.2, 4.6), layout="constrained")
    for policy, (color, line, width) in _STYLES.items():
        rows = [row for row in summary["rows"] if row.policy == policy]
        if not rows:
            continue
        joules, quality = [row.j_per_query for row in rows], [row.quality * 100.0 for row in rows]
        axes.plot(joules, quality, color=color, linestyle=line, linewidth=width, label=policy.replace("_", " "))
        if policy == "edgewise":
            low, high = [row.quality_low * 100.0 for row in rows], [row.quality_high * 100.0 for row in rows]
            axes.fill_between(joules, low, high, color=color, alpha=0.15, linewidth=0)
    best = summary["best_single"]
    axes.scatter([best["j_per_query"]], [best["quality"] * 100.0], color="black", zorder=5, s=28)
    place = (best["j_per_query"], best["quality"] * 100.0)
    axes.annotate(best["model"], place, xytext=(0, -26), textcoords="offset points", ha="right", fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(EngFormatter(unit="J"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("joules per request (modelled, log scale)")
    axes.set_ylabel("mean quality, %")
    axes.grid(alpha=0.25, which="both", linewidth=0.5)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    try:
        figure.savefig(path, dpi=160)
    except (OSError, ValueError) as error:
        raise StudyError(
            f"{path}: cannot be written", "name a .png or .svg in a folder that exists", exit_code=ExitCode.FAILED
        ) from error
    finally:
        pyplot.close(figure)
