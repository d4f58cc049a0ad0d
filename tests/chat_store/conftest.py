"""A real PostgreSQL with the schema of chat_svc, and one database per test module."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import psycopg
import pytest
from psycopg import sql

from chat_svc.store.bundle import ROLE, SERVICE, ChatStore
from chatmesh.embedded.layout import DataFolder
from chatmesh.embedded.postgres import EmbeddedPostgres
from chatmesh.runtime import migrate
from chatmesh.runtime.postgres import Database, Lane
from tests.chat_store.api import Api, PushKeeper, add_push, build
from tests.chat_store.world import World

TEMPLATE = "chatmesh_template"


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL."""

    owner_url: str

    def url_of(self, database: str) -> str:
        """The owner's URL with another database."""
        return self.owner_url.replace("/chatmesh?", f"/{database}?")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """PostgreSQL with a migrated template database."""
    root = Path(tempfile.mkdtemp(prefix="cms-", dir="/tmp"))
    folder = DataFolder(root / "data")
    folder.make()
    sockets = root / "s"
    sockets.mkdir(mode=0o700)
    postgres = EmbeddedPostgres(folder, sockets)
    postgres.prepare()
    command = postgres.command()
    uid, gid = command.account or (None, None)
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            command.argv,
            env=dict(command.environment),
            cwd=command.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            user=uid,
            group=gid,
            extra_groups=[] if command.account else None,
        )
    try:
        deadline = time.monotonic() + 30
        while not postgres.is_ready():
            assert process.poll() is None, (root / "log").read_text()
            assert time.monotonic() < deadline, (root / "log").read_text()
        postgres.provision()
        url = postgres.owner_url()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
        made = Server(url)
        migrate.apply(made.url_of(TEMPLATE), SERVICE, "pre")
        yield made
    finally:
        process.send_signal(signal.SIGQUIT)  # at once: nobody needs its data any more
        process.wait()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
async def world(server: Server, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Stores on a fresh database of this module."""
    async for world in _world(server, request.module.__name__.rpartition(".")[2]):
        yield world


async def _world(server: Server, name: str) -> AsyncIterator[World]:
    with psycopg.connect(server.owner_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(TEMPLATE)
            )
        )
    url = server.url_of(name)
    async with (
        Database(url, role_name=ROLE, max_size=4) as database,
        Lane(url, role_name=ROLE, name="commit") as lane,
    ):
        yield World(url, ChatStore.on(database, lane))


@pytest.fixture(scope="module")
async def api(world: World) -> AsyncIterator[Api]:
    """The unary services over this module's database."""
    keeper = PushKeeper()
    server = grpc.aio.server()
    add_push(keeper, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield build(world, keeper, channel)
    await server.stop(None)


@pytest.fixture(scope="module")
async def spoiled(server: Server) -> AsyncIterator[World]:
    """A second database, whose functions a test may break."""
    async for world in _world(server, "spoiled"):
        yield world
