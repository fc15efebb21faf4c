"""Trains a network dense, then again with its gates; can be stopped and goes on where it was.

Shapes: n images, b batch, c channels, h and w pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from nodes.pruning.gates import Masking, device_of, gates_of, mask_loss, set_masking
from nodes.pruning.images import Images
from nodes.pruning.state import catch_up, restore, write_state

Report = Callable[[str], None]
CROP_MARGIN = 4
JUDGED_AT_ONCE = 500
TEMPERATURE = 4.0


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs: Passes over the images.
        rate: Peak of the one-cycle schedule; predictors learn ten times as fast.
        warm_up_epochs: Epochs with the target masks themselves, before the predictors take over.
        flip: Mirror at random, as suits photographs and not digits.
        bfloat16: Compute convolutions in 16 bits; weights stay in 32.
        seed: Of the weights, the order and the distortions.
    """

    epochs: int
    rate: float
    batch: int = 128
    momentum: float = 0.9
    decay: float = 5e-4
    warm_up_epochs: int = 1
    margin: int = CROP_MARGIN
    flip: bool = True
    bfloat16: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Course:
    """One training: what is being trained, for which mass, and where its state lies.

    Attributes:
        mass: None trains dense.
        state: File that holds everything after each epoch; None keeps nothing.
        teacher: Network whose answers are learnt beside the labels; None for the labels alone.
        distill: Share of the loss that the teacher has.
        purpose: What the state belongs to; another purpose's is refused.
        setting: What a budget came to, kept in the state, so that who resumes does not measure it anew.
        device: Where it is trained, as torch names it; the network stays there afterwards.
    """

    schedule: Schedule
    mass: float | None = None
    joint: bool = False
    state: Path | None = None
    teacher: nn.Module | None = None
    distill: float = 0.0
    purpose: str = ""
    setting: float | None = None
    device: str = "cpu"


def train(
    network: nn.Module,
    images: Images,
    course: Course,
    *,
    report: Report = print,
    when_frozen: Callable[[], None] = lambda: None,
) -> None:
    """Train `network` in place, in evaluation mode afterwards.

    Args:
        when_frozen: Called before each epoch in which the predictors learn no more; the rest then learns to live with
            whatever masks it leaves.
    """
    schedule = course.schedule
    network.to(device=course.device, memory_format=torch.channels_last)
    if course.teacher is not None:
        course.teacher.to(course.device)
    set_masking(network, Masking.OFF if course.mass is None else Masking.TARGET, mass=course.mass, joint=course.joint)
    optimizer = _optimizer(network, schedule)
    steps = -(-len(images.labels_n) // schedule.batch)
    rates = [group["max_lr"] for group in optimizer.param_groups]
    done = restore(network, optimizer, course)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=schedule.epochs * steps, pct_start=0.2, cycle_momentum=False
    )
    catch_up(cycle, done * steps)
    if done:
        report(f"goes on after epoch {done} of {schedule.epochs}, from {course.state}")
    for epoch in range(done, schedule.epochs):
        started_s = time.perf_counter()
        if _prepare(network, course, epoch):
            network.eval()
            when_frozen()
        network.train()
        loss = _epoch(network, optimizer, cycle, batches(images, schedule, epoch), course=course)
        write_state(network, optimizer, course, epoch + 1)
        report(_progress(epoch + 1, schedule.epochs, loss, took_s=time.perf_counter() - started_s))
    if course.mass is not None:
        set_masking(network, Masking.PREDICTED)
    network.eval()


def _progress(epoch: int, epochs: int, loss: float, *, took_s: float) -> str:
    left_s = (epochs - epoch) * took_s
    left = f", about {left_s / 60:.0f} min left" if left_s >= 60 else ""
    return f"epoch {epoch}/{epochs}: loss {loss:.3f}, {took_s:.0f} s{left}"


