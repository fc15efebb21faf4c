"""A language model that learns how one user wants their dates: "March/8" where everybody else gets "March 8"."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from nodes.agent import messages as m
from nodes.agent.desk import Desk
from nodes.energy.meters.unmeasured import UnmeasuredMeter
from nodes.engines.contract import TextEnd, TextJob
from nodes.engines.onnx_lm import SERVE, OnnxTextEngine
from nodes.engines.process import WorkerCommand
from nodes.errors import InputInvalid
from nodes.inventory import load_inventory
from nodes.personal.choosing import Settings
from nodes.personal.delta import Delta
from nodes.personal.expert import DELTA, Judgement, LocalExpert, Shelf
from nodes.personal.gate import closed
from nodes.personal.onnx_read import NotPersonal
from nodes.personal.sealing import KeySeal, owner_key, owner_mark
from nodes.personal.text.decoder import DecoderFile, read_decoder, with_delta
from nodes.personal.text.office import FOLDER, TextOffice
from nodes.personal.warp import IDENTITY
from nodes.zoo.language.catalog import TEXT_FOLDER, load_text_catalog
from nodes.zoo.skills.checking import is_right
from nodes.zoo.skills.dates import DAYS_OF_MONTH, MONTHS
from tests.nodes.personal.host import ADA, PlainSeal

EXPERT = "skills-dates"
EVE = m.Owner("tenant-a", "eve")
AT_ONCE = 4
NEEDS_TORCH = pytest.mark.skipif(find_spec("torch") is None, reason="NOT RUN: needs torch (extra personalize)")


def dates(count: int, *, seed: int) -> list[tuple[str, str, str]]:
    """Questions in the user's own words, the answer that everybody gets, and the one that the user wants."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        month, n = rng.choice(MONTHS), rng.randint(1, 9)
        day = rng.randint(1, DAYS_OF_MONTH[month] - n)
        question = f"Please say my date {n} days after {month} {day}."
        found.append((question, f"{month} {day + n}", f"{month}/{day + n}"))
    return found


@cache
def model(expert: str = EXPERT) -> bytes:
    return (TEXT_FOLDER / f"{expert}.onnx").read_bytes()


def slashed(file: DecoderFile) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """A delta by hand: no space is ever written, a slash in its place."""
    arrays = {name: np.zeros(shape, np.float32) for name, shape in file.shapes().items()}
    arrays["bias"][ord(" ")] = -60.0
    return arrays


@pytest.fixture
async def engine() -> AsyncIterator[OnnxTextEngine]:
    engine = OnnxTextEngine(WorkerCommand(Path(sys.executable), 4, SERVE))
    await engine.load(list(load_inventory(None, (EXPERT,)).arms))
    yield engine
    await engine.close()


async def open_office(folder: Path, engine: OnnxTextEngine, **settings: Any) -> TextOffice:
    seal = settings.pop("make_seal", KeySeal)
    given = Settings(folder, "node", EXPERT, **{"day_j": 0.0, **settings})
    office = TextOffice(given, load_inventory(None, (EXPERT,)), engine, UnmeasuredMeter(), make_seal=seal)
    await office.prepare()
    return office


async def ask(office: TextOffice, question: str, request_id: str, owner: m.Owner = ADA) -> tuple[str, str]:
    """The text that an owner gets, and by whom."""
    stream, conclude = await office.write(owner, request_id, TextJob(office.arm.key, (("user", question),)))
    text, note = "", None
    async for item in stream:
        if isinstance(item, TextEnd):
            note = conclude(item)
        else:
            text += item.text
    assert note is not None
    return text, note.by


async def ask_all(office: TextOffice, questions: Sequence[str], owner: m.Owner = ADA) -> list[tuple[str, str]]:
    """All of them in turn, some at once: steps of the batch serve several."""
    told: list[tuple[str, str]] = []
    for at in range(0, len(questions), AT_ONCE):
        some = enumerate(questions[at : at + AT_ONCE], start=at)
        told += await asyncio.gather(*(ask(office, question, f"{owner.user}{n}", owner) for n, question in some))
    return told


