"""Fixtures of presence's tests: a real Valkey, emptied before each test that asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from chatmesh.runtime import redis
from presence_svc.lease import LeaseTimes
from presence_svc.store.accounts import AccountStore
from presence_svc.store.nodes import NodeStore
from presence_svc.store.shards import Shards
from tests.presence.mesh import Presence
from tests.presence.parts import KEEP_MS
from tests.presence.replicas import LEASE_SECONDS, Start, flush
from tests.runtime import stores


@pytest.fixture(scope="session")
def valkey() -> Iterator[stores.Store]:
    """One Valkey for the session."""
    with stores.valkey() as store:
        yield store


@pytest.fixture
async def client(valkey: stores.Store) -> AsyncIterator[redis.Client]:
    """A client of an empty Valkey."""
    made = redis.client(valkey.url)
    await made.flushall()
    yield made
    await made.aclose()


@pytest.fixture
def accounts(client: redis.Client) -> AccountStore:
    """Accounts in the empty Valkey."""
    return AccountStore(Shards(client), keep_ms=KEEP_MS)


@pytest.fixture
def nodes(client: redis.Client) -> NodeStore:
    """Nodes in the empty Valkey."""
    return NodeStore(Shards(client), LeaseTimes(10))


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts replicas that end with the test."""
    started: list[Presence] = []

    def one(redis_url: str, **settings: str) -> Presence:
        presence = Presence(
            redis_url,
            **{
                "presence_lease_seconds": LEASE_SECONDS,
                "presence_debounce_seconds": "1",
                "presence_digest_seconds": "0.5",
                **settings,
            },
        )
        started.append(presence)
        return presence

    yield one
    for presence in started:
        await presence.end()


@pytest.fixture
async def store(valkey: stores.Store) -> stores.Store:
    """An empty Valkey."""
    await flush(valkey)
    return valkey
