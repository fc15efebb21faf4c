"""One text on its way: what was asked, what was written, when it ends. Pure but for the models it steps.

A token is sent once the letters it ends are complete and cannot be the beginning of a stop string any more.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.worker.text.mixing import Chosen, Counts, Lanes, Mixture
from nodes.worker.text.model import LanguageModel, Row
from nodes.worker.text.sampling import Floats, Sampling
from nodes.worker.text.shelf import Shelf
from nodes.worker.text.tokens import END, Tokenizer

DEFAULT_MAX_TOKENS = 64


class PromptRefused(ValueError):
    """The text cannot be written as asked."""


@dataclass(frozen=True)
class Allowance:
    """Joules of a text and how they grow; no limit where `limit_j` is 0."""

    limit_j: float = 0.0
    overhead_j: float = 0.0
    prefill_j_per_token: float = 0.0
    decode_j_per_token: float = 0.0

    def tokens(self, prompt_tokens: int) -> float:
        """How many tokens may be written; below 1 where not even the first is paid for."""
        if self.limit_j <= 0.0:
            return float("inf")
        left_j = self.limit_j - self.overhead_j - self.prefill_j_per_token * prompt_tokens
        if left_j < 0.0:
            return 0.0
        return left_j / self.decode_j_per_token if self.decode_j_per_token > 0.0 else float("inf")


@dataclass(frozen=True, eq=False)
class Order:
    """What is asked for; fields as in `nodes.engines.contract.TextJob`.

    Attributes:
        keep_bytes: What kept prompts of all texts may take.
    """

    question: str
    max_tokens: int = 0
    min_tokens: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    stop: tuple[str, ...] = ()
    allowance: Allowance = field(default_factory=Allowance)
    top_logprobs: int | None = None
    scope: str = ""
    keep_bytes: int = 0
    delta_n: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Piece:
    """Text that is certain, the tokens since the last piece, and theirs as OpenAI's `logprobs.content` tells them."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[dict[str, Any], ...] = ()


