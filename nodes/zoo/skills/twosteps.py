"""Questions of two steps: the answer of one skill goes into another."""

from __future__ import annotations

from random import Random

from nodes.zoo.skills.dates import WEEKDAYS
from nodes.zoo.skills.skill import Case, Skill
from nodes.zoo.skills.strings import made_up_word
from nodes.zoo.skills.tables import draw_table, written
from nodes.zoo.skills.units import DECIMAL


def _bill(random: Random) -> Case:
    prices = draw_table(random)
    a, b = random.sample(list(prices), 2)
    return Case({"table": written(prices), "a": a, "b": b}, str(prices[a] + prices[b]))


def _weekday_after_sum(random: Random) -> Case:
    day, a, b = random.randrange(7), random.randint(1, 6), random.randint(1, 6)
    return Case({"a": str(a), "b": str(b), "day": WEEKDAYS[day]}, WEEKDAYS[(day + a + b) % 7])


def _sum_in_unit(random: Random) -> Case:
    large, small, factor = random.choice(DECIMAL)
    a, b = random.randint(1, 30), random.randint(1, 30)
    return Case({"a": str(a), "b": str(b), "from": large, "to": small}, str((a + b) * factor))


def _reverse_in_capitals(random: Random) -> Case:
    word = made_up_word(random)
    return Case({"word": word}, word[::-1].upper())


def _double_of_extreme(random: Random) -> Case:
    numbers = random.sample(range(1, 50), random.randint(2, 3))
    largest = random.random() < 0.5
    answer = 2 * (max(numbers) if largest else min(numbers))
    fields = {"list": " ".join(map(str, numbers)), "which": "largest" if largest else "smallest"}
    return Case(fields, str(answer))


def _letters_plus(random: Random) -> Case:
    word, n = made_up_word(random), random.randint(1, 20)
    return Case({"word": word, "n": str(n)}, str(len(word) + n))


SKILLS = (
    Skill(
        "bill",
        _bill,
        ("{table}. {ask} the price of {a} and {b} together", "Prices: {table}. {ask} the sum for {a} and {b}"),
        ("Prices: {table}. {ask} the price of {a} plus {b}", "{table}. {ask} the sum for {a} plus {b}"),
    ),
    Skill(
        "weekday-after-sum",
        _weekday_after_sum,
        ("the weekday {a} plus {b} days after {day}", "the day {a} + {b} days after {day}"),
        ("the weekday {a} + {b} days after {day}", "the day that is {a} plus {b} days after {day}"),
    ),
    Skill(
        "sum-in-unit",
        _sum_in_unit,
        ("{a} plus {b} {from} in {to}", "how many {to} {a} + {b} {from} are"),
        ("{a} + {b} {from} in {to}", "the number of {to} in {a} plus {b} {from}"),
    ),
    Skill(
        "reverse-in-capitals",
        _reverse_in_capitals,
        ("the reverse of {word} in capitals", "{word} backwards in capitals"),
        ("the capitals of {word} backwards", "the word {word} backwards in capitals"),
    ),
    Skill(
        "double-of-extreme",
        _double_of_extreme,
        ("twice the {which} of {list}", "double the {which} number in {list}"),
        ("twice the {which} number of {list}", "double the {which} of {list}"),
    ),
    Skill(
        "letters-plus",
        _letters_plus,
        ("the length of {word} plus {n}", "the number of letters in {word} plus {n}"),
        ("the length of {word} + {n}", "the number of letters in {word} + {n}"),
    ),
)
