"""One kind of question: how to draw a case of it, and how to say it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

# What a question begins and ends with.
PLAIN_OPENINGS = (("What is", "?"), ("Find", "."), ("Give", "."), ("Tell me", "."), ("I need", "."))
OPENINGS = (
    *PLAIN_OPENINGS,
    ("Give me", "."),
    ("Find me", "."),
    ("So what is", "?"),
    ("Say what is", "."),
    ("I want", "."),
    ("Then find", "."),
    ("Now tell me", "."),
    ("Please give", "."),
)
HELD_OUT_OPENINGS = (("Now give me", "."), ("Find out what is", "."))
# One case in so many is kept from training.
HELD_OUT_EVERY = 8


@dataclass(frozen=True)
class Case:
    """What is asked, before it is put in words.

    Attributes:
        fields: What the phrasings name.
        answer: The one right answer, in normal form.
    """

    fields: Mapping[str, str]
    answer: str


@dataclass(frozen=True)
class Question:
    """A question as an expert gets it. `suite` and `skill` are for statistics; no expert sees them."""

    suite: str
    skill: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class Skill:
    """A kind of question.

    Attributes:
        draw: Draws a case; the same generator state gives the same case.
        phrasings: Ways to say it; ``{ask}`` stands for the opening, first where it is not named.
        held_out_phrasings: Ways that no expert is trained on.
        few_cases: So few cases that all are trained on; then only wordings are held out.
    """

    name: str
    draw: Callable[[Random], Case]
    phrasings: tuple[str, ...]
    held_out_phrasings: tuple[str, ...]
    few_cases: bool = False

    def holds_out(self, case: Case) -> bool:
        """Whether training never sees this case, however it is said."""
        if self.few_cases:
            return False
        key = self.name + "|" + "|".join(f"{name}={value}" for name, value in sorted(case.fields.items()))
        return zlib.crc32(key.encode()) % HELD_OUT_EVERY == 0


def say(phrasing: str, opening: tuple[str, str], case: Case) -> str:
    """The case in words."""
    begin, end = opening
    body = phrasing if "{ask}" in phrasing else "{ask} " + phrasing
    return body.format(ask=begin, **case.fields) + end
