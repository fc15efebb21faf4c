"""The decoder and its export, with random weights. Needs torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'edgewise[train]')")

from nodes.worker.text.mixing import Mixture  # noqa: E402
from nodes.worker.text.model import LanguageModel  # noqa: E402
from nodes.worker.text.tokens import ANSWER, END  # noqa: E402
from nodes.zoo.language.answering import greedy_answers  # noqa: E402
from nodes.zoo.language.batches import NO_TARGET, batches  # noqa: E402
from nodes.zoo.language.build import Builder  # noqa: E402
from nodes.zoo.language.catalog import load_text_catalog  # noqa: E402
from nodes.zoo.language.export import TOLERANCE, export_onnx, macs_per_token  # noqa: E402
from nodes.zoo.language.judging import answer_all  # noqa: E402
from nodes.zoo.language.network import Decoder, Shape, parameters  # noqa: E402
from nodes.zoo.language.settings import Recipe  # noqa: E402
from nodes.zoo.language.train import Training, rate_fraction  # noqa: E402
from nodes.zoo.language.vocabulary import shipped_tokenizer  # noqa: E402
from nodes.zoo.skills.suites import Split, judging_questions  # noqa: E402

TOKENIZER = shipped_tokenizer()
RECIPE = Recipe(("arithmetic", "units"), 32, 2, 4, 2, 48, 12, 3e-3, batch_questions=8)


@pytest.fixture(scope="module")
def network() -> Decoder:
    torch.manual_seed(1)
    return Decoder(Shape(TOKENIZER.size, 32, 2, 4, 2, 48))


def test_what_comes_later_changes_nothing_before(network: Decoder) -> None:
    tokens = torch.arange(1, 13).unsqueeze(0)
    changed = tokens.clone()
    changed[0, 8:] = 7
    one, other = network.hidden(tokens), network.hidden(changed)
    assert torch.equal(one[:, :8], other[:, :8])
    assert not torch.allclose(one[:, 8:], other[:, 8:])


def test_the_exported_graph_is_the_network_and_answers_alike(network: Decoder, tmp_path: Path) -> None:
    file = tmp_path / "tiny.onnx"
    assert export_onnx(network, TOKENIZER, file) <= TOLERANCE
    model = LanguageModel(file, hashlib.sha256(file.read_bytes()).hexdigest())
    assert model.tokenizer.digest == TOKENIZER.digest
    assert model.sizes["macs_per_token"] == macs_per_token(network) < parameters(network)
    questions = judging_questions(Split.VALIDATION, 7)
    served = answer_all(Mixture([model], [1.0]), questions)
    plain = greedy_answers(network, TOKENIZER, [question.prompt for question in questions])
    for one, other in zip(served.given, plain, strict=True):
        assert one.startswith(other) or other.startswith(one), "one may end before the other's limit"


def test_only_answers_are_targets_and_steps_hang_on_their_number() -> None:
    found = list(batches(RECIPE, TOKENIZER, first_step=0))
    assert len(found) == RECIPE.steps
    for batch in found:
        wanted = batch.targets_bt != NO_TARGET
        assert (wanted.sum(1) >= 2).all()
        assert ((batch.targets_bt == END).sum(1) == 1).all()
        assert (batch.tokens_bt[wanted] != TOKENIZER.prompt("")[0]).all()
        assert ((batch.tokens_bt == ANSWER) & wanted).any(1).all(), "the first target follows the question"
    later = list(batches(RECIPE, TOKENIZER, first_step=5))
    assert [batch.tokens for batch in later] == [batch.tokens for batch in found[5:]]


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.zoo.language.train.SAVE_EVERY_STEPS", 4)
    monkeypatch.setattr("nodes.zoo.language.train.JUDGED_PER_SUITE", 2)
    whole = Training("whole", RECIPE, tmp_path)
    whole.run(lambda _line: None)
    broken = Training("broken", RECIPE, tmp_path)
    for batch, _ in zip(batches(RECIPE, TOKENIZER, first_step=0), range(4), strict=False):
        broken._step(batch)
    broken._save()
    again = Training("broken", RECIPE, tmp_path)
    assert again.progress.step == 4
    again.run(lambda _line: None)
    for one, other in zip(whole.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, other)
    assert again.progress.questions == whole.progress.questions == RECIPE.steps * RECIPE.batch_questions


def test_the_rate_rises_and_falls() -> None:
    assert rate_fraction(0, 1000) < rate_fraction(59, 1000) <= 1.0
    assert rate_fraction(999, 1000) < 1e-4


def test_an_expert_without_a_checkpoint_keeps_the_weights_it_ships_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("skills-dates", "skills-arithmetic")
    monkeypatch.setattr("nodes.zoo.language.build.RECIPES", dict.fromkeys(names, RECIPE))
    monkeypatch.setattr("nodes.zoo.language.build.QUESTIONS", {Split.VALIDATION: 7, Split.REFERENCE: 7, Split.TEST: 7})
    work, out = tmp_path / "work", tmp_path / "out"
    for name in names:
        training = Training(name, RECIPE, work)
        training._save()
        (work / f"{name}.csv").touch()
    Builder(work, out, lambda _line: None).build()
    first = {card.name: card for card in load_text_catalog(out).experts}
    (work / "skills-dates.npz").unlink()
    changed = Training("skills-arithmetic", dataclasses.replace(RECIPE, seed=1), tmp_path / "again")
    changed._checkpoint = work / "skills-arithmetic.npz"
    changed._save()
    Builder(work, out, lambda _line: None).build()
    again = {card.name: card for card in load_text_catalog(out).experts}
    assert again["skills-dates"] == first["skills-dates"]
    assert again["skills-arithmetic"].sha256 != first["skills-arithmetic"].sha256
    members = json.loads((out / again["skills-mixture"].file).read_text())["members"]
    assert {one["sha256"] for one in members} == {again[name].sha256 for name in names}
