"""Our types to protobuf and back, and the stream itself: the only file of the agent that knows generated classes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import grpc.aio

from edgewise.v1 import common_pb2 as common
from edgewise.v1 import fleet_pb2 as fleet
from edgewise.v1 import fleet_pb2_grpc as fleet_grpc
from nodes.agent import messages as m
from nodes.agent import model_wire as models
from nodes.agent import personal_wire as personal
from nodes.agent import turn_wire as turns
from nodes.arms import Residency, TaskSpec
from nodes.wire import DTYPE_NAMES, PROVENANCES, energy, tensor_messages, tensor_spec

MAX_PROBLEM = 300
MAX_TOPS = 20
_FINISHES = {
    "stop": common.FINISH_REASON_STOP,
    "length": common.FINISH_REASON_LENGTH,
    "budget": common.FINISH_REASON_BUDGET,
}


@dataclass(frozen=True)
class Received:
    """One message of the gateway; one of nothing but turns has neither epoch nor sequence."""

    epoch: int
    sequence: int
    commands: tuple[m.Command, ...]
    in_turns: bool = False


class StreamBroken(Exception):
    """The stream ended without order; `code` is the gRPC status by name."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class FleetStream:
    """One open `Fleet.Connect`. One task may send while another receives.

    Args:
        channel: To the gateway.
        key: What the node shows; "" for none.
    """

    def __init__(self, channel: grpc.aio.Channel, key: str = "") -> None:
        stub: fleet_grpc.FleetAsyncStub = fleet_grpc.FleetStub(channel)
        # Without an iterator of requests the call has `write`; the typed stub knows only the other form.
        metadata = (("authorization", f"Bearer {key}"),) if key else ()
        self._call = stub.Connect(metadata=metadata)  # type: ignore[call-arg]

    async def send(self, epoch: int, sequence: int, events: Sequence[m.Event]) -> None:
        """Write one message. Waits while the transport is full.

        Raises:
            StreamBroken: if the stream has ended.
        """
        try:
            await self._call.write(encode(epoch, sequence, events))
        except grpc.aio.AioRpcError as error:
            raise StreamBroken(error.code().name) from error
        except asyncio.InvalidStateError as error:
            raise StreamBroken("CLOSED") from error

    async def receive(self) -> Received | None:
        """The next message; None where the gateway ended the stream in order.

        Raises:
            StreamBroken: if the stream broke.
        """
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise StreamBroken(error.code().name) from error
        # The generated types do not know of aio's end-of-stream mark.
        return decode(message) if isinstance(message, fleet.ToNode) else None

    async def finish(self) -> None:
        """Say that nothing more will be sent."""
        await self._call.done_writing()

    def cancel(self) -> None:
        """Break the stream off."""
        self._call.cancel()


def encode(epoch: int, sequence: int, events: Sequence[m.Event]) -> fleet.FromNode:
    """One message with these events, in order."""
    if (written := turns.alone(events)) is not None:
        return written
    return fleet.FromNode(epoch=epoch, sequence=sequence, events=[_event(event) for event in events])


def decode(message: fleet.ToNode) -> Received:
    """The commands of one message; kinds that this version does not know are left out."""
    if message.turns:
        return Received(0, 0, turns.commands(message), in_turns=True)
    commands = (_command(command) for command in message.commands)
    return Received(message.epoch, message.sequence, tuple(c for c in commands if c is not None))


def _event(event: m.Event) -> fleet.NodeEvent:
    match event:
        case m.WorkDone():
            return fleet.NodeEvent(done=_done(event))
        case m.TextDelta():
            delta = fleet.TextDelta(work_id=event.work_id, text=event.text, token_ids=event.token_ids)
            delta.logprobs_json = turns.listed(event.logprobs)
            return fleet.NodeEvent(delta=delta)
        case m.Written():
            return fleet.NodeEvent(written=turns.written(event))
        case m.WorkFailed():
            return fleet.NodeEvent(failed=_failed(event))
        case m.Heartbeat():
            return fleet.NodeEvent(heartbeat=_heartbeat(event))
        case m.EnergySettled(readings):
            works = [fleet.SettledWork(work_id=work_id, energy=energy(reading)) for work_id, reading in readings]
            return fleet.NodeEvent(settled=fleet.EnergySettled(works=works))
        case m.Evidence(digest, tensors):
            return fleet.NodeEvent(evidence=fleet.Evidence(digest=digest, tensors=tensor_messages(tensors)))
        case m.Hello():
            return fleet.NodeEvent(hello=_hello(event))
        case m.ArmsChanged(arms):
            return fleet.NodeEvent(arms_changed=fleet.ArmsChanged(arms=map(_arm, arms)))
        case m.Draining(reason):
            return fleet.NodeEvent(draining=fleet.Draining(reason=reason))
        case m.ResidencyChanged(expert, variant, told):
            changed = fleet.ResidencyChanged(expert=expert, variant=variant, residency=residency(told))
            return fleet.NodeEvent(residency=changed)
        case m.Sleeping():
            return fleet.NodeEvent(sleeping=fleet.Sleeping())
        case m.PersonalReport():
            return fleet.NodeEvent(personal=personal.report(event))
        case m.ChunkWanted():
            return fleet.NodeEvent(chunk_wanted=models.chunk_wanted(event))
        case m.ModelReport():
            return fleet.NodeEvent(model=models.report(event))


