"""Who may call what: one table for every gRPC method and HTTP route, and one place that looks into it.

What is not in the tables is refused to everybody; a test lists all methods and routes and fails where one is missing.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from enum import Enum
from types import MappingProxyType

from orchestrator.errors import RequestError
from orchestrator.ledger.keys import ANONYMOUS, Caller, KeyRing, Role, Shown
from orchestrator.ledger.spenders import Spender

# What every key of ours begins with.
OURS = b"ewk_"


class Access(Enum):
    """Who may come in."""

    PUBLIC = frozenset[Role]()
    CLIENT = frozenset({Role.CLIENT, Role.ADMIN})
    NODE = frozenset({Role.NODE})
    ADMIN = frozenset({Role.ADMIN})


_GATEWAY = dict.fromkeys(("Infer", "Generate", "Explain", "ListTasks", "Feedback", "Personal"), Access.CLIENT)
_ADMIN = dict.fromkeys(
    (
        "GetStatus",
        "DrainNode",
        "SleepNode",
        "WakeNode",
        "GetBudgets",
        "SetBudget",
        "ManageModel",
        "ReloadConfig",
    ),
    Access.ADMIN,
)
_ACCOUNTS = dict.fromkeys(
    ("GetQuotas", "SetQuota", "CreateKey", "ListKeys", "RevokeKey", "GetEnergy", "ExportSettlements"), Access.ADMIN
)
_MODELS = dict.fromkeys(("PushModel", "PutChunk", "ListModels", "RemoveModel"), Access.ADMIN)
_IDENTITY = dict.fromkeys(
    ("CreateToken", "ListTokens", "RevokeToken", "ListNodes", "ApproveNode", "RevokeNode"), Access.ADMIN
) | {"Renew": Access.NODE}
# Says no more than "serving" or not, as load balancers need it.
_HEALTH = dict.fromkeys(("Check", "List", "Watch"), Access.PUBLIC)

METHODS: Mapping[str, Access] = MappingProxyType(
    {f"/edgewise.v1.Gateway/{name}": access for name, access in _GATEWAY.items()}
    | {f"/edgewise.v1.Admin/{name}": access for name, access in _ADMIN.items()}
    | {f"/edgewise.v1.Accounts/{name}": access for name, access in _ACCOUNTS.items()}
    | {f"/edgewise.v1.Models/{name}": access for name, access in _MODELS.items()}
    | {f"/edgewise.v1.Identity/{name}": access for name, access in _IDENTITY.items()}
    | {f"/grpc.health.v1.Health/{name}": access for name, access in _HEALTH.items()}
    | {"/edgewise.v1.Fleet/Connect": Access.NODE}
    | {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Access.ADMIN}
)
# Browsers cannot send a key as programs do: here, and nowhere else, it may come as the password that they ask for. What
# they send on by themselves afterwards opens nothing but a page to read.
PAGE = "/"
ROUTES: Mapping[str, Access] = MappingProxyType(
    {
        PAGE: Access.ADMIN,
        "/healthz": Access.PUBLIC,
        "/health": Access.PUBLIC,
        "/readyz": Access.PUBLIC,
        "/version": Access.PUBLIC,
        "/metrics": Access.ADMIN,
        # The public half of an authority, and where a token is shown instead of a key.
        "/cacerts": Access.PUBLIC,
        "/v1/nodes/join": Access.PUBLIC,
        "/v1/chat/completions": Access.CLIENT,
        "/v1/completions": Access.CLIENT,
        "/v1/embeddings": Access.CLIENT,
        "/v1/models": Access.CLIENT,
        "/v1/models/{model}": Access.CLIENT,
        "/v2": Access.CLIENT,
        "/v2/health/live": Access.PUBLIC,
        "/v2/health/ready": Access.PUBLIC,
        "/v2/models/{model}": Access.CLIENT,
        "/v2/models/{model}/ready": Access.CLIENT,
        "/v2/models/{model}/infer": Access.CLIENT,
    }
)

_TEMPLATES = tuple((template.split("/"), access) for template, access in ROUTES.items() if "{" in template)


def access_to(path: str) -> Access | None:
    """Who may use an HTTP path; None where the table does not have it. A part in braces stands for any one name."""
    access = ROUTES.get(path)
    if access is not None:
        return access
    parts = path.split("/")
    for template, allowed in _TEMPLATES:
        if len(parts) == len(template) and all(map(_fits, template, parts)):
            return allowed
    return None


def _fits(wanted: str, part: str) -> bool:
    return bool(part) if wanted.startswith("{") else wanted == part


# Whoever makes the present call; every call runs in a context of its own.
caller: ContextVar[Caller] = ContextVar("caller", default=ANONYMOUS)


class Doorman:
    """Lets calls in, or not, and remembers who they are from.

    Args:
        keys: The keys in force.
    """

    def __init__(self, keys: KeyRing) -> None:
        self.keys = keys

    def admit_call(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """A gRPC call. Cost: 2 µs without a key, 6 µs with one.

        Raises:
            CredentialError: The caller is not who they must be.
            RequestError: PERMISSION_DENIED.
        """
        shown = [value for key, value in metadata if key == "authorization"]
        self._admit(METHODS.get(method), _one(shown))

    def admit_request(self, entrance: Entrance) -> bool:
        """An HTTP request, whatever its verb; raises as `admit_call`. False where the table has no such path."""
        shown = entrance.shown
        if not self.keys.required:
            if not entrance.here:
                _check_host(entrance.hosts)
                entrance.here = True
            if entrance.foreign:
                # OpenAI's clients cannot do without a key: where none is asked for, one that cannot be ours is none.
                shown = None
        # Who has no key does not learn which paths there are.
        self._admit(entrance.access or Access.ADMIN, shown)
        return entrance.access is not None

    def _admit(self, access: Access | None, shown: Shown | None) -> None:
        if access is Access.PUBLIC:
            caller.set(ANONYMOUS)
            return
        who = self.keys.identify(None) if shown is None else self.keys.recognise(shown)
        caller.set(who)
        if access is None or not (who.anonymous or who.role in access.value):
            raise RequestError("PERMISSION_DENIED", "This key may not do that.")


class Entrance:
    """What the head of an HTTP request tells a doorman: it serves all requests that have the same head.

    Args:
        path: Without what is asked of it.
        headers: Names and values.
    """

    __slots__ = ("access", "foreign", "here", "hosts", "shown")

    def __init__(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        shown: list[bytes] = []
        self.hosts: list[bytes] = []
        for name, value in headers:
            match name.lower():
                case b"authorization":
                    shown.append(value if path != PAGE else _bearer(value))
                case b"host":
                    self.hosts.append(value)
        self.access = access_to(path)
        self.shown = _one(shown)
        self.foreign = len(shown) == 1 and OURS not in shown[0]
        # Whether the hosts were found to be this machine.
        self.here = False


def _one(shown: Sequence[str | bytes]) -> Shown | None:
    # Two headers are as bad as a wrong one: the empty text is no key.
    return Shown(shown[0] if len(shown) == 1 else "") if shown else None


def _bearer(shown: bytes) -> bytes:
    """A password as the key that it is; anything else as it came."""
    scheme, _, rest = shown.partition(b" ")
    if scheme.lower() != b"basic":
        return shown
    try:
        _, _, password = base64.b64decode(rest, validate=True).partition(b":")
    except ValueError:
        return shown
    return b"Bearer " + password


# Hosts that were found to be in order; whoever sends others all the time is looked at every time.
_HERE: set[bytes] = set()
MAX_HOSTS = 64


def _check_host(hosts: Sequence[bytes]) -> None:
    """Where no key protects the gateway, it answers to names of this machine alone: the page of a site whose name was
    bound to a loopback address anew would send that site's name.

    Raises:
        RequestError: PERMISSION_DENIED.
    """
    for host in hosts:
        if host in _HERE:
            continue
        name = host.decode("latin-1").rpartition("]")[0].lstrip("[") or host.decode("latin-1").partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            if name.lower() != "localhost":
                text = "Without keys this gateway answers to localhost and to addresses only; see auth.keys."
                raise RequestError("PERMISSION_DENIED", text) from None
        if len(_HERE) < MAX_HOSTS:
            _HERE.add(host)


class NodesDoorman:
    """Stands at the port where nodes show certificates: what is for nodes may be called there, and nothing else.

    Which node calls is looked at by those who answer; gRPC has let nobody connect without a certificate.
    """

    def admit_call(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """A gRPC call.

        Raises:
            RequestError: PERMISSION_DENIED.
        """
        del metadata
        if METHODS.get(method) is not Access.NODE:
            raise RequestError("PERMISSION_DENIED", "Only nodes' own calls are answered at this port.")
        caller.set(Caller(Spender(), Role.NODE))


def tenant_seen() -> str | None:
    """Whose requests the present caller may look at; None for an operator, who may see all."""
    who = caller.get()
    return None if who.role is Role.ADMIN else who.spender.tenant
