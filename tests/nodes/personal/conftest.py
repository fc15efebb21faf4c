"""What all tests of personal experts share."""

from __future__ import annotations

import pytest

from nodes.personal import trainer


@pytest.fixture(autouse=True)
def _trainings_are_no_guests(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would wait for minutes where others have the cores; `test_guest` is about that they do."""
    monkeypatch.setattr(trainer, "GUEST", "runpy")
