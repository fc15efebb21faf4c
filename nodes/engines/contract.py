"""What every engine of a node promises.

An engine owns its bounded queue and its concurrency. All methods run on the event loop of the agent and none of
them may block it: models run in another process or thread.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from nodes.arms import ArmSpec, Tensors, TextCost
from nodes.energy.contract import EnergyReading

# The capability of arms that write a text together with experts on other nodes.
TURNS = "turns"
# That of arms that write one with experts of other vocabularies.
BYTES = "bytes"
# That of arms that mix several experts of one vocabulary token by token on their own node.
MIXTURE = "mixture"


class EngineState(StrEnum):
    """Where an engine stands."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    CLOSED = "closed"


def _not_watched() -> None:
    return None


@dataclass(frozen=True)
class Job:
    """One run of one arm.

    Attributes:
        arm: Key of the arm, ``expert:variant``.
        inputs: Tensors that fit the arm's task; read only.
        start_by_s: Monotonic second after which starting is of no use; None means any time.
        on_start: Called on the event loop when the work leaves the queue. Must not block or raise.
    """

    arm: str
    inputs: Tensors
    start_by_s: float | None = None
    on_start: Callable[[], None] = _not_watched


@dataclass(frozen=True)
class LoadTaken:
    """What loading an expert took for the work that had to wait for it; in none of the work's own figures."""

    ms: float
    energy: EnergyReading


@dataclass(frozen=True)
class JobResult:
    """Answer of one run, the milliseconds that it waited and computed, and what loading took if it caused that."""

    outputs: dict[str, NDArray[Any]]
    queue_ms: float
    compute_ms: float
    load: LoadTaken | None = None


@dataclass(frozen=True)
class Turn:
    """What an expert does next in a text that experts on other nodes write too; fields as in `Turn` of the wire."""

    token_ids: tuple[int, ...] = ()
    count: int = 0
    tops: int = 0
    dense: bool = False
    tell_text: bool = False
    last: bool = False
    strings: int = 0
    pieces: tuple[bytes, ...] = ()

    def header(self) -> dict[str, Any]:
        """As the engine's process reads it; JSON knows no bytes."""
        return {**asdict(self), "pieces": [piece.decode("latin-1") for piece in self.pieces]}


class Turns:
    """The turns of one shared text on their way from the stream to the engine."""

    def __init__(self) -> None:
        self._early: list[Turn] = []
        self._take: Callable[[Turn], None] = self._early.append

    def put(self, turn: Turn) -> None:
        """Hand one on. Must not block."""
        self._take(turn)

    def listen(self, take: Callable[[Turn], None]) -> None:
        """From now on `take` gets every turn, those that came before first."""
        early, self._early = self._early, []
        for turn in early:
            take(turn)
        self._take = take


