"""What nodes say, from protobuf to the gateway's own types, and what they are asked about sleep. Every name, figure and
count that comes is checked."""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Sequence

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from edgewise.v1 import common_pb2, fleet_pb2
from orchestrator.config import split_address
from orchestrator.errors import RequestError
from orchestrator.fleet.text_arms import with_typical_cost
from orchestrator.personal.wire import decode_note
from orchestrator.sleep.types import SleepOffer
from orchestrator.text_profile import TextProfile
from orchestrator.types import (
    Arm,
    Delta,
    Done,
    Energy,
    EnergySource,
    Failed,
    NodeHello,
    Provenance,
    Residency,
    Task,
    TensorSpec,
)
from orchestrator.wire import (
    FINISH_REASONS,
    MAX_ENERGY_J,
    PROVENANCES,
    check_name,
    decode_energy,
    decode_spec,
    decode_tensors,
)

MAX_ARMS = 512
MAX_TASKS = 64
MAX_REMARK = 300
MAX_TAGS = 64
MAX_THROTTLES = 8
MAX_LABELS = 100_000
MAX_PERSONAL = 16
# Every byte, and the end of the text.
NEXT_SYMBOLS = 257
MAX_STRING_BYTES = 256
# Of strings or tokens that are told by name; what a turn asks for is less.
MAX_TOLD = 256
RESIDENCIES = ("loaded", "loading", "unloaded")


def decode_task(message: fleet_pb2.TaskSpec) -> Task:
    """A task class as a node announced it.

    Raises:
        RequestError: NAME_INVALID, FIELD_OUT_OF_RANGE, DTYPE_MISMATCH or SHAPE_MISMATCH.
    """
    if len(message.labels) > MAX_LABELS:
        raise RequestError("FIELD_OUT_OF_RANGE", f"A task may have at most {MAX_LABELS} labels.", field="tasks")
    empty = TensorSpec("", np.dtype("float32"), ())
    output = empty if message.text else decode_spec(message.output, "tasks.output")
    if not message.text and not 0 < math.prod(abs(size) for size in output.shape) == len(message.labels):
        raise RequestError("SHAPE_MISMATCH", "A task's output must hold one number per label.", field="tasks.output")
    return Task(
        name=check_name(message.name, "tasks.name"),
        input=empty if message.text else decode_spec(message.input, "tasks.input"),
        output=output,
        labels=tuple(message.labels),
        reference_digest=message.reference_digest,
        text=message.text,
    )


def _check_cost(value: float, field: str) -> float:
    if not (math.isfinite(value) and 0.0 <= value <= MAX_ENERGY_J):
        raise RequestError("FIELD_OUT_OF_RANGE", f"{field} must be a finite number that is not negative.", field=field)
    return value


def decode_arm(message: fleet_pb2.Arm, node: str) -> Arm:
    """An arm as a node announced it; figures must be finite."""
    energy = message.energy
    arm = Arm(
        expert=check_name(message.expert, "arms.expert"),
        variant=check_name(message.variant, "arms.variant"),
        node=node,
        task=check_name(message.task, "arms.task"),
        engine=check_name(message.engine, "arms.engine"),
        model_digest=message.model_digest,
        macs=message.macs,
        memory_bytes=message.memory_bytes,
        p50_ms=_check_cost(message.latency.p50_ms, "arms.latency.p50_ms"),
        p95_ms=_check_cost(message.latency.p95_ms, "arms.latency.p95_ms"),
        latency_provenance=PROVENANCES.get(message.latency.provenance, Provenance.UNMEASURED),
        energy=Energy(
            _check_cost(energy.mean_j, "arms.energy.mean_j"),
            PROVENANCES.get(energy.provenance, Provenance.UNMEASURED),
            energy.method[:64],
            _check_cost(energy.uncertainty_j, "arms.energy.uncertainty_j"),
        ),
        quality_fraction=min(1.0, _check_cost(message.quality_fraction, "arms.quality_fraction")),
        quality_samples=message.quality_samples,
        evidence_digest=message.evidence_digest,
        text=_decode_text(message.text) if message.HasField("text") else None,
        tags=frozenset(check_name(tag, "arms.tags") for tag in message.tags[:MAX_TAGS]),
        residency=decode_residency(message.residency) if message.HasField("residency") else None,
    )
    return arm if arm.text is None else with_typical_cost(arm, arm.text)


def decode_residency(message: fleet_pb2.Residency) -> Residency:
    """Whether an expert is in memory.

    Raises:
        RequestError: FIELD_OUT_OF_RANGE.
    """
    if message.state not in RESIDENCIES:
        raise RequestError("FIELD_OUT_OF_RANGE", f"A residency is one of {', '.join(RESIDENCIES)}.", field="residency")
    known = message.HasField("load_energy_j")
    return Residency(
        state=message.state,
        pinned=message.pinned,
        load_ms=_check_cost(message.load_ms, "residency.load_ms"),
        load_j=_check_cost(message.load_energy_j, "residency.load_energy_j") if known else None,
        progress_fraction=_fraction(message.progress_fraction) if message.HasField("progress_fraction") else None,
        problem=message.problem[:MAX_REMARK],
    )


