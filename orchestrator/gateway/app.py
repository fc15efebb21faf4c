"""The gateway process: build everything from one configuration, serve, drain on SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import structlog
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from edgewise.v1 import (
    accounts_pb2,
    accounts_pb2_grpc,
    admin_pb2,
    admin_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    gateway_pb2,
    gateway_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
)
from orchestrator import __version__, log
from orchestrator.admission import Admission
from orchestrator.artifacts.desk import ModelDesk
from orchestrator.artifacts.servicers import ModelsServicer
from orchestrator.budgets import Budgets
from orchestrator.config import GatewayConfig, is_loopback, split_address
from orchestrator.door.cache import AnswerCache
from orchestrator.door.server import HttpServer
from orchestrator.errors import EdgewiseError, ExitCode
from orchestrator.execution.attempt import Attempts
from orchestrator.fleet.arms import ArmBoard
from orchestrator.fleet.fleet import Change, Fleet
from orchestrator.fleet.latecomers import Latecomers
from orchestrator.gateway.account_servicers import AccountsServicer
from orchestrator.gateway.channel import server_options
from orchestrator.gateway.garbage import collect_in_slices
from orchestrator.gateway.guard import GuardedServer
from orchestrator.gateway.http import Guarded, http_app
from orchestrator.gateway.join import Joiner
from orchestrator.gateway.opening import keep_books, open_books, snapshots_of
from orchestrator.gateway.placement import Placement, Placements
from orchestrator.gateway.policy import Doorman
from orchestrator.gateway.ports import CannotListen, bind, nodes_server
from orchestrator.gateway.reload import Reloader
from orchestrator.gateway.service import Service
from orchestrator.gateway.servicers import AdminServicer, FleetServicer, GatewayServicer
from orchestrator.gateway.settings import configured_budgets, max_attempts, plan_limits
from orchestrator.gateway.sharer import Sharer
from orchestrator.gateway.till import Till, forgetful_ledger
from orchestrator.identity.handshakes import Handshakes
from orchestrator.identity.line import join_url, tell_how_to_join
from orchestrator.identity.servicers import IdentityServicer
from orchestrator.identity.witness import Closed
from orchestrator.journal import Journal
from orchestrator.ledger.keys import KeyRing
from orchestrator.metrics import Metrics
from orchestrator.outcomes import MIB, Outcomes
from orchestrator.pacing import Pacing
from orchestrator.personal.desk import PersonalDesk
from orchestrator.personal.homes import Homes
from orchestrator.planning.gate_files import GateFiles
from orchestrator.planning.planner import Planner
from orchestrator.planning.process import planning_process
from orchestrator.probing import Probing
from orchestrator.routing.fused import foreseen
from orchestrator.sleep.keeper import SleepKeeper
from orchestrator.sleep.register import SleepRegister
from orchestrator.sleep.vigil import Vigil
from orchestrator.store.errors import StoreError
from orchestrator.study.errors import StudyError

if TYPE_CHECKING:
    from orchestrator.identity.opening import Identity

events = structlog.get_logger("gateway")

DRAIN_S = 10.0
# How long a request over HTTP may take where it does not say.
MAX_HTTP_S = 600.0
SERVICES = tuple(f"edgewise.v1.{name}" for name in ("Gateway", "Admin", "Accounts", "Fleet", "Identity", "Models"))


@dataclass
class Gateway:
    """A gateway that is put together but not listening yet."""

    config: GatewayConfig
    service: Service
    joiner: Joiner
    planner: Planner
    keys: KeyRing
    models: ModelDesk
    reloader: Reloader
    vigil: Vigil
    sharer: Sharer
    identity: Identity | None = None


def build(
    config: GatewayConfig,
    *,
    executor: Callable[[], Executor] = planning_process,
    read: Callable[[], GatewayConfig] | None = None,
) -> Gateway:
    """Put a gateway together.

    Args:
        config: Everything that it can be told.
        read: Reads the configuration anew, see `Reloader`; None has it never change.
        executor: Makes where plans are made.

    Raises:
        RequestError: The file of set budgets cannot be read.
        IdentityError: The authority or what it knows of nodes cannot be read.
        StudyError: A gate file cannot be used.
    """
    promise, retries = config.promise, config.retries
    board = ArmBoard(
        energy_quantile=promise.energy_quantile,
        latency_quantile=promise.latency_quantile,
        margins=promise.margins,
    )
    latecomers = Latecomers(config.state_dir / "nodes.json")
    fleet = Fleet(board, lease_s=config.nodes.lease_s, latecomers=latecomers)
    metrics = Metrics()
    default, by_task, text = configured_budgets(config)
    budgets = Budgets(
        default,
        by_task,
        config.state_dir / "budgets.json",
        text=text,
        is_text=lambda name: name in fleet.tasks and fleet.tasks[name].text,
    )
    planner = Planner(
        fleet,
        limits=plan_limits(config),
        observe_s=metrics.planned,
        executor=executor,
        average_j=lambda task: budgets.long_run(task).average_energy_j,
        gates=GateFiles(config.gate.tasks),
    )
    till = Till(forgetful_ledger())
    outcomes = Outcomes(
        config.state_dir,
        features=config.feedback.features,
        limit_bytes=config.feedback.max_mib * MIB,
        foreseen=foreseen,
        learn=planner.fused.observe,
    )
    outcomes.learn_again()
    service = Service(
        fleet=fleet,
        planner=planner,
        budgets=budgets,
        pacing=Pacing(budgets, config.state_dir / "pacing.json"),
        probing=Probing(
            probe_fraction=config.guard.probe_fraction,
            tolerance=config.guard.tolerance_fraction,
            false_alarm_fraction=config.guard.false_alarm_fraction,
            file=config.state_dir / "guard.json",
        ),
        outcomes=outcomes,
        admission=Admission(max_running=config.admission.max_running, max_queued=config.admission.max_queued),
        attempts=Attempts(fleet, max_patience_s=retries.suspect_after_s, retries=retries.enabled),
        max_attempts=max_attempts(config),
        journal=Journal(config.explain.keep),
        metrics=metrics,
        max_experts=config.fusion.max_experts,
        personal=PersonalDesk(fleet, Homes(config.state_dir / "homes.json")),
        placements=Placements(
            {
                scope: Placement(frozenset(rule.allowed_nodes), frozenset(rule.required_tags))
                for scope, rule in config.auth.placement.items()
            }
        ),
        till=till,
        keeper=SleepKeeper(
            fleet,
            till,
            wake_commands=config.sleep.wake_commands,
            on_demand=config.sleep.on_demand,
            register=SleepRegister(config.state_dir / "asleep.json"),
        ),
    )
    joiner = Joiner(fleet, heartbeat_s=config.nodes.heartbeat_s, lease_s=config.nodes.lease_s, afterwards=service)
    joiner.gateways = config.nodes.gateways
    joiner.reported = service.personal.reported
    metrics.nodes_waiting = lambda: joiner.pace.waiting
    models = ModelDesk(fleet, config.state_dir / "models", limit_bytes=config.models.max_mib * MIB)
    joiner.models = models
    required = config.auth.keys == "required" or not config.on_loopback
    keys = KeyRing([], required=required, clock_unix_s=time.time)
    reloader = Reloader(config, service, read or (lambda: config))
    vigil = Vigil(fleet, planner, service.keeper, config.sleep)
    sharer = Sharer(fleet, planner, budgets=budgets, config=config.sharing, quotas=lambda: till.ledger.quotas)
    service.arrived += [vigil.arrivals.arrived, sharer.arrivals.arrived]
    return Gateway(config, service, joiner, planner, keys, models, reloader, vigil, sharer, _identity(config, fleet))


def _identity(config: GatewayConfig, fleet: Fleet) -> Identity | None:
    """The gateway's side of TLS; None where there is none, and then its packages are not needed either."""
    if not config.tls_on:
        return None
    from orchestrator.identity.opening import open_identity

    return open_identity(config, fleet)


