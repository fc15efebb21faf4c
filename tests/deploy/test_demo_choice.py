"""Which request the demo explains."""

from __future__ import annotations

from dataclasses import replace

from deploy.demo.asking import Asked
from deploy.demo.show import most_telling

ONE = Asked("one", True, True, True, 0.1, 1.0, ("digits-mlp:onnx-fp32@orin-sim",))
TWO = replace(ONE, request_id="two", arms=(*ONE.arms, "digits-wide:onnx-fp32@rtx-sim"))
PRUNED = replace(ONE, request_id="pruned", arms=("digits-gated-m60:mass-0.6@orin-sim",))


def test_a_request_that_a_pruned_expert_answered_is_explained() -> None:
    assert most_telling([ONE, TWO]) == TWO, "the control: without one, that of most arms"
    assert most_telling([ONE, TWO, PRUNED]) == PRUNED
    assert most_telling([replace(PRUNED, answered=False), ONE]) == ONE
    assert most_telling([]) is None
