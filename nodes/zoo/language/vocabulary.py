"""The words that the shipped tokenizer knows whole: those that training questions use again and again."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import islice
from pathlib import Path

from nodes.worker.text.tokens import Tokenizer
from nodes.zoo.skills.skill import PLAIN_OPENINGS
from nodes.zoo.skills.suites import NAMES, training_questions

VOCABULARY_FILE = Path(__file__).parent / "vocabulary.json"
COUNTED_QUESTIONS = 40_000
# Made-up words of the strings suite come up far less often, so that they stay spelled.
COMMON_COUNT = 200
_WORDS = re.compile(r" ?[A-Za-z]{2,}")


def shipped_tokenizer() -> Tokenizer:
    """The tokenizer that all shipped text experts share."""
    return Tokenizer(json.loads(VOCABULARY_FILE.read_text()))


def common_words() -> list[str]:
    """The words, in alphabetical order. Cost: about 3 s."""
    counts: Counter[str] = Counter()
    for question in islice(training_questions(NAMES, seed=0, openings=PLAIN_OPENINGS), COUNTED_QUESTIONS):
        counts.update(_WORDS.findall(question.prompt))
        counts.update(_WORDS.findall(question.answer))
    return sorted(word for word, count in counts.items() if count >= COMMON_COUNT)


def write_vocabulary() -> None:
    """Write the shipped vocabulary anew; every model that was trained with another one is then of no use."""
    VOCABULARY_FILE.write_text(json.dumps(common_words(), indent=0) + "\n")