@dataclass(frozen=True)
class TextJob:
    """One text to generate.

    Attributes:
        messages: (role, content) in order.
        max_tokens: 0 leaves the limit to the engine.
        energy_limit_j: Joules after which the engine stops early; 0 means no limit.
        cost: What the arm costs on this node, by which an engine foresees the joules of the next token; None where
            nobody measured it.
        min_tokens: Tokens before which the text does not end by itself.
        extras: What OpenAI's messages have beside role and text, as JSON objects in the order of `messages`; empty
            where none has anything.
        tools_json: OpenAI's `tools`; "" for none. Likewise the next two.
        whole: Nobody reads the text before it is complete: it may come in one piece.
        top_logprobs: How many probable tokens are told beside each token; None tells no probabilities.
        scope: Texts with the same one may share what was computed of their prompts; "" shares nothing.
        embed: A vector is wanted for each message: the text is a JSON list of base64 of float32, little-endian.
        delta_n: What of the model is the user's own, float32; None for everybody's model.
        turns: Experts on other nodes write this text too: this one only in its turns, with a seed that all share. Only
            for arms that say so (`TURNS`).
    """

    arm: str
    messages: tuple[tuple[str, str], ...]
    max_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    energy_limit_j: float = 0.0
    start_by_s: float | None = None
    on_start: Callable[[], None] = _not_watched
    cost: TextCost | None = None
    min_tokens: int = 0
    extras: tuple[str, ...] = ()
    tools_json: str = ""
    tool_choice_json: str = ""
    response_format_json: str = ""
    whole: bool = False
    top_logprobs: int | None = None
    embed: bool = False
    turns: Turns | None = None
    scope: str = ""
    delta_n: NDArray[Any] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class TextPiece:
    """The next piece of a text, and where they were asked for OpenAI's `logprobs.content` of its tokens.

    Attributes:
        top_ids: Where a turn asked for probabilities: whose they are; empty for the whole vocabulary.
        probabilities: Of the next token, float16.
        ended: A shared text ends with this piece.
        strings: Where a turn asked for strings: these, then `probabilities` has one more, of all others together.
        next_bytes: Of every next byte, then of the end, float16, where others are left.
        read_tokens: Tokens of the text that were read for that.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[Mapping[str, Any], ...] = ()
    top_ids: tuple[int, ...] = ()
    probabilities: NDArray[Any] | None = None
    ended: bool = False
    strings: tuple[bytes, ...] = ()
    next_bytes: NDArray[Any] | None = None
    read_tokens: int = 0


@dataclass(frozen=True)
class TextEnd:
    """The last item of a generation.

    Attributes:
        finish: "stop", "length" or "budget".
        macs: Work that was really done; 0 where the engine does not count it.
        margin_fraction: Mean over the tokens of the largest probability minus the second; None where nobody knows.
        first_token_ms: From the start of computing to the first token; None where nobody measured it.
        tool_calls_json: Where the model calls tools: OpenAI's `tool_calls`.
        load: What loading took, where this text had to wait for it.
        cached_tokens: Of the prompt, those that were kept from an earlier text; None where nobody says.
    """

    finish: str
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    compute_ms: float
    macs: int = 0
    margin_fraction: float | None = None
    first_token_ms: float | None = None
    tool_calls_json: str = ""
    load: LoadTaken | None = None
    cached_tokens: int | None = None


@dataclass
class EngineEvents:
    """What an engine tells its owner about itself; called on the event loop."""

    on_arms_lost: Callable[[Sequence[str]], None] = field(default=lambda _arms: None)
    on_arms_back: Callable[[Sequence[str]], None] = field(default=lambda _arms: None)


@runtime_checkable
class Growing(Protocol):
    """An engine that takes further arms while it runs."""

    async def add(self, arm: ArmSpec) -> None:
        """Load one more arm, or one that was lost or unloaded.

        Raises:
            EngineError: It does not load, or the engine is not ready.
        """
        ...


@runtime_checkable
class LoadsArms(Growing, Protocol):
    """Loads and unloads single arms of an engine that has started, with or without any."""

    async def unload_arm(self, key: str) -> None:
        """Free an arm's memory. Nothing may run on it."""
        ...

    def load_progress(self, key: str) -> float | None:
        """How much of an arm that is being loaded is there, between 0 and 1; None where nobody knows."""
        ...


class Engine(Protocol):
    """Runs arms. `infer` and `generate` may be called many times at once.

    `load` takes seconds, `infer` and `generate` as long as queue and model take, `close` up to a few seconds.
    Cancelling an awaiting caller drops work that waits; running tensor work finishes and its result is discarded,
    a running generation stops at the next token.
    """

    events: EngineEvents

    @property
    def state(self) -> EngineState:
        """Where the engine stands; only READY takes work."""
        ...

    @property
    def restarts(self) -> int:
        """How often the engine had to be started again since `load`."""
        ...

    @property
    def running(self) -> int:
        """Work items that run now."""
        ...

    @property
    def queued(self) -> int:
        """Work items that wait."""
        ...

    async def load(self, arms: Sequence[ArmSpec]) -> None:
        """Start, and make every arm ready to run.

        Raises:
            EngineError: if the engine does not start or an arm does not load.
        """
        ...

    async def infer(self, job: Job) -> JobResult:
        """Run one arm once.

        Raises:
            EngineDied, EngineBusy, ArmQuarantined, DeadlinePassed, EngineError, InputInvalid.
        """
        ...

    def generate(self, job: TextJob) -> AsyncGenerator[TextPiece | TextEnd]:
        """Pieces of text as they come, then one `TextEnd`. Raises as `infer`; tensor engines raise EngineError."""
        ...

    async def close(self) -> None:
        """End everything that runs; further calls raise EngineDied."""
        ...
