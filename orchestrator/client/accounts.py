"""Quotas, keys and the history of what was spent, as protobuf messages and as the client's own types."""

from __future__ import annotations

import math

from edgewise.v1 import accounts_pb2 as pb
from orchestrator.client import types as own
from orchestrator.client.wire import Call

ACCOUNTS = "/edgewise.v1.Accounts"


def quotas() -> Call[tuple[own.QuotaStatus, ...]]:
    """The call that lists quotas and what is left of them."""
    return Call(
        f"{ACCOUNTS}/GetQuotas",
        pb.GetQuotasRequest(),
        pb.GetQuotasResponse,
        lambda reply: tuple(_status(entry) for entry in reply.quotas),
    )


def set_quota(scope: str, quota: own.Quota | None) -> Call[None]:
    """The call that sets a quota or, with None, removes it."""
    request = pb.SetQuotaRequest(scope=scope, remove=quota is None)
    if quota is not None:
        request.quota.CopyFrom(_encode(quota))
    return Call(f"{ACCOUNTS}/SetQuota", request, pb.SetQuotaResponse, lambda _: None)


def create_key(tenant: str, role: str, ttl_s: float | None, quota: own.Quota | None) -> Call[own.NewKey]:
    """The call that makes a key."""
    request = pb.CreateKeyRequest(tenant=tenant, role=role, ttl_s=ttl_s)
    if quota is not None:
        request.quota.CopyFrom(_encode(quota))
    return Call(
        f"{ACCOUNTS}/CreateKey",
        request,
        pb.CreateKeyResponse,
        lambda reply: own.NewKey(_key(reply.key), reply.secret),
    )


def keys() -> Call[tuple[own.KeyRecord, ...]]:
    """The call that lists keys."""
    return Call(
        f"{ACCOUNTS}/ListKeys",
        pb.ListKeysRequest(),
        pb.ListKeysResponse,
        lambda reply: tuple(_key(entry) for entry in reply.keys),
    )


def revoke_key(key_id: str) -> Call[own.KeyRecord]:
    """The call that revokes a key."""
    request = pb.RevokeKeyRequest(key_id=key_id)
    return Call(f"{ACCOUNTS}/RevokeKey", request, pb.RevokeKeyResponse, lambda reply: _key(reply.key))


def energy(last_s: float, by: str) -> Call[tuple[own.EnergyShare, ...]]:
    """The call that sums what was spent."""
    return Call(
        f"{ACCOUNTS}/GetEnergy",
        pb.GetEnergyRequest(last_s=last_s, by=by),
        pb.GetEnergyResponse,
        lambda reply: tuple(_share(entry) for entry in reply.shares),
    )


def settlements(last_s: float) -> Call[own.SettlementRecord]:
    """The call that lists settlements, one message each."""
    request = pb.ExportSettlementsRequest(last_s=last_s)
    return Call(f"{ACCOUNTS}/ExportSettlements", request, pb.Settlement, _settlement)


def _encode(quota: own.Quota) -> pb.Quota:
    return pb.Quota(request_j=quota.request_j, day_j=quota.day_j, mean_w=quota.mean_w, day_tokens=quota.day_tokens)


def _decode(message: pb.Quota) -> own.Quota:
    return own.Quota(
        request_j=message.request_j if message.HasField("request_j") else None,
        day_j=message.day_j if message.HasField("day_j") else None,
        mean_w=message.mean_w if message.HasField("mean_w") else None,
        day_tokens=message.day_tokens if message.HasField("day_tokens") else None,
    )


def _status(message: pb.QuotaStatus) -> own.QuotaStatus:
    meters = tuple(
        own.MeterStatus(
            entry.unit, entry.limit, entry.spent, entry.held, entry.assumed, entry.resets_in_s, entry.burn_per_s
        )
        for entry in message.meters
    )
    return own.QuotaStatus(message.scope, _decode(message.quota), meters)


def _key(message: pb.Key) -> own.KeyRecord:
    return own.KeyRecord(
        message.key_id,
        message.tenant,
        message.role,
        message.created_unix_s,
        message.expires_unix_s if message.HasField("expires_unix_s") else None,
        message.revoked_unix_s if message.HasField("revoked_unix_s") else None,
    )


def _share(message: pb.EnergyShare) -> own.EnergyShare:
    return own.EnergyShare(
        message.name,
        message.requests,
        message.energy_j,
        message.reserved_j,
        message.overshoot_j,
        message.tokens,
        message.unmeasured,
    )


def _settlement(message: pb.Settlement) -> own.SettlementRecord:
    return own.SettlementRecord(
        message.at_unix_s,
        message.request_id,
        message.tenant,
        message.key_id,
        message.task,
        message.outcome,
        message.arms,
        message.energy_j,
        message.provenance,
        message.reserved_j if math.isfinite(message.reserved_j) else None,
        message.tokens,
    )
