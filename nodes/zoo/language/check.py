"""Check the text experts that ship by running them: do they answer as well as their cards say?"""

from __future__ import annotations

from dataclasses import dataclass

from nodes.worker.text.library import Library
from nodes.zoo.language.cards import TextExpertCard
from nodes.zoo.language.catalog import TextCatalog
from nodes.zoo.language.judging import answer_all

# Another processor rounds otherwise, and a near tie may fall to the other side.
ALLOWED_FRACTION = 0.005


@dataclass(frozen=True)
class TextFinding:
    """One expert, run on the test questions."""

    expert: str
    right_fraction: float
    as_stated: bool


def check_text_expert(catalog: TextCatalog, card: TextExpertCard) -> TextFinding:
    """Ask one expert every test question. Cost: 5 to 60 s of one core."""
    library = Library()
    library.load(card.name, str(catalog.model_path(card)), card.sha256)
    right_fraction = float(answer_all(library.arm(card.name), catalog.test).correct_q.mean())
    stated = card.quality.right_fraction
    return TextFinding(card.name, right_fraction, abs(right_fraction - stated) <= ALLOWED_FRACTION)
