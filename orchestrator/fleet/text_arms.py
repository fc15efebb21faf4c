"""What generations have shown of a text arm beside its profile: what tokens really cost, how long answers are, how it
counts tokens.

On top of it the error of joules is learned per node, as for every arm: a sensor's or a profile's error belongs to the
device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from optimizer.online.usage import Forecast, Usage
from orchestrator.prefixes import Conversation, Prefixes
from orchestrator.routing.margins import ConformalBound
from orchestrator.text_profile import TextProfile
from orchestrator.types import Arm, Done, Energy

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
# A machine that pauses adds to what a text takes and does not multiply it: times are compared with so many milliseconds
# on top of either, else one pause during a short text would make long ones look endless.
PAUSE_MS = 20.0


# The interval of a generation's cost; promises have their own quantiles, see `speed`.
COVERAGE = 0.9
# Answers that were seen before their own length counts for more than what was announced.
LENGTHS_FROM = 16


class TextTrack:
    """One arm's generations.

    Args:
        speed: Actual milliseconds over those that were expected, for the tokens that there were, `PAUSE_MS` on either.

    What was announced is only where learning starts: milliseconds and joules of the fixed part and of every token
    follow the generations (`optimizer.online.usage`), and so does the length of answers.
    """

    def __init__(self, speed: ConformalBound) -> None:
        self.speed = speed
        self.tokens_per_byte = PRIOR_TOKENS_PER_BYTE
        self.prefixes = Prefixes()
        self._announced: TextProfile | None = None
        self._learned: TextProfile | None = None
        # What it was made of.
        self._basis: tuple[object, ...] = ()
        self._ms: Usage | None = None
        self._j: Usage | None = None
        self._lengths = ConformalBound(quantile=0.95, prior=0.0, window=256)

    def profile(self, announced: TextProfile) -> TextProfile:
        """What generations have made of an announced profile."""
        if announced is not self._announced and announced != self._announced:
            self._begin(announced)
        return self._learned or announced

    def _begin(self, announced: TextProfile) -> None:
        self._announced, self._learned, self._basis = announced, None, ()
        one = announced
        self._ms = _usage((HOP_MS + one.overhead_ms, one.prefill_ms_per_token, one.decode_ms_per_token))
        self._j = _usage((one.overhead_j, one.prefill_j_per_token, one.decode_j_per_token))

    def observe(self, announced: TextProfile, done: Done, *, service_ms: float, together: int = 1) -> bool:
        """Take one generation, true where it changed the profile; `together` counts what ran on its node, itself
        included."""
        read, written = tokens = (float(done.read_tokens), float(done.completion_tokens))
        expected_ms = HOP_MS + self.profile(announced).cost_ms(read, written)
        if self._ms is not None:
            expected_ms *= self._ms.factor(together)
        self.speed.observe((max(0.0, service_ms) + PAUSE_MS) / (expected_ms + PAUSE_MS))
        # Where vectors were wanted nothing was written.
        if done.finish_reason == "stop" and done.completion_tokens:
            self._lengths.observe(written)
        if self._ms is not None and self._ms.observe(tokens, service_ms, concurrency=together):
            # What was learned of this device's speed holds no longer.
            self.speed.forget()
        if self._j is not None and not done.energy.preliminary:
            self._j.observe(tokens, done.energy.energy_j, concurrency=together)
        return self._follow(announced)

    def factor(self, together: int) -> float:
        """By what so many generations at a time slow each other down."""
        return 1.0 if self._ms is None else self._ms.factor(together)

    def interval(self, announced: TextProfile, prompt_tokens: float, completion_tokens: float) -> Interval | None:
        """Milliseconds and joules of a generation with their intervals; None before anything was learned."""
        self.profile(announced)
        if self._ms is None or self._j is None:
            return None
        tokens = (prompt_tokens, completion_tokens)
        return Interval(self._ms.forecast(tokens), self._j.forecast(tokens))

    def _follow(self, announced: TextProfile) -> bool:
        """Make the learned profile of what was learned, true where that is another; most generations move none of
        it."""
        ms = None if self._ms is None else self._ms.rates
        j = None if self._j is None else self._j.rates
        told = self._lengths.count >= LENGTHS_FROM
        lengths = (self._lengths.typical, self._lengths.bound) if told else None
        if self._basis == (basis := (ms, j, lengths)):
            return False
        self._basis, self._learned = basis, _made(announced, ms, j, lengths)
        return True

    def heard(self, conversation: Conversation, done: Done) -> None:
        """Take what an answered prompt shows: how the arm counts tokens; and, of what is shared with anybody, what it
        had kept and what it has read."""
        if conversation.scope:
            if done.cached_tokens is not None:
                self.prefixes.told(conversation.chain(), done.cached_tokens, tokens_per_byte=self.tokens_per_byte)
            if chain := conversation.chain(done.text):
                self.prefixes.read(chain)
        self.count(done.prompt_tokens, conversation.size_bytes)

    def count(self, prompt_tokens: int, prompt_bytes: int) -> None:
        """Take the tokens of one prompt."""
        if prompt_tokens and prompt_bytes:
            self.tokens_per_byte += SMOOTHING * (prompt_tokens / prompt_bytes - self.tokens_per_byte)

    def typically_ms(self, expected_ms: float) -> float:
        """What is typically taken where so much is expected."""
        return _stretched(expected_ms, self._typical)

    def at_most_ms(self, expected_ms: float) -> float:
        """The same at the promise's quantile."""
        return _stretched(expected_ms, max(self._typical, self.speed.bound))

    def takes_ms(self, expected_ms: float, most_ms: float) -> tuple[float, float]:
        """What is typically taken where so much is expected, and at the promise's quantile where at most so much is."""
        speed = self.speed
        typical, bound = speed.typical if speed.count else 1.0, speed.bound
        return _stretched(expected_ms, typical), _stretched(most_ms, bound if bound > typical else typical)

    @property
    def _typical(self) -> float:
        return self.speed.typical if self.speed.count else 1.0


