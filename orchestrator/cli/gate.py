"""`edgewise gate`: train a gate from a table or from feedback, and judge one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.context import Session, output_option
from orchestrator.cli.evaluate import (
    ENCODER,
    FILE,
    TENSOR_ENCODER,
    TOKENIZER,
    WORKERS,
    chosen_workers,
    load_encoder,
    mapper,
)

if TYPE_CHECKING:
    from optimizer.gate.feedback import TensorGate
    from optimizer.gate.gate import TextGate
    from optimizer.gate.sentences import SentenceEncoder
    from optimizer.gate.tensors import TensorEncoder
    from optimizer.mapping import Mapper
    from orchestrator.study.store import StoredGate
    from orchestrator.study.tables import Traffic
    from orchestrator.workers.choice import Choice

_TABLE = click.option(
    "--table",
    type=FILE,
    help="Rows of prompt_id, prompt, task, model, quality: csv, jsonl, parquet. Tensors: .npz.",
)
_FEEDBACK = click.option("--feedback", type=FILE, help="A gateway's state_dir, or a file of what it wrote there.")
_TASK = click.option("--task", "tasks", multiple=True, help="With --feedback: only of this task; may be repeated.")


@click.group(short_help="Train and judge the gate that estimates which expert is good at what.")
def gate() -> None:
    """Train and judge the gate: estimated quality of every expert for a query."""


@gate.command()
@_TABLE
@_FEEDBACK
@_TASK
@click.option("--save", type=FILE, required=True, help="File of the trained gate, usually .npz.")
@click.option(
    "--add-to", type=FILE, help="A gate to which the table's new models are added; its heads stay as they are."
)
@click.option(
    "--penalty", type=click.FloatRange(0.1, 1e6), help="On the heads' weights; chosen on unseen prompts unless given."
)
@ENCODER
@TOKENIZER
@TENSOR_ENCODER
@WORKERS
@output_option
@click.pass_obj
def train(session: Session, /, *, save: Path, output: str, **asked: Any) -> None:
    """Train one calibrated head per model of a table or of feedback, and save the gate.

    Prompts are read as hashed n-grams and counts; nothing is downloaded. Every head is trained by itself, so the order
    and the choice of models change none of them. With --encoder, the embeddings of a sentence encoder stand beside the
    n-grams; the gate then goes with that file and no other. With --feedback, heads learn from features that a gateway
    recorded, each from the queries that its expert answered alone.
    """
    _one_source(asked)
    choice = chosen_workers(asked)
    if asked["workers"] is not None and (asked["feedback"] or asked["add_to"]):
        raise click.UsageError("--workers is for training all heads of a --table")
    from orchestrator.study.store import save_gate

    trained, seen = _of_feedback(session, asked) if asked["feedback"] else _of_any_table(session, asked, choice)
    save_gate(save, trained, seen)
    heads = _heads(trained)
    session.note(f"gate of {len(heads)} models: {save}")
    _show(heads, session, output)


def _one_source(asked: dict[str, Any]) -> None:
    if (asked["table"] is None) == (asked["feedback"] is None):
        raise click.UsageError("give one of --table and --feedback")
    if asked["feedback"] is None and asked["tasks"]:
        raise click.UsageError("--task belongs to --feedback")
    of_tensors = asked["table"] is not None and asked["table"].suffix == ".npz"
    if asked["tensor_encoder"] is not None and not of_tensors:
        raise click.UsageError("--tensor-encoder belongs to a --table of tensors, an .npz")
    alien = [name for name in ("add_to", "encoder", "tokenizer") if asked.get(name) is not None]
    if of_tensors and alien:
        raise click.UsageError(f"--{alien[0].replace('_', '-')} is for texts; this table holds tensors")
    if asked["feedback"] is not None and alien:
        raise click.UsageError(f"--{alien[0].replace('_', '-')} needs texts, which feedback does not have; use --table")


def _heads(trained: TextGate | TensorGate) -> list[dict[str, Any]]:
    from optimizer.gate.feedback import TensorGate

    if isinstance(trained, TensorGate):
        rows = zip(trained.experts_h, trained.tasks_h, trained.calibration_error_h.tolist(), strict=True)
        return [{"model": name, "task": task, "calibration_error": error} for name, task, error in rows]
    pairs = zip(trained.experts, trained.heads, strict=True)
    return [{"model": name, "calibration_error": head.calibration_error} for name, head in pairs]


def _of_feedback(session: Session, asked: dict[str, Any]) -> tuple[TextGate | TensorGate, Any]:
    from orchestrator.study.feedback import read_feedback, train_rated
    from orchestrator.study.store import hashes

    rated = read_feedback(asked["feedback"], asked["tasks"], note=session.note)
    return train_rated(rated, penalty=asked["penalty"]), hashes(rated.ids)


def _of_any_table(session: Session, asked: dict[str, Any], choice: Choice | None) -> tuple[TextGate | TensorGate, Any]:
    if asked["table"].suffix != ".npz":
        return _of_table(session, asked, choice)
    from orchestrator.study.store import hashes
    from orchestrator.study.tensors import read_tensor_table, train_on_tensors

    table = read_tensor_table(asked["table"])
    return train_on_tensors(table, _tensor_encoder(asked), penalty=asked["penalty"]), hashes(table.ids)


def _tensor_encoder(asked: dict[str, Any]) -> TensorEncoder | None:
    from orchestrator.study.tensors import load_tensor_encoder

    return None if asked["tensor_encoder"] is None else load_tensor_encoder(asked["tensor_encoder"])


def _of_table(session: Session, asked: dict[str, Any], choice: Choice | None) -> tuple[TextGate, Any]:
    import numpy as np

    from orchestrator.study.store import hashes, load_gate
    from orchestrator.study.tables import read_traffic

    sentences, penalty = load_encoder(asked["encoder"], asked["tokenizer"]), asked["penalty"]
    traffic = read_traffic(asked["table"], note=session.note)
    seen = hashes(traffic.texts)
    if asked["add_to"] is None:
        with mapper(session, choice) as mapped:
            return _fit(traffic, penalty, sentences, mapped), seen
    stored = load_gate(asked["add_to"], sentences)
    return _extended(session, stored, traffic, penalty), np.concatenate([stored.seen, seen])


def _fit(traffic: Traffic, penalty: float | None, sentences: SentenceEncoder | None, mapped: Mapper) -> TextGate:
    from optimizer.gate.gate import fit_gate

    qualities = dict(zip(traffic.models, traffic.quality_qm.T, strict=True))
    return fit_gate(traffic.texts, traffic.tasks, qualities, penalty=penalty, sentences=sentences, mapper=mapped)


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
@_TABLE
@_FEEDBACK
@_TASK
@ENCODER
@TOKENIZER
@TENSOR_ENCODER
@output_option
@click.pass_obj
def evaluate(session: Session, /, *, file: Path, output: str, **asked: Any) -> None:
    """Judge a trained gate on the prompts of a table, or on feedback, that it was not trained on."""
    _one_source(asked)
    if asked["feedback"]:
        rows = _on_feedback(session, file, asked)
    elif asked["table"].suffix == ".npz":
        rows = _on_tensors(session, file, asked)
    else:
        rows = _on_table(session, file, asked)
    _show(rows, session, output)


def _on_feedback(session: Session, file: Path, asked: dict[str, Any]) -> list[dict[str, Any]]:
    from orchestrator.study.feedback import judge_rated, read_feedback
    from orchestrator.study.store import load_stored

    return judge_rated(
        load_stored(file), read_feedback(asked["feedback"], asked["tasks"], note=session.note), note=session.note
    )


def _on_tensors(session: Session, file: Path, asked: dict[str, Any]) -> list[dict[str, Any]]:
    import numpy as np

    from orchestrator.study.errors import StudyError
    from orchestrator.study.judging import judged
    from orchestrator.study.store import StoredTensorGate, load_stored
    from orchestrator.study.tensors import judge_on_tensors, read_tensor_table

    stored, table = load_stored(file, tensors=_tensor_encoder(asked)), read_tensor_table(asked["table"])
    if not isinstance(stored, StoredTensorGate):
        raise StudyError(f"{file.name}: it is a gate for texts", "judge it with a table of prompts")
    fresh = np.flatnonzero(~stored.knows(table.ids))
    if len(fresh) < len(table.ids):
        session.note(f"{len(table.ids) - len(fresh)} of {len(table.ids)} tensors were trained on and do not count")
    if not len(fresh):
        raise StudyError("every tensor of the table was trained on", "give tensors that the gate has not seen")
    said = judge_on_tensors(stored.gate, table, fresh)
    return [judged(name, predicted_q, actual_q) for name, (predicted_q, actual_q) in said.items()]


def _on_table(session: Session, file: Path, asked: dict[str, Any]) -> list[dict[str, Any]]:
    import numpy as np

    from orchestrator.study.errors import StudyError
    from orchestrator.study.store import load_gate
    from orchestrator.study.tables import read_traffic

    stored = load_gate(file, load_encoder(asked["encoder"], asked["tokenizer"]))
    traffic = read_traffic(asked["table"], note=session.note)
    fresh = np.flatnonzero(~stored.knows(traffic.texts))
    if len(fresh) < len(traffic.texts):
        session.note(
            f"{len(traffic.texts) - len(fresh)} of {len(traffic.texts)} prompts were trained on and do not count"
        )
    if not len(fresh):
        raise StudyError("every prompt of the table was trained on", "give prompts that the gate has not seen")
    return _judge(session, stored, traffic, fresh.tolist())


def _judge(session: Session, stored: StoredGate, traffic: Traffic, rows: list[int]) -> list[dict[str, Any]]:
    import numpy as np

    from orchestrator.study.judging import judged

    texts, tasks = [traffic.texts[q] for q in rows], [traffic.tasks[q] for q in rows]
    predicted_qe = stored.gate.quality_many(texts, tasks)
    found = []
    for name, actual_q in zip(traffic.models, traffic.quality_qm[rows].T, strict=True):
        known = np.isfinite(actual_q)
        if name not in stored.gate.experts or not known.any():
            session.note(f"{name}: no head, or no fresh prompt; passed over")
            continue
        found.append(judged(name, predicted_qe[known, stored.gate.experts.index(name)], actual_q[known]))
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
