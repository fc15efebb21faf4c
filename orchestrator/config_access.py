"""Who may call a gateway and by which names, and where whose work may run: parts of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9:][A-Za-z0-9.:_-]{0,252}$")]
NodeName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
PlacementScope = Annotated[str, Field(pattern=r"^(tenant:[a-z0-9][a-z0-9._-]{0,63}|key:[0-9a-f]{12})$")]


class Section(BaseModel):
    """A part of the configuration: unknown keys refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class PlacementRule(Section):
    """Where the work of a tenant or a key may run."""

    allowed_nodes: tuple[NodeName, ...] = Field(
        default=(), strict=False, description="Names of nodes; none for all nodes."
    )
    required_tags: tuple[NodeName, ...] = Field(default=(), strict=False, description="Tags that an expert must carry.")


class Auth(Section):
    """Who may call."""

    keys: Literal["auto", "required"] = Field(
        default="auto", description="Keys are required always, or (auto) when listening beyond loopback."
    )
    placement: dict[PlacementScope, PlacementRule] = Field(
        default_factory=dict, description="By tenant:NAME or key:ID: where their work may run at all."
    )


class Tls(Section):
    """Whether connections are encrypted, and by which names the gateway is known."""

    mode: Literal["auto", "on", "off"] = Field(
        default="auto", description="TLS always, never, or (auto) when listening beyond loopback."
    )
    san: tuple[HostName, ...] = Field(
        default=(), strict=False, description="Further names and addresses of the gateway, for its certificate."
    )

    @field_validator("mode", mode="before")
    @classmethod
    def _is_a_word(cls, value: object) -> object:
        # YAML takes on and off for truth values.
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @field_validator("san", mode="before")
    @classmethod
    def _is_a_list(cls, value: object) -> object:
        # A variable can only hold a text.
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value