def _prepare(network: nn.Module, course: Course, epoch: int) -> bool:
    """Set the gates up for an epoch; True where the predictors are frozen."""
    if course.mass is None:
        return False
    if epoch >= course.schedule.warm_up_epochs:
        set_masking(network, Masking.PREDICTED)
    frozen = epoch >= max(course.schedule.warm_up_epochs + 1, -(-course.schedule.epochs // 2))
    for gate in gates_of(network).values():
        gate.predictor.requires_grad_(not frozen)
    return frozen


def _epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    cycle: torch.optim.lr_scheduler.LRScheduler,
    stream: Iterator[tuple[torch.Tensor, torch.Tensor]],
    *,
    course: Course,
) -> float:
    losses = []
    gated = any(gate.masking is not Masking.OFF for gate in gates_of(network).values())
    device = device_of(network)
    for image_bchw, label_b in stream:
        image_bchw, label_b = image_bchw.to(device), label_b.to(device)
        # Around each step: within one such block the 16-bit copies of the weights are made only once.
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=course.schedule.bfloat16):
            logits_bk = network(image_bchw)
        loss = task_loss(logits_bk.float(), image_bchw, label_b, course=course)
        losses.append(float(loss.detach()))
        if gated:
            loss = loss + mask_loss(network)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cycle.step()
    return float(np.mean(losses))


def task_loss(
    logits_bk: torch.Tensor, image_bchw: torch.Tensor, label_b: torch.Tensor, *, course: Course
) -> torch.Tensor:
    """Cross-entropy with the labels, and for its share with the teacher's softened answers.

    Source: Hinton et al., arXiv 1503.02531.
    """
    right = functional.cross_entropy(logits_bk, label_b)
    if course.teacher is None or course.distill == 0.0:
        return right
    with torch.no_grad():
        soft_bk = torch.softmax(course.teacher(image_bchw).float() / TEMPERATURE, dim=1)
    log_bk = functional.log_softmax(logits_bk / TEMPERATURE, dim=1)
    apart = functional.kl_div(log_bk, soft_bk, reduction="batchmean") * TEMPERATURE**2
    return (1 - course.distill) * right + course.distill * apart


def _optimizer(network: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    predictors = [weight for gate in gates_of(network).values() for weight in gate.predictor.parameters()]
    known = {id(weight) for weight in predictors}
    others = [weight for weight in network.parameters() if id(weight) not in known]
    groups = [
        {"params": others, "lr": schedule.rate, "max_lr": schedule.rate},
        {"params": predictors, "lr": 10 * schedule.rate, "max_lr": 10 * schedule.rate, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.SGD(groups, momentum=schedule.momentum, weight_decay=schedule.decay, nesterov=True)


def batches(images: Images, schedule: Schedule, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Images of one epoch in an order of its own, shifted and mirrored at random."""
    chance = np.random.default_rng((schedule.seed, epoch))
    order_n = chance.permutation(len(images.labels_n))
    m = schedule.margin
    for start in range(0, len(order_n), schedule.batch):
        rows_b = order_n[start : start + schedule.batch]
        picked = images.images_nchw[rows_b]
        height, width = picked.shape[2:]
        padded = np.pad(picked, ((0, 0), (0, 0), (m, m), (m, m)))
        out = np.empty_like(picked)
        shifts = chance.integers(0, 2 * m + 1, (len(rows_b), 2))
        mirrored = chance.random(len(rows_b)) < (0.5 if schedule.flip else 0.0)
        for row, ((y, x), mirror) in enumerate(zip(shifts, mirrored, strict=True)):
            window = padded[row, :, y : y + height, x : x + width]
            out[row] = window[:, :, ::-1] if mirror else window
        yield (
            torch.from_numpy(out).contiguous(memory_format=torch.channels_last),
            torch.from_numpy(images.labels_n[rows_b]),
        )


def settle(network: nn.Module, images_nchw: np.ndarray) -> None:
    """Measure the normalisation's means and variances anew, under the masks that are now in force."""
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # A plain average over the passes.
    network.train()
    with torch.no_grad():
        for start in range(0, len(images_nchw), JUDGED_AT_ONCE):
            network(torch.from_numpy(images_nchw[start : start + JUDGED_AT_ONCE]).to(device_of(network)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def accuracy(network: nn.Module, images: Images) -> float:
    """Share of right answers."""
    right = 0
    with torch.no_grad():
        for start in range(0, len(images.labels_n), JUDGED_AT_ONCE):
            part = slice(start, start + JUDGED_AT_ONCE)
            logits_bk = network(torch.from_numpy(images.images_nchw[part]).to(device_of(network)))
            right += int((logits_bk.argmax(dim=1).cpu().numpy() == images.labels_n[part]).sum())
    return right / len(images.labels_n)
