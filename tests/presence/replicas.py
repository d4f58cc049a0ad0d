"""What tests of presence's processes share: accounts, nodes, and a store that is emptied."""

from __future__ import annotations

from collections.abc import Callable

from chatmesh.runtime import redis
from chatmesh.v1 import types_pb2
from tests.presence.mesh import Presence
from tests.runtime import stores

ONLINE, AWAY, OFFLINE, UNSPECIFIED = (
    types_pb2.PRESENCE_STATE_ONLINE,
    types_pb2.PRESENCE_STATE_AWAY,
    types_pb2.PRESENCE_STATE_OFFLINE,
    types_pb2.PRESENCE_STATE_UNSPECIFIED,
)
LEASE_SECONDS = "8.5"
"""The shortest that is allowed: these tests wait for leases to end."""
ALICE, BOB, CAROL = 101, 202, 303
A, B = 11, 22

Start = Callable[..., Presence]


async def flush(store: stores.Store) -> None:
    """Lose everything."""
    client = redis.client(store.url)
    await client.flushall()
    await client.aclose()


async def warm(store: stores.Store) -> None:
    """Skip the warm-up of an empty start, which a test has no interest in."""
    client = redis.client(store.url)
    await client.delete("cm:p:{nodes}:warming")
    await client.aclose()


async def settled(presence: Presence, store: stores.Store) -> None:
    """Ready, and certain of its answers."""
    await presence.wait_ready()
    await warm(store)
