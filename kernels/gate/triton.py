"""The gate in Triton: the k best experts' weights, and the average of what they say.

State: right under Triton's interpreter; speed not run.

Shape letters: n samples, e experts, v vocabulary.
"""

from __future__ import annotations

from typing import Any

from kernels.errors import ShapeError
from kernels.gpu import require_usable, tl, torch, triton

BLOCK = 1024


@triton.jit
def _top_weights(scores, weights, experts, K: tl.constexpr, EXPERTS: tl.constexpr):
    row = tl.program_id(0)
    e = tl.arange(0, EXPERTS)
    score = tl.load(scores + row * experts + e, mask=e < experts, other=float("-inf"))
    left = tl.where(e < experts, 0, 1)
    top = tl.max(score, axis=0)
    for _ in tl.static_range(K):
        # By index and not by value: equal scores must not be taken together.
        best = tl.max(tl.where(left == 0, score, float("-inf")), axis=0)
        first = tl.min(tl.where((left == 0) & (score == best), e, EXPERTS), axis=0)
        left = tl.where(e == first, 2, left)
    raised = tl.where(left == 2, tl.exp(score - top), 0.0)
    tl.store(weights + row * experts + e, raised / tl.sum(raised, axis=0), mask=e < experts)


@triton.jit
def _normalisers(logits, norms, vocabulary, BLOCK: tl.constexpr):
    """Logarithm of the sum of the exponentials of one expert's scores for one sample, in one pass."""
    row = tl.program_id(0)
    top, total = float("-inf"), 0.0
    for start in range(0, vocabulary, BLOCK):
        v = start + tl.arange(0, BLOCK)
        some = tl.load(logits + row * vocabulary + v, mask=v < vocabulary, other=float("-inf"))
        higher = tl.maximum(top, tl.max(some, axis=0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(some - higher), axis=0)
        top = higher
    tl.store(norms + row, top + tl.log(total))


@triton.jit
def _mix(logits, norms, weights, averaged, experts, vocabulary, BLOCK: tl.constexpr):
    """Running maximum and sum over the experts that have a weight; the scores of the others are not read."""
    row = tl.program_id(0)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = v < vocabulary
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for e in range(experts):
        at = row * experts + e
        weight = tl.load(weights + at)
        if weight > 0:
            part = tl.load(logits + at * vocabulary + v, mask=inside, other=0.0) - tl.load(norms + at) + tl.log(weight)
            higher = tl.maximum(top, part)
            total = total * tl.exp(top - higher) + tl.exp(part - higher)
            top = higher
    tl.store(averaged + row * vocabulary + v, top + tl.log(total), mask=inside)


def top_weights(score_ne: Any, k: int) -> Any:
    """Softmax over the k largest scores (float32) of each row, of equal ones the first; 0 for the rest.

    Raises:
        ShapeError: There are no k experts, or the scores are not contiguous float32.
        KernelMissing: Nothing here can run it.
    """
    require_usable()
    _check(score_ne, 2)
    samples, experts = score_ne.shape
    if not 1 <= k <= experts:
        raise ShapeError(f"between 1 and {experts} experts can be taken, not {k}")
    weight_ne = torch.empty_like(score_ne)
    _top_weights[(samples,)](score_ne, weight_ne, experts, K=k, EXPERTS=triton.next_power_of_2(experts))
    return weight_ne


def mixed(logit_nev: Any, weight_ne: Any) -> Any:
    """Logarithm (n, v) of the weighted average of the experts' distributions.

    Args:
        logit_nev: float32, finite.
        weight_ne: float32; each row has a positive one. Experts of weight 0 are not averaged.

    Raises:
        ShapeError: An array is not what the kernel can read.
        KernelMissing: Nothing here can run it.
    """
    require_usable()
    _check(logit_nev, 3)
    _check(weight_ne, 2)
    samples, experts, vocabulary = logit_nev.shape
    if tuple(weight_ne.shape) != (samples, experts):
        raise ShapeError(f"weights must be ({samples}, {experts}), not {tuple(weight_ne.shape)}")
    norm_ne, averaged_nv = torch.empty_like(weight_ne), torch.empty_like(logit_nev[:, 0]).contiguous()
    _normalisers[(samples * experts,)](logit_nev, norm_ne, vocabulary, BLOCK=BLOCK)
    blocks = triton.cdiv(vocabulary, BLOCK)
    _mix[(samples, blocks)](logit_nev, norm_ne, weight_ne, averaged_nv, experts, vocabulary, BLOCK=BLOCK)
    return averaged_nv


def _check(array: Any, dimensions: int) -> None:
    if array.dim() != dimensions or array.dtype != torch.float32 or not array.is_contiguous():
        raise ShapeError(f"contiguous float32 of {dimensions} dimensions is needed, not {array.dtype} {array.shape}")
