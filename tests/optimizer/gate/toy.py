"""Generated prompts on which experts differ by what the text says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_WORDS = {
    "sum": ("add", "total", "plus", "apples", "price", "12", "7", "cost"),
    "verse": ("poem", "rhyme", "moon", "sea", "stanza", "love", "line", "song"),
}


def prompts(count: int, *, seed: int = 0) -> tuple[list[str], list[str], list[str]]:
    """Texts, tasks, and which kind of question each is; the kind shows in the text alone."""
    rng = np.random.default_rng(seed)
    kinds = [str(kind) for kind in rng.choice(sorted(_WORDS), count)]
    texts = [" ".join(rng.choice(_WORDS[kind], 12)) + "?" for kind in kinds]
    tasks = [str(task) for task in rng.choice(["chat", "exam"], count)]
    return texts, tasks, kinds


def qualities(kinds: list[str], *, seed: int = 1) -> dict[str, Floats]:
    """A cheap expert that can do sums, one that can do verse, and a dear one that can do both."""
    rng = np.random.default_rng(seed)
    sums = np.array([kind == "sum" for kind in kinds])
    chance = {
        "adder": np.where(sums, 0.95, 0.05),
        "poet": np.where(sums, 0.05, 0.95),
        "giant": np.full(len(kinds), 0.9),
    }
    return {name: (rng.random(len(kinds)) < p).astype(np.float64) for name, p in chance.items()}
