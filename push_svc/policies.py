"""Who is told how: a policy by tenant and kind of device. Pure.

The first rule that fits a device counts; a device that none fits is told by ack. No policy tells a
device of what it has acked, of a muted conversation, or twice.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

KIND_NAMES: Final = ("unspecified", "phone", "tablet", "desktop", "web", "bot")
"""By the numbers of `chatmesh.v1.DeviceKind`."""
KindName = Literal["unspecified", "phone", "tablet", "desktop", "web", "bot"]
MAX_RULES: Final = 1_000


class How(StrEnum):
    """What makes a device be told."""

    ACK = "ack"
    """What it has not acked; while another device of the user is active it waits for a read."""
    ALWAYS = "always"
    """What it has not acked, at once, whatever other devices do."""
    MENTIONS = "mentions"
    """As by ack, but only messages that mention the user."""
    NONE = "none"
    """Nothing; no badge either."""


class PolicyRule(BaseModel):
    """One rule; what is not named fits all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: str = Field(default="", max_length=255)
    """Name of a tenant; empty = every tenant."""
    device_kind: KindName | None = None
    """A kind of device; none = every kind."""
    policy: How

    @field_validator("tenant")
    @classmethod
    def _tenant(cls, value: str) -> str:
        if value.strip() != value:
            raise ValueError("a tenant's name has no space around it")
        return value

    def fits(self, tenant: str, kind: int) -> bool:
        """Whether it is for a device of this tenant and kind (number of DeviceKind)."""
        if self.tenant not in ("", tenant):
            return False
        return self.device_kind is None or self.device_kind == kind_name(kind)


def kind_name(kind: int) -> str:
    """The name of a kind; one that this release does not know counts as unspecified."""
    return KIND_NAMES[kind] if 0 <= kind < len(KIND_NAMES) else KIND_NAMES[0]


def how_to_tell(rules: Sequence[PolicyRule], tenant: str, kind: int) -> How:
    """The policy of a device."""
    return next((rule.policy for rule in rules if rule.fits(tenant, kind)), How.ACK)


def unreachable(rules: Sequence[PolicyRule]) -> list[int]:
    """Numbers (from 0) of rules that no device ever reaches: an earlier one fits all of theirs."""
    found = []
    for number, rule in enumerate(rules):
        for earlier in rules[:number]:
            if earlier.tenant in ("", rule.tenant) and earlier.device_kind in (
                None,
                rule.device_kind,
            ):
                found.append(number)
                break
    return found
