"""Short lists put in order, and their ends."""

from __future__ import annotations

from random import Random

from nodes.zoo.skills.skill import Case, Skill

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _listed(random: Random, items: list[str], *, falling: bool) -> Case:
    ordered = sorted(items, reverse=falling)
    random.shuffle(items)
    return Case({"list": " ".join(items), "order": "falling" if falling else "rising"}, " ".join(ordered))


def _digits(random: Random) -> Case:
    items = [str(random.randrange(10)) for _ in range(random.randint(3, 5))]
    return _listed(random, items, falling=random.random() < 0.5)


def _letters(random: Random) -> Case:
    items = random.sample(LETTERS, random.randint(3, 4))
    return _listed(random, items, falling=random.random() < 0.5)


def _extreme(random: Random) -> Case:
    numbers = random.sample(range(10, 100), random.randint(2, 4))
    largest = random.random() < 0.5
    answer = max(numbers) if largest else min(numbers)
    fields = {"list": " ".join(map(str, numbers)), "which": "largest" if largest else "smallest"}
    return Case(fields, str(answer))


ORDERED = ("{list} in {order} order", "the list {list} in {order} order", "{list} sorted in {order} order")
HELD_OUT_ORDERED = ("the list {list} sorted in {order} order", "the {order} order of {list}")

SKILLS = (
    Skill("digits", _digits, ORDERED, HELD_OUT_ORDERED),
    Skill("letters", _letters, ORDERED, HELD_OUT_ORDERED),
    Skill(
        "extreme",
        _extreme,
        ("the {which} of {list}", "the {which} number of {list}", "the {which} number in {list}"),
        ("the {which} in {list}", "the {which} number of the list {list}"),
    ),
)
