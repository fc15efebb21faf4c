"""Keeps the node's pushed models as the gateway wants them: fetches, checks, tries, measures, offers, lets go.

One model at a time, in a task of its own. Whatever is wrong with one is told with its reason and leaves the others, the
node's own arms and the agent as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from nodes.agent import messages as m
from nodes.arms import ArmProfile, ArmSpec, Inventory, TaskSpec, Tensors
from nodes.artifacts.fetching import Fetcher, StreamGone
from nodes.artifacts.inspection import Inspected, inspect
from nodes.artifacts.manifest import Manifest, check
from nodes.artifacts.rehearsal import Cage, rehearse, staged
from nodes.artifacts.store import ModelStore
from nodes.energy.contract import Meter
from nodes.engines.contract import EngineState
from nodes.engines.guests import EngineWithGuests
from nodes.errors import ArtifactRefused, NodeError
from nodes.profiling import profile_arms, sample
from nodes.worker.lockdown import Protections, probe
from nodes.zoo.digest import tensor_digest

# How long the process of guests may take to come back.
READY_S = 30.0

log = structlog.get_logger("nodes.models")


@dataclass(frozen=True)
class Served:
    """A model that is loaded and offered."""

    manifest: Manifest
    arm: ArmSpec
    profile: ArmProfile
    evidence: Tensors | None


async def _nobody() -> None:
    return None


class ModelKeeper:
    """Models that were pushed to this node.

    Args:
        store: Their files.
        engine: Where they run.
        inventory: The node's own tasks and arms.
        meter: Measures what they cost.
        cage: What they may take.
        profiling_s: How long one is measured.
        protections: What this kernel offers; None asks it.
    """

    def __init__(
        self,
        store: ModelStore,
        engine: EngineWithGuests,
        inventory: Inventory,
        *,
        meter: Meter,
        cage: Cage,
        profiling_s: float,
        protections: Protections | None = None,
    ) -> None:
        self.engine = engine
        self.arms: dict[str, ArmSpec] = {}
        self.changed: Callable[[], Awaitable[None]] = _nobody
        self.send: Callable[[m.Event], Awaitable[None]] = self._no_session
        self._store = store
        self._inventory = inventory
        self._meter = meter
        self._cage = cage
        self._profiling_s = profiling_s
        self._protections = protections or probe()
        self._served: dict[str, Served] = {}
        self._started = False
        self._fetcher = Fetcher(store, lambda event: self.send(event))
        self._wanted: Sequence[Manifest] | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._beside: set[asyncio.Task[None]] = set()
        engine.guests.events.on_arms_lost = self._lost

    # ---- what the agent asks

    async def prepare(self) -> None:
        """Serve what is installed. One that does not work any more is left out and told about later."""
        for manifest in await asyncio.to_thread(self._store.installed):
            try:
                self._check_here(manifest)
                found = await asyncio.to_thread(inspect, manifest, self._store.mapped)
                await self._serve(found)
            except NodeError as error:
                log.error("installed model left out", model=manifest.name, why=error.message)
        self._task = asyncio.get_running_loop().create_task(self._follow())

    @property
    def digests(self) -> tuple[str, ...]:
        """Of the manifests of all models that are served."""
        return tuple(served.manifest.digest for served in self._served.values())

    @property
    def offers(self) -> tuple[m.OfferedArm, ...]:
        """All arms that were pushed, with what they cost here."""
        return tuple(m.OfferedArm(served.arm, served.profile) for served in self._served.values())

    def evidence(self, digest: str) -> Tensors | None:
        """Evidence that came with a model."""
        found = (served.evidence for served in self._served.values() if served.arm.evidence_digest == digest)
        return next(found, None)

    def take(self, command: m.ModelsWanted | m.ModelChunk) -> None:
        """Something came over the stream."""
        if isinstance(command, m.ModelChunk):
            self._fetcher.take(command)
        else:
            self._wanted = command.models
            self._wake.set()

    def session_ended(self) -> None:
        """The stream is gone; what was on its way goes on with the next one."""
        self._fetcher.break_off()

    async def close(self) -> None:
        """Stop fetching. The engine is closed by its owner."""
        tasks = [*self._beside, *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- following the gateway

    async def _no_session(self, _event: m.Event) -> None:
        raise StreamGone

    async def _follow(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._reconcile(self._wanted or ())
            except StreamGone:
                log.info("models wait for the gateway")
            except Exception:  # The rim: whatever one push does, the next one is taken.
                log.exception("models not reconciled")

    async def _reconcile(self, wanted: Sequence[Manifest]) -> None:
        names = {manifest.name for manifest in wanted}
        for served in [one for name, one in self._served.items() if name not in names]:
            await self._let_go(served)
        for manifest in wanted:
            if self._wake.is_set():
                return  # The gateway has changed its mind meanwhile.
            served_now = self._served.get(manifest.name)
            if served_now is not None and served_now.manifest.digest == manifest.digest:
                await self._report(manifest, "serving", received_bytes=manifest.size_bytes)
            else:
                await self._install_or_refuse(manifest, wanted)

    async def _install_or_refuse(self, manifest: Manifest, wanted: Sequence[Manifest]) -> None:
        digest = manifest.digest
        try:
            if (refused := await asyncio.to_thread(self._store.refusal, digest)) is not None:
                raise refused
            await self._install(manifest, wanted)
        except ArtifactRefused as error:
            log.warning("model refused", model=manifest.name[:64], reason=error.reason, why=error.message)
            await self._report(manifest, "refused", refused=error)
        except (NodeError, OSError) as error:  # A time-out is an OSError.
            log.error("model failed", model=manifest.name, why=str(error))
            refusal = ArtifactRefused("MODEL_FAILED", "The node could not take the model; its log says why.")
            await self._report(manifest, "failed", refused=refusal)

    async def _install(self, manifest: Manifest, wanted: Sequence[Manifest]) -> None:
        self._check_here(manifest)
        others = {file.sha256 for other in wanted for file in other.files}
        await asyncio.to_thread(self._store.make_room, manifest, besides=others)

        async def progress(received_bytes: int) -> None:
            await self._report(manifest, "fetching", received_bytes=received_bytes)

        await self._fetcher.fetch(manifest, progress)
        await self._report(manifest, "checking", received_bytes=manifest.size_bytes)
        try:
            found = await self._checked(manifest)
        except ArtifactRefused as error:
            # What is wrong with the model itself stays wrong: it is not tried again.
            await asyncio.to_thread(self._store.refuse, manifest.digest, error)
            raise
        served = await self._serve(found)
        await asyncio.to_thread(self._store.install, manifest)
        log.info("model installed", model=manifest.name, digest=manifest.digest[:12], arm=served.arm.key)
        await self._announce(served)
        await self._report(manifest, "serving", received_bytes=manifest.size_bytes)

    async def _checked(self, manifest: Manifest) -> Inspected:
        """Look through a model, then try it."""
        found = await asyncio.to_thread(inspect, manifest, self._store.mapped)
        task = self._task_of(manifest)
        self._check_evidence(found, task)
        inputs = sample(task, self._inventory.evidence)
        await rehearse(self._cage, staged(found, self._store.read), task, inputs)
        return found

    def _check_here(self, manifest: Manifest) -> None:
        """Whether this node takes such a model at all."""
        check(manifest)
        if self._cage.locked and not self._protections.enough:
            text = "This node's kernel cannot lock a stranger's model in; see --accept-models there."
            raise ArtifactRefused("SANDBOX_MISSING", text)
        self._task_of(manifest)
        if any(arm.expert == manifest.name for arm in self._inventory.arms):
            raise ArtifactRefused("MODEL_EXISTS", "The node has an expert of this name of its own; choose another.")

    def _task_of(self, manifest: Manifest) -> TaskSpec:
        found = next((task for task in self._inventory.tasks if task.name == manifest.task), None)
        if found is None or found.text:
            raise ArtifactRefused("TASK_NOT_FOUND", "The node serves no task of tensors of this name.")
        return found

    def _check_evidence(self, found: Inspected, task: TaskSpec) -> None:
        reference = self._inventory.evidence.get(task.reference_digest)
        if found.evidence is None or reference is None:
            return
        wanted = (len(reference["labels"]), len(task.labels))
        if found.evidence.shape != wanted:
            text = f"The evidence must hold {wanted[0]} answers of {wanted[1]} numbers, one for each reference sample."
            raise ArtifactRefused("ARTIFACT_INVALID", text)

    # ---- serving

    async def _serve(self, found: Inspected) -> Served:
        """Load a model beside the others, and measure it."""
        guests = self.engine.guests
        if not self._started:
            await guests.load(())
            self._started = True
        await self._until_ready()
        evidence = None if found.evidence is None else {"outputs": found.evidence}
        arm = _arm(found, evidence)
        before = self._served.get(found.manifest.name)
        await guests.attach_files(arm.key, found.model.sha256, staged(found, self._store.read))
        own = self._inventory
        profiles = await profile_arms(
            guests,
            self._meter,
            Inventory(own.tasks, (arm,), own.evidence),
            seconds_per_arm=self._profiling_s,
        )
        if before is not None and before.arm.key != arm.key:
            self._forget(before)
        served = self._served[found.manifest.name] = Served(found.manifest, arm, profiles[arm.key], evidence)
        self.arms[arm.key] = arm
        self.engine.guest_arms.add(arm.key)
        return served

    async def _until_ready(self) -> None:
        """Another guest may just have taken the process down."""
        async with asyncio.timeout(READY_S):
            while self.engine.guests.state is not EngineState.READY:  # noqa: ASYNC110 (nothing announces it)
                await asyncio.sleep(0.05)

    async def _announce(self, served: Served) -> None:
        await self.changed()
        if served.evidence is not None:
            await self._say(m.Evidence(served.arm.evidence_digest, served.evidence))

    def _forget(self, served: Served) -> None:
        self.engine.guests.detach(served.arm.key)
        self.engine.guest_arms.discard(served.arm.key)
        self.arms.pop(served.arm.key, None)

    async def _let_go(self, served: Served) -> None:
        del self._served[served.manifest.name]
        await self.changed()
        self._forget(served)
        await asyncio.to_thread(self._store.remove, served.manifest.name)
        log.info("model removed", model=served.manifest.name)

    def _lost(self, arms: Sequence[str]) -> None:
        """Models took their process down too often."""
        for served in [one for one in self._served.values() if one.arm.key in arms]:
            task = asyncio.get_running_loop().create_task(self._quarantine(served))
            self._beside.add(task)
            task.add_done_callback(self._beside.discard)

    async def _quarantine(self, served: Served) -> None:
        refused = ArtifactRefused("MODEL_FAILED", "The model took its engine process down again and again.")
        await asyncio.to_thread(self._store.refuse, served.manifest.digest, refused)
        if self._served.get(served.manifest.name) is served:
            await self._let_go(served)
        await self._report(served.manifest, "failed", refused=refused)

    # ---- telling

    async def _report(
        self, manifest: Manifest, state: str, *, received_bytes: int = 0, refused: ArtifactRefused | None = None
    ) -> None:
        why: dict[str, Any] = {"reason": refused.reason, "message": refused.message} if refused else {}
        await self._say(m.ModelReport(manifest.name, manifest.digest, state, received_bytes, **why))

    async def _say(self, event: m.Event) -> None:
        with contextlib.suppress(StreamGone):
            await self.send(event)


def _arm(found: Inspected, evidence: Tensors | None) -> ArmSpec:
    card = found.card
    return ArmSpec(
        expert=card.name,
        variant=card.variant,
        task=found.manifest.task,
        engine="onnx",
        macs=card.macs,
        memory_bytes=2 * found.manifest.size_bytes if card.memory_bytes is None else card.memory_bytes,
        quality_fraction=card.quality.accuracy_fraction,
        quality_samples=card.quality.samples,
        model_digest=found.model.sha256,
        evidence_digest="" if evidence is None else tensor_digest(evidence),
    )
