"""Fixtures of push's tests: a real PostgreSQL with the schema, emptied before each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from chatmesh.runtime import migrate
from chatmesh.runtime.postgres import Database, Lane
from push_svc.store.jobs import IntakeStore, JobStore
from push_svc.store.records import RecordStore
from push_svc.store.tokens import TokenStore
from tests.push import hooks
from tests.push.hooks import BackEnd
from tests.push.mesh import ChatNode, Push
from tests.runtime import stores

Start = Callable[..., Push]
ROLE = "chatmesh_push"


@pytest.fixture(scope="session")
def postgres() -> Iterator[stores.Store]:
    """One PostgreSQL for the session, migrated."""
    with stores.postgres() as store:
        migrate.apply(store.url, "push_svc", "pre")
        yield store


@pytest.fixture
def empty(postgres: stores.Store) -> stores.Store:
    """The PostgreSQL without any rows of push."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(
            "TRUNCATE push.push_token, push.push_job, push.push_log, push.dead_letter"
        )
    return postgres


@pytest.fixture
async def lane(empty: stores.Store) -> AsyncIterator[Lane]:
    """One connection of push's role."""
    async with Lane(empty.url, role_name=ROLE, name="test") as made:
        yield made


@pytest.fixture
async def database(empty: stores.Store) -> AsyncIterator[Database]:
    """A pool of push's role."""
    async with Database(empty.url, role_name=ROLE) as made:
        yield made


@pytest.fixture
def intake(lane: Lane) -> IntakeStore:
    """Jobs in."""
    return IntakeStore(lane)


@pytest.fixture
def jobs(lane: Lane) -> JobStore:
    """Jobs out."""
    return JobStore(lane)


@pytest.fixture
def tokens(database: Database) -> TokenStore:
    """Tokens."""
    return TokenStore(database)


@pytest.fixture
def records(database: Database) -> RecordStore:
    """Records and letters."""
    return RecordStore(database)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[BackEnd]:
    """An HTTPS server in a provider's place."""
    async with hooks.back_end(tmp_path) as made:
        yield made


@pytest.fixture
async def back_end(tmp_path: Path) -> AsyncIterator[BackEnd]:
    """A back end that takes webhooks."""
    async with hooks.back_end(tmp_path) as made:
        yield made


@pytest.fixture
async def chat() -> AsyncIterator[ChatNode]:
    """A recording chat node."""
    node = ChatNode()
    await node.start()
    yield node
    await node.stop()


@pytest.fixture
async def start(empty: stores.Store, chat: ChatNode) -> AsyncIterator[Start]:
    """Starts replicas that end with the test."""
    started: list[Push] = []

    def one(url: str = "", target: str = "", **settings: str) -> Push:
        made = Push(url or empty.url, target or chat.address, **settings)
        started.append(made)
        return made

    yield one
    for push in started:
        await push.end()