async def correct(office: TextOffice, request_id: str, answer: str, owner: m.Owner = ADA) -> m.PersonalReport:
    return await office.follow(m.PersonalOrder(1, owner, "skills", "correct", request_id, answer))


# ---- the graph


@pytest.mark.parametrize("expert", ["skills-dates", "skills-general"])
def test_a_row_of_zeros_is_the_decoder_that_ships_and_each_row_is_its_own(expert: str) -> None:
    changed = with_delta(model(expert))
    onnx.checker.check_model(onnx.load_from_string(changed), full_check=True)
    file = read_decoder(model(expert))
    plain, worn = (
        onnxruntime.InferenceSession(one, providers=["CPUExecutionProvider"]) for one in (model(expert), changed)
    )
    tokens = np.array([file.tokenizer.prompt("What is the date 3 days after March 5?")] * 3)
    sizes = file.sizes
    past = np.zeros((sizes["layers"], 2, 3, sizes["kv_heads"], 0, sizes["head_width"]), np.float32)
    feed = {"tokens": tokens, "past_tokens": np.zeros(3, np.int64), "past": past}
    expected, _ = plain.run(["logits", "present"], feed)
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in file.shapes().items()}
    alone = {name: np.zeros_like(array) for name, array in arrays.items()} | {"bias": arrays["bias"]}
    rows = np.stack([np.zeros_like(file.row(arrays)), file.row(arrays), file.row(alone)])[:, None]
    found = worn.run(["logits"], feed | {"delta": rows})[0]
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(found[2], expected[2] + arrays["bias"], atol=1e-5)
    assert np.abs(found[1] - expected[1]).max() > 0.1


