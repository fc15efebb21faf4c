"""The keeper without a kernel that protects: what the operator did not allow is refused before anything is fetched."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from nodes.agent import messages as m
from nodes.agent.parts import build_parts
from nodes.artifacts.keeper import ModelKeeper
from nodes.artifacts.manifest import FileEntry, Manifest
from nodes.artifacts.rehearsal import Cage
from nodes.artifacts.store import ModelStore
from nodes.config import parse_config
from nodes.energy.meters.unmeasured import UnmeasuredMeter
from nodes.engines.guests import EngineWithGuests
from nodes.engines.onnx import OnnxEngine
from nodes.inventory import load_inventory
from nodes.worker.lockdown import Protections

MODEL = Manifest("m", "digits", (FileEntry("expert.json", "0" * 64, 10),))


def keeper(folder: Path, cage: Cage, protections: Protections) -> ModelKeeper:
    engine = EngineWithGuests(OnnxEngine(cage.command()), OnnxEngine(cage.command()))
    inventory = load_inventory(None, ("digits-linear",))
    store = ModelStore(folder, quota_bytes=1 << 20)
    return ModelKeeper(
        store, engine, inventory, meter=UnmeasuredMeter(), cage=cage, profiling_s=0.1, protections=protections
    )


async def said(keeper: ModelKeeper, manifest: Manifest) -> list[m.Event]:
    """What the gateway hears until the keeper asks for a file, or is done with the model."""
    heard: list[m.Event] = []
    done = asyncio.Event()

    async def send(event: m.Event) -> None:
        heard.append(event)
        done.set()

    keeper.send = send
    await keeper.prepare()
    keeper.take(m.ModelsWanted((manifest,)))
    async with asyncio.timeout(5.0):
        await done.wait()
    await keeper.close()
    return heard


@pytest.mark.parametrize("protections", [Protections(0, False), Protections(7, False)])
async def test_without_enough_protection_models_are_refused(tmp_path: Path, protections: Protections) -> None:
    (told,) = await said(keeper(tmp_path, Cage(Path(sys.executable)), protections), MODEL)
    assert isinstance(told, m.ModelReport)
    assert (told.state, told.reason) == ("refused", "SANDBOX_MISSING")
    assert not (tmp_path / "blobs").exists()


@pytest.mark.parametrize(
    ("cage", "protections"),
    [
        (Cage(Path(sys.executable), locked=False), Protections(0, False)),
        (Cage(Path(sys.executable)), Protections(0, True)),
    ],
)
async def test_with_it_or_the_operators_word_they_are_fetched(
    tmp_path: Path, cage: Cage, protections: Protections
) -> None:
    (told,) = await said(keeper(tmp_path, cage, protections), MODEL)
    assert told == m.ChunkWanted("0" * 64, 0, 10)


def test_the_operators_word_is_a_setting(tmp_path: Path) -> None:
    given = {"gateway": "127.0.0.1:1", "profile": "laptop-cpu", "model_store": tmp_path}
    assert build_parts(parse_config({**given, "accept_models": "never"})).models is None
    assert build_parts(parse_config(given)).models is not None


async def test_a_manifest_that_is_none_is_refused_here_too(tmp_path: Path) -> None:
    """Whatever a gateway sends: paths, digests and sizes are looked at again."""
    cage = Cage(Path(sys.executable), locked=False)
    for path, sha256, size_bytes, reason in [
        ("../x", "0" * 64, 10, "ARTIFACT_PATH_ESCAPE"),
        ("x", "../" + "0" * 61, 10, "DIGEST_INVALID"),
        ("x", "0" * 64, 0, "ARTIFACT_INVALID"),
        ("x", "0" * 64, 1 << 40, "ARTIFACT_TOO_LARGE"),
    ]:
        bad = Manifest("m", "digits", (FileEntry(path, sha256, size_bytes),))
        (told,) = await said(keeper(tmp_path, cage, Protections(0, False)), bad)
        assert isinstance(told, m.ModelReport)
        assert (told.state, told.reason) == ("refused", reason)
