"""The fleet on a virtual clock: queues, work that takes what it takes, and policies that see only what a gateway sees.

Every policy goes through the same door: arms whose conformal latency bound exceeds the request's limit are out, and a
request without any arm is refused. Any policy but the mixture may also turn a request away whose affordable arms are
all too busy: the last option stands for that. What a policy learns of a request, it learns when the request is done.

Shape letters: q requests, m models, a arms, o options (the arms, then turning away).
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from optimizer.online.margin import Margins, Normaliser
from optimizer.online.pacing import Charge, Pacer
from tests.bench.pacing_world import J_PER_BILLION_TOKENS, LARGE_BILLIONS, NODES, TYPICAL_TOKENS, Prompts, Requests

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# A second of waiting is worth a thousandth of a right answer: enough to choose the idle one of two equal arms.
PRICE_PER_MS = 1e-6
PRIOR_SCORE = 4.0
# Running work is half done on average.
LEFT_OF_RUNNING = 0.5
# Joules reserved per joule expected: the 99 % quantile of the trace's tokens over the typical number.
RESERVED_FACTOR = 3.0


class Policy(Protocol):
    """Chooses among the arms that are allowed."""

    def choose(self, now_s: float, quality_o: Floats, energy_o: Floats, worth_o: Floats) -> int:
        """Index of an option; `quality_o` and `worth_o` (less the price of waiting) are -inf where not allowed."""

    def settled(self, request: int, energy_j: float) -> None:
        """What a request of this number really took, in the order of choices."""


@dataclass
class FixedPrice:
    """The same price of a joule for every request."""

    price_per_j: float

    def choose(self, now_s: float, quality_o: Floats, energy_o: Floats, worth_o: Floats) -> int:
        return int((worth_o - self.price_per_j * energy_o).argmax())

    def settled(self, request: int, energy_j: float) -> None:
        """Nothing is learnt."""


@dataclass
class Mixture:
    """A model drawn with given chances; where it is not allowed, another draw."""

    chance_a: Floats
    rng: np.random.Generator

    def choose(self, now_s: float, quality_o: Floats, energy_o: Floats, worth_o: Floats) -> int:
        chance_a = np.where(np.isfinite(worth_o[:-1]), self.chance_a + 1e-12, 0.0)
        return int(self.rng.choice(len(chance_a), p=chance_a / chance_a.sum()))

    def settled(self, request: int, energy_j: float) -> None:
        """Nothing is learnt."""


@dataclass
class Paced:
    """The price that keeps the budget."""

    pacer: Pacer
    charges: list[Charge] = field(default_factory=list)
    overspent_j: float = 0.0

    def choose(self, now_s: float, quality_o: Floats, energy_o: Floats, worth_o: Floats) -> int:
        pacer = self.pacer
        score_o = worth_o - pacer.arrive(now_s) * energy_o
        pacer.learn(quality_o, energy_o)
        option = int(score_o.argmax())
        if option < len(energy_o) - 1 and RESERVED_FACTOR * float(energy_o[option]) > pacer.headroom_j:
            option = self._brake(score_o, energy_o)
        if option == len(energy_o) - 1:
            pacer.decline()
        else:
            expected_j = float(energy_o[option])
            self.charges.append(pacer.charge(expected_j, RESERVED_FACTOR * expected_j))
        return option

    def _brake(self, score_o: Floats, energy_o: Floats) -> int:
        """The best within the headroom, or the cheapest."""
        within_o = np.where(RESERVED_FACTOR * energy_o <= self.pacer.headroom_j, score_o, -np.inf)
        within_o[-1] = score_o[-1]
        if np.isfinite(within_o).any():
            return int(within_o.argmax())
        return int(np.where(np.isfinite(score_o), energy_o, np.inf).argmin())

    def settled(self, request: int, energy_j: float) -> None:
        state = self.pacer.state
        self.pacer.settle(self.charges[request], energy_j)
        self.overspent_j = max(self.overspent_j, state.spent_j - state.accrued_j)


@dataclass
class Queue:
    """One node's slots and the work before them."""

    slots: int
    running: int = 0
    waiting: deque[tuple[float, float, int]] = field(default_factory=deque)
    running_ms: float = 0.0
    waiting_ms: float = 0.0
    squares_ms2: float = 0.0

    def wait(self) -> tuple[float, float]:
        """Predicted wait and the square of its spread."""
        if self.running < self.slots:
            return 0.0, 0.0
        ms = (self.waiting_ms + LEFT_OF_RUNNING * self.running_ms) / self.slots
        return ms, self.squares_ms2 / self.slots**2


