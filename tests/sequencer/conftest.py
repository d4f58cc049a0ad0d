"""Fixtures of the sequencer's tests: real PostgreSQL, a clock moved by hand, real processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from chatmesh.runtime import migrate
from chatmesh.runtime.postgres import Lane
from sequencer_svc.store.workers import PACKAGE, WorkerStore
from tests.runtime import stores
from tests.sequencer.processes import Sequencers

ROLE = "chatmesh_sequencer"


@pytest.fixture(scope="session")
def postgres() -> Iterator[stores.Store]:
    """One PostgreSQL with the schema."""
    with stores.postgres() as store:
        migrate.apply(store.url, PACKAGE, "pre")
        yield store


@pytest.fixture
def database(postgres: stores.Store) -> stores.Store:
    """The same, its tables empty."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("TRUNCATE sequencer.worker, sequencer.layout")
    return postgres


@pytest.fixture
async def lane(database: stores.Store) -> AsyncIterator[Lane]:
    """A connection of the service's role."""
    async with Lane(database.url, role_name=ROLE, name="test") as made:
        yield made


@pytest.fixture
def store(lane: Lane) -> WorkerStore:
    """The statements."""
    return WorkerStore(lane)


@pytest.fixture
def own_postgres() -> Iterator[stores.Store]:
    """A PostgreSQL for one test, which may stop it."""
    with stores.postgres() as store:
        migrate.apply(store.url, PACKAGE, "pre")
        yield store


@pytest.fixture
def sequencers() -> Iterator[Sequencers]:
    """Real processes that end with the test."""
    made = Sequencers()
    yield made
    made.end()
