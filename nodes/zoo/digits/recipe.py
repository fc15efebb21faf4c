"""Train one digit expert, the same way every time.

One torch thread and fixed seeds: on one machine the same job gives the same bits, whatever else runs and
however many jobs run side by side. Shapes: n rows, b batch, c classes, h and w pixels.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from nodes.zoo.digits.architectures import BUILDERS
from nodes.zoo.digits.plan import Fitted, Job
from nodes.zoo.digits.settings import RECIPES, Recipe
from nodes.zoo.digits.splits import load_digits_with_folds

# At full strength: radians, relative size and relative shift of the random distortion, each to both sides.
MAX_ROTATION = 0.20
MAX_SCALING = 0.12
MAX_SHIFT = 0.16


def run_job(job: Job) -> Fitted:
    """Train one model and let it answer all rows. Cost: one core for 0.5 to 8 s."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    started = time.perf_counter()
    digits = load_digits_with_folds()
    rows = ~np.isin(digits.fold_n, job.left_out)
    images_nchw = torch.from_numpy(digits.images_nhw).unsqueeze(1)
    network = train(job.expert, images_nchw[rows], torch.from_numpy(digits.labels_n[rows]))
    with torch.no_grad():
        probabilities_nc = torch.softmax(network(images_nchw), dim=1).numpy()
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    return Fitted(probabilities_nc, weights, time.perf_counter() - started)


def train(expert: str, images_nchw: torch.Tensor, labels_n: torch.Tensor) -> nn.Module:
    """Fit a fresh network of `expert` and return it in evaluation mode."""
    recipe = RECIPES[expert]
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    network = BUILDERS[expert]().train()
    steps = recipe.epochs * -(-len(labels_n) // recipe.batch_rows)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)
    for _ in range(recipe.epochs):
        for image_bchw, label_b in _batches(images_nchw, labels_n, recipe, generator=generator):
            loss = functional.cross_entropy(network(image_bchw), label_b)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def _batches(
    images_nchw: torch.Tensor, labels_n: torch.Tensor, recipe: Recipe, *, generator: torch.Generator
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    order_n = torch.randperm(len(labels_n), generator=generator)
    shuffled_nchw = images_nchw[order_n]
    if recipe.distortion_fraction:
        shuffled_nchw = distort(shuffled_nchw, recipe.distortion_fraction, generator=generator)
    images = torch.split(shuffled_nchw, recipe.batch_rows)
    labels = torch.split(labels_n[order_n], recipe.batch_rows)
    return list(zip(images, labels, strict=True))


def distort(images_nchw: torch.Tensor, strength: float, *, generator: torch.Generator) -> torch.Tensor:
    """Rotate, scale and shift every image at random, up to `strength` times the maxima above."""
    rows = len(images_nchw)

    def uniform(*shape: int) -> torch.Tensor:
        return strength * (2 * torch.rand(*shape, generator=generator) - 1)

    angle_n = MAX_ROTATION * uniform(rows)
    scale_n = 1 + MAX_SCALING * uniform(rows)
    affine_n23 = torch.zeros(rows, 2, 3)
    affine_n23[:, 0, 0] = torch.cos(angle_n) * scale_n
    affine_n23[:, 0, 1] = -torch.sin(angle_n)
    affine_n23[:, 1, 0] = torch.sin(angle_n)
    affine_n23[:, 1, 1] = torch.cos(angle_n) * scale_n
    affine_n23[:, :, 2] = MAX_SHIFT * uniform(rows, 2)
    grid = functional.affine_grid(affine_n23, list(images_nchw.shape), align_corners=False)
    return functional.grid_sample(images_nchw, grid, align_corners=False)
