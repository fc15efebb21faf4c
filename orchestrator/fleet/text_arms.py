"""What generations have shown of a text arm beside its profile: how fast it really is, how it counts tokens.

Joules are learned per node, as for every arm: a sensor's or a profile's error belongs to the device.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from orchestrator.routing.margins import ConformalBound
from orchestrator.text_profile import TextProfile
from orchestrator.types import Arm, Energy

# Tokens of a query for which nobody says what it asks: what plans and the status of a fleet reckon with.
TYPICAL_PROMPT_TOKENS = 64.0
TYPICAL_COMPLETION_TOKENS = 64.0
# English text has some four bytes a token; before an arm has counted, a little more is assumed.
PRIOR_TOKENS_PER_BYTE = 0.3
# Tokens of a chat template around each message.
TEMPLATE_TOKENS = 4.0
SMOOTHING = 0.1
# How much more tokens a byte may make than it typically does.
TOKENS_MARGIN = 1.25
# Milliseconds of a generation that no profile knows of: the hop between gateway and node.
HOP_MS = 1.0


@dataclass
class TextTrack:
    """One arm's generations.

    Args:
        speed: Actual milliseconds over those of the profile, for the tokens that there were.
        tokens_per_byte: Of prompts, a moving average.
    """

    speed: ConformalBound
    tokens_per_byte: float = field(default=PRIOR_TOKENS_PER_BYTE)

    def observe(self, profile: TextProfile, *, service_ms: float, prompt_tokens: int, completion_tokens: int) -> None:
        """Take one generation."""
        expected_ms = HOP_MS + profile.cost_ms(prompt_tokens, completion_tokens)
        self.speed.observe(max(0.0, service_ms) / expected_ms)

    def count(self, prompt_tokens: int, prompt_bytes: int) -> None:
        """Take the tokens of one prompt."""
        if prompt_tokens and prompt_bytes:
            self.tokens_per_byte += SMOOTHING * (prompt_tokens / prompt_bytes - self.tokens_per_byte)

    @property
    def slowness(self) -> float:
        """Typical factor by which the profile is exceeded."""
        return self.speed.typical if self.speed.count else 1.0

    @property
    def slowness_bound(self) -> float:
        """The same at the promise's quantile."""
        return max(self.slowness, self.speed.bound)


def completions(profile: TextProfile, max_tokens: float) -> tuple[float, float]:
    """Tokens that an answer will have: the mean, and what it stays below in 19 cases of 20."""
    mean = profile.completion_tokens or min(max_tokens, TYPICAL_COMPLETION_TOKENS)
    return min(max_tokens, mean), min(max_tokens, profile.completion_p95_tokens or max_tokens)


def with_typical_cost(arm: Arm, profile: TextProfile) -> Arm:
    """The arm with milliseconds and joules of a typical generation, where its node told only the profile."""
    mean, high = completions(profile, TYPICAL_COMPLETION_TOKENS * 4)
    energy = arm.energy
    if energy.energy_j == 0.0:
        joules = profile.cost_j(TYPICAL_PROMPT_TOKENS, mean)
        energy = Energy(joules, energy.provenance, energy.method, energy.uncertainty_j)
    p50_ms = arm.p50_ms or profile.cost_ms(TYPICAL_PROMPT_TOKENS, mean)
    p95_ms = arm.p95_ms or profile.cost_ms(TYPICAL_PROMPT_TOKENS, high)
    return replace(arm, energy=energy, p50_ms=p50_ms, p95_ms=max(p50_ms, p95_ms))