@dataclass(frozen=True)
class Result:
    """What became of every request: `arm_q` is -1 where it was refused."""

    arm_q: NDArray[np.int64]
    energy_q: Floats
    ms_q: Floats
    quality_q: Floats
    limit_ms_q: Floats
    bound_missed_fraction: float

    @property
    def admitted_q(self) -> Bools:
        """Requests that were let in."""
        return self.arm_q >= 0

    @property
    def mean_j(self) -> float:
        """Joules per admitted request."""
        return float(self.energy_q.sum() / max(1, self.admitted_q.sum()))

    @property
    def quality(self) -> float:
        """Mean over all requests; a refused one has none."""
        return float(self.quality_q.mean())

    @property
    def late_fraction(self) -> float:
        """Of the admitted."""
        return float((self.ms_q > self.limit_ms_q)[self.admitted_q].mean()) if self.admitted_q.any() else 0.0


class Fleet:
    """Arms of a table's models on the nodes."""

    def __init__(self, prompts: Prompts) -> None:
        pairs = [
            (m, n)
            for n, node in enumerate(NODES)
            for m, billions in enumerate(prompts.billions_m)
            if (billions > LARGE_BILLIONS) == node.large
        ]
        self.model_a = np.array([m for m, _ in pairs])
        self.node_a = np.array([n for _, n in pairs])
        self.j_a = prompts.billions_m[self.model_a] * J_PER_BILLION_TOKENS
        self.ms_a = prompts.billions_m[self.model_a] * np.array([NODES[n].ms_per_billion_tokens for n in self.node_a])

    def capacity_per_s(self, requests: Requests, price_per_j: float) -> float:
        """Requests per second at which the busier kind of node would be busy all the time at this price."""
        energy_qa = self.j_a * TYPICAL_TOKENS * requests.factor_q[:, None]
        arm_q = (requests.estimate_qm[:, self.model_a] - price_per_j * energy_qa).argmax(axis=1)
        busy_s_q = self.ms_a[arm_q] * requests.tokens_q / 1e3
        large_a = np.array([NODES[n].large for n in self.node_a])
        rates = []
        for kind in (False, True):
            slots = sum(node.slots for node in NODES if node.large == kind)
            busy_s = float(busy_s_q[large_a[arm_q] == kind].sum()) / requests.count
            rates.append(slots / busy_s if busy_s else np.inf)
        return float(min(rates))


