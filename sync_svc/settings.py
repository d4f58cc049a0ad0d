"""Settings of sync_svc; each is an environment variable `CHATMESH_<FIELD>`."""

from __future__ import annotations

from pydantic import Field

from chatmesh.runtime.settings import ServerSettings, Target, rule

MIB = 1 << 20


class SyncSettings(ServerSettings):
    """What a sync replica needs to know."""

    presence_target: Target
    """gRPC target of presence_svc: host:port, dns:///…, or a comma list of IP:port."""

    push_target: Target
    """gRPC target of push_svc: host:port, dns:///…, or a comma list of IP:port."""

    sync_streams: int = Field(default=4, ge=1, le=1024)
    """Redis Streams that the queue is spread over, by source node. The same for all replicas;
    before it is lowered, the streams that fall away must be empty."""

    sync_stream_entries: int = Field(default=20_000, ge=100, le=10_000_000)
    """Batches that one stream of the queue may hold; the oldest go first and are sent again."""

    sync_answer_seconds: float = Field(default=1, ge=0.1, le=60)
    """A chat node that answers a delivery no sooner is given up: its hints become pushes."""

    sync_route_cache_ms: int = Field(default=20, ge=0, le=1000)
    """How long an account's known sessions are believed; that it has none is never remembered."""

    sync_unknown_retry_seconds: float = Field(default=1, ge=0.05, le=60)
    """How often presence is asked again about accounts of which it knows nothing yet."""

    sync_settle_seconds: float = Field(default=30, ge=5, le=3600)
    """A batch not settled this long (a peer is away) is forgotten; its outbox row comes again."""

    sync_memory_mib: int = Field(default=64, ge=8, le=16_384)
    """Memory for batches under way. Past it the oldest ones that wait for a peer are forgotten."""

    @rule("redis_url")
    def _queue(self) -> None:
        if self.redis_url is None:
            raise ValueError("CHATMESH_REDIS_URL is not set: the queue is kept in Redis")