@asynccontextmanager
async def listening(gateway: Gateway) -> AsyncIterator[str]:
    """Serve until the block ends; yields the gRPC address that is really listened on.

    Raises:
        CannotListen: An address cannot be had.
        StoreError: The books cannot be opened.
    """
    config, service = gateway.config, gateway.service
    doorman = Doorman(gateway.keys)
    server = grpc.aio.server(options=server_options(config.admission.max_message_bytes))
    deadline_s = config.admission.max_deadline_s
    instead = service.fleet.latecomers.instead
    guarded: Any = GuardedServer(server, max_deadline_s=deadline_s, admit=doorman.admit_call, instead=instead)
    gateway_pb2_grpc.add_GatewayServicer_to_server(GatewayServicer(service), guarded)
    admin_pb2_grpc.add_AdminServicer_to_server(AdminServicer(service, gateway.joiner, gateway.reloader), guarded)
    books = AccountsServicer(service.till, gateway.keys)
    accounts_pb2_grpc.add_AccountsServicer_to_server(books, guarded)
    models_pb2_grpc.add_ModelsServicer_to_server(ModelsServicer(gateway.models), guarded)
    # With TLS nodes have a port of their own.
    identity = gateway.identity
    fleet_pb2_grpc.add_FleetServicer_to_server(FleetServicer(gateway.joiner, Closed() if identity else None), guarded)
    identity_pb2_grpc.add_IdentityServicer_to_server(IdentityServicer(identity, join_url(config)), guarded)
    checks = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(checks, guarded)
    if is_loopback(config.listen):
        files = (gateway_pb2, admin_pb2, accounts_pb2, fleet_pb2, identity_pb2, models_pb2)
        names = [file.DESCRIPTOR.services_by_name for file in files]
        full = [service.full_name for services in names for service in services.values()]
        mirror = reflection.aio.ReflectionServicer([*full, reflection.SERVICE_NAME])  # type: ignore[attr-defined]
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(mirror, guarded)
    port = bind(server, config.listen, identity.for_clients() if identity else None)
    servers = [server, *([nodes_server(config, identity, gateway.joiner)] if identity else [])]
    http = _http_server(gateway, _http_listener(config.http_listen), doorman)
    await open_books(config, service.till, gateway.keys, metrics=service.metrics)
    service.fleet.latecomers.expect()
    for each in servers:
        await each.start()
    tasks = [asyncio.create_task(gateway.planner.run()), asyncio.create_task(gateway.joiner.sweep())]
    keeping = [asyncio.create_task(keep_books(service.till, gateway.keys))]
    keeping.append(asyncio.create_task(service.fleet.latecomers.run(service.fleet.sessions)))
    if (copying := snapshots_of(gateway)) is not None:
        keeping.append(asyncio.create_task(copying.run()))
    watching = gateway.planner.gates.watch(config.gate.check_s, gateway.planner.rebind)
    keeping.append(asyncio.create_task(watching))
    keeping += [asyncio.create_task(gateway.vigil.run()), asyncio.create_task(gateway.sharer.run())]
    if identity is not None:
        service.metrics.handshakes = identity.handshakes.counts
        keeping += [asyncio.create_task(identity.sentry.sweep()), asyncio.create_task(identity.follow())]
    await http.start()
    _follow_health(gateway, checks)
    try:
        yield f"{config.listen.rpartition(':')[0]}:{port}"
    finally:
        service.admission.closed = True
        await service.fleet.latecomers.close(service.fleet.sessions)
        await checks.enter_graceful_shutdown()
        await _drain(service)
        await asyncio.gather(*(each.stop(grace=1.0) for each in servers))
        service.publish()
        service.idle.write()
        service.pacing.keep(asyncio.get_running_loop().time(), force=True)
        service.probing.keep()
        await http.close()
        for task in [*keeping, *tasks]:
            task.cancel()
        await asyncio.gather(*tasks, *keeping, return_exceptions=True)
        await service.keeper.close()
        await service.till.ledger.close()


