"""Triton's own clients, unchanged: the plain one and the asynchronous one, against the gateway's v2 paths."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import answers
from tests.fakes.live import Live

IMAGE = np.zeros((1, 8, 8), np.float32)


@pytest.fixture
async def served(live: Live) -> AsyncIterator[str]:
    """The address of a gateway with one node, as Triton's clients want it."""
    async with live.node(arms=[FakeArm("small", energy_j=0.01)], behaviour=answers(7, confidence=0.91)):
        yield live.http.removeprefix("http://")


def asked(client: Any, image: np.ndarray, *, binary: bool) -> dict[str, Any]:
    """The inputs and outputs of an inference, as a program builds them."""
    tensor = client.InferInput("image", list(image.shape), "FP32")
    tensor.set_data_from_numpy(image, binary_data=binary)
    return {"inputs": [tensor], "outputs": [client.InferRequestedOutput("probabilities", binary_data=binary)]}


@pytest.mark.parametrize("binary", [True, False])
async def test_the_plain_client(served: str, binary: bool) -> None:
    def program() -> Any:
        # Its greenlets belong to the thread that made them.
        with tritonclient.http.InferenceServerClient(served) as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready("digits")
            assert not client.is_model_ready("none-such")
            (told,) = client.get_model_metadata("digits")["inputs"]
            assert (told["name"], told["shape"]) == ("image", [-1, 8, 8])
            return client.infer("digits", request_id="r-1", **asked(tritonclient.http, IMAGE, binary=binary))

    result = await asyncio.to_thread(program)
    assert int(result.as_numpy("probabilities").argmax()) == 7
    told = result.get_response()
    assert told["id"] == "r-1"
    assert told["energy"]["energy_joules"] == pytest.approx(0.01)
    assert told["routing"]["experts"] == ["small@fake-1"]


@pytest.mark.parametrize("binary", [True, False])
async def test_the_asynchronous_client(served: str, binary: bool) -> None:
    async with tritonclient.http.aio.InferenceServerClient(served) as client:
        assert await client.is_server_ready()
        many = [client.infer("auto@1J,5s", **asked(tritonclient.http, IMAGE, binary=binary)) for _ in range(4)]
        results = await asyncio.gather(*many)
    assert [int(one.as_numpy("probabilities").argmax()) for one in results] == [7] * 4


async def test_an_error_is_one_that_the_client_understands(served: str) -> None:
    async with tritonclient.http.aio.InferenceServerClient(served) as client:
        with pytest.raises(InferenceServerException, match=r"\(1, 8, 9\)|shape") as caught:
            await client.infer("digits", **asked(tritonclient.http, np.zeros((1, 8, 9), np.float32), binary=True))
        with pytest.raises(InferenceServerException, match="budget"):
            await client.infer("digits@1nJ", **asked(tritonclient.http, IMAGE, binary=True))
    assert caught.value.status() == "400"
