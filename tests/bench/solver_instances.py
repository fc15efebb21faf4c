"""The instances of the solver benchmark: fixed seeds, made once, the same on every machine.

Arms are drawn as experts are: sizes over two decades, skill that grows with the logarithm of the size and scatters,
and for every fifth pair of arm and task a speciality that makes up for size. Queries belong to one of eight tasks and
have a difficulty. The chance of a right answer is logistic in skill + speciality − difficulty; energy grows with
size^0.8. The family ``iid`` has neither: chances and energies are independent and uniform.

Energies are whole numbers (tenths of a joule), so that no solver's tolerance on limits matters.

Shape letters: q queries, n arms, t tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from optimizer.selection.arms import Arm, Limits, Routing
from optimizer.selection.problem import Problem
from optimizer.selection.utility import AnyRight, BestOf, Floats

UTILITIES = ("best_of", "any_right")
# Share of all arms' energies together that the active ones may take.
BUDGETS = {"tight": 0.05, "loose": 0.2}
SIZES = (40, 60, 80, 100)
QUERIES = 60
_TASKS = 8
_JOULES = 0.1


@dataclass(frozen=True)
class Case:
    """One instance and the class that it belongs to."""

    name: str
    seed: int
    problem: Problem

    @property
    def utility(self) -> str:
        """Name of its utility."""
        return "any_right" if isinstance(self.problem.utility, AnyRight) else "best_of"


def experts(arms: int, queries: int, seed: int) -> tuple[Floats, Floats]:
    """Chances of a right answer (q, n), and joules per run (n,)."""
    rng = np.random.default_rng([arms, queries, seed])
    size_n = np.exp(rng.uniform(np.log(0.5), np.log(70.0), arms))
    skill_n = 0.6 * np.log(size_n) + rng.normal(0.0, 0.6, arms)
    special_nt = np.where(rng.random((arms, _TASKS)) < 0.2, rng.uniform(1.0, 3.0, (arms, _TASKS)), 0.0)
    task_q, difficulty_q = rng.integers(0, _TASKS, queries), rng.normal(3.0, 1.5, queries)
    logit_qn = skill_n + special_nt[:, task_q].T - difficulty_q[:, None] + rng.normal(0.0, 0.5, (queries, arms))
    energy_n: Floats = np.maximum(1.0, np.rint(10.0 * size_n**0.8 * np.exp(rng.normal(0.0, 0.2, arms))))
    chance_qn: Floats = 1.0 / (1.0 + np.exp(-logit_qn))
    joules_n: Floats = _JOULES * energy_n
    return chance_qn, joules_n


def noise(arms: int, queries: int, seed: int) -> tuple[Floats, Floats]:
    """The same shapes without any structure."""
    rng = np.random.default_rng([arms, queries, seed, 1])
    return rng.random((queries, arms)), _JOULES * rng.integers(10, 1000, arms).astype(np.float64)


def worst_case(chance_qn: Floats, energy_n: Floats, utility: str, share: float) -> Problem:
    """One energy limit on the active set."""
    queries = len(chance_qn)
    limit = np.floor(energy_n.sum() / _JOULES * share + 0.5) * _JOULES
    return Problem(
        arms=arms_with(energy_n),
        utility=BestOf(chance_qn) if utility == "best_of" else AnyRight(chance_qn),
        weights_q=np.full(queries, 1.0 / queries),
        limits=Limits(energy_j=float(limit)),
    )


def arms_with(energy_n: Floats) -> tuple[Arm, ...]:
    """Arms on four nodes; memory and standby watts in proportion to energy."""
    return tuple(
        Arm(f"a{n}", "x", f"n{n % 4}", float(energy_j), 1.0, int(energy_j * 1e9), float(energy_j * 0.5))
        for n, energy_j in enumerate(energy_n)
    )


def small(utility: str) -> Iterator[Case]:
    """(a) 20 arms × 15 task classes, 30 instances over both budgets."""
    for seed in range(30):
        budget = ("tight", "loose")[seed % 2]
        problem = worst_case(*experts(20, 15, seed), utility, BUDGETS[budget])
        yield Case(f"{utility}_20", seed, problem)


def medium(utility: str, arms: int, budget: str, *, count: int = 10) -> Iterator[Case]:
    """(b) 40 to 100 arms × 60 queries."""
    for seed in range(count):
        problem = worst_case(*experts(arms, QUERIES, seed), utility, BUDGETS[budget])
        yield Case(f"{utility}_{budget}_{arms}", seed, problem)


def structureless(utility: str, *, count: int = 3) -> Iterator[Case]:
    """40 arms × 60 queries of noise; no bar."""
    for seed in range(count):
        yield Case(f"{utility}_iid_40", seed, worst_case(*noise(40, QUERIES, seed), utility, BUDGETS["tight"]))


def large(utility: str, budget: str) -> Iterator[Case]:
    """(c) 500 arms × 500 queries."""
    for seed in range(3):
        problem = worst_case(*experts(500, 500, seed), utility, BUDGETS[budget])
        yield Case(f"{utility}_{budget}_500", seed, problem)


def routed() -> Iterator[Case]:
    """(d) 20 arms × 2,000 queries: half the memory of each node, half the standby watts, half the mean joules."""
    for seed in range(10):
        chance_qn, energy_n = experts(20, 2000, seed)
        arms = arms_with(energy_n)
        memory_bytes = {f"n{k}": 0.5 * sum(arm.memory_bytes for arm in arms if arm.node == f"n{k}") for k in range(4)}
        limits = Limits(memory_bytes=memory_bytes, standby_w=0.5 * sum(arm.standby_w for arm in arms))
        routing = Routing(float(energy_n.mean()) * 0.5)
        yield Case("routed_20", seed, Problem(arms, BestOf(chance_qn), np.full(2000, 1 / 2000), limits, routing))


def drifted(problem: Problem, seed: int) -> Problem:
    """One arm answers 5 % better or worse and costs 5 % more or less; the limit stays."""
    rng = np.random.default_rng([seed, 2])
    n, up, costlier = int(rng.integers(len(problem.arms))), rng.random() < 0.5, rng.random() < 0.5
    arms = list(problem.arms)
    arms[n] = replace(arms[n], energy_j=arms[n].energy_j * (1.05 if costlier else 0.95))
    utility = problem.utility
    assert isinstance(utility, BestOf | AnyRight)
    matrix_qn = (utility.quality_qn if isinstance(utility, BestOf) else utility.right_qn).copy()
    matrix_qn[:, n] = np.minimum(matrix_qn[:, n] * (1.05 if up else 0.95), 1.0)
    return replace(problem, arms=tuple(arms), utility=type(utility)(matrix_qn))
