"""Questions: answers that pass their own check, splits that share nothing, the same every time."""

from itertools import islice

import pytest

from nodes.zoo.skills.checking import is_right, normalised, wilson_interval
from nodes.zoo.skills.skill import HELD_OUT_OPENINGS, Question
from nodes.zoo.skills.suites import JUDGING, NAMES, SUITES, Split, judging_questions, training_questions


def drawn(count: int = 6000, seed: int = 3) -> list[Question]:
    return list(islice(training_questions(NAMES, seed), count))


def test_every_suite_asks_and_every_answer_passes_its_check() -> None:
    questions = [*drawn(), *judging_questions(Split.TEST, 350)]
    assert {question.suite for question in questions} == set(NAMES)
    assert {(question.suite, question.skill) for question in questions} == {
        (suite, skill.name) for suite, skills in SUITES.items() for skill in skills
    }
    for question in questions:
        assert is_right(question.answer, question.answer)
        assert normalised(question.answer) == question.answer, "answers are kept in normal form"
        assert not is_right(question.answer + "x", question.answer)
        assert 0 < len(question.prompt) < 100
        assert 0 < len(question.answer) <= 16
        assert "{" not in question.prompt


def test_answers_are_what_arithmetic_says() -> None:
    # An independent reading of the plainest wording of some skills.
    for question in drawn():
        words = question.prompt.rstrip("?.").split()
        if question.skill == "sum" and "+" in words and words[-2] == "+":
            assert int(question.answer) == int(words[-3]) + int(words[-1])
        if question.skill == "reverse" and words[-1] == "backwards":
            assert question.answer == "".join(reversed(words[-2]))
        if question.skill == "to-small" and words[-4:-3] == ["in"]:
            assert question.answer.startswith(words[-3])


def test_splits_share_no_prompt() -> None:
    splits: dict[Split, set[str]] = {split: {q.prompt for q in judging_questions(split, 350)} for split in JUDGING}
    splits[Split.TRAIN] = {question.prompt for question in drawn(20_000)}
    for one in splits:
        assert all(one is other or splits[one].isdisjoint(splits[other]) for other in splits)


def test_some_questions_for_judging_are_worded_as_never_in_training() -> None:
    openings = tuple(begin for begin, _ in HELD_OUT_OPENINGS)
    judged = judging_questions(Split.REFERENCE, 350)
    assert sum(any(begin in question.prompt for begin in openings) for question in judged) > 35
    assert not any(begin in question.prompt for question in drawn() for begin in openings)


def test_the_same_seed_asks_the_same_and_suites_come_in_turn() -> None:
    assert drawn(50) == drawn(50)
    assert drawn(50) != drawn(50, seed=4)
    asked = judging_questions(Split.TEST, 70)
    assert asked == judging_questions(Split.TEST, 70)
    assert [question.suite for question in asked[:7]] == list(NAMES)


def test_training_questions_do_not_judge() -> None:
    with pytest.raises(ValueError, match="not for judging"):
        judging_questions(Split.TRAIN, 10)


@pytest.mark.parametrize("given", ["42", " 42. ", '"42"', "\u0034\u0032\n"])
def test_what_nobody_would_call_a_difference_is_none(given: str) -> None:
    assert is_right(given, "42")


@pytest.mark.parametrize("given", ["", "4 2", "042", "forty-two", "42 cm"])
def test_other_answers_are_wrong(given: str) -> None:
    assert not is_right(given, "42")


def test_wilson_interval_against_known_values() -> None:
    # Newcombe, 1998, table I: 81 of 263.
    low, high = wilson_interval(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 10)[0] == 0.0
