"""Where a server is and who may ask it; which models it offers and what they are measured to cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodes.config import parse_config
from nodes.energy.contract import Provenance
from nodes.energy.meters.unmeasured import UnmeasuredMeter
from nodes.engines.remote.measuring import TRIALS, fitting, profile_texts
from nodes.engines.remote.offer import RemoteModel, discover, parse_model, remote_inventory
from nodes.engines.remote.parts import remote_energy
from nodes.engines.remote.server import Address, Server
from nodes.errors import (
    ConfigError,
    EnergySourceMissing,
    EngineError,
)
from tests.fakes.openai_server import Script, openai_server
from tests.nodes.engines.remote.asking import ARM, MODEL, answer, engine_for, job

# ---- keys and addresses


async def test_a_key_comes_from_its_file_and_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-1\n")
    async with openai_server(Script(key="sk-1")) as server, engine_for(server, key_file=file) as engine:
        assert (await answer(engine, job()))[0]
        file.write_text("wrong")
        with pytest.raises(EngineError) as caught:
            await answer(engine, job())
        assert "wrong" not in caught.value.message
        file.unlink()
        with pytest.raises(EngineError, match="cannot be read"):
            await answer(engine, job())


@pytest.mark.parametrize(
    "url", ["127.0.0.1:11434", "ftp://x/v1", "http://me:secret@x/v1", "http:///v1", "http://x/v1?k=1"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Address(url)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:1/v1", True),
        ("http://localhost/v1", True),
        ("http://[::1]:1/v1", True),
        ("http://127.9.9.9/v1", True),
        ("http://192.168.1.2/v1", False),
        ("https://api.example.org/v1", False),
        ("http://0.0.0.0:1/v1", False),
    ],
)
def test_only_loopback_is_surely_this_machine(url: str, here: bool) -> None:
    assert Address(url).is_here is here


def test_joules_of_a_server_elsewhere_are_nobodys(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("time_s,power_w\n0,5\n10,5\n")
    far, near = Address("http://192.168.1.2/v1"), Address("http://127.0.0.1:1/v1")
    plain = parse_config({"gateway": "127.0.0.1:1"})
    assert remote_energy(plain, far).meter.provenance is Provenance.UNMEASURED
    named = parse_config({"gateway": "127.0.0.1:1", "profile": "laptop-cpu"})
    assert remote_energy(named, near).meter.provenance is not Provenance.MODELLED
    replayed = parse_config({"gateway": "127.0.0.1:1", "energy": "replay", "energy_trace": trace})
    assert remote_energy(replayed, near).meter.provenance is Provenance.REPLAYED
    sensed = parse_config({"gateway": "127.0.0.1:1", "energy": "rapl"})
    with pytest.raises(EnergySourceMissing, match="another machine"):
        remote_energy(sensed, far)


# ---- what is offered


async def test_models_are_discovered_or_named() -> None:
    async with openai_server(Script(models=("tiny:1b", "Meta/Llama-3.1 8B"))) as server:
        client = Server(Address(server.url))
        found = await discover(client, [])
        assert [model.expert for model in found] == ["tiny-1b", "meta-llama-3.1-8b"]
        assert await discover(client, [MODEL]) == (MODEL,)
        with pytest.raises(ConfigError):
            await discover(client, [RemoteModel("a b"), RemoteModel("a-b")])
        await client.close()


def test_a_model_on_the_command_line() -> None:
    assert parse_model("tiny:1b") == RemoteModel("tiny:1b")
    parsed = parse_model("tiny:1b,quality=0.7,context=8192,can=tools+logprobs,tag=private")
    assert parsed == RemoteModel("tiny:1b", 0.7, ("tools", "logprobs"), 8192, ("private",))
    for wrong in (",quality=0.7", "x,quality=2", "x,quality=nan", "x,colour=red", "x,context=-1", "x,context"):
        with pytest.raises(ConfigError):
            parse_model(wrong)


async def test_costs_are_measured_with_a_few_texts() -> None:
    script = Script(token_s=0.004, pieces=lambda body: ["w "] * min(60, int(body["max_tokens"])))
    async with openai_server(script) as server, engine_for(server) as engine:
        profiles = await profile_texts(engine, UnmeasuredMeter(), remote_inventory([MODEL], "chat"))
        assert len(server.asked) == len(TRIALS)
    text = profiles[ARM].text
    assert text is not None
    # Never faster than the server; how much slower depends on what else this machine does.
    assert text.decode_ms_per_token >= 3.0
    assert (text.overhead_j, text.decode_j_per_token) == (0.0, 0.0)
    assert profiles[ARM].energy.provenance is Provenance.UNMEASURED


async def test_what_measures_a_small_context_fits_into_it() -> None:
    arm = remote_inventory([RemoteModel("tiny:1b", context_tokens=512)], "chat").arms[0]
    long = max((prompt for prompt, _ in TRIALS), key=len)
    assert len(long) > 512
    assert fitting(long, arm) == long[-256:]
    assert fitting(long, remote_inventory([MODEL], "chat").arms[0]) == long


async def test_an_arm_that_cannot_be_measured_is_offered_without_figures() -> None:
    async with openai_server(Script(status=500)) as server, engine_for(server) as engine:
        assert await profile_texts(engine, UnmeasuredMeter(), remote_inventory([MODEL], "chat")) == {}
