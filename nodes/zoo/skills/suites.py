"""All suites, and questions drawn from them for each split.

A question of the judging splits is new in its case, its wording or both; where a skill has too few cases to keep
some from training, always in its wording. Which judging split a question belongs to hangs on its own text, so that no
question is in two. Everything is a pure function of the seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from random import Random
from types import MappingProxyType

from nodes.zoo.skills import arithmetic, dates, sorting, strings, tables, twosteps, units
from nodes.zoo.skills.skill import HELD_OUT_OPENINGS, OPENINGS, Question, Skill, say

SUITES: Mapping[str, tuple[Skill, ...]] = MappingProxyType(
    {
        "arithmetic": arithmetic.SKILLS,
        "dates": dates.SKILLS,
        "units": units.SKILLS,
        "strings": strings.SKILLS,
        "sorting": sorting.SKILLS,
        "tables": tables.SKILLS,
        "two-step": twosteps.SKILLS,
    }
)
NAMES = tuple(SUITES)


class Split(StrEnum):
    """What questions are for: to learn from, to tune by, for the gate to know an expert by, to judge with."""

    TRAIN = "train"
    VALIDATION = "validation"
    REFERENCE = "reference"
    TEST = "test"


JUDGING = (Split.VALIDATION, Split.REFERENCE, Split.TEST)


def split_of(skill: Skill, prompt: str) -> Split:
    """The split of a question that training may not see."""
    return JUDGING[zlib.crc32(f"{skill.name}|{prompt}".encode()) % len(JUDGING)]


def training_questions(
    suites: Sequence[str], seed: int, openings: Sequence[tuple[str, str]] = OPENINGS
) -> Iterator[Question]:
    """Questions to learn from, without end."""
    random = Random(f"train-{seed}")  # noqa: S311
    while True:
        suite = random.choice(suites)
        skill = random.choice(SUITES[suite])
        case = skill.draw(random)
        if not skill.holds_out(case):
            prompt = say(random.choice(skill.phrasings), random.choice(openings), case)
            yield Question(suite, skill.name, prompt, case.answer)


def judging_questions(split: Split, count: int, *, seed: int = 0, suites: Sequence[str] = NAMES) -> list[Question]:
    """`count` different questions of one judging split, suites in turn.

    Raises:
        ValueError: if the split is not for judging, or the suites do not hold so many.
    """
    if split not in JUDGING:
        raise ValueError(f"{split} is not for judging")
    random = Random(f"{split}-{seed}")  # noqa: S311
    columns = [
        _different(suite, split, count=-(-(count - place) // len(suites)), random=random)
        for place, suite in enumerate(suites)
    ]
    return [columns[i % len(suites)][i // len(suites)] for i in range(count)]


def _different(suite: str, split: Split, *, count: int, random: Random) -> list[Question]:
    found: dict[str, Question] = {}
    for _ in range(1000 * count):
        if len(found) == count:
            return list(found.values())
        question = _drawn(suite, split, random)
        if question is not None:
            found.setdefault(question.prompt, question)
    raise ValueError(f"{suite} holds only {len(found)} of {count} questions for {split}")


def _drawn(suite: str, split: Split, random: Random) -> Question | None:
    skill = random.choice(SUITES[suite])
    case = skill.draw(random)
    known_phrasing, known_opening = random.random() < 0.5, random.random() < 0.75
    phrasing = random.choice(skill.phrasings if known_phrasing else skill.held_out_phrasings)
    opening = random.choice(OPENINGS if known_opening else HELD_OUT_OPENINGS)
    seen_wording = known_phrasing and known_opening
    if seen_wording and not skill.holds_out(case):
        return None
    prompt = say(phrasing, opening, case)
    return Question(suite, skill.name, prompt, case.answer) if split_of(skill, prompt) is split else None