def _made(
    told: TextProfile,
    ms: tuple[float, ...] | None,
    j: tuple[float, ...] | None,
    lengths: tuple[float, float] | None,
) -> TextProfile:
    """The announced profile with the rates and the lengths (typical, high) that generations have shown."""
    overhead_ms, prefill_ms, decode_ms = told.overhead_ms, told.prefill_ms_per_token, told.decode_ms_per_token
    if ms is not None:
        fixed_ms, prefill_ms, decode_ms = ms
        overhead_ms = max(0.0, fixed_ms - HOP_MS)
    overhead_j, prefill_j, decode_j = j or (told.overhead_j, told.prefill_j_per_token, told.decode_j_per_token)
    typical, high = told.completion_tokens, told.completion_p95_tokens
    if lengths is not None:
        typical, high = max(1.0, lengths[0]), max(1.0, lengths[1])
    return TextProfile(
        overhead_ms,
        prefill_ms,
        decode_ms,
        overhead_j,
        prefill_j,
        decode_j,
        told.context_tokens,
        typical,
        high,
        told.tokenizer_digest,
        told.capabilities,
    )


def _stretched(expected_ms: float, factor: float) -> float:
    least_ms = expected_ms * factor if factor < 1.0 else expected_ms
    ms = (expected_ms + PAUSE_MS) * factor - PAUSE_MS
    return ms if ms > least_ms else least_ms


@dataclass(frozen=True)
class Interval:
    """What a generation will cost, with the interval that holds in nine of ten cases."""

    ms: Forecast
    j: Forecast


def _usage(rates_k: tuple[float, float, float]) -> Usage | None:
    return Usage(rates_k, coverage=COVERAGE) if any(rates_k) else None


def completions(profile: TextProfile, max_tokens: float) -> tuple[float, float]:
    """Tokens that an answer will have: the mean, and what it stays below in 19 cases of 20."""
    mean = profile.completion_tokens or TYPICAL_COMPLETION_TOKENS
    high = profile.completion_p95_tokens or max_tokens
    return mean if mean < max_tokens else max_tokens, high if high < max_tokens else max_tokens


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


def learned_part(announced: TextProfile | None, track: TextTrack) -> float:
    """What an arm's typical text costs by what its generations showed, over what was announced; 1 for other arms."""
    if announced is None:
        return 1.0
    tokens = TYPICAL_PROMPT_TOKENS, announced.completion_tokens or TYPICAL_COMPLETION_TOKENS
    announced_j = announced.cost_j(*tokens)
    return track.profile(announced).cost_j(*tokens) / announced_j if announced_j > 0.0 else 1.0
