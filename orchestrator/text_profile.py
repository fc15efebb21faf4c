"""What generating text costs on one arm, as its node fitted it. Pure."""

from __future__ import annotations

from optimizer.frozen import frozen

# Capability of an arm that reads the user's last message and nothing before it.
SINGLE_TURN = "single_turn"


@frozen
class TextProfile:
    """What a generation of an arm costs: overhead + prompt tokens x prefill + completion tokens x decode.

    Args:
        context_tokens: Most tokens of prompt and completion together; 0 where nobody says.
        completion_tokens: Mean tokens of an answer; 0 where nobody says.
        completion_p95_tokens: Their 95 % quantile.
        tokenizer_digest: Arms with the same digest share a vocabulary; "" where nobody says.
        capabilities: "tools", "json_schema", "logprobs", "images", ...
    """

    overhead_ms: float
    prefill_ms_per_token: float
    decode_ms_per_token: float
    overhead_j: float
    prefill_j_per_token: float
    decode_j_per_token: float
    context_tokens: int = 0
    completion_tokens: float = 0.0
    completion_p95_tokens: float = 0.0
    tokenizer_digest: str = ""
    capabilities: frozenset[str] = frozenset()

    def cost_ms(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Milliseconds of one generation."""
        prefill_ms = prompt_tokens * self.prefill_ms_per_token
        return self.overhead_ms + prefill_ms + completion_tokens * self.decode_ms_per_token

    def cost_j(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Joules of one generation."""
        prefill_j = prompt_tokens * self.prefill_j_per_token
        return self.overhead_j + prefill_j + completion_tokens * self.decode_j_per_token

    def cost(self, prompt_tokens: float, completion_tokens: float) -> tuple[float, float]:
        """Milliseconds and joules of one generation."""
        prefill_ms, prefill_j = prompt_tokens * self.prefill_ms_per_token, prompt_tokens * self.prefill_j_per_token
        return (
            self.overhead_ms + prefill_ms + completion_tokens * self.decode_ms_per_token,
            self.overhead_j + prefill_j + completion_tokens * self.decode_j_per_token,
        )
