"""What a small model's reading of a question adds to the gate's reading of its text.

A node that runs an expert sees more than its text: keys and values of the last layer behind the question, and how sure
the model is of the first token. Heads on these features beside the gate's own log odds are compared with heads on the
log odds alone, for the smallest expert as the reader and for the largest. Everything is out of fold on the reference
questions: the gate is learned anew in every fold, heads see its log odds for questions that it had not seen, and the
penalty is chosen within the training part.

Reported: error of the predicted qualities (Brier), how many answers are right where each question goes to the expert
that is predicted best, with a paired bootstrap interval, and the joules of reading beside those of answering. Nothing
of it is part of serving.

Shape letters: q questions, e experts, f features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nodes.energy.profile import load_profile
from nodes.worker.text.model import Cache, LanguageModel, Row
from nodes.worker.text.sampling import margin, probabilities
from nodes.zoo.language.catalog import TextCatalog, load_text_catalog
from nodes.zoo.language.texts import questions_from, unpacked
from optimizer.evidence.texts import TextEvidence
from optimizer.fitting.logistic import fit_logistic, logit, sigmoid
from optimizer.heads.texts import fit_text_heads
from tests.bench.harness import Row as Figure
from tests.bench.harness import main
from tests.bench.skills_table import DEVICE

Floats = NDArray[np.float64]
READERS = ("skills-dates", "skills-general")
FOLDS = 5
PENALTIES = (1.0, 10.0, 100.0, 1000.0)
HELD_BACK = 0.2
DRAWS = 2000
LEAST = 0.005


def _evidence(catalog: TextCatalog) -> TextEvidence:
    tensors = [catalog.evidence_tensors(card) for card in catalog.experts]
    return TextEvidence(
        tuple(card.name for card in catalog.experts),
        tuple(question.prompt for question in questions_from(catalog.reference)),
        np.column_stack([one["correct"] for one in tensors]).astype(np.float64),
        np.clip(np.column_stack([one["margin"] for one in tensors]).astype(np.float64), 0.0, 1.0),
        tuple(tuple(unpacked(one["given"], one["given_ends"])) for one in tensors),
    )


def _part(evidence: TextEvidence, chosen_q: NDArray[np.intp]) -> TextEvidence:
    return TextEvidence(
        evidence.experts,
        tuple(evidence.prompts[q] for q in chosen_q),
        evidence.correct_qe[chosen_q],
        evidence.margin_qe[chosen_q],
        tuple(tuple(given[q] for q in chosen_q) for given in evidence.given_eq),
    )


def _read(model: LanguageModel, question: str) -> Floats:
    """What a model has of a question before it answers (f,)."""
    cache = Cache(model)
    logits_v = model.step([Row(cache, model.tokenizer.prompt(question))])[0]
    last = cache.past[-1, :, 0].astype(np.float64)
    first_v = probabilities(logits_v)
    entropy = -float(np.sum(first_v * np.log(np.maximum(first_v, 1e-12))))
    sure = [logit(margin(first_v)), logit(first_v.max()), entropy]
    return np.concatenate([last[:, :, -1].reshape(-1), last.mean(axis=2).reshape(-1), np.asarray(sure, np.float64)])


def _features(catalog: TextCatalog, name: str, prompts: tuple[str, ...]) -> tuple[Floats, float]:
    """Features (q, f), and the joules of reading a question."""
    card = next(card for card in catalog.experts if card.name == name)
    model = LanguageModel(catalog.model_path(card), card.sha256)
    macs = [model.macs(0, len(model.tokenizer.prompt(prompt))) for prompt in prompts]
    energy_j = float(np.mean([load_profile(DEVICE).energy_j(one) for one in macs]))
    return np.stack([_read(model, prompt) for prompt in prompts]), energy_j


def _head(train_qf: Floats, right_q: Floats, test_qf: Floats, rng: np.random.Generator) -> Floats:
    """Qualities of test questions; the penalty is that which did best on a part of the training questions."""
    order = rng.permutation(len(train_qf))
    cut = int(len(order) * HELD_BACK)
    held, rest = order[:cut], order[cut:]

    def error(l2: float) -> float:
        weights_f, bias = fit_logistic(train_qf[rest], right_q[rest], l2=l2)
        return float(np.mean((sigmoid(train_qf[held] @ weights_f + bias) - right_q[held]) ** 2))

    weights_f, bias = fit_logistic(train_qf, right_q, l2=min(PENALTIES, key=error))
    return sigmoid(test_qf @ weights_f + bias)


def _scaled(train_qf: Floats, test_qf: Floats) -> tuple[Floats, Floats]:
    middle_f, spread_f = train_qf.mean(axis=0), np.maximum(train_qf.std(axis=0), 1e-9)
    return (train_qf - middle_f) / spread_f, (test_qf - middle_f) / spread_f


def _qualities(evidence: TextEvidence, read: dict[str, Floats]) -> dict[str, Floats]:
    """Out-of-fold qualities (q, e) by what the heads were given; "text" is the log odds of the gate alone."""
    questions, experts = evidence.correct_qe.shape
    fold_q = np.random.default_rng(0).integers(0, FOLDS, questions)
    found = {name: np.zeros((questions, experts)) for name in ("text", *read)}
    for fold in range(FOLDS):
        train, test = np.flatnonzero(fold_q != fold), np.flatnonzero(fold_q == fold)
        fit = fit_text_heads(_part(evidence, train))
        prompts = [evidence.prompts[q] for q in test]
        unseen_qe = logit(np.clip(fit.heads.predict_many(prompts), LEAST, 1.0 - LEAST))
        for name, quality_qe in found.items():
            more = np.zeros((len(train), 0)), np.zeros((len(test), 0))
            if name in read:
                more = _scaled(read[name][train], read[name][test])
            for e in range(experts):
                rng = np.random.default_rng(e)
                ours = np.hstack([fit.log_odds_qe[:, [e]], more[0]])
                theirs = np.hstack([unseen_qe[:, [e]], more[1]])
                quality_qe[test, e] = _head(ours, evidence.correct_qe[train, e], theirs, rng)
    return found


def _rows(evidence: TextEvidence, found: dict[str, Floats], energy_j: dict[str, float]) -> list[Figure]:
    questions = len(evidence.prompts)
    right = {name: evidence.correct_qe[np.arange(questions), one.argmax(axis=1)] for name, one in found.items()}
    rows = []
    for name, quality_qe in found.items():
        sizes: dict[str, object] = {"questions": questions, "folds": FOLDS}
        brier = float(np.mean((quality_qe - evidence.correct_qe) ** 2))
        rows.append(Figure(f"brier_{name}", brier, "squared error", sizes))
        rows.append(Figure(f"right_{name}", float(right[name].mean()), "fraction", sizes))
        if name in energy_j:
            rows.append(Figure(f"reading_{name}", energy_j[name], "J per question, modelled", {"device": DEVICE}))
            low, middle, high = _gain(right[name] - right["text"])
            rows.append(Figure(f"gain_{name}_points", middle, "points", {**sizes, "low": low, "high": high}))
    return rows


def _gain(differ_q: Floats) -> tuple[float, float, float]:
    """Mean in points, between the ends of its 95 % bootstrap interval."""
    rng = np.random.default_rng(1)
    drawn = [float(differ_q[rng.integers(0, len(differ_q), len(differ_q))].mean()) for _ in range(DRAWS)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return 100 * float(low), 100 * float(differ_q.mean()), 100 * float(high)


def run() -> list[Figure]:
    """All figures. Cost: some minutes of one core."""
    catalog = load_text_catalog()
    evidence = _evidence(catalog)
    read = {name: _features(catalog, name, evidence.prompts) for name in READERS}
    found = _qualities(evidence, {name: features_qf for name, (features_qf, _) in read.items()})
    return _rows(evidence, found, {name: energy_j for name, (_, energy_j) in read.items()})


if __name__ == "__main__":
    main(stem="prefill", run=run, bars=())
