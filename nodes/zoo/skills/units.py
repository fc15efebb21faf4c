"""Quantities in other units, whole numbers only."""

from __future__ import annotations

from random import Random

from nodes.zoo.skills.skill import Case, Skill

# (large unit, small unit, how many small ones make a large one)
DECIMAL = (("km", "m", 1000), ("m", "cm", 100), ("kg", "g", 1000), ("cm", "mm", 10), ("l", "ml", 1000))
COUNTED = (
    ("hours", "minutes", 60),
    ("weeks", "days", 7),
    ("feet", "inches", 12),
    ("days", "hours", 24),
    ("years", "months", 12),
)


def _case(large: str, small: str, n: str, answer: int) -> Case:
    return Case({"n": n, "from": large, "to": small}, str(answer))


def _to_small(random: Random) -> Case:
    large, small, factor = random.choice(DECIMAL)
    n = random.randint(1, 99)
    return _case(large, small, str(n), n * factor)


def _to_large(random: Random) -> Case:
    large, small, factor = random.choice(DECIMAL)
    n = random.randint(1, 99)
    return _case(small, large, str(n * factor), n)


def _counted(random: Random) -> Case:
    large, small, factor = random.choice(COUNTED)
    n = random.randint(2, 12)
    return _case(large, small, str(n), n * factor)


def _uncounted(random: Random) -> Case:
    large, small, factor = random.choice(COUNTED)
    n = random.randint(2, 12)
    return _case(small, large, str(n * factor), n)


PHRASINGS = ("{n} {from} in {to}", "how many {to} {n} {from} are", "the number of {to} in {n} {from}")
HELD_OUT = ("{n} {from} as {to}", "the number of {to} that {n} {from} are")

SKILLS = (
    Skill("to-small", _to_small, PHRASINGS, HELD_OUT),
    Skill("to-large", _to_large, PHRASINGS, HELD_OUT),
    Skill("counted", _counted, PHRASINGS, HELD_OUT, few_cases=True),
    Skill("uncounted", _uncounted, PHRASINGS, HELD_OUT, few_cases=True),
)
