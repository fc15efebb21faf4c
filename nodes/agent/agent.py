"""The agent: loads and measures its arms once, then keeps a session with each of its gateways until it is drained."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace

import grpc.aio
import structlog

from nodes.agent import messages as m
from nodes.agent.channel import open_channel
from nodes.agent.desk import Desk
from nodes.agent.link import Link, Way
from nodes.agent.links import Links
from nodes.agent.parts import Parts, build_parts
from nodes.agent.session import Session
from nodes.agent.sleep import offer_of, suspender_of
from nodes.agent.tally import Tally
from nodes.agent.wire import FleetStream
from nodes.arms import ArmProfile, Residency, Tensors
from nodes.artifacts.fetching import StreamGone
from nodes.compile.later import Place, compiled_beside, spoilt
from nodes.config import CompileWhen, NodeConfig
from nodes.energy.profile import profile_idle_w
from nodes.engines.contract import Engine
from nodes.errors import EnergySourceMissing
from nodes.identity.keeper import Keeper
from nodes.profiling import profile_arms
from nodes.version import software_version

DRAIN_TIMEOUT_S = 10.0
# How long a moment without work is waited for; a renewed certificate has hours for that.
QUIET_S = 600.0
# How often joules of a late sensor are attributed.
SETTLE_S = 2.0

log = structlog.get_logger("nodes.agent")


class Agent:
    """One node. `prepare`, then `run`; `close` in any case.

    Args:
        config: Checked settings.
        parts: Engine, energy source and inventory; None makes them from the settings.
        dial: Opens a channel to HOST:PORT; None takes the usual way, with the identity where there is one.
        rng: Jitter of the back-off.
    """

    def __init__(
        self,
        config: NodeConfig,
        parts: Parts | None = None,
        *,
        dial: Callable[[str], grpc.aio.Channel] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._config = config
        self._parts = parts or build_parts(config)
        self._keeper = None if config.identity is None else Keeper(config.identity)
        way = Way(
            dial=dial or (self._keeper.dial if self._keeper else open_channel),
            key=config.key,
            keeper=self._keeper,
            # Jitter needs no secrecy.
            rng=rng or random.Random(),  # noqa: S311
            suspender=suspender_of(config),
        )
        self._links = Links(config.gateways, lambda target: Link(target, way, self._make_session, self._session_ended))
        self._profiles: dict[str, ArmProfile] = {}
        self._lost: set[str] = set()
        self._idle_seen_j = 0.0
        self._tally = Tally()
        self._tasks: set[asyncio.Task[None]] = set()
        self._compiling = asyncio.Lock()
        self._sleep_offer = offer_of(config, profile_idle_w(config.profile))

    @property
    def engine(self) -> Engine:
        """The engine that runs this node's arms."""
        return self._parts.engine

    async def prepare(self) -> None:
        """Start the engine and measure every arm. Takes about `profiling_s` per arm.

        Raises:
            EngineError: if the engine does not start or an arm does not load or run.
        """
        parts = self._parts
        parts.engine.events.on_arms_lost = self._arms_lost
        parts.engine.events.on_arms_back = self._arms_back
        if parts.resident is not None:
            parts.resident.on_change = self._residency_changed
        parts.energy.start()
        await parts.engine.load(parts.inventory.arms)
        for office in parts.offices:
            await office.prepare()
        if parts.measure is not None:
            self._profiles = await parts.measure(parts.engine, parts.energy.meter, parts.inventory)
        else:
            self._profiles = await profile_arms(
                parts.engine, parts.energy.meter, parts.inventory, seconds_per_arm=self._config.profiling_s
            )
        if parts.models is not None:
            parts.models.changed, parts.models.send = self._announce, self._tell
            await parts.models.prepare()
        log.info(
            "ready",
            node=self._config.name,
            identity=None if self._config.identity is None else str(self._config.identity),
            device=parts.energy.device + (" (simulated)" if parts.energy.simulated else ""),
            arms=len(parts.inventory.arms),
            energy=parts.energy.meter.method,
            energy_provenance=parts.energy.meter.provenance.value,
            why=parts.energy.why,
        )
        if parts.energy.problem:
            log.warning("a better energy source cannot be used", why=parts.energy.problem, cure=parts.energy.cure)

    async def run(self) -> None:
        """Serve all gateways until drained; dials again for as long as it takes.

        Raises:
            SessionRejected: if no gateway is left that does not refuse this node for good.
            IdentityProblem: if no gateway is left with which TLS can come about.
        """
        beside = [asyncio.ensure_future(self._settle_forever())]
        if self._config.compile and self._config.compile_when is CompileWhen.BESIDE:
            self._spawn(self._compile_beside())
        if self._keeper is not None:
            beside.append(asyncio.ensure_future(self._keeper.keep_fresh(self._links.first, self._come_again)))
        try:
            await self._links.run()
        finally:
            for task in (beside := [*beside, *self._tasks]):
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        log.info("left", node=self._config.name, **self._tally.summary())

    async def _compile_beside(self) -> None:
        """Offer compiled arms as soon as they are made and measured; without them the node goes on as it is."""
        async with self._compiling:
            parts = self._parts
            place = Place(parts.engine, parts.energy.meter)
            grown = await compiled_beside(self._config, parts.inventory, place, lost=self._lost)
            self._parts, self._profiles = replace(parts, inventory=grown.inventory), self._profiles | grown.profiles
            self._lost -= set(grown.profiles)
        if grown.profiles:
            await self._come_again("compiled arms")

    async def _come_again(self, why: str = "certificate renewed") -> None:
        """Connect anew with what has changed, at a moment when nothing runs if there is one."""
        engine, until_s = self._parts.engine, time.monotonic() + QUIET_S
        while engine.running + engine.queued and time.monotonic() < until_s:  # noqa: ASYNC110 (nothing announces it)
            await asyncio.sleep(0.05)
        self._links.come_again(why, timeout_s=DRAIN_TIMEOUT_S)

    def drain(self, reason: str, *, timeout_s: float = DRAIN_TIMEOUT_S) -> None:
        """Finish what runs, take nothing new; `run` returns then."""
        self._links.drain(reason, timeout_s=timeout_s)

    async def close(self) -> None:
        """Stop the engine and the sampling of its energy."""
        self._parts.energy.stop()
        for office in self._parts.offices:
            await office.close()
        if self._parts.models is not None:
            await self._parts.models.close()
        await self._parts.engine.close()

    async def _settle_forever(self) -> None:
        """Attribute what a late sensor has shown since, off the event loop, and pass it on."""
        while True:
            await asyncio.sleep(SETTLE_S)
            try:
                settlements = await asyncio.to_thread(self._parts.energy.meter.settle)
            except EnergySourceMissing as missing:
                log.error("energy source lost", why=missing.message)
                continue
            for session in self._links.joined() if settlements else ():
                # Each knows its own work among them.
                await session.settled(settlements)

    def _make_session(self, link: Link, stream: FleetStream) -> Session:
        models = self._parts.models
        return Session(
            stream,
            hello=self._hello(link),
            evidence=self._evidence,
            make_desk=self._make_desk,
            beat=lambda: self._beat(link),
            told=self._links.told,
            models=models.take if models is not None and self._is_first(link) else None,
        )

    def _evidence(self, digest: str) -> Tensors | None:
        models = self._parts.models
        found = self._parts.inventory.evidence.get(digest)
        return models.evidence(digest) if found is None and models is not None else found

    def _make_desk(self, send: Callable[[m.Event], Awaitable[None]]) -> Desk:
        parts = self._parts
        return Desk(
            parts.engine,
            parts.energy.meter,
            inventory=parts.inventory,
            send=self._tally.counting(send),
            profiles=self._profiles,
            personal=parts.personal,
            personal_texts=parts.personal_texts,
            pushed=None if parts.models is None else parts.models.arms,
            resident=parts.resident,
        )

    def _beat(self, link: Link) -> m.Heartbeat:
        engine = self._parts.engine
        energy = self._parts.energy
        # Idle joules are told once: what came since any gateway was told goes to the one that is told now.
        idle_j = float(getattr(energy.meter, "idle_j", 0.0))
        link.idle_j += idle_j - self._idle_seen_j
        self._idle_seen_j = idle_j
        return m.Heartbeat(engine.running, engine.queued, engine.restarts, energy.signals(), link.idle_j)

    def _is_first(self, link: Link) -> bool:
        """Models are taken from one gateway only: two would each want what the other has not."""
        return link.target == self._links.first

    def _session_ended(self, link: Link) -> None:
        if self._parts.models is not None and self._is_first(link):
            self._parts.models.session_ended()

    def _hello(self, link: Link) -> m.Hello:
        parts, config = self._parts, self._config
        return m.Hello(
            node=config.name,
            software_version=software_version(),
            device=parts.energy.device,
            simulated=parts.energy.simulated,
            energy_method=parts.energy.meter.method,
            energy_provenance=parts.energy.meter.provenance,
            tasks=parts.inventory.tasks,
            arms=self._offer(),
            concurrency=config.concurrency,
            queue_limit=config.queue_limit,
            memory_limit_bytes=config.memory_limit_bytes,
            energy_source=m.SourceReport(
                rate_hz=parts.energy.rate_hz,
                why=parts.energy.why,
                problem=parts.energy.problem,
                cure=parts.energy.cure,
                profile_digest=parts.energy.digest,
            ),
            personal_experts=tuple(office.arm.expert for office in parts.offices),
            sleep=self._sleep_offer,
            relays_wake=config.relay_wake,
            accepts_models=parts.models is not None and self._is_first(link),
            model_digests=() if parts.models is None else parts.models.digests,
        )

    def _offer(self) -> tuple[m.OfferedArm, ...]:
        arms = (arm for arm in self._parts.inventory.arms if arm.key not in self._lost)
        resident = self._parts.resident
        known = (lambda _key: None) if resident is None else resident.residency
        own = tuple(m.OfferedArm(arm, self._profiles.get(arm.key), known(arm.key)) for arm in arms)
        return own if self._parts.models is None else own + self._parts.models.offers

    def _arms_lost(self, arms: Sequence[str]) -> None:
        self._lost.update(arms)
        self._spawn(self._announce())
        if spoilt(self._parts.inventory, arms):
            self._spawn(self._compile_beside())

    def _arms_back(self, arms: Sequence[str]) -> None:
        self._lost.difference_update(arms)
        self._spawn(self._announce())

    def _residency_changed(self, key: str, residency: Residency) -> None:
        expert, _, variant = key.partition(":")
        self._spawn(self._tell_all(m.ResidencyChanged(expert, variant, residency)))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _announce(self) -> None:
        """Tell the gateways what is offered from now on; a later session says it in its hello."""
        for session in self._links.joined():
            await session.announce(self._offer())

    async def _tell_all(self, event: m.Event) -> None:
        for session in self._links.joined():
            await session.tell(event)

    async def _tell(self, event: m.Event) -> None:
        session = self._links.joined_first()
        if session is None or not await session.tell(event):
            raise StreamGone