class Run:
    """One policy on one stream.

    Args:
        fleet: The arms.
        requests: The stream.
        rate_per_s: Mean arrivals.
        alpha: Share of admitted requests that may be late; None believes the predictions, without any margin.
        budget_j: Joules per admitted request.
    """

    def __init__(
        self, fleet: Fleet, requests: Requests, *, rate_per_s: float, alpha: float | None, budget_j: float
    ) -> None:
        self.fleet, self.requests, self.rate_per_s, self.budget_j = fleet, requests, rate_per_s, budget_j
        self.margins = None if alpha is None else Margins(alpha=alpha, prior=PRIOR_SCORE)
        self.queues = [Queue(node.slots) for node in NODES]
        self.done: list[tuple[float, int]] = []
        count = requests.count
        self.arm_q = np.full(count, -1)
        self.ms_q, self.energy_q = np.zeros(count), np.zeros(count)
        self.promise: dict[int, tuple[Normaliser, float, float, int]] = {}
        self.service_ms_a = fleet.ms_a * TYPICAL_TOKENS

    def play(self, policy: Policy) -> Result:
        """Let all requests come, and all work end."""
        requests = self.requests
        for q in range(requests.count):
            now_s = float(requests.unit_s_q[q]) / self.rate_per_s
            self._advance(now_s, policy)
            self._route(q, now_s, policy)
        self._advance(np.inf, policy)
        quality_q = np.zeros(requests.count)
        taken_q = np.flatnonzero(self.arm_q >= 0)
        quality_q[taken_q] = requests.quality_qm[taken_q, self.fleet.model_a[self.arm_q[taken_q]]]
        missed = np.nan if self.margins is None else self.margins.miss_fraction
        return Result(self.arm_q, self.energy_q, self.ms_q, quality_q, requests.limit_ms_q, missed)

    def _route(self, q: int, now_s: float, policy: Policy) -> None:
        fleet, requests = self.fleet, self.requests
        service_ms_a = self.service_ms_a * requests.factor_q[q]
        waits = np.array([queue.wait() for queue in self.queues])[fleet.node_a]
        expected_ms_a = waits[:, 0] + service_ms_a
        spread_ms_a = np.sqrt(waits[:, 1] + service_ms_a**2)
        margins, arms = self.margins, range(len(fleet.model_a))
        score_a = np.zeros(len(arms)) if margins is None else np.array([margins.bound(arm) for arm in arms])
        allowed_a = expected_ms_a + score_a * spread_ms_a <= requests.limit_ms_q[q]
        if not allowed_a.any():
            return
        energy_o = np.append(fleet.j_a * (TYPICAL_TOKENS * requests.factor_q[q]), self.budget_j)
        quality_o = np.append(np.where(allowed_a, requests.estimate_qm[q, fleet.model_a], -np.inf), 0.0)
        if energy_o[:-1].min() > self.budget_j:
            quality_o[-1] = -np.inf
        worth_o = quality_o - PRICE_PER_MS * np.append(expected_ms_a, 0.0)
        arm = policy.choose(now_s, quality_o, energy_o, worth_o)
        if arm == len(fleet.model_a):
            return
        promised = Normaliser(float(expected_ms_a[arm]), float(spread_ms_a[arm]))
        self.promise[q] = promised, float(score_a[arm]), float(service_ms_a[arm]), len(self.promise)
        self.arm_q[q] = arm
        self._enqueue(q, now_s)

    def _enqueue(self, q: int, now_s: float) -> None:
        queue, own_ms = self.queues[self.fleet.node_a[self.arm_q[q]]], self.promise[q][2]
        queue.squares_ms2 += own_ms**2
        if queue.running < queue.slots:
            self._start(q, now_s, queue)
        else:
            queue.waiting.append((now_s, own_ms, q))
            queue.waiting_ms += own_ms

    def _start(self, q: int, now_s: float, queue: Queue) -> None:
        arm, requests = self.arm_q[q], self.requests
        queue.running += 1
        queue.running_ms += self.promise[q][2]
        arrived_s = float(requests.unit_s_q[q]) / self.rate_per_s
        took_ms = float(self.fleet.ms_a[arm] * requests.tokens_q[q])
        self.ms_q[q] = (now_s - arrived_s) * 1e3 + took_ms
        self.energy_q[q] = self.fleet.j_a[arm] * requests.tokens_q[q]
        heapq.heappush(self.done, (now_s + took_ms / 1e3, q))

    def _advance(self, until_s: float, policy: Policy) -> None:
        """Everything that ends by then; what it frees starts, and what it shows is learnt."""
        while self.done and self.done[0][0] <= until_s:
            now_s, q = heapq.heappop(self.done)
            promised, score, own_ms, number = self.promise[q]
            queue = self.queues[self.fleet.node_a[self.arm_q[q]]]
            queue.running -= 1
            queue.running_ms -= own_ms
            queue.squares_ms2 -= own_ms**2
            if queue.waiting:
                _, next_ms, following = queue.waiting.popleft()
                queue.waiting_ms -= next_ms
                self._start(following, now_s, queue)
            if self.margins is not None:
                self.margins.observe(int(self.arm_q[q]), promised.score(float(self.ms_q[q])), bound=score)
            policy.settled(number, float(self.energy_q[q]))
