"""A delta in service goes on being judged: by every correction that comes after its promotion. Pure.

Promotion foresees (see `prospect`); what follows shows. A delta that loses where the global expert would have won, more
often than luck explains, goes back to the version before it.
"""

from __future__ import annotations

from dataclasses import dataclass

# Looked at after every correction: three losses and no win, five and one.
TRIAL_Z = 1.5
# Who corrects only what is wrong shows losses and hides wins: without some right answers nothing is concluded.
CONFIRMED_FRACTION = 0.1


@dataclass(frozen=True)
class Trial:
    """How the version in service fares.

    Attributes:
        confirmed: Corrections that said what was answered.
        wins: Of those, where the global expert alone would have been wrong.
        losses: Where it alone would have been right, and the answer was wrong.
    """

    version: int = 0
    confirmed: int = 0
    wins: int = 0
    losses: int = 0

    def after(self, version: int, *, right: bool, global_right: bool) -> Trial:
        """One correction later; another version begins anew."""
        begun = self if version == self.version else Trial(version)
        return Trial(
            version,
            begun.confirmed + right,
            begun.wins + (right and not global_right),
            begun.losses + (global_right and not right),
        )

    @property
    def failed(self) -> bool:
        """Whether the version is to go."""
        shown = self.confirmed >= CONFIRMED_FRACTION * self.losses
        return shown and self.losses - self.wins >= TRIAL_Z * (self.losses + self.wins) ** 0.5 > 0.0
