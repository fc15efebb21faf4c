"""When two texts are the same answer, and what a vote over texts says: the same for the gateway and for learning.

Shape letters: c different answers.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from optimizer.routes.fusion import fuse
from optimizer.routes.route import Fusion, Route

_SPACES = re.compile(r"\s+")
_QUOTES = "\"'`“”‘’"
# Of an answer whose expert does not say how sure it is: a vote like any other, never enough to stop a cascade.
UNKNOWN_CONFIDENCE = 0.5


def normalised(text: str) -> str:
    """A text without what does not make it another answer: spaces, quotes around it, a closing full stop.

    Capitals count, as they do where the shipped experts' answers are checked.
    """
    plain = _SPACES.sub(" ", unicodedata.normalize("NFKC", text)).strip()
    return plain.strip(_QUOTES).removesuffix(".").strip(_QUOTES)


@dataclass
class Ballot:
    """Answers of a route's experts, as they come.

    Args:
        route: What is followed.
        answers: (expert, text, confidence), in the order of arrival; texts are normalised where several are compared.
    """

    route: Route
    answers: list[tuple[str, str, float]] = field(default_factory=list)

    def add(self, expert: str, text: str, confidence: float | None) -> None:
        """Take one answer."""
        known = UNKNOWN_CONFIDENCE if confidence is None else confidence
        alone = self.route.is_single
        self.answers.append((expert, text if alone else normalised(text), known))

    def result(self) -> tuple[str, float]:
        """The expert whose answer stands, and how sure the route is of it. Needs an answer."""
        if len(self.answers) == 1 and self.answers[0][0] in self.route.experts:
            # Most texts are one expert's: what fusing gives for a single answer, without the arrays.
            expert, _, confidence = self.answers[0]
            return expert, confidence
        texts, outputs = self._outputs()
        fused = fuse(self.route, outputs)
        winning = texts[int(fused.label)]
        same = [(confidence, expert) for expert, text, confidence in self.answers if text == winning]
        return max(same)[1], float(fused.confidence)

    def settled(self, missing: Sequence[str]) -> bool:
        """Whether no answer of those that are missing could change the result of a vote."""
        if self.route.fusion not in (Fusion.VOTE, Fusion.MIXTURE) or not self.answers:
            return False
        scores = sorted(self._scores().values(), reverse=True)
        second = scores[1] if len(scores) > 1 else 0.0
        return scores[0] - second > sum(self._weight(expert) for expert in missing)

    @property
    def agreed(self) -> bool:
        """Whether there are several answers and all are the same."""
        return len(self.answers) > 1 and len({text for _, text, _ in self.answers}) == 1

    def _scores(self) -> dict[str, float]:
        scores: dict[str, float] = {}
        for expert, text, confidence in self.answers:
            worth = confidence if self.route.fusion is Fusion.MIXTURE else 1.0
            scores[text] = scores.get(text, 0.0) + worth * self._weight(expert)
        return scores

    def _weight(self, expert: str) -> float:
        if self.route.fusion is not Fusion.MIXTURE or not self.route.weights:
            return 1.0
        return dict(zip(self.route.experts, self.route.weights, strict=True))[expert]

    def _outputs(self) -> tuple[list[str], list[tuple[str, NDArray[np.float64]]]]:
        texts = list(dict.fromkeys(text for _, text, _ in self.answers))
        outputs = []
        for expert, text, confidence in self.answers:
            output_c = np.zeros(len(texts))
            output_c[texts.index(text)] = confidence
            outputs.append((expert, output_c))
        return texts, outputs
