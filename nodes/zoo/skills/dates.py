"""Weekdays, months and days of the year."""

from __future__ import annotations

from random import Random

from nodes.zoo.skills.skill import Case, Skill

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
DAYS_OF_MONTH = {
    "January": 31,
    "February": 28,
    "March": 31,
    "April": 30,
    "May": 31,
    "June": 30,
    "July": 31,
    "August": 31,
    "September": 30,
    "October": 31,
    "November": 30,
    "December": 31,
}
MONTHS = tuple(DAYS_OF_MONTH)


def _weekday(random: Random) -> Case:
    day, n = random.randrange(7), random.randint(1, 14)
    later = random.random() < 0.5
    answer = WEEKDAYS[(day + n if later else day - n) % 7]
    return Case({"n": str(n), "day": WEEKDAYS[day], "side": "after" if later else "before"}, answer)


def _month(random: Random) -> Case:
    month, n = random.randrange(12), random.randint(1, 11)
    later = random.random() < 0.5
    answer = MONTHS[(month + n if later else month - n) % 12]
    return Case({"n": str(n), "month": MONTHS[month], "side": "after" if later else "before"}, answer)


def _length(random: Random) -> Case:
    month = random.choice(MONTHS)
    return Case({"month": month}, str(DAYS_OF_MONTH[month]))


def _date(random: Random) -> Case:
    month, n = random.choice(MONTHS), random.randint(1, 9)
    day = random.randint(1, DAYS_OF_MONTH[month] - n)
    return Case({"n": str(n), "date": f"{month} {day}"}, f"{month} {day + n}")


SKILLS = (
    Skill(
        "weekday",
        _weekday,
        ("the weekday {n} days {side} {day}", "the day {n} days {side} {day}", "the week day {n} days {side} {day}"),
        ("the weekday that is {n} days {side} {day}", "the day that comes {n} days {side} {day}"),
        few_cases=True,
    ),
    Skill(
        "month",
        _month,
        ("the month {n} months {side} {month}", "the month that comes {n} months {side} {month}"),
        ("the month that is {n} months {side} {month}", "which month comes {n} months {side} {month}"),
        few_cases=True,
    ),
    Skill(
        "length",
        _length,
        ("the number of days in {month}", "the days that {month} has", "the days in {month}"),
        ("the number of days that {month} has", "the number of days of {month}"),
        few_cases=True,
    ),
    Skill(
        "date",
        _date,
        (
            "the date {n} days after {date}",
            "the day {n} days after {date}",
            "the date that comes {n} days after {date}",
        ),
        ("the date that is {n} days after {date}", "the day that comes {n} days after {date}"),
    ),
)
