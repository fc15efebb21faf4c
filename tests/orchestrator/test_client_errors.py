"""What a client makes of calls that end without an explanation of the gateway's."""

from collections.abc import Iterable

import grpc
import pytest

from orchestrator.client.errors import GatewayUnreachable, translate
from orchestrator.errors import DeadlineExceeded


class Ended:
    """A call that ended with nothing but a status code."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        return None


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_a_gateway_that_stops_is_unreachable_and_may_be_called_again(code: grpc.StatusCode) -> None:
    error = translate(Ended(code), target="127.0.0.1:1", timeout_s=1.0)
    assert isinstance(error, GatewayUnreachable)
    assert error.surface.retryable


def test_the_deadline_of_the_call_itself() -> None:
    assert isinstance(translate(Ended(grpc.StatusCode.DEADLINE_EXCEEDED), target="", timeout_s=1.0), DeadlineExceeded)
