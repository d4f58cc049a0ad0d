"""Settings of presence_svc: what every server has, and the times and limits of presence."""

from pydantic import Field, SecretStr, field_validator

from chatmesh.runtime.settings import ServerSettings, rule
from presence_svc.lease import LeaseTimes


class PresenceSettings(ServerSettings):
    """Environment: CHATMESH_<FIELD>."""

    redis_url: SecretStr
    """redis://, rediss://, unix:// or redis+cluster:// URL of Valkey or Redis."""

    presence_lease_seconds: float = Field(default=10, le=120)
    """Within this after a chat node's death its users are offline. Also the time for which an
    emptied store answers "unknown"."""

    presence_debounce_seconds: float = Field(default=3, ge=0, le=60)
    """A user who reconnects within this was never offline to watchers."""

    presence_digest_seconds: float = Field(default=3, gt=0, le=60)
    """How often a watching node is told the digest of what it was sent."""

    presence_last_seen_days: int = Field(default=30, ge=1, le=3650)
    """How long the last-seen time of an offline user is remembered."""

    presence_max_watched: int = Field(default=500_000, ge=1_000, le=10_000_000)
    """Accounts that one Watch stream may be interested in; about 1 KiB of memory each."""

    @field_validator("presence_lease_seconds")
    @classmethod
    def _lease(cls, value: float) -> float:
        LeaseTimes(value)
        return value

    @rule("redis_url")
    def _redis(self) -> None:
        if not self.redis_url.get_secret_value():
            raise ValueError("CHATMESH_REDIS_URL is empty: set the URL of Valkey or Redis")
