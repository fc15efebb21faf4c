"""Top-k softmax and the mixing of log probabilities against golden vectors, wherever the project computes them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kernels.errors import ShapeError
from kernels.gate import reference
from nodes.worker.text.mixing import Lanes, Mixture
from nodes.worker.text.sampling import Sampling, probabilities
from optimizer.routes.fusion import fuse
from optimizer.routes.route import Fusion, Route
from tests.kernels.golden_gate import DIGITS, SHAPES, Golden, case, golden

CASES = [pytest.param(one, id=f"{len(one.score_e)} experts, best {one.k}") for one in golden()]


@pytest.mark.parametrize("one", CASES)
def test_the_formulas(one: Golden) -> None:
    np.testing.assert_allclose(reference.top_weights(one.score_e[None], one.k)[0], one.weight_e, rtol=1e-12)
    mixed_v = reference.mixed(one.logit_ev[None], one.weight_e[None])[0]
    np.testing.assert_allclose(mixed_v, one.mixed_v, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("one", CASES)
def test_the_gateway_fuses_the_same_average(one: Golden) -> None:
    """A mixture of the experts that have a weight, from the distributions that nodes would send."""
    chosen = np.flatnonzero(one.weight_e)
    names = tuple(f"e{e}" for e in chosen)
    route = Route((names,), fusion=Fusion.MIXTURE, weights=tuple(one.weight_e[chosen].tolist()))
    answers = [(name, probabilities(one.logit_ev[e])) for name, e in zip(names, chosen, strict=True)]
    np.testing.assert_allclose(fuse(route, answers).probabilities_c, np.exp(one.mixed_v), rtol=1e-12)


@pytest.mark.parametrize("one", CASES)
def test_nodes_write_texts_from_the_same_average(one: Golden) -> None:
    """Greedy texts take the most probable token of the average and tell its logarithm."""
    sizes = dict.fromkeys(("context_tokens", "layers", "kv_heads", "head_width"), 1)
    models: list[Any] = [SimpleNamespace(sizes=sizes, macs=lambda *_: 0) for _ in one.weight_e]
    lanes = Lanes(Mixture(models, one.weight_e.tolist()), [0], sampling=Sampling(0.0), seed=0)
    lanes.top_logprobs = len(one.mixed_v)
    assert len(lanes.plan()) == len(models)
    chosen = lanes.choose(list(one.logit_ev))
    told = dict(chosen.tops)
    np.testing.assert_allclose([told[v] for v in range(len(one.mixed_v))], one.mixed_v, rtol=1e-10, atol=1e-12)
    assert chosen.token == int(one.mixed_v.argmax())


def test_the_vectors_are_those_that_their_recipe_gives() -> None:
    """The control: other scores give other vectors, so that a file of anything would not do."""
    from decimal import localcontext

    with localcontext() as context:
        context.prec = DIGITS
        made = [case(*shape) for shape in SHAPES[:3]]
    for given, one in zip(made, golden(), strict=False):
        np.testing.assert_array_equal(given["mixed_v"], one.mixed_v)
        np.testing.assert_array_equal(given["weight_e"], one.weight_e)
    spoilt = reference.mixed(golden()[2].logit_ev[None] * 1.001, golden()[2].weight_e[None])[0]
    assert np.abs(spoilt - golden()[2].mixed_v).max() > 1e-6


def test_no_experts_are_refused() -> None:
    with pytest.raises(ShapeError, match="experts can be taken"):
        reference.top_weights(np.zeros((1, 3)), 0)
