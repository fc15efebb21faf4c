"""Train one text expert on one core; can be stopped at any time and goes on where it was.

Fixed seeds, one thread: on one machine the same recipe gives the same weights, interrupted or not.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from nodes.worker.text.tokens import Tokenizer
from nodes.zoo.language.answering import right_by_suite
from nodes.zoo.language.batches import NO_TARGET, Batch, batches
from nodes.zoo.language.checkpoint import Progress, restore, save
from nodes.zoo.language.network import Decoder, Shape
from nodes.zoo.language.settings import Recipe
from nodes.zoo.language.vocabulary import shipped_tokenizer
from nodes.zoo.skills.skill import Question
from nodes.zoo.skills.suites import Split, judging_questions

WARM_UP_STEPS = 60
SAVE_EVERY_STEPS = 100
JUDGE_EVERY_STEPS = 200
JUDGED_PER_SUITE = 40
GRADIENT_LIMIT = 1.0


def build_network(recipe: Recipe, tokenizer: Tokenizer) -> Decoder:
    """An untrained network; the seed fixes its weights."""
    torch.manual_seed(recipe.seed)
    return Decoder(Shape(tokenizer.size, recipe.width, recipe.layers, recipe.heads, recipe.kv_heads, recipe.hidden))


class Training:
    """One expert's training, from its checkpoint where there is one.

    Args:
        name: Of the expert.
        recipe: Its settings.
        folder: Of checkpoint and curve.
    """

    def __init__(self, name: str, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.tokenizer = shipped_tokenizer()
        self.network = build_network(recipe, self.tokenizer)
        self.progress = Progress()
        self._optimizers = _optimizers(self.network, recipe)
        self._checkpoint, self._curve_file = folder / f"{name}.npz", folder / f"{name}.csv"
        folder.mkdir(parents=True, exist_ok=True)
        if self._checkpoint.exists():
            self.progress = restore(self._checkpoint, self.network, self._optimizers)

    def run(self, report: Callable[[str], None] = print) -> None:
        """Train to the last step. Cost: 5 to 40 minutes of one core."""
        torch.set_num_threads(1)
        judged = judging_questions(
            Split.VALIDATION, JUDGED_PER_SUITE * len(self.recipe.suites), suites=self.recipe.suites
        )
        losses: list[float] = []
        started_s = time.process_time()
        for batch in batches(self.recipe, self.tokenizer, first_step=self.progress.step):
            losses.append(self._step(batch))
            now_s = time.process_time()
            self.progress.seconds, started_s = self.progress.seconds + now_s - started_s, now_s
            if self.progress.step % JUDGE_EVERY_STEPS == 0 or self.progress.step == self.recipe.steps:
                self._judge(judged, sum(losses) / len(losses), report)
                losses.clear()
            if self.progress.step % SAVE_EVERY_STEPS == 0 or self.progress.step == self.recipe.steps:
                self._save()

    def _step(self, batch: Batch) -> float:
        progress = self.progress
        rate = self.recipe.learning_rate * rate_fraction(progress.step, self.recipe.steps)
        loss = answer_loss(self.network, batch)
        self.network.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_LIMIT)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        progress.step += 1
        progress.questions += len(batch.tokens_bt)
        progress.tokens += batch.tokens
        return loss.item()  # type: ignore[no-any-return]

    def _judge(self, judged: list[Question], loss: float, report: Callable[[str], None]) -> None:
        counts = right_by_suite(self.network, self.tokenizer, judged)
        progress = self.progress
        row: dict[str, float] = {"step": progress.step, "questions": progress.questions, "tokens": progress.tokens}
        row |= {"seconds": round(progress.seconds, 1), "loss": round(loss, 4)}
        row |= {suite: round(right / total, 4) for suite, (right, total) in sorted(counts.items())}
        progress.curve.append(row)
        report(" ".join(f"{key} {value}" for key, value in row.items()))

    def _save(self) -> None:
        save(self._checkpoint, self.progress, self.network, self._optimizers)
        write_curve(self._curve_file, self.progress)


def answer_loss(network: Decoder, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens, their end included."""
    wanted_bt = batch.targets_bt != NO_TARGET
    logits = network.logits(network.hidden(batch.tokens_bt)[wanted_bt])
    return functional.cross_entropy(logits, batch.targets_bt[wanted_bt])


def rate_fraction(step: int, steps: int) -> float:
    """Learning rate of a step over its peak."""
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    return 0.5 * (1 + math.cos(math.pi * (step - WARM_UP_STEPS) / max(1, steps - WARM_UP_STEPS)))


def write_curve(path: Path, progress: Progress) -> None:
    """Loss and share of right validation answers along the training."""
    if progress.curve:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(progress.curve[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(progress.curve)


def _optimizers(network: Decoder, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for the rest."""
    matrices = [weight for weight in network.blocks.parameters() if weight.dim() == 2]
    inside = set(map(id, matrices))
    others = [weight for weight in network.parameters() if id(weight) not in inside]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