def _follow_health(gateway: Gateway, checks: Any) -> None:
    """Gateway calls are SERVING while some task has a plan; node streams and admin calls always are."""
    pending: set[asyncio.Task[None]] = set()
    told: list[bool] = []

    def update(_: Change | None = None) -> None:
        # A gateway whose nodes sleep wakes one for whoever comes.
        fleet, wakes = gateway.service.fleet, gateway.config.sleep.on_demand
        ready = any(gateway.planner.standing(task) for task in fleet.tasks) or bool(wakes and fleet.dormitory.sleepers)
        if told == [ready]:
            return
        told[:] = [ready]
        status = health_pb2.HealthCheckResponse.SERVING
        waiting = health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *SERVICES):
            serving = ready or name in SERVICES[1:]
            task = asyncio.ensure_future(checks.set(name, status if serving else waiting))
            pending.add(task)
            task.add_done_callback(pending.discard)

    gateway.service.fleet.subscribe(update)
    update()


def _http_listener(address: str) -> socket.socket:
    """The socket of the HTTP side, which listens already: an address that cannot be had is known before anything runs.

    Raises:
        CannotListen: The address is taken or not ours.
    """
    host, port = split_address(address)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise CannotListen(f"cannot listen on {address}: another process has it, or it is not ours") from error