def _hello(hello: m.Hello) -> fleet.Hello:
    return fleet.Hello(
        node=hello.node,
        software_version=hello.software_version,
        protocol_version=m.PROTOCOL_VERSION,
        device=hello.device,
        simulated=hello.simulated,
        energy_method=hello.energy_method,
        energy_provenance=PROVENANCES[hello.energy_provenance],
        tasks=map(_task, hello.tasks),
        arms=map(_arm, hello.arms),
        concurrency=hello.concurrency,
        queue_limit=hello.queue_limit,
        memory_limit_bytes=hello.memory_limit_bytes,
        energy_source=fleet.EnergySource(**asdict(hello.energy_source)),
        personal_experts=hello.personal_experts,
        sleep=None if hello.sleep is None else fleet.SleepOffer(**asdict(hello.sleep)),
        relays_wake=hello.relays_wake,
        accepts_models=hello.accepts_models,
        model_digests=hello.model_digests,
    )


def _heartbeat(beat: m.Heartbeat) -> fleet.Heartbeat:
    return fleet.Heartbeat(
        running=beat.running,
        queued=beat.queued,
        engine_restarts=beat.engine_restarts,
        temperature_c=beat.signals.temperature_c,
        throttles=beat.signals.throttles,
        idle_energy_j=beat.idle_j,
    )


def _task(task: TaskSpec) -> fleet.TaskSpec:
    return fleet.TaskSpec(
        name=task.name,
        input=tensor_spec(task.input),
        output=tensor_spec(task.output),
        labels=task.labels,
        reference_digest=task.reference_digest,
        text=task.text,
    )


def _arm(arm: m.OfferedArm) -> fleet.Arm:
    spec = arm.spec
    latency, energy_profile = _profiles(arm)
    return fleet.Arm(
        expert=spec.expert,
        variant=spec.variant,
        task=spec.task,
        engine=spec.engine,
        model_digest=spec.model_digest,
        macs=spec.macs,
        memory_bytes=spec.memory_bytes,
        quality_fraction=spec.quality_fraction,
        quality_samples=spec.quality_samples,
        evidence_digest=spec.evidence_digest,
        latency=latency,
        energy=energy_profile,
        text=_text_profile(arm),
        tags=spec.tags,
        residency=None if arm.residency is None else residency(arm.residency),
    )


def residency(told: Residency) -> fleet.Residency:
    """Whether an expert is in memory."""
    return fleet.Residency(
        state=told.state,
        pinned=told.pinned,
        load_ms=told.load_ms,
        load_energy_j=told.load_j,
        progress_fraction=told.progress_fraction,
        problem=told.problem[:MAX_PROBLEM],
    )


def _text_profile(arm: m.OfferedArm) -> fleet.TextProfile | None:
    traits, cost = arm.spec.text, arm.profile.text if arm.profile else None
    if traits is None:
        return None
    profile = fleet.TextProfile(
        context_tokens=traits.context_tokens,
        completion_tokens=traits.completion_tokens,
        completion_p95_tokens=traits.completion_p95_tokens,
        tokenizer_digest=traits.tokenizer_digest,
        capabilities=traits.capabilities,
    )
    if cost is not None:
        profile.MergeFrom(fleet.TextProfile(**asdict(cost)))
    return profile


def _profiles(arm: m.OfferedArm) -> tuple[fleet.LatencyProfile, fleet.EnergyProfile]:
    profile = arm.profile
    if profile is None:
        unknown = common.PROVENANCE_UNMEASURED
        return fleet.LatencyProfile(provenance=unknown), fleet.EnergyProfile(provenance=unknown)
    latency = fleet.LatencyProfile(
        p50_ms=profile.p50_ms,
        p95_ms=profile.p95_ms,
        samples=profile.samples,
        provenance=PROVENANCES[profile.latency_provenance],
    )
    joules = fleet.EnergyProfile(
        mean_j=profile.energy.energy_j or 0.0,
        uncertainty_j=profile.energy.uncertainty_j,
        provenance=PROVENANCES[profile.energy.provenance],
        method=profile.energy.method,
    )
    return latency, joules


