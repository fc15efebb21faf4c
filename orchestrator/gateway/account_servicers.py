"""The service that shows and changes quotas, keys and the history of what was spent."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from typing import Any

from edgewise.v1 import accounts_pb2 as pb
from edgewise.v1 import accounts_pb2_grpc
from orchestrator.errors import RequestError
from orchestrator.gateway.till import Till
from orchestrator.ledger.keys import KeyRing, Role, mint
from orchestrator.ledger.report import BY, Share, add_up, ranked
from orchestrator.store.records import FLEET, WINDOW_S, Balance, Key, Quota, Settlement
from orchestrator.wire import MAX_ENERGY_J, check_name

MAX_SPAN_S = 366 * 86_400.0
MAX_WATTS = 1e6
MAX_TOKENS = 10**15
SCOPE_KINDS = ("tenant", "key", "task")


class AccountsServicer(accounts_pb2_grpc.AccountsServicer):
    """What operators call about money, were joules money."""

    def __init__(self, till: Till, keys: KeyRing) -> None:
        self._till = till
        self._keys = keys

    async def GetQuotas(self, request: pb.GetQuotasRequest, context: Any) -> pb.GetQuotasResponse:
        """See accounts.proto."""
        ledger = self._till.ledger
        balances = await ledger.balances()
        quotas = [
            pb.QuotaStatus(
                scope=scope,
                quota=encode_quota(quota),
                meters=[encode_meter(entry, time.time()) for entry in balances if entry.meter.scope == scope],
            )
            for scope, quota in sorted(ledger.quotas.items())
        ]
        return pb.GetQuotasResponse(
            quotas=quotas, overshoot_max_j=ledger.overshoot_max_j, overshoot_j=ledger.overshoot_j
        )

    async def SetQuota(self, request: pb.SetQuotaRequest, context: Any) -> pb.SetQuotaResponse:
        """See accounts.proto."""
        scope = check_scope(request.scope)
        await self._till.ledger.put_quota(scope, None if request.remove else decode_quota(request.quota))
        return pb.SetQuotaResponse()

    async def CreateKey(self, request: pb.CreateKeyRequest, context: Any) -> pb.CreateKeyResponse:
        """See accounts.proto."""
        now_unix_s = time.time()
        ttl_s = _bounded("ttl_s", request.ttl_s, 100 * MAX_SPAN_S) if request.HasField("ttl_s") else None
        key, secret = mint(
            check_name(request.tenant, "tenant"),
            _role(request.role),
            now_unix_s=now_unix_s,
            expires_unix_s=None if ttl_s is None else now_unix_s + ttl_s,
            random=os.urandom,
        )
        if request.HasField("quota"):
            await self._till.ledger.put_quota(f"key:{key.key_id}", decode_quota(request.quota))
        await self._store(key)
        return pb.CreateKeyResponse(key=encode_key(key), secret=secret)

    async def ListKeys(self, request: pb.ListKeysRequest, context: Any) -> pb.ListKeysResponse:
        """See accounts.proto."""
        return pb.ListKeysResponse(keys=[encode_key(key) for key in self._keys.all()])

    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Any) -> pb.RevokeKeyResponse:
        """See accounts.proto."""
        key = self._keys.revoked(request.key_id)
        await self._store(key)
        return pb.RevokeKeyResponse(key=encode_key(key))

    async def _store(self, key: Key) -> None:
        await self._till.ledger.store.run(lambda desk: desk.put_key(key))
        self._keys.put(key)

    async def GetEnergy(self, request: pb.GetEnergyRequest, context: Any) -> pb.GetEnergyResponse:
        """See accounts.proto."""
        if request.by not in BY:
            raise RequestError("FIELD_OUT_OF_RANGE", f"by must be one of {', '.join(BY)}.", field="by")
        shares: dict[str, Share] = {}
        async for rows in self._pages(request.last_s):
            add_up(shares, rows, request.by)
        return pb.GetEnergyResponse(shares=[encode_share(share) for share in ranked(shares)])

    async def ExportSettlements(
        self, request: pb.ExportSettlementsRequest, context: Any
    ) -> AsyncIterator[pb.Settlement]:
        """See accounts.proto."""
        async for rows in self._pages(request.last_s):
            for row in rows:
                yield encode_settlement(row)

    def _pages(self, last_s: float) -> AsyncIterator[list[Settlement]]:
        now_unix_s = time.time()
        since_unix_s = now_unix_s - _bounded("last_s", last_s, MAX_SPAN_S)
        return self._till.ledger.history(since_unix_s, now_unix_s)


def check_scope(scope: str) -> str:
    """A scope as it may be written.

    Raises:
        RequestError: NAME_INVALID.
    """
    kind, colon, name = scope.partition(":")
    if scope == FLEET:
        return scope
    if not colon or kind not in SCOPE_KINDS:
        raise RequestError("NAME_INVALID", "scope must be fleet, tenant:NAME, key:ID or task:NAME.", field="scope")
    return f"{kind}:{check_name(name, 'scope')}"


def _role(text: str) -> Role:
    try:
        return Role(text or Role.CLIENT.value)
    except ValueError:
        raise RequestError("FIELD_OUT_OF_RANGE", "role must be client, admin or node.", field="role") from None


def _bounded(field: str, value: float, most: float) -> float:
    # Written so that NaN fails the comparison.
    if not 0.0 <= value <= most:
        raise RequestError("FIELD_OUT_OF_RANGE", f"{field} must be between 0 and {most:g}.", field=field)
    return value


def decode_quota(message: pb.Quota) -> Quota:
    """A quota, every limit in its range.

    Raises:
        RequestError: FIELD_OUT_OF_RANGE.
    """
    most = {"request_j": MAX_ENERGY_J, "day_j": 1000.0 * MAX_ENERGY_J, "mean_w": MAX_WATTS, "day_tokens": MAX_TOKENS}
    given = {
        name: _bounded(f"quota.{name}", getattr(message, name), limit) if message.HasField(name) else None  # type: ignore[arg-type]
        for name, limit in most.items()
    }
    tokens = given["day_tokens"]
    return Quota(given["request_j"], given["day_j"], given["mean_w"], None if tokens is None else int(tokens))


def encode_quota(quota: Quota) -> pb.Quota:
    """The message for a quota."""
    return pb.Quota(request_j=quota.request_j, day_j=quota.day_j, mean_w=quota.mean_w, day_tokens=quota.day_tokens)


def encode_meter(balance: Balance, now_unix_s: float) -> pb.Meter:
    """The message for a meter; it burns what it has spent since its window began."""
    resets_in_s = balance.meter.resets_unix_s - now_unix_s
    elapsed_s = max(1.0, WINDOW_S[balance.meter.unit] - resets_in_s)
    return pb.Meter(
        unit=balance.meter.unit,
        limit=balance.limit,
        spent=balance.spent,
        held=balance.held,
        assumed=balance.assumed,
        resets_in_s=resets_in_s,
        burn_per_s=balance.spent / elapsed_s,
    )


def encode_key(key: Key) -> pb.Key:
    """The message for a key: nothing of its secret."""
    return pb.Key(
        key_id=key.key_id,
        tenant=key.tenant,
        role=key.role,
        created_unix_s=key.created_unix_s,
        expires_unix_s=key.expires_unix_s,
        revoked_unix_s=key.revoked_unix_s,
    )


def encode_share(share: Share) -> pb.EnergyShare:
    """The message for a sum."""
    return pb.EnergyShare(
        name=share.name,
        requests=share.requests,
        energy_j=share.energy_j,
        reserved_j=share.reserved_j,
        overshoot_j=share.overshoot_j,
        tokens=share.tokens,
        unmeasured=share.unmeasured,
    )


def encode_settlement(row: Settlement) -> pb.Settlement:
    """The message for a settlement."""
    return pb.Settlement(
        at_unix_s=row.at_unix_s,
        request_id=row.request_id,
        tenant=row.tenant,
        key_id=row.key_id,
        task=row.task,
        outcome=row.outcome,
        arms=row.arms,
        energy_j=row.energy_j,
        provenance=row.provenance,
        reserved_j=row.reserved_j,
        tokens=row.tokens,
    )
