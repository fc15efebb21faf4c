"""Look-ups in a small table of prices that comes with the question."""

from __future__ import annotations

from random import Random

from nodes.zoo.skills.skill import Case, Skill

GOODS = ("apple", "bread", "candle", "door", "egg", "fork", "glove", "hat", "ink", "jam", "kite", "lamp")


def draw_table(random: Random) -> dict[str, int]:
    """Three or four goods and their prices, all different."""
    goods = random.sample(GOODS, random.randint(3, 4))
    return dict(zip(goods, random.sample(range(1, 10), len(goods)), strict=True))


def written(prices: dict[str, int]) -> str:
    """The table as a question shows it."""
    return ", ".join(f"{good} {price}" for good, price in prices.items())


def _price(random: Random) -> Case:
    prices = draw_table(random)
    good = random.choice(list(prices))
    return Case({"table": written(prices), "good": good}, str(prices[good]))


def _good(random: Random) -> Case:
    prices = draw_table(random)
    good = random.choice(list(prices))
    return Case({"table": written(prices), "price": str(prices[good])}, good)


def _extreme(random: Random) -> Case:
    prices = draw_table(random)
    dearest = random.random() < 0.5
    pick = max if dearest else min
    fields = {"table": written(prices), "which": "dearest" if dearest else "cheapest"}
    return Case(fields, pick(prices, key=prices.__getitem__))


SKILLS = (
    Skill(
        "price",
        _price,
        ("{table}. {ask} the price of {good}", "Prices: {table}. {ask} the {good} price"),
        ("Prices: {table}. {ask} the price of the {good}", "Prices: {table}. {ask} the price of {good}"),
    ),
    Skill(
        "good",
        _good,
        ("{table}. {ask} the good with the price {price}", "Prices: {table}. {ask} the good for {price}"),
        ("{table}. {ask} the good for the price {price}", "Prices: {table}. {ask} the good with the price {price}"),
    ),
    Skill(
        "extreme",
        _extreme,
        ("{table}. {ask} the {which} good", "Prices: {table}. {ask} the {which}"),
        ("Prices: {table}. {ask} the {which} good", "{table}. {ask} the good with the {which} price"),
    ),
)
