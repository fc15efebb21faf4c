"""Turns catalogues of experts into what this node offers: the only place that knows the catalogues' cards."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
from numpy.typing import NDArray

from kernels.native.library import available as kernels_built
from nodes.arms import SINGLE_TURN, ArmSpec, Inventory, TaskSpec, TensorSpec, TextTraits
from nodes.engines.contract import BYTES, MIXTURE, TURNS
from nodes.errors import ConfigError
from nodes.worker.text.middle import middle_of
from nodes.zoo.catalog import Catalog, CatalogError, ExpertCard, TensorCard, load_catalog
from nodes.zoo.digest import tensor_digest
from nodes.zoo.language.cards import TextExpertCard
from nodes.zoo.language.catalog import TASK_FILE, TextCatalog, load_text_catalog

Evidence = dict[str, dict[str, NDArray[Any]]]

CHAIN = "chain"

log = structlog.get_logger("nodes.inventory")


def load_inventory(folder: Path | None, experts: Sequence[str]) -> Inventory:
    """The experts named, or all of the catalogue where none is named.

    Args:
        folder: Folder of experts of one task; None for all that ship.

    Raises:
        ConfigError: if a catalogue is damaged or an expert is in none; the text says what to do.
    """
    try:
        catalogs = read_catalogs(folder)
        _check_names(experts, [card.name for catalog in catalogs for card in catalog.experts])
        return _joined([_inventory(catalog, frozenset(experts)) for catalog in catalogs])
    except CatalogError as error:
        raise ConfigError(str(error)) from error


def runnable(cards: Sequence[ExpertCard]) -> list[ExpertCard]:
    """Those of all experts that this machine can run: chains need the compiled kernels. An expert that is named is
    never left out; it fails to load, and says why."""
    if kernels_built():
        return list(cards)
    left_out = [card.name for card in cards if card.engine == CHAIN]
    if left_out:
        log.warning("experts left out", experts=left_out, why="the compiled kernels are not built on this machine")
    return [card for card in cards if card.engine != CHAIN]


def check_memory(inventory: Inventory, limit_bytes: int) -> None:
    """Refuse experts that do not fit into memory together; a limit of 0 is none.

    Raises:
        ConfigError: names every expert's bytes.
    """
    needed_bytes = sum(arm.memory_bytes for arm in inventory.arms)
    if 0 < limit_bytes < needed_bytes:
        sizes = ", ".join(f"{arm.expert} {arm.memory_bytes}" for arm in inventory.arms)
        raise ConfigError(
            f"--memory-limit: the experts take {needed_bytes} bytes together, more than {limit_bytes};"
            f" choose some with --experts ({sizes}), or have them take turns with --memory-budget"
        )


def read_catalogs(folder: Path | None) -> list[Catalog | TextCatalog]:
    """The catalogue in a folder; all that ship where none is named.

    Raises:
        CatalogError: One is damaged.
    """
    if folder is None:
        return [load_catalog(), load_text_catalog()]
    return [load_text_catalog(folder) if _is_of_texts(folder) else load_catalog(folder)]


def _is_of_texts(folder: Path) -> bool:
    try:
        task = json.loads((folder / TASK_FILE).read_bytes())
    except (OSError, ValueError):
        return False  # Whoever reads it as a task of tensors says what is wrong with it.
    return isinstance(task, dict) and task.get("text") is True


def _check_names(experts: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in experts if name not in known]
    if unknown:
        raise CatalogError(f"No expert {unknown[0]!r}. Known are: {', '.join(known)}.")


def _joined(inventories: Sequence[Inventory]) -> Inventory:
    used = [inventory for inventory in inventories if inventory.arms]
    return Inventory(
        tuple(task for inventory in used for task in inventory.tasks),
        tuple(arm for inventory in used for arm in inventory.arms),
        {digest: tensors for inventory in used for digest, tensors in inventory.evidence.items()},
    )


def _inventory(catalog: Catalog | TextCatalog, names: Collection[str]) -> Inventory:
    evidence: Evidence = {}
    if isinstance(catalog, TextCatalog):
        task = TaskSpec(catalog.task.name, reference_digest=_kept(evidence, dict(catalog.reference)), text=True)
        arms = [
            _text_arm(catalog, card, _kept(evidence, catalog.evidence_tensors(card)))
            for card in catalog.experts
            if not names or card.name in names
        ]
    else:
        task = _tensor_task(catalog, _kept(evidence, catalog.reference.tensors))
        cards = [card for card in catalog.experts if card.name in names] if names else runnable(catalog.experts)
        arms = [_tensor_arm(catalog, card, _kept(evidence, catalog.evidence_tensors(card))) for card in cards]
    return Inventory((task,), tuple(arms), evidence)


def _kept(evidence: Evidence, tensors: dict[str, NDArray[Any]]) -> str:
    digest = tensor_digest(tensors)
    evidence[digest] = tensors
    return digest


def _tensor_task(catalog: Catalog, reference_digest: str) -> TaskSpec:
    card = catalog.task
    return TaskSpec(card.name, _spec(card.input), _spec(card.output), tuple(card.labels), reference_digest)


def _spec(card: TensorCard) -> TensorSpec:
    return TensorSpec(card.name, card.dtype, tuple(card.shape))


def _tensor_arm(catalog: Catalog, card: ExpertCard, evidence_digest: str) -> ArmSpec:
    return _arm(card, catalog.model_path(card), evidence_digest, quality_fraction=card.quality.accuracy_fraction)


def _text_arm(catalog: TextCatalog, card: TextExpertCard, evidence_digest: str) -> ArmSpec:
    traits = TextTraits(
        context_tokens=card.context_tokens,
        completion_tokens=card.completion_tokens,
        completion_p95_tokens=card.completion_p95_tokens,
        tokenizer_digest=card.tokenizer_digest,
        # A mixture writes alone: its members take the turns.
        capabilities=(
            "logprobs",
            SINGLE_TURN,
            *((MIXTURE,) if card.learned is None else (TURNS, BYTES)),
            *_vectors(catalog, card),
        ),
    )
    arm = _arm(card, catalog.model_path(card), evidence_digest, quality_fraction=card.quality.right_fraction)
    return replace(arm, text=traits)


def _vectors(catalog: TextCatalog, card: TextExpertCard) -> tuple[str, ...]:
    """What a model says that makes embeddings beside texts: only one that has learned every kind of question tells them
    apart better than the words that are in them (`tests/bench/bench_embeddings.py`)."""
    if card.learned is None or set(catalog.task.suites) - set(card.learned.suites):
        return ()
    if middle_of(catalog.model_path(card).read_bytes()) is None:
        return ()
    return ("chat", "embeddings", f"embeddings:{card.recipe['width']}")


def _arm(card: ExpertCard | TextExpertCard, file: Path, evidence_digest: str, *, quality_fraction: float) -> ArmSpec:
    return ArmSpec(
        expert=card.name,
        variant=card.variant,
        task=card.task,
        engine=card.engine,
        macs=card.macs,
        memory_bytes=card.memory_bytes,
        quality_fraction=quality_fraction,
        quality_samples=card.quality.samples,
        model_file=file,
        model_digest=card.sha256,
        evidence_digest=evidence_digest,
    )