def _decode_text(message: fleet_pb2.TextProfile) -> TextProfile:
    figures = {
        name: _check_cost(getattr(message, name), f"arms.text.{name}")
        for name in (
            "overhead_ms",
            "prefill_ms_per_token",
            "decode_ms_per_token",
            "overhead_j",
            "prefill_j_per_token",
            "decode_j_per_token",
            "completion_tokens",
            "completion_p95_tokens",
        )
    }
    return TextProfile(
        context_tokens=message.context_tokens,
        tokenizer_digest=message.tokenizer_digest[:64],
        capabilities=frozenset(name[:32] for name in message.capabilities[:MAX_TAGS]),
        **figures,
    )


def decode_hello(message: fleet_pb2.Hello) -> NodeHello:
    """What a joining node says of itself.

    Raises:
        RequestError: a name, figure or count is not allowed; the text says which.
    """
    node = check_name(message.node, "node")
    if len(message.arms) > MAX_ARMS or len(message.tasks) > MAX_TASKS:
        raise RequestError("FIELD_OUT_OF_RANGE", f"A node may have at most {MAX_ARMS} arms and {MAX_TASKS} tasks.")
    return NodeHello(
        node=node,
        software_version=message.software_version[:64],
        protocol_version=message.protocol_version,
        device=message.device[:128],
        simulated=message.simulated,
        energy_method=message.energy_method[:64],
        energy_provenance=PROVENANCES.get(message.energy_provenance, Provenance.UNMEASURED),
        tasks=tuple(decode_task(task) for task in message.tasks),
        arms=decode_arms(message.arms, node),
        concurrency=max(1, min(message.concurrency, 1024)),
        queue_limit=min(message.queue_limit, 65536),
        memory_limit_bytes=message.memory_limit_bytes,
        energy_source=_decode_source(message.energy_source),
        personal_experts=tuple(check_name(name, "personal") for name in message.personal_experts[:MAX_PERSONAL]),
        sleep=_decode_sleep(message.sleep) if message.HasField("sleep") else None,
        relays_wake=message.relays_wake,
        announced=message.SerializeToString() if message.HasField("sleep") else b"",
        accepts_models=message.accepts_models,
        models=tuple(digest[:64] for digest in message.model_digests[:MAX_ARMS]),
    )


def read_hello(data: bytes) -> NodeHello:
    """What `NodeHello.announced` holds.

    Raises:
        RequestError: MALFORMED_MESSAGE, or as `decode_hello`.
    """
    try:
        return decode_hello(fleet_pb2.Hello.FromString(data))
    except DecodeError as error:
        raise RequestError("MALFORMED_MESSAGE", "This is not what a node has said of itself.") from error


def _decode_sleep(message: fleet_pb2.SleepOffer) -> SleepOffer:
    if message.mac and not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", message.mac):
        raise RequestError("FIELD_OUT_OF_RANGE", "sleep.mac must be like aa:bb:cc:dd:ee:ff.", field="sleep.mac")
    try:
        # An address and no name: nobody's name is looked up on a node's word.
        host, _ = split_address(message.wake_address)
        ipaddress.ip_address(host)
    except ValueError:
        raise RequestError(
            "FIELD_OUT_OF_RANGE", "sleep.wake_address must be IP:PORT.", field="sleep.wake_address"
        ) from None
    return SleepOffer(
        mac=message.mac,
        wake_address=message.wake_address,
        idle_w=_check_cost(message.idle_w, "sleep.idle_w"),
        sleep_w=min(_check_cost(message.sleep_w, "sleep.sleep_w"), message.idle_w),
        wake_j=_check_cost(message.wake_j, "sleep.wake_j"),
        wake_s=_check_cost(message.wake_s, "sleep.wake_s"),
        suspend_s=_check_cost(message.suspend_s, "sleep.suspend_s"),
        suspend_w=_check_cost(message.suspend_w, "sleep.suspend_w") or message.idle_w,
    )


def suspend_command(reason: str) -> fleet_pb2.NodeCommand:
    """Asks a node to finish what runs and to sleep."""
    return fleet_pb2.NodeCommand(suspend=fleet_pb2.Suspend(reason=reason))


def wake_peer_command(offer: SleepOffer) -> fleet_pb2.NodeCommand:
    """Asks a node to wake another one on its network."""
    return fleet_pb2.NodeCommand(wake_peer=fleet_pb2.WakePeer(mac=offer.mac, wake_address=offer.wake_address))


def _decode_source(message: fleet_pb2.EnergySource) -> EnergySource:
    return EnergySource(
        rate_hz=_check_cost(message.rate_hz, "energy_source.rate_hz"),
        why=message.why[:MAX_REMARK],
        problem=message.problem[:MAX_REMARK],
        cure=message.cure[:MAX_REMARK],
        profile_digest=message.profile_digest[:64],
    )


