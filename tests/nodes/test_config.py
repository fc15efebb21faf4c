from __future__ import annotations

import re
from typing import Any

import pytest

from nodes.config import NAME_PATTERN, default_name, parse_config
from nodes.energy.discovery import EnergyMode
from nodes.errors import ConfigError


def test_defaults() -> None:
    config = parse_config({"gateway": "127.0.0.1:8421", "name": None, "concurrency": None})
    assert (config.concurrency, config.queue_limit, config.memory_limit_bytes) == (1, 64, 0)
    assert config.energy is EnergyMode.AUTO
    assert re.fullmatch(NAME_PATTERN, config.name)


@pytest.mark.parametrize("host", ["My_Laptop.LAN", "-x", "ünï", "", "a" * 100, "..."])
def test_the_default_name_is_always_a_name(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert re.fullmatch(NAME_PATTERN, default_name())


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"gateway": "localhost"}, "--gateway"),
        ({"gateway": ":8421"}, "--gateway"),
        ({"gateway": "h:0"}, "--gateway"),
        ({"gateway": "h:99999"}, "--gateway"),
        ({"name": "Big"}, "--name"),
        ({"name": "../x"}, "--name"),
        ({"name": "x" * 65}, "--name"),
        ({"name": "ok\n"}, "--name"),
        ({"concurrency": 0}, "--concurrency"),
        ({"queue_limit": -1}, "--queue-limit"),
        ({"memory_limit_bytes": -1}, "--memory-limit"),
        ({"energy": "solar"}, "--energy"),
        ({"profiling_s": float("nan")}, "--profiling-s"),
        ({"unheard_of": 1}, "--unheard-of"),
    ],
)
def test_an_error_names_the_flag(changes: dict[str, Any], flag: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"gateway": "127.0.0.1:8421", **changes})
    assert caught.value.message.startswith(flag)
    assert "\n" not in caught.value.message
