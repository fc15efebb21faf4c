"""Edits of short made-up words, letter by letter."""

from __future__ import annotations

from random import Random

from nodes.zoo.skills.skill import Case, Skill

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


def made_up_word(random: Random) -> str:
    """A word of three to five letters that can be said."""
    first = random.random() < 0.5
    letters = (random.choice(VOWELS if (i % 2 == 0) == first else CONSONANTS) for i in range(random.randint(3, 5)))
    # The x keeps it apart from words that mean something.
    word = "".join(letters)
    return word[:-1] + "x" if random.random() < 0.1 else word


def _reverse(random: Random) -> Case:
    word = made_up_word(random)
    return Case({"word": word}, word[::-1])


def _capitals(random: Random) -> Case:
    word = made_up_word(random)
    return Case({"word": word}, word.upper())


def _end_letter(random: Random) -> Case:
    word, first = made_up_word(random), random.random() < 0.5
    return Case({"word": word, "which": "first" if first else "last"}, word[0] if first else word[-1])


def _without_end(random: Random) -> Case:
    word, first = made_up_word(random), random.random() < 0.5
    return Case({"word": word, "which": "first" if first else "last"}, word[1:] if first else word[:-1])


def _length(random: Random) -> Case:
    word = made_up_word(random)
    return Case({"word": word}, str(len(word)))


SKILLS = (
    Skill(
        "reverse",
        _reverse,
        ("the reverse of {word}", "{word} backwards", "the word {word} in reverse"),
        ("the word {word} backwards", "the reverse of the word {word}"),
    ),
    Skill(
        "capitals",
        _capitals,
        ("{word} in capitals", "the word {word} in capitals", "the capitals of {word}"),
        ("the letters of {word} in capitals", "the capitals of the word {word}"),
    ),
    Skill(
        "end-letter",
        _end_letter,
        ("the {which} letter of {word}", "the {which} letter in {word}"),
        ("the {which} letter of the word {word}", "which letter is {which} in {word}"),
    ),
    Skill(
        "without-end",
        _without_end,
        ("{word} without its {which} letter", "the word {word} without the {which} letter"),
        ("{word} without the {which} letter", "the word {word} less its {which} letter"),
    ),
    Skill(
        "length",
        _length,
        ("the number of letters in {word}", "the length of {word}", "how many letters {word} has"),
        ("the number of letters that {word} has", "the length of the word {word}"),
    ),
)
