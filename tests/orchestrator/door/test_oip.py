"""Tensors by the Open Inference Protocol v2, in JSON and as bytes behind it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import answers
from tests.fakes.live import Live
from tests.orchestrator.door.raw import get, post

INFER = "/v2/models/digits/infer"
IMAGE = {"name": "image", "shape": [1, 8, 8], "datatype": "FP32", "data": [0.0] * 64}


@pytest.fixture
async def served(live: Live) -> AsyncIterator[Live]:
    async with live.node(arms=[FakeArm("small", energy_j=0.01)], behaviour=answers(7, confidence=0.91)):
        yield live


async def test_health_and_metadata(live: Live, served: Live) -> None:
    assert (await get(served, "/v2/health/live")).json == {"live": True}
    assert (await get(served, "/v2/health/ready")).status == 200
    assert (await get(served, "/v2")).json["extensions"] == ["binary_tensor_data"]
    told = (await get(served, "/v2/models/digits")).json
    assert told["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 8, 8]}]
    assert told["parameters"]["labels"] == [str(label) for label in range(10)]
    for name, status in (("digits", 200), ("small", 200), ("auto", 200), ("none-such", 404)):
        assert (await get(served, f"/v2/models/{name}/ready")).status == status


async def test_nothing_is_ready_without_a_node(live: Live) -> None:
    assert (await get(live, "/v2/health/ready")).status == 503
    assert (await get(live, "/v2/models/auto/ready")).status == 503


@pytest.mark.parametrize("model", ["digits", "small", "auto", "auto:best@1J,2s", "digits@1J"])
async def test_an_image_in_json(served: Live, model: str) -> None:
    answer = await post(served, f"/v2/models/{model}/infer", {"id": "r-1", "inputs": [IMAGE]})
    told = answer.json
    assert (answer.status, told["id"], told["model_name"]) == (200, "r-1", model)
    (output,) = told["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "FP32", [1, 10])
    assert int(np.argmax(output["data"])) == 7
    assert told["parameters"] == {"label": "7", "confidence": pytest.approx(0.91, abs=1e-6)}
    assert told["energy"]["energy_joules"] == pytest.approx(0.01)
    assert answer.headers["x-energy-joules"] == "0.01"
    assert answer.headers["x-edgewise-request-id"] == "r-1"


async def test_an_image_as_bytes(served: Live) -> None:
    pixels = np.linspace(0, 1, 64, dtype="<f4").tobytes()
    image = {key: value for key, value in IMAGE.items() if key != "data"} | {"parameters": {"binary_data_size": 256}}
    wanted = {"name": "probabilities", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [image], "outputs": [wanted]}).encode()
    headers = {"inference_header_content_length": str(len(head)), "content_type": "application/octet-stream"}
    answer = await post(served, INFER, head + pixels, **headers)
    assert answer.status == 200
    size = int(answer.headers["inference-header-content-length"])
    (output,) = json.loads(answer.body[:size])["outputs"]
    assert output["parameters"] == {"binary_data_size": 40}
    assert int(np.argmax(np.frombuffer(answer.body[size:], "<f4"))) == 7


@pytest.mark.parametrize(
    ("image", "status", "code"),
    [
        ({"shape": [1, 8, 9]}, 400, "shape_mismatch"),
        ({"shape": [2**62, 2**62, 2**62]}, 400, "shape_mismatch"),
        ({"shape": [0]}, 400, "shape_mismatch"),
        ({"shape": ["8"]}, 400, "shape_mismatch"),
        ({"datatype": "FP64"}, 400, "dtype_mismatch"),
        ({"datatype": "BYTES"}, 400, "dtype_mismatch"),
        ({"name": "picture"}, 400, "shape_mismatch"),
        ({"data": [0.0] * 63}, 400, "shape_mismatch"),
        ({"data": ["x"] * 64}, 400, "field_out_of_range"),
        ({"data": [[0.0], [0.0, 1.0]]}, 400, "field_out_of_range"),
        ({"data": [float("nan")] * 64}, 400, "input_not_finite"),
        ({"data": [1e300] * 64}, 400, "input_not_finite"),
        ({"data": None}, 400, "field_required"),
        ({"parameters": {"binary_data_size": 256}}, 400, "shape_mismatch"),
    ],
)
async def test_an_image_that_does_not_fit(served: Live, image: dict[str, Any], status: int, code: str) -> None:
    answer = await post(served, INFER, {"inputs": [IMAGE | image]})
    assert (answer.status, answer.json["code"]) == (status, code), answer.body
    assert (await post(served, INFER, {"inputs": [IMAGE]})).status == 200


async def test_a_body_without_a_type_is_taken_but_not_from_a_page(served: Live) -> None:
    """As Triton's own client sends it."""
    body = {"inputs": [IMAGE]}
    assert (await post(served, INFER, body, content_type="")).status == 200
    assert (await post(served, INFER, body, content_type="", origin="http://evil.example")).status == 415


async def test_budgets_of_tensors(served: Live) -> None:
    tight = {"inputs": [IMAGE], "parameters": {"max_energy_j": 1e-9}}
    assert (await post(served, INFER, tight)).json["code"] == "budget_infeasible"
    told = await post(served, INFER, {"inputs": [IMAGE]}, x_edgewise_max_energy_j="1e-9")
    assert told.status == 422
    assert (await post(served, INFER, tight | {"parameters": {"max_energy_j": 1.0}})).status == 200


async def test_masses_of_tensors(live: Live) -> None:
    pruned = FakeArm("net-m60", "mass-0.6", energy_j=0.01, quality_fraction=0.5)
    async with live.node(arms=[FakeArm("net", energy_j=0.01, quality_fraction=0.99), pruned], behaviour=answers(7)):
        for parameters, arm in ({}, "net"), ({"max_mass": 1}, "net"), ({"max_mass": 0.6}, "net-m60"):
            told = (await post(live, INFER, {"inputs": [IMAGE], "parameters": parameters})).json
            assert told["routing"]["experts"] == [f"{arm}@fake-1"], parameters
        wrong = await post(live, INFER, {"inputs": [IMAGE], "parameters": {"max_mass": 2}})
    assert (wrong.status, wrong.json["code"]) == (400, "field_out_of_range")
