"""Experts of one vocabulary that write one text together.

Drawing *one* expert per token by weight and the token from that expert alone gives exactly the distribution of the
weighted average, at one forward pass per token (arXiv 2605.00419). An expert that was passed over for some tokens
catches them up in one call when its turn comes. Greedy texts need the average itself, so there every expert runs.

Shapes: e experts, v vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodes.worker.text.model import Cache, LanguageModel, Row
from nodes.worker.text.sampling import Floats, Sampling, draw, kept, margin, most_probable, probabilities
from nodes.worker.text.tokens import END

# Whose turn it is, and which token.
DRAWS_PER_TOKEN = 2


@dataclass
class Counts:
    """What a text took. `caught_up_tokens` were read later than written, along with the newest one."""

    calls: int = 0
    macs: int = 0
    caught_up_tokens: int = 0


@dataclass(frozen=True)
class Chosen:
    """The next token, how sure its distribution was, and where it was asked for: log probabilities.

    Attributes:
        logprob: Of the token, before temperature.
        tops: The most probable tokens and theirs.
    """

    token: int
    margin: float
    logprob: float | None = None
    tops: tuple[tuple[int, float], ...] = ()


class Mixture:
    """Models with weights; one model is a mixture too.

    Args:
        models: They share a vocabulary.
        weight_e: Of each model, sums to 1.
    """

    def __init__(self, models: Sequence[LanguageModel], weight_e: Sequence[float]) -> None:
        self.models = tuple(models)
        self.weight_e: Floats = np.asarray(weight_e, np.float64) / float(np.sum(weight_e))

    @property
    def tokenizer_digest(self) -> str:
        """Of the shared vocabulary."""
        return self.models[0].tokenizer.digest

    @property
    def context_tokens(self) -> int:
        """Most tokens that every model can hold."""
        return min(model.context_tokens for model in self.models)


class Lanes:
    """One text's place in every model of a mixture.

    Args:
        mixture: The models.
        prompt: Token ids; all models read them when their first turn comes.
        sampling: How tokens are drawn.
        seed: The same seed gives the same choices of experts and of tokens.

    Attributes:
        sampling: The same.
        top_logprobs: How many probable tokens are told beside each chosen one; None tells no probabilities.
        delta_n: What of the models is the user's own; None for nothing.
        endless_tokens: So many tokens are drawn as if there were no end.
        takes_turns: Whether experts elsewhere write too: then a single model passes over the draws of whose turn it is.
    """

    def __init__(self, mixture: Mixture, prompt: Sequence[int], *, sampling: Sampling, seed: int) -> None:
        self._mixture, self.sampling = mixture, sampling
        self.top_logprobs: int | None = None
        self.delta_n: NDArray[np.float32] | None = None
        self.endless_tokens = 0
        self.takes_turns = False
        self._bits = np.random.PCG64(seed)
        self._random = np.random.Generator(self._bits)
        self._caches = [Cache(model) for model in mixture.models]
        self._prompt_tokens = len(prompt)
        self.tokens = list(prompt)
        self.counts = Counts()
        self._turn: tuple[int, ...] = ()

    @property
    def places(self) -> list[tuple[LanguageModel, Cache]]:
        """Every model and what it has read."""
        return list(zip(self._mixture.models, self._caches, strict=True))

    def plan(self) -> list[tuple[LanguageModel, Row]]:
        """What must run before the next token can be chosen: one row of one model, or of each for greedy texts."""
        everyone = self.sampling.temperature <= 0.0
        self._turn = tuple(range(len(self._caches))) if everyone else (self._drawn_expert(),)
        return self._rows()

    def look(self) -> list[tuple[LanguageModel, Row]]:
        """What must run to know the probabilities of the next token, which somebody else will choose."""
        self._turn = tuple(range(len(self._caches)))
        return self._rows()

    def possible(self, logits_v: Floats) -> Floats:
        """The scores, without the end where it must not come yet."""
        if len(self.tokens) - self._prompt_tokens >= self.endless_tokens:
            return logits_v
        kept_v = logits_v.copy()
        kept_v[END] = -np.inf
        return kept_v

    def hear(self, token: int) -> None:
        """Take a token that an expert elsewhere wrote, and pass over the two draws that it took."""
        self.tokens.append(token)
        self._bits.advance(DRAWS_PER_TOKEN)

    def _rows(self) -> list[tuple[LanguageModel, Row]]:
        return [(self._mixture.models[expert], self._row(expert)) for expert in self._turn]

    def choose(self, logits: Sequence[Floats]) -> Chosen:
        """The next token from the scores (v) that each planned row gave; it is appended."""
        logits = [self.possible(logits_v) for logits_v in logits]
        if len(self._turn) == 1:
            plain_v = probabilities(logits[0])
            token = self._drawn_token(logits[0], plain_v)
        else:
            weight_e = self._mixture.weight_e
            plain_v = sum(weight_e[e] * probabilities(logits[i]) for i, e in enumerate(self._turn))
            token = int(plain_v.argmax())
        self.tokens.append(token)
        if self.top_logprobs is None:
            return Chosen(token, margin(plain_v))
        tops = most_probable(plain_v, self.top_logprobs)
        return Chosen(token, margin(plain_v), _log(plain_v[token]), tuple((top, _log(plain_v[top])) for top in tops))

    def _drawn_expert(self) -> int:
        weight_e = self._mixture.weight_e
        if len(weight_e) > 1:
            return draw(weight_e, self._random.random())
        # A single model takes no draw, so that it writes what it writes without a mixture.
        if self.takes_turns:
            self._bits.advance(1)
        return 0

    def _row(self, expert: int) -> Row:
        model, cache = self._mixture.models[expert], self._caches[expert]
        tokens = self.tokens[cache.tokens :]
        self.counts.calls += 1
        self.counts.macs += model.macs(cache.tokens, len(tokens))
        self.counts.caught_up_tokens += max(0, len(self.tokens) - max(cache.tokens, self._prompt_tokens) - 1)
        return Row(cache, tokens, self.delta_n)

    def _drawn_token(self, logits_v: Floats, plain_v: Floats) -> int:
        temperature = self.sampling.temperature
        if temperature <= 0.0:
            return int(logits_v.argmax())
        tempered_v = plain_v if temperature == 1.0 else probabilities(logits_v, temperature)
        return draw(kept(tempered_v, self.sampling.top_p), self._random.random())


def _log(probability: float) -> float:
    """Of a probability that may have vanished; OpenAI's clients know -9999 for that."""
    return math.log(probability) if probability > 0.0 else -9999.0
