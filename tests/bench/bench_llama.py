"""llama.cpp against the node's own engine: the same experts, the same questions, greedy; how often are answers equal?

Wants a llama-server, EDGEWISE_LLAMA_SERVER or on the search path (`deploy/llama.py` builds one); without one: not run.
Both engines are the node's own classes, asked one question after the other. Milliseconds are one engine's right after
the other's for every question, so that whatever else the machine does meets both.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import numpy as np

from nodes.engines.contract import Engine, TextEnd, TextJob
from nodes.engines.llama.child import LlamaCommand
from nodes.engines.llama.engine import LlamaEngine
from nodes.engines.llama.parts import PROGRAM, llama_inventory, parse_gguf
from nodes.engines.onnx_lm import SERVE, OnnxTextEngine
from nodes.engines.process import WorkerCommand
from nodes.inventory import load_inventory
from nodes.zoo.language.catalog import load_text_catalog
from nodes.zoo.language.gguf_export import export_gguf
from nodes.zoo.language.vocabulary import shipped_tokenizer
from nodes.zoo.skills.checking import is_right
from nodes.zoo.skills.skill import Question
from tests.bench.harness import NOT_RUN, Bar, Row, main

EXPERTS = ("skills-dates", "skills-arithmetic", "skills-strings", "skills-general")
EVERY = 5
MAX_TOKENS = 48
BARS = (
    Bar("answers_equal_fraction", 0.99, ">="),
    Bar("questions_cut_alike_fraction", 1.0, ">="),
)


def run() -> list[Row]:
    """All figures. Cost: about two minutes of one core."""
    given = os.environ.get("EDGEWISE_LLAMA_SERVER") or shutil.which(PROGRAM)
    if not given:
        print("not run: no llama-server; set EDGEWISE_LLAMA_SERVER or build one with deploy/llama.py")
        raise SystemExit(NOT_RUN)
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_compare(Path(given), Path(folder)))


async def _compare(server: Path, folder: Path) -> list[Row]:
    catalog = load_text_catalog()
    cards = [card for card in catalog.experts if card.name in EXPERTS]
    files = [export_gguf(catalog.model_path(card), folder / f"{card.name}.gguf", name=card.name) for card in cards]
    arms = llama_inventory([parse_gguf(str(one.path), 0) for one in files], "skills").arms
    commands = {
        arm.key: LlamaCommand(server, one.path, arm.expert, arm.text.context_tokens if arm.text else 512, slots=1)
        for arm, one in zip(arms, files, strict=True)
    }
    llama = LlamaEngine(commands, queue_limit=1)
    ours = OnnxTextEngine(WorkerCommand(Path(sys.executable), 1, SERVE))
    sizes = {"version": _version(server), "stored": "float16", "max_tokens": MAX_TOKENS}
    try:
        started_s = time.perf_counter()
        await llama.load(arms)
        loading_ms = (time.perf_counter() - started_s) * 1e3 / len(arms)
        await ours.load(load_inventory(None, EXPERTS).arms)
        rows = [Row("llama_load_ms", loading_ms, "ms", {**sizes, "models": len(arms)})]
        rows.append(_cut_alike(llama, arms[0].key, [question.prompt for question in catalog.test]))
        return rows + await _answers(llama, ours, catalog.test[::EVERY], sizes)
    finally:
        await llama.close()
        await ours.close()


async def _answers(llama: Engine, ours: Engine, questions: Sequence[Question], sizes: dict[str, object]) -> list[Row]:
    rows, all_equal = [], 0
    for expert in EXPERTS:
        equal, right, ms = 0, [0, 0], ([], [])  # type: int, list[int], tuple[list[float], list[float]]
        for question in questions:
            both = []
            for which, (engine, key) in enumerate(((llama, f"{expert}:gguf"), (ours, f"{expert}:fp16"))):
                text, taken_ms = await _answer(engine, key, question.prompt)
                both.append(text)
                ms[which].append(taken_ms)
                right[which] += is_right(text, question.answer)
            equal += both[0] == both[1]
        all_equal += equal
        told = {**sizes, "expert": expert, "questions": len(questions)}
        rows.append(Row("expert_answers_equal_fraction", equal / len(questions), "fraction", told))
        for which, engine_name in enumerate(("llama", "onnx")):
            rows.append(Row(f"{engine_name}_right_fraction", right[which] / len(questions), "fraction", told))
            rows.append(Row(f"{engine_name}_text_ms", float(np.median(ms[which])), "ms", told))
    told = {**sizes, "questions": len(questions) * len(EXPERTS)}
    return [*rows, Row("answers_equal_fraction", all_equal / (len(questions) * len(EXPERTS)), "fraction", told)]


async def _answer(engine: Engine, arm: str, question: str) -> tuple[str, float]:
    job = TextJob(arm, (("user", question),), max_tokens=MAX_TOKENS, temperature=0.0)
    started_s, text = time.perf_counter(), ""
    async with aclosing(engine.generate(job)) as pieces:
        async for piece in pieces:
            text += "" if isinstance(piece, TextEnd) else piece.text
    return text, (time.perf_counter() - started_s) * 1e3


def _cut_alike(llama: LlamaEngine, key: str, texts: Sequence[str]) -> Row:
    """How many questions llama.cpp cuts into the very tokens that the experts learned."""
    address = llama._serving[key][0].server.address
    tokenizer, alike = shipped_tokenizer(), 0
    for text in texts:
        body = json.dumps({"content": text, "add_special": False, "parse_special": False}).encode()
        request = urllib.request.Request(address.url.replace("/v1", "/tokenize"), body, address.headers())
        with urllib.request.urlopen(request, timeout=10.0) as reply:
            alike += json.load(reply)["tokens"] == tokenizer.encode(text)
    return Row("questions_cut_alike_fraction", alike / len(texts), "fraction", {"questions": len(texts)})


def _version(server: Path) -> str:
    done = subprocess.run([server, "--version"], capture_output=True, text=True, check=False)
    return next((line for line in (done.stderr + done.stdout).splitlines() if line.startswith("version")), "unknown")


if __name__ == "__main__":
    main(stem="llama", run=run, bars=BARS)
