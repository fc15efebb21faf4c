"""Requests and a small fleet for the pacing benchmark, all drawn before a run.

Measured: what each expert answered (llm_quality/llmrouter_uiuc.parquet), when requests came and how many tokens were
generated (workload_traces, Azure conversation trace; time is stretched to the wanted load), how long answers to
mathematics and code are beside others (medians of zeroeval: 264 and 146 tokens, against 126 for gsm8k).
Modelled: joules = active parameters in billions x tokens x 0.25 J (llm_edge_energy: Llama-3.1-8B on an AGX Orin takes
1.8 to 2.2 J per token), milliseconds = the same product x 5 ms on the Orins (25 tokens/s for 8B) and 1 ms on the GPUs.

Quality estimates are cross-fitted means per task and length of the prompt; a stronger gate would replace `estimate`.

Shape letters: q requests, p prompts, m models, a arms.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SEED = 7
FOLDS = 5
# Prompts of a task and length that are as good as one of the task alone when a mean is taken.
SHRINKAGE = 10.0
J_PER_BILLION_TOKENS = 0.25
TYPICAL_TOKENS = 200.0
TOKEN_FACTOR = {"math": 264 / 126, "human_eval": 146 / 126, "mbpp": 146 / 126}
LIMIT_MS = (2e4, 1.8e5)
# In the first half nine of ten are questions of knowledge, in the second nine of ten are mathematics, logic or code.
LATE = ("agentverse-logicgrid", "agentverse-mgsm", "gsm8k", "human_eval", "math", "mbpp")
MIX = 9.0


@dataclass(frozen=True)
class Node:
    """A machine: how many requests it works on at once, and how long a billion parameters take for a token."""

    name: str
    slots: int
    ms_per_billion_tokens: float
    large: bool


NODES = (
    Node("orin-a", 4, 5.0, large=False),
    Node("orin-b", 4, 5.0, large=False),
    Node("gpu-a", 4, 1.0, large=True),
    Node("gpu-b", 4, 1.0, large=True),
)
LARGE_BILLIONS = 40.0


@dataclass(frozen=True)
class Prompts:
    """The table: quality_pm with the estimates of it that were made without seeing the prompt."""

    models: tuple[str, ...]
    billions_m: Floats
    task_p: NDArray[np.str_]
    quality_pm: Floats
    estimate_pm: Floats


@dataclass(frozen=True)
class Requests:
    """One stream. Tokens are known when an answer is done; before that `factor_q` is."""

    unit_s_q: Floats
    quality_qm: Floats
    estimate_qm: Floats
    factor_q: Floats
    tokens_q: Floats
    limit_ms_q: Floats

    @property
    def count(self) -> int:
        """How many requests."""
        return len(self.unit_s_q)

    def take(self, part: slice) -> Requests:
        """A part of the stream."""
        fields = ("unit_s_q", "quality_qm", "estimate_qm", "factor_q", "tokens_q", "limit_ms_q")
        return Requests(**{name: getattr(self, name)[part] for name in fields})


def load_prompts(folder: Path) -> Prompts:
    """Read the table of answers."""
    table = parquet.read_table(folder / "llm_quality/llmrouter_uiuc.parquet").to_pydict()
    models = sorted(set(table["model"]))
    rows: dict[str, int] = {}
    for prompt_id in table["prompt_id"]:
        rows.setdefault(prompt_id, len(rows))
    quality_pm = np.zeros((len(rows), len(models)))
    task_p, length_p = np.empty(len(rows), dtype="<U32"), np.zeros(len(rows))
    columns = {model: m for m, model in enumerate(models)}
    for row in zip(*(table[c] for c in ("prompt_id", "model", "quality", "task", "prompt")), strict=True):
        p = rows[row[0]]
        quality_pm[p, columns[row[1]]], task_p[p], length_p[p] = row[2], row[3], len(row[4])
    return Prompts(tuple(models), _billions(folder, models), task_p, quality_pm, estimate(task_p, length_p, quality_pm))


def _billions(folder: Path, models: list[str]) -> Floats:
    with (folder / "llm_quality/models.csv").open() as file:
        known = {
            row["model"]: float(row["active_params_b"])
            for row in csv.DictReader(file)
            if row["source"] == "llmrouter_uiuc"
        }
    return np.array([known[model] for model in models])


def estimate(task_p: NDArray[np.str_], length_p: Floats, quality_pm: Floats) -> Floats:
    """Mean quality on prompts of the same task and third of length in the other folds, drawn towards the task's."""
    fold_p = np.random.default_rng(SEED).integers(0, FOLDS, len(task_p))
    estimate_pm = np.zeros_like(quality_pm)
    for task in np.unique(task_p):
        of_task_p = task_p == task
        third_p = np.digitize(length_p, np.quantile(length_p[of_task_p], (1 / 3, 2 / 3)))
        for fold in range(FOLDS):
            others_p = of_task_p & (fold_p != fold)
            mean_m = quality_pm[others_p].mean(axis=0)
            for third in range(3):
                like_p = others_p & (third_p == third)
                sum_m = quality_pm[like_p].sum(axis=0) + SHRINKAGE * mean_m
                mine_p = of_task_p & (fold_p == fold) & (third_p == third)
                estimate_pm[mine_p] = sum_m / (like_p.sum() + SHRINKAGE)
    return estimate_pm


def draw_requests(folder: Path, prompts: Prompts, *, seed: int) -> Requests:
    """Prompts drawn for the arrivals of the trace, another mix of tasks from half-time on."""
    rng = np.random.default_rng(seed)
    unit_s_q, generated_q = _trace(folder)
    late_p = np.isin(prompts.task_p, LATE)
    half = len(unit_s_q) // 2
    chosen_q = np.concatenate(
        [
            rng.choice(len(late_p), half, p=_weights(~late_p)),
            rng.choice(len(late_p), len(unit_s_q) - half, p=_weights(late_p)),
        ]
    )
    factor_q = np.array([TOKEN_FACTOR.get(task, 1.0) for task in prompts.task_p[chosen_q]])
    low, high = np.log(LIMIT_MS)
    return Requests(
        unit_s_q=unit_s_q,
        quality_qm=prompts.quality_pm[chosen_q],
        estimate_qm=prompts.estimate_pm[chosen_q],
        factor_q=factor_q,
        tokens_q=generated_q * factor_q,
        limit_ms_q=np.exp(rng.uniform(low, high, len(unit_s_q))),
    )


def _weights(many_p: NDArray[np.bool_]) -> Floats:
    weight_p = np.where(many_p, MIX / many_p.sum(), 1.0 / (~many_p).sum())
    return np.asarray(weight_p / weight_p.sum())


def _trace(folder: Path) -> tuple[Floats, Floats]:
    """Arrival times in units of the mean gap, and generated tokens."""
    with gzip.open(folder / "workload_traces/AzureLLMInferenceTrace_conv.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    # The stamps have seven decimals; six can be read.
    arrival_s = np.array([datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in rows])
    arrival_s -= arrival_s[0]
    return arrival_s * (len(rows) / arrival_s[-1]), np.array([float(row["GeneratedTokens"]) for row in rows])
