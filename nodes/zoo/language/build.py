"""Write what ships of the text experts: weights, questions, evidence, cards, curves, and a mixture of all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nodes.worker.text.library import MIXTURE_SUFFIX, Library
from nodes.zoo.arrays import read_arrays, write_arrays
from nodes.zoo.digest import tensor_digest
from nodes.zoo.language.cards import Learned, TextExpertCard
from nodes.zoo.language.catalog import TASK_FILE, TextCatalog, load_text_catalog
from nodes.zoo.language.export import export_onnx
from nodes.zoo.language.judging import Answers, answer_all, answers_from, score, scores_by_suite
from nodes.zoo.language.network import parameters
from nodes.zoo.language.settings import CONTEXT_TOKENS, RECIPES, Recipe
from nodes.zoo.language.texts import question_tensors
from nodes.zoo.language.train import Training
from nodes.zoo.skills.skill import Question
from nodes.zoo.skills.suites import NAMES, Split, judging_questions

TASK, ENGINE, MIXTURE = "skills", "onnx-lm", "skills-mixture"
QUESTIONS = {Split.VALIDATION: 350, Split.REFERENCE: 5040, Split.TEST: 1400}
MEMORY_NOTE = "file + fp32 weights + keys and values of one full context; the runtime itself is not included"
NORMALISATION = "equal after NFKC, single spaces, no outer quotes, no closing full stop; capitals count"
Report = Callable[[str], None]


class Builder:
    """Makes one folder from the checkpoints in another.

    Args:
        work: Of checkpoints and curves.
        out: Of what ships.
        report: Gets one line per expert.
    """

    def __init__(self, work: Path, out: Path, report: Report = print) -> None:
        self._work, self._out, self._report = work, out, report
        self._questions = {split: judging_questions(split, count) for split, count in QUESTIONS.items()}
        self._library = Library()
        self._evidence: dict[str, np.ndarray[Any, Any]] = {}
        self._files: dict[str, dict[str, Any]] = {}

    def build(self) -> None:
        """Write everything; an expert that ships and has no checkpoint here keeps its weights, and is judged again."""
        self._out.mkdir(parents=True, exist_ok=True)
        shipped = load_text_catalog(self._out).experts if (self._out / TASK_FILE).exists() else ()
        kept = {card.name: card for card in shipped}
        for name in RECIPES:
            if (self._work / f"{name}.npz").exists():
                self._ship(name)
            elif name in kept:
                self._keep(kept[name])
        self._ship_mixture(list(self._files))
        self._write_task()

    def judge_again(self, catalog: TextCatalog) -> None:
        """Ask the experts of a catalogue this version's questions; write questions, evidence and cards, no weights."""
        for card in sorted(catalog.experts, key=lambda card: card.learned is None):
            self._keep(card)
        self._write_task()

    def _keep(self, card: TextExpertCard) -> None:
        kept = ("file", "sha256", "parameters", "recipe")
        learned = None if card.learned is None else asdict(card.learned)
        self._judge(card.name, card.variant, {**{name: getattr(card, name) for name in kept}, "learned": learned})

    def _ship(self, name: str) -> None:
        training = Training(name, RECIPES[name], self._work)
        file = self._out / f"{name}.onnx"
        difference = export_onnx(training.network, training.tokenizer, file)
        shutil.copyfile(self._work / f"{name}.csv", self._out / f"{name}.csv")
        progress = training.progress
        found = {
            "file": file.name,
            "sha256": _sha256(file),
            "parameters": parameters(training.network),
            "learned": asdict(
                Learned(
                    RECIPES[name].suites, progress.step, progress.questions, progress.tokens, round(progress.seconds, 1)
                )
            ),
            "recipe": _recipe(RECIPES[name]),
        }
        self._judge(name, "fp16", found)
        self._report(f"{name}: differs from torch by {difference:.1g} at most")

    def _ship_mixture(self, names: Sequence[str]) -> None:
        weights = {name: round(max(self._files[name]["validation"], 0.01), 4) for name in names}
        members = [
            {"file": f"{name}.onnx", "sha256": self._files[name]["sha256"], "weight": weights[name]} for name in names
        ]
        file = self._out / f"{MIXTURE}{MIXTURE_SUFFIX}"
        file.write_text(json.dumps({"members": members}, indent=2) + "\n")
        found = {
            "file": file.name,
            "sha256": _sha256(file),
            "parameters": sum(self._files[name]["parameters"] for name in names),
            "learned": None,
            "recipe": {f"weight.{name}": weight for name, weight in weights.items()},
        }
        self._judge(MIXTURE, "token", found)

    def _judge(self, name: str, variant: str, found: dict[str, Any]) -> None:
        file = self._out / str(found["file"])
        models = self._library.load(name, str(file), found["sha256"])["models"]
        answers = {split: self._answers(name, split, found["sha256"]) for split in Split if split in self._questions}
        test, reference = answers[Split.TEST], answers[Split.REFERENCE]
        self._evidence |= {f"{name}.{key}": array for key, array in reference.evidence().items()}
        self._files[name] = {**found, "validation": float(answers[Split.VALIDATION].correct_q.mean())}
        suites = scores_by_suite(self._questions[Split.TEST], test.correct_q)
        card = TextExpertCard(
            name=name,
            variant=variant,
            task=TASK,
            engine=ENGINE,
            macs=sum(model["macs_per_token"] for model in models),
            memory_bytes=_memory_bytes(file, int(found["parameters"]), models),
            memory_note=MEMORY_NOTE,
            quality=score(test.correct_q),
            suites=dict(suites),
            context_tokens=CONTEXT_TOKENS,
            completion_tokens=round(float(reference.completion_tokens_q.mean()), 3),
            completion_p95_tokens=round(float(np.quantile(reference.completion_tokens_q, 0.95)), 3),
            tokenizer_digest=models[0]["tokenizer_digest"],
            evidence_key=name,
            **found,
        )
        _write_json(self._out / f"{name}.json", asdict(card))
        shares = " ".join(f"{suite} {one.right_fraction:.2f}" for suite, one in suites.items())
        self._report(f"{name}: {card.quality.right_fraction:.3f} of the test questions right: {shares}")

    def _answers(self, name: str, split: Split, sha256: str) -> Answers:
        """Answers to one split; those of a file that did not change are kept in the folder of the checkpoints."""
        questions = self._questions[split]
        asked = tensor_digest(question_tensors(questions))
        kept = self._work / f"answers-{sha256[:16]}-{asked[:16]}.npz"
        if not kept.exists():
            write_arrays(kept, answer_all(self._library.arm(name), questions).arrays())
        return answers_from(read_arrays(kept))

    def _write_task(self) -> None:
        self._write_questions("reference", self._questions[Split.REFERENCE])
        self._write_questions("test", self._questions[Split.TEST])
        write_arrays(self._out / "evidence.npz", self._evidence)
        arrays = {
            name: {"file": f"{name}.npz", "sha256": _sha256(self._out / f"{name}.npz")}
            for name in ("reference", "test", "evidence")
        }
        task = {
            "name": TASK,
            "text": True,
            "suites": NAMES,
            "normalisation": NORMALISATION,
            "source": "generated: nodes/zoo/skills",
            **arrays,
        }
        _write_json(self._out / "task.json", task)

    def _write_questions(self, name: str, questions: Sequence[Question]) -> None:
        write_arrays(self._out / f"{name}.npz", question_tensors(questions))


def _recipe(recipe: Recipe) -> dict[str, float | int | str]:
    return {key: value for key, value in asdict(recipe).items() if isinstance(value, int | float)}


def _memory_bytes(file: Path, weights: int, models: Sequence[Mapping[str, int]]) -> int:
    # A context's keys and values: two of each layer, head and place.
    cache = sum(2 * one["layers"] * one["kv_heads"] * one["head_width"] * one["context_tokens"] for one in models)
    return file.stat().st_size + 4 * (weights + cache)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
