"""Trains a network dense, then again with its gates; can be stopped and goes on where it was.

Shapes: n images, b batch, c channels, h and w pixels.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from nodes.errors import ConfigError
from nodes.pruning.gates import Masking, gates_of, mask_loss, set_masking
from nodes.pruning.images import Images
from nodes.zoo.arrays import read_arrays, write_arrays

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
    """

    schedule: Schedule
    mass: float | None = None
    joint: bool = False
    state: Path | None = None
    teacher: nn.Module | None = None
    distill: float = 0.0
    purpose: str = ""
    setting: float | None = None


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
    network.to(memory_format=torch.channels_last)
    set_masking(network, Masking.OFF if course.mass is None else Masking.TARGET, mass=course.mass, joint=course.joint)
    optimizer = _optimizer(network, schedule)
    steps = -(-len(images.labels_n) // schedule.batch)
    rates = [group["max_lr"] for group in optimizer.param_groups]
    done = _restore(network, optimizer, course)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=schedule.epochs * steps, pct_start=0.2, cycle_momentum=False
    )
    _catch_up(cycle, done * steps)
    for epoch in range(done, schedule.epochs):
        started_s = time.perf_counter()
        if _prepare(network, course, epoch):
            network.eval()
            when_frozen()
        network.train()
        loss = _epoch(network, optimizer, cycle, batches(images, schedule, epoch), course=course)
        _save(network, optimizer, course, epoch + 1)
        report(f"epoch {epoch + 1}/{schedule.epochs}: loss {loss:.3f}, {time.perf_counter() - started_s:.0f} s")
    if course.mass is not None:
        set_masking(network, Masking.PREDICTED)
    network.eval()


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
    for image_bchw, label_b in stream:
        # Around each step: within one such block the 16-bit copies of the weights are made only once.
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=course.schedule.bfloat16):
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
            network(torch.from_numpy(images_nchw[start : start + JUDGED_AT_ONCE]))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def accuracy(network: nn.Module, images: Images) -> float:
    """Share of right answers."""
    right = 0
    with torch.no_grad():
        for start in range(0, len(images.labels_n), JUDGED_AT_ONCE):
            part = slice(start, start + JUDGED_AT_ONCE)
            logits_bk = network(torch.from_numpy(images.images_nchw[part]))
            right += int((logits_bk.argmax(dim=1).numpy() == images.labels_n[part]).sum())
    return right / len(images.labels_n)


# ---- state between epochs: arrays only, so that reading it can run nothing


def weights_of(network: nn.Module) -> dict[str, np.ndarray]:
    """All weights by name."""
    return {name: value.numpy() for name, value in network.state_dict().items()}


def put_weights(network: nn.Module, arrays: dict[str, np.ndarray]) -> None:
    """Load what `weights_of` gave."""
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})


def _save(network: nn.Module, optimizer: torch.optim.Optimizer, course: Course, epochs: int) -> None:
    state = course.state
    if state is None:
        return
    arrays = {f"weight/{name}": value for name, value in weights_of(network).items()}
    for key, buffers in optimizer.state_dict()["state"].items():
        if buffers.get("momentum_buffer") is not None:
            arrays[f"momentum/{key}"] = buffers["momentum_buffer"].numpy()
    arrays |= {"epochs": np.array([epochs]), "purpose": np.array([course.purpose])}
    if course.setting is not None:
        arrays["setting"] = np.array([course.setting])
    state.parent.mkdir(parents=True, exist_ok=True)
    fresh = state.with_suffix(".new")
    write_arrays(fresh, arrays)
    fresh.replace(state)


def _catch_up(cycle: torch.optim.lr_scheduler.LRScheduler, steps: int) -> None:
    with warnings.catch_warnings():
        # It warns of steps without the optimizer's, which were made before the stop.
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(steps):
            cycle.step()


def _restore(network: nn.Module, optimizer: torch.optim.Optimizer, course: Course) -> int:
    state = course.state
    if state is None or not state.exists():
        return 0
    arrays = _state_of(state, course.purpose)
    put_weights(network, {key[7:]: value for key, value in arrays.items() if key.startswith("weight/")})
    held = optimizer.state_dict()
    held["state"] = {
        int(key[9:]): {"momentum_buffer": torch.from_numpy(value)}
        for key, value in arrays.items()
        if key.startswith("momentum/")
    }
    optimizer.load_state_dict(held)
    return int(arrays["epochs"][0])


def setting_of(state: Path, purpose: str) -> float | None:
    """The setting of a stopped training; None where there is none.

    Raises:
        ConfigError: The training had another purpose.
    """
    arrays = _state_of(state, purpose) if state.exists() else {}
    return float(arrays["setting"][0]) if "setting" in arrays else None


def _state_of(state: Path, purpose: str) -> Mapping[str, np.ndarray]:
    arrays = read_arrays(state)
    if (found := str(arrays["purpose"][0])) != purpose:
        raise ConfigError(
            f"{state}: the training that was stopped here was another one ({found}; now {purpose}). "
            "Repeat its command, choose another --to, or delete that file"
        )
    return arrays
