"""Notices of changes, from all replicas, over Redis pub/sub.

Notices may be lost; `presence_svc.watch.Counters` finds that. A subscription is a connection of its
own, begun anew whenever it fails.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from redis.asyncio import RedisCluster
from redis.exceptions import RedisError

from chatmesh.runtime.redis import Client
from presence_svc.store import keys
from presence_svc.store.shards import StoreAway

_POLL_SECONDS = 1.0
_PING_SECONDS = 5.0
"""A subscription that hears nothing asks whether the server is there …"""
_DEAD_SECONDS = 10.0
"""… and is given up when there is no answer: a link cut in silence would else look quiet."""


@dataclass(frozen=True, slots=True)
class Change:
    """Accounts of one bucket changed; `count` is the bucket's number of changes after it."""

    bucket: int
    count: int
    account_ids: tuple[int, ...]


async def subscribe(client: Client) -> AsyncGenerator[Change | None, None]:
    """Changes as they come; None once at first, when the subscription stands.

    Raises StoreAway when the connection ends.
    """
    pubsub: Any = None
    try:
        if isinstance(client, RedisCluster):
            await client.initialize()  # a subscription asks for the slots before any command did
        pubsub = client.pubsub()
        await pubsub.subscribe(keys.CHANGES)
        loop = asyncio.get_running_loop()
        heard = pinged = loop.time()
        while True:
            message = await pubsub.get_message(timeout=_POLL_SECONDS)
            now = loop.time()
            if message is None:
                if now - heard > _DEAD_SECONDS:
                    raise StoreAway("the subscription's link is dead")
                if now - max(heard, pinged) > _PING_SECONDS:
                    pinged = now
                    await pubsub.ping()
                continue
            heard = now
            if message["type"] == "subscribe":
                yield None
            elif message["type"] == "message":
                yield _parse(message["data"])
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreAway(f"{type(error).__name__}: {error}") from None
    finally:
        if pubsub is not None:
            await pubsub.aclose()


def _parse(data: bytes) -> Change:
    bucket, count, accounts = data.split(b" ")
    return Change(int(bucket), int(count), tuple(map(int, accounts.split(b","))))
