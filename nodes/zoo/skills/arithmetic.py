"""Sums, differences and products of small numbers."""

from __future__ import annotations

from random import Random

from nodes.zoo.skills.skill import Case, Skill


def _two(a: int, b: int, answer: int) -> Case:
    return Case({"a": str(a), "b": str(b)}, str(answer))


def _sum(random: Random) -> Case:
    a, b = random.randint(0, 99), random.randint(0, 99)
    return _two(a, b, a + b)


def _difference(random: Random) -> Case:
    b, a = sorted((random.randint(0, 99), random.randint(0, 99)))
    return _two(a, b, a - b)


def _product(random: Random) -> Case:
    a, b = random.randint(2, 12), random.randint(2, 12)
    return _two(a, b, a * b)


def _double(random: Random) -> Case:
    a = random.randint(1, 99)
    return Case({"a": str(a)}, str(2 * a))


SKILLS = (
    Skill(
        "sum",
        _sum,
        ("{a} plus {b}", "{a} + {b}", "the sum of {a} and {b}", "{a} and {b} together"),
        ("the sum {a} + {b}", "{a} plus {b} together"),
    ),
    Skill(
        "difference",
        _difference,
        ("{a} minus {b}", "{a} - {b}", "the difference of {a} and {b}", "{a} less {b}"),
        ("the difference {a} - {b}", "what is left of {a} minus {b}"),
    ),
    Skill(
        "product",
        _product,
        ("{a} times {b}", "{a} * {b}", "the product of {a} and {b}"),
        ("the product {a} * {b}", "the product of {a} times {b}"),
        few_cases=True,
    ),
    Skill(
        "double",
        _double,
        ("double {a}", "twice {a}", "the double of {a}"),
        ("twice the number {a}", "the number {a} double"),
        few_cases=True,
    ),
)
