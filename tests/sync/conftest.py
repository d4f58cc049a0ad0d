"""Fixtures of sync's tests: real Valkey, recording peers, replicas in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
import redis

from tests.runtime import stores
from tests.sync.peers import Peers
from tests.sync.replica import Replicas


@pytest.fixture(scope="session")
def session_valkey() -> Iterator[stores.Store]:
    """One Valkey for the session."""
    with stores.valkey() as store:
        yield store


@pytest.fixture
def valkey(session_valkey: stores.Store) -> stores.Store:
    """The same, empty."""
    client = redis.Redis.from_url(session_valkey.url)
    client.flushall()
    client.close()
    return session_valkey


@pytest.fixture
def own_valkey() -> Iterator[stores.Store]:
    """A Valkey for one test, which may stop it."""
    with stores.valkey() as store:
        yield store


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes what a test opened, in reverse."""
    async with AsyncExitStack() as made:
        yield made


@pytest.fixture
async def peers(stack: AsyncExitStack) -> Peers:
    """Presence and push, started."""
    made = Peers(stack)
    await made.start()
    return made


@pytest.fixture
def replicas(stack: AsyncExitStack, peers: Peers) -> Replicas:
    """Makes replicas of sync."""
    return Replicas(stack, peers)
