"""Turns the catalogue of experts into what this node offers: the only place that knows the catalogue's cards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import structlog

from kernels.native.library import available as kernels_built
from nodes.arms import ArmSpec, Inventory, TaskSpec, Tensors, TensorSpec
from nodes.errors import ConfigError
from nodes.zoo.catalog import Catalog, CatalogError, ExpertCard, TensorCard, load_catalog
from nodes.zoo.digest import tensor_digest

CHAIN = "chain"

log = structlog.get_logger("nodes.inventory")


def load_inventory(folder: Path | None, experts: Sequence[str]) -> Inventory:
    """The experts named, or all of the catalogue where none is named.

    Args:
        folder: Folder of experts; None for the ones that ship.

    Raises:
        ConfigError: if the catalogue is damaged or an expert is not in it; the text says what to do.
    """
    try:
        catalog = load_catalog(folder)
        cards = [catalog.expert(name) for name in dict.fromkeys(experts)] or runnable(catalog.experts)
        return _inventory(catalog, cards)
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


def _inventory(catalog: Catalog, cards: Sequence[ExpertCard]) -> Inventory:
    evidence: dict[str, Tensors] = {}
    reference = catalog.reference.tensors
    reference_digest = tensor_digest(reference)
    evidence[reference_digest] = reference
    arms = []
    for card in cards:
        answers = catalog.evidence_tensors(card)
        digest = tensor_digest(answers)
        evidence[digest] = answers
        arms.append(_arm(catalog, card, digest))
    return Inventory((_task(catalog, reference_digest),), tuple(arms), evidence)


def _task(catalog: Catalog, reference_digest: str) -> TaskSpec:
    card = catalog.task
    return TaskSpec(card.name, _spec(card.input), _spec(card.output), tuple(card.labels), reference_digest)


def _spec(card: TensorCard) -> TensorSpec:
    return TensorSpec(card.name, card.dtype, tuple(card.shape))


def _arm(catalog: Catalog, card: ExpertCard, evidence_digest: str) -> ArmSpec:
    return ArmSpec(
        expert=card.name,
        variant=card.variant,
        task=card.task,
        engine=card.engine,
        macs=card.macs,
        memory_bytes=card.memory_bytes,
        quality_fraction=card.quality.accuracy_fraction,
        quality_samples=card.quality.samples,
        model_file=catalog.model_path(card),
        model_digest=card.sha256,
        evidence_digest=evidence_digest,
    )