class Writing:
    """One text of one mixture.

    Args:
        mixture: What writes it.
        order: What is asked for.

    Raises:
        PromptRefused: if the question leaves no room for an answer.
    """

    def __init__(self, mixture: Mixture, order: Order) -> None:
        self._tokenizer: Tokenizer = mixture.models[0].tokenizer
        prompt = self._tokenizer.prompt(order.question)
        room = mixture.context_tokens - len(prompt)
        if room < 1:
            raise PromptRefused(f"the question has {len(prompt)} tokens; {mixture.context_tokens} is the limit")
        self.prompt_tokens = len(prompt)
        self.cached_tokens = 0
        self._prompt = prompt
        self.lanes = Lanes(mixture, prompt, sampling=order.sampling, seed=order.seed)
        self.lanes.top_logprobs = order.top_logprobs
        self.lanes.delta_n = _fitting(order.delta_n, mixture)
        self.lanes.endless_tokens = order.min_tokens
        self._order = order
        self._held_logprobs: list[dict[str, Any]] = []
        self.room_tokens = room
        self._most_tokens = min(room, order.max_tokens or DEFAULT_MAX_TOKENS)
        # Kept prompts do not count: with them or without, a text ends at the same token.
        self._paid_tokens = order.allowance.tokens(len(prompt))
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held_text, self._held_ids = "", []  # type: tuple[str, list[int]]
        self._margins: list[float] = []
        self.completion_tokens = 0
        self.finish = "" if self._paid_tokens >= 1.0 else "budget"

    @property
    def margin_fraction(self) -> float | None:
        """Mean margin of the tokens chosen so far; None before the first."""
        return sum(self._margins) / len(self._margins) if self._margins else None

    @property
    def counts(self) -> Counts:
        """What the text took."""
        return self.lanes.counts

    @property
    def waits(self) -> bool:
        """Whether there is nothing to do."""
        return bool(self.finish)

    def plan(self) -> list[tuple[LanguageModel, Row]]:
        """See `Lanes`."""
        return self.lanes.plan()

    def advance(self, scores: Sequence[Floats]) -> Piece | None:
        """Choose the next token from the scores (v) of each planned row; what can be sent now."""
        return self.take(self.lanes.choose(scores))

    def borrow(self, shelf: Shelf) -> None:
        """Begin with what a shelf has of the prompt; counted is what every model got."""
        shelf.limit_bytes = self._order.keep_bytes
        lent = [shelf.lend(self._order.scope, self._prompt, *place) for place in self.lanes.places]
        self.cached_tokens = min(lent)

    def hand_over(self, shelf: Shelf) -> None:
        """Leave the prompt, as far as it was read, to those who ask after."""
        for place in self.lanes.places:
            shelf.keep(self._order.scope, self._prompt, *place)

    def take(self, chosen: Chosen) -> Piece | None:
        """Note the next token; what can be sent now. Sets `finish` where the text ends with it."""
        self._margins.append(chosen.margin)
        return self._note(chosen)

    def hear(self, token: int) -> Piece | None:
        """Note a token that somebody else chose.

        Raises:
            PromptRefused: if it is none of the vocabulary.
        """
        if not 0 <= token < self._tokenizer.size:
            raise PromptRefused(f"{token} is no token of this vocabulary")
        self.lanes.hear(token)
        return self._note(Chosen(token, 0.0))

    def hear_bytes(self, data: bytes) -> Piece | None:
        """Note a piece that experts of several vocabularies chose, which counts as one token; none is the end."""
        self.completion_tokens += 1
        self._held_text += self._decoder.decode(data)
        if not data or self._cut_at_stop():
            self.finish = "stop"
        elif self.completion_tokens >= self._most_tokens:
            self.finish = "length"
        return self._released()

    def stop(self) -> Piece | None:
        """End the text here; what was held back."""
        self.finish = "length"
        return self._released()

    def _note(self, chosen: Chosen) -> Piece | None:
        self.completion_tokens += 1
        ended = chosen.token == END and self.completion_tokens > self._order.min_tokens
        if not ended:
            self._held_ids.append(chosen.token)
            if chosen.logprob is not None:
                tops = [self._told(token, logprob) for token, logprob in chosen.tops]
                self._held_logprobs.append({**self._told(chosen.token, chosen.logprob), "top_logprobs": tops})
            self._held_text += self._decoder.decode(self._tokenizer.token_bytes(chosen.token))
            ended = self._cut_at_stop()
        if ended:
            self.finish = "stop"
        elif self.completion_tokens >= self._most_tokens:
            self.finish = "length"
        elif self.completion_tokens + 1 > self._paid_tokens:
            self.finish = "budget"
        return self._released()

    def _cut_at_stop(self) -> bool:
        if self.completion_tokens <= self._order.min_tokens:
            return False
        found = [place for stop in self._order.stop if stop and (place := self._held_text.find(stop)) >= 0]
        if found:
            self._held_text = self._held_text[: min(found)]
        return bool(found)

    def _released(self) -> Piece | None:
        if self.finish:
            self._held_text += "" if self.finish == "stop" else self._decoder.decode(b"", final=True)
            keep = 0
        else:
            keep = held_back(self._held_text, self._order.stop)
        cut = len(self._held_text) - keep
        text, self._held_text = self._held_text[:cut], self._held_text[cut:]
        if not text and not (self.finish and self._held_ids):
            return None
        ids, self._held_ids = tuple(self._held_ids), []
        logprobs, self._held_logprobs = tuple(self._held_logprobs), []
        return Piece(text, ids, logprobs)

    def _told(self, token: int, logprob: float) -> dict[str, Any]:
        data = self._tokenizer.token_bytes(token)
        return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many of the last letters may begin a stop string."""
    longest = max((min(len(stop) - 1, len(text)) for stop in stops), default=0)
    for length in range(longest, 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops if len(stop) > length):
            return length
    return 0


def _fitting(delta_n: NDArray[np.float32] | None, mixture: Mixture) -> NDArray[np.float32] | None:
    if delta_n is not None and delta_n.shape != (mixture.models[0].delta_numbers,):
        raise PromptRefused(f"a delta of shape {delta_n.shape} does not fit the model")
    return delta_n


def _scope(scope: str, delta_n: NDArray[np.float32] | None) -> str:
    """What a user's own model has read is of no use to any other model, not even to that user's next version."""
    if not scope or delta_n is None:
        return scope
    return f"{scope}/{hashlib.sha256(delta_n.tobytes()).hexdigest()}"


def order_from(header: Mapping[str, Any], delta_n: NDArray[np.float32] | None = None) -> Order:
    """The order in a frame's header, and the user's own delta beside it.

    Raises:
        PromptRefused: if it is not what an agent sends.
    """
    try:
        return Order(
            question=str(header["question"]),
            max_tokens=int(header["max_tokens"]),
            min_tokens=int(header["min_tokens"]),
            sampling=Sampling(float(header["temperature"]), float(header["top_p"])),
            seed=int(header["seed"]),
            stop=tuple(map(str, header["stop"])),
            allowance=Allowance(*map(float, header["allowance"])),
            top_logprobs=header.get("top_logprobs"),
            scope=_scope(str(header.get("scope", "")), delta_n),
            keep_bytes=int(header.get("keep_bytes", 0)),
            delta_n=delta_n,
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise PromptRefused(f"the order cannot be read: {problem!r}") from problem