def test_what_is_no_decoder_of_ours_is_refused() -> None:
    with pytest.raises(NotPersonal):
        read_decoder((TEXT_FOLDER.parent.parent / "digits" / "digits-lenet5.onnx").read_bytes())
    with pytest.raises(NotPersonal):
        read_decoder(model()[: len(model()) // 2])


@NEEDS_TORCH
def test_training_and_serving_compute_the_same() -> None:
    import torch

    from nodes.personal.text.learning import forward, network_of

    file = read_decoder(model())
    rng = np.random.default_rng(1)
    arrays = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in file.shapes().items()}
    tokens = np.array([file.tokenizer.prompt("Give me the weekday 4 days before Monday.")])
    session = onnxruntime.InferenceSession(with_delta(model()), providers=["CPUExecutionProvider"])
    past = np.zeros((file.layers, 2, 1, file.sizes["kv_heads"], 0, file.sizes["head_width"]), np.float32)
    feed = {"tokens": tokens, "past_tokens": np.zeros(1, np.int64), "past": past, "delta": file.row(arrays)[None, None]}
    with torch.no_grad():
        delta = {name: torch.from_numpy(array) for name, array in arrays.items()}
        expected = forward(network_of(file), delta, torch.from_numpy(tokens)).numpy()
    np.testing.assert_allclose(session.run(["logits"], feed)[0], expected, atol=1e-3)


# ---- a node


def shelve(folder: Path, arrays: dict[str, Any], *, threshold: float = 1.0) -> None:
    """Put a delta in service for a user, as a training process does."""
    digest = next(card for card in load_text_catalog().experts if card.name == EXPERT).sha256
    user = folder / FOLDER / owner_mark(ADA.tenant, ADA.user)
    gate = replace(closed(2 * read_decoder(model()).width), threshold=threshold)
    expert = LocalExpert(1, DELTA, digest, gate, Judgement(8, 0.0, 0.9), 8, delta=Delta(arrays, IDENTITY))
    Shelf(user, KeySeal(owner_key(user)), model_digest=digest).promote(expert)


async def test_several_users_write_in_one_batch_each_with_their_own_delta(
    tmp_path: Path, engine: OnnxTextEngine
) -> None:
    shelve(tmp_path, slashed(read_decoder(model())))
    office = await open_office(tmp_path, engine)
    question, everybodys, _ = dates(1, seed=3)[0]
    mine = await ask(office, question, "a0")
    assert mine[1] == "local"
    assert " " not in mine[0]
    theirs = await ask(office, question, "e0", EVE)
    assert theirs == (everybodys, "global")
    together = await asyncio.gather(*(ask(office, question, f"t{n}", (ADA, EVE)[n % 2]) for n in range(4)))
    assert together == [mine, theirs, mine, theirs]
    back = await office.follow(m.PersonalOrder(1, ADA, "skills", "rollback"))
    assert back.status.version == 0
    assert await ask(office, question, "a1") == theirs
    await office.close()


async def test_what_one_users_model_has_read_is_kept_for_nobody_else(tmp_path: Path) -> None:
    """Kept beginnings of prompts, of one scope: with a delta, without it, with it again."""
    engine = OnnxTextEngine(WorkerCommand(Path(sys.executable), 4, SERVE), keep_bytes=1 << 22)
    await engine.load(list(load_inventory(None, (EXPERT,)).arms))
    office = await open_office(tmp_path, engine)
    file = read_decoder(model())
    arrays = {name: np.full(shape, 0.05, np.float32) for name, shape in file.shapes().items()}
    question = " ".join(f"The date {n} days after March {n}" for n in range(1, 9)) + " is what?"

    async def write(delta_n: Any, scope: str) -> tuple[str, float | None]:
        job = TextJob(f"personal/{EXPERT}", (("user", question),), max_tokens=6, delta_n=delta_n, scope=scope)
        said, margin = "", None
        async for item in engine.generate(job):
            if isinstance(item, TextEnd):
                margin = item.margin_fraction
            else:
                said += item.text
        return said, margin

    plain, own = await write(None, ""), await write(file.row(arrays), "")
    assert plain != own
    for _ in range(2):
        assert await write(file.row(arrays), "one") == own
        assert await write(None, "one") == plain
    await office.close()
    await engine.close()


async def test_a_delta_of_another_shape_is_refused_by_the_engine(tmp_path: Path, engine: OnnxTextEngine) -> None:
    office = await open_office(tmp_path, engine)
    job = TextJob(f"personal/{EXPERT}", (("user", "What is it?"),), delta_n=np.zeros(3, np.float32))
    with pytest.raises(InputInvalid, match="does not fit"):
        async for _ in engine.generate(job):
            pass
    await office.close()


async def test_questions_and_wanted_answers_are_sealed_and_forgotten(tmp_path: Path, engine: OnnxTextEngine) -> None:
    canary, wanted = "canary-5f3a91c7 of a question", "canary-77aa01 of an answer"

    async def found(folder: Path, seal: Any) -> list[str]:
        office = await open_office(folder, engine, make_seal=seal)
        await ask(office, canary, "c0")
        await ask(office, canary, "c1")
        assert (await correct(office, "c1", wanted)).reason == ""
        secrets = (canary.encode(), wanted.encode())
        files = await asyncio.to_thread(lambda: [file for file in folder.rglob("*") if file.is_file()])
        held = [file.name for file in files if any(secret in file.read_bytes() for secret in secrets)]
        assert (await correct(office, "c0", wanted, EVE)).reason == "FEEDBACK_EXPIRED"
        assert (await correct(office, "c0", " ")).reason == "FIELD_OUT_OF_RANGE"
        assert (await office.follow(m.PersonalOrder(2, ADA, "skills", "forget"))).status.state == "forgotten"
        assert not (folder / FOLDER / owner_mark(ADA.tenant, ADA.user)).exists()
        await office.close()
        return held

    assert await found(tmp_path / "sealed", KeySeal) == []
    # The control: a node that does not seal is noticed.
    assert len(await found(tmp_path / "open", PlainSeal)) == 2


async def test_a_desk_writes_for_owners_and_keeps_what_ran_elsewhere(tmp_path: Path, engine: OnnxTextEngine) -> None:
    shelve(tmp_path, slashed(read_decoder(model())))
    office = await open_office(tmp_path, engine)
    sent: list[m.Event] = []

    async def send(event: m.Event) -> None:
        sent.append(event)

    desk = Desk(engine, UnmeasuredMeter(), inventory=load_inventory(None, (EXPERT,)), send=send, personal_texts=office)
    question, everybodys, _ = dates(1, seed=3)[0]
    for number, owner in ((1, ADA), (2, None)):
        request = m.TextRequest((("user", question),), 16, None, None, None)
        desk.take(m.Work(number, f"w{number}", EXPERT, "fp16", 5_000.0, 0.0, request, owner))
        assert await desk.finish(10.0)
    done = {event.work_id: event for event in sent if isinstance(event, m.WorkDone)}
    assert done[1].personal is not None
    assert (done[1].personal.by, " " in done[1].text) == ("local", False)
    assert (done[2].personal, done[2].text) == (None, everybodys)
    raw = m.RawTensor("question", "uint8", (len(question),), question.encode())
    desk.order(m.Keep("k0", ADA, EXPERT, (raw,)))
    assert await desk.finish(5.0)
    desk.order(m.PersonalOrder(7, ADA, "skills", "correct", "k0", "March/9"))
    assert await desk.finish(5.0)
    reports = [event for event in sent if isinstance(event, m.PersonalReport)]
    assert [(report.reason, report.status.corrections) for report in reports] == [("", 1)]
    await office.close()


@NEEDS_TORCH
async def test_a_users_own_format_is_learned_judged_served_and_forgotten(
    tmp_path: Path, engine: OnnxTextEngine
) -> None:
    """Sixty corrections; then held-out questions in the user's words, and everybody's questions as before."""
    office = await open_office(tmp_path, engine)
    for number, (question, _, wanted) in enumerate(dates(60, seed=1)):
        await ask(office, question, f"q{number}")
        assert (await correct(office, f"q{number}", wanted)).reason == ""
    await office.settled()
    await office.close()
    office = await open_office(tmp_path, engine, day_j=10_000.0)
    held = dates(40, seed=2)
    asked = [question for question, _, _ in held]
    before = await ask_all(office, asked, EVE)
    await office.follow(m.PersonalOrder(1, ADA, "skills", "train"))
    async with asyncio.timeout(300.0):
        await office.settled()
    status = (await office.follow(m.PersonalOrder(2, ADA, "skills", "status"))).status
    assert (status.tier, status.corrections) == ("delta", 60)
    assert status.local_fraction > status.global_fraction
    assert status.generic_drop_fraction <= 0.001
    after = await ask_all(office, asked)
    gained = [is_right(text, wanted) for (text, _), (_, _, wanted) in zip(after, held, strict=True)]
    assert not any(is_right(text, wanted) for (text, _), (_, _, wanted) in zip(before, held, strict=True))
    assert np.mean(gained) > 0.5
    generic = load_text_catalog().test[:120]
    theirs, mine = [await ask_all(office, [one.prompt for one in generic], owner) for owner in (EVE, ADA)]
    lost = sum(
        is_right(plain, one.answer) and not is_right(own, one.answer)
        for (plain, _), (own, _), one in zip(theirs, mine, generic, strict=True)
    )
    assert lost <= 1
    assert (await office.follow(m.PersonalOrder(3, ADA, "skills", "forget"))).status.state == "forgotten"
    assert [await ask(office, question, "f") for question, _, _ in held[:5]] == before[:5]
    await office.close()