def decode_arms(messages: Sequence[fleet_pb2.Arm], node: str) -> tuple[Arm, ...]:
    """A node's arms; a name may occur once."""
    arms = tuple(decode_arm(message, node) for message in messages)
    if len({arm.name for arm in arms}) != len(arms):
        raise RequestError("NAME_INVALID", "A node announced the same arm twice.", field="arms")
    return arms


def decode_done(message: fleet_pb2.WorkDone) -> Done:
    """A finished piece of work."""
    outputs, usage, logprobs_json = message.outputs, message.usage, message.logprobs_json
    load_ms, load_j = message.load_ms, message.load_energy_j
    if load_ms or load_j:
        _check_cost(load_ms, "done.load_ms")
        _check_cost(load_j, "done.load_energy_j")
    return Done(
        message.work_id,
        decode_tensors(outputs, "outputs") if outputs else {},
        message.text,
        FINISH_REASONS.get(message.finish_reason, ""),
        usage.prompt_tokens,
        usage.completion_tokens,
        decode_energy(message.energy),
        message.queue_ms,
        message.compute_ms,
        _fraction(message.margin_fraction) if message.HasField("margin_fraction") else None,
        message.first_token_ms if message.HasField("first_token_ms") else None,
        message.tool_calls_json,
        decode_note(message.personal) if message.HasField("personal") else None,
        load_ms,
        load_j,
        checked_list(logprobs_json) if logprobs_json else "",
        _cached(usage) if usage.HasField("cached_tokens") else None,
    )


def _cached(usage: common_pb2.Usage) -> int:
    return min(usage.cached_tokens, usage.prompt_tokens)


def _fraction(value: float) -> float:
    """Within 0 and 1; what is no number counts as unsure."""
    return min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0


def decode_failed(message: fleet_pb2.WorkFailed) -> Failed:
    """A piece of work that a node could not do."""
    return Failed(
        work_id=message.work_id,
        reason=message.reason[:64],
        message=message.message[:200],
        final=message.final,
        energy=decode_energy(message.energy),
    )


def decode_signals(message: fleet_pb2.Heartbeat) -> tuple[float | None, tuple[str, ...]]:
    """Temperature and what holds a node's device back; a temperature that is no number counts as unknown."""
    known = message.HasField("temperature_c") and math.isfinite(message.temperature_c)
    throttles = tuple(name[:32] for name in message.throttles[:MAX_THROTTLES])
    return (message.temperature_c if known else None), throttles


def decode_finals(message: fleet_pb2.EnergySettled) -> list[tuple[int, Energy]]:
    """Final joules of works, by their ids."""
    return [(work.work_id, decode_energy(work.energy)) for work in message.works]


def checked_list(text: str) -> str:
    """A JSON list of objects as a node sent it; "" for what is none."""
    if not text:
        return ""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    return text if isinstance(found, list) and all(isinstance(one, dict) for one in found) else ""


def decode_delta(message: fleet_pb2.TextDelta) -> Delta:
    """A piece of generated text."""
    return Delta(message.work_id, message.text, tuple(message.token_ids), checked_list(message.logprobs_json))


def decode_written(message: fleet_pb2.Written) -> Delta:
    """What came of a turn of a text that several nodes write.

    Raises:
        RequestError: FIELD_OUT_OF_RANGE, where probabilities are none or not as many as their tokens, or more is told
            than anybody asks for.
    """
    if max(len(message.strings), len(message.top_ids)) > MAX_TOLD:
        text = f"At most {MAX_TOLD} strings or tokens can be told."
        raise RequestError("FIELD_OUT_OF_RANGE", text, field="written")
    told = _probabilities(message.probabilities) if message.probabilities else None
    next_bytes = _probabilities(message.next_bytes) if message.next_bytes else None
    named = len(message.strings) + 1 if message.strings else len(message.top_ids)
    if told is not None and named not in (0, len(told)):
        raise RequestError("FIELD_OUT_OF_RANGE", "There must be one probability per token.", field="written")
    if max(map(len, message.strings), default=0) > MAX_STRING_BYTES:
        raise RequestError("FIELD_OUT_OF_RANGE", f"A string has at most {MAX_STRING_BYTES} bytes.", field="written")
    if next_bytes is not None and len(next_bytes) != NEXT_SYMBOLS:
        text = f"Of next bytes there must be {NEXT_SYMBOLS} probabilities: of each, then of the end."
        raise RequestError("FIELD_OUT_OF_RANGE", text, field="written")
    return Delta(
        message.work_id,
        message.text,
        tuple(message.token_ids),
        checked_list(message.logprobs_json),
        tuple(message.top_ids),
        told,
        message.ended,
        tuple(message.strings),
        next_bytes,
        message.read_tokens,
    )


def _probabilities(data: bytes) -> NDArray[np.float64]:
    if len(data) % 2 == 0:
        found_v = np.frombuffer(data, "<f2").astype(np.float64)
        # Written so that NaN fails.
        if float(found_v.min()) >= 0.0 and float(found_v.max()) <= 1.0:
            return found_v
    raise RequestError("FIELD_OUT_OF_RANGE", "Probabilities must be float16 between 0 and 1.", field="written")