def _done(done: m.WorkDone) -> fleet.WorkDone:
    return fleet.WorkDone(
        work_id=done.work_id,
        outputs=tensor_messages(done.outputs or {}),
        text=done.text,
        finish_reason=_FINISHES.get(done.finish, common.FINISH_REASON_UNSPECIFIED),
        usage=common.Usage(
            prompt_tokens=done.prompt_tokens,
            completion_tokens=done.completion_tokens,
            cached_tokens=done.cached_tokens,
        ),
        energy=energy(done.energy),
        queue_ms=done.queue_ms,
        compute_ms=done.compute_ms,
        margin_fraction=done.margin_fraction,
        first_token_ms=done.first_token_ms,
        tool_calls_json=done.tool_calls_json,
        personal=None if done.personal is None else personal.note(done.personal),
        load_ms=done.load_ms,
        load_energy_j=done.load_j,
        logprobs_json=turns.listed(done.logprobs),
    )


def _failed(failed: m.WorkFailed) -> fleet.WorkFailed:
    return fleet.WorkFailed(
        work_id=failed.work_id,
        reason=failed.reason,
        message=failed.message,
        final=failed.final,
        energy=None if failed.energy is None else energy(failed.energy),
    )


def _command(command: fleet.NodeCommand) -> m.Command | None:
    match command.WhichOneof("command"):
        case "work":
            return _work(command.work)
        case "turn":
            return m.NextTurn(command.turn.work_id, turns.turn(command.turn))
        case "cancel":
            return m.Cancel(command.cancel.work_id)
        case "welcome":
            return _welcome(command.welcome)
        case "spread":
            return m.Spread(command.spread.seconds)
        case "drain":
            return m.Drain(command.drain.reason)
        case "suspend":
            return m.Suspend(command.suspend.reason)
        case "wake_peer":
            return m.WakePeer(command.wake_peer.mac, command.wake_peer.wake_address)
        case "rejected":
            rejected = command.rejected
            return m.Rejected(rejected.reason, rejected.message, rejected.retryable)
        case "keep":
            inputs = tuple(_raw(tensor) for tensor in command.keep.inputs)
            return personal.keep(command.keep, inputs)
        case "model":
            order = command.model
            return m.ModelOrder(order.expert, order.variant, order.verb, order.ttl_s)
        case "personal":
            return personal.order(command.personal)
        case "models_wanted":
            return models.models_wanted(command.models_wanted)
        case "model_chunk":
            return models.model_chunk(command.model_chunk)
        case _:
            return None


def _welcome(welcome: fleet.Welcome) -> m.Welcome:
    return m.Welcome(
        epoch=welcome.epoch,
        heartbeat_s=welcome.heartbeat_s,
        lease_s=welcome.lease_s,
        wanted_digests=tuple(welcome.wanted_digests),
        gateway_version=welcome.gateway_version,
        gateways=tuple(welcome.gateways),
        spread_s=welcome.spread_s,
    )


def _work(work: fleet.Work) -> m.Work:
    kind = work.WhichOneof("input")
    given: tuple[m.RawTensor, ...] | m.TextRequest | None = None
    if kind == "tensors":
        given = tuple(_raw(tensor) for tensor in work.tensors.inputs)
    elif kind == "text":
        given = _text(work.text)
    return m.Work(
        work_id=work.work_id,
        request_id=work.request_id,
        expert=work.expert,
        variant=work.variant,
        deadline_ms=work.deadline_ms,
        energy_limit_j=work.energy_limit_j,
        input=given,
        owner=personal.owner(work.owner) if work.HasField("owner") else None,
    )


def _raw(tensor: common.Tensor) -> m.RawTensor:
    return m.RawTensor(tensor.name, DTYPE_NAMES.get(tensor.dtype, ""), tuple(tensor.shape), tensor.data)


def _text(text: fleet.TextWork) -> m.TextRequest:
    parameters = text.parameters
    return m.TextRequest(
        messages=tuple((message.role, message.content) for message in text.messages),
        max_tokens=parameters.max_tokens,
        temperature=parameters.temperature if parameters.HasField("temperature") else None,
        top_p=parameters.top_p if parameters.HasField("top_p") else None,
        seed=parameters.seed if parameters.HasField("seed") else None,
        stop=tuple(parameters.stop),
        extras=tuple(message.extra_json for message in text.messages) if _has_extras(text) else (),
        tools_json=parameters.tools_json,
        tool_choice_json=parameters.tool_choice_json,
        response_format_json=parameters.response_format_json,
        whole=text.whole,
        top_logprobs=min(parameters.top_logprobs, MAX_TOPS) if parameters.HasField("top_logprobs") else None,
        embed=parameters.embed,
        shared=turns.shared(text.shared) if text.HasField("shared") else None,
        scope=text.prefix_scope,
    )


def _has_extras(text: fleet.TextWork) -> bool:
    return any(message.extra_json for message in text.messages)
