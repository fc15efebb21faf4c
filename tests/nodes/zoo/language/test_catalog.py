"""The text experts that ship: cards, files and evidence belong together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from nodes.arms import TextTraits
from nodes.errors import ConfigError
from nodes.inventory import load_inventory
from nodes.zoo import __main__ as command
from nodes.zoo.arrays import read_arrays, write_arrays
from nodes.zoo.cards import CatalogError
from nodes.zoo.language.catalog import TEXT_FOLDER, TextCatalog, load_text_catalog
from nodes.zoo.language.judging import Answers, answers_from
from nodes.zoo.language.settings import RECIPES
from nodes.zoo.language.texts import packed, questions_from, unpacked
from nodes.zoo.language.vocabulary import shipped_tokenizer
from nodes.zoo.skills.checking import is_right
from nodes.zoo.skills.suites import NAMES, Split, judging_questions

MIB = 2**20


@pytest.fixture(scope="module")
def catalog() -> TextCatalog:
    return load_text_catalog()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TEXT_FOLDER, tmp_path / "experts"))


def test_every_recipe_ships_and_a_mixture_of_all(catalog: TextCatalog) -> None:
    assert {card.name for card in catalog.experts} == {*RECIPES, "skills-mixture"}
    assert {card.tokenizer_digest for card in catalog.experts} == {shipped_tokenizer().digest}
    assert [card.macs for card in catalog.experts] == sorted(card.macs for card in catalog.experts)
    assert sum(path.stat().st_size for path in TEXT_FOLDER.iterdir()) < 20 * MIB


def test_questions_are_those_of_the_suites(catalog: TextCatalog) -> None:
    shipped = questions_from(catalog.reference)
    made = judging_questions(Split.REFERENCE, len(shipped))
    assert [(q.suite, q.prompt, q.answer) for q in shipped] == [(q.suite, q.prompt, q.answer) for q in made]
    assert len(catalog.test) >= 1000
    assert {question.prompt for question in shipped}.isdisjoint(question.prompt for question in catalog.test)
    assert catalog.task.suites == NAMES


def test_evidence_says_right_where_the_check_does(catalog: TextCatalog) -> None:
    answers = unpacked(catalog.reference["answers"], catalog.reference["answer_ends"])
    for card in catalog.experts:
        evidence = catalog.evidence_tensors(card)
        given = unpacked(evidence["given"], evidence["given_ends"])
        right = [is_right(one, answer) for one, answer in zip(given, answers, strict=True)]
        assert evidence["correct"].tolist() == [float(value) for value in right]
        assert evidence["completion_tokens"].dtype == np.int32
        assert float(evidence["margin"].min()) >= 0.0
        assert float(evidence["margin"].max()) <= 1.0


def test_scores_lie_in_their_intervals(catalog: TextCatalog) -> None:
    for card in catalog.experts:
        assert sum(score.samples for score in card.suites.values()) == card.quality.samples
        for score in (card.quality, *card.suites.values()):
            assert score.low_fraction <= score.right_fraction <= score.high_fraction


def test_verify_finds_the_cheapest_as_stated(catalog: TextCatalog) -> None:
    name = catalog.experts[0].name
    result = CliRunner().invoke(command.main, ["verify-language", "--only", name])
    assert result.exit_code == 0, result.output
    assert result.output.count("as stated") == 1


def test_texts_pack_and_unpack() -> None:
    texts = ["", "né", "", "42"]
    assert unpacked(*packed(texts)) == texts


def test_answers_survive_a_file(tmp_path: Path) -> None:
    ints, halves = np.arange(2), np.full(2, 0.5, np.float32)
    answers = Answers(("", "né"), halves, halves, ints.astype(np.int32), ints.astype(np.int32), ints)
    write_arrays(tmp_path / "answers.npz", answers.arrays())
    again = answers_from(read_arrays(tmp_path / "answers.npz"))
    assert again.given == answers.given
    assert {name: array.tolist() for name, array in again.arrays().items()} == {
        name: array.tolist() for name, array in answers.arrays().items()
    }


def test_the_inventory_offers_them_beside_the_digits() -> None:
    inventory = load_inventory(None, ())
    assert {task.name: task.text for task in inventory.tasks} == {"digits": False, "skills": True}
    texts = [arm for arm in inventory.arms if arm.engine == "onnx-lm"]
    assert len(texts) == len(RECIPES) + 1
    assert all(isinstance(arm.text, TextTraits) and arm.text.completion_tokens > 1 for arm in texts)
    assert all(arm.evidence_digest in inventory.evidence for arm in inventory.arms)
    one = load_inventory(None, ("skills-general",))
    assert ([task.name for task in one.tasks], [arm.expert for arm in one.arms]) == (["skills"], ["skills-general"])
    assert [arm.expert for arm in load_inventory(TEXT_FOLDER, ()).arms] == [arm.expert for arm in texts]
    with pytest.raises(ConfigError, match="No expert 'skills-none'"):
        load_inventory(None, ("skills-none",))


def test_a_file_that_changed_is_found(copy: Path) -> None:
    load_text_catalog(copy)
    model = copy / "skills-dates.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    with pytest.raises(CatalogError, match="not what its card describes"):
        load_text_catalog(copy)


def test_unknown_keys_and_wrong_names_are_refused(copy: Path) -> None:
    card = json.loads((copy / "skills-dates.json").read_text())
    (copy / "skills-dates.json").write_text(json.dumps({**card, "surprise": 1}))
    with pytest.raises(CatalogError, match="surprise"):
        load_text_catalog(copy)
    (copy / "skills-dates.json").write_text(json.dumps({**card, "name": "other"}))
    with pytest.raises(CatalogError, match="Name the card after its expert"):
        load_text_catalog(copy)
