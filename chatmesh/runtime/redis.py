"""Redis or Valkey: clients that never repeat a command by themselves.

Since 8.0 the client library retries each command ten times: one XADD could make two entries
(seen). Here retries are off and callers decide. The protocol is fixed to RESP3, because replies
differ between the protocols.

A server that may evict keys is refused: leases and queues would vanish one by one.

Rules: blocking reads have a client of their own (`blocking_client`); a cancelled command drops its
connection, so that its answer is never taken for another's.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from chatmesh.runtime.errors import StoreRefused
from chatmesh.runtime.logs import logger
from chatmesh.runtime.readiness import Component

CLUSTER_SCHEMES: Final = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
CONNECT_TIMEOUT_SECONDS: Final = 2.0
COMMAND_TIMEOUT_SECONDS: Final = 2.0
"""A command on a live server takes under a millisecond; after this the server is away."""
MAX_CONNECTIONS: Final = 16
BLOCK_MS: Final = 2_000
"""What blocking reads ask for; must stay below their socket timeout."""
BLOCKING_TIMEOUT_SECONDS: Final = 5.0
PROBE_UP_SECONDS: Final = 2.0
PROBE_DOWN_SECONDS: Final = 0.3

Client: TypeAlias = "Redis | RedisCluster"

_log = logger(__name__)


def client(
    url: str,
    *,
    readiness: Component | None = None,
    timeout_seconds: float = COMMAND_TIMEOUT_SECONDS,
) -> Client:
    """A client for short commands; connects at first use. Bytes in, bytes out.

    `url`: redis://, rediss://, unix:// or redis+cluster:// (rediss+cluster://). With `readiness`
    it starts as down; run `watch` in the background to keep it true.
    Raises ValueError for another URL, without a word of it.
    """
    if readiness is not None:
        readiness.down("Redis: not connected yet")
    return _client(url, timeout_seconds)


def blocking_client(url: str, *, timeout_seconds: float = BLOCKING_TIMEOUT_SECONDS) -> Client:
    """A client for XREADGROUP BLOCK; blocks must be shorter than `timeout_seconds`."""
    return _client(url, timeout_seconds)


def _client(url: str, timeout_seconds: float) -> Client:
    parts = urlsplit(url)
    options: dict[str, Any] = {
        "protocol": 3,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "max_connections": MAX_CONNECTIONS,
    }
    if parts.scheme in CLUSTER_SCHEMES:
        plain = urlunsplit(parts._replace(scheme=CLUSTER_SCHEMES[parts.scheme]))
        return RedisCluster.from_url(plain, **options)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("not a Redis URL (redis://, rediss://, unix:// or redis+cluster://)")
    return Redis.from_url(url, **options)


async def check(client: Client) -> None:
    """Raise StoreRefused when the server may evict keys; RedisError when it cannot be reached."""
    answer: Any = await client.info("memory")
    # a cluster answers by node
    nodes = answer if isinstance(client, RedisCluster) else {"": answer}
    for node in nodes.values() if "maxmemory_policy" not in answer else [answer]:
        policy = node.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise StoreRefused(
                f"Redis has maxmemory-policy {policy} and may evict leases and queues: "
                "set it to noeviction"
            )


async def watch(client: Client, readiness: Component) -> None:
    """Keep `readiness` true for ever; run in the background.

    The policy is looked at each time, because it can be changed at run time.
    """
    while True:
        pause = PROBE_DOWN_SECONDS
        try:
            await check(client)
        except StoreRefused as error:
            readiness.down(str(error))
        except (RedisError, OSError, TimeoutError) as error:
            readiness.down(f"Redis: {type(error).__name__}")
        else:
            readiness.up()
            pause = PROBE_UP_SECONDS
        await asyncio.sleep(pause * random.uniform(0.8, 1.2))
