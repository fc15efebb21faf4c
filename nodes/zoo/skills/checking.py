"""Whether an answer is right: exactly equal, after what nobody would call a difference is taken out."""

from __future__ import annotations

import math
import re
import unicodedata

Z95 = 1.959964


def normalised(answer: str) -> str:
    """Without outer quotes, a closing full stop, and more than one space in a row; capitals stay, they can matter."""
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFKC", answer)).strip()
    return text.strip("\"'`").removesuffix(".").strip()


def is_right(given: str, answer: str) -> bool:
    """Whether `given` says `answer`."""
    return normalised(given) == normalised(answer)


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927); (0, 1) where nothing was asked."""
    if total == 0:
        return 0.0, 1.0
    share, z2 = right / total, Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    return max(0.0, centre - half), min(1.0, centre + half)