def _http_server(gateway: Gateway, listener: socket.socket, doorman: Doorman) -> HttpServer:
    admission, identity = gateway.config.admission, gateway.identity
    limit_bytes, deadline_s = admission.max_message_bytes, min(MAX_HTTP_S, admission.max_deadline_s)
    wanted = gateway.config.cache
    cache = AnswerCache(max_bytes=wanted.max_bytes, ttl_s=wanted.ttl_s) if wanted.enabled else None
    app = http_app(gateway.service, identity=identity, limit_bytes=limit_bytes, max_deadline_s=deadline_s, cache=cache)
    return HttpServer(Guarded(app, doorman), listener, identity.for_http() if identity else None)


async def _drain(service: Service) -> None:
    """Let what runs finish, for a while."""
    try:
        async with asyncio.timeout(DRAIN_S):
            await service.admission.emptied()
    except TimeoutError:
        events.warning("gateway.drain_incomplete", running=service.admission.running)


async def _run(gateway: Gateway) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, gateway.reloader.signalled)
    collect_in_slices()
    async with listening(gateway) as address:
        events.info(
            "gateway.listening",
            grpc=address,
            http=gateway.config.http_listen,
            version=__version__,
            next="type the line below on a node" if gateway.identity else f"edgewise node run --gateway {address}",
        )
        if gateway.identity is not None:
            tell_how_to_join(gateway.identity, gateway.config)
        await stop.wait()
        events.info("gateway.draining")


def serve(config: GatewayConfig, read: Callable[[], GatewayConfig] | None = None) -> int:
    """Run a gateway until SIGTERM or SIGINT; SIGHUP has it `read` its configuration again. Returns the exit code."""
    handshakes = Handshakes()
    # Before logging is set up: its lines take no detour.
    with handshakes.hear_grpc() if config.tls_on else nullcontext():
        return _serve(config, read, handshakes)


def _serve(config: GatewayConfig, read: Callable[[], GatewayConfig] | None, handshakes: Handshakes) -> int:
    log.configure(form=config.log.format, level=config.log.level)
    try:
        gateway = build(config, read=read)
        if gateway.identity is not None:
            gateway.identity.handshakes = handshakes
    except EdgewiseError as error:
        events.error("gateway.refused", why=error.message)
        return int(ExitCode.CONFIG)
    except StudyError as error:
        events.error("gateway.refused", why=error.why, do=error.cure)
        return int(ExitCode.CONFIG)
    try:
        uvloop.run(_run(gateway))
    except CannotListen as error:
        events.error("gateway.refused", why=str(error), do="stop the other process or choose --listen")
        return int(ExitCode.FAILED)
    except StoreError as error:
        events.error("gateway.refused", reason=error.reason, why=error.message)
        return int(error.surface.exit_code)
    return int(ExitCode.OK)
