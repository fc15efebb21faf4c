"""`edgewise gate`: train a gate for text from a table, and judge one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.context import Session, output_option
from orchestrator.cli.evaluate import FILE, TABLE

if TYPE_CHECKING:
    from optimizer.gate.gate import TextGate
    from orchestrator.study.store import StoredGate
    from orchestrator.study.tables import Traffic


@click.group(short_help="Train and judge the gate that estimates which expert is good at what.")
def gate() -> None:
    """Train and judge the gate: estimated quality of every expert for a text."""


@gate.command()
@TABLE
@click.option("--save", type=FILE, required=True, help="File of the trained gate, usually .npz.")
@click.option(
    "--add-to", type=FILE, help="A gate to which the table's new models are added; its heads stay as they are."
)
@click.option(
    "--penalty", type=click.FloatRange(0.1, 1e6), help="On the heads' weights; chosen on unseen prompts unless given."
)
@output_option
@click.pass_obj
def train(
    session: Session, *, table: Path, save: Path, add_to: Path | None, penalty: float | None, output: str
) -> None:
    """Train one calibrated head per model of TABLE and save the gate.

    Prompts are read as hashed n-grams and counts; nothing is downloaded. Every head is trained by itself, so the order
    and the choice of models change none of them.
    """
    import numpy as np

    from orchestrator.study.store import hashes, load_gate, save_gate
    from orchestrator.study.tables import read_traffic

    traffic = read_traffic(table, note=session.note)
    seen = hashes(traffic.texts)
    if add_to is None:
        trained = _fit(traffic, penalty)
    else:
        stored = load_gate(add_to)
        trained, seen = _extended(session, stored, traffic, penalty), np.concatenate([stored.seen, seen])
    save_gate(save, trained, seen)
    heads = [
        {"model": name, "calibration_error": head.calibration_error}
        for name, head in zip(trained.experts, trained.heads, strict=True)
    ]
    session.note(f"gate of {len(heads)} models: {save}")
    _show(heads, session, output)


def _fit(traffic: Traffic, penalty: float | None) -> TextGate:
    from optimizer.gate.gate import fit_gate

    qualities = dict(zip(traffic.models, traffic.quality_qm.T, strict=True))
    return fit_gate(traffic.texts, traffic.tasks, qualities, penalty=penalty)


def _extended(session: Session, stored: StoredGate, traffic: Traffic, penalty: float | None) -> TextGate:
    extended = stored.gate
    for name, quality_q in zip(traffic.models, traffic.quality_qm.T, strict=True):
        if name in stored.gate.experts:
            session.note(f"{name}: the gate has a head for it, which stays")
            continue
        extended = extended.joined(name, stored.gate.learn(traffic.texts, traffic.tasks, quality_q, penalty=penalty))
    return extended


@gate.command("eval")
@click.option("--gate", "file", type=FILE, required=True, help="A gate that `edgewise gate train` saved.")
@TABLE
@output_option
@click.pass_obj
def evaluate(session: Session, *, file: Path, table: Path, output: str) -> None:
    """Judge a trained gate on the prompts of TABLE that it was not trained on."""
    import numpy as np

    from orchestrator.study.errors import StudyError
    from orchestrator.study.store import load_gate
    from orchestrator.study.tables import read_traffic

    stored, traffic = load_gate(file), read_traffic(table, note=session.note)
    fresh = np.flatnonzero(~stored.knows(traffic.texts))
    if len(fresh) < len(traffic.texts):
        session.note(
            f"{len(traffic.texts) - len(fresh)} of {len(traffic.texts)} prompts were trained on and do not count"
        )
    if not len(fresh):
        raise StudyError("every prompt of the table was trained on", "give prompts that the gate has not seen")
    _show(_judge(session, stored, traffic, fresh.tolist()), session, output)


def _judge(session: Session, stored: StoredGate, traffic: Traffic, rows: list[int]) -> list[dict[str, Any]]:
    import numpy as np

    from optimizer.head import expected_calibration_error

    texts, tasks = [traffic.texts[q] for q in rows], [traffic.tasks[q] for q in rows]
    predicted_qe = stored.gate.quality_many(texts, tasks)
    found = []
    for name, actual_q in zip(traffic.models, traffic.quality_qm[rows].T, strict=True):
        known = np.isfinite(actual_q)
        if name not in stored.gate.experts or not known.any():
            session.note(f"{name}: no head, or no fresh prompt; passed over")
            continue
        predicted_q, actual_q = predicted_qe[known, stored.gate.experts.index(name)], actual_q[known]
        found.append(
            {
                "model": name,
                "prompts": int(known.sum()),
                "quality": float(actual_q.mean()),
                "predicted": float(predicted_q.mean()),
                "calibration_error": expected_calibration_error(predicted_q, actual_q),
                "squared_error": float(((predicted_q - actual_q) ** 2).mean()),
                "squared_error_of_mean": float(actual_q.var()),
            }
        )
    return found


def _show(rows: list[dict[str, Any]], session: Session, output: str) -> None:
    from orchestrator.cli.output import console, print_json, safe, table

    if output == "json":
        print_json(rows)
        return
    names = list(rows[0]) if rows else ["model"]
    made = table(None, [names[0], *(f">{name.replace('_', ' ')}" for name in names[1:])])
    for row in rows:
        values = list(row.values())
        made.add_row(safe(str(values[0])), *(f"{v:.4f}" if isinstance(v, float) else str(v) for v in values[1:]))
    console(color=session.color).print(made)
